/* static.h - layer static: what a named segment answers: channel/kind.h. */
#ifndef IPCHEAP_STATIC_STATIC_H
#define IPCHEAP_STATIC_STATIC_H

#include "channel/kind.h"

extern const struct kind static_kind;

#endif
