/*
 * park.h - layer channel: sleeping until the other side has done something.
 *
 *   sleeper                               waker
 *     parked = 1                            publish (slot, holder)
 *     membarrier                            -- compiler barrier --
 *     look again; if nothing, sleep         if (parked) parked = 0 and wake
 *
 * One of the two must see the other's store, which takes a store-load barrier on both
 * sides. The sleeper pays for both: os_membarrier() runs one on every processor that is
 * busy with a registered process, so that a message needs none. Where a participant could
 * not register, header->fences makes every waker pay for himself.
 */
#ifndef IPCHEAP_CHANNEL_PARK_H
#define IPCHEAP_CHANNEL_PARK_H

#include "channel/endpoint.h"

/* Wakes the holder of a side if it sleeps; true when it did. */
bool unpark(struct channel *channel, int side);

/* After publishing: tells the other side. Costs a load when it is awake. */
static inline void endpoint_notify(ipcheap_endpoint *e) {
    if (UNLIKELY(get(&e->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with the membarrier in park() */
    if (UNLIKELY(get(&e->channel->parked[!e->side])) && unpark(e->channel, !e->side)) {
        shared64 *wakes = &e->channel->sides[e->side].wakes;
        put(wakes, get(wakes) + 1);
    }
}

/* Looks at the slot for as long as recent waits took: true when the endpoint can go on. */
bool endpoint_spin(ipcheap_endpoint *e);
/* Sleeps until `ready` says so: 0, TIMED_OUT, INTERRUPTED or an error. */
int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t timeout_ns);

#endif
