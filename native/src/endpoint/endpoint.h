/*
 * endpoint.h - layer endpoint: one claimed side of a channel: what its holder keeps private.
 *
 * Every kind's endpoint begins with this one. The thread that claimed the side calls; another
 * thread may close it.
 */
#ifndef IPCHEAP_ENDPOINT_ENDPOINT_H
#define IPCHEAP_ENDPOINT_ENDPOINT_H

#include "channel/directory.h"
#include "channel/kind.h"
#include "channel/wake.h"

#define LOOK_AFTER_TRIES 4096u /* how often one that polls looks after a silent peer */

/* How an endpoint waits, learnt from its recent waits: patience.c. */
struct patience {
    int spinning, dozing; /* as the environment pins them; 0: learn */
    uint32_t spins;       /* how long to spin before parking */
    uint32_t short_sleeps;
    int64_t doze;    /* ns to sleep before looking; 0: not at all */
    int64_t usual;   /* ns, about how long recent waits took */
    uint32_t steady; /* how many did not differ much from that, less those that did */
};

struct ipcheap_endpoint {
    ipcheap_heap *heap;
    struct participant *me;
    const struct kind *kind;
    struct channel *channel;
    struct seat *seat, *peer; /* its own, and the other side's */
    struct side *own;         /* what it writes often */
    uint32_t index;           /* of the channel */
    int side;
    uint32_t role; /* role_of() its channel's kind and its side */
    _Atomic bool closed;
    uint32_t idle;                  /* tries in a row that found nothing */
    int depth;                      /* of ipcheap_endpoint_enter(), by its own thread */
    enum side_state found, ends_as; /* how its side was before the claim, and will be at the end */
    uint64_t heard;  /* open_to_all: tag of the participant that posted what came last; 0: none */
    _Atomic int use; /* endpoint_use: it is closed once, by whichever thread */
    struct patience patience;
    struct own_bell *bell;         /* once its descriptor was asked for: bell.h */
    struct bell_pull pull;         /* the way to the peer's bell */
    struct ipcheap_endpoint *next; /* of the participant */
};

static inline uint32_t role_of(uint32_t kind, int side) { return kind << 1 | (uint32_t)side; }

/*
 * Another thread may close an endpoint: the one that closes the heap, or that drops it. The thread
 * that sets CLOSING closes it, unless its own thread is INSIDE: then that one does, on its way out.
 */
enum endpoint_use { ENDPOINT_INSIDE = 1, ENDPOINT_CLOSING = 2, ENDPOINT_CLOSED = 4 };

static inline bool endpoint_is_closing(const ipcheap_endpoint *e) {
    return e->use & ENDPOINT_CLOSING;
}

/* Returns why the caller must not use this endpoint. */
static inline int __attribute__((cold)) endpoint_refuse(const ipcheap_endpoint *e) {
    if (e->me->abandoned) return participant_refuses(e->me);
    if (e->heap->closed) return IPCHEAP_HEAP_CLOSED;
    return e->closed ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_WRONG_THREAD;
}

/* Returns 0 if the caller may use this endpoint, otherwise why not. */
static inline int endpoint_check(const ipcheap_endpoint *e) {
    if (LIKELY(e->me->thread == thread_marker() && !e->closed)) return 0;
    return endpoint_refuse(e);
}

/* How it is on the other side. */
static inline enum side_state peer_state(const ipcheap_endpoint *e) {
    return side_state(get_acquire(&e->peer->holder)); /* pairs with side_end() */
}

static inline struct side *own_side(const ipcheap_endpoint *e) { return e->own; }

/* Removed or broken: it will never go on. */
static inline bool endpoint_is_over(const ipcheap_endpoint *e) {
    return get(&e->channel->flags) & (CHANNEL_GONE | CHANNEL_POISONED);
}

/* Tells wakers what the endpoint waits for; true if that has changed. Before `parked` is set. */
static inline bool endpoint_want(ipcheap_endpoint *e) { return e->kind->want && e->kind->want(e); }

/* Does the endpoint have something to do, or an end to report? */
static inline bool endpoint_ready(const ipcheap_endpoint *e) { return e->kind->ready(e); }

/* ipcheap_claim(), with what the kind's configure() takes; NULL: nothing is wanted. */
int endpoint_claim(ipcheap_heap *heap, const ipcheap_channel *handle, int side, const void *wanted,
                   ipcheap_endpoint **result);
/*
 * Returns why an endpoint that found nothing to do must not wait: the channel's end or an error. It
 * returns WOULD_BLOCK if it may wait, and 0 if there is something to do now.
 */
int endpoint_why_not(ipcheap_endpoint *e);
/* Closes all endpoints of a participant, the caller's or, as `me`, another's. */
void endpoints_close(struct participant *owner, struct participant *me);

#endif
