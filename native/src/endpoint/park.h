/* park.h - layer endpoint: the sleeper's half of sleeping; channel/wake.h has the waker's. */
#ifndef IPCHEAP_ENDPOINT_PARK_H
#define IPCHEAP_ENDPOINT_PARK_H

#include "endpoint/endpoint.h"

/* Recovers the other side's holder if it is dead. A busy heap lock is no error: later, then. */
int look_after_peer(ipcheap_endpoint *e);
/* Sleeps until `ready` answers true: 0, TIMED_OUT, INTERRUPTED or an error. */
int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t deadline);
/*
 * Sleeps once while `word` is as it was seen, for half a second at most, so that the dead are looked after;
 * and on the seat, through which a thread that closes the endpoint wakes it. The caller has parked.
 */
int sleep_once(ipcheap_endpoint *e, const shared32 *word, uint32_t seen, int64_t left);
/* Before such a sleep, of any kind: returns for how long to sleep. After it comes side_wakes(). */
int64_t sleep_begin(ipcheap_endpoint *e, int64_t left);

#endif
