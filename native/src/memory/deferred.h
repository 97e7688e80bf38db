/*
 * deferred.h - layer memory: extents whose free was put off.
 *
 * A caller that must not sleep, or that timed out on the heap lock, cannot free an extent. It
 * marks it: kind FREE_PENDING and tag FREE. From then on anybody who has the lock may free it. The
 * participant retries when it next frees an extent, needs a slab, reclaims or leaves; all others
 * free what they find when memory is short.
 *
 * The participant itself calls these functions.
 */
#ifndef IPCHEAP_MEMORY_DEFERRED_H
#define IPCHEAP_MEMORY_DEFERRED_H

#include "segment/handle.h"

struct deferred {
    uint64_t *pages; /* where the extents begin */
    size_t count, room;
};

/* Makes room for so many more, before anything can be lost: 0 or NO_MEMORY. */
int deferred_reserve(struct participant *me, size_t count);
/* Frees an extent of the caller's now, or puts it off and returns false; there must be room. */
bool deferred_extent_free(struct participant *me, uint64_t page);
/* Puts off the free of an extent; there must be room. */
void deferred_add(struct participant *me, uint64_t page);
/* Frees the caller's deferred extents, if it gets the lock. */
void deferred_retry(struct participant *me);
/* Under the lock: frees the deferred extents of all participants. */
void deferred_free_all(struct participant *me);

#endif
