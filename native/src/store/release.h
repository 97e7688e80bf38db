/*
 * release.h - layer store: ending a hold while another thread may be closing its reader.
 *
 * ipcheap_chunk_release() relies on its caller: as with all endpoints, no other thread closes the
 * reader, or the heap, during a call of its own thread. Python without a GIL cannot rely on that. For
 * native/bindings; not part of the C API.
 */
#ifndef IPCHEAP_STORE_RELEASE_H
#define IPCHEAP_STORE_RELEASE_H

#include <ipcheap/ipcheap.h>

int ipcheap_chunk_release_beside(ipcheap_chunk *chunk);

#endif
