/* block.c - the Python object that keeps a record's memory alive for its arrays. */
#include "types.h"

#include "gil.h"
#include "pool.h"

static struct pool blocks = {.size = sizeof(py_block)};

static int block_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    py_block *from = (py_block *)self;
    /* If it was sent, nobody may make its arrays writable again. */
    int read_only = !from->armed || from->readonly;
    return PyBuffer_FillInfo(view, self, from->core.data, (Py_ssize_t)from->core.nbytes, read_only,
                             flags);
}

static Py_ssize_t block_length(PyObject *self) {
    return (Py_ssize_t)((py_block *)self)->core.nbytes;
}

static void block_dealloc(PyObject *self) {
    py_block *gone = (py_block *)self;
    if (gone->armed && gone->forks == ipcheap_forks()) keeping_free(gone->heap, &gone->core);
    Py_XDECREF(gone->source);
    pool_return(&blocks, self);
}

static PyObject *block_form(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(((py_block *)self)->core.form);
}

PyObject *description_of(ipcheap_heap *heap, const ipcheap_record *record, uint32_t forks) {
    ipcheap_description description;
    int64_t length = forks == ipcheap_forks() ? ipcheap_array_of(heap, record, &description, NULL)
                                              : IPCHEAP_WRONG_PROCESS;
    if (length < 0) return PyLong_FromLongLong(length);
    return PyBytes_FromStringAndSize((const char *)&description, (Py_ssize_t)length);
}

int typed_buffer(PyObject *object, Py_buffer *view, int flags) {
    PyObject *array = PyObject_CallMethod(object, "_typed", NULL);
    int error = array ? PyObject_GetBuffer(array, view, flags) : -1;
    Py_XDECREF(array);
    if (error && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        PyErr_SetString(PyExc_BufferError, "no buffer can say what the items of this array are: "
                                           "see its view, or its array()");
    }
    return error;
}

static PyObject *block_description(PyObject *self, PyObject *unused) {
    (void)unused;
    py_block *of = (py_block *)self;
    return description_of(of->heap, &of->core, of->forks);
}

static PyObject *block_short_piece(PyObject *self, PyObject *unused) {
    (void)unused;
    return short_piece(&((py_block *)self)->core);
}

static PyObject *block_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"description", block_description, METH_NOARGS, SIGNATURE("description($self, /)")},
        {"short_piece", block_short_piece, METH_NOARGS, SIGNATURE("short_piece($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"form", block_form, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)block_dealloc},
        {Py_bf_getbuffer, (void *)block_get_buffer},
        {Py_sq_length, (void *)block_length},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Block",
        .basicsize = sizeof(py_block),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

PyObject *block_new(const ipcheap_record *core, ipcheap_heap *heap, PyObject *source,
                    int readonly) {
    if (!blocks.type && !(blocks.type = (PyTypeObject *)block_type())) return NULL;
    PyObject *made = pool_take(&blocks, blocks.type);
    if (!made) return NULL;
    py_block *of = (py_block *)made;
    of->core = *core;
    of->heap = heap;
    of->forks = ipcheap_forks();
    of->source = Py_NewRef(source);
    of->armed = 1;
    of->readonly = readonly;
    return made;
}
