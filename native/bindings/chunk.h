/* chunk.h - the Python types of what a reader of a store holds. */
#ifndef BINDINGS_CHUNK_H
#define BINDINGS_CHUNK_H

#include "types.h"

/*
 * Returns a chunk for a hold, which it takes over: if it fails, the hold has ended. `key` is the
 * chunk's as a Python object; NULL if it is to be looked up when it is asked for.
 */
PyObject *chunk_new(ipcheap_chunk *core, ipcheap_heap *heap, PyObject *source, PyObject *key);
/* Returns the memory of a hold, as an exporter that ends the hold when it goes; as chunk_new(). */
PyObject *grip_new(ipcheap_chunk *core, ipcheap_heap *heap, PyObject *source);
/* Sets the class of all chunks. */
void chunk_use_class(PyObject *subclass);
PyObject *chunk_type(void);
/* Returns the bytes of a chunk, for what takes no const and does not write. */
static inline void *chunk_bytes(const ipcheap_chunk *chunk) {
    return (void *)(uintptr_t)chunk->data;
}
/* Returns the Python object that a key stands for. */
PyObject *key_object(const ipcheap_store_key *key);

#endif
