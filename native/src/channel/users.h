/*
 * users.h - layer channel: the processes that use a channel's memory without holding a side.
 *
 *   channel->users   | keeper | 0 | keeper | ...  8 words |     OWN tags
 *   part 1           | keeper of slot 0 | of slot 1 | ... |     once the descriptor has no word left
 *
 * A word counts as long as the keeper that it names is alive, so a dead user needs no recovery: its
 * word is only taken by another one. A removed channel keeps its memory while it has a user.
 *
 * A word is added and cleared by the process of its keeper, under the heap lock. The parent of a
 * fork adds the child's without that lock, while it is a user itself.
 */
#ifndef IPCHEAP_CHANNEL_USERS_H
#define IPCHEAP_CHANNEL_USERS_H

#include "segment/participant.h"

/* Adds a user; false if it needs users_make_table() first. */
bool users_add(struct participant *keeper, uint32_t index);
/* Makes room for as many users as there may be. Under the lock, which `me` holds. */
int users_make_table(struct participant *me, uint32_t index);
/* Removes a user. Under the lock. */
void users_remove(struct participant *keeper, uint32_t index);
/* True if a living process uses the channel's memory. */
bool users_any(ipcheap_heap *heap, uint32_t index);
/* True if a living process other than this one does. */
bool users_elsewhere(ipcheap_heap *heap, uint32_t index);

#endif
