/*
 * block.h - layer memory: what users allocate: a block of a slab, or an extent of its own.
 *
 * Each has one tag, the word that says who owns it (layout.h). Only the owner named by the tag
 * changes it. Any participant may call these functions, for itself.
 */
#ifndef IPCHEAP_MEMORY_BLOCK_H
#define IPCHEAP_MEMORY_BLOCK_H

#include "memory/slab.h"

/* What an offset leads to. */
struct place {
    shared64 *tag;
    bool in_slab;
    struct block block; /* in a slab */
    uint64_t page;      /* otherwise */
};

/* Returns false if nothing that a user could have allocated starts there. */
bool place_find(ipcheap_heap *heap, uint64_t offset, struct place *place);
/* Does it have this tag, and is it not freed yet? */
bool place_is(const struct place *place, uint64_t tag);
uint64_t place_bytes(ipcheap_heap *heap, const struct place *place);

/* Allocates, with the caller's tag. Reclaims before it returns HEAP_FULL or MEMORY_FULL. */
int block_allocate(struct participant *me, uint64_t nbytes, uint64_t *offset);
/*
 * Frees a block or extent whose tag the caller has validated. An extent whose free times out on the
 * heap lock becomes the caller's and is freed later. WOULD_SLEEP changes nothing.
 */
int block_free(struct participant *me, const struct place *place);
/* Frees what the caller holds, now or later; deferred_reserve() must have made room. */
void block_drop(struct participant *me, uint64_t offset);

/* Returns the participant of this process that owns the block outright, or NULL. */
struct participant *block_owner(ipcheap_heap *heap, const struct place *place);
/* Returns why no participant of this process owns the block at an offset: RECORD, WRONG_PROCESS. */
int nobody_here_owns(ipcheap_heap *heap, uint64_t offset);
/* Counts a record that a participant gained (1) or lost (-1) as its own. */
void participant_holds(struct participant *me, struct participant *owner, int change);

/* Reclaims everything reusable: own slabs, orphans, garbage in channels, empty slabs of others. */
int heap_reclaim(struct participant *me, bool give_back);

#endif
