/* slice.c - the Python object behind a memoryview: some bytes of a record, in steps. */
#include "types.h"

#include "gil.h"
#include "pool.h"

typedef struct py_slice {
    PyObject_HEAD
    py_record *record;
    char *first;
    Py_ssize_t length, step;
} py_slice;

static struct pool slices = {.size = sizeof(py_slice)};

static int slice_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    py_slice *of = (py_slice *)self;
    int contiguous = of->step == 1 || of->length <= 1;
    int any = PyBUF_C_CONTIGUOUS | PyBUF_F_CONTIGUOUS | PyBUF_ANY_CONTIGUOUS;
    if (!contiguous && ((flags & PyBUF_STRIDES) != PyBUF_STRIDES || flags & any & ~PyBUF_STRIDES)) {
        PyErr_SetString(PyExc_BufferError, "a slice with a step is not contiguous");
        return -1;
    }
    if (of->record->readonly && flags & PyBUF_WRITABLE) {
        PyErr_SetString(PyExc_BufferError, "a message is read-only: others hear it, too");
        return -1;
    }
    *view = (Py_buffer){
        .buf = of->first,
        .obj = Py_NewRef(self),
        .len = of->length,
        .readonly = of->record->readonly,
        .itemsize = 1,
        .ndim = 1,
        .format = flags & PyBUF_FORMAT ? (char *)"B" : NULL,
        .shape = (flags & PyBUF_ND) == PyBUF_ND ? &of->length : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &of->step : NULL,
    };
    return 0;
}

static void slice_dealloc(PyObject *self) {
    PyObject *record = (PyObject *)((py_slice *)self)->record;
    LOCK(record);
    record_unview((py_record *)record);
    UNLOCK();
    Py_DECREF(record);
    pool_return(&slices, self);
}

static PyObject *slice_type(void) {
    static PyObject *_Atomic type;
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)slice_dealloc},
        {Py_bf_getbuffer, (void *)slice_get_buffer},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Slice",
        .basicsize = sizeof(py_slice),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

/* The record is locked. */
static PyObject *slice_new(py_record *record, Py_ssize_t start, Py_ssize_t length,
                           Py_ssize_t step) {
    if (!slices.type && !(slices.type = (PyTypeObject *)slice_type())) return NULL;
    PyObject *made = pool_take(&slices, slices.type);
    if (!made) return NULL;
    py_slice *of = (py_slice *)made;
    of->record = (py_record *)Py_NewRef((PyObject *)record);
    of->record->slices++;
    of->first = (char *)record->core.data + start;
    of->length = length;
    of->step = step;
    return made;
}

PyObject *slice_view(py_record *record, Py_ssize_t start, Py_ssize_t length, Py_ssize_t step) {
    PyObject *slice = slice_new(record, start, length, step);
    PyObject *view = slice ? PyMemoryView_FromObject(slice) : NULL;
    Py_XDECREF(slice);
    return view;
}

int slice_buffer(py_record *record, Py_buffer *view, int flags) {
    PyObject *slice = slice_new(record, 0, (Py_ssize_t)record->core.nbytes, 1);
    int error = slice ? PyObject_GetBuffer(slice, view, flags) : -1;
    Py_XDECREF(slice);
    return error;
}
