/*
 * wake.h - layer bus: waking listeners, and the writers that wait for one.
 *
 *   listener                                     writer
 *     sleepers: armings + 1, HERE (locked)         slot = (lap, block)  (locked)
 *     looks again, then sleeps on `wake`           sleepers: if HERE, wake + 1 and futex_wake(all)
 *                                                  sleepers: flags off, unless somebody has armed since
 *
 * OTHERS stands for listeners that wait by a descriptor, or for several things: the writer goes through
 * those whose bit is set in `polled`, and wakes them by their seats, whose words it leaves alone.
 *
 *   writer                                       listener
 *     waiters |= RELEASE or ROOM                   hold, cursor
 *     membarrier                                   compiler barrier
 *     looks, then sleeps on `turns`                if waiters: waiters = 0, turns + 1, futex_wake(all)
 */
#ifndef IPCHEAP_BUS_WAKE_H
#define IPCHEAP_BUS_WAKE_H

#include "bus/endpoint.h"

void bus_wake_sleepers(struct bus *bus);
/* Wakes the listeners that sleep, after a read-modify-write that published. A load if none does. */
static inline void bus_tell(struct bus *bus) {
#if !defined(__x86_64__)
    full_fence(); /* there it is the read-modify-write */
#endif
    if (UNLIKELY(get(&bus->root->sleepers) & (SLEEPERS_HERE | SLEEPERS_OTHERS)))
        bus_wake_sleepers(bus);
}
/* Wakes all listeners, and all writers that wait for one or for the turn: the bus has ended. */
void bus_wake_all(struct bus *bus);

/* Wakes the writers that wait for this listener, after what they wait for. A load if none does. */
static inline void listener_tell(const struct bus *bus, struct bus_listener *l, uint32_t what) {
    if (UNLIKELY(get(&bus->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with the membarrier in listener_expect() */
    if (UNLIKELY(get(&l->waiters) & what)) listener_wake_writers(l);
}
/* Asks a listener to wake the caller: returns the value of `turns` to sleep on. */
uint32_t listener_expect(const struct bus *bus, struct bus_listener *l, uint32_t what);

/* kind.before_waiting, kind.sleep and kind.rouse of a listener. */
void listener_before_waiting(ipcheap_endpoint *endpoint);
int listener_park(ipcheap_endpoint *endpoint, int64_t deadline);
void listener_rouse(ipcheap_endpoint *endpoint);

#endif
