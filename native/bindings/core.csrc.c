/*
 * core.csrc.c - what Python calls: the C API, fitted to the GIL and to Python's objects.
 *
 * cffi wraps every function of the cdef in Py_BEGIN_ALLOW_THREADS, which beside a busy
 * Python thread makes a 50 ns call one of 20 us. Here that does nothing; whoever may take
 * long gives the GIL up itself. The three parts of core.cdef.txt say who does:
 *
 *   keeps      bounded and never sleeps
 *   KEEPING    keeps it, unless the core says WOULD_SLEEP: then once more without the GIL
 *   RELEASING  may sleep or run long
 *
 * A message is one call and one copy. cffi has no type for Python objects, so they travel in
 * a list that the endpoint knows by its id(), and calls are cheapest with one argument:
 * 40 ns, and 20 for each further one.
 */
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <ipcheap/ipcheap.h>

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

#define RELEASING(result, name, parameters, arguments) \
    static result py_##name parameters {               \
        PyThreadState *state = PyEval_SaveThread();     \
        result value = ipcheap_##name arguments;        \
        PyEval_RestoreThread(state);                    \
        return value;                                   \
    }

#define KEEPING(result, name, parameters, arguments)    \
    static result keeping_##name parameters {           \
        ipcheap_allow_sleep(0);                         \
        result value = ipcheap_##name arguments;        \
        ipcheap_allow_sleep(1);                         \
        if (value != IPCHEAP_WOULD_SLEEP) return value; \
        PyThreadState *state = PyEval_SaveThread();     \
        value = ipcheap_##name arguments;               \
        PyEval_RestoreThread(state);                    \
        return value;                                   \
    }

/* The same with an endpoint, which another thread's closing of the heap then leaves to us. */
#define KEEPING_ENDPOINT(result, name, parameters, endpoint, arguments) \
    static result keeping_##name parameters {                           \
        ipcheap_allow_sleep(0);                                         \
        result value = ipcheap_##name arguments;                        \
        ipcheap_allow_sleep(1);                                         \
        if (value != IPCHEAP_WOULD_SLEEP) return value;                 \
        int error = ipcheap_endpoint_enter(endpoint);                   \
        if (error) return error;                                        \
        PyThreadState *state = PyEval_SaveThread();                     \
        value = ipcheap_##name arguments;                               \
        ipcheap_endpoint_leave(endpoint);                               \
        PyEval_RestoreThread(state);                                    \
        return value;                                                   \
    }

/* How often to look again before a wait that gives up the GIL: about a microsecond. */
#define SPINS 64
/* More than this is copied without the GIL. */
#define LONG_COPY ((size_t)256 << 10)

/* Not errors of the core's: the object gives no plain run of bytes; the next record is of
 * another form than the one that is wanted. */
enum { PY_NOT_BYTES = -100, PY_OTHER_FORM = -101 };
enum { PY_BATCH = 64, PY_PIECES = 0x316A626F /* "obj1" in memory */ };

RELEASING(int, lock_creation, (int fd, int64_t timeout_ns), (fd, timeout_ns))
RELEASING(int, format, (int fd, int shmid, const ipcheap_options *options), (fd, shmid, options))
RELEASING(int, attach, (int fd, int shmid, ipcheap_heap **heap), (fd, shmid, heap))
RELEASING(int, heap_statistics, (ipcheap_heap *heap, ipcheap_statistics *statistics),
          (heap, statistics))
RELEASING(int64_t, trim, (ipcheap_heap *heap, uint64_t keep), (heap, keep))
RELEASING(int, add_record_channel,
          (ipcheap_heap *heap, const ipcheap_key *key, uint64_t capacity,
           ipcheap_channel *channel),
          (heap, key, capacity, channel))
RELEASING(int, add_static_segment,
          (ipcheap_heap *heap, const ipcheap_key *key, uint64_t nbytes, ipcheap_channel *channel),
          (heap, key, nbytes, channel))
RELEASING(int, static_ready,
          (ipcheap_heap *heap, const ipcheap_channel *channel, int succeeded),
          (heap, channel, succeeded))
RELEASING(int, remove_channel, (ipcheap_heap *heap, const ipcheap_key *key, int force),
          (heap, key, force))
RELEASING(int, wait_directory, (ipcheap_heap *heap, uint32_t seen, int64_t timeout_ns),
          (heap, seen, timeout_ns))
RELEASING(int, claim,
          (ipcheap_heap *heap, const ipcheap_channel *channel, int side,
           ipcheap_endpoint **endpoint),
          (heap, channel, side, endpoint))
RELEASING(int, endpoint_close, (ipcheap_endpoint *endpoint), (endpoint))
RELEASING(int, wait, (ipcheap_endpoint *endpoint, int64_t timeout_ns), (endpoint, timeout_ns))
RELEASING(int, wait_peer, (ipcheap_endpoint *endpoint, int64_t timeout_ns),
          (endpoint, timeout_ns))
RELEASING(int64_t, wait_any, (ipcheap_waitable *items, size_t count, int64_t timeout_ns),
          (items, count, timeout_ns))
RELEASING(int, word_wait,
          (ipcheap_heap *heap, const void *word, uint64_t expected, uint32_t width,
           int64_t timeout_ns),
          (heap, word, expected, width, timeout_ns))
RELEASING(int, event_wait, (ipcheap_heap *heap, void *event, int64_t timeout_ns),
          (heap, event, timeout_ns))
RELEASING(int, barrier_wait,
          (ipcheap_heap *heap, void *barrier, uint32_t generation, int64_t timeout_ns),
          (heap, barrier, generation, timeout_ns))
RELEASING(int, lock_acquire, (ipcheap_heap *heap, void *lock, int64_t timeout_ns),
          (heap, lock, timeout_ns))

KEEPING(int, allocate, (ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record),
        (heap, nbytes, record))
KEEPING(int, allocate_array,
        (ipcheap_heap *heap, const ipcheap_array *array, ipcheap_record *record),
        (heap, array, record))
KEEPING(int, free, (ipcheap_heap *heap, ipcheap_record *record), (heap, record))
KEEPING(int, keep, (ipcheap_heap *heap, ipcheap_record *record), (heap, record))
KEEPING_ENDPOINT(int, try_send, (ipcheap_endpoint *producer, ipcheap_record *record), producer,
                 (producer, record))
KEEPING_ENDPOINT(int64_t, try_send_many,
                 (ipcheap_endpoint *producer, ipcheap_record *records, size_t count), producer,
                 (producer, records, count))
KEEPING_ENDPOINT(int, try_receive, (ipcheap_endpoint *consumer, ipcheap_record *record), consumer,
                 (consumer, record))
KEEPING_ENDPOINT(int64_t, try_receive_many,
                 (ipcheap_endpoint *consumer, ipcheap_record *records, size_t limit), consumer,
                 (consumer, records, limit))
KEEPING_ENDPOINT(int, peek, (ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form),
                 consumer, (consumer, nbytes, form))

KEEPING_ENDPOINT(int, endpoint_descriptor, (ipcheap_endpoint *endpoint), endpoint, (endpoint))

static int py_endpoint_descriptor(ipcheap_endpoint *endpoint) {
    return keeping_endpoint_descriptor(endpoint);
}

static int need_not_wait(ipcheap_endpoint *endpoint) {
    return ipcheap_wait(endpoint, 0) != IPCHEAP_TIMED_OUT;
}

/* Would a call not have to wait? If it would, the descriptor is brought in line with that. */
static int py_ready(ipcheap_endpoint *endpoint) {
    return need_not_wait(endpoint) || keeping_endpoint_descriptor(endpoint) < 0 ||
           need_not_wait(endpoint);
}

/*
 * Keeps the GIL, so that no other thread is in the middle of a call that does. What needs
 * the heap lock and cannot have it at once is left to the release.
 */
static int py_close(ipcheap_heap *heap) {
    ipcheap_allow_sleep(0);
    int error = ipcheap_close(heap);
    ipcheap_allow_sleep(1);
    return error;
}

static void py_release(ipcheap_heap *heap) {
    PyThreadState *state = PyEval_SaveThread();
    ipcheap_release(heap);
    PyEval_RestoreThread(state);
}

static void py_endpoint_release(ipcheap_endpoint *endpoint) {
    PyThreadState *state = PyEval_SaveThread();
    ipcheap_endpoint_release(endpoint);
    PyEval_RestoreThread(state);
}

/* Sentences, one a line, as many as there is room for; returns how many there were. */
struct py_text {
    char *text;
    size_t used, room;
};

static void append_line(void *context, const char *line) {
    struct py_text *to = context;
    size_t length = strlen(line);
    if (length + 1 >= to->room - to->used) return;
    memcpy(to->text + to->used, line, length);
    to->text[to->used + length] = '\n';
    to->used += length + 1;
}

static int py_check(ipcheap_heap *heap, char *text, size_t room) {
    struct py_text to = {.text = text, .room = room};
    PyThreadState *state = PyEval_SaveThread();
    int count = ipcheap_check(heap, append_line, &to);
    PyEval_RestoreThread(state);
    return count;
}

/* What a recovery tells, as much of it as there is room for. */
typedef struct py_redelivery {
    ipcheap_key key;
    uint64_t records;
} py_redelivery;

typedef struct py_witness {
    ipcheap_holder *dead;
    py_redelivery *channels;
    size_t dead_count, dead_room, channel_count, channel_room;
} py_witness;

static void witness_death(void *context, const ipcheap_holder *who) {
    py_witness *witness = context;
    if (witness->dead_count < witness->dead_room) witness->dead[witness->dead_count++] = *who;
}

static void witness_redelivery(void *context, const ipcheap_key *key, uint64_t records) {
    py_witness *witness = context;
    if (witness->channel_count < witness->channel_room)
        witness->channels[witness->channel_count++] = (py_redelivery){*key, records};
}

static int py_recover(ipcheap_heap *heap, ipcheap_recovery *report, py_witness *witness) {
    ipcheap_recovery_witness tell = {witness_death, witness_redelivery, witness};
    PyThreadState *state = PyEval_SaveThread();
    int error = ipcheap_recover_witnessed(heap, report, &tell);
    PyEval_RestoreThread(state);
    return error;
}

/* Records ------------------------------------------------------------------------------ */

/* Which process this is, counting forks: a child may not touch its parent's records. */
static uint32_t py_process;

static void py_after_fork(void) { py_process++; }

typedef struct py_record {
    union {
        ipcheap_record core;
        struct {
            void *data; /* its members, for cffi to find at once */
            uint64_t nbytes, offset, position;
            ipcheap_endpoint *consumer;
            uint32_t form;
        };
    };
    ipcheap_heap *heap;
    struct block *block; /* what its views are made of, if there are any */
    uint32_t process;
} py_record;

/*
 * What views and arrays of a record are made of and keep alive: a plain exporter of the
 * buffer protocol, with whose end the block goes back, unless it has been sent.
 */
struct block {
    PyObject_HEAD
    ipcheap_record core;
    ipcheap_heap *heap;
    PyObject *source; /* keeps the heap, and the consumer, until then */
    uint32_t process;
    int armed;
};

_Static_assert(offsetof(py_record, data) == offsetof(py_record, core.data), "the same");
_Static_assert(offsetof(py_record, nbytes) == offsetof(py_record, core.nbytes), "the same");

static int py_usable(const py_record *record) {
    return record->process == py_process ? 0 : IPCHEAP_WRONG_PROCESS;
}

static int py_allocate(py_record *record, uint64_t nbytes) {
    record->process = py_process;
    record->block = NULL;
    return keeping_allocate(record->heap, nbytes, &record->core);
}

static int py_allocate_array(py_record *record, const ipcheap_array *array) {
    record->process = py_process;
    record->block = NULL;
    return keeping_allocate_array(record->heap, array, &record->core);
}

/* All or none. */
static int py_allocate_many(py_record **records, size_t count, uint64_t nbytes) {
    for (size_t made = 0; made < count; made++) {
        int error = py_allocate(records[made], nbytes);
        if (!error) continue;
        while (made-- > 0) keeping_free(records[made]->heap, &records[made]->core);
        return error;
    }
    return 0;
}

/* How many views there are, not counting slices of views. */
static size_t py_views(const py_record *record) {
    return record->block ? (size_t)Py_REFCNT((PyObject *)record->block) - 1 : 0;
}

static int py_keep(py_record *record) {
    int error = py_usable(record);
    if (!error) error = keeping_keep(record->heap, &record->core);
    if (!error && record->block) record->block->core = record->core;
    return error;
}

/*
 * One that has a block is freed with that. While there are views its memory stays, but not
 * the slot of a ring that it came in.
 */
static int py_free(py_record *record) {
    int error = py_usable(record);
    if (error) return error;
    if (!record->block) return keeping_free(record->heap, &record->core);
    return py_views(record) && record->core.consumer ? py_keep(record) : 0;
}

/* Views there may be, but they keep the block no longer. */
static void disarm(py_record *record) {
    if (record->block) record->block->armed = 0;
    record->block = NULL;
}

/* Blocks --------------------------------------------------------------------------------- */

static int block_get_buffer(PyObject *self, Py_buffer *view, int flags) {
    struct block *block = (struct block *)self;
    Py_ssize_t nbytes = (Py_ssize_t)block->core.nbytes;
    return PyBuffer_FillInfo(view, self, block->core.data, nbytes, 0, flags);
}

static Py_ssize_t block_length(PyObject *self) {
    return (Py_ssize_t)((struct block *)self)->core.nbytes;
}

static void block_dealloc(PyObject *self) {
    struct block *block = (struct block *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (block->armed && block->process == py_process) keeping_free(block->heap, &block->core);
    Py_XDECREF(block->source);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *block_type(void) {
    static PyObject *type;
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)block_dealloc},
        {Py_bf_getbuffer, (void *)block_get_buffer},
        {Py_sq_length, (void *)block_length},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "ipcheap._core.Block",
        .basicsize = sizeof(struct block),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    if (!type) type = PyType_FromSpec(&spec);
    return type;
}

/* Takes the record's source out of a list and puts the new block in. */
static int py_export(py_record *record, uintptr_t list) {
    int error = py_usable(record);
    if (error) return error;
    PyObject *box = (PyObject *)list, *type = block_type();
    PyObject *made = type ? PyType_GenericAlloc((PyTypeObject *)type, 0) : NULL;
    if (!made) {
        PyErr_Clear();
        return IPCHEAP_NO_MEMORY;
    }
    struct block *block = (struct block *)made;
    block->core = record->core;
    block->heap = record->heap;
    block->process = record->process;
    block->source = PyList_GetItem(box, 0);
    Py_INCREF(block->source);
    block->armed = 1;
    record->block = block;
    PyList_SetItem(box, 0, made);
    return 0;
}

/*
 * Appends what array a record holds to a list: itemsize 8, dimensions 4, order 4, the shape
 * in 8 each, the type's text. All of it has been checked.
 */
static int py_describe(const py_record *record, uintptr_t list) {
    ipcheap_array array;
    char text[offsetof(ipcheap_array, type) + sizeof array.type];
    int error = py_usable(record);
    if (!error) error = ipcheap_array_of(record->heap, &record->core, &array);
    if (error) return error;
    size_t shape_at = offsetof(ipcheap_array, shape);
    size_t type_at = shape_at + array.dimensions * sizeof *array.shape;
    size_t length = strlen(array.type);
    memcpy(text, &array, type_at);
    memcpy(text + type_at, array.type, length);
    PyObject *bytes = PyBytes_FromStringAndSize(text, (Py_ssize_t)(type_at + length));
    error = bytes ? PyList_Append((PyObject *)list, bytes) : -1;
    Py_XDECREF(bytes);
    if (error) PyErr_Clear();
    return error ? IPCHEAP_NO_MEMORY : 0;
}

/* Bytes-like objects --------------------------------------------------------------------- */

struct plain_bytes {
    const char *data;
    size_t nbytes;
    Py_buffer buffer;
    int has_buffer;
};

static int plain_bytes_open(struct plain_bytes *bytes, PyObject *object) {
    bytes->has_buffer = 0;
    if (PyBytes_Check(object)) {
        bytes->data = PyBytes_AsString(object);
        bytes->nbytes = (size_t)PyBytes_Size(object);
        return 0;
    }
    if (PyObject_GetBuffer(object, &bytes->buffer, PyBUF_SIMPLE) != 0) {
        PyErr_Clear(); /* the caller finds out what is wrong with it */
        return PY_NOT_BYTES;
    }
    bytes->has_buffer = 1;
    bytes->data = bytes->buffer.buf;
    bytes->nbytes = (size_t)bytes->buffer.len;
    return 0;
}

static void plain_bytes_close(struct plain_bytes *bytes) {
    if (bytes->has_buffer) PyBuffer_Release(&bytes->buffer);
}

static void copy(void *to, const void *from, size_t nbytes) {
    if (nbytes < LONG_COPY) {
        memcpy(to, from, nbytes);
        return;
    }
    PyThreadState *state = PyEval_SaveThread();
    memcpy(to, from, nbytes);
    PyEval_RestoreThread(state);
}

/* A new record with what is in the object. */
static int copy_in(ipcheap_heap *heap, PyObject *object, ipcheap_record *record) {
    struct plain_bytes bytes;
    int error = plain_bytes_open(&bytes, object);
    if (error) return error;
    error = keeping_allocate(heap, bytes.nbytes, record);
    if (!error) copy(record->data, bytes.data, bytes.nbytes);
    plain_bytes_close(&bytes);
    return error;
}

/*
 * What send_object() sends: a magic number 4, a count 4, the pieces' lengths in 8 each; then
 * the pieces, each at the next multiple of 64.
 */
static uint64_t next_piece(uint64_t end) { return (end + 63) / 64 * 64; }

static int measure_pieces(PyObject *pieces, uint64_t *nbytes) {
    Py_ssize_t count = PyList_Size(pieces);
    *nbytes = 8 + 8 * (uint64_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        struct plain_bytes bytes;
        int error = plain_bytes_open(&bytes, PyList_GetItem(pieces, i));
        if (error) return error;
        *nbytes = next_piece(*nbytes) + bytes.nbytes;
        plain_bytes_close(&bytes);
    }
    return 0;
}

/* Another thread may have made one of them longer meanwhile. */
static int copy_pieces(const ipcheap_record *record, PyObject *pieces) {
    Py_ssize_t count = PyList_Size(pieces);
    const uint32_t head[2] = {PY_PIECES, (uint32_t)count};
    uint64_t *lengths = (uint64_t *)record->data + 1, end = 8 + 8 * (uint64_t)count;
    int error = 0;
    memcpy(record->data, head, sizeof head);
    for (Py_ssize_t i = 0; i < count && !error; i++) {
        struct plain_bytes bytes;
        error = plain_bytes_open(&bytes, PyList_GetItem(pieces, i));
        if (error) return error;
        uint64_t at = next_piece(end);
        if (at > record->nbytes || bytes.nbytes > record->nbytes - at) {
            error = PY_NOT_BYTES;
        } else {
            copy((char *)record->data + at, bytes.data, bytes.nbytes);
            lengths[i] = bytes.nbytes;
            end = at + bytes.nbytes;
        }
        plain_bytes_close(&bytes);
    }
    return error;
}

/* A new record with copies of the bytes-like objects in a list. */
static int py_pack(py_record *record, uintptr_t list) {
    PyObject *pieces = (PyObject *)list;
    uint64_t nbytes;
    int error = measure_pieces(pieces, &nbytes);
    if (!error) error = py_allocate(record, nbytes);
    if (error) return error;
    error = copy_pieces(&record->core, pieces);
    if (error) keeping_free(record->heap, &record->core);
    record->core.form = IPCHEAP_OBJECT;
    return error;
}

/* A copy of the record's bytes; NULL when Python is out of memory. */
static PyObject *copy_out(const ipcheap_record *record) {
    size_t nbytes = (size_t)record->nbytes;
    int long_one = nbytes >= LONG_COPY;
    PyObject *bytes = PyBytes_FromStringAndSize(long_one ? NULL : record->data,
                                                (Py_ssize_t)nbytes);
    if (bytes && long_one) copy(PyBytes_AsString(bytes), record->data, nbytes);
    if (!bytes) PyErr_Clear();
    return bytes;
}

/* Endpoints ------------------------------------------------------------------------------ */

/*
 * An endpoint, the list through which objects go to and fro, and, of a consumer, what it has
 * received and not yet passed on: the rest of a batch, when Python's memory gave out half-way.
 */
typedef struct py_endpoint {
    ipcheap_heap *heap;
    ipcheap_endpoint *endpoint;
    uintptr_t box;
    size_t first, end;
    ipcheap_record waiting[PY_BATCH];
} py_endpoint;

/* Will it be worth while to try once more? A peer that is about as fast needs no sleep. */
static int soon(const py_endpoint *endpoint) {
    for (int i = 0; i < SPINS; i++) {
        if (ipcheap_wait(endpoint->endpoint, 0) != IPCHEAP_TIMED_OUT) return 1;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    return 0;
}

static int py_try_send(py_endpoint *producer, py_record *record) {
    int error = record->heap == producer->heap ? py_usable(record) : IPCHEAP_RECORD;
    if (!error) error = keeping_try_send(producer->endpoint, &record->core);
    if (!error) disarm(record);
    return error;
}

static int py_send(py_endpoint *producer, py_record *record) {
    int error = py_try_send(producer, record);
    return error == IPCHEAP_WOULD_BLOCK && soon(producer) ? py_try_send(producer, record) : error;
}

/* As many as there is room for, in order; returns how many. */
static int64_t py_try_send_many(py_endpoint *producer, py_record **records, size_t count) {
    size_t sent = 0;
    while (sent < count) {
        ipcheap_record batch[PY_BATCH];
        size_t n = count - sent < PY_BATCH ? count - sent : PY_BATCH;
        for (size_t i = 0; i < n; i++) {
            if (py_usable(records[sent + i])) return IPCHEAP_WRONG_PROCESS;
            if (records[sent + i]->heap != producer->heap) return IPCHEAP_RECORD;
            batch[i] = records[sent + i]->core;
        }
        int64_t went = keeping_try_send_many(producer->endpoint, batch, n);
        if (went <= 0) return sent ? (int64_t)sent : went;
        for (size_t i = 0; i < (size_t)went; i++) disarm(records[sent + i]);
        sent += (size_t)went;
        if ((size_t)went < n) break;
    }
    return (int64_t)sent;
}

/* Takes the first object out of the box and sends what is in it. */
static int py_send_bytes(py_endpoint *producer) {
    PyObject *box = (PyObject *)producer->box, *object = PyList_GetItem(box, 0);
    ipcheap_record record;
    int error = copy_in(producer->heap, object, &record);
    if (!error) {
        error = keeping_try_send(producer->endpoint, &record);
        if (error == IPCHEAP_WOULD_BLOCK && soon(producer))
            error = keeping_try_send(producer->endpoint, &record);
        if (error) keeping_free(producer->heap, &record);
    }
    Py_INCREF(Py_None);
    PyList_SetItem(box, 0, Py_None);
    return error;
}

/* Sends the objects in the box from one on, a batch at most; returns how many went. */
static int64_t py_send_many_bytes(py_endpoint *producer, size_t first) {
    PyObject *objects = (PyObject *)producer->box;
    ipcheap_record batch[PY_BATCH];
    size_t made = 0;
    int error = 0;
    while (made < PY_BATCH && first + made < (size_t)PyList_Size(objects)) {
        PyObject *object = PyList_GetItem(objects, (Py_ssize_t)(first + made));
        error = copy_in(producer->heap, object, &batch[made]);
        if (error) break;
        made++;
    }
    if (made == 0) return error;
    int64_t went = keeping_try_send_many(producer->endpoint, batch, made);
    for (size_t i = went > 0 ? (size_t)went : 0; i < made; i++)
        keeping_free(producer->heap, &batch[i]);
    return went;
}

static int received(py_endpoint *consumer, ipcheap_record *record) {
    if (consumer->first == consumer->end) return keeping_try_receive(consumer->endpoint, record);
    *record = consumer->waiting[consumer->first++];
    return 0;
}

static size_t py_waiting(const py_endpoint *consumer) { return consumer->end - consumer->first; }

static int py_try_receive(py_endpoint *consumer, py_record *record) {
    record->process = py_process;
    record->block = NULL;
    return received(consumer, &record->core);
}

static int py_receive(py_endpoint *consumer, py_record *record) {
    int error = py_try_receive(consumer, record);
    if (error == IPCHEAP_WOULD_BLOCK && soon(consumer)) error = py_try_receive(consumer, record);
    return error;
}

/* The next record if it is of that form; else it stays where it is. */
static int py_receive_form(py_endpoint *consumer, py_record *record, uint32_t form) {
    uint64_t nbytes;
    uint32_t next;
    if (consumer->first < consumer->end) {
        next = consumer->waiting[consumer->first].form;
    } else {
        int error = keeping_peek(consumer->endpoint, &nbytes, &next);
        if (error == IPCHEAP_WOULD_BLOCK && soon(consumer))
            error = keeping_peek(consumer->endpoint, &nbytes, &next);
        if (error) return error;
    }
    return next == form ? py_try_receive(consumer, record) : PY_OTHER_FORM;
}

static int64_t py_try_receive_many(py_endpoint *consumer, py_record **records, size_t limit) {
    size_t got = 0;
    int error = 0;
    while (got < limit && !(error = py_try_receive(consumer, records[got]))) got++;
    return got ? (int64_t)got : error;
}

/* Receives one message into the front of the box; its record goes back at once. */
static int py_receive_bytes(py_endpoint *consumer) {
    ipcheap_record record;
    int error = received(consumer, &record);
    if (error == IPCHEAP_WOULD_BLOCK && soon(consumer)) error = received(consumer, &record);
    if (error) return error;
    PyObject *bytes = copy_out(&record);
    if (!bytes) { /* it stays the next one */
        consumer->waiting[0] = record;
        consumer->first = 0;
        consumer->end = 1;
        return IPCHEAP_NO_MEMORY;
    }
    PyList_SetItem((PyObject *)consumer->box, 0, bytes);
    keeping_free(consumer->heap, &record);
    return 0;
}

/* The same for a batch at most, to the end of the box; returns how many. */
static int64_t py_receive_many_bytes(py_endpoint *consumer, size_t limit) {
    if (limit > PY_BATCH) limit = PY_BATCH;
    if (consumer->first == consumer->end) {
        int64_t got = keeping_try_receive_many(consumer->endpoint, consumer->waiting, limit);
        if (got <= 0) return got ? got : IPCHEAP_WOULD_BLOCK;
        consumer->first = 0;
        consumer->end = (size_t)got;
    }
    int64_t passed = 0;
    for (; consumer->first < consumer->end && (size_t)passed < limit; passed++) {
        ipcheap_record *record = &consumer->waiting[consumer->first];
        PyObject *bytes = copy_out(record);
        int lost = !bytes || PyList_Append((PyObject *)consumer->box, bytes) != 0;
        if (lost) PyErr_Clear();
        Py_XDECREF(bytes);
        if (lost) return passed ? passed : IPCHEAP_NO_MEMORY;
        keeping_free(consumer->heap, record);
        consumer->first++;
    }
    return passed;
}

/* Atomics on cells of 4 and 8 bytes ------------------------------------------------------- */

#define ATOMIC(name, function)                                                     \
    static uint64_t py_atomic_##name(void *cell, uint32_t width, uint64_t value) { \
        if (width == 4)                                                            \
            return function((uint32_t *)cell, (uint32_t)value, __ATOMIC_SEQ_CST);  \
        return function((uint64_t *)cell, value, __ATOMIC_SEQ_CST);                \
    }

ATOMIC(exchange, __atomic_exchange_n)
ATOMIC(fetch_add, __atomic_fetch_add)
ATOMIC(fetch_sub, __atomic_fetch_sub)
ATOMIC(fetch_and, __atomic_fetch_and)
ATOMIC(fetch_or, __atomic_fetch_or)
ATOMIC(fetch_xor, __atomic_fetch_xor)

static uint64_t py_atomic_load(const void *cell, uint32_t width) {
    if (width == 4) return __atomic_load_n((const uint32_t *)cell, __ATOMIC_SEQ_CST);
    return __atomic_load_n((const uint64_t *)cell, __ATOMIC_SEQ_CST);
}

static void py_atomic_store(void *cell, uint32_t width, uint64_t value) {
    if (width == 4)
        __atomic_store_n((uint32_t *)cell, (uint32_t)value, __ATOMIC_SEQ_CST);
    else
        __atomic_store_n((uint64_t *)cell, value, __ATOMIC_SEQ_CST);
}

static _Bool py_atomic_compare_exchange(void *cell, uint32_t width, uint64_t expected,
                                        uint64_t desired) {
    if (width == 4) {
        uint32_t seen = (uint32_t)expected;
        return __atomic_compare_exchange_n((uint32_t *)cell, &seen, (uint32_t)desired, 0,
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    return __atomic_compare_exchange_n((uint64_t *)cell, &expected, desired, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}
