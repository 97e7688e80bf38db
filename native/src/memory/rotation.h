/*
 * rotation.h - layer memory: in which order a stream of large records uses memory.
 *
 *   LOWEST    | A | B | A | B | A ...           the lowest free place, usually the one freed last
 *   IN_TURN   | A | B | C | D | ... | A | ...   each behind the previous one, for a lap of 4 MiB
 *
 * The cache lines of the place freed last are still in the producer's cache if the consumer
 * touched little of it. If the consumer read all of it, they are in the consumer's cache, and
 * fetching each back takes two to three times as long as a place used some megabytes ago: that
 * has left the caches of both cores but is still in the cache that they share. Which order is
 * faster depends on how much is read, on the caches and on where the cores are, and nothing
 * reports it. So a participant compares both now and then (trial.h) by the time from one record
 * to the next.
 *
 * All of this is private to a participant, and nothing depends on it. extent.c calls these
 * functions.
 */
#ifndef IPCHEAP_MEMORY_ROTATION_H
#define IPCHEAP_MEMORY_ROTATION_H

#include "base/trial.h"
#include "segment/handle.h"

enum extent_order { LOWEST, IN_TURN };

/* Where a participant's extents go. */
struct rotation {
    struct trial trial; /* its ways are extent_orders, its cost is the time of a lap */
    uint64_t last,
        last_word; /* the previous extent, and its descriptor's word; 0 at a lap's start */
    uint64_t left; /* pages until the lap ends */
    int64_t since; /* when the lap began; 0 before the first lap */
};

/* IPCHEAP_EXTENTS: learn, lowest or in-turn. */
extern struct choice extent_choice;

void rotation_begin(struct rotation *rotation);

/* Begins a new lap if an extent of so many pages does not fit in this one. */
void rotation_turn(struct participant *me, uint64_t pages);
/* Under the lock: returns the page to allocate at if that is free; UINT64_MAX: the lowest. */
uint64_t rotation_page(const struct participant *me, uint64_t pages);
/* Notes an extent that has been allocated and has memory. */
void rotation_note(struct participant *me, uint64_t first, uint64_t pages);

#endif
