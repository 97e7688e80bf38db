/*
 * reclaim.h - layer heap: collecting the memory that waits in channels to be reused.
 *
 * Called under the heap lock, when memory is short: through the hook `reclaim`.
 */
#ifndef IPCHEAP_HEAP_RECLAIM_H
#define IPCHEAP_HEAP_RECLAIM_H

#include "segment/handle.h"

/* Frees all garbage that can be freed now, and removed channels without an open side. */
void channels_reclaim(struct participant *me);

#endif
