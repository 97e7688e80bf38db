/*
 * recover.h - layer store: recovering a dead writer or reader, and ending a store.
 *
 * Called under the heap lock, through the table of kinds. May itself be killed at any point: each step
 * leaves a state from which the whole can be repeated.
 */
#ifndef IPCHEAP_STORE_RECOVER_H
#define IPCHEAP_STORE_RECOVER_H

#include "channel/kind.h"

/* kind.recover, awaits, withdraw and drain of a store. */
void store_recover(const struct recovery *r, uint32_t index, int pass);
bool store_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t from, uint64_t *by);
void store_withdraw(struct participant *me, uint32_t index);
void store_drain(struct participant *me, uint32_t index);

#endif
