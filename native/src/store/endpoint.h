/*
 * endpoint.h - layer store: a writer or a reader of a store.
 *
 *   writer   sits on the first seat of the descriptor; has the lists, and a transaction
 *   reader   sits in an entry of its own; has its hold words, and a position
 *
 * The endpoint is private memory. The thread that claimed it calls; any thread of its process may
 * release chunks.
 */
#ifndef IPCHEAP_STORE_ENDPOINT_H
#define IPCHEAP_STORE_ENDPOINT_H

#include "endpoint/endpoint.h"
#include "segment/clock.h"
#include "store/holds.h"
#include "store/lists.h"

/* A change of the transaction: a slot that is PREPARED, and its version is head + 1 + its place. */
struct change {
    uint32_t slot;
    uint32_t newest;           /* at the commit: slot + 1 of what the cell led to before */
    int64_t ttl;               /* as given */
    ipcheap_record *record;    /* a caller's, to be ended by the commit; NULL */
    struct participant *owner; /* of the record before, to be its owner again; NULL: a channel's */
    uint64_t from;             /* its tag before; 0: a copy, made for this change */
    struct store_cell *cell;   /* at the commit */
    bool superseded;           /* a later change of the same key counts */
};

struct found {
    uint64_t version;
    uint32_t slot;
};

struct store_endpoint {
    struct ipcheap_endpoint base;
    struct store store;
    /* A writer's. */
    struct lists lists;
    struct change *changes;
    uint32_t change_count, change_room;
    uint32_t *index; /* places of the last change of each key, plus 1 */
    uint64_t index_mask;
    bool in_transaction;
    bool many;           /* several changes, which the index leads to */
    bool cramped;        /* the tables could not grow when they should have */
    uint32_t limits_met; /* by the last STORE_FULL */
    uint64_t committed;
    struct reading read; /* of the clock, by puts of what never expires */
    int64_t looked;      /* when it last looked whether readers live */
    /* A reader's. */
    struct ipcheap_holds *holds;
    uint64_t position;
    struct found *backlog; /* live versions that the log does not have any more, oldest last */
    uint32_t backlog_count, backlog_room;
    uint64_t scanned;   /* the head up to which the backlog was found */
    bool waits_for_key; /* what could be followed does not count */
    uint64_t noticed;   /* what does not make it ready, if that is above the position */
    uint64_t again;     /* looks for a key that had to be repeated */
    ipcheap_store_endpoint_statistics last; /* as it closed */
};

static inline struct store_endpoint *store_endpoint(ipcheap_endpoint *e) {
    return (struct store_endpoint *)e;
}

static inline bool is_store_writer(const struct store_endpoint *e) {
    return e->base.side == IPCHEAP_WRITER;
}

/* Returns 0 if the caller may use the endpoint as one of that side of a store. */
static inline int store_check(const struct store_endpoint *e, int side) {
    int error = endpoint_check(&e->base);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->base.role == role_of(IPCHEAP_STORE, side)) ? 0 : IPCHEAP_BAD_VALUE;
}

/* The answers of a store: channel/kind.h. */
extern const struct kind store_kind;

#endif
