/* producer.c - the Python type of the sending side of a record channel. */
#include "endpoint.h"
#include "gil.h"

static const char *const record_and_timeout[] = {"record", "timeout", NULL};
static const char *const records_and_timeout[] = {"records", "timeout", NULL};
static const char *const data_and_timeout[] = {"data", "timeout", NULL};
static const char *const buffers_and_timeout[] = {"buffers", "timeout", NULL};

/* Returns the heap's MemoryCore, borrowed; raises if there is none. */
static PyObject *memory_of(const py_endpoint *self) {
    if (!self->memory) PyErr_SetString(PyExc_TypeError, "a producer is made by Heap.producer()");
    return self->memory;
}

/* Sends some of a list from `first` on; returns how many, 0 if there was no room, or an error. */
typedef int64_t sender(py_endpoint *self, PyObject *list, Py_ssize_t first);

/* What there is to send, as a list that nobody else has. */
static PyObject *list_of(PyObject *iterable) {
    PyObject *list = PySequence_List(iterable);
    return list ? list : fail_with_done(0);
}

/*
 * Sends all of a list, a batch at a time, and returns how many they were. When a batch does not
 * go, the method `wait` waits for room and returns the deadline, or raises.
 */
static PyObject *send_all(py_endpoint *self, PyObject *list, sender *send, const char *wait,
                          PyObject *timeout) {
    Py_ssize_t sent = 0, total = PyList_Size(list);
    PyObject *deadline = Py_NewRef(Py_None);
    while (deadline && sent < total) {
        int64_t went = send(self, list, sent);
        if (went == 0 && soon(self)) went = send(self, list, sent);
        if (went > 0) {
            sent += (Py_ssize_t)went;
            if (sent < total && PyErr_CheckSignals() != 0) Py_CLEAR(deadline);
            continue;
        }
        int error = went ? (int)went : IPCHEAP_WOULD_BLOCK;
        PyObject *next = PyObject_CallMethod((PyObject *)self, wait, "iOOO", error,
                                             PyList_GetItem(list, sent), or_none(timeout),
                                             deadline);
        Py_DECREF(deadline);
        deadline = next;
    }
    if (!deadline) return fail_with_done(sent);
    Py_DECREF(deadline);
    return PyLong_FromSsize_t(sent);
}

/* Records -------------------------------------------------------------------------------- */

/*
 * Sends a record of another handle on the same heap. If that fails, the record is again one of its
 * own handle, which its views and arrays use.
 */
static int send_of_other(py_endpoint *self, py_record *record) {
    int error = ipcheap_wait(self->endpoint, 0);
    if (error) return error == IPCHEAP_TIMED_OUT ? IPCHEAP_WOULD_BLOCK : error;
    error = keeping_adopt(self->heap, record->heap, &record->core);
    if (error) return error;
    error = keeping_try_send(self->endpoint, &record->core);
    if (error) keeping_adopt(record->heap, self->heap, &record->core);
    return error;
}

static int send_core(py_endpoint *self, py_record *record) {
    if (record->heap != self->heap) return send_of_other(self, record);
    return keeping_try_send(self->endpoint, &record->core);
}

static int try_send(py_endpoint *self, PyObject *object) {
    enum fate before;
    if (!self->endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    int error = record_begin_sending(object, self->heap, &before);
    if (error) return error;
    error = send_core(self, (py_record *)object);
    record_end_sending(object, !error, before);
    return error;
}

/* Tries once more after a short spin. */
static int send_soon(py_endpoint *self, PyObject *object) {
    int error = try_send(self, object);
    return error == IPCHEAP_WOULD_BLOCK && soon(self) ? try_send(self, object) : error;
}

static PyObject *producer_send_record(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                      PyObject *names) {
    PyObject *arguments[2];
    if (arguments_of(given, count, names, record_and_timeout, 1, arguments)) return NULL;
    int error = send_soon((py_endpoint *)self, arguments[0]);
    if (!error) Py_RETURN_NONE;
    return PyObject_CallMethod(self, "_send_when_ready", "iOO", error, arguments[0],
                               or_none(arguments[1]));
}

static PyObject *producer_try_send_record(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                          PyObject *names) {
    static const char *const record_only[] = {"record", NULL};
    PyObject *object;
    if (arguments_of(given, count, names, record_only, 1, &object)) return NULL;
    int error = try_send((py_endpoint *)self, object);
    if (!error) Py_RETURN_TRUE;
    if (error == IPCHEAP_WOULD_BLOCK) Py_RETURN_FALSE;
    return PyObject_CallMethod(self, "_refuse", "iO", error, object);
}

/* For callers that do their own waiting: 0 or an error. */
static PyObject *producer_attempt(PyObject *self, PyObject *object) {
    return PyLong_FromLong(try_send((py_endpoint *)self, object));
}

/* Returns whether a record could be sent if there were room: 0 or an error. */
static PyObject *producer_sendable(PyObject *self, PyObject *object) {
    return PyLong_FromLong(record_outgoing(object, ((py_endpoint *)self)->heap));
}

/* Returns the place in the list of a record that cannot be sent or stands there twice; *error. */
static Py_ssize_t find_unsendable(py_endpoint *self, PyObject *list, int *error) {
    Py_ssize_t total = PyList_Size(list), seen = 0;
    for (*error = 0; seen < total; seen++) {
        *error = record_list(PyList_GetItem(list, seen), self->heap, list);
        if (*error) break;
    }
    for (Py_ssize_t i = 0; i < seen; i++) record_unlist(PyList_GetItem(list, i), list);
    return seen;
}

/* Returns whether an object of a list that was checked is a record of another handle. */
static int is_of_other(const py_endpoint *self, PyObject *object) {
    return ((py_record *)object)->heap != self->heap;
}

/*
 * Sends at most a batch of a list's records, from `first` on; returns how many, or an error. Each
 * is checked again, because another thread may have freed one.
 */
static int64_t send_some(py_endpoint *self, PyObject *list, Py_ssize_t first) {
    if (!self->endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    PyObject *objects[PY_BATCH];
    ipcheap_record batch[PY_BATCH];
    enum fate before[PY_BATCH];
    Py_ssize_t n = 0;
    for (; n < PY_BATCH && first + n < PyList_Size(list); n++) {
        PyObject *object = objects[n] = PyList_GetItem(list, first + n);
        int other = is_of_other(self, object);
        if (other && n > 0) break;
        int error = other ? try_send(self, object)
                          : record_begin_sending(object, self->heap, &before[n]);
        if (other) return error == IPCHEAP_WOULD_BLOCK ? 0 : error ? error : 1;
        if (error && n == 0) return error;
        if (error) break;
        batch[n] = ((py_record *)object)->core;
    }
    int64_t went = keeping_try_send_many(self->endpoint, batch, (size_t)n);
    for (Py_ssize_t i = 0; i < n; i++) record_end_sending(objects[i], i < went, before[i]);
    return went;
}

static PyObject *producer_send_records(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                       PyObject *names) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *arguments[2];
    int error;
    if (arguments_of(given, count, names, records_and_timeout, 1, arguments)) return NULL;
    PyObject *result = NULL, *list = list_of(arguments[0]);
    if (!list) return NULL;
    Py_ssize_t at = find_unsendable(self, list, &error);
    if (!error)
        result = send_all(self, list, send_some, "_await_room", arguments[1]);
    else if (!PyObject_CallMethod(object, "_refuse", "iO", error, PyList_GetItem(list, at)))
        fail_with_done(0);
    Py_DECREF(list);
    return result;
}

/* Bytes ---------------------------------------------------------------------------------- */

static int send_short(py_endpoint *self, const ipcheap_bytes *plain) {
    int64_t went = keeping_try_send_copies(self->endpoint, plain, 1);
    return went > 0 ? 0 : went ? (int)went : IPCHEAP_WOULD_BLOCK;
}

/* Copies without the GIL, and before there is room, so that a free slot is not kept waiting. */
static int send_long(py_endpoint *self, PyObject *data, int spinning) {
    ipcheap_record record;
    int error = copy_in(self->heap, data, &record);
    if (error) return error;
    error = keeping_try_send(self->endpoint, &record);
    if (error == IPCHEAP_WOULD_BLOCK && spinning && soon(self))
        error = keeping_try_send(self->endpoint, &record);
    if (error) keeping_free(self->heap, &record);
    return error;
}

static int send_bytes(py_endpoint *self, PyObject *data, int spinning) {
    py_bytes bytes;
    if (!self->endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    int error = bytes_open(&bytes, data);
    if (error) return error;
    int is_long = bytes.plain.nbytes >= LONG_COPY;
    if (!is_long) error = send_short(self, &bytes.plain);
    if (error == IPCHEAP_WOULD_BLOCK && spinning && soon(self))
        error = send_short(self, &bytes.plain);
    bytes_close(&bytes);
    return is_long ? send_long(self, data, spinning) : error;
}

static PyObject *producer_send(PyObject *self, PyObject *const *given, Py_ssize_t count,
                               PyObject *names) {
    PyObject *arguments[2];
    if (arguments_of(given, count, names, data_and_timeout, 1, arguments)) return NULL;
    int error = send_bytes((py_endpoint *)self, arguments[0], 1);
    if (!error) Py_RETURN_NONE;
    return PyObject_CallMethod(self, "_send_later", "iOO", error, arguments[0],
                               or_none(arguments[1]));
}

static PyObject *producer_attempt_bytes(PyObject *self, PyObject *data) {
    return PyLong_FromLong(send_bytes((py_endpoint *)self, data, 0));
}

/* Sends copies of at most a batch of a list's objects, from `first` on; how many, or an error. */
static int64_t send_some_bytes(py_endpoint *self, PyObject *list, Py_ssize_t first) {
    ipcheap_bytes plain[PY_BATCH];
    py_bytes other[PY_BATCH]; /* of what is not bytes; bytes are kept by the list */
    Py_ssize_t most = PyList_Size(list) - first, n = 0, others = 0;
    int64_t went = 0;
    if (!self->endpoint) return IPCHEAP_ENDPOINT_CLOSED;
    for (; n < most && n < PY_BATCH; n++) {
        PyObject *object = PyList_GetItem(list, first + n);
        if (PyBytes_CheckExact(object)) {
            plain[n].data = PyBytes_AsString(object);
            plain[n].nbytes = (uint64_t)PyBytes_Size(object);
        } else {
            int error = bytes_open(&other[others], object);
            if (error && n == 0) return error;
            if (error) break;
            plain[n] = other[others++].plain;
        }
        if (plain[n].nbytes >= LONG_COPY) break;
    }
    if (n > 0) went = keeping_try_send_copies(self->endpoint, plain, (size_t)n);
    while (others > 0) bytes_close(&other[--others]);
    if (n > 0) return went;
    went = send_long(self, PyList_GetItem(list, first), 0);
    return went == 0 ? 1 : went == IPCHEAP_WOULD_BLOCK ? 0 : went;
}

static PyObject *producer_send_many(PyObject *object, PyObject *const *given, Py_ssize_t count,
                                    PyObject *names) {
    py_endpoint *self = (py_endpoint *)object;
    PyObject *arguments[2];
    if (arguments_of(given, count, names, buffers_and_timeout, 1, arguments)) return NULL;
    PyObject *list = list_of(arguments[0]);
    if (!list) return NULL;
    PyObject *result = send_all(self, list, send_some_bytes, "_await_room_for_bytes", arguments[1]);
    Py_DECREF(list);
    return result;
}

/* Objects -------------------------------------------------------------------------------- */

/*
 * Packs a sequence of bytes-like objects and sends the record. Returns None if it was sent, the record
 * if it was not, and the error as a number if there is none.
 */
static PyObject *producer_send_packed(PyObject *self, PyObject *pieces) {
    PyObject *memory = memory_of((py_endpoint *)self);
    PyObject *made = memory ? memory_pack(memory, pieces) : NULL;
    if (!made || !record_is(made) || send_soon((py_endpoint *)self, made) != 0) return made;
    Py_DECREF(made);
    Py_RETURN_NONE;
}

/* The type ------------------------------------------------------------------------------- */

static PyObject *producer_allocate(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                   PyObject *names) {
    static const char *const nbytes_only[] = {"nbytes", NULL};
    PyObject *nbytes;
    if (arguments_of(given, count, names, nbytes_only, 1, &nbytes)) return NULL;
    PyObject *memory = memory_of((py_endpoint *)self);
    return memory ? memory_allocate(memory, nbytes) : NULL;
}

PyDoc_STRVAR(allocate_text,
             "allocate_record($self, /, nbytes)\n--\n\n"
             "Return a record of `nbytes` bytes, not initialised; HeapFull if there is no room.");
PyDoc_STRVAR(send_record_text,
             "send_record($self, /, record, timeout=None)\n--\n\n"
             "Send a record, allocated or received on any channel of this heap; it is then "
             "dead.\n\n"
             "RecordError for one that was freed or sent, or is of another heap. Waits `timeout`\n"
             "seconds for room in the ring; None waits indefinitely.");
PyDoc_STRVAR(try_send_record_text,
             "try_send_record($self, /, record)\n--\n\n"
             "Send a record if there is room for it; return whether it was sent.\n\n"
             "Raises as `send_record` does, except TimeoutError.");
PyDoc_STRVAR(send_records_text,
             "send_records($self, /, records, timeout=None)\n--\n\n"
             "Send all of these records, in order, and return how many they were.\n\n"
             "Waits `timeout` seconds for room for all of them, None indefinitely. Otherwise it\n"
             "raises as `send_record` does; the exception has an attribute `done`: how many\n"
             "were sent, in order. The rest is still the caller's. RecordError, with none sent,\n"
             "if one of them cannot be sent or stands in the list twice.");
PyDoc_STRVAR(send_text,
             "send($self, /, data, timeout=None)\n--\n\n"
             "Send a copy of a bytes-like object, which must be C-contiguous.\n\n"
             "HeapFull if there is no room for the copy, TypeError for what has no buffer.\n"
             "Waits `timeout` seconds for room in the ring; None waits indefinitely.");
PyDoc_STRVAR(send_many_text,
             "send_many($self, /, buffers, timeout=None)\n--\n\n"
             "Send copies of all of these bytes-like objects, in order, and return how many they "
             "were.\n\n"
             "Waits `timeout` seconds for room for all of them, None indefinitely. Otherwise it\n"
             "raises as `send` does; the exception has an attribute `done`: how many were sent,\n"
             "in order. If the iterable itself raises, none was.");

PyObject *producer_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"allocate_record", NAMED(producer_allocate), allocate_text},
        {"send_record", NAMED(producer_send_record), send_record_text},
        {"try_send_record", NAMED(producer_try_send_record), try_send_record_text},
        {"send_records", NAMED(producer_send_records), send_records_text},
        {"send", NAMED(producer_send), send_text},
        {"send_many", NAMED(producer_send_many), send_many_text},
        {"_bind", endpoint_bind, METH_VARARGS,
         SIGNATURE("_bind($self, address, memory, source, /)")},
        {"_attempt", producer_attempt, METH_O, SIGNATURE("_attempt($self, record, /)")},
        {"_attempt_bytes", producer_attempt_bytes, METH_O,
         SIGNATURE("_attempt_bytes($self, data, /)")},
        {"_send_packed", producer_send_packed, METH_O, SIGNATURE("_send_packed($self, pieces, /)")},
        {"_sendable", producer_sendable, METH_O, SIGNATURE("_sendable($self, record, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)endpoint_dealloc},
        {Py_tp_methods, methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.ProducerCore",
        .basicsize = sizeof(py_endpoint),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}
