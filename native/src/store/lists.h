/*
 * lists.h - layer store: what the writer of a store knows about all slots, in private memory.
 *
 *   notes     of every slot: its neighbours among the chunks of its key, and among all by version
 *   free      slots to be used next          dead      slots to be collected
 *   spares    collected slots that keep their blocks, by size class, to be used next
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

enum note_state { NOTE_FREE, NOTE_PENDING, NOTE_LIVE, NOTE_DEAD, NOTE_SPARE };

/* Links are slot + 1; 0: none. */
struct note {
    _Alignas(64) uint64_t version;
    uint64_t bytes;
    uint64_t offset;        /* of its block, if that has a size class */
    uint32_t newer, older;  /* of its key */
    uint32_t before, after; /* of all live chunks, if any may be evicted; after: of spares, too */
    uint32_t oldest, count; /* of a key's newest: its oldest chunk, and how many it has */
    uint32_t seen;          /* the collection that found it held last */
    uint8_t state;
    uint8_t room; /* the size class of its block + 1; 0: unknown, or an extent */
    bool deletion, keyed;
};
static_assert(sizeof(struct note) == 64, "a put looks at few lines");

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
    bool evicts;          /* so it needs to know their ages: */
    uint32_t first, last; /* of all live chunks, by version */
    uint64_t live_chunks, live_bytes;
    uint64_t dead_bytes, held_bytes; /* held: as of the last collection */
    uint32_t held;
    uint32_t died; /* since then */
    uint32_t collection;
    uint32_t spares[CLASSES]; /* slot + 1 of the one to be used next */
    uint64_t spare_rooms;     /* bit n: there are spares of that class */
    uint64_t spare_bytes;
    uint32_t spare_count;
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
int expiries_make_room(struct lists *lists, uint32_t more);
static inline int expiries_reserve(struct lists *l, uint32_t more) {
    return LIKELY(l->expiry_room - l->expiry_count >= more) ? 0 : expiries_make_room(l, more);
}
void expiry_add(struct lists *lists, uint64_t at, uint32_t slot, uint64_t version);

/* Adds a slot that was collected and is LEAVING, and keeps its block, whose size class is known. */
void spare_add(struct lists *lists, uint32_t slot);
/* Takes a spare whose block is of that size class, which has one. */
static inline uint32_t spare_take(struct lists *l, uint32_t size_class) {
    uint32_t slot = l->spares[size_class] - 1;
    const struct note *note = &l->notes[slot];
    l->spares[size_class] = note->after;
    if (UNLIKELY(!note->after)) l->spare_rooms &= ~(UINT64_C(1) << size_class);
    l->spare_bytes -= note->bytes;
    l->spare_count--;
    return slot;
}

/* True if a slot has the newest chunk, or deletion, of a key. */
static inline bool is_newest(const struct lists *l, uint32_t slot) {
    const struct note *note = &l->notes[slot];
    return note->state == NOTE_LIVE && note->keyed && !note->newer;
}
/* Adds a committed chunk or deletion, the newest of all, that follows `older` of the same key. */
void lists_commit(struct lists *lists, uint32_t slot, uint32_t older);
/* Adds a live chunk behind all others, and removes one. */
void age_link(struct lists *lists, uint32_t slot);
void age_unlink(struct lists *lists, uint32_t slot);
static inline void age_add(struct lists *l, uint32_t slot) {
    if (l->evicts) age_link(l, slot);
    l->live_chunks++;
    l->live_bytes += l->notes[slot].bytes;
}
static inline void age_remove(struct lists *l, uint32_t slot) {
    if (l->evicts) age_unlink(l, slot);
    l->live_chunks--;
    l->live_bytes -= l->notes[slot].bytes;
}
/* Counts before a key goes, a chain is cut, or slots become free: readers that missed start anew. */
void store_turn(struct store *store);
/* Makes a slot DEAD: it is in no chain any more. */
static inline void bury(struct store *s, struct lists *l, uint32_t slot, int64_t now) {
    struct store_slot *shared = chunk_slot(s, slot);
    struct note *note = &l->notes[slot];
    if (!note->deletion) age_remove(l, slot);
    note->state = NOTE_DEAD;
    put(&shared->died, (uint64_t)now);
    /* Release: pairs with hold_slot(). */
    put_release(&shared->word, chunk_word(CHUNK_DEAD, note->version));
    l->dead[l->dead_count++] = slot;
    l->dead_bytes += note->bytes;
    l->died++;
}
/* Takes the key of a newest chunk away, and buries all that it has. Returns how many chunks. */
uint64_t key_gone(struct store *store, struct lists *lists, uint32_t newest, int64_t now);
/* Takes the oldest chunk of a key away, which is not its newest one. */
void tail_gone(struct store *store, struct lists *lists, uint32_t newest, int64_t now);
/* Takes one chunk away: evicted or expired. Returns how many chunks went with it. */
uint64_t chunk_gone(struct store *store, struct lists *lists, uint32_t slot, int64_t now);
/* Takes away all that has expired. */
void expire_some(struct store *store, struct lists *lists, int64_t now);
static inline void expire(struct store *s, struct lists *l, int64_t now) {
    if (UNLIKELY(l->expiry_count && l->expiries[0].at <= (uint64_t)now)) expire_some(s, l, now);
}

#endif
