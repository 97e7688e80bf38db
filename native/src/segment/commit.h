/*
 * commit.h - layer segment: which pages have memory behind them.
 *
 * A page without memory in a full file system is a SIGBUS for whoever touches it, so no
 * page is handed out before fallocate() has given it some. A bit is set after that and
 * cleared before the memory is given back; whoever owns the run of pages may do either.
 */
#ifndef IPCHEAP_SEGMENT_COMMIT_H
#define IPCHEAP_SEGMENT_COMMIT_H

#include "segment/heap.h"

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
