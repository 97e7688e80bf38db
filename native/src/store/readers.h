/*
 * readers.h - layer store: the entries of readers and their hold words.
 *
 *   entry   seat | holds, used, closed | side             free if its seat is not open
 *   holds   slot + 1 | slot + 1 | 0 | ...                 word 0 is for looks that hold nothing after
 *
 * An entry is claimed and recovered under the heap lock, and freed by its holder or under it. The holder
 * alone writes its hold words.
 * A reader that closes while it holds chunks leaves its entry open, with `closed` set. Any holder of
 * the lock frees such an entry when its words are 0.
 */
#ifndef IPCHEAP_STORE_READERS_H
#define IPCHEAP_STORE_READERS_H

#include "store/tables.h"

/* Finds an entry for a new reader; *number is its own. CHANNEL_BUSY if there are too many. */
int entry_take(struct participant *me, struct store *store, uint32_t *number);
/* Frees an entry: its holder has ended in that way, or has nothing left. Under the lock. */
void entry_free(struct store *store, uint32_t number, enum side_state how);
/* Recovers dead readers. Under the lock. */
void readers_recover(struct participant *me, struct store *store);
/* True if an entry is held by a living participant, as an endpoint or only for its chunks. */
bool entry_is_alive(struct store *store, const struct store_reader *entry);
/* Frees entries that were closed and hold nothing any more; true if any entry is left in use. */
bool entries_tidy(struct store *store);
/* True if all hold words of an entry are 0; of a closed one they stay so. */
bool entry_holds_nothing(struct store *store, uint32_t number);

/* Returns the slot that a hold word names, plus 1; 0 for none. */
static inline uint32_t held_slot(uint64_t hold) { return (uint32_t)hold; }

/* A hold word for a slot, at this second of the heap's clock. */
static inline uint64_t hold_word(const ipcheap_heap *heap, uint32_t slot) {
    return (get(&heap->header->clock) << 2 & ~((UINT64_C(1) << 46) - 1)) | (slot + 1);
}

/* Returns for how many seconds a word has held, as of now. */
uint64_t hold_age(const ipcheap_heap *heap, uint64_t hold);

/* Steps through the hold words of all readers that are not 0. */
struct hold_walk {
    uint32_t reader, word;
    uint64_t hold; /* out */
    shared64 *words;
    uint32_t used;
};
bool hold_step(struct store *store, struct hold_walk *walk);

#endif
