/*
 * clock.h - layer segment: the heap's coarse clock, which costs its readers nothing.
 *
 * Reading a clock takes as long as sending a record. So the header has one word of seconds, in a
 * line that every send reads anyway, and OWN tags are stamped with it. Whoever does something
 * slow (sleeps, takes the heap lock, joins, claims a side, refills a slab) moves the word on; it may lag
 * behind, and never runs ahead. It counts seconds of CLOCK_BOOTTIME of the initial time namespace.
 */
#ifndef IPCHEAP_SEGMENT_CLOCK_H
#define IPCHEAP_SEGMENT_CLOCK_H

#include "segment/handle.h"

/* Nanoseconds of the boot-time clock, the same in every time namespace. */
int64_t clock_now(const ipcheap_heap *heap);
/* Moves the header's clock on, if a second has passed. */
void clock_tick(ipcheap_heap *heap);
/* Learns how far this process's boot-time clock is off: when it attaches, and in a forked child. */
void clock_set(ipcheap_heap *heap);

#endif
