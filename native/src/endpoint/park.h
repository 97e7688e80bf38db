/*
 * park.h - layer endpoint: sleeping until the other side has done something.
 *
 *   sleeper                               waker
 *     parked = how                          publish (slot, holder)
 *     membarrier                            -- compiler barrier --
 *     look again; if nothing, sleep         if (parked) how = exchange(parked, AWAKE)
 *                                           and wake it that way
 *
 * One of the two must see the other's store, which takes a store-load barrier on both
 * sides. The sleeper pays for both: os_membarrier() runs one on every processor that is
 * busy with a registered process, so that a message needs none. Where a participant could
 * not register, header->fences makes every waker pay for himself.
 *
 * There are three ways to sleep, and one word that says which. A thread that waits for this
 * endpoint alone sleeps on that word; one that waits for several, on a word of its own in
 * its participant's slot (wait_any.c); for a poller a byte is put into a pipe (bell.h).
 */
#ifndef IPCHEAP_ENDPOINT_PARK_H
#define IPCHEAP_ENDPOINT_PARK_H

#include "base/os.h"
#include "endpoint/endpoint.h"

/* How long to sleep before looking whether the other side is still alive. */
#define LOOK_AFTER_PEER (SECOND / 2)

/*
 * Wakes the holder of a side if it sleeps; true when it did. `pull` is where the caller
 * keeps the way to that side's bell open, NULL if he does not.
 */
bool unpark(ipcheap_heap *heap, struct channel *channel, int side, struct bell_pull *pull);

bool wake_peer(ipcheap_endpoint *e);

/* After publishing: tells the other side. Costs a load when it is awake. */
static inline void endpoint_notify(ipcheap_endpoint *e) {
    if (UNLIKELY(get(&e->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with the membarrier in park() */
    if (UNLIKELY(get(&e->channel->seats[!e->side].parked)) && wake_peer(e)) {
        shared64 *wakes = &e->channel->sides[e->side].wakes;
        put(wakes, get(wakes) + 1);
    }
}

/* After `parked` has been set, before looking again. */
static inline void sleeper_fence(ipcheap_heap *heap) {
    /* Refused by now, though it could be registered for: a filter came with a sandbox. */
    if (UNLIKELY(!os_membarrier())) put(&heap->header->fences, 1);
    full_fence();
}

/* Recovers the other side's holder if he is dead. */
int look_after_peer(ipcheap_endpoint *e);
/* Looks at the slot for as long as recent waits took: true when the endpoint can go on. */
bool endpoint_spin(ipcheap_endpoint *e);
/*
 * Who waits about as long each time, as one does who takes what a busy producer makes, is not
 * to be woken each time: waking costs the waker microseconds, and a membarrier him as well.
 * So he sleeps for less than half of it without anyone's help, and then spins. Were the record
 * there sooner than ever, he sees it no later than one who is woken. Only of waits that have been
 * alike for a while does he sleep through most. `begin` is when this one began. 0 when the endpoint
 * can go on, WOULD_BLOCK when it is time to park, INTERRUPTED.
 */
int endpoint_doze(ipcheap_endpoint *e, int64_t timeout_ns, int64_t begin);
/* How long to doze from now on, having waited for so long in all; 0: less than was dozed. */
void endpoint_expect(ipcheap_endpoint *e, int64_t waited);
/* How long to spin from now on, having had to sleep for so long after it. */
void endpoint_learn(ipcheap_endpoint *e, int64_t slept);
/* Sleeps until `ready` says so: 0, TIMED_OUT, INTERRUPTED or an error. */
int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t timeout_ns);

#endif
