/*
 * lists.h - layer store: what the writer of a store knows about all slots, in private memory.
 *
 *   notes     of every slot: its neighbours among the chunks of its key, and among all by version
 *   free      slots to be used next          dead      slots to be collected
 *   expiries  a heap of what expires next    deletions slots without a block, the newest of their keys
 *
 * They are built from the slots by a participant that has the store to itself: its writer, or a holder
 * of the heap lock while no writer is inside. Building them completes what a killed writer left: a
 * committed chunk that no cell leads to within the depth is made DEAD. PREPARED slots belong to a
 * transaction that is open, and are left alone.
 */
#ifndef IPCHEAP_STORE_LISTS_H
#define IPCHEAP_STORE_LISTS_H

#include "store/cells.h"

enum note_state { NOTE_FREE, NOTE_PENDING, NOTE_LIVE, NOTE_DEAD };

/* Links are slot + 1; 0: none. */
struct note {
    uint64_t version, bytes;
    uint32_t newer, older;  /* of its key */
    uint32_t before, after; /* of all live chunks */
    uint32_t oldest, count; /* of a key's newest: its oldest chunk, and how many it has */
    uint64_t seen;          /* the collection that found it held last */
    uint8_t state;
    bool deletion, keyed;
};

struct expiry {
    uint64_t at, version;
    uint32_t slot;
};

struct lists {
    struct note *notes;
    uint32_t slots;
    uint32_t *free, *dead, *deletions;
    uint32_t free_count, dead_count, deletion_count;
    struct expiry *expiries;
    uint32_t expiry_count, expiry_room;
    uint32_t first, last; /* of all live chunks, by version */
    uint64_t live_chunks, live_bytes;
    uint64_t dead_bytes, held_bytes; /* held: as of the last collection */
    uint32_t held;
    uint32_t died; /* since then */
    uint64_t collection;
    bool stale; /* that collection found a chunk that has been held for long */
};

/* Builds them: 0, NO_MEMORY, or CORRUPT. */
int lists_build(struct store *store, struct lists *lists);
void lists_drop(struct lists *lists);
/* Makes room for the notes of so many slots, which the lists do not have yet. */
int lists_reserve(struct lists *lists, uint32_t slots);
/* Adds the slots up to that number, which are new, as free ones; there is room. */
void lists_extend(struct lists *lists, uint32_t slots);
/* Makes room for so many more expiries. */
int expiries_reserve(struct lists *lists, uint32_t more);
void expiry_add(struct lists *lists, uint64_t at, uint32_t slot, uint64_t version);

/* True if a slot has the newest chunk, or deletion, of a key. */
static inline bool is_newest(const struct lists *l, uint32_t slot) {
    const struct note *note = &l->notes[slot];
    return note->state == NOTE_LIVE && note->keyed && !note->newer;
}
/* Adds a committed chunk or deletion, the newest of all, that follows `older` of the same key. */
void lists_commit(struct lists *lists, uint32_t slot, uint32_t older);
/* Counts before a key goes, a chain is cut, or slots become free: readers that missed start anew. */
void store_turn(struct store *store);
/* Makes a slot DEAD: it is in no chain any more. */
void bury(struct store *store, struct lists *lists, uint32_t slot, int64_t now);
/* Takes the key of a newest chunk away, and buries all that it has. Returns how many chunks. */
uint64_t key_gone(struct store *store, struct lists *lists, uint32_t newest, int64_t now);
/* Takes the oldest chunk of a key away, which is not its newest one. */
void tail_gone(struct store *store, struct lists *lists, uint32_t newest, int64_t now);
/* Takes one chunk away: evicted or expired. Returns how many chunks went with it. */
uint64_t chunk_gone(struct store *store, struct lists *lists, uint32_t slot, int64_t now);
/* Takes away all that has expired. */
void expire(struct store *store, struct lists *lists, int64_t now);

#endif
