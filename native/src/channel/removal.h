/*
 * removal.h - layer channel: taking a channel out of the heap, now and when its last user is gone.
 *
 *   state   LIVE  ->  REMOVED, flags |= GONE  ->  FREE, once no side is open and no process uses it
 *
 * Holders of the heap lock call.
 */
#ifndef IPCHEAP_CHANNEL_REMOVAL_H
#define IPCHEAP_CHANNEL_REMOVAL_H

#include "channel/kind.h"

/* Frees a removed channel if no side is open and no process uses its memory. Under the lock. */
void channel_drop_if_done(struct participant *me, uint32_t index);
/*
 * Tells all users of a removed channel that it is gone, and frees what is nobody's any more; may be
 * repeated, because the participant that removes it may be killed. Under the lock.
 */
void channel_end(struct participant *me, uint32_t index);

#endif
