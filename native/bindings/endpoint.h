/* endpoint.h - what producers and consumers have in common as Python objects. */
#ifndef BINDINGS_ENDPOINT_H
#define BINDINGS_ENDPOINT_H

#include "types.h"

typedef struct py_endpoint {
    PyObject_HEAD
    ipcheap_heap *heap;
    ipcheap_endpoint *endpoint; /* kept by the Python class; NULL until it has been bound */
    PyObject *memory;           /* the heap's, of which records are made */
    PyObject *source;           /* what received records are to keep */
} py_endpoint;

/* (address, memory, source): once, before anything else. */
PyObject *endpoint_bind(PyObject *self, PyObject *arguments);
void endpoint_dealloc(PyObject *self);

/* Why the caller may not use it just now: closed, another's thread, a child; else 0. */
int endpoint_refuses(const py_endpoint *self);

/* Will it be worth while to try once more? A peer that is about as fast needs no sleep. */
static inline int soon(const py_endpoint *self) {
    return ipcheap_spin(self->endpoint) != IPCHEAP_TIMED_OUT;
}

/* Sorts a vector call's arguments by name; those not given are NULL. */
int sort_arguments(PyObject *const *given, Py_ssize_t count, PyObject *given_names,
                   const char *const *names, int required, PyObject **into);

/* The same; most calls give the first ones only, and in order. */
static inline int arguments_of(PyObject *const *given, Py_ssize_t count, PyObject *given_names,
                               const char *const *names, int required, PyObject **into) {
    if (given_names || count != required)
        return sort_arguments(given, count, given_names, names, required, into);
    Py_ssize_t i = 0;
    for (; i < count; i++) into[i] = given[i];
    for (; names[i]; i++) into[i] = NULL;
    return 0;
}

static inline PyObject *or_none(PyObject *object) { return object ? object : Py_None; }

#endif
