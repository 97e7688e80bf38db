/*
 * crash_bus.h - the parts of the crash test of buses.
 *
 *            X: numbers, by `told`           Y: numbers FROM_Y, FROM_Y + 1, ...
 *   victim ------------------> survivor     survivor ------------------> victim, and perhaps survivor
 *
 * A writer notes which number the next message of X has before it posts that. So a survivor that was
 * registered before finds the messages that were noted as posted, or one more, each once and in order.
 */
#ifndef IPCHEAP_TESTS_CRASH_BUS_H
#define IPCHEAP_TESTS_CRASH_BUS_H

#include "crash.h"

#include "bus/endpoint.h"

enum { PLACES = 8, OWN_TEXT = 100, FROM_Y = 200, Y = 10, R = 11, HOLDABLE = 80 };

/* A bus as the survivor knows it, and its listener there. */
struct known {
    ipcheap_channel channel;
    uint64_t history;
    ipcheap_endpoint *in;
    uint64_t posted; /* Y: how many */
    uint64_t heard;  /* the position that it receives next */
    uint64_t lost;   /* how many it did not get */
    ipcheap_record held[4];
    int held_count;
};
extern struct known x, y;

/* Returns how many bytes a message with that number has. */
uint64_t bytes_of_text(uint64_t number);
/* Adds the bus of that id with these options, or finds it. */
ipcheap_channel add_the_bus(struct world *w, uint64_t id, const ipcheap_bus_options *options);
ipcheap_endpoint *listen_to(struct world *w, const ipcheap_channel *bus, uint64_t history,
                            uint32_t flags);
/* The survivor adds X and listens to it. */
void begin_bus(struct world *w, const ipcheap_bus_options *options, uint32_t flags);
/* The same with Y. */
void begin_y(struct world *w, bool listens);

/* Notes the number of the next message of X; and that it was posted. */
void posting(struct world *w, uint64_t number);
void posted(struct world *w);
/* Posts a copy, or a record of the caller's, to X. */
void post_copy(struct world *w);
void post_own(struct world *w);
/* Posts messages to Y: every other one is a record. */
void post_y(struct world *w, int count);

/* The survivor receives a message and holds it. */
void hold_one(struct world *w, struct known *bus);
/* Receives all that is there, and frees it. */
void hear(struct world *w, struct known *bus);
/* The bytes of a message are those of its number. */
void expect_text(const ipcheap_record *message, uint64_t number);

/* Returns the bytes of the messages that somebody holds or may still receive. */
uint64_t room_of_bus(struct world *w, const struct known *bus);
/* The survivor finds what it should, uses X and removes it. */
void use_bus(struct world *w);
/* The same, and removes Y; returns the room that both had. */
uint64_t bus_after(struct world *w);

#endif
