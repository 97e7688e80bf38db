/* recover.h - layer record: what a dead producer or consumer leaves in its ring. */
#ifndef IPCHEAP_RECORD_RECOVER_H
#define IPCHEAP_RECORD_RECOVER_H

#include "channel/kind.h"

/* Undoes a send that had not returned; what a consumer held is delivered again. `side`: the pass. */
void record_recover(const struct recovery *r, uint32_t index, int side);

#endif
