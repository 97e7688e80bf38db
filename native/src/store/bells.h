/*
 * bells.h - layer store: the words that readers sleep on, and waking those that do.
 *
 *   sleeper                                    writer
 *     bell |= SLEEPING                           head = version
 *     membarrier                                 compiler barrier
 *     looks again, then sleeps on the value      if (bell) bell = count + 1; wakes all
 *
 * POLLING stands for readers that sleep on words of their own, `parked` of their seats: the waker goes
 * through them, and takes the bit last, by a compare-and-swap. Arming POLLING counts, so that it fails
 * if a reader has armed since, and the waker looks again.
 */
#ifndef IPCHEAP_STORE_BELLS_H
#define IPCHEAP_STORE_BELLS_H

#include "store/tables.h"

void bell_wake(struct store *store, shared32 *bell);
/* Rings a bell word after a change that was stored before. A load if nobody has armed it. */
static inline void bell_tell(struct store *s, shared32 *bell) {
    if (UNLIKELY(get(bell) & (BELL_SLEEPING | BELL_POLLING))) bell_wake(s, bell);
}
/* Orders the writer's stores before its looks at bell words. */
static inline void bell_fence(const struct store *s) {
    if (UNLIKELY(get(&s->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with sleeper_fence() */
}
/* Arms a bell word for a sleeper on it: returns the value to sleep on. */
uint32_t bell_arm(shared32 *bell);
/* Arms a bell word for a reader that sleeps in another way, after its `parked` says how. */
void bell_poll(shared32 *bell);
/* Rings those of all cells of the table in use, if a reader has ever slept on one. */
void bells_of_cells(struct store *store);
/* Wakes all readers, whatever they wait for. */
void bells_tell_all(struct store *store);

#endif
