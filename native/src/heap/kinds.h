/*
 * kinds.h - layer heap: the table of all kinds of channels, by number.
 *
 * Constant. heap/open.c hands it to the layers below, which read it through channel/kind.h.
 */
#ifndef IPCHEAP_HEAP_KINDS_H
#define IPCHEAP_HEAP_KINDS_H

#include "channel/kind.h"

extern const struct kind *const kinds[KINDS];

#endif
