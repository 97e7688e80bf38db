/*
 * stream.c - the Python types of a stream's two sides, and of their windows.
 *
 *   WriterCore, ReaderCore   what the two sides are built on: copies in and out
 *   Window       a context: opens when it is entered, commits or releases when it is left
 *   BlocksCore   an iterator over a reader's windows, one after the other
 *   Pane         the memory that a window shows; arrays and memoryviews keep it alive
 *
 * A window's array is one that an earlier window had, if nobody uses that any more.
 */
#include "endpoint.h"
#include "gil.h"
#include "ndarray.h"
#include "pool.h"

#include <structmember.h>

#include <string.h>

/* What a loop over windows needs: its variable holds the last array until it has the next one. */
enum { SPARES = 3 };

typedef struct py_stream {
    py_endpoint side;
    items_type items;
    int plain;        /* items are bytes: NumPy is not needed */
    PyObject *format; /* of an item's buffer, as bytes; or NULL */
    ipcheap_stream_layout layout;
    /* Under LOCK() of the stream, as are all members of its windows: */
    PyObject *spares[SPARES]; /* arrays over the ring, to be used again; or NULL */
    int oldest;               /* of the spares */
    struct py_window *open;   /* the window that is open, borrowed */
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
    static PyObject *_Atomic type;
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
    pane->view = copied ? NULL : holding_stream_view(self->side.endpoint);
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

/* An object's items. */
typedef struct given_items {
    char *data;
    int has_view;
    Py_buffer view;
} given_items;

/* What a buffer's items are, as the struct module writes it. */
static const char *format_of(const Py_buffer *view) { return view->format ? view->format : "B"; }

static int same_format(const py_stream *self, const Py_buffer *view) {
    return self->format && strcmp(format_of(view), PyBytes_AsString(self->format)) == 0;
}

/* True if a buffer has items of the stream's type, or bytes that can be taken for them. */
static int fits(const py_stream *self, const Py_buffer *view) {
    const char *format = format_of(view);
    if (self->plain) return 1;
    if (view->itemsize == 1 && format[0] && !format[1] && strchr("Bbc", format[0])) return 1;
    if (!same_format(self, view)) return 0;
    Py_ssize_t own = view->ndim - self->items.dimensions;
    if (own < 0 || own > 1) return 0;
    for (Py_ssize_t i = 0; i < self->items.dimensions; i++)
        if (view->shape[own + i] != self->items.shape[i]) return 0;
    return 1;
}

static void items_close(given_items *given) {
    if (given->has_view) PyBuffer_Release(&given->view);
}

/*
 * Returns the bytes of a bytes or bytearray object, NULL if a buffer is needed to have them: exporting
 * one takes as long as a short copy. A bytearray that is not exported may be resized as soon as others
 * have the GIL, which a long copy releases.
 */
static char *bytes_of(PyObject *object, int access, uint64_t *nbytes) {
    if (Py_IS_TYPE(object, &PyBytes_Type) && access != PyBUF_WRITABLE) {
        *nbytes = (uint64_t)PyBytes_Size(object);
        return PyBytes_AsString(object);
    }
    if (FREE_THREADED || !Py_IS_TYPE(object, &PyByteArray_Type)) return NULL;
    *nbytes = (uint64_t)PyByteArray_Size(object);
    return *nbytes < LONG_COPY ? PyByteArray_AsString(object) : NULL;
}

/* Opens an object's items: how many there are, PY_NOT_BYTES or PY_NOT_WHOLE. */
static int64_t items_open(py_stream *self, PyObject *object, given_items *given, int access) {
    uint64_t size = self->items.size, count;
    given->has_view = 0;
    given->data = bytes_of(object, access, &count);
    if (given->data) return count % size ? PY_NOT_WHOLE : (int64_t)(count / size);
    given->data = ndarray_items(object, &self->items, access == PyBUF_WRITABLE, &count);
    /* A long copy is made without the GIL: a buffer keeps others from resizing the array. */
    if (given->data && count * size < LONG_COPY) return (int64_t)count;
    Py_buffer *view = &given->view;
    if (PyObject_GetBuffer(object, view, access | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        PyErr_Clear(); /* the Python class finds out what is wrong with the object */
        return PY_NOT_BYTES;
    }
    given->has_view = 1;
    given->data = view->buf;
    int64_t items = (int64_t)((uint64_t)view->len / size);
    if (!fits(self, view))
        items = PY_NOT_BYTES;
    else if ((uint64_t)items * size != (uint64_t)view->len)
        items = PY_NOT_WHOLE;
    else if (same_format(self, view))
        ndarray_note(object, &self->items);
    if (items < 0) items_close(given);
    return items;
}

/* True for an array whose dtype only the Python class can compare with the items. */
static int may_be_foreign(const py_stream *self, PyObject *object, const given_items *given) {
    if (!given->has_view) return 0; /* its dtype is known */
    const Py_buffer *view = &given->view;
    if (self->plain ? strcmp(format_of(view), "B") == 0 : view->itemsize != 1) return 0;
    return !PyByteArray_Check(object) && !PyMemoryView_Check(object);
}

/* Without the GIL if the copy is long. */
static int64_t write_core(const py_stream *self, const void *items, uint64_t count) {
    ipcheap_endpoint *endpoint = self->side.endpoint;
    if (count * self->items.size < LONG_COPY) return holding_stream_write(endpoint, items, count);
    return releasing_stream_write(endpoint, items, count);
}

static int64_t read_core(const py_stream *self, void *items, uint64_t few, uint64_t many) {
    ipcheap_endpoint *endpoint = self->side.endpoint;
    if (many * self->items.size < LONG_COPY) return holding_stream_read(endpoint, items, few, many);
    return releasing_stream_read(endpoint, items, few, many);
}

/* Writes what fits of an object's items from `first` on: how many, or an error. */
static int64_t write_from(py_stream *self, PyObject *data, uint64_t first, int64_t *total) {
    given_items given;
    *total = 0;
    if (!self->side.endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    int64_t items = items_open(self, data, &given, PyBUF_SIMPLE);
    if (items < 0) return items;
    *total = items;
    uint64_t left = (uint64_t)items > first ? (uint64_t)items - first : 0;
    int64_t done = write_core(self, given.data + first * self->items.size, left);
    items_close(&given);
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

/* True, with an exception, if more than the first two arguments are given by position. */
static int too_many(Py_ssize_t count) {
    if (count <= 2) return 0;
    PyErr_Format(PyExc_TypeError, "at most 2 positional arguments are taken, %zd were given",
                 count);
    return 1;
}

static PyObject *stream_readinto(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                 PyObject *names) {
    static const char *const words[] = {"buffer", "timeout", "at_least", NULL};
    py_stream *self = (py_stream *)object;
    PyObject *arguments[3];
    given_items into;
    if (arguments_of(given, count, names, words, 1, arguments) || too_many(count)) return NULL;
    int64_t done = IPCHEAP_ENDPOINT_CLOSED;
    if (!arguments[2] && self->side.endpoint) {
        int64_t items = items_open(self, arguments[0], &into, PyBUF_WRITABLE);
        done = items;
        if (items >= 0 && may_be_foreign(self, arguments[0], &into)) {
            items_close(&into);
            done = PY_NOT_BYTES;
        } else if (items >= 0) {
            done = read_core(self, into.data, (uint64_t)items, (uint64_t)items);
            if (done == IPCHEAP_WOULD_BLOCK && soon(&self->side))
                done = read_core(self, into.data, (uint64_t)items, (uint64_t)items);
            items_close(&into);
        }
        if (done >= 0) return PyLong_FromLongLong(done);
    }
    return PyObject_CallMethod(object, "_read_into", "OOO", arguments[0], or_none(arguments[1]),
                               or_none(arguments[2]));
}

/*
 * For callers that do their own waiting: fills a buffer by one of the core's calls. They have looked
 * at its type.
 */
typedef int64_t filling(ipcheap_endpoint *, void *, uint64_t, uint64_t);

static PyObject *fill_some(PyObject *object, PyObject *arguments, filling *fill) {
    py_stream *self = (py_stream *)object;
    PyObject *buffer;
    unsigned long long few;
    Py_buffer view;
    if (!PyArg_ParseTuple(arguments, "OK", &buffer, &few)) return NULL;
    if (!self->side.endpoint) return PyLong_FromLong(IPCHEAP_ENDPOINT_CLOSED);
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) != 0) return NULL;
    uint64_t many = (uint64_t)view.len / self->items.size;
    int64_t done = fill(self->side.endpoint, view.buf, few, many);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(done);
}

/* _read_some(buffer, few): fills a buffer with at least `few` items: how many, or an error. */
static PyObject *stream_read_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, holding_stream_read);
}

static PyObject *stream_peek_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, holding_stream_peek);
}

static int64_t history(ipcheap_endpoint *endpoint, void *items, uint64_t few, uint64_t many) {
    (void)few;
    return holding_stream_history(endpoint, items, many);
}

static PyObject *stream_history_some(PyObject *object, PyObject *arguments) {
    return fill_some(object, arguments, history);
}

/* Returns `few` to `count` bytes if they are there now; otherwise the error as a number. */
static PyObject *bytes_now(py_stream *self, int64_t few, int64_t count) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (!bytes) return NULL;
    int64_t done = read_core(self, PyBytes_AsString(bytes), (uint64_t)few, (uint64_t)count);
    if (done == count) return bytes;
    if (done > 0) { /* the last ones: the writer has ended, or overwrites */
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
    if (arguments_of(given, count, names, words, 0, arguments) || too_many(count)) return NULL;
    if (self->plain && self->side.endpoint && !arguments[2]) {
        int64_t few = 1, wanted = -1;
        if (!arguments[0] || arguments[0] == Py_None)
            wanted = holding_stream_ready(self->side.endpoint);
        else if (PyLong_CheckExact(arguments[0]))
            few = wanted = PyLong_AsLongLong(arguments[0]);
        if (wanted == -1 && PyErr_Occurred()) PyErr_Clear();
        if (wanted > 0 && (uint64_t)few <= self->layout.most_waited_for) {
            PyObject *bytes = bytes_now(self, few, wanted);
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

static struct pool windows = {.size = sizeof(py_window)};

/* The writer's array can be written to until its window ends, in whatever way. */
static void make_read_only(const py_window *self) {
    if (self->shown && !self->raw && self->stream->layout.writes) ndarray_seal(self->shown);
}

/* Atomic, because stream_window() looks without a lock. */
static void set_open(py_stream *stream, py_window *open) {
    __atomic_store_n(&stream->open, open, __ATOMIC_RELAXED);
}

/* From here on, the stream is locked wherever a window is opened, ended or forgotten. */
static void window_forget(py_window *self) {
    if (self->stream->open == self) set_open(self->stream, NULL);
    self->is_open = 0;
    make_read_only(self);
    Py_CLEAR(self->shown);
    Py_CLEAR(self->pane);
}

/* True if the endpoint, or the window in it, has ended otherwise. */
static int has_ended(int error) {
    return error == IPCHEAP_ENDPOINT_CLOSED || error == IPCHEAP_HEAP_CLOSED ||
           error == IPCHEAP_WINDOW;
}

static void window_dealloc(PyObject *object) {
    py_window *self = (py_window *)object;
    LOCK((PyObject *)self->stream);
    window_forget(self);
    UNLOCK();
    Py_XDECREF(self->timeout);
    Py_DECREF((PyObject *)self->stream);
    pool_return(&windows, object);
}

/* Returns an array of a former window that nobody uses, moved to this one; or NULL. */
static PyObject *spare_array(const py_window *self, uint64_t items) {
    py_stream *stream = self->stream;
    for (int i = 0; i < SPARES; i++) {
        PyObject *spare = stream->spares[i];
        if (spare &&
            ndarray_move(spare, &stream->items, stream->layout.writes, self->core.data, items))
            return Py_NewRef(spare);
    }
    return NULL;
}

static void drop_spares(py_stream *stream) {
    LOCK((PyObject *)stream);
    for (int i = 0; i < SPARES; i++) Py_CLEAR(stream->spares[i]);
    UNLOCK();
}

/* Keeps an array over the ring, in place of the oldest one, for windows to come. */
static void keep_spare(py_stream *stream, PyObject *array) {
    PyObject *old = stream->spares[stream->oldest];
    stream->spares[stream->oldest] = Py_NewRef(array);
    stream->oldest = (stream->oldest + 1) % SPARES;
    Py_XDECREF(old);
}

static int shows_the_ring(const py_window *self) {
    const py_stream *stream = self->stream;
    const char *start = stream->layout.ring, *data = self->core.data;
    return stream->layout.twice && data >= start && data < start + 2 * stream->layout.ring_bytes;
}

/* Returns what the block gets: an array, or a memoryview of bytes. */
static PyObject *window_show(py_window *self) {
    py_stream *stream = self->stream;
    uint64_t items = self->core.overlap + self->core.items;
    int copied = !shows_the_ring(self), array = !self->raw;
    PyObject *shown = array && !copied ? spare_array(self, items) : NULL;
    if (shown) return shown;
    py_pane *pane = pane_new(stream, self->core.data, items * stream->items.size, copied);
    if (!pane) return NULL;
    if (copied) self->pane = (py_pane *)Py_NewRef((PyObject *)pane);
    shown = array ? PyObject_CallMethod((PyObject *)stream, "_array_of", "OK", (PyObject *)pane,
                                        (unsigned long long)items)
                  : PyMemoryView_FromObject((PyObject *)pane);
    Py_DECREF((PyObject *)pane);
    if (shown && array && !copied && ndarray_learn(shown, &stream->items))
        keep_spare(stream, shown);
    return shown;
}

/* Opens the window: 0, an error, or PY_RAISED. */
static int window_open(py_window *self) {
    ipcheap_endpoint *endpoint = self->stream->side.endpoint;
    if (!endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    if (self->is_open) return IPCHEAP_WINDOW;
    int error = holding_window_open(endpoint, self->few, self->many, self->overlap, &self->core);
    if (error) return error;
    self->is_open = 1;
    set_open(self->stream, self);
    PyObject *shown = window_show(self);
    if (shown && self->is_open) {
        self->shown = shown;
        return 0;
    }
    if (shown) { /* the stream was closed meanwhile, and the window forgotten */
        Py_DECREF(shown);
        return IPCHEAP_ENDPOINT_CLOSED;
    }
    holding_window_close(endpoint, 0);
    window_forget(self);
    return PY_RAISED;
}

/* Opens the window and returns what it shows; or NULL, with an error or PY_RAISED. */
static PyObject *window_opened(py_window *self, int *error) {
    PyObject *shown = NULL;
    LOCK((PyObject *)self->stream);
    *error = window_open(self);
    if (!*error) shown = Py_NewRef(self->shown);
    UNLOCK();
    return shown;
}

/* Ends the window with the first `items` items committed or released: 0 or an error. */
static inline int window_end(py_window *self, uint64_t items) {
    py_stream *stream = self->stream;
    ipcheap_endpoint *endpoint = stream->side.endpoint;
    if (items > self->core.items) return IPCHEAP_BAD_VALUE;
    int error = 0;
    if (stream->layout.writes && self->pane)
        error = holding_window_fill(endpoint, self->core.data, self->pane->data,
                                    (size_t)(items * stream->items.size));
    if (!error) error = holding_window_close(endpoint, items);
    if (!error) window_forget(self);
    return error;
}

static PyObject *window_enter(PyObject *object, PyObject *unused) {
    py_window *self = (py_window *)object;
    (void)unused;
    int error;
    PyObject *shown = window_opened(self, &error);
    if (error == IPCHEAP_WOULD_BLOCK && soon(&self->stream->side))
        shown = window_opened(self, &error);
    if (error == PY_RAISED || !error) return shown;
    return PyObject_CallMethod((PyObject *)self->stream, "_open_later", "OiOK", object, error,
                               self->timeout, (unsigned long long)self->few);
}

/* _open(): for callers that do their own waiting: the array or memoryview, or an error. */
static PyObject *window_attempt(PyObject *object, PyObject *unused) {
    (void)unused;
    int error;
    PyObject *shown = window_opened((py_window *)object, &error);
    return error && error != PY_RAISED ? PyLong_FromLong(error) : shown;
}

static PyObject *window_exit(PyObject *object, PyObject *const *given, Py_ssize_t count) {
    py_window *self = (py_window *)object;
    int error = 0, fine = count > 0 && given[0] == Py_None;
    LOCK((PyObject *)self->stream);
    if (self->is_open) /* otherwise ended by commit(), release() or close() */
        error = window_end(self, fine ? self->core.items : 0);
    if (has_ended(error)) {
        window_forget(self);
        error = 0;
    }
    UNLOCK();
    if (!error) Py_RETURN_NONE;
    return PyObject_CallMethod((PyObject *)self->stream, "_refuse", "i", error);
}

/* _end(items): commits or releases its first items, if it is still open: 0 or an error. */
static PyObject *window_end_some(PyObject *object, PyObject *number) {
    py_window *self = (py_window *)object;
    unsigned long long items = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) return NULL;
    int error;
    LOCK((PyObject *)self->stream);
    error = self->is_open ? window_end(self, items) : 0;
    UNLOCK();
    return PyLong_FromLong(error);
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

/* Returns a number of the window that is, or was last, open. */
static PyObject *number_of(const py_window *self, const uint64_t *number) {
    uint64_t value;
    LOCK((PyObject *)self->stream);
    value = *number;
    UNLOCK();
    return PyLong_FromUnsignedLongLong(value);
}

static PyObject *window_items(PyObject *object, void *unused) {
    (void)unused;
    return number_of((py_window *)object, &((py_window *)object)->core.items);
}

static PyObject *window_overlap(PyObject *object, void *unused) {
    (void)unused;
    return number_of((py_window *)object, &((py_window *)object)->core.overlap);
}

static PyObject *window_position(PyObject *object, void *unused) {
    (void)unused;
    return number_of((py_window *)object, &((py_window *)object)->core.position);
}

static PyObject *window_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"__enter__", window_enter, METH_NOARGS, NULL},
        {"__exit__", (PyCFunction)(void (*)(void))window_exit, METH_FASTCALL, NULL},
        {"__aenter__", window_aenter, METH_NOARGS, NULL},
        {"__aexit__", (PyCFunction)(void (*)(void))window_aexit, METH_FASTCALL, NULL},
        {"_open", window_attempt, METH_NOARGS, SIGNATURE("_open($self, /)")},
        {"_end", window_end_some, METH_O, SIGNATURE("_end($self, items, /)")},
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
    if (!windows.type && !(windows.type = (PyTypeObject *)window_type())) return NULL;
    py_window *made = (py_window *)pool_take(&windows, windows.type);
    if (!made) return NULL;
    made->stream = (py_stream *)Py_NewRef((PyObject *)stream);
    made->few = few;
    made->many = many;
    made->overlap = overlap;
    made->raw = raw;
    made->timeout = Py_NewRef(timeout);
    ALLOW_TRY_NEW_REF((PyObject *)made);
    return (PyObject *)made;
}

/* Blocks ------------------------------------------------------------------------------------- */

/* Only the thread that uses the blocks writes what is said of the last one; any may look. */
typedef struct py_blocks {
    PyObject_HEAD
    py_window *window; /* the same one for all blocks; NULL until _start() */
    unsigned long long hop;
    unsigned long long due; /* so many items of the open block are released with the next request */
    unsigned long long seen; /* items before this position have been in a block */
    int ended;               /* there will be no other block */
} py_blocks;

static py_window *window_of(const py_blocks *self) {
    /* Acquire: pairs with blocks_start(). */
    return __atomic_load_n(&self->window, __ATOMIC_ACQUIRE);
}

/* Ends the open block and releases its first items. */
static void blocks_release(py_blocks *self, uint64_t items) {
    py_window *window = window_of(self);
    if (!window) return;
    LOCK((PyObject *)window->stream);
    if (window->is_open) {
        if (items > window->core.items) items = window->core.items;
        if (has_ended(window_end(window, items))) window_forget(window);
    }
    UNLOCK();
}

static void blocks_dealloc(PyObject *object) {
    py_blocks *self = (py_blocks *)object;
    blocks_release(self, 0); /* of a loop that was left */
    Py_XDECREF((PyObject *)self->window);
    give_back(object);
}

/* Opens the next block: what it shows, or NULL with an error. `whole`: it has all its items. */
static inline PyObject *blocks_open(py_blocks *self, py_window *window, int *error, int *whole) {
    PyObject *shown = NULL;
    LOCK((PyObject *)window->stream);
    *error = window_open(window);
    if (!*error) {
        shown = Py_NewRef(window->shown);
        *whole = window->core.items >= window->few;
        if (*whole) {
            self->seen = window->core.position + window->core.items;
            self->due = self->hop;
        }
    }
    UNLOCK();
    return shown;
}

/* A block of all its items that is there now is returned; the Python class does the rest. */
static PyObject *blocks_next(PyObject *object) {
    py_blocks *self = (py_blocks *)object;
    py_window *window = window_of(self);
    if (!window) return NULL;
    blocks_release(self, self->due);
    if (self->ended) return NULL;
    int error, whole = 0;
    PyObject *shown = blocks_open(self, window, &error, &whole);
    if (error == IPCHEAP_WOULD_BLOCK && soon(&window->stream->side))
        shown = blocks_open(self, window, &error, &whole);
    if (whole || error == PY_RAISED) return shown;
    if (error) return PyObject_CallMethod(object, "_late", "i", error);
    return PyObject_CallMethod(object, "_last", "N", shown);
}

/* _start(window, hop) */
static PyObject *blocks_start(PyObject *object, PyObject *arguments) {
    py_blocks *self = (py_blocks *)object;
    PyObject *window;
    if (!PyArg_ParseTuple(arguments, "O!K", (PyTypeObject *)window_type(), &window, &self->hop))
        return NULL;
    py_window *none = NULL;
    /* Release: pairs with window_of(). Blocks that were started keep their window. */
    if (__atomic_compare_exchange_n(&self->window, &none, (py_window *)window, 0, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED))
        Py_INCREF(window);
    Py_RETURN_NONE;
}

/* _release(items): ends the open block, if one is open, and releases its first items. */
static PyObject *blocks_release_some(PyObject *object, PyObject *number) {
    unsigned long long items = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred()) return NULL;
    blocks_release((py_blocks *)object, items);
    Py_RETURN_NONE;
}

PyObject *blocks_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"_start", blocks_start, METH_VARARGS, SIGNATURE("_start($self, window, hop, /)")},
        {"_release", blocks_release_some, METH_O, SIGNATURE("_release($self, items, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyMemberDef members[] = {
        {"_window", T_OBJECT_EX, offsetof(py_blocks, window), READONLY, NULL},
        {"_hop", T_ULONGLONG, offsetof(py_blocks, hop), READONLY, NULL},
        {"_due", T_ULONGLONG, offsetof(py_blocks, due), 0, NULL},
        {"_seen", T_ULONGLONG, offsetof(py_blocks, seen), 0, NULL},
        {"_ended", T_INT, offsetof(py_blocks, ended), 0, NULL},
        {NULL, 0, 0, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)blocks_dealloc},
        {Py_tp_iter, (void *)PyObject_SelfIter},
        {Py_tp_iternext, (void *)blocks_next},
        {Py_tp_methods, methods},
        {Py_tp_members, members},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.BlocksCore",
        .basicsize = sizeof(py_blocks),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}

/* What the two sides share -------------------------------------------------------------------- */

/* The result may be outdated when it is returned, if another thread uses the stream. */
static int has_open(const py_stream *self) {
    return __atomic_load_n(&self->open, __ATOMIC_RELAXED) != NULL;
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
        if (!overflow && n > 0 && !has_open(self) &&
            (unsigned long long)n <= self->layout.most_waited_for)
            return window_new(self, (uint64_t)n, (uint64_t)n, 0, raw, Py_None);
    }
    if (too_many(count)) return NULL;
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
    PyObject *open;
    int error;
    LOCK(object);
    open = (PyObject *)self->open;
    if (open && !TRY_NEW_REF(open)) open = NULL; /* another thread is about to free it */
    error = open ? window_end((py_window *)open, items)
                 : holding_window_close(self->side.endpoint, items);
    UNLOCK();
    Py_XDECREF(open);
    return PyLong_FromLong(error);
}

/* The stream --------------------------------------------------------------------------------- */

/*
 * _describe(itemsize, format, shape, sample): what the items are; is called once, after _bind().
 * Without a sample, an array of them, they are bytes.
 */
static PyObject *stream_describe(PyObject *object, PyObject *arguments) {
    py_stream *self = (py_stream *)object;
    unsigned long long itemsize;
    PyObject *format, *shape, *sample;
    if (!PyArg_ParseTuple(arguments, "KOO!O", &itemsize, &format, &PyTuple_Type, &shape, &sample))
        return NULL;
    ipcheap_stream_lay_out(self->side.endpoint, &self->layout);
    self->plain = sample == Py_None;
    self->items.size = itemsize;
    self->items.dimensions = PyTuple_Size(shape);
    if (self->items.dimensions > MOST_ITEM_DIMENSIONS) Py_RETURN_NONE; /* the Python class can */
    for (Py_ssize_t i = 0; i < self->items.dimensions; i++)
        self->items.shape[i] = PyLong_AsSsize_t(PyTuple_GetItem(shape, i));
    if (PyErr_Occurred()) return NULL;
    if (format != Py_None) self->format = Py_NewRef(format);
    if (!self->plain) ndarray_learn(sample, &self->items);
    Py_RETURN_NONE;
}

/* _ring(): a pane of all of the ring. */
static PyObject *stream_ring(PyObject *object, PyObject *unused) {
    py_stream *self = (py_stream *)object;
    (void)unused;
    int error = endpoint_refuses(&self->side);
    if (error < 0) return PyObject_CallMethod(object, "_refuse", "i", error);
    return (PyObject *)pane_new(self, self->layout.ring, self->layout.ring_bytes, 0);
}

/* _drop_spares(): forgets the arrays of former windows. */
static PyObject *stream_drop_spares(PyObject *object, PyObject *unused) {
    (void)unused;
    drop_spares((py_stream *)object);
    Py_RETURN_NONE;
}

static void stream_dealloc(PyObject *object) {
    py_stream *self = (py_stream *)object;
    Py_XDECREF(self->format);
    ndarray_forget(&self->items);
    drop_spares(self);
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
             "read($self, /, n=None, timeout=None, *, at_least=None)\n--\n\n"
             "Return a copy of `at_least` to `n` items, and release them.\n\n"
             "Without `at_least` it is `n`; without either, all there is, at least one. The result\n"
             "is bytes if the items are bytes, else an array. Waits `timeout` seconds, None\n"
             "indefinitely. Fewer items come only after the writer's end: first what is left, then\n"
             "ChannelClosed or PeerDied.");
PyDoc_STRVAR(readinto_text,
             "readinto($self, /, buffer, timeout=None, *, at_least=None)\n--\n\n"
             "Fill a writable, contiguous buffer with items, release them, return how many.\n\n"
             "Waits `timeout` seconds, None indefinitely, for as many as the buffer holds, or for\n"
             "`at_least`. TypeError for a buffer that is not writable or an array of another type.");
PyDoc_STRVAR(window_text,
             "window($self, /, n=None, timeout=None, *, at_least=None, overlap=0, raw=False)\n--\n\n"
             "Return a context manager that yields a window of `at_least` to `n` items.\n\n"
             "It is an array over the ring itself, or a memoryview of bytes if `raw` is true. A\n"
             "reader's window begins with `overlap` items that were read before. Leaving the block\n"
             "commits or releases all items; leaving it by an exception commits or releases none.\n"
             "`commit(k)` and `release(k)` end it earlier. Entering it waits `timeout` seconds, None\n"
             "indefinitely.");

#define SHARED_METHODS                                                                          \
    {"window", NAMED(stream_window), window_text},                                              \
        {"_new_window", stream_new_window, METH_VARARGS,                                        \
         SIGNATURE("_new_window($self, few, many, overlap, raw, timeout, /)")},                 \
        {"_end_window", stream_end_window, METH_O, SIGNATURE("_end_window($self, items, /)")},  \
        {"_describe", stream_describe, METH_VARARGS,                                            \
         SIGNATURE("_describe($self, itemsize, format, shape, sample, /)")},                    \
        {"_ring", stream_ring, METH_NOARGS, SIGNATURE("_ring($self, /)")},                      \
        {"_drop_spares", stream_drop_spares, METH_NOARGS, SIGNATURE("_drop_spares($self, /)")}, \
        {"_bind", endpoint_bind, METH_VARARGS,                                                  \
         SIGNATURE("_bind($self, address, memory, source, /)")},

static PyObject *type_with(PyObject *_Atomic *type, const char *name, PyMethodDef *methods) {
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
    static PyObject *_Atomic type;
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
    static PyObject *_Atomic type;
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
