/*
 * next.h - layer store: following versions in order.
 *
 *   log    | 17 | 18 | 3 | 4 | ...      entry position + 1: older, nothing yet; this one, look at its
 *                                       slot; newer, the reader was overtaken and scans all slots
 *
 * The caller is the reader's own thread.
 */
#ifndef IPCHEAP_STORE_NEXT_H
#define IPCHEAP_STORE_NEXT_H

#include "store/reader.h"

/* True if there may be a version after the position. */
bool next_is_there(const struct store_endpoint *e);

#endif
