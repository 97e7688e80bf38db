/*
 * commit.h - layer segment: which pages have memory behind them.
 *
 *   committed bits   | pages 0..63 | pages 64..127 | ...        1: the page has memory
 *
 * Touching a page without memory in a full file system raises SIGBUS, so no page is handed out
 * before fallocate() has given it memory. Its bit is set afterwards, and cleared before the memory
 * is given back. Only the owner of a run of pages changes them: the participant that its tag names,
 * or the holder of the heap lock for a free run.
 *
 * Memory comes in units of one page, on hugetlbfs in units of a large page. All bits of a unit are set
 * together, also those of pages that belong to another run. It is given back by the owner of a run
 * that contains all of it. So no owner of a part can lose it.
 *
 * A file system on a disk may refuse memory that fallocate() has promised. There, each page is
 * touched once before its bit is set: segment_commit().
 *
 * A large page of the processor's is 512 of ours. If a run covers all of one, the kernel is asked
 * for a large page: its memory arrives ten times and returns fifty times as fast, and the user of
 * it takes one page fault and one TLB entry instead of 512. The request is a hint: fallocate() is
 * called all the same.
 */
#ifndef IPCHEAP_SEGMENT_COMMIT_H
#define IPCHEAP_SEGMENT_COMMIT_H

#include "segment/handle.h"

#define LARGE_PAGE (LARGE_PAGE_BYTES >> PAGE_SHIFT) /* pages; the data zone begins with one */

/*
 * Gives these pages memory. Returns MEMORY_FULL if the file system is full, and WOULD_SLEEP if it
 * would take long and the caller must not sleep.
 */
int commit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count);
/* The same without trusting the bits that say which of them have memory. */
int commit_pages_anew(ipcheap_heap *heap, uint64_t first, uint64_t count);
/*
 * Shrinks a range to the units of memory that it contains as a whole: returns how many pages these
 * are, and the first of them in *first.
 */
uint64_t whole_units(const ipcheap_heap *heap, uint64_t *first, uint64_t count);
uint64_t pages_of_unit(const ipcheap_heap *heap);
/* Gives the memory of the whole units of these pages back; returns how many pages had any. */
uint64_t uncommit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count);
/* Returns how many of these pages have memory, by the bits. */
uint64_t committed_pages(const ipcheap_heap *heap, uint64_t first, uint64_t count);
/* Recomputes the header's count of committed pages from the bits. */
void recount_committed(ipcheap_heap *heap);

#endif
