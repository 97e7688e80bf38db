/*
 * block.h - layer memory: what users allocate: a block of a slab, or an extent of its own.
 *
 * Each has one tag, the word that says who answers for it (layout.h). Only who is named by
 * the tag changes it.
 */
#ifndef IPCHEAP_MEMORY_BLOCK_H
#define IPCHEAP_MEMORY_BLOCK_H

#include "memory/slab.h"

/* What lies at an offset. */
struct place {
    shared64 *tag;
    bool in_slab;
    struct block block; /* in a slab */
    uint64_t page;      /* else */
};

/* False when nothing that a user could have allocated starts there. */
bool place_find(ipcheap_heap *heap, uint64_t offset, struct place *place);
/* Has it this tag, and has nobody freed it already? */
bool place_is(const struct place *place, uint64_t tag);
uint64_t place_bytes(ipcheap_heap *heap, const struct place *place);

/* Allocates and tags as the caller's. Reclaims before it says HEAP_FULL or MEMORY_FULL. */
int block_allocate(struct participant *me, uint64_t nbytes, uint64_t *offset);
/*
 * Frees what the tag has been judged for. An extent that cannot be freed because the heap
 * lock cannot be had becomes the caller's and is freed later. WOULD_SLEEP changes nothing.
 */
int block_free(struct participant *me, const struct place *place);
/* Frees what the caller holds, at once or later; deferred_reserve() has made room for that. */
void block_drop(struct participant *me, uint64_t offset);

/* The participant of this process that owns the block outright, or NULL. */
struct participant *block_owner(ipcheap_heap *heap, const struct place *place);
/* A participant gained (1) or lost (-1) a record that it owns outright. */
void participant_holds(struct participant *me, struct participant *owner, int change);

/* Collects everything that can be reused: own slabs, orphans, rings, others' empty slabs. */
int heap_reclaim(struct participant *me, bool give_back);

#endif
