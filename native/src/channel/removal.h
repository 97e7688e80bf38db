/* removal.h - layer channel: taking a channel out of the heap, now and when its last side closes. */
#ifndef IPCHEAP_CHANNEL_REMOVAL_H
#define IPCHEAP_CHANNEL_REMOVAL_H

#include "channel/kind.h"

/* Under the lock: frees a removed channel if no side is open. */
void channel_drop_if_done(struct participant *me, uint32_t index);

#endif
