/* endpoint.c - what the Python types of producers and consumers have in common. */
#include "endpoint.h"

PyObject *endpoint_bind(PyObject *object, PyObject *arguments) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *address, *memory, *source;
    if (!PyArg_ParseTuple(arguments, "OOO", &address, &memory, &source)) return NULL;
    if (!PyObject_TypeCheck(memory, (PyTypeObject *)memory_type())) {
        PyErr_SetString(PyExc_TypeError, "not a MemoryCore");
        return NULL;
    }
    self->endpoint = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    self->heap = ((py_memory *)memory)->heap;
    Py_XDECREF(self->memory);
    Py_XDECREF(self->source);
    self->memory = Py_NewRef(memory);
    self->source = Py_NewRef(source);
    Py_RETURN_NONE;
}

void endpoint_dealloc(PyObject *object) {
    py_endpoint *self = (py_endpoint *)object;
    Py_XDECREF(self->memory);
    Py_XDECREF(self->source);
    give_back(object);
}

int endpoint_refuses(const py_endpoint *self) {
    int error = ipcheap_wait(self->endpoint, 0);
    return error == IPCHEAP_TIMED_OUT ? 0 : error;
}

/* Puts an argument that was given by name into its place; -1 with an exception. */
static int named(PyObject *name, PyObject *value, const char *const *names, PyObject **into) {
    for (int i = 0; names[i]; i++) {
        if (PyUnicode_CompareWithASCIIString(name, names[i]) != 0) continue;
        if (into[i]) {
            PyErr_Format(PyExc_TypeError, "argument %R is given twice", name);
            return -1;
        }
        into[i] = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", name);
    return -1;
}

int sort_arguments(PyObject *const *given, Py_ssize_t count, PyObject *given_names,
                   const char *const *names, int required, PyObject **into) {
    Py_ssize_t most = 0;
    for (; names[most]; most++) into[most] = most < count ? given[most] : NULL;
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "at most %zd arguments are taken, %zd were given", most,
                     count);
        return -1;
    }
    if (given_names) {
        for (Py_ssize_t i = 0; i < PyTuple_Size(given_names); i++)
            if (named(PyTuple_GetItem(given_names, i), given[count + i], names, into)) return -1;
    }
    for (int i = 0; i < required; i++) {
        if (into[i]) continue;
        PyErr_Format(PyExc_TypeError, "missing argument '%s'", names[i]);
        return -1;
    }
    return 0;
}

PyObject *fail_with_done(Py_ssize_t sent) {
    PyObject *type, *exception, *traceback, *done = PyLong_FromSsize_t(sent);
    PyErr_Fetch(&type, &exception, &traceback);
    PyErr_NormalizeException(&type, &exception, &traceback);
    if (!done || PyObject_SetAttrString(exception, "done", done) != 0) PyErr_Clear();
    Py_XDECREF(done);
    PyErr_Restore(type, exception, traceback);
    return NULL;
}
