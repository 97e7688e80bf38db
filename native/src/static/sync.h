/*
 * sync.h - layer static: what a wait for many things needs of an event.
 *
 *   event   word 0: 0 clear, 1 set, 2 clear with waiters
 *
 * Any thread may call, without a lock. The other functions of sync.c are in the public header.
 */
#ifndef IPCHEAP_STATIC_SYNC_H
#define IPCHEAP_STATIC_SYNC_H

/* Makes an event that is clear wake the threads that sleep on its word when it is set. */
void event_expect(void *event);

#endif
