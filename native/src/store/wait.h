/* wait.h - layer store: sleeping on bell words. */
#ifndef IPCHEAP_STORE_WAIT_H
#define IPCHEAP_STORE_WAIT_H

#include "store/endpoint.h"

/* Sleeps until the endpoint is ready: kind.sleep. */
int store_park(ipcheap_endpoint *e, int64_t deadline);

#endif
