/*
 * extent.h - layer memory: runs of pages, handed out by the priority heap.
 *
 *   pages[]   | USED 3 | ..... | 0 | FREE 5 | ......... | TAIL 5 | USED 1 |
 *               ^ head: the truth    ^ head               ^ hint
 *
 * Only heads are truth: a scan steps from head to head by length. Each change is committed
 * by one store to one head, so a process killed between any two stores leaves either the
 * old or the new state. Tails and the index of free runs are hints that extents_rebuild()
 * rebuilds from the heads. Callers hold the heap lock where a comment says "under the lock".
 *
 * The index has one priority heap for each bin of sizes, ordered by address. The best bin is
 * searched first, and the lowest run in it is taken: that reuses warm pages, and the top of the
 * zone can be returned to the system.
 */
#ifndef IPCHEAP_MEMORY_EXTENT_H
#define IPCHEAP_MEMORY_EXTENT_H

#include "segment/handle.h"

/*
 * Allocates a run with memory. Takes the lock itself and commits the memory outside it. `align` is
 * in pages, a power of two. HEAP_FULL if no free run is long enough; MEMORY_FULL if the file system
 * is full. With LARGE_PAGE the search is short: HEAP_FULL also if no bin's lowest run fits.
 */
int extent_allocate(struct participant *me, int zone, uint64_t pages, uint64_t align,
                    enum page_kind kind, uint64_t tag, uint64_t *first);
/* The same, and does not believe that a page has memory already. */
int extent_allocate_anew(struct participant *me, int zone, uint64_t pages, enum page_kind kind,
                         uint64_t tag, uint64_t *first);
/*
 * Frees a used run. Takes the lock itself. Also returns WOULD_SLEEP if the free would make a trim
 * due and the caller must not sleep.
 */
int extent_free(struct participant *me, uint64_t first);
/*
 * Under the lock: rebuilds the index of free runs and merges neighbours. CORRUPT if the heads of a
 * zone do not add up: what lies behind the break is lost, the rest is usable.
 */
int extents_rebuild(ipcheap_heap *heap);
/* Is there a used run of that kind and tag, and at least as long, at an arbitrary offset? */
bool extent_is(const ipcheap_heap *heap, uint64_t offset, uint64_t bytes, enum page_kind kind,
               uint64_t tag);
/* Under the lock: returns the length of the longest free run of the data zone, in pages. */
uint64_t extents_longest(ipcheap_heap *heap);

/* Steps through all runs of a zone, under the lock: while (extent_step(heap, &walk)). */
struct extent_walk {
    int zone;
    uint64_t next;          /* where the next run begins; a caller may change it */
    uint64_t first, length; /* out: this run */
    enum page_state state;
    enum page_kind kind;
    bool broken; /* out: the heads do not add up */
};
struct extent_walk extent_walk_of(const ipcheap_heap *heap, int zone);
bool extent_step(const ipcheap_heap *heap, struct extent_walk *walk);
/* Under the lock: takes pages out of the free run that a walk has reached, as the caller's. */
int extent_cut(struct participant *me, const struct extent_walk *run, uint64_t first,
               uint64_t pages, enum page_kind kind);
/* Does the index contain exactly the free runs? For checks. */
bool extents_index_valid(ipcheap_heap *heap);

#endif
