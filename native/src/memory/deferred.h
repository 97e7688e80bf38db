/*
 * deferred.h - layer memory: extents whose free was put off.
 *
 * A caller that must not sleep, or that timed out on the heap lock, cannot free an extent. It
 * stays with its participant, marked FREE_PENDING. The participant retries when it next frees an
 * extent, needs a slab, reclaims or leaves; if its thread has ended, the next thread to join
 * retries. A participant with deferred extents is not retired, so that its survivors free them.
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
/* Frees the deferred extents that can be freed now. */
void deferred_retry(struct participant *me);

#endif
