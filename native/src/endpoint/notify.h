/* notify.h - layer endpoint: after publishing, telling the other side. */
#ifndef IPCHEAP_ENDPOINT_NOTIFY_H
#define IPCHEAP_ENDPOINT_NOTIFY_H

#include "endpoint/endpoint.h"

static inline bool wake_peer(ipcheap_endpoint *e) {
    /* Records are freed by any thread, but what is kept open is the owner's. */
    bool own = e->me->thread == thread_marker();
    return unpark(e->heap, e->peer, own ? &e->pull : NULL);
}

/* Wakes the other side if it sleeps. Costs a load if it is awake. */
static inline void endpoint_notify(ipcheap_endpoint *e) {
    if (UNLIKELY(get(&e->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with sleeper_fence() */
    if (UNLIKELY(get(&e->peer->parked)) && wake_peer(e)) {
        shared64 *wakes = &own_side(e)->wakes;
        put(wakes, get(wakes) + 1);
    }
}

#endif
