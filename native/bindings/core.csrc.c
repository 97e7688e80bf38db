/*
 * core.csrc.c - the functions that Python calls through cffi.
 *
 * cffi releases the GIL around every function of the cdef. Beside a busy Python thread that
 * makes a call of 50 ns one of 20 us, so the macros that cffi uses for it do nothing here. A
 * function that may take long releases the GIL itself, as gil.h says; the three parts of
 * core.cdef.txt list which do. A cffi call costs 40 ns, and 20 ns for each argument after the
 * first. Therefore every message passes through the Python types of types.h instead.
 */
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <ipcheap/ipcheap.h>

#include "gil.h"
#include "types.h"

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }

/* The function that cffi generates for Python to import the module; module.c calls it. */
#define PyInit__core core_of_cffi

void note_errno(void) { _cffi_save_errno(); }

RELEASING(int, lock_creation, (int fd, int64_t timeout_ns), (fd, timeout_ns))
RELEASING(int, share_creation, (int fd, int64_t timeout_ns), (fd, timeout_ns))
RELEASING(int, format, (int fd, int shmid, const ipcheap_options *options), (fd, shmid, options))
RELEASING(int, attach, (int fd, int shmid, ipcheap_heap **heap), (fd, shmid, heap))
RELEASING(int, heap_statistics, (ipcheap_heap *heap, ipcheap_statistics *statistics),
          (heap, statistics))
RELEASING(int64_t, trim, (ipcheap_heap *heap, uint64_t keep), (heap, keep))
RELEASING(int, observer_look, (ipcheap_observer * observer, uint32_t what), (observer, what))
RELEASING(int, add_record_channel,
          (ipcheap_heap *heap, const ipcheap_key *key, uint64_t capacity, ipcheap_channel *channel),
          (heap, key, capacity, channel))
RELEASING(int, add_static_segment,
          (ipcheap_heap *heap, const ipcheap_key *key, uint64_t nbytes, ipcheap_channel *channel),
          (heap, key, nbytes, channel))
RELEASING(int, static_ready, (ipcheap_heap *heap, const ipcheap_channel *channel, int succeeded),
          (heap, channel, succeeded))
RELEASING(int, wait_closed, (ipcheap_heap *heap, int64_t timeout_ns), (heap, timeout_ns))
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
RELEASING(int, wait_peer, (ipcheap_endpoint *endpoint, int64_t timeout_ns), (endpoint, timeout_ns))
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

RELEASING(int, stream_wait, (ipcheap_endpoint *endpoint, uint64_t items, int64_t timeout_ns),
          (endpoint, items, timeout_ns))
RELEASING(int, add_bus,
          (ipcheap_heap *heap, const ipcheap_key *key, const ipcheap_bus_options *options,
           ipcheap_channel *channel),
          (heap, key, options, channel))
RELEASING(int, listen,
          (ipcheap_heap *heap, const ipcheap_channel *bus, const ipcheap_listen_options *options,
           ipcheap_endpoint **listener),
          (heap, bus, options, listener))
RELEASING(int, wait_room, (ipcheap_heap *heap, const ipcheap_channel *bus, int64_t timeout_ns),
          (heap, bus, timeout_ns))
RELEASING(int, own_listener, (ipcheap_heap *heap, const ipcheap_channel *bus), (heap, bus))
RELEASING(int, broadcast_begin,
          (ipcheap_heap *heap, const ipcheap_channel *bus, ipcheap_broadcast **broadcast),
          (heap, bus, broadcast))
RELEASING(int, wait_turn, (ipcheap_broadcast * broadcast, int64_t timeout_ns),
          (broadcast, timeout_ns))
RELEASING(int, drain_begin, (ipcheap_broadcast * broadcast), (broadcast))
RELEASING(int, await_releases, (ipcheap_broadcast * broadcast, int64_t timeout_ns),
          (broadcast, timeout_ns))
RELEASING(int, bus_blocker,
          (ipcheap_heap *heap, const ipcheap_channel *bus, int broadcast, ipcheap_holder *holder),
          (heap, bus, broadcast, holder))
RELEASING(int, bus_describe,
          (ipcheap_heap *heap, const ipcheap_channel *bus, ipcheap_bus_statistics *statistics),
          (heap, bus, statistics))
RELEASING(int, next_listener,
          (ipcheap_heap *heap, const ipcheap_channel *bus, uint32_t *cursor,
           ipcheap_listener_info *info),
          (heap, bus, cursor, info))
RELEASING(int, add_store,
          (ipcheap_heap *heap, const ipcheap_key *key, const ipcheap_store_options *options,
           ipcheap_channel *channel),
          (heap, key, options, channel))
RELEASING(int, store_describe,
          (ipcheap_heap *heap, const ipcheap_channel *channel,
           ipcheap_store_statistics *statistics),
          (heap, channel, statistics))
RELEASING(int, store_next_reader,
          (ipcheap_heap *heap, const ipcheap_channel *channel, uint32_t *cursor,
           ipcheap_store_reader_info *info),
          (heap, channel, cursor, info))
RELEASING(int, store_blocker,
          (ipcheap_heap *heap, const ipcheap_channel *channel, ipcheap_store_reader_info *info),
          (heap, channel, info))
RELEASING(int64_t, store_holds,
          (ipcheap_heap *heap, const ipcheap_channel *channel, uint32_t number,
           ipcheap_store_hold *holds, size_t room),
          (heap, channel, number, holds, room))

static int py_stream_reset(ipcheap_endpoint *endpoint) { return releasing_stream_reset(endpoint); }

static int py_stream_pin(ipcheap_endpoint *endpoint) { return releasing_stream_pin(endpoint); }

static int64_t py_stream_ready(ipcheap_endpoint *endpoint) {
    return holding_stream_ready(endpoint);
}

static int py_store_seek(ipcheap_endpoint *reader, uint64_t version, uint64_t *position) {
    return holding_store_seek(reader, version, position);
}

static int py_store_notice(ipcheap_endpoint *reader, uint64_t version) {
    return holding_store_notice(reader, version);
}

static int py_stream_want(ipcheap_endpoint *endpoint, uint64_t items) {
    return holding_stream_want(endpoint, items);
}

static int64_t py_stream_skip(ipcheap_endpoint *reader, uint64_t least, uint64_t most) {
    return holding_stream_read(reader, NULL, least, most);
}

/* Returns how many of the last `most` items can be read again. */
static int64_t py_stream_kept(ipcheap_endpoint *reader, uint64_t most) {
    return holding_stream_history(reader, NULL, most);
}

/* Reads a shape: capacity, backlog and flags, and a description, which is copied. */
static int shape_from(const uint64_t *numbers, const char *description, size_t length,
                      ipcheap_description *copy, ipcheap_stream_shape *shape) {
    const ipcheap_array_header *header = &copy->header;
    if (length < sizeof *header || length > sizeof *copy) return IPCHEAP_BAD_VALUE;
    memcpy(copy, description, length);
    shape->capacity = numbers[0];
    shape->backlog = numbers[1];
    shape->flags = (uint32_t)numbers[2];
    shape->item.itemsize = header->itemsize;
    shape->item.dimensions = header->dimensions;
    shape->item.order = header->order;
    shape->item.shape = copy->shape_and_type;
    shape->item.type = (const char *)(copy->shape_and_type + header->dimensions);
    return 0;
}

/* Adds a stream with such a shape; takes an existing stream if `numbers` is NULL. */
static int py_add_stream(ipcheap_heap *heap, const ipcheap_key *key, const uint64_t *numbers,
                         const char *description, size_t length, ipcheap_channel *channel) {
    ipcheap_description copy;
    ipcheap_stream_shape shape;
    int error = numbers ? shape_from(numbers, description, length, &copy, &shape) : 0;
    if (error) return error;
    PyThreadState *state = PyEval_SaveThread();
    error = ipcheap_add_stream(heap, key, numbers ? &shape : NULL, channel);
    PyEval_RestoreThread(state);
    return error;
}

/* Returns the length of the description, which it copies, or an error; numbers as above. */
static int64_t py_stream_shape(ipcheap_heap *heap, const ipcheap_channel *channel,
                               uint64_t *numbers, char *description) {
    ipcheap_description copy;
    ipcheap_stream_shape shape;
    int error = ipcheap_stream_shape_of(heap, channel, &shape, &copy);
    if (error) return error;
    numbers[0] = shape.capacity;
    numbers[1] = shape.backlog;
    numbers[2] = shape.flags;
    numbers[3] = shape.item.itemsize;
    for (uint32_t i = 0; i < shape.item.dimensions; i++) numbers[3] *= shape.item.shape[i];
    size_t length = sizeof copy.header + copy.header.dimensions * sizeof(uint64_t) +
                    copy.header.type_length + 1;
    memcpy(description, &copy, length);
    return (int64_t)length;
}

static int py_endpoint_descriptor(ipcheap_endpoint *endpoint) {
    return keeping_endpoint_descriptor(endpoint);
}

static int need_not_wait(ipcheap_endpoint *endpoint) {
    return ipcheap_wait(endpoint, 0) != IPCHEAP_TIMED_OUT;
}

/* Returns whether a call need not wait. If it has to, the descriptor is no longer readable. */
static int py_ready(ipcheap_endpoint *endpoint) {
    return need_not_wait(endpoint) || keeping_endpoint_descriptor(endpoint) < 0 ||
           need_not_wait(endpoint);
}

/*
 * Keeps the GIL, so that no other thread is inside a call that keeps it. What needs the heap
 * lock, if that is not free immediately, is left to py_release().
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

/* Among many threads, releasing the GIL takes longer than to count a few slots. */
static int py_channel_counts(ipcheap_heap *heap, const ipcheap_channel *channel,
                             ipcheap_counts *counts) {
    const uint64_t few_slots = 4096;
    if (channel->shape <= few_slots) return ipcheap_channel_counts(heap, channel, counts);
    PyThreadState *state = PyEval_SaveThread();
    int error = ipcheap_channel_counts(heap, channel, counts);
    PyEval_RestoreThread(state);
    return error;
}

/*
 * Makes this process one of the users of a static segment, and keeps the heap mapped: if both are
 * garbage, their finalizers are called in any order.
 */
static int py_static_hold(ipcheap_heap *heap, const ipcheap_channel *channel, void **data) {
    PyThreadState *state = PyEval_SaveThread();
    int error = ipcheap_static_hold(heap, channel, data);
    if (!error) ipcheap_retain(heap);
    PyEval_RestoreThread(state);
    return error;
}

static void py_static_release(ipcheap_heap *heap, const ipcheap_channel *channel) {
    PyThreadState *state = PyEval_SaveThread();
    ipcheap_static_release(heap, channel);
    ipcheap_release(heap);
    PyEval_RestoreThread(state);
}

static void py_broadcast_end(ipcheap_broadcast *broadcast) {
    PyThreadState *state = PyEval_SaveThread();
    ipcheap_broadcast_end(broadcast);
    PyEval_RestoreThread(state);
}

static void py_endpoint_release(ipcheap_endpoint *endpoint) {
    PyThreadState *state = PyEval_SaveThread();
    ipcheap_endpoint_release(endpoint);
    PyEval_RestoreThread(state);
}

/* Sentences, one on each line, as many as there is room for. */
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

/* Returns how many sentences there were, which may be more than `text` has room for. */
static int py_check(ipcheap_heap *heap, char *text, size_t room) {
    struct py_text to = {.text = text, .room = room};
    PyThreadState *state = PyEval_SaveThread();
    int count = ipcheap_check(heap, append_line, &to);
    PyEval_RestoreThread(state);
    return count;
}

/* What a recovery finds, as much of it as there is room for. */
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

/* Atomics on cells of 4 and 8 bytes ------------------------------------------------------- */

#define ATOMIC(name, function)                                                                \
    static uint64_t py_atomic_##name(void *cell, uint32_t width, uint64_t value) {            \
        if (width == 4) return function((uint32_t *)cell, (uint32_t)value, __ATOMIC_SEQ_CST); \
        return function((uint64_t *)cell, value, __ATOMIC_SEQ_CST);                           \
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
