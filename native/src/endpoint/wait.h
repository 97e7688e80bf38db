/*
 * wait.h - layer endpoint: one blocking wait: spin, doze, park.
 *
 * A time-out becomes a deadline of os_now() once, in the public call; INT64_MAX waits indefinitely,
 * 0 does not wait.
 */
#ifndef IPCHEAP_ENDPOINT_WAIT_H
#define IPCHEAP_ENDPOINT_WAIT_H

#include "endpoint/endpoint.h"

/* Waits until the endpoint has something to do or to report: 0, TIMED_OUT, INTERRUPTED, an error. */
int endpoint_wait(ipcheap_endpoint *e, int64_t deadline);

#endif
