/* endpoint.h - what the Python types of producers and consumers have in common. */
#ifndef BINDINGS_ENDPOINT_H
#define BINDINGS_ENDPOINT_H

#include "types.h"

typedef struct py_endpoint {
    PyObject_HEAD
    ipcheap_heap *heap;
    ipcheap_endpoint *endpoint; /* owned by the Python class; NULL until _bind() */
    PyObject *memory;           /* the heap's MemoryCore */
    PyObject *source;           /* what received records keep alive */
} py_endpoint;

/* _bind(address, memory, source): is called once, before any other method. */
PyObject *endpoint_bind(PyObject *self, PyObject *arguments);
void endpoint_dealloc(PyObject *self);

/* Returns why the caller may not use it: closed, another thread, a forked child; otherwise 0. */
int endpoint_refuses(const py_endpoint *self);

/* Returns whether to try once more, after a short spin: a peer that keeps pace needs no sleep. */
static inline int soon(const py_endpoint *self) {
    return ipcheap_spin(self->endpoint) != IPCHEAP_TIMED_OUT;
}

/*
 * Puts the arguments of a vector call into the order of `names`; NULL for those that were not
 * given. Returns -1 with an exception if they do not fit.
 */
int sort_arguments(PyObject *const *given, Py_ssize_t count, PyObject *given_names,
                   const char *const *names, int required, PyObject **into);

/* Does the same, with a short way for calls that give just the required ones, in order. */
static inline int arguments_of(PyObject *const *given, Py_ssize_t count, PyObject *given_names,
                               const char *const *names, int required, PyObject **into) {
    if (given_names || count != required)
        return sort_arguments(given, count, given_names, names, required, into);
    Py_ssize_t i = 0;
    for (; i < count; i++) into[i] = given[i];
    for (; names[i]; i++) into[i] = NULL;
    return 0;
}

/* Gives the exception that is set an attribute `done`: how many of a list were sent. Returns NULL. */
PyObject *fail_with_done(Py_ssize_t sent);

static inline PyObject *or_none(PyObject *object) { return object ? object : Py_None; }

#endif
