/*
 * lock.h - layer segment: the heap lock.
 *
 *   waiters 1 | generation 18 | slot + 1 in 13        0 = free
 *
 * One word says that the lock is taken and names its owner, so the two can never disagree. The
 * lock guards extents, the directory and recovery; allocating, sending and freeing a small record
 * do without it. A waiter sleeps for at most 100 ms and then looks whether the owner is alive. If
 * the owner is dead, the waiter takes the lock over and rebuilds the indices before it goes on. A
 * slow owner keeps the lock.
 *
 * Any participant may lock, on its own thread. The process mutex and a heap's mutex are taken
 * before the lock, never after it.
 */
#ifndef IPCHEAP_SEGMENT_LOCK_H
#define IPCHEAP_SEGMENT_LOCK_H

#include "segment/handle.h"

#define LOCK_WAITERS UINT32_C(0x80000000)

static inline uint32_t lock_word_of(uint32_t slot, uint32_t generation) {
    return (generation & 0x3FFFF) << 13 | (slot + 1);
}

/*
 * Takes the lock, or nests. Returns HEAP_BUSY after the heap's lock time-out or the thread's limit,
 * and WOULD_SLEEP if the thread would have to sleep and must not: segment/sleep.h.
 */
int heap_lock(struct participant *me);
/* The same, and HEAP_BUSY after LOOK_AFTER_OWNER at the latest. */
int heap_lock_soon(struct participant *me);
void heap_unlock(struct participant *me);
/* Takes the lock, or nests, if that is possible without waiting. */
bool heap_try_lock(struct participant *me);

/* True if the participant that a lock word names is alive. */
bool lock_owner_alive(ipcheap_heap *heap, uint32_t word);
void lock_owner_describe(ipcheap_heap *heap, uint32_t word, ipcheap_holder *holder);

/* True if this thread may sleep now; see segment/sleep.h. */
bool may_sleep(void);

#endif
