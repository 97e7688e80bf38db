/*
 * side.h - layer channel: the two sides of a channel: how they are held, and how they end.
 *
 *   seat.holder   side_state 2 | unused 18 | generation 32 | slot 12
 *
 * Side 0 writes (a producer), side 1 reads (a consumer). A side's seat names its holder and says
 * whether and how the side ended. Its own pair of lines, struct side, says how far it is. Only the
 * holder calls side_sleeps() and side_wakes(); any participant may call the rest.
 */
#ifndef IPCHEAP_CHANNEL_SIDE_H
#define IPCHEAP_CHANNEL_SIDE_H

#include "channel/kind.h"

/* True if a living participant holds the side, after recovering a dead one. Under the lock. */
bool side_taken(struct participant *me, struct channel *channel, int side);
/* Ends a side: its seat says how from now on, and the other side is woken. */
void side_end(ipcheap_heap *heap, struct channel *channel, int side, enum side_state state);
/* True if the dead participant, or an earlier occupant of its slot, holds the side. */
bool side_is_of_dead(const struct recovery *r, const struct channel *channel, int side);
/* Ends the side of a dead holder, after waking or cleaning up all that it left. Under the lock. */
void side_recover(const struct recovery *r, struct channel *channel, int side);

/*
 * Stops both sides of a channel in which a word violates the protocol. Returns CORRUPT, or
 * ENDPOINT_CLOSED if the channel is only being removed.
 */
int channel_poison(ipcheap_heap *heap, struct channel *channel);

/* Notes for others to see when a side falls asleep and how far it was; or that it is awake. */
void side_sleeps(ipcheap_heap *heap, struct side *side);
static inline void side_wakes(struct side *side) { put(&side->since, 0); }

#endif
