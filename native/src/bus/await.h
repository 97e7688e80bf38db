/*
 * await.h - layer bus: a writer that waits for a listener, on that listener's own words: wake.h.
 */
#ifndef IPCHEAP_BUS_AWAIT_H
#define IPCHEAP_BUS_AWAIT_H

#include "bus/post.h"

/* Is asked whether the wait is over; inside the bus. */
typedef bool awaited_fn(void *context);

/* What a writer waits for, and how it is told. */
struct waiting {
    uint32_t number; /* the listener; MOST_LISTENERS: `word` alone */
    uint32_t what;   /* listener_waiters */
    awaited_fn *over;
    void *context;
    const _Atomic bool *cancelled; /* or NULL */
};

/*
 * Looks, then sleeps until it is over, the listener is dead, or some time has passed: 0 to look again,
 * TIMED_OUT, INTERRUPTED, or an error. *nap is how long to sleep at most, and grows.
 */
int writer_sleep(struct poster *p, const struct waiting *w, int64_t deadline, int64_t *nap);
/* Looks for a while whether it is over; true if it is. How long is learnt from how it went lately. */
bool writer_spin(struct poster *p, const struct waiting *w);

#define FIRST_NAP MILLISECOND
#define LONGEST_NAP (50 * MILLISECOND)

#endif
