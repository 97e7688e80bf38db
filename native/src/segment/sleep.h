/*
 * sleep.h - layer segment: may this thread sleep in the calls that it makes?
 *
 * The one header of the core that native/bindings includes: Python's binding first makes a call
 * with the GIL kept and sleep forbidden, and repeats it without the GIL if the call had to sleep.
 * The call then returned WOULD_SLEEP and changed nothing. Not part of the C API.
 */
#ifndef IPCHEAP_SEGMENT_SLEEP_H
#define IPCHEAP_SEGMENT_SLEEP_H

/* With 0, calls of this thread return WOULD_SLEEP instead of sleeping, until allowed again. */
void ipcheap_allow_sleep(int allow);

#endif
