/*
 * wake.h - layer channel: the waker's half of sleeping; endpoint/park.h has the sleeper's.
 *
 *   sleeper                               waker
 *     parked = how                          publish (slot, holder)
 *     membarrier                            -- compiler barrier --
 *     look again; if nothing, sleep         if (parked) how = exchange(parked, AWAKE)
 *                                           and wake it that way
 *
 * One of the two must see the other's store, which takes a store-load barrier on both sides. The
 * sleeper pays for both: os_membarrier() runs one on every processor that is busy with a
 * registered process, so that a message needs none. If a participant could not register,
 * header->fences makes every waker run a barrier of its own.
 *
 * There are three ways to sleep, and one word of the seat that says which. A thread that waits for
 * this endpoint alone sleeps on that word; one that waits for several, on a word of its own in its
 * participant's slot; for a poller a byte is put into a pipe, the seat's bell.
 */
#ifndef IPCHEAP_CHANNEL_WAKE_H
#define IPCHEAP_CHANNEL_WAKE_H

#include "base/os.h"
#include "segment/participant.h"

/* The way to a seat's bell, kept open by a thread that rings it. */
struct bell_pull {
    uint64_t inode; /* 0: there is none */
    int fd;
};

/*
 * Wakes the holder of a seat if it sleeps; true if it did. `pull` is where the caller keeps the way
 * to that seat's bell open, NULL if it does not.
 */
bool unpark(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull);

/* Between setting `parked` and looking again. */
static inline void sleeper_fence(ipcheap_heap *heap) {
    /* Refused by now, though it could be registered for: a filter came with a sandbox. */
    if (UNLIKELY(!os_membarrier())) put(&heap->header->fences, 1);
    full_fence();
}

/* What distinguishes a seat's pipe from all others beside the heap's file. */
static inline uint64_t seat_suffix(const ipcheap_heap *heap, const struct seat *seat) {
    return offset_of(heap, seat);
}

/* Puts a byte into the pipe of a seat that has one. */
void bell_ring(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull);
/* Under the lock: takes away the pipe of a holder that is dead. */
void bell_recover(ipcheap_heap *heap, struct seat *seat);

#endif
