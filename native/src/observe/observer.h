/*
 * observer.h - layer observe: what a look keeps in private memory, and how it reads the segment.
 *
 *   segment --pread--> private copies --> participants, channels, parties --> census: holdings
 *
 * An observer is no participant. It stores nothing, takes no lock and maps no file: it reads through
 * its own descriptor, so a hole, a truncated file or a corrupt word is only a value. Each index is
 * checked against the geometry before it is used. Words may be read while others change them, and
 * are copied eight bytes at a time, so each of them is one that stood there.
 *
 * This layer includes the layout and nothing that changes shared bytes: tests/test_observer.py.
 */
#ifndef IPCHEAP_OBSERVE_OBSERVER_H
#define IPCHEAP_OBSERVE_OBSERVER_H

#include "base/os.h"
#include "ipcheap/ipcheap.h"
#include "segment/layout.h"

/* A list in private memory that grows. */
struct growing {
    void *items;
    size_t count, room;
};

/* Everything of a record channel's slot that the census needs. */
struct seen_ring {
    uint64_t *words;
    uint64_t offset, count;
    uint64_t received; /* the consumer's position */
    uint32_t shift;
};

/* A chunk of a store. */
struct seen_chunk {
    uint64_t offset;
    uint32_t form, reader; /* the first reader that holds it, as a party + 1; 0: none */
    bool used, dead;
};

/* A message that a listener holds. */
struct seen_hold {
    uint64_t block;
    uint32_t party, position; /* position modulo 2^21 */
};

/* What a look knows of a channel beside what it tells. */
struct seen_inside {
    bool there; /* LIVE or REMOVED: its descriptor says what it contains */
    struct seen_ring ring;
    struct seen_chunk *chunks;
    uint32_t chunk_count;
    /* Of a bus. */
    uint64_t *log;
    uint64_t log_count, floor, end, history_from, next_from;
    uint32_t log_shift, slowest; /* party + 1 of the listener that is the last; 0: none */
    struct seen_hold *holds;
    size_t hold_count;
};

/* A part of pages[], read by one call. */
struct seen_window {
    struct page *pages;
    uint64_t first, count;
};

struct ipcheap_observer {
    int fd;
    unsigned char *base; /* of a System V segment, mapped for reading; otherwise NULL */
    bool is_copy;
    struct geometry geometry;
    uint64_t bytes; /* of the segment, as far as its file has any */
    int64_t boot_offset;
    /* What the last look has found. */
    int64_t began;
    struct header header;
    ipcheap_seen_heap heap;
    struct growing participants; /* ipcheap_seen_participant */
    struct growing channels;     /* ipcheap_seen_channel */
    struct growing parties;      /* ipcheap_seen_party */
    struct growing holdings;     /* ipcheap_seen_holding */
    struct growing sentences;    /* ipcheap_seen_text */
    uint32_t *cells;             /* holding + 1, by hash */
    size_t cell_mask;
    struct participant_slot *slots; /* PARTICIPANTS, as they were read */
    bool reread[PARTICIPANTS];
    struct seen_inside *inside; /* by index */
    ipcheap_seen_channel *seen; /* the same */
    uint32_t entries;
    struct seen_window window;
    uint64_t budget;     /* bytes of tables that this look may still read */
    uint32_t not_dumped; /* a process that is not dumping core */
    bool short_of_memory, cut_short, missing;
};

/* Reading ------------------------------------------------------------------------------------ */

/* Copies bytes of the segment. What lies beyond its end is zero. */
void look_at(ipcheap_observer *o, uint64_t offset, void *to, uint64_t bytes);
/* Does the same for a table, as far as the look may; false if it has read too much already. */
bool look_at_table(ipcheap_observer *o, uint64_t offset, void *to, uint64_t bytes);
/* Returns the number of the descriptor of a page, read now. */
struct page page_now(ipcheap_observer *o, uint64_t page);
/* True if a used run of that kind and tag, and at least as long, begins at an offset. */
bool area_is(ipcheap_observer *o, uint64_t offset, uint64_t bytes, enum page_kind kind,
             uint64_t tag);

/* Private memory that is zero; NULL, and the look is short of memory. */
void *look_allocate(ipcheap_observer *o, size_t count, size_t bytes);
/* Returns a new item at the end of a list, all zero; NULL if there is no memory. */
void *grow(ipcheap_observer *o, struct growing *list, size_t bytes);
/* Adds a sentence about what could not be read. */
void __attribute__((format(printf, 2, 3))) say(ipcheap_observer *o, const char *format, ...);

/* Participants ------------------------------------------------------------------------------- */

/* Returns the key of the participant that a tag or holder word names; 0 if there is none. */
uint64_t key_of_owner(ipcheap_observer *o, uint64_t tag);
/* Returns the key of the participant that holds a seat, alive or dead; 0 if none does. */
uint64_t key_of_seat(ipcheap_observer *o, uint64_t holder);

/* Channels ----------------------------------------------------------------------------------- */

/* channels_seen.c: reads all descriptors, and what each kind has. */
void look_at_channels(ipcheap_observer *o);
/* Frees what the last look kept of them. */
void forget_channels(ipcheap_observer *o);
/* store_seen.c, bus_seen.c: one channel. */
void look_at_store(ipcheap_observer *o, uint32_t index, const struct channel *copy);
void look_at_bus(ipcheap_observer *o, uint32_t index, const struct channel *copy);

/* The census --------------------------------------------------------------------------------- */

/* census.c: goes through the data zone, and counts what is held by which holder. */
void take_census(ipcheap_observer *o);

#endif
