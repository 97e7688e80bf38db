/*
 * endpoint.h - layer endpoint: one claimed side of a channel.
 *
 * Private memory. The thread that claimed it calls; only freeing records is for any thread.
 */
#ifndef IPCHEAP_ENDPOINT_ENDPOINT_H
#define IPCHEAP_ENDPOINT_ENDPOINT_H

#include "channel/directory.h"

#define LOOK_AFTER_TRIES 4096u /* how often one who polls looks after a silent peer */

/* The way to the other side's bell, kept open by a thread that rings it. */
struct bell_pull {
    uint64_t inode; /* 0: there is none */
    int fd;
};

struct ipcheap_endpoint {
    ipcheap_heap *heap;
    struct participant *me;
    struct channel *channel;
    struct ring_slot *slots;
    uint64_t mask;     /* slots - 1 */
    uint32_t shift;    /* log2 of slots */
    uint32_t index;    /* of the channel */
    int side;
    _Atomic bool closed;
    uint64_t position; /* the next to send or to receive */
    uint64_t doubtful; /* received positions below this one are checked against tags */
    bool writable;     /* a producer's next slot was seen to be */
    uint64_t released; /* what it said then, if a block came back in it; 0 once that is freed */
    uint32_t spins;    /* how long to spin before parking, learnt from recent waits */
    uint32_t short_sleeps;
    int64_t doze;      /* ns to sleep before looking, learnt from recent waits; 0: not at all */
    int64_t usual;     /* ns, about how long recent waits took */
    uint32_t steady;   /* how many did not differ much from that, less those that did */
    uint32_t idle;     /* tries in a row that found nothing */
    int depth;       /* of ipcheap_endpoint_enter(), by its own thread */
    _Atomic int use; /* endpoint_use: whoever closes it, it is closed once */
    struct own_bell *bell; /* once its descriptor was asked for: bell.h */
    struct bell_pull pull;
    struct ipcheap_endpoint *next; /* of the participant */
};

/*
 * Another thread may close an endpoint: the one that closes the heap, or that drops it. Who
 * sets CLOSING closes it, unless its own thread is INSIDE: then that one does, on its way out.
 */
enum endpoint_use { ENDPOINT_INSIDE = 1, ENDPOINT_CLOSING = 2, ENDPOINT_CLOSED = 4 };

static inline bool endpoint_is_closing(const ipcheap_endpoint *e) {
    return e->use & ENDPOINT_CLOSING;
}

/* May the caller use this endpoint? 0, ENDPOINT_CLOSED, WRONG_THREAD, WRONG_PROCESS. */
int endpoint_refuse(const ipcheap_endpoint *e);
static inline int endpoint_check(const ipcheap_endpoint *e) {
    if (LIKELY(e->me->thread == thread_marker() && !e->closed)) return 0;
    return endpoint_refuse(e);
}

/* The ring is broken: no side goes on, and both are told CORRUPT, which this returns. */
int endpoint_poison(ipcheap_endpoint *e);

/* Does the endpoint have something to do, or an end to report? */
bool endpoint_ready(const ipcheap_endpoint *e);
/*
 * Why a call that found `word` in its slot and would have to wait must not: WOULD_BLOCK when
 * it may, 0 when the slot has changed meanwhile.
 */
int endpoint_end(ipcheap_endpoint *e, uint64_t word);
/* How many slots the consumer has received and not given back. */
uint64_t endpoint_held(const ipcheap_endpoint *e);

/* Closes all endpoints of a participant, the caller's or, as `me`, another's. */
void endpoints_close(struct participant *owner, struct participant *me);

#endif
