/* pool.h - keeps dead objects of the types that every message needs, to be used again. */
#ifndef BINDINGS_POOL_H
#define BINDINGS_POOL_H

#include "types.h"

/* Holds objects of one type only, which has neither a garbage collector's head nor a dict. */
struct pool {
    PyTypeObject *_Atomic type;
    Py_ssize_t size; /* of an object, in bytes */
    size_t count;
    PyObject *objects[64];
};

/* Returns a new object, zero behind its head. */
PyObject *pool_take(struct pool *pool, PyTypeObject *type);
/* Takes a dead object, in place of tp_free. */
void pool_return(struct pool *pool, PyObject *object);

#endif
