/*
 * receive.h - layer bus: what a listener receives, and what becomes of it.
 *
 *   hold = HELD(p, block)     before the floor is looked at: reclaim.h
 *   cursor = p + 1            received
 *   hold = RELEASING, 0       released; or KEPT: acknowledged, and still used
 */
#ifndef IPCHEAP_BUS_RECEIVE_H
#define IPCHEAP_BUS_RECEIVE_H

#include "bus/endpoint.h"

/* The answers for what listeners receive: channel/kind.h. */
extern const struct receiving listener_receiving;
int message_lends(const ipcheap_record *record, uint64_t *tag);
void message_taken(ipcheap_record *record);
/* True if the listener would receive something, or has lost something, now. */
bool listener_can_go_on(const ipcheap_endpoint *endpoint);

#endif
