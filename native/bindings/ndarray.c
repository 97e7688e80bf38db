/* ndarray.c - NumPy's arrays, looked at without a call. */
#include "ndarray.h"

#include "gil.h"

/* As in NumPy 1.7 and later. */
typedef struct array_head {
    PyObject_HEAD
    char *data;
    int nd;
    Py_ssize_t *dimensions, *strides;
    PyObject *base;
    PyObject *descr;
    int flags;
} array_head;

enum { IN_ONE_PIECE = 0x1, WRITABLE = 0x400 }; /* C_CONTIGUOUS and WRITEABLE */

static PyTypeObject *array_type; /* once it was compared */

/* Does an array's head say what the array itself says? */
static int is_as_written(PyObject *array, const Py_buffer *view) {
    const array_head *head = (array_head *)array;
    if (head->data != (char *)view->buf || head->nd != view->ndim || view->ndim < 1) return 0;
    for (int i = 0; i < view->ndim; i++)
        if (head->dimensions[i] != view->shape[i] || head->strides[i] != view->strides[i]) return 0;
    if (!(head->flags & WRITABLE) != view->readonly || !(head->flags & IN_ONE_PIECE)) return 0;
    PyObject *descr = PyObject_GetAttrString(array, "dtype");
    int same = descr == head->descr;
    Py_XDECREF(descr);
    return same;
}

static int is_known(PyObject *object) {
    return !FREE_THREADED && array_type && Py_IS_TYPE(object, array_type);
}

static void compare(PyObject *array) {
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_FULL_RO) == 0) {
        if (is_as_written(array, &view))
            array_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(array));
        PyBuffer_Release(&view);
    }
    PyErr_Clear(); /* types such as times have no buffer */
}

int ndarray_learn(PyObject *array, items_type *items) {
    if (!FREE_THREADED && !array_type) compare(array);
    if (!is_known(array)) return 0;
    if (!items->descr) items->descr = Py_NewRef(((array_head *)array)->descr);
    return 1;
}

void ndarray_note(PyObject *object, items_type *items) {
    if (!is_known(object) || ((array_head *)object)->descr == items->descr) return;
    PyObject *old = items->other;
    items->other = Py_NewRef(((array_head *)object)->descr);
    Py_XDECREF(old);
}

void ndarray_forget(items_type *items) {
    Py_CLEAR(items->descr);
    Py_CLEAR(items->other);
}

/* True if the array consists of such items, or is one. */
static int consists_of(const array_head *head, const items_type *items, uint64_t *count) {
    Py_ssize_t own = head->nd - items->dimensions;
    if ((head->descr != items->descr && head->descr != items->other) || own < 0 || own > 1)
        return 0;
    for (Py_ssize_t i = 0; i < items->dimensions; i++)
        if (head->dimensions[own + i] != items->shape[i]) return 0;
    *count = own ? (uint64_t)head->dimensions[0] : 1;
    return 1;
}

char *ndarray_items(PyObject *array, const items_type *items, int writable, uint64_t *count) {
    if (!is_known(array)) return NULL;
    const array_head *head = (array_head *)array;
    int needed = IN_ONE_PIECE | (writable ? WRITABLE : 0);
    if ((head->flags & needed) != needed) return NULL;
    return consists_of(head, items, count) ? head->data : NULL;
}

int ndarray_move(PyObject *array, const items_type *items, int writable, char *data,
                 uint64_t count) {
    array_head *head = (array_head *)array;
    uint64_t shown;
    if (!is_known(array) || Py_REFCNT(array) != 1) return 0;
    if (!(head->flags & IN_ONE_PIECE) || head->nd != items->dimensions + 1) return 0;
    if (!consists_of(head, items, &shown)) return 0;
    if (shown != count) {
        /* Flags depend on the number of items only up to one of them, if an item is an array. */
        if (head->nd > 1 && (shown < 2 || count < 2)) return 0;
        if ((uint64_t)head->strides[0] != items->size) return 0;
        head->dimensions[0] = (Py_ssize_t)count;
    }
    head->data = data;
    head->flags = writable ? head->flags | WRITABLE : head->flags & ~WRITABLE;
    return 1;
}

void ndarray_seal(PyObject *array) {
    if (is_known(array)) {
        ((array_head *)array)->flags &= ~WRITABLE;
        return;
    }
    PyObject *done = PyObject_CallMethod(array, "setflags", "O", Py_False);
    if (!done) PyErr_Clear();
    Py_XDECREF(done);
}
