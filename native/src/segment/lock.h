/*
 * lock.h - layer segment: the heap lock.
 *
 *   waiters 1 | generation 18 | slot + 1 in 13        0 = free
 *
 * One word says both that the lock is taken and by whom, so the two can never disagree.
 * It guards extents, the directory and recovery; no small record ever needs it. A waiter
 * sleeps at most 100 ms at a time and then looks whether the owner is dead: then it takes
 * the lock over, and the indices are rebuilt before it goes on. A slow owner keeps it.
 */
#ifndef IPCHEAP_SEGMENT_LOCK_H
#define IPCHEAP_SEGMENT_LOCK_H

#include "segment/handle.h"

#define LOCK_WAITERS UINT32_C(0x80000000)

static inline uint32_t lock_word_of(uint32_t slot, uint32_t generation) {
    return (generation & 0x3FFFF) << 13 | (slot + 1);
}

/* Nests. HEAP_BUSY after the heap's lock time-out; WOULD_SLEEP where that is not allowed. */
int heap_lock(struct participant *me);
void heap_unlock(struct participant *me);

/* Is the participant alive whose lock word this is? */
bool lock_owner_alive(ipcheap_heap *heap, uint32_t word);
void lock_owner_describe(ipcheap_heap *heap, uint32_t word, ipcheap_holder *holder);

/* Whether this thread may sleep just now; see segment/sleep.h. */
bool may_sleep(void);

#endif
