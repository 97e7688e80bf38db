/*
 * lend.h - layer channel: extents that a producer lends and gets back.
 *
 * A block goes back to its producer in the slot; an extent is freed by its consumer, at once: a long
 * ring would keep many. But the next one is then the same memory again, half of it still in the
 * consumer's cache, from where each line must be fetched. A stream of records that are all as long
 * does better with a few that go round; nor does anybody need the heap lock for these. So a producer
 * who asks for the same size again marks what it sends, a few at a time: the consumer leaves them
 * RELEASED, like a block, and the next record of that size is the one that has been back longest.
 *
 * Until it is taken it is garbage in a ring like any other: collected when memory is short, when
 * its producer closes or dies, or comes round to the slot.
 */
#ifndef IPCHEAP_CHANNEL_LEND_H
#define IPCHEAP_CHANNEL_LEND_H

#include "channel/endpoint.h"

/* The offset of an extent for so many bytes that has come back, now the caller's; or 0. */
uint64_t lent_take(struct participant *me, uint64_t nbytes);
/* So many bytes have been allocated as an extent, in whatever way. */
void lent_asked(struct participant *me, uint64_t nbytes);
/* RING_LENT if an extent of so many pages, which the caller is about to send, is to come back. */
uint64_t lent_mark(const struct participant *me, uint64_t pages);
/* It has been sent at a position. */
void lent_add(ipcheap_endpoint *e, uint64_t position, uint64_t offset);
/* Under the heap's mutex: the endpoint closes. */
void lent_forget(struct participant *me, const ipcheap_endpoint *e);

#endif
