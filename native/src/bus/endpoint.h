/*
 * endpoint.h - layer bus: a listener: what its holder keeps private.
 *
 * The thread that registered it calls; any thread of its process may free, keep and forward messages.
 */
#ifndef IPCHEAP_BUS_ENDPOINT_H
#define IPCHEAP_BUS_ENDPOINT_H

#include "bus/listeners.h"
#include "endpoint/endpoint.h"

struct listener {
    struct ipcheap_endpoint base;
    struct bus bus;
    struct bus_listener *shared; /* its record */
    uint32_t number;
    uint32_t incarnation; /* of the bus */
    bool lossy;
    uint64_t position; /* the next to receive */
    uint64_t received;
    uint64_t lost;      /* in all; */
    uint64_t lost_news; /* those of which no MESSAGES_LOST was returned yet; */
    uint64_t lost_last; /* what the last one was about */
    /* The slab that the last message was in, and how to tell that it is still that. */
    struct {
        uint64_t first, bytes; /* where it begins; how long it is: 0: none */
        const struct page *page;
        const struct slab *slab;
        uint64_t word;       /* of the page */
        uint64_t reciprocal; /* 2^32 / units of a block, rounded up */
        uint32_t size_class, block_bytes;
    } memo;
    ipcheap_listen_options wanted;
    ipcheap_listener_statistics last; /* as it closed */
    /* Hold words: see holds.h. */
    uint32_t *free;     /* a stack of those that hold nothing */
    uint32_t *returned; /* those that other threads have ended; under the heap's mutex */
    uint32_t free_count, words;
    _Atomic uint32_t returned_count;
    uint32_t used; /* as in the record */
    shared64 *tables[HOLD_TABLES];
    bool lingers;  /* its record stays: it held messages as it closed */
    bool orphaned; /* it was released; the last message frees it. Under the heap's mutex */
};

static inline struct listener *listener_of(ipcheap_endpoint *e) { return (struct listener *)e; }

/* Returns 0 if the caller may use the endpoint as a listener. */
static inline int listener_check(const ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->role == role_of(IPCHEAP_BUS, IPCHEAP_CONSUMER)) ? 0 : IPCHEAP_BAD_VALUE;
}

/* Returns how many messages it holds; its own thread, or none is inside; under the mutex. */
static inline uint32_t listener_holds(const struct listener *e) {
    return e->words - e->free_count - e->returned_count;
}

/* The answers of a bus: channel/kind.h. */
extern const struct kind bus_kind;

#endif
