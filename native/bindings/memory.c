/* memory.c - the Python type of a heap, which makes records. */
#include "types.h"

#include <string.h>

#include "gil.h"

static PyObject *fail(PyObject *self, int error, PyObject *nbytes) {
    return PyObject_CallMethod(self, "_allocation_failed", "iO", error, nbytes);
}

/* Reads a size: 0, the core's error for one that no heap has, or PY_RAISED. */
static int size_of(PyObject *number, uint64_t *nbytes) {
    PyObject *whole = PyNumber_Index(number);
    if (!whole) return PY_RAISED;
    *nbytes = PyLong_AsUnsignedLongLong(whole);
    Py_DECREF(whole);
    if (*nbytes != UINT64_MAX || !PyErr_Occurred()) return 0;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return PY_RAISED;
    PyErr_Clear();
    return IPCHEAP_BAD_VALUE;
}

static int allocate(py_memory *self, uint64_t nbytes, ipcheap_record *record) {
    if (!self->heap) return IPCHEAP_HEAP_CLOSED;
    return keeping_allocate(self->heap, nbytes, record);
}

static PyObject *announced(PyObject *made) {
    if (record_announce(made) != 0) Py_CLEAR(made);
    return made;
}

/* Returns the record, or the error as a number, for which the Python class makes an exception. */
static PyObject *made_or_error(PyObject *made, int error) {
    if (!error) return announced(made);
    record_drop(made);
    return PyLong_FromLong(error);
}

PyObject *memory_allocate(PyObject *self, PyObject *number) {
    py_memory *from = (py_memory *)self;
    uint64_t nbytes;
    int error = size_of(number, &nbytes);
    if (error == PY_RAISED) return NULL;
    if (error) return fail(self, error, number);
    PyObject *made = record_new(from->heap, self);
    if (!made) return NULL;
    error = allocate(from, nbytes, &((py_record *)made)->core);
    if (!error) return announced(made);
    record_drop(made);
    return fail(self, error, number);
}

/* Returns a list of `count` records of `nbytes` bytes each, or raises and allocates none. */
static PyObject *memory_allocate_many(PyObject *self, PyObject *arguments) {
    py_memory *from = (py_memory *)self;
    PyObject *number, *made;
    Py_ssize_t count;
    uint64_t nbytes;
    if (!PyArg_ParseTuple(arguments, "On", &number, &count)) return NULL;
    int error = size_of(number, &nbytes);
    if (error == PY_RAISED) return NULL;
    if (error) return fail(self, error, number);
    if (!(made = PyList_New(0))) return NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *next = record_new(from->heap, self);
        if (next && (error = allocate(from, nbytes, &((py_record *)next)->core)) != 0) {
            record_drop(next);
            break;
        }
        next = next ? announced(next) : NULL;
        int lost = !next || PyList_Append(made, next) != 0;
        Py_XDECREF(next);
        if (lost) {
            Py_DECREF(made);
            return NULL;
        }
    }
    if (!error) return made;
    /* Freed explicitly: with IPCHEAP_DEBUG the garbage collector would report them. */
    for (Py_ssize_t i = 0; i < PyList_Size(made); i++) {
        Py_XDECREF(PyObject_CallMethod(PyList_GetItem(made, i), "free", NULL));
        PyErr_Clear();
    }
    Py_DECREF(made);
    return fail(self, error, number);
}

/*
 * allocate_array(description, layout): returns a record for the array that the description
 * describes. The layout makes its arrays. Returns the core's error as a number.
 */
static PyObject *memory_allocate_array(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    py_memory *from = (py_memory *)self;
    if (count != 2 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "a description, as bytes, and a layout are taken");
        return NULL;
    }
    PyObject *made = record_new(from->heap, self);
    if (!made) return NULL;
    int error = IPCHEAP_HEAP_CLOSED;
    if (from->heap)
        error = keeping_allocate_array(from->heap, PyBytes_AsString(given[0]),
                                       (size_t)PyBytes_Size(given[0]), &((py_record *)made)->core);
    ((py_record *)made)->layout = Py_NewRef(given[1]);
    return made_or_error(made, error);
}

/* Allocates a record of the form that a description says: 0, or the core's error. */
static int allocate_described(ipcheap_heap *heap, PyObject *description, uint64_t nbytes,
                              ipcheap_record *record) {
    const char *text = PyBytes_AsString(description);
    size_t length = (size_t)PyBytes_Size(description);
    const uint32_t object_magic = PY_PIECES;
    int error;
    if (length <= sizeof object_magic) {
        if (length && (length != sizeof object_magic || memcmp(text, &object_magic, length) != 0))
            return IPCHEAP_BAD_VALUE;
        error = keeping_allocate(heap, nbytes, record);
        if (!error && length) record->form = IPCHEAP_OBJECT;
        return error;
    }
    error = keeping_allocate_array(heap, text, length, record);
    if (error || record->nbytes == nbytes) return error;
    keeping_free(heap, record);
    return IPCHEAP_BAD_VALUE;
}

/*
 * allocate_described(description, nbytes): returns a record of the form that record_describe() has
 * described, or the core's error as a number.
 */
static PyObject *memory_allocate_described(PyObject *self, PyObject *const *given,
                                           Py_ssize_t count) {
    py_memory *from = (py_memory *)self;
    uint64_t nbytes;
    if (count != 2 || !PyBytes_Check(given[0])) {
        PyErr_SetString(PyExc_TypeError, "a description, as bytes, and a size are taken");
        return NULL;
    }
    int error = size_of(given[1], &nbytes);
    if (error == PY_RAISED) return NULL;
    PyObject *made = record_new(from->heap, self);
    if (!made) return NULL;
    if (!error && !from->heap) error = IPCHEAP_HEAP_CLOSED;
    if (!error)
        error = allocate_described(from->heap, given[0], nbytes, &((py_record *)made)->core);
    return made_or_error(made, error);
}

PyObject *memory_pack(PyObject *self, PyObject *pieces) {
    py_memory *from = (py_memory *)self;
    PyObject *list = PySequence_List(pieces); /* nobody else has it */
    PyObject *made = list ? record_new(from->heap, self) : NULL;
    int error = IPCHEAP_HEAP_CLOSED;
    if (made && from->heap) error = pack(from->heap, list, &((py_record *)made)->core);
    Py_XDECREF(list);
    if (!made) return NULL;
    return made_or_error(made, error);
}

static PyObject *memory_bind(PyObject *self, PyObject *address) {
    ((py_memory *)self)->heap = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

PyObject *memory_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"allocate", memory_allocate, METH_O, SIGNATURE("allocate($self, nbytes, /)")},
        {"allocate_many", memory_allocate_many, METH_VARARGS,
         SIGNATURE("allocate_many($self, nbytes, count, /)")},
        {"allocate_array", (PyCFunction)(void (*)(void))memory_allocate_array, METH_FASTCALL,
         SIGNATURE("allocate_array($self, description, layout, /)")},
        {"allocate_described", (PyCFunction)(void (*)(void))memory_allocate_described,
         METH_FASTCALL, SIGNATURE("allocate_described($self, description, nbytes, /)")},
        {"pack", memory_pack, METH_O, SIGNATURE("pack($self, pieces, /)")},
        {"bind", memory_bind, METH_O, SIGNATURE("bind($self, address, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)give_back},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.MemoryCore",
        .basicsize = sizeof(py_memory),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}
