/*
 * extent.h - layer memory: runs of pages, handed out by the priority heap.
 *
 *   pages[]   | USED 3 | ..... | 0 | FREE 5 | ......... | TAIL 5 | USED 1 |
 *               ^ head: the truth    ^ head               ^ hint
 *
 * Only heads are truth: a scan steps from head to head by length. Each change is committed
 * by one store to one head, so a process killed between any two stores leaves either the
 * old or the new state. Tails and the heaps of free runs are hints, made again from the
 * heads by extents_rebuild(). Callers hold the heap lock where it says so.
 *
 * The index is a priority heap a bin of sizes, ordered by address: the best bin first and
 * the lowest run in it, so that warm pages are used again and the top can be given back.
 */
#ifndef IPCHEAP_MEMORY_EXTENT_H
#define IPCHEAP_MEMORY_EXTENT_H

#include "segment/handle.h"

/*
 * Takes the lock itself and commits the memory outside it. `align` is in pages, a power of
 * two. HEAP_FULL when no free run is long enough; MEMORY_FULL when the file system is. LARGE_PAGE
 * is a wish: HEAP_FULL, too, where the index knows of no such place at once.
 */
int extent_allocate(struct participant *me, int zone, uint64_t pages, uint64_t align,
                    enum page_kind kind, uint64_t tag, uint64_t *first);
/*
 * Frees a used run; takes the lock itself. WOULD_SLEEP, too, where as much is free then that
 * some of it is to be given back to the system.
 */
int extent_free(struct participant *me, uint64_t first);
/*
 * Under the lock: makes the index of free runs again, and merges neighbours. CORRUPT when the
 * heads of a zone do not add up: what comes after the break is lost, the rest is usable.
 */
int extents_rebuild(ipcheap_heap *heap);
/* Is there a used run of that kind and tag at an offset that may be anything, and as long? */
bool extent_is(const ipcheap_heap *heap, uint64_t offset, uint64_t bytes, enum page_kind kind,
               uint64_t tag);
/* Under the lock: the longest free run of the data zone, in pages. */
uint64_t extents_longest(ipcheap_heap *heap);

/* Under the lock: for (e = {.next = first}; extent_step(...);). */
struct extent_walk {
    int zone;
    uint64_t next;            /* in */
    uint64_t first, length;   /* out: this run */
    enum page_state state;
    enum page_kind kind;
    bool broken; /* out: the heads do not add up */
};
struct extent_walk extent_walk_of(const ipcheap_heap *heap, int zone);
bool extent_step(const ipcheap_heap *heap, struct extent_walk *walk);
/* Under the lock: takes pages out of the free run that a walk stands on, as the caller's. */
int extent_cut(struct participant *me, const struct extent_walk *run, uint64_t first,
               uint64_t pages, enum page_kind kind);
/* Does the index hold exactly the free runs? For checks. */
bool extents_index_valid(ipcheap_heap *heap);

#endif
