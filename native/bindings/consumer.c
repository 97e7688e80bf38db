/* consumer.c - the receiving side of a record channel as a Python object. */
#include "endpoint.h"
#include "gil.h"

#include <structmember.h>

typedef struct py_consumer {
    py_endpoint side;
    ipcheap_record waiting; /* received, but Python had no memory to pass it on: the next one */
    _Atomic int waits;      /* there is such a record; any thread may look */
    int hears;              /* it is a listener: what it receives are messages */
} py_consumer;

static const char *const timeout_only[] = {"timeout", NULL};
static const char *const limit_and_timeout[] = {"limit", "timeout", NULL};

/* Returns whether a record is left over that the caller may have; the core is then not asked. */
static int left_over(const py_consumer *self, int *error) {
    *error = self->side.endpoint ? 0 : IPCHEAP_ENDPOINT_CLOSED;
    if (*error || !self->waits) return 0;
    *error = endpoint_refuses(&self->side);
    return !*error;
}

static int received(py_consumer *self, ipcheap_record *record) {
    int error;
    if (left_over(self, &error)) {
        *record = self->waiting;
        self->waits = 0;
    } else if (!error) {
        error = keeping_try_receive(self->side.endpoint, record);
    }
    return error;
}

static int receive_core(py_consumer *self, ipcheap_record *record, int spinning) {
    int error = received(self, record);
    if (error != IPCHEAP_WOULD_BLOCK || !spinning || !soon(&self->side)) return error;
    return received(self, record);
}

static void take_back(py_consumer *self, const ipcheap_record *record) {
    self->waiting = *record;
    self->waits = 1;
}

/* Waiting -------------------------------------------------------------------------------- */

/* How long a call waits here. Longer waits are Python's: there, signal handlers run in between. */
#define LONGEST_LOOK (INT64_C(500) * 1000 * 1000)

/* The wait of a call that has found nothing. */
struct wait {
    PyObject *timeout; /* of the call; borrowed */
    int64_t most;  /* ns that it may wait here; 0: it is for Python to say what the timeout is */
    int64_t begin; /* 0: it has not waited yet */
};

static struct wait wait_of(PyObject *timeout) {
    struct wait wait = {or_none(timeout), LONGEST_LOOK, 0};
    if (wait.timeout == Py_None) return wait;
    int plain = PyFloat_CheckExact(wait.timeout) || PyLong_CheckExact(wait.timeout);
    double seconds = plain ? PyFloat_AsDouble(wait.timeout) : 0;
    if (PyErr_Occurred()) PyErr_Clear(); /* a number beyond all: it is -1 */
    if (!(seconds > 0))
        wait.most = 0;
    else if (seconds < 0.5)
        wait.most = (int64_t)(seconds * 1e9);
    return wait;
}

/* Waits until there may be something to receive: true if so; false if Python has to go on. */
static int wait_here(const py_consumer *self, struct wait *wait) {
    if (!wait->most) return 0;
    int64_t at = ipcheap_clock();
    if (!wait->begin) wait->begin = at;
    int64_t left = wait->most - (at - wait->begin);
    if (left <= 0) return 0;
    PyThreadState *state = PyEval_SaveThread();
    int error = ipcheap_wait(self->side.endpoint, left);
    PyEval_RestoreThread(state);
    return !error;
}

/*
 * Has Python wait, or raise, after the error of an attempt. Its method takes the error, the limit unless
 * that is NULL, and what is left of the timeout.
 */
static PyObject *wait_there(PyObject *self, const char *method, int error, const Py_ssize_t *limit,
                            const struct wait *wait) {
    PyObject *left = Py_NewRef(wait->timeout);
    if (wait->begin && left != Py_None) {
        double most = PyFloat_AsDouble(left), used = (double)(ipcheap_clock() - wait->begin) / 1e9;
        Py_DECREF(left);
        left = PyFloat_FromDouble(most > used ? most - used : 0);
        if (!left) return NULL;
    }
    PyObject *result = limit ? PyObject_CallMethod(self, method, "inO", error, *limit, left)
                             : PyObject_CallMethod(self, method, "iO", error, left);
    Py_DECREF(left);
    return result;
}

/* After an exception: 0 if memory ran out and there are items to return first, or PY_RAISED. */
static int what_there_is(PyObject *list) {
    if (!list || PyList_Size(list) == 0 || !PyErr_ExceptionMatches(PyExc_MemoryError))
        return PY_RAISED;
    PyErr_Clear();
    return 0;
}

/* Fills a list up to a limit, and makes it if there is none: 0, or an error and nothing added. */
typedef int filler(PyObject *self, PyObject **list, Py_ssize_t limit);

/*
 * Returns a list of up to `limit` items. If there are none, returns what a Python method returns.
 */
static PyObject *receive_list(PyObject *self, PyObject *const *arguments, filler *fill,
                              const char *otherwise) {
    Py_ssize_t limit = arguments[0] ? PyNumber_AsSsize_t(arguments[0], NULL) : 256;
    if (limit == -1 && PyErr_Occurred()) return NULL;
    PyObject *list = NULL;
    int error = limit < 1 ? IPCHEAP_BAD_VALUE : fill(self, &list, limit);
    if (error == 0) return list;
    struct wait wait = wait_of(arguments[1]);
    while (error == IPCHEAP_WOULD_BLOCK && wait_here((py_consumer *)self, &wait))
        error = fill(self, &list, limit);
    if (error == 0) return list;
    Py_XDECREF(list);
    if (error == PY_RAISED) return NULL;
    return wait_there(self, otherwise, error, &limit, &wait);
}

/* For callers that do their own waiting: fills their list up to a limit; 0 or an error. */
static PyObject *receive_into(PyObject *self, PyObject *arguments, filler *fill) {
    PyObject *list;
    Py_ssize_t limit;
    if (!PyArg_ParseTuple(arguments, "On", &list, &limit)) return NULL;
    int error = fill(self, &list, limit);
    return error == PY_RAISED ? NULL : PyLong_FromLong(error);
}

/* Records -------------------------------------------------------------------------------- */

/* Returns a record; or NULL with the core's error, or with an exception set and *error 0. */
static PyObject *receive(py_consumer *self, int spinning, int *error) {
    *error = self->side.endpoint ? 0 : IPCHEAP_ENDPOINT_CLOSED;
    if (*error) return NULL;
    PyObject *made = self->hears ? message_new(self->side.heap, self->side.source)
                                 : record_new(self->side.heap, self->side.source);
    if (!made) return NULL;
    ipcheap_record *core = &((py_record *)made)->core;
    *error = receive_core(self, core, spinning);
    if (!*error && record_announce(made) == 0) return made;
    if (!*error) take_back(self, core);
    record_drop(made);
    return NULL;
}

static PyObject *consumer_recv_record(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                      PyObject *names) {
    PyObject *timeout;
    int error;
    if (arguments_of(given, count, names, timeout_only, 0, &timeout)) return NULL;
    PyObject *made = receive((py_consumer *)self, 1, &error);
    if (made || !error) return made;
    struct wait wait = wait_of(timeout);
    while (error == IPCHEAP_WOULD_BLOCK && wait_here((py_consumer *)self, &wait))
        made = receive((py_consumer *)self, 0, &error);
    if (made || !error) return made;
    return wait_there(self, "_receive_when_ready", error, NULL, &wait);
}

static PyObject *consumer_try_recv_record(PyObject *self, PyObject *unused) {
    (void)unused;
    int error;
    PyObject *made = receive((py_consumer *)self, 0, &error);
    if (made || !error) return made;
    if (error == IPCHEAP_WOULD_BLOCK) Py_RETURN_NONE;
    return PyObject_CallMethod(self, "_refuse", "i", error);
}

/* For callers that do their own waiting: returns a record, or the error as a number. */
static PyObject *consumer_attempt(PyObject *self, PyObject *unused) {
    (void)unused;
    int error;
    PyObject *made = receive((py_consumer *)self, 0, &error);
    return made || !error ? made : PyLong_FromLong(error);
}

/* Receives the next record, if it is of the given form, as a block; or returns an error. */
static PyObject *consumer_receive_form(PyObject *object, PyObject *number) {
    py_consumer *self = (py_consumer *)object;
    long form = PyLong_AsLong(number);
    uint64_t nbytes;
    uint32_t next;
    ipcheap_record core;
    int error;
    if (form == -1 && PyErr_Occurred()) return NULL;
    if (left_over(self, &error)) {
        next = self->waiting.form;
    } else if (!error) {
        error = keeping_peek(self->side.endpoint, &nbytes, &next);
        if (error == IPCHEAP_WOULD_BLOCK && soon(&self->side))
            error = keeping_peek(self->side.endpoint, &nbytes, &next);
    }
    if (!error && next != (uint32_t)form) error = PY_OTHER_FORM;
    if (!error) error = received(self, &core);
    if (error) return PyLong_FromLong(error);
    PyObject *made = block_new(&core, self->side.heap, self->side.source, self->hears);
    if (!made) take_back(self, &core);
    return made;
}

/* Returns an error, or 0 if there are items to return first; then what was lost is told next. */
static int error_beside(const py_consumer *self, PyObject *list, int error) {
    if (PyList_Size(list) == 0) return error;
    if (error == IPCHEAP_MESSAGES_LOST) ipcheap_listener_tell_again(self->side.endpoint);
    return 0;
}

static int receive_records(PyObject *self, PyObject **into, Py_ssize_t limit) {
    int error = 0;
    if (!*into && !(*into = PyList_New(0))) return PY_RAISED;
    PyObject *list = *into;
    while (PyList_Size(list) < limit) {
        PyObject *next = receive((py_consumer *)self, 0, &error);
        if (!next && error) return error_beside((py_consumer *)self, list, error);
        if (!next) return what_there_is(list);
        if (PyList_Append(list, next) != 0) {
            take_back((py_consumer *)self, &((py_record *)next)->core);
            record_drop(next);
            return what_there_is(list);
        }
        Py_DECREF(next);
    }
    return 0;
}

static PyObject *consumer_recv_records(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                       PyObject *names) {
    PyObject *arguments[2];
    if (arguments_of(given, count, names, limit_and_timeout, 1, arguments)) return NULL;
    return receive_list(self, arguments, receive_records, "_receive_records_later");
}

static PyObject *consumer_receive_some(PyObject *self, PyObject *arguments) {
    return receive_into(self, arguments, receive_records);
}

/* Bytes ---------------------------------------------------------------------------------- */

/* Receives copies until the taker takes no more; returns how many, or an error. */
static int64_t copy_some(py_consumer *self, ipcheap_taker *take, void *context, size_t limit) {
    int error;
    if (left_over(self, &error)) return IPCHEAP_WOULD_SLEEP; /* receive_long() takes it */
    if (error) return error;
    /* Before Python 3.12 a new list may start the garbage collector, and so any Python code. */
    int collecting = FREE_THREADED ? 0 : PyGC_Disable();
    int64_t got = holding_try_receive_copies(self->side.endpoint, take, context, limit);
    if (collecting) PyGC_Enable();
    return got;
}

typedef int keeper(void *context, PyObject *bytes);

static int keep_one(void *context, PyObject *bytes) {
    *(PyObject **)context = bytes;
    return bytes ? 0 : PY_RAISED;
}

static int take_one(void *context, const ipcheap_bytes *records, size_t count) {
    (void)count;
    if (records->nbytes >= LONG_COPY) return IPCHEAP_WOULD_SLEEP;
    return keep_one(context, PyBytes_FromStringAndSize(records->data, (Py_ssize_t)records->nbytes));
}

/*
 * Receives one record that is long, or that the core cannot free with the GIL kept. Frees it once
 * the copy is kept.
 */
static int receive_long(py_consumer *self, keeper *keep, void *context) {
    ipcheap_record record;
    int error = received(self, &record);
    if (error) return error;
    error = keep(context, copy_out(&record));
    if (error)
        take_back(self, &record);
    else
        keeping_free(self->side.heap, &record);
    return error;
}

static int try_receive_bytes(py_consumer *self, PyObject **bytes) {
    int64_t got = copy_some(self, take_one, bytes, 1);
    if (got == IPCHEAP_WOULD_SLEEP) return receive_long(self, keep_one, bytes);
    return got > 0 ? 0 : got ? (int)got : IPCHEAP_WOULD_BLOCK;
}

/*
 * Returns a copy of the next record; or NULL with the core's error, or with an exception set and
 * *error 0.
 */
static PyObject *receive_bytes(py_consumer *self, int spinning, int *error) {
    PyObject *bytes = NULL;
    *error = try_receive_bytes(self, &bytes);
    if (*error == IPCHEAP_WOULD_BLOCK && spinning && soon(&self->side))
        *error = try_receive_bytes(self, &bytes);
    if (*error == PY_RAISED) *error = 0;
    return bytes;
}

static PyObject *consumer_recv(PyObject *self, PyObject *const *given, Py_ssize_t count,
                               PyObject *names) {
    PyObject *timeout;
    int error;
    if (arguments_of(given, count, names, timeout_only, 0, &timeout)) return NULL;
    PyObject *bytes = receive_bytes((py_consumer *)self, 1, &error);
    if (bytes || !error) return bytes;
    struct wait wait = wait_of(timeout);
    while (error == IPCHEAP_WOULD_BLOCK && wait_here((py_consumer *)self, &wait))
        bytes = receive_bytes((py_consumer *)self, 0, &error);
    if (bytes || !error) return bytes;
    return wait_there(self, "_receive_later", error, NULL, &wait);
}

static PyObject *consumer_attempt_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    int error;
    PyObject *bytes = receive_bytes((py_consumer *)self, 0, &error);
    return bytes || !error ? bytes : PyLong_FromLong(error);
}

/* A list of bytes, NULL until there are some, and why the last group was not taken. */
struct bytes_list {
    PyObject *list;
    int error;
};

/* Adds all items of another list, or none; steals the list. */
static int join(struct bytes_list *into, PyObject *more) {
    into->error = more ? 0 : PY_RAISED;
    if (!more || !into->list) {
        if (more) into->list = more;
        return into->error;
    }
    Py_ssize_t end = PyList_Size(into->list);
    if (PyList_SetSlice(into->list, end, end, more) != 0) into->error = PY_RAISED;
    Py_DECREF(more);
    return into->error;
}

static int keep_in_list(void *context, PyObject *bytes) {
    PyObject *more = bytes ? PyList_New(1) : NULL;
    if (more)
        PyList_SetItem(more, 0, bytes);
    else
        Py_XDECREF(bytes);
    return join(context, more);
}

static int take_into_list(void *context, const ipcheap_bytes *records, size_t count) {
    struct bytes_list *into = context;
    into->error = IPCHEAP_WOULD_SLEEP;
    if (records->nbytes >= LONG_COPY) return into->error; /* a long record comes alone */
    /* Of the right length from the start: appending takes a tenth longer. */
    PyObject *more = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; more && i < count; i++) {
        PyObject *bytes = PyBytes_FromStringAndSize(records[i].data, (Py_ssize_t)records[i].nbytes);
        if (!bytes || PyList_SetItem(more, (Py_ssize_t)i, bytes) != 0) Py_CLEAR(more);
    }
    return join(into, more);
}

static Py_ssize_t length_of(const struct bytes_list *of) {
    return of->list ? PyList_Size(of->list) : 0;
}

/* Does for bytes what receive_records() does for records. */
static int receive_many(PyObject *object, PyObject **list, Py_ssize_t limit) {
    py_consumer *self = (py_consumer *)object;
    struct bytes_list into = {*list, 0};
    int64_t got = 1;
    while (got > 0 && length_of(&into) < limit) {
        got = copy_some(self, take_into_list, &into, (size_t)(limit - length_of(&into)));
        if (into.error == PY_RAISED) got = PY_RAISED;
        if (got != IPCHEAP_WOULD_SLEEP) continue;
        got = receive_long(self, keep_in_list, &into);
        if (got == 0) got = 1;
    }
    *list = into.list;
    if (got == PY_RAISED) return what_there_is(into.list);
    if (length_of(&into)) return error_beside(self, into.list, (int)got);
    return got ? (int)got : IPCHEAP_WOULD_BLOCK;
}

static PyObject *consumer_recv_many(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                    PyObject *names) {
    PyObject *arguments[2];
    if (arguments_of(given, count, names, limit_and_timeout, 0, arguments)) return NULL;
    return receive_list(self, arguments, receive_many, "_receive_many_later");
}

static PyObject *consumer_receive_some_bytes(PyObject *self, PyObject *arguments) {
    return receive_into(self, arguments, receive_many);
}

/* The type ------------------------------------------------------------------------------- */

static PyObject *consumer_left_over(PyObject *object, void *unused) {
    (void)unused;
    py_consumer *self = (py_consumer *)object;
    return PyLong_FromLong(self->waits);
}

PyDoc_STRVAR(recv_record_text,
             "recv_record($self, /, timeout=None)\n--\n\n"
             "Return the next record.\n\n"
             "Waits `timeout` seconds for one; None waits indefinitely.");
PyDoc_STRVAR(try_recv_record_text,
             "try_recv_record($self, /)\n--\n\n"
             "Return the next record, or None if there is none yet; raises as `recv_record` "
             "does.");
PyDoc_STRVAR(recv_records_text,
             "recv_records($self, /, limit, timeout=None)\n--\n\n"
             "Return up to `limit` records: as many as there are, at least one.\n\n"
             "Waits `timeout` seconds for one; None waits indefinitely. ValueError if `limit` is\n"
             "below 1.");
PyDoc_STRVAR(recv_text,
             "recv($self, /, timeout=None)\n--\n\n"
             "Return a copy of the next record, which is freed.\n\n"
             "Waits `timeout` seconds for one; None waits indefinitely.");
PyDoc_STRVAR(recv_many_text,
             "recv_many($self, /, limit=256, timeout=None)\n--\n\n"
             "Return copies of up to `limit` records: as many as there are, at least one.\n\n"
             "Waits `timeout` seconds for one; None waits indefinitely. ValueError if `limit` is\n"
             "below 1.");

PyObject *consumer_type(void) {
    static PyObject *_Atomic type;
    static PyMethodDef methods[] = {
        {"recv_record", NAMED(consumer_recv_record), recv_record_text},
        {"try_recv_record", consumer_try_recv_record, METH_NOARGS, try_recv_record_text},
        {"recv_records", NAMED(consumer_recv_records), recv_records_text},
        {"recv", NAMED(consumer_recv), recv_text},
        {"recv_many", NAMED(consumer_recv_many), recv_many_text},
        {"_bind", endpoint_bind, METH_VARARGS,
         SIGNATURE("_bind($self, address, memory, source, /)")},
        {"_attempt", consumer_attempt, METH_NOARGS, SIGNATURE("_attempt($self, /)")},
        {"_attempt_bytes", consumer_attempt_bytes, METH_NOARGS,
         SIGNATURE("_attempt_bytes($self, /)")},
        {"_receive_form", consumer_receive_form, METH_O,
         SIGNATURE("_receive_form($self, form, /)")},
        {"_receive_some", consumer_receive_some, METH_VARARGS,
         SIGNATURE("_receive_some($self, records, limit, /)")},
        {"_receive_some_bytes", consumer_receive_some_bytes, METH_VARARGS,
         SIGNATURE("_receive_some_bytes($self, buffers, limit, /)")},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"_left_over", consumer_left_over, NULL, NULL, NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyMemberDef members[] = {
        {"_hears", T_INT, offsetof(py_consumer, hears), 0, NULL},
        {NULL, 0, 0, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)endpoint_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.ConsumerCore",
        .basicsize = sizeof(py_consumer),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return make_type(&type, &spec);
}
