/*
 * sleep.h - layer segment: how long the calling thread may sleep in the library's calls.
 *
 * For native/bindings, as store/release.h is; not part of the C API. The binding first makes a call
 * with the GIL kept and sleep forbidden. A call that would have to sleep returns WOULD_SLEEP and
 * changes nothing; the binding then repeats it without the GIL.
 */
#ifndef IPCHEAP_SEGMENT_SLEEP_H
#define IPCHEAP_SEGMENT_SLEEP_H

#include <stdint.h>

/* With 0, calls of this thread return WOULD_SLEEP instead of sleeping, until allowed again. */
void ipcheap_allow_sleep(int allow);
/*
 * Calls of this thread return HEAP_BUSY if the heap lock is not to be had within this time and 0.1 s,
 * even if the heap's lock timeout is longer; negative: no longer so.
 */
void ipcheap_limit_lock(int64_t timeout_ns);
/* Returns the clock by which the library waits, in ns. */
int64_t ipcheap_clock(void);

#endif
