/*
 * wake.h - layer channel: the waker's half of sleeping; endpoint/park.h has the sleeper's.
 *
 *   sleeper                               waker
 *     parked = how                          publish (slot, holder)
 *     membarrier                            -- compiler barrier --
 *     look again; if nothing, sleep         if (parked) how = exchange(parked, AWAKE)
 *                                           and wake it that way
 *
 * At least one of the two must see the other's store, which takes a store-load barrier on both
 * sides. The sleeper pays for both: os_membarrier() runs one on every processor that executes a
 * registered process, so that a message needs none. If a participant could not register,
 * header->fences makes every waker run a barrier of its own.
 *
 *   seat   | holder | parked | bell: inode, fd |      parked: AWAKE, or how to wake the holder
 *
 * There are three ways to sleep. A thread that waits for this endpoint alone sleeps on `parked`
 * (PARKED_HERE). A thread that waits for several sleeps on `knock` in its participant's slot
 * (PARKED_AMONG). A poller watches the seat's bell, a pipe (PARKED_BELL). Any participant may wake.
 */
#ifndef IPCHEAP_CHANNEL_WAKE_H
#define IPCHEAP_CHANNEL_WAKE_H

#include "base/os.h"
#include "segment/participant.h"

/* The write end of a seat's bell, which a thread that rings it keeps open. */
struct bell_pull {
    uint64_t inode; /* 0: there is none */
    struct descriptor pipe;
};

/* Closes it; NULL is none. */
void bell_let_go(struct bell_pull *pull);

/*
 * Wakes the holder of a seat if it sleeps; true if it did. `pull` is where the caller keeps that
 * seat's bell open, NULL if it does not.
 */
bool unpark(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull);

/*
 * Wakes the holder of a seat that waits by its bell or among others, and leaves its word as it is. So
 * wakers that come later do the same, if this one is stopped before it rings. False if it could not ring.
 */
bool seat_rouse(ipcheap_heap *heap, struct seat *seat);

/* Orders a sleeper's store of `parked` before its second look, and the same for every waker. */
static inline void sleeper_fence(ipcheap_heap *heap) {
    /* It can be refused although registering worked: a sandbox has installed a filter since. */
    if (UNLIKELY(!os_membarrier())) put(&heap->header->fences, 1);
    full_fence();
}

/*
 * Returns the part of a pipe's name that distinguishes a seat's from all others, also from those of
 * a later heap of the same name: an endpoint may open its pipe, or remove it, after its heap.
 */
static inline uint64_t seat_suffix(const ipcheap_heap *heap, const struct seat *seat) {
    return get(&heap->header->identity) + offset_of(heap, seat);
}

/* Puts a byte into the seat's pipe, if there is one. */
void bell_ring(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull);
/* Removes the pipe of a dead holder. Under the lock. */
void bell_recover(ipcheap_heap *heap, struct seat *seat);

#endif
