/*
 * gil.h - what the core's calls do with the GIL, and what stands in for it where there is none.
 *
 *   RELEASING  releases it: the call may sleep or run long
 *   KEEPING    keeps it; if the core returns WOULD_SLEEP, the call is repeated without the GIL
 *   holding_   keeps it, and returns WOULD_SLEEP to the caller
 *
 * Beside a busy Python thread, a call that releases the GIL costs tens of microseconds, and one
 * that keeps it 50 ns.
 *
 * The GIL does two things more here. It protects the members of the Python objects: without one,
 * LOCK() does, wherever two threads may meet. And while a call keeps it, no other thread closes the
 * call's endpoint: otherwise the call enters the endpoint. So it does in each call that releases the
 * GIL, and without a GIL in every call.
 */
#ifndef BINDINGS_GIL_H
#define BINDINGS_GIL_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include <ipcheap/ipcheap.h>

#include "segment/sleep.h"
#include "store/release.h"

#ifdef Py_GIL_DISABLED
enum { FREE_THREADED = 1 };
#else
enum { FREE_THREADED = 0 };
#endif

/*
 * Between the two, no other thread is between LOCK() and UNLOCK() of the same object. As with the
 * GIL, a call in between that releases it lets others in.
 */
#ifdef Py_GIL_DISABLED
#define LOCK(object) Py_BEGIN_CRITICAL_SECTION(object)
#define UNLOCK() Py_END_CRITICAL_SECTION()
#else
#define LOCK(object) {
#define UNLOCK() }
#endif

/* Ends the hold of a chunk. Its reader is not entered, so without a GIL another thread may close it. */
#ifdef Py_GIL_DISABLED
#define END_HOLD(chunk) ipcheap_chunk_release_beside(chunk)
#else
#define END_HOLD(chunk) ipcheap_chunk_release(chunk)
#endif

/*
 * Adds a reference to an object that is known by a borrowed one, and returns 1; 0 if another thread
 * has dropped the last reference, and is about to free it. For objects that were made with
 * ALLOW_TRY_NEW_REF().
 */
#ifdef Py_GIL_DISABLED
#define ALLOW_TRY_NEW_REF(object) PyUnstable_EnableTryIncRef(object)
#define TRY_NEW_REF(object) PyUnstable_TryIncRef(object)
#else
#define ALLOW_TRY_NEW_REF(object) ((void)(object))
#define TRY_NEW_REF(object) (Py_INCREF(object), 1)
#endif

/* Keeps errno for Python, as cffi does after each of its functions. */
void note_errno(void);

/*
 * What a call has entered: its endpoint, and the consumer that received its record. A thread that
 * closes the heap meanwhile leaves it to this one to close them, in entered_end().
 */
struct entered {
    ipcheap_endpoint *endpoint, *consumer;
};

/* Either may be NULL. Returns why the endpoint cannot be entered; a closed consumer is no error. */
static inline int entered_begin(struct entered *entered, ipcheap_endpoint *endpoint,
                                const ipcheap_record *record) {
    *entered = (struct entered){NULL, NULL};
    int error = endpoint ? ipcheap_endpoint_enter(endpoint) : 0;
    if (error) return error;
    entered->endpoint = endpoint;
    ipcheap_endpoint *consumer = record ? record->consumer : NULL;
    if (consumer && ipcheap_endpoint_enter(consumer) == 0) entered->consumer = consumer;
    return 0;
}

static inline void entered_end(const struct entered *entered) {
    if (entered->consumer) ipcheap_endpoint_leave(entered->consumer);
    if (entered->endpoint) ipcheap_endpoint_leave(entered->endpoint);
}

#define RELEASING(result, name, parameters, arguments) \
    static result py_##name parameters {               \
        PyThreadState *state = PyEval_SaveThread();    \
        result value = ipcheap_##name arguments;       \
        PyEval_RestoreThread(state);                   \
        return value;                                  \
    }

/* Does the same for a call on an endpoint that does not enter it by itself. */
#define RELEASING_ENDPOINT(result, name, parameters, endpoint, arguments) \
    result releasing_##name parameters {                                  \
        int error = ipcheap_endpoint_enter(endpoint);                     \
        if (error) return error;                                          \
        PyThreadState *state = PyEval_SaveThread();                       \
        result value = ipcheap_##name arguments;                          \
        ipcheap_endpoint_leave(endpoint);                                 \
        PyEval_RestoreThread(state);                                      \
        return value;                                                     \
    }

/*
 * `endpoint` and `record` are what the call enters, or NULL. The call without the GIL is rare, and a
 * function of its own, so that the compiler inlines the other one.
 */
#define KEEPING(result, name, parameters, arguments, endpoint, record)             \
    __attribute__((noinline, cold)) static result sleeping_##name parameters {     \
        struct entered entered;                                                    \
        int error = entered_begin(&entered, endpoint, record);                     \
        if (error) return error;                                                   \
        PyThreadState *state = PyEval_SaveThread();                                \
        result value = ipcheap_##name arguments;                                   \
        if (value == IPCHEAP_SYSTEM) note_errno();                                 \
        entered_end(&entered);                                                     \
        PyEval_RestoreThread(state);                                               \
        return value;                                                              \
    }                                                                              \
    result keeping_##name parameters {                                             \
        struct entered entered;                                                    \
        int error = FREE_THREADED ? entered_begin(&entered, endpoint, record) : 0; \
        if (error) return error;                                                   \
        ipcheap_allow_sleep(0);                                                    \
        result value = ipcheap_##name arguments;                                   \
        if (value == IPCHEAP_SYSTEM) note_errno();                                 \
        if (FREE_THREADED) entered_end(&entered);                                  \
        ipcheap_allow_sleep(1);                                                    \
        return value == IPCHEAP_WOULD_SLEEP ? sleeping_##name arguments : value;   \
    }

/* Keeps the GIL; the core's call never sleeps. */
#define HOLDING(result, name, parameters, endpoint, arguments)                   \
    result holding_##name parameters {                                           \
        struct entered entered;                                                  \
        int error = FREE_THREADED ? entered_begin(&entered, endpoint, NULL) : 0; \
        if (error) return error;                                                 \
        result value = ipcheap_##name arguments;                                 \
        if (FREE_THREADED) {                                                     \
            ipcheap_allow_sleep(0);                                              \
            entered_end(&entered);                                               \
            ipcheap_allow_sleep(1);                                              \
        }                                                                        \
        return value;                                                            \
    }

int keeping_allocate(ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record);
int keeping_allocate_array(ipcheap_heap *heap, const void *description, size_t length,
                           ipcheap_record *record);
int keeping_free(ipcheap_heap *heap, ipcheap_record *record);
int keeping_keep(ipcheap_heap *heap, ipcheap_record *record);
int keeping_adopt(ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record);
int keeping_try_send(ipcheap_endpoint *producer, ipcheap_record *record);
/* At most PY_BATCH records. */
int64_t keeping_try_send_many(ipcheap_endpoint *producer, ipcheap_record *records, size_t count);
int64_t keeping_try_send_copies(ipcheap_endpoint *producer, const ipcheap_bytes *copied,
                                size_t count);
int keeping_try_receive(ipcheap_endpoint *consumer, ipcheap_record *record);
int keeping_peek(ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form);
int keeping_endpoint_descriptor(ipcheap_endpoint *endpoint);
/* Calls the taker with the GIL held. Returns WOULD_SLEEP if the core does. */
int64_t holding_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take, void *context,
                                   size_t limit);

int64_t holding_stream_write(ipcheap_endpoint *writer, const void *items, uint64_t count);
/* Without `items`, skips them. */
int64_t holding_stream_read(ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many);
int64_t holding_stream_peek(ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many);
int64_t holding_stream_history(ipcheap_endpoint *reader, void *items, uint64_t many);
int64_t holding_stream_ready(ipcheap_endpoint *endpoint);
int holding_stream_want(ipcheap_endpoint *endpoint, uint64_t items);
int holding_window_open(ipcheap_endpoint *endpoint, uint64_t few, uint64_t many, uint64_t overlap,
                        ipcheap_window *window);
/* Copies to where an open window's items are, which is the endpoint's own memory. */
int holding_window_fill(ipcheap_endpoint *endpoint, void *to, const void *from, size_t nbytes);
int holding_window_close(ipcheap_endpoint *endpoint, uint64_t items);
ipcheap_view *holding_stream_view(ipcheap_endpoint *endpoint);
/* For long copies. */
int64_t releasing_stream_write(ipcheap_endpoint *writer, const void *items, uint64_t count);
int64_t releasing_stream_read(ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many);
int releasing_stream_reset(ipcheap_endpoint *endpoint);
int releasing_stream_pin(ipcheap_endpoint *endpoint);

/* Buses. */
int keeping_try_post(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data,
                     uint64_t nbytes, uint64_t *position);
int64_t keeping_try_post_many(ipcheap_heap *heap, const ipcheap_channel *bus,
                              const ipcheap_bytes *copied, size_t count);
int keeping_try_post_record(ipcheap_heap *heap, const ipcheap_channel *bus, ipcheap_record *record,
                            uint64_t *position);
int keeping_try_broadcast(ipcheap_broadcast *broadcast, const void *data, uint64_t nbytes,
                          int64_t timeout_ns);
int keeping_try_broadcast_record(ipcheap_broadcast *broadcast, ipcheap_record *record,
                                 int64_t timeout_ns);

/* Stores. */
int keeping_store_put(ipcheap_endpoint *writer, const ipcheap_store_key *key, const void *data,
                      uint64_t nbytes, int64_t ttl_ns, uint64_t *version);
int keeping_store_put_record(ipcheap_endpoint *writer, const ipcheap_store_key *key,
                             ipcheap_record *record, int64_t ttl_ns, uint64_t *version);
int keeping_store_put_many(ipcheap_endpoint *writer, const ipcheap_store_item *items, size_t count,
                           int64_t ttl_ns, uint64_t *version);
int keeping_store_delete(ipcheap_endpoint *writer, const ipcheap_store_key *key, uint64_t *version);
int keeping_store_commit(ipcheap_endpoint *writer, uint64_t *version);
int keeping_store_abort(ipcheap_endpoint *writer);
int keeping_store_evict(ipcheap_endpoint *writer, uint64_t nbytes);
int64_t keeping_store_collect(ipcheap_endpoint *writer);
int holding_store_begin(ipcheap_endpoint *writer);
int holding_store_get(ipcheap_endpoint *reader, const ipcheap_store_key *key, uint64_t newer_than,
                      ipcheap_chunk *chunk);
int holding_store_peek(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                       ipcheap_chunk *chunk);
int holding_store_contains(ipcheap_endpoint *reader, const ipcheap_store_key *key);
int64_t holding_store_get_many(ipcheap_endpoint *reader, const ipcheap_store_key *keys,
                               size_t count, ipcheap_chunk *chunks);
int64_t holding_store_history(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                              ipcheap_chunk *chunks, size_t room);
int holding_store_next(ipcheap_endpoint *reader, ipcheap_chunk *chunk);
int holding_store_wait_for(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                           uint64_t newer_than, int64_t timeout_ns, ipcheap_chunk *chunk);
int holding_store_seek(ipcheap_endpoint *reader, uint64_t version, uint64_t *position);
int holding_store_notice(ipcheap_endpoint *reader, uint64_t version);
int releasing_store_put(ipcheap_endpoint *writer, const ipcheap_store_key *key, const void *data,
                        uint64_t nbytes, int64_t ttl_ns, uint64_t *version);
int releasing_store_put_many(ipcheap_endpoint *writer, const ipcheap_store_item *items,
                             size_t count, int64_t ttl_ns, uint64_t *version);
int64_t releasing_store_keys(ipcheap_endpoint *reader, ipcheap_store_entry *entries, size_t room);
int releasing_store_wait_for(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                             uint64_t newer_than, int64_t timeout_ns, ipcheap_chunk *chunk);

#endif
