/*
 * parcel.h - layer endpoint: a record that goes on into a channel: whose it is, and what it was before.
 *
 * A record that its holder owns outright has an OWN tag of this process. A received one may occupy a place
 * of the channel that it came from, whose kind gives that back once the block is committed elsewhere.
 */
#ifndef IPCHEAP_ENDPOINT_PARCEL_H
#define IPCHEAP_ENDPOINT_PARCEL_H

#include "endpoint/endpoint.h"
#include "memory/slab_local.h"

struct parcel {
    uint64_t offset, size;     /* size: as of a ring's slot */
    ipcheap_record *record;    /* NULL: nobody's, a copy that was made for it */
    struct participant *owner; /* NULL: it occupies a place in a channel */
    struct local_slab *slab;   /* if the caller owns the block and its slab */
    shared64 *tag;
    uint64_t from; /* its tag before */
};

/*
 * Returns the endpoint that received a record and may still have to do with it, or NULL. What a closed one
 * held is its participant's own, except messages of a bus, which others hold, too.
 */
static inline ipcheap_endpoint *record_lender(const ipcheap_record *record) {
    ipcheap_endpoint *e = record->consumer;
    return e && (!e->closed || e->kind->receiving) ? e : NULL;
}

/* What parcel_judge() returns for a record that others need, too: see parcel_copy(). */
enum { PARCEL_SHARED = 1 };

/*
 * Finds out whether a record may go on, and fills in the parcel: 0, PARCEL_SHARED or an error. Under the
 * heap's mutex, because another thread's endpoint may have received it, and may be closing.
 */
int parcel_judge(struct participant *me, ipcheap_record *record, struct parcel *parcel);
/* Makes a copy of a record, in its form, which the caller owns. */
int parcel_copy(struct participant *me, const ipcheap_record *record, ipcheap_record *copy);
/* Frees a record of which a copy went on: its handle is dead. */
int parcel_release(struct participant *me, ipcheap_record *record);
/* Notes that the owner does not hold the record any more; its block has another tag. */
void parcel_sent(struct participant *me, const struct parcel *parcel);
/* After the commit: gives the record's place back, and makes the handle dead. Under the mutex. */
void parcel_gone(const struct parcel *parcel);

#endif
