/*
 * recover.h - layer heap: undoing and completing what dead participants left.
 *
 *   writing sides of all channels  ->  reading sides  ->  blocks and extents  ->  slot FREE
 *
 * Any survivor recovers, under the heap lock. It may itself be killed at any point: each step
 * leaves a state from which the whole can be repeated.
 */
#ifndef IPCHEAP_HEAP_RECOVER_H
#define IPCHEAP_HEAP_RECOVER_H

#include "channel/kind.h"

/* Recovers that occupant of a slot and all earlier ones. Under the lock. */
int recover_participant(struct participant *me, uint32_t slot, uint32_t generation,
                        ipcheap_recovery *report);
/* Recovers all dead participants. Under the lock. */
int recover_all(struct participant *me, ipcheap_recovery *report);

#endif
