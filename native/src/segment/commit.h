/*
 * commit.h - layer segment: which pages have memory behind them.
 *
 * A page without memory in a full file system is a SIGBUS for whoever touches it, so no
 * page is handed out before fallocate() has given it some. A bit is set after that and
 * cleared before the memory is given back; whoever owns the run of pages may do either.
 *
 * A large page of the processor's is 512 of ours. Where a run has all of one, it is asked for
 * as such: memory comes ten times as fast, goes back fifty times as fast, and costs whoever uses
 * it a page fault and a TLB entry instead of 512. That is a hint: fallocate() is called all the same.
 */
#ifndef IPCHEAP_SEGMENT_COMMIT_H
#define IPCHEAP_SEGMENT_COMMIT_H

#include "segment/handle.h"

#define LARGE_PAGE (LARGE_PAGE_BYTES >> PAGE_SHIFT) /* pages; the data zone begins with one */

/* MEMORY_FULL when the file system is full; WOULD_SLEEP when it takes long and may not. */
int commit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count);
/* The same without believing the bits, and nothing is changed in them. */
int commit_pages_again(ipcheap_heap *heap, uint64_t first, uint64_t count);
/* Gives the memory of these pages back; returns how many had any. */
uint64_t uncommit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count);
uint64_t committed_pages(const ipcheap_heap *heap, uint64_t first, uint64_t count);
/* Sets the header's count right again from the bits. */
void recount_committed(ipcheap_heap *heap);

#endif
