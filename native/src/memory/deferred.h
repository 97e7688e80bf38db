/*
 * deferred.h - layer memory: extents that are done with and could not be freed yet.
 *
 * Who must not sleep, or has waited for the heap lock in vain, cannot free an extent. It stays
 * its participant's, to be freed when he next frees an extent, wants a slab, reclaims or leaves,
 * or when another thread joins after his has ended. A participant that has some is not retired,
 * so that those who survive him free them.
 */
#ifndef IPCHEAP_MEMORY_DEFERRED_H
#define IPCHEAP_MEMORY_DEFERRED_H

#include "segment/handle.h"

struct deferred {
    uint64_t *pages; /* where the extents begin */
    size_t count, room;
};

/* Makes room for so many more, before there is something to lose: 0 or NO_MEMORY. */
int deferred_reserve(struct participant *me, size_t count);
/* Frees an extent of the caller's now, or else (false) later; there has to be room. */
bool deferred_extent_free(struct participant *me, uint64_t page);
/* There has to be room. */
void deferred_add(struct participant *me, uint64_t page);
/* Frees those that can be freed now. */
void deferred_retry(struct participant *me);

#endif
