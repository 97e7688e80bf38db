/*
 * bell.h - layer endpoint: a descriptor that is readable while an endpoint can go on.
 *
 * Made when it is first asked for. It is a poller over a pipe and over the other side's
 * process, whose end is an event, too. At any time one of these is so:
 *
 *   armed    parked = PARKED_BELL, the pipe is empty, and there was nothing to do
 *   rung     there is a byte in the pipe, or on its way
 *   quiet    neither: inside a call that sleeps in another way
 *
 * Every call on the endpoint ends with bell_settle(), which takes it from rung to armed as
 * soon as nothing is left to do: a poller sees a level, while the other side pays only for
 * the edge. A waker may be stopped between taking the word and writing the byte, so that one
 * comes when nobody expects it: settling an armed bell empties the pipe, too.
 *
 * The number of the pipe's inode stands in the channel; before the pipe comes BELL_MAKING, so
 * that whoever recovers us knows that there may be one to remove.
 */
#ifndef IPCHEAP_ENDPOINT_BELL_H
#define IPCHEAP_ENDPOINT_BELL_H

#include "endpoint/endpoint.h"

/* Brings the descriptor in line with the endpoint. True when that found something new. */
bool bell_bring_in_line(ipcheap_endpoint *e);
static inline bool bell_settle(ipcheap_endpoint *e) {
    return UNLIKELY(e->bell != NULL) && bell_bring_in_line(e);
}
/* `parked` is wanted for something else; bell_settle() follows. */
void bell_disarm(ipcheap_endpoint *e);
/* Takes the bell away with the endpoint's side; then the endpoint's descriptors. */
void bell_remove(ipcheap_endpoint *e);
void bell_close(ipcheap_endpoint *e);

/*
 * In a forked child: these are copies of its parent's descriptors. While they are open, those
 * that the parent closes would stay in the pollers that it has them in.
 */
void bells_abandon(struct participant *me);

#endif
