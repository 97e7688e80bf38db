/* sync.h - layer static: what a wait for many things needs of an event. */
#ifndef IPCHEAP_STATIC_SYNC_H
#define IPCHEAP_STATIC_SYNC_H

/* An event that is not set will wake the threads that sleep on its word. */
void event_expect(void *event);

#endif
