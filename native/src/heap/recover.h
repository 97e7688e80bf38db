/*
 * recover.h - layer heap: undoing and completing what a dead participant left.
 *
 * Any survivor does it, under the heap lock, and may itself be killed at any point: each
 * step leaves a state from which the whole can be done again.
 */
#ifndef IPCHEAP_HEAP_RECOVER_H
#define IPCHEAP_HEAP_RECOVER_H

#include "channel/kind.h"

/* Under the lock: recovers that occupant of a slot and all before it. */
int recover_participant(struct participant *me, uint32_t slot, uint32_t generation,
                        ipcheap_recovery *report);
/* Under the lock: everyone who is dead. */
int recover_all(struct participant *me, ipcheap_recovery *report);

#endif
