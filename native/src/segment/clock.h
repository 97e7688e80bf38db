/*
 * clock.h - layer segment: the heap's coarse clock, which costs its readers nothing.
 *
 *   header->clock   unused 2 | second, modulo three days: 18 | unused 44        as in an OWN tag
 *
 * Reading a clock takes as long as sending a record. So the header has one word of seconds, in a
 * line that every send reads anyway, and OWN tags are stamped with it. A participant that does
 * something slow (sleeps, takes the heap lock, joins, claims a side, refills a slab) advances the
 * word. The word may lag behind and never runs ahead. It counts seconds of CLOCK_BOOTTIME of the
 * initial time namespace. Any thread may call these functions.
 */
#ifndef IPCHEAP_SEGMENT_CLOCK_H
#define IPCHEAP_SEGMENT_CLOCK_H

#include "segment/handle.h"

/* Returns nanoseconds of the boot-time clock, the same in every time namespace. */
int64_t clock_now(const ipcheap_heap *heap);
/*
 * The same, or what it was about a microsecond ago at most, which costs a third of it. Each thread has a
 * reading of its own, at first all zero.
 */
struct reading {
    int64_t now;
    uint64_t ticks; /* of the processor */
};
#define READING_TICKS 2048 /* that it is good for: at 2 GHz, a microsecond */
int64_t clock_read(const ipcheap_heap *heap, struct reading *last);
static inline int64_t clock_lately(const ipcheap_heap *heap, struct reading *last) {
#if defined(__x86_64__)
    /* Ticks that went backwards, as on another processor or after a suspend, make a large number. */
    if (LIKELY(__builtin_ia32_rdtsc() - last->ticks < READING_TICKS && last->now)) return last->now;
#endif
    return clock_read(heap, last);
}
/* Advances the header's clock if a second has passed. */
void clock_tick(ipcheap_heap *heap);
/* Learns this process's offset of the boot-time clock: on attaching, and in a forked child. */
void clock_set(ipcheap_heap *heap);

#endif
