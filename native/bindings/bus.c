/* bus.c - the Python type of buses, to which any thread posts. */
#include "gil.h"
#include "types.h"

#include <stdatomic.h>

#include "endpoint.h"
#include "segment/sleep.h"

/* How long a broadcast waits at a time: signal handlers run in between. */
#define LONGEST_LOOK (INT64_C(500) * 1000 * 1000)

typedef struct py_bus {
    PyObject_HEAD
    PyObject *memory; /* the heap's MemoryCore; NULL until _bind() */
    ipcheap_channel channel;
} py_bus;

static const char *const data_and_timeout[] = {"data", "timeout", NULL};
static const char *const record_and_timeout[] = {"record", "timeout", NULL};
static const char *const buffers_and_timeout[] = {"buffers", "timeout", NULL};

static ipcheap_heap *heap_of(const py_bus *self) {
    return self->memory ? ((py_memory *)self->memory)->heap : NULL;
}

/* _bind(memory, index, incarnation, kind, shape): says which bus it is. */
static PyObject *bus_bind(PyObject *object, PyObject *arguments) {
    py_bus *self = (py_bus *)object;
    PyObject *memory;
    unsigned long long shape;
    ipcheap_channel channel;
    if (!PyArg_ParseTuple(arguments, "OIIIK", &memory, &channel.index, &channel.incarnation,
                          &channel.kind, &shape))
        return NULL;
    if (!PyObject_TypeCheck(memory, (PyTypeObject *)memory_type())) {
        PyErr_SetString(PyExc_TypeError, "not a MemoryCore");
        return NULL;
    }
    channel.shape = shape;
    PyObject *before = self->memory;
    self->channel = channel;
    self->memory = Py_NewRef(memory);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

/* Bounds how long the thread waits for the heap lock, by a timeout in seconds; None: not at all. */
static void limit_begin(PyObject *timeout) {
    if (!timeout || timeout == Py_None) return;
    double seconds = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred())
        PyErr_Clear(); /* the call that waits says so */
    else if (seconds < 1e9)
        ipcheap_limit_lock(seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
}

static void limit_end(PyObject *timeout) {
    if (timeout && timeout != Py_None) ipcheap_limit_lock(-1);
}

/* Bytes ---------------------------------------------------------------------------------- */

/* Posts a copy, in a broadcast or by itself: 0 or an error. A long copy is made without the GIL. */
static int post_plain(const py_bus *self, ipcheap_broadcast *broadcast, const ipcheap_bytes *plain,
                      int64_t timeout_ns, uint64_t *position) {
    ipcheap_heap *heap = heap_of(self);
    int error, is_long = plain->nbytes >= LONG_COPY;
    if (!heap) return IPCHEAP_HEAP_CLOSED;
    if (!is_long)
        return broadcast
                   ? keeping_try_broadcast(broadcast, plain->data, plain->nbytes, timeout_ns)
                   : keeping_try_post(heap, &self->channel, plain->data, plain->nbytes, position);
    ipcheap_channel channel = self->channel;
    PyThreadState *state = PyEval_SaveThread();
    if (broadcast)
        error = ipcheap_try_broadcast(broadcast, plain->data, plain->nbytes, timeout_ns);
    else
        error = ipcheap_try_post(heap, &channel, plain->data, plain->nbytes, position);
    if (error == IPCHEAP_SYSTEM) note_errno();
    PyEval_RestoreThread(state);
    return error;
}

static int post_bytes(const py_bus *self, ipcheap_broadcast *broadcast, PyObject *data,
                      int64_t timeout_ns, uint64_t *position) {
    py_bytes bytes;
    int error = bytes_open(&bytes, data);
    if (error) return error;
    error = post_plain(self, broadcast, &bytes.plain, timeout_ns, position);
    bytes_close(&bytes);
    return error;
}

static PyObject *position_or_error(uint64_t position, int error) {
    return error ? PyLong_FromLong(error) : PyLong_FromUnsignedLongLong(position);
}

static PyObject *bus_post(PyObject *self, PyObject *const *given, Py_ssize_t count,
                          PyObject *names) {
    PyObject *arguments[2];
    uint64_t position;
    if (arguments_of(given, count, names, data_and_timeout, 1, arguments)) return NULL;
    limit_begin(arguments[1]);
    int error = post_bytes((py_bus *)self, NULL, arguments[0], 0, &position);
    limit_end(arguments[1]);
    if (!error) return PyLong_FromUnsignedLongLong(position);
    return PyObject_CallMethod(self, "_post_later", "iOO", error, arguments[0],
                               or_none(arguments[1]));
}

/* For callers that do their own waiting: the position, or the error, which is negative. */
static PyObject *bus_attempt_bytes(PyObject *self, PyObject *data) {
    uint64_t position;
    int error = post_bytes((py_bus *)self, NULL, data, 0, &position);
    return position_or_error(position, error);
}

/* Posts copies of at most a batch of a list's objects, from `first` on: how many, or an error. */
static int64_t post_some(const py_bus *self, PyObject *list, Py_ssize_t first) {
    ipcheap_bytes plain[PY_BATCH];
    py_bytes open[PY_BATCH];
    Py_ssize_t most = PyList_Size(list) - first, n = 0;
    ipcheap_heap *heap = heap_of(self);
    int error = heap ? 0 : IPCHEAP_HEAP_CLOSED;
    if (error) return error;
    for (; n < most && n < PY_BATCH; n++) {
        error = bytes_open(&open[n], PyList_GetItem(list, first + n));
        if (error) break;
        plain[n] = open[n].plain;
        if (plain[n].nbytes >= LONG_COPY) {
            if (n > 0) bytes_close(&open[n]);
            break;
        }
    }
    int64_t went = error;
    if (n > 0) {
        went = keeping_try_post_many(heap, &self->channel, plain, (size_t)n);
    } else if (!error) { /* one that is long comes alone */
        uint64_t position;
        error = post_plain(self, NULL, &open[0].plain, 0, &position);
        went = error == IPCHEAP_WOULD_BLOCK ? 0 : error ? error : 1;
        n = 1;
    }
    while (n > 0) bytes_close(&open[--n]);
    return went;
}

/*
 * Posts copies of all objects of a list, a batch at a time. When one does not go, `_await_room()` waits
 * for room and returns the deadline, or raises.
 */
static PyObject *post_all(py_bus *self, PyObject *list, PyObject *timeout, Py_ssize_t *done) {
    Py_ssize_t total = PyList_Size(list);
    PyObject *deadline = Py_NewRef(Py_None);
    while (deadline && *done < total) {
        limit_begin(timeout);
        int64_t went = post_some(self, list, *done);
        limit_end(timeout);
        if (went > 0) {
            *done += (Py_ssize_t)went;
            if (*done < total && PyErr_CheckSignals() != 0) Py_CLEAR(deadline);
            continue;
        }
        int error = went ? (int)went : IPCHEAP_WOULD_BLOCK;
        PyObject *next = PyObject_CallMethod((PyObject *)self, "_await_room", "iOOO", error,
                                             PyList_GetItem(list, *done), timeout, deadline);
        Py_DECREF(deadline);
        deadline = next;
    }
    return deadline;
}

static PyObject *bus_post_many(PyObject *self, PyObject *const *given, Py_ssize_t count,
                               PyObject *names) {
    PyObject *arguments[2];
    Py_ssize_t done = 0;
    if (arguments_of(given, count, names, buffers_and_timeout, 1, arguments)) return NULL;
    PyObject *list = PySequence_List(arguments[0]);
    PyObject *ended = list ? post_all((py_bus *)self, list, or_none(arguments[1]), &done) : NULL;
    Py_XDECREF(list);
    if (!ended) return fail_with_done(done);
    Py_DECREF(ended);
    return PyLong_FromSsize_t(done);
}

/* Records -------------------------------------------------------------------------------- */

static int post_core(const py_bus *self, ipcheap_broadcast *broadcast, ipcheap_record *record,
                     int64_t timeout_ns, uint64_t *position) {
    if (broadcast) return keeping_try_broadcast_record(broadcast, record, timeout_ns);
    return keeping_try_post_record(heap_of(self), &self->channel, record, position);
}

/* Posts a record; after an error it is one of its own handle, which its views and arrays use. */
static int post_record(const py_bus *self, ipcheap_broadcast *broadcast, PyObject *object,
                       int64_t timeout_ns, uint64_t *position) {
    enum fate before;
    ipcheap_heap *heap = heap_of(self);
    if (!heap) return IPCHEAP_HEAP_CLOSED;
    int error = record_begin_sending(object, heap, &before);
    if (error) return error;
    py_record *record = (py_record *)object;
    int other = record->heap != heap;
    if (other) error = keeping_adopt(heap, record->heap, &record->core);
    if (!error) error = post_core(self, broadcast, &record->core, timeout_ns, position);
    if (other && error) keeping_adopt(record->heap, heap, &record->core);
    record_end_sending(object, !error, before);
    return error;
}

static PyObject *bus_post_record(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                 PyObject *names) {
    PyObject *arguments[2];
    uint64_t position;
    if (arguments_of(given, count, names, record_and_timeout, 1, arguments)) return NULL;
    limit_begin(arguments[1]);
    int error = post_record((py_bus *)self, NULL, arguments[0], 0, &position);
    limit_end(arguments[1]);
    if (!error) return PyLong_FromUnsignedLongLong(position);
    return PyObject_CallMethod(self, "_post_record_later", "iOO", error, arguments[0],
                               or_none(arguments[1]));
}

static PyObject *bus_attempt(PyObject *self, PyObject *record) {
    uint64_t position;
    int error = post_record((py_bus *)self, NULL, record, 0, &position);
    return position_or_error(position, error);
}

/* Broadcasts ----------------------------------------------------------------------------- */

/* Posts bytes, or a record, in a broadcast: 0 or an error. */
static int try_broadcast(const py_bus *self, ipcheap_broadcast *broadcast, PyObject *object,
                         int is_record, int64_t timeout_ns) {
    ipcheap_limit_lock(timeout_ns);
    int error = is_record ? post_record(self, broadcast, object, timeout_ns, NULL)
                          : post_bytes(self, broadcast, object, timeout_ns, NULL);
    ipcheap_limit_lock(-1);
    return error;
}

/* _try_broadcast(address, object, is_record, timeout_ns): for callers that do their own waiting. */
static PyObject *bus_try_broadcast(PyObject *self, PyObject *arguments) {
    PyObject *address, *object;
    int is_record;
    long long timeout_ns;
    if (!PyArg_ParseTuple(arguments, "OOpL", &address, &object, &is_record, &timeout_ns))
        return NULL;
    ipcheap_broadcast *broadcast = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return NULL;
    return PyLong_FromLong(try_broadcast((py_bus *)self, broadcast, object, is_record, timeout_ns));
}

/*
 * Waits until all have released what was posted: 0, or -1 with the exception of a signal handler. If an
 * error ends the wait, Python's next wait for the same finds it.
 */
static int await_all(ipcheap_broadcast *broadcast) {
    int error;
    do {
        PyThreadState *state = PyEval_SaveThread();
        error = ipcheap_await_releases(broadcast, LONGEST_LOOK);
        PyEval_RestoreThread(state);
        if (PyErr_CheckSignals() != 0) return -1;
    } while (error == IPCHEAP_TIMED_OUT || error == IPCHEAP_INTERRUPTED);
    return 0;
}

/* Returns the class of reports, a borrowed reference; it is imported when it is first needed. */
static PyObject *report_class(void) {
    static PyObject *_Atomic class;
    PyObject *known = class;
    if (known) return known;
    PyObject *results = PyImport_ImportModule("ipcheap.results");
    PyObject *found = results ? PyObject_GetAttrString(results, "BroadcastReport") : NULL;
    Py_XDECREF(results);
    if (!found || atomic_compare_exchange_strong(&class, &known, found)) return found;
    Py_DECREF(found); /* another thread was faster */
    return known;
}

/* Sets a field; its name is kept for the next time: interning it takes longer than all the rest. */
static int set_field(PyObject *fields, PyObject *_Atomic *name, const char *text, PyObject *value) {
    if (!*name) *name = PyUnicode_InternFromString(text);
    int error = *name && value ? PyDict_SetItem(fields, *name, value) : -1;
    Py_XDECREF(value);
    return error;
}

/* Returns a BroadcastReport of listeners that have all released. Its class would take ten times as long. */
static PyObject *report_new(const ipcheap_broadcast_report *report) {
    static PyObject *_Atomic position, *_Atomic listeners, *_Atomic released, *_Atomic gone,
        *_Atomic slow;
    PyObject *class = report_class();
    PyObject *made = class ? PyType_GenericAlloc((PyTypeObject *)class, 0) : NULL;
    PyObject *fields = made ? PyObject_GenericGetDict(made, NULL) : NULL;
    unsigned long long count = report->listeners, at = report->position;
    if (!fields || set_field(fields, &position, "position", PyLong_FromUnsignedLongLong(at)) ||
        set_field(fields, &listeners, "listeners", PyLong_FromUnsignedLongLong(count)) ||
        set_field(fields, &released, "released", PyLong_FromUnsignedLongLong(count)) ||
        set_field(fields, &gone, "gone", PyLong_FromLong(0)) ||
        set_field(fields, &slow, "slow", PyTuple_New(0)))
        Py_CLEAR(made);
    Py_XDECREF(fields);
    return made;
}

/*
 * _broadcast_now(object, is_record): the short way of a broadcast without a timeout. Returns its report if
 * all to whom it was owed have released it; otherwise the address of the broadcast, which has posted and
 * need not wait, or the error of one that has not posted.
 */
static PyObject *bus_broadcast_now(PyObject *object, PyObject *const *given, Py_ssize_t count) {
    py_bus *self = (py_bus *)object;
    ipcheap_broadcast *broadcast;
    ipcheap_broadcast_report report;
    if (count != 2) return PyErr_Format(PyExc_TypeError, "2 arguments, not %zd", count);
    int error = heap_of(self) ? ipcheap_broadcast_begin(heap_of(self), &self->channel, &broadcast)
                              : IPCHEAP_HEAP_CLOSED;
    if (error) return PyLong_FromLong(error);
    error = try_broadcast(self, broadcast, given[0], given[1] == Py_True, -1);
    if (error) {
        ipcheap_broadcast_end(broadcast);
        return PyLong_FromLong(error);
    }
    if (await_all(broadcast) != 0) {
        ipcheap_broadcast_end(broadcast);
        return NULL;
    }
    ipcheap_broadcast_describe(broadcast, &report);
    if (report.released != report.listeners) return PyLong_FromVoidPtr(broadcast);
    ipcheap_broadcast_end(broadcast);
    return report_new(&report);
}

/* The type ------------------------------------------------------------------------------- */

static PyObject *bus_allocate(PyObject *self, PyObject *const *given, Py_ssize_t count,
                              PyObject *names) {
    static const char *const nbytes_only[] = {"nbytes", NULL};
    PyObject *nbytes;
    if (arguments_of(given, count, names, nbytes_only, 1, &nbytes)) return NULL;
    PyObject *memory = ((py_bus *)self)->memory;
    if (memory) return memory_allocate(memory, nbytes);
    PyErr_SetString(PyExc_TypeError, "a bus is made by Heap.add_bus()");
    return NULL;
}

static void bus_dealloc(PyObject *object) {
    Py_XDECREF(((py_bus *)object)->memory);
    give_back(object);
}

PyDoc_STRVAR(allocate_text,
             "allocate_record($self, /, nbytes)\n--\n\n"
             "Return a record of `nbytes` bytes, not initialised; HeapFull if there is no room.");
PyDoc_STRVAR(post_text,
             "post($self, /, data, timeout=None)\n--\n\n"
             "Post a copy of a bytes-like object; return its position, which counts from 0.\n\n"
             "It is published when the call returns. Waits `timeout` seconds for room in the log,\n"
             "None indefinitely; then TimeoutError names the listener that is in the way. HeapFull\n"
             "if there is no room for the copy, TypeError for what has no buffer. RecordError if "
             "the\n"
             "listener in the way is one of this thread's, and there is no timeout or patience.");
PyDoc_STRVAR(post_record_text,
             "post_record($self, /, record, timeout=None)\n--\n\n"
             "Post a record, not a copy, and return its position; it is then dead.\n\n"
             "It may have been allocated or received on any channel of this heap. Waits `timeout`\n"
             "seconds for room, None indefinitely, and raises as `post` does; RecordError for one that was freed or sent, or is of another\n"
             "heap. After an exception the record is still the caller's.");
PyDoc_STRVAR(post_many_text,
             "post_many($self, /, buffers, timeout=None)\n--\n\n"
             "Post copies of all of these bytes-like objects, in order, and return how many they "
             "were.\n\n"
             "Waits `timeout` seconds for room for all of them, None indefinitely. Otherwise it\n"
             "raises as `post` does; the exception has an attribute `done`: how many were posted,\n"
             "in order. Messages of other writers may stand between them.");

PyObject *bus_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"allocate_record", NAMED(bus_allocate), allocate_text},
        {"post", NAMED(bus_post), post_text},
        {"post_record", NAMED(bus_post_record), post_record_text},
        {"post_many", NAMED(bus_post_many), post_many_text},
        {"_bind", bus_bind, METH_VARARGS,
         SIGNATURE("_bind($self, memory, index, incarnation, kind, shape, /)")},
        {"_attempt", bus_attempt, METH_O, SIGNATURE("_attempt($self, record, /)")},
        {"_attempt_bytes", bus_attempt_bytes, METH_O, SIGNATURE("_attempt_bytes($self, data, /)")},
        {"_try_broadcast", bus_try_broadcast, METH_VARARGS,
         SIGNATURE("_try_broadcast($self, address, what, is_record, timeout_ns, /)")},
        {"_broadcast_now", (PyCFunction)(void (*)(void))bus_broadcast_now, METH_FASTCALL,
         SIGNATURE("_broadcast_now($self, what, is_record, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)bus_dealloc},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.BusCore",
        .basicsize = sizeof(py_bus),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}
