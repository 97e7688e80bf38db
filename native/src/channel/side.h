/*
 * side.h - layer channel: the two sides of a channel: who holds them, and how they end.
 *
 * Side 0 writes (a producer), side 1 reads (a consumer). A side's seat says who holds it or how it
 * ended; its hot line says how far it is.
 */
#ifndef IPCHEAP_CHANNEL_SIDE_H
#define IPCHEAP_CHANNEL_SIDE_H

#include "channel/kind.h"

/* Under the lock: does a living participant hold the side? Recovers a dead one. */
bool side_taken(struct participant *me, struct channel *channel, int side);
/* The side will not go on: its seat says how it ended, and the other side is woken. */
void side_end(ipcheap_heap *heap, struct channel *channel, int side, enum side_state state);
/* Is the side held by the dead participant, or an earlier occupant of its slot? */
bool side_is_of_dead(const struct recovery *r, const struct channel *channel, int side);
/* Under the lock: what the dead holder of a side leaves to sleepers and pollers of both sides. */
void side_recover(const struct recovery *r, struct channel *channel, int side);

/* Something in the channel is not what any participant writes: no side goes on. Returns CORRUPT. */
int channel_poison(ipcheap_heap *heap, struct channel *channel);

/* A side falls asleep, and is awake again; when, and where it stood, is for others to look at. */
void side_sleeps(ipcheap_heap *heap, struct side *side);
static inline void side_wakes(struct side *side) { put(&side->since, 0); }

#endif
