/* reclaim.h - layer heap: memory that waits in channels to be used again. */
#ifndef IPCHEAP_HEAP_RECLAIM_H
#define IPCHEAP_HEAP_RECLAIM_H

#include "segment/handle.h"

/* Under the lock: frees what can be freed of every channel now; drops those that are done with. */
void channels_reclaim(struct participant *me);

#endif
