/*
 * sleep.h - layer segment: forbids the calling thread to sleep in the library's calls.
 *
 * For native/bindings, as store/release.h is; not part of the C API. The binding first makes a call
 * with the GIL kept and sleep forbidden. A call that would have to sleep returns WOULD_SLEEP and
 * changes nothing; the binding then repeats it without the GIL.
 */
#ifndef IPCHEAP_SEGMENT_SLEEP_H
#define IPCHEAP_SEGMENT_SLEEP_H

/* With 0, calls of this thread return WOULD_SLEEP instead of sleeping, until allowed again. */
void ipcheap_allow_sleep(int allow);

#endif
