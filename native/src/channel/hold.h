/*
 * hold.h - layer channel: what this process uses of channels' memory.
 *
 *   handle   keeper   | hold: channel, count | hold: channel, count | ...
 *               |
 *   segment  a slot of the process itself; its tag is a word of each channel's users
 *
 * A process is one user of a channel, however often it maps the memory and in whatever thread. The
 * keeper outlives the threads and the closing of the heap: it leaves with the last hold. The
 * list is private, and under the process mutex.
 */
#ifndef IPCHEAP_CHANNEL_HOLD_H
#define IPCHEAP_CHANNEL_HOLD_H

#include "channel/kind.h"

/* Makes this process a user of a channel, or counts once more: 0, CHANNEL_NOT_FOUND, HEAP_BUSY. */
int hold_take(ipcheap_heap *heap, const ipcheap_channel *handle);
/* Ends what hold_take() began. If the heap lock stays taken, a later call of either completes it. */
void hold_release(ipcheap_heap *heap, const ipcheap_channel *handle);

/* hooks.share: before a fork, the child becomes a user of all that this process uses. */
bool holds_share(ipcheap_heap *heap, struct participant *child);
/* Ends all holds of a handle that goes away. */
void holds_end(ipcheap_heap *heap);

#endif
