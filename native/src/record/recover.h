/*
 * recover.h - layer record: recovering the ring of a dead producer or consumer.
 *
 * Called under the heap lock, through the table of kinds. May itself be killed at any point: each
 * step leaves a state from which the whole can be repeated.
 */
#ifndef IPCHEAP_RECORD_RECOVER_H
#define IPCHEAP_RECORD_RECOVER_H

#include "channel/kind.h"

/*
 * Recovers one side if its holder is the dead participant: undoes a send that had not returned, or
 * makes what a consumer held ready to be redelivered. `side` is also the number of the pass.
 */
void record_recover(const struct recovery *r, uint32_t index, int side);

#endif
