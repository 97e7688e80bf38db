/*
 * stream.c - the Python types of a stream's two sides, and of their windows.
 *
 *   WriterCore, ReaderCore   what the two sides are built on: copies in and out
 *   Window       a context: opens when it is entered, commits or releases when it is left
 *   Pane         the memory that a window shows; arrays and memoryviews keep it alive
 */
#include "endpoint.h"
#include "gil.h"

#include <string.h>

#define MOST_ITEM_DIMENSIONS 8

typedef struct py_stream {
    py_endpoint side;
    uint64_t itemsize;
    int plain;             /* items are bytes: NumPy is not needed */
    PyObject *format;      /* of an item's buffer, as bytes; None: it has none */
    Py_ssize_t dimensions; /* of an item itself */
    Py_ssize_t shape[MOST_ITEM_DIMENSIONS];
    ipcheap_stream_layout layout;
    PyObject *whole; /* an array over the ring, mapped twice, from which windows are cut; or NULL */
    struct py_window *open; /* the window that is open, borrowed */
} py_stream;

/* Panes -------------------------------------------------------------------------------------- */

typedef struct py_pane {
    PyObject_HEAD
    char *data;
    Py_ssize_t nbytes;
    int read_only;
    ipcheap_view *view; /* keeps the ring where it is; or NULL */
    char *copy;         /* memory of its own; or NULL */
    PyObject *owner;    /* otherwise: the heap */
} py_pane;

static void pane_dealloc(PyObject *self) {
    py_pane *pane = (py_pane *)self;
    if (pane->view) ipcheap_view_drop(pane->view);
    PyMem_Free(pane->copy);
    Py_XDECREF(pane->owner);
    give_back(self);
}

static int pane_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    py_pane *pane = (py_pane *)self;
    return PyBuffer_FillInfo(view, self, pane->data, pane->nbytes, pane->read_only, flags);
}

static PyObject *pane_type(void) {
    static PyObject *type;
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)pane_dealloc},
        {Py_bf_getbuffer, (void *)pane_get_buffer},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Pane",
        .basicsize = sizeof(py_pane),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

/* Returns a pane of memory in the ring, or of a copy if the ring is not mapped twice. */
static py_pane *pane_new(py_stream *self, char *data, uint64_t nbytes, int copied) {
    PyObject *type = pane_type();
    py_pane *pane = type ? PyObject_New(py_pane, (PyTypeObject *)type) : NULL;
    if (!pane) return NULL;
    pane->data = data;
    pane->nbytes = (Py_ssize_t)nbytes;
    pane->read_only = !self->layout.writes;
    pane->copy = NULL;
    pane->view = copied ? NULL : ipcheap_stream_view(self->side.endpoint);
    pane->owner = pane->view ? NULL : Py_NewRef(self->side.memory);
    if (!copied) return pane;
    pane->data = pane->copy = PyMem_Malloc(nbytes ? (size_t)nbytes : 1);
    if (pane->copy) {
        memcpy(pane->copy, data, (size_t)nbytes);
        return pane;
    }
    Py_DECREF((PyObject *)pane);
    PyErr_NoMemory();
    return NULL;
}

/* Copies in and out -------------------------------------------------------------------------- */

/* True if a buffer has items of the stream's type, or bytes that can be taken for them. */
static int fits(const py_stream *self, const Py_buffer *view) {
    const char *format = view->format ? view->format : "B";
    if (self->plain) return 1;
    if (view->itemsize == 1 && format[0] && !format[1] && strchr("Bbc", format[0])) return 1;
    if (self->format == Py_None || strcmp(format, PyBytes_AsString(self->format)) != 0) return 0;
    Py_ssize_t own = view->ndim - self->dimensions;
    if (own < 0 || own > 1) return 0;
    for (Py_ssize_t i = 0; i < self->dimensions; i++)
        if (view->shape[own + i] != self->shape[i]) return 0;
    return 1;
}

/* Opens an object's items: how many there are, PY_NOT_BYTES or PY_NOT_WHOLE. */
static int64_t items_open(const py_stream *self, PyObject *object, Py_buffer *view, int access) {
    if (PyObject_GetBuffer(object, view, access | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        PyErr_Clear(); /* the Python class finds out what is wrong with the object */
        return PY_NOT_BYTES;
    }
    int64_t items = (int64_t)((uint64_t)view->len / self->itemsize);
    if (!fits(self, view))
        items = PY_NOT_BYTES;
    else if ((uint64_t)items * self->itemsize != (uint64_t)view->len)
        items = PY_NOT_WHOLE;
    if (items < 0) PyBuffer_Release(view);
    return items;
}

/* Without the GIL if the copy is long. */
static int64_t write_core(const py_stream *self, const void *items, uint64_t count) {
    if (count * self->itemsize < LONG_COPY)
        return ipcheap_stream_write(self->side.endpoint, items, count);
    PyThreadState *state = PyEval_SaveThread();
    int64_t done = ipcheap_stream_write(self->side.endpoint, items, count);
    PyEval_RestoreThread(state);
    return done;
}

static int64_t read_core(const py_stream *self, void *items, uint64_t few, uint64_t many) {
    if (!items || many * self->itemsize < LONG_COPY)
        return ipcheap_stream_read(self->side.endpoint, items, few, many);
    PyThreadState *state = PyEval_SaveThread();
    int64_t count = ipcheap_stream_read(self->side.endpoint, items, few, many);
    PyEval_RestoreThread(state);
    return count;
}

/* Writes what fits of an object's items from `first` on: how many, or an error. */
static int64_t write_from(py_stream *self, PyObject *data, uint64_t first, int64_t *total) {
    Py_buffer view;
    *total = 0;
    if (!self->side.endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    int64_t items = items_open(self, data, &view, PyBUF_SIMPLE);
    if (items < 0) return items;
    *total = items;
    uint64_t left = (uint64_t)items > first ? (uint64_t)items - first : 0;
    int64_t done = write_core(self, (char *)view.buf + first * self->itemsize, left);
    PyBuffer_Release(&view);
    return done;
}

static PyObject *stream_write(PyObject *object, PyObject *const *given, Py_ssize_t count,
                              PyObject *names) {
    static const char *const data_and_timeout[] = {"data", "timeout", NULL};
    py_stream *self = (py_stream *)object;
    PyObject *arguments[2];
    int64_t total;
    if (arguments_of(given, count, names, data_and_timeout, 1, arguments)) return NULL;
    int64_t done = write_from(self, arguments[0], 0, &total);
    if (done == IPCHEAP_WOULD_BLOCK && soon(&self->side))
        done = write_from(self, arguments[0], 0, &total);
    if (done == total) return PyLong_FromLongLong(done);
    return PyObject_CallMethod(object, "_write_on", "OLO", arguments[0], (long long)done,
                               or_none(arguments[1]));
}

static PyObject *stream_try_write(PyObject *object, PyObject *data) {
    int64_t total, done = write_from((py_stream *)object, data, 0, &total);
    if (done == IPCHEAP_WOULD_BLOCK) done = 0;
    if (done >= 0) return PyLong_FromLongLong(done);
    return PyObject_CallMethod(object, "_refused", "OL", data, (long long)done);
}

/* _write_some(data, first): for callers that do their own waiting: how many, or an error. */
static PyObject *stream_write_some(PyObject *object, PyObject *arguments) {
    PyObject *data;
    unsigned long long first;
    int64_t total;
    if (!PyArg_ParseTuple(arguments, "OK", &data, &first)) return NULL;
    return PyLong_FromLongLong(write_from((py_stream *)object, data, first, &total));
}

static PyObject *stream_readinto(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                 PyObject *names) {
    static const char *const words[] = {"buffer", "timeout", "at_least", NULL};
    py_stream *self = (py_stream *)object;
    PyObject *arguments[3];
    Py_buffer view;
    if (arguments_of(given, count, names, words, 1, arguments)) return NULL;
    int64_t done = IPCHEAP_ENDPOINT_CLOSED;
    if (!arguments[2] && self->side.endpoint) {
        int64_t items = items_open(self, arguments[0], &view, PyBUF_WRITABLE);
        done = items;
        if (items >= 0) {
            done = read_core(self, view.buf, (uint64_t)items, (uint64_t)items);
            if (done == IPCHEAP_WOULD_BLOCK && soon(&self->side))
                done = read_core(self, view.buf, (uint64_t)items, (uint64_t)items);
            PyBuffer_Release(&view);
        }
        if (done >= 0) return PyLong_FromLongLong(done);
    }
    return PyObject_CallMethod(object, "_read_into", "OOO", arguments[0], or_none(arguments[1]),
                               or_none(arguments[2]));
}

/* For callers that do their own waiting: fills a buffer by one of the core's calls. */
typedef int64_t filling(ipcheap_endpoint *, void *, uint64_t, uint64_t);

static PyObject *fill_some(PyObject *object, PyObject *arguments, filling *fill) {
    py_stream *self = (py_stream *)object;
    PyObject *buffer;
    unsigned long long few;
    Py_buffer view;
    if (!PyArg_ParseTuple(arguments, "OK", &buffer, &few)) return NULL;
    int64_t done = IPCHEAP_ENDPOINT_CLOSED;
    if (self->side.endpoint) done = items_open(self, buffer, &view, PyBUF_WRITABLE);
    if (done >= 0) {
        done = fill(self->side.endpoint, view.buf, few, (uint64_t)done);
        PyBuffer_Release(&view);
    }
    return PyLong_FromLongLong(done);
}

/* _read_some(buffer, few): fills a buffer with at least `few` items: how many, or an error. */
static PyObject *stream_read_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, ipcheap_stream_read);
}

static PyObject *stream_peek_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, ipcheap_stream_peek);
}

static int64_t history(ipcheap_endpoint *endpoint, void *items, uint64_t few, uint64_t many) {
    (void)few;
    return ipcheap_stream_history(endpoint, items, many);
}

static PyObject *stream_history_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, history);
}

/* Returns `count` bytes if they are there now; otherwise the error as a number. */
static PyObject *bytes_now(py_stream *self, int64_t count) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (!bytes) return NULL;
    int64_t done = read_core(self, PyBytes_AsString(bytes), (uint64_t)count, (uint64_t)count);
    if (done == count) return bytes;
    if (done > 0) { /* the last ones: the writer has ended */
        PyObject *shorter = PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)done);
        Py_DECREF(bytes);
        return shorter;
    }
    Py_DECREF(bytes);
    return PyLong_FromLongLong(done);
}

static PyObject *stream_read(PyObject *object, PyObject *const *given, Py_ssize_t count,
                             PyObject *names) {
    static const char *const words[] = {"n", "timeout", "at_least", NULL};
    py_stream *self = (py_stream *)object;
    PyObject *arguments[3];
    if (arguments_of(given, count, names, words, 0, arguments)) return NULL;
    if (self->plain && self->side.endpoint && !arguments[2]) {
        int64_t wanted = -1;
        if (!arguments[0] || arguments[0] == Py_None)
            wanted = ipcheap_stream_ready(self->side.endpoint);
        else if (PyLong_CheckExact(arguments[0]))
            wanted = PyLong_AsLongLong(arguments[0]);
        if (wanted == -1 && PyErr_Occurred()) PyErr_Clear();
        if (wanted > 0) {
            PyObject *bytes = bytes_now(self, wanted);
            if (!bytes || PyBytes_Check(bytes)) return bytes;
            Py_DECREF(bytes);
        }
    }
    return PyObject_CallMethod(object, "_read", "OOO", or_none(arguments[0]), or_none(arguments[1]),
                               or_none(arguments[2]));
}

/* Windows ------------------------------------------------------------------------------------ */

typedef struct py_window {
    PyObject_HEAD
    py_stream *stream;
    uint64_t few, many, overlap;
    int raw;
    PyObject *timeout;
    int is_open;
    ipcheap_window core;
    py_pane *pane;   /* of a copy: where its items are; or NULL */
    PyObject *shown; /* the array or memoryview while it is open */
} py_window;

static void window_forget(py_window *self) {
    Py_CLEAR(self->shown);
    Py_XDECREF((PyObject *)self->pane);
    self->pane = NULL;
    self->is_open = 0;
    if (self->stream->open == self) self->stream->open = NULL;
}

static void window_dealloc(PyObject *object) {
    py_window *self = (py_window *)object;
    window_forget(self);
    Py_XDECREF(self->timeout);
    Py_DECREF((PyObject *)self->stream);
    give_back(object);
}

/* Cuts the window out of the array over the whole ring, if items lie at multiples of their size. */
static PyObject *cut_out(const py_window *self, const char *start, uint64_t items) {
    uint64_t size = self->stream->itemsize, first = (uint64_t)((char *)self->core.data - start);
    PyObject *begin = PyLong_FromUnsignedLongLong(first / size);
    PyObject *end = PyLong_FromUnsignedLongLong(first / size + items);
    PyObject *slice = begin && end ? PySlice_New(begin, end, NULL) : NULL;
    PyObject *array = slice ? PyObject_GetItem(self->stream->whole, slice) : NULL;
    Py_XDECREF(begin);
    Py_XDECREF(end);
    Py_XDECREF(slice);
    return array;
}

/* Returns what the block gets: an array, or a memoryview of bytes. */
static PyObject *window_show(py_window *self) {
    py_stream *stream = self->stream;
    uint64_t items = self->core.overlap + self->core.items;
    const char *start = stream->layout.ring, *data = self->core.data;
    int copied = !stream->layout.twice || data < start ||
                 data >= start + 2 * stream->layout.ring_bytes;
    if (!self->raw && !copied && stream->whole) return cut_out(self, start, items);
    py_pane *pane = pane_new(stream, self->core.data, items * stream->itemsize, copied);
    if (!pane) return NULL;
    if (copied) self->pane = (py_pane *)Py_NewRef((PyObject *)pane);
    PyObject *shown = self->raw ? PyMemoryView_FromObject((PyObject *)pane)
                                : PyObject_CallMethod((PyObject *)stream, "_array_of", "OK",
                                                      (PyObject *)pane, (unsigned long long)items);
    Py_DECREF((PyObject *)pane);
    return shown;
}

/* Opens the window: 0, an error, or PY_RAISED. */
static int window_open(py_window *self) {
    ipcheap_endpoint *endpoint = self->stream->side.endpoint;
    if (!endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    if (self->is_open) return IPCHEAP_WINDOW;
    int error = ipcheap_window_open(endpoint, self->few, self->many, self->overlap, &self->core);
    if (error) return error;
    self->is_open = 1;
    self->stream->open = self;
    self->shown = window_show(self);
    if (self->shown) return 0;
    ipcheap_window_close(endpoint, 0);
    window_forget(self);
    return PY_RAISED;
}

/* Ends the window with the first `items` items committed or released: 0 or an error. */
static int window_end(py_window *self, uint64_t items) {
    py_stream *stream = self->stream;
    ipcheap_endpoint *endpoint = stream->side.endpoint;
    if (items > self->core.items) return IPCHEAP_BAD_VALUE;
    int writes = stream->layout.writes;
    if (writes && self->pane)
        memcpy(self->core.data, self->pane->data, (size_t)(items * stream->itemsize));
    int error = ipcheap_window_close(endpoint, items);
    if (error) return error;
    if (writes && !self->raw) {
        PyObject *done = PyObject_CallMethod(self->shown, "setflags", "O", Py_False);
        if (!done) PyErr_Clear();
        Py_XDECREF(done);
    }
    window_forget(self);
    return 0;
}

static PyObject *window_enter(PyObject *object, PyObject *unused) {
    py_window *self = (py_window *)object;
    (void)unused;
    int error = window_open(self);
    if (error == IPCHEAP_WOULD_BLOCK && soon(&self->stream->side)) error = window_open(self);
    if (error == PY_RAISED) return NULL;
    if (!error) return Py_NewRef(self->shown);
    return PyObject_CallMethod((PyObject *)self->stream, "_open_later", "OiOK", object, error,
                               self->timeout, (unsigned long long)self->few);
}

/* _open(): for callers that do their own waiting: the array or memoryview, or an error. */
static PyObject *window_attempt(PyObject *object, PyObject *unused) {
    py_window *self = (py_window *)object;
    (void)unused;
    int error = window_open(self);
    if (error == PY_RAISED) return NULL;
    return error ? PyLong_FromLong(error) : Py_NewRef(self->shown);
}

static PyObject *window_exit(PyObject *object, PyObject *const *given, Py_ssize_t count) {
    py_window *self = (py_window *)object;
    if (!self->is_open) Py_RETURN_NONE; /* ended by commit(), release() or close() */
    int error = window_end(self, count > 0 && given[0] == Py_None ? self->core.items : 0);
    if (error == IPCHEAP_ENDPOINT_CLOSED || error == IPCHEAP_HEAP_CLOSED ||
        error == IPCHEAP_WINDOW) {
        window_forget(self);
        Py_RETURN_NONE;
    }
    if (!error) Py_RETURN_NONE;
    return PyObject_CallMethod((PyObject *)self->stream, "_refuse", "i", error);
}

static PyObject *window_aenter(PyObject *object, PyObject *unused) {
    py_window *self = (py_window *)object;
    (void)unused;
    return PyObject_CallMethod((PyObject *)self->stream, "_aopen", "OOK", object, self->timeout,
                               (unsigned long long)self->few);
}

static PyObject *window_aexit(PyObject *object, PyObject *const *given, Py_ssize_t count) {
    PyObject *done = window_exit(object, given, count);
    if (!done) return NULL;
    Py_DECREF(done);
    return PyObject_CallMethod((PyObject *)((py_window *)object)->stream, "_nothing", NULL);
}

static PyObject *window_items(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_window *)object)->core.items);
}

static PyObject *window_overlap(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_window *)object)->core.overlap);
}

static PyObject *window_position(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_window *)object)->core.position);
}

static PyObject *window_type(void) {
    static PyObject *type;
    static PyMethodDef methods[] = {
        {"__enter__", window_enter, METH_NOARGS, NULL},
        {"__exit__", (PyCFunction)(void (*)(void))window_exit, METH_FASTCALL, NULL},
        {"__aenter__", window_aenter, METH_NOARGS, NULL},
        {"__aexit__", (PyCFunction)(void (*)(void))window_aexit, METH_FASTCALL, NULL},
        {"_open", window_attempt, METH_NOARGS, SIGNATURE("_open($self, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"items", window_items, NULL, NULL, NULL},
        {"overlap", window_overlap, NULL, NULL, NULL},
        {"position", window_position, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)window_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Window",
        .basicsize = sizeof(py_window),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

/* Makes a window, which is opened when it is entered. */
static PyObject *window_new(py_stream *stream, uint64_t few, uint64_t many, uint64_t overlap,
                            int raw, PyObject *timeout) {
    PyObject *type = window_type();
    py_window *made = type ? PyObject_New(py_window, (PyTypeObject *)type) : NULL;
    if (!made) return NULL;
    made->stream = (py_stream *)Py_NewRef((PyObject *)stream);
    made->few = few;
    made->many = many;
    made->overlap = overlap;
    made->raw = raw;
    made->timeout = Py_NewRef(timeout);
    made->is_open = 0;
    made->pane = NULL;
    made->shown = NULL;
    made->core = (ipcheap_window){0};
    return (PyObject *)made;
}

/*
 * window(n=None, timeout=None, *, at_least=None, overlap=0, raw=False). What is not simply a number
 * of items is left to the Python class.
 */
static PyObject *stream_window(PyObject *object, PyObject *const *given, Py_ssize_t count,
                               PyObject *names) {
    static const char *const words[] = {"n", "timeout", "at_least", "overlap", "raw", NULL};
    py_stream *self = (py_stream *)object;
    PyObject *arguments[5];
    if (arguments_of(given, count, names, words, 0, arguments)) return NULL;
    if (count <= 2 && arguments[0] && PyLong_CheckExact(arguments[0]) && !arguments[2] &&
        !arguments[3] && (!arguments[1] || arguments[1] == Py_None)) {
        int overflow;
        long long n = PyLong_AsLongLongAndOverflow(arguments[0], &overflow);
        int raw = arguments[4] ? PyObject_IsTrue(arguments[4]) : 0;
        if (raw < 0) return NULL;
        if (!overflow && n > 0 && (raw || self->whole) && !self->open &&
            (unsigned long long)n <= self->layout.most_waited_for)
            return window_new(self, (uint64_t)n, (uint64_t)n, 0, raw, Py_None);
    }
    if (count > 2) {
        PyErr_Format(PyExc_TypeError, "at most 2 positional arguments are taken, %zd were given",
                     count);
        return NULL;
    }
    return PyObject_CallMethod(object, "_window", "OOOOO", or_none(arguments[0]),
                               or_none(arguments[1]), or_none(arguments[2]), or_none(arguments[3]),
                               or_none(arguments[4]));
}

/* _new_window(few, many, overlap, raw, timeout) */
static PyObject *stream_new_window(PyObject *object, PyObject *arguments) {
    unsigned long long few, many, overlap;
    int raw;
    PyObject *timeout;
    if (!PyArg_ParseTuple(arguments, "KKKpO", &few, &many, &overlap, &raw, &timeout)) return NULL;
    return window_new((py_stream *)object, few, many, overlap, raw, timeout);
}

/* _end_window(items): commits or releases the first items of the open window: 0 or an error. */
static PyObject *stream_end_window(PyObject *object, PyObject *number) {
    py_stream *self = (py_stream *)object;
    unsigned long long items = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) return NULL;
    if (!self->side.endpoint) return PyLong_FromLong(IPCHEAP_ENDPOINT_CLOSED);
    if (self->open) return PyLong_FromLong(window_end(self->open, items));
    return PyLong_FromLong(ipcheap_window_close(self->side.endpoint, items));
}

/* The stream --------------------------------------------------------------------------------- */

/* _describe(itemsize, plain, format, shape): what the items are; is called once, after _bind(). */
static PyObject *stream_describe(PyObject *object, PyObject *arguments) {
    py_stream *self = (py_stream *)object;
    unsigned long long itemsize;
    PyObject *format, *shape;
    if (!PyArg_ParseTuple(arguments, "KpOO!", &itemsize, &self->plain, &format, &PyTuple_Type,
                          &shape))
        return NULL;
    ipcheap_stream_lay_out(self->side.endpoint, &self->layout);
    self->itemsize = itemsize;
    self->dimensions = PyTuple_Size(shape);
    if (self->dimensions > MOST_ITEM_DIMENSIONS) format = Py_None;
    for (Py_ssize_t i = 0; i < self->dimensions && i < MOST_ITEM_DIMENSIONS; i++)
        self->shape[i] = PyLong_AsSsize_t(PyTuple_GetItem(shape, i));
    Py_XDECREF(self->format);
    self->format = Py_NewRef(format);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* _ring(twice): a pane of the ring, once or as it is mapped; None if it is not mapped twice. */
static PyObject *stream_ring(PyObject *object, PyObject *number) {
    py_stream *self = (py_stream *)object;
    int twice = PyObject_IsTrue(number);
    uint64_t bytes = self->layout.ring_bytes;
    if (twice < 0) return NULL;
    int error = endpoint_refuses(&self->side);
    if (error < 0) return PyObject_CallMethod(object, "_refuse", "i", error);
    if (twice && !self->layout.twice) Py_RETURN_NONE;
    return (PyObject *)pane_new(self, self->layout.ring, twice ? 2 * bytes : bytes, 0);
}

/* _cut_from(array): windows are cut out of this array over the ring, mapped twice. */
static PyObject *stream_cut_from(PyObject *object, PyObject *whole) {
    py_stream *self = (py_stream *)object;
    Py_XDECREF(self->whole);
    self->whole = whole == Py_None ? NULL : Py_NewRef(whole);
    Py_RETURN_NONE;
}

static void stream_dealloc(PyObject *object) {
    py_stream *self = (py_stream *)object;
    Py_XDECREF(self->format);
    Py_XDECREF(self->whole);
    endpoint_dealloc(object);
}

PyDoc_STRVAR(write_text,
             "write($self, /, data, timeout=None)\n--\n\n"
             "Write all of these items, in parts as room appears; return how many they were.\n\n"
             "Waits `timeout` seconds for room, None indefinitely. If it raises, the exception has\n"
             "an attribute `done`: how many items, in order, are written and stay so. Bytes-like\n"
             "objects are taken as whole items, anything else as the array that NumPy makes of it.\n"
             "TypeError for what cannot be converted, ValueError for another shape.");
PyDoc_STRVAR(try_write_text,
             "try_write($self, data, /)\n--\n\n"
             "Write what fits now and return how many items that was.\n\n"
             "0 if there is no room and the reader may still come.");
PyDoc_STRVAR(read_text,
             "read($self, /, n=None, timeout=None, at_least=None)\n--\n\n"
             "Return a copy of `at_least` to `n` items, and release them.\n\n"
             "Without `at_least` it is `n`; without either, all there is, at least one. The result\n"
             "is bytes if the items are bytes, else an array. Waits `timeout` seconds, None\n"
             "indefinitely. Fewer items come only after the writer's end: first what is left, then\n"
             "ChannelClosed or PeerDied.");
PyDoc_STRVAR(readinto_text,
             "readinto($self, /, buffer, timeout=None, at_least=None)\n--\n\n"
             "Fill a writable, contiguous buffer with items, release them, return how many.\n\n"
             "Waits `timeout` seconds, None indefinitely, for as many as the buffer holds, or for\n"
             "`at_least`. TypeError for a buffer that is not writable or an array of another type.");
PyDoc_STRVAR(window_text,
             "window($self, /, n=None, timeout=None, at_least=None, overlap=0, raw=False)\n--\n\n"
             "Return a context manager that yields a window of `at_least` to `n` items.\n\n"
             "It is an array over the ring itself, or a memoryview of bytes if `raw` is true. A\n"
             "reader's window begins with `overlap` items that were read before. Leaving the block\n"
             "commits or releases all items; leaving it by an exception commits or releases none.\n"
             "`commit(k)` and `release(k)` end it earlier. Entering it waits `timeout` seconds, None\n"
             "indefinitely.");

#define SHARED_METHODS                                                                         \
    {"window", NAMED(stream_window), window_text},                                             \
        {"_new_window", stream_new_window, METH_VARARGS,                                       \
         SIGNATURE("_new_window($self, few, many, overlap, raw, timeout, /)")},                \
        {"_end_window", stream_end_window, METH_O, SIGNATURE("_end_window($self, items, /)")}, \
        {"_describe", stream_describe, METH_VARARGS,                                           \
         SIGNATURE("_describe($self, itemsize, plain, format, shape, /)")},                    \
        {"_ring", stream_ring, METH_O, SIGNATURE("_ring($self, twice, /)")},                   \
        {"_cut_from", stream_cut_from, METH_O, SIGNATURE("_cut_from($self, array, /)")},       \
        {"_bind", endpoint_bind, METH_VARARGS,                                                 \
         SIGNATURE("_bind($self, address, memory, source, /)")},

static PyObject *type_with(PyObject **type, const char *name, PyMethodDef *methods) {
    PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)stream_dealloc},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name,
        .basicsize = sizeof(py_stream),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(type, &spec);
}

PyObject *writer_type(void) {
    static PyObject *type;
    static PyMethodDef methods[] = {
        {"write", NAMED(stream_write), write_text},
        {"try_write", stream_try_write, METH_O, try_write_text},
        {"_write_some", stream_write_some, METH_VARARGS,
         SIGNATURE("_write_some($self, data, first, /)")},
        SHARED_METHODS{NULL, NULL, 0, NULL},
    };
    return type_with(&type, "ipcheap._core.WriterCore", methods);
}

PyObject *reader_type(void) {
    static PyObject *type;
    static PyMethodDef methods[] = {
        {"read", NAMED(stream_read), read_text},
        {"readinto", NAMED(stream_readinto), readinto_text},
        {"_read_some", stream_read_some, METH_VARARGS,
         SIGNATURE("_read_some($self, buffer, few, /)")},
        {"_peek_some", stream_peek_some, METH_VARARGS,
         SIGNATURE("_peek_some($self, buffer, few, /)")},
        {"_history_some", stream_history_some, METH_VARARGS,
         SIGNATURE("_history_some($self, buffer, few, /)")},
        SHARED_METHODS{NULL, NULL, 0, NULL},
    };
    return type_with(&type, "ipcheap._core.ReaderCore", methods);
}
