/*
 * bell.h - layer endpoint: a descriptor that is readable while an endpoint can go on.
 *
 * Created when it is first requested. It is a poller over a pipe and over the other side's process,
 * whose end is an event as well. At any time it is one of:
 *
 *   armed    parked = PARKED_BELL, the pipe is empty, and there was nothing to do
 *   rung     there is a byte in the pipe, or a waker is about to write one
 *   quiet    neither: inside a call that sleeps in another way
 *
 * Every call on the endpoint ends with bell_settle(), which arms the bell again as soon as nothing is
 * left to do: a poller sees a level, while the other side pays only for the edge. A waker may be
 * stopped between taking the word and writing the byte, which then arrives unexpectedly. So settling
 * an armed bell empties the pipe as well.
 *
 * The inode number of the pipe stands in the seat. It is BELL_MAKING while the pipe is being made, so
 * that recovery knows that there may be one to remove.
 */
#ifndef IPCHEAP_ENDPOINT_BELL_H
#define IPCHEAP_ENDPOINT_BELL_H

#include "endpoint/endpoint.h"

/* Makes the descriptor say what the endpoint has to do. Returns true if that found something new. */
bool bell_bring_in_line(ipcheap_endpoint *e);
static inline bool bell_settle(ipcheap_endpoint *e) {
    return UNLIKELY(e->bell != NULL) && bell_bring_in_line(e);
}
/* Frees `parked` for another way of sleeping, until bell_settle() is called. */
void bell_disarm(ipcheap_endpoint *e);
/* Removes the pipe from the seat; bell_close() closes the endpoint's own descriptors. */
void bell_remove(ipcheap_endpoint *e);
void bell_close(ipcheap_endpoint *e);

/*
 * Closes a forked child's copies of its parent's descriptors. While they are open, descriptors that
 * the parent closes would stay registered in the parent's pollers.
 */
void bells_abandon(struct participant *me);

#endif
