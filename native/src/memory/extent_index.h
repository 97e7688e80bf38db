/*
 * extent_index.h - layer memory: where free runs are found: bins of pairing heaps.
 *
 * Private to extent.c. Links are page + 1; all of them may be garbage after a crash and are
 * then made again, so every loop here is bounded and every link is checked. A child lies
 * above its parent, and each sibling's `previous` names the one it is reached from: a walk
 * that checks both cannot go in a circle.
 */
#ifndef IPCHEAP_MEMORY_EXTENT_INDEX_H
#define IPCHEAP_MEMORY_EXTENT_INDEX_H

#include "segment/handle.h"

/* The lines that looking for, or adding, a run of that many pages will write. */
void index_prefetch(ipcheap_heap *heap, int zone, uint64_t pages);
void index_clear(ipcheap_heap *heap, int zone);
void index_insert(ipcheap_heap *heap, int zone, uint64_t first, uint64_t length);
/* False when the links do not add up: then the index has to be made again. */
bool index_remove(ipcheap_heap *heap, int zone, uint64_t first, uint64_t length);
/* Steps through the lowest run of each bin that may hold `pages`, best first: *bin starts at -1. */
bool index_candidate(ipcheap_heap *heap, int zone, uint64_t pages, int *bin, uint64_t *first);
/* How many runs are in the index; UINT64_MAX when it is broken. */
uint64_t index_count(ipcheap_heap *heap, int zone);

#endif
