/* pool.h - objects that come and go with every message wait here to be used again. */
#ifndef BINDINGS_POOL_H
#define BINDINGS_POOL_H

#include "types.h"

/* Only of one type, which is plain: without a garbage collector's head or a dict. */
struct pool {
    PyTypeObject *type;
    Py_ssize_t size; /* of an object */
    size_t count;
    PyObject *objects[64];
};

/* A new object, its own part zeroed. */
PyObject *pool_take(struct pool *pool, PyTypeObject *type);
/* Instead of tp_free. */
void pool_return(struct pool *pool, PyObject *object);

#endif
