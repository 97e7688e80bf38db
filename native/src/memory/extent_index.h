/*
 * extent_index.h - layer memory: the index of free runs: a pairing heap for each bin of sizes.
 *
 *   bins[b] -> lowest run -child-> run -next-> run ...     `previous` leads back
 *
 * Private to extent.c, which holds the heap lock. Links are page + 1. After a crash any of them
 * may be garbage until the index is rebuilt, so every loop is bounded and every link is checked.
 * A child lies above its parent, and the `previous` of each sibling names the node that leads to
 * it: a walk that checks both cannot loop.
 */
#ifndef IPCHEAP_MEMORY_EXTENT_INDEX_H
#define IPCHEAP_MEMORY_EXTENT_INDEX_H

#include "segment/handle.h"

/* Prefetches the lines that finding or adding a run of that many pages will write. */
void index_prefetch(ipcheap_heap *heap, int zone, uint64_t pages);
void index_clear(ipcheap_heap *heap, int zone);
void index_insert(ipcheap_heap *heap, int zone, uint64_t first, uint64_t length);
/* Returns false if the links are broken: then the index must be rebuilt. */
bool index_remove(ipcheap_heap *heap, int zone, uint64_t first, uint64_t length);
/* Steps through the lowest run of each bin that may fit, the best bin first; *bin starts at -1. */
bool index_candidate(ipcheap_heap *heap, int zone, uint64_t pages, int *bin, uint64_t *first);
/* Returns how many runs are in the index; UINT64_MAX if it is broken. */
uint64_t index_count(ipcheap_heap *heap, int zone);

#endif
