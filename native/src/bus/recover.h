/*
 * recover.h - layer bus: what dead participants leave on a bus, and the end of a bus.
 *
 *   intent, not posted     the block is freed, a payload gets its tag back or is freed
 *   intent, posted         nothing: all listeners get it
 *   letting                the payload is freed; the envelope goes with all that the dead one owned
 *   turn                   nobody has it
 *   listener               its holds are ended on its behalf, then its record is free
 */
#ifndef IPCHEAP_BUS_RECOVER_H
#define IPCHEAP_BUS_RECOVER_H

#include "channel/kind.h"

/* The answers of that name: channel/kind.h. */
void bus_recover(const struct recovery *r, uint32_t index, int pass);
bool bus_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t from, uint64_t *by);
bool bus_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
void bus_reclaim(struct participant *me, uint32_t index);
void bus_withdraw(struct participant *me, uint32_t index);
void bus_drain(struct participant *me, uint32_t index);

#endif
