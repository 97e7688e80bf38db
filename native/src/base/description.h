/*
 * description.h - layer base: the description of an array or of an item, as shared memory has it.
 *
 *   ipcheap_array_header | shape | type and a zero
 *
 * A description from shared memory is copied first and then checked, because a peer may change the
 * original at any time.
 */
#ifndef IPCHEAP_BASE_DESCRIPTION_H
#define IPCHEAP_BASE_DESCRIPTION_H

#include <stdbool.h>

#include "ipcheap/ipcheap.h"

/* No record has items of more bytes: half of what its size has room for. */
#define MOST_ARRAY_BYTES (UINT64_C(1) << 55)

/* Returns the length of the description that begins with a header; 0 if none can. */
uint64_t description_bytes(const ipcheap_array_header *header);
/*
 * True if shape and type, which stand behind a header that description_bytes() accepts, are valid.
 * Computes the bytes of all items.
 */
bool description_measure(const ipcheap_array_header *header, const char *rest, uint64_t *nbytes);
/* Returns what a valid description says; shape and type lie inside it. */
ipcheap_array description_says(const ipcheap_description *description);

#endif
