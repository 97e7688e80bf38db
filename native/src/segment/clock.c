#include "segment/clock.h"

int64_t clock_now(const ipcheap_heap *heap) { return os_boot_clock() - heap->boot_offset; }

int64_t clock_read(const ipcheap_heap *heap, struct reading *last) {
#if defined(__x86_64__)
    last->ticks = __builtin_ia32_rdtsc(); /* before the clock, so that it is not good for longer */
#endif
    last->now = clock_now(heap);
    return last->now;
}

void clock_tick(ipcheap_heap *heap) {
    uint64_t now = stamp_of((uint64_t)(clock_now(heap) / SECOND));
    uint64_t then = get(&heap->header->clock);
    /* Stamps wrap around: up to half of their range ahead is later, the rest is earlier. */
    if (UNLIKELY(now != then) && ((now - then) & STAMP_MASK) <= STAMP_MASK / 2)
        put(&heap->header->clock, now);
}

void clock_set(ipcheap_heap *heap) { heap->boot_offset = os_boot_clock_offset(); }
