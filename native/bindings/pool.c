/* pool.c - makes types, and keeps the memory of their instances for reuse. */
#include "pool.h"

#include <stdatomic.h>
#include <string.h>

PyObject *make_type(PyObject *_Atomic *type, PyType_Spec *spec) {
    PyObject *there = *type, *made;
    if (there || !(made = PyType_FromSpec(spec))) return there;
    if (atomic_compare_exchange_strong(type, &there, made)) return made;
    Py_DECREF(made); /* another thread was faster */
    return there;
}

void give_back(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#if defined(Py_GIL_DISABLED) || defined(__SANITIZE_ADDRESS__)
enum { POOLING = 0 }; /* no GIL protects the pools, or a sanitizer looks for use after free */
#else
enum { POOLING = 1 };
#endif

PyObject *pool_take(struct pool *pool, PyTypeObject *type) {
    if (!POOLING || type != pool->type || pool->count == 0) return PyType_GenericAlloc(type, 0);
    PyObject *object = pool->objects[--pool->count];
    memset((char *)object + sizeof *object, 0, (size_t)pool->size - sizeof *object);
    return PyObject_Init(object, type); /* which takes a reference to the type */
}

void pool_return(struct pool *pool, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    size_t room = sizeof pool->objects / sizeof *pool->objects;
    if (!POOLING || type != pool->type || pool->count == room) {
        give_back(object);
        return;
    }
    pool->objects[pool->count++] = object;
    Py_DECREF(type);
}
