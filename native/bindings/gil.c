/* gil.c - the core's calls that keep the GIL unless they have to sleep: see gil.h. */
#include "gil.h"

#include "types.h"

#include <string.h>

KEEPING(int, allocate, (ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record),
        (heap, nbytes, record), NULL, NULL)
KEEPING(int, allocate_array,
        (ipcheap_heap *heap, const void *description, size_t length, ipcheap_record *record),
        (heap, description, length, record), NULL, NULL)
KEEPING(int, free, (ipcheap_heap *heap, ipcheap_record *record), (heap, record), NULL, record)
KEEPING(int, keep, (ipcheap_heap *heap, ipcheap_record *record), (heap, record), NULL, record)
KEEPING(int, adopt, (ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record),
        (heap, from, record), NULL, record)
KEEPING(int, try_send, (ipcheap_endpoint *producer, ipcheap_record *record), (producer, record),
        producer, record)
KEEPING(int64_t, try_send_copies,
        (ipcheap_endpoint *producer, const ipcheap_bytes *copied, size_t count),
        (producer, copied, count), producer, NULL)
KEEPING(int, try_receive, (ipcheap_endpoint *consumer, ipcheap_record *record), (consumer, record),
        consumer, NULL)
KEEPING(int, peek, (ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form),
        (consumer, nbytes, form), consumer, NULL)
KEEPING(int, endpoint_descriptor, (ipcheap_endpoint *endpoint), (endpoint), endpoint, NULL)

/* Each record may be of another consumer, which is entered as by KEEPING. */
int64_t keeping_try_send_many(ipcheap_endpoint *producer, ipcheap_record *records, size_t count) {
    struct entered entered[PY_BATCH];
    int64_t value = IPCHEAP_WOULD_SLEEP;
    for (int sleeping = 0; sleeping < 2 && value == IPCHEAP_WOULD_SLEEP; sleeping++) {
        int enters = FREE_THREADED || sleeping;
        for (size_t i = 0; enters && i < count; i++) {
            int error = entered_begin(&entered[i], i ? NULL : producer, &records[i]);
            if (error) return error;
        }
        PyThreadState *state = sleeping ? PyEval_SaveThread() : NULL;
        ipcheap_allow_sleep(sleeping);
        value = ipcheap_try_send_many(producer, records, count);
        if (value == IPCHEAP_SYSTEM) note_errno();
        for (size_t i = 0; enters && i < count; i++) entered_end(&entered[i]);
        ipcheap_allow_sleep(1);
        if (sleeping) PyEval_RestoreThread(state);
    }
    return value;
}

RELEASING_ENDPOINT(int64_t, stream_write,
                   (ipcheap_endpoint *writer, const void *items, uint64_t count), writer,
                   (writer, items, count))
RELEASING_ENDPOINT(int64_t, stream_read,
                   (ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many), reader,
                   (reader, items, few, many))
RELEASING_ENDPOINT(int, stream_reset, (ipcheap_endpoint *endpoint), endpoint, (endpoint))
RELEASING_ENDPOINT(int, stream_pin, (ipcheap_endpoint *endpoint), endpoint, (endpoint))

/* What keeps it always --------------------------------------------------------------------- */

int64_t holding_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take, void *context,
                                   size_t limit) {
    struct entered entered;
    int error = FREE_THREADED ? entered_begin(&entered, consumer, NULL) : 0;
    if (error) return error;
    ipcheap_allow_sleep(0);
    int64_t value = ipcheap_try_receive_copies(consumer, take, context, limit);
    if (FREE_THREADED) entered_end(&entered);
    ipcheap_allow_sleep(1);
    return value;
}

HOLDING(int64_t, stream_write, (ipcheap_endpoint *writer, const void *items, uint64_t count),
        writer, (writer, items, count))
HOLDING(int64_t, stream_read, (ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many),
        reader, (reader, items, few, many))
HOLDING(int64_t, stream_peek, (ipcheap_endpoint *reader, void *items, uint64_t few, uint64_t many),
        reader, (reader, items, few, many))
HOLDING(int64_t, stream_history, (ipcheap_endpoint *reader, void *items, uint64_t many), reader,
        (reader, items, many))
HOLDING(int64_t, stream_ready, (ipcheap_endpoint *endpoint), endpoint, (endpoint))
HOLDING(int, stream_want, (ipcheap_endpoint *endpoint, uint64_t items), endpoint, (endpoint, items))
HOLDING(int, window_open,
        (ipcheap_endpoint *endpoint, uint64_t few, uint64_t many, uint64_t overlap,
         ipcheap_window *window),
        endpoint, (endpoint, few, many, overlap, window))
HOLDING(int, window_close, (ipcheap_endpoint *endpoint, uint64_t items), endpoint,
        (endpoint, items))

int holding_window_fill(ipcheap_endpoint *endpoint, void *to, const void *from, size_t nbytes) {
    struct entered entered;
    int error = entered_begin(&entered, endpoint, NULL);
    if (error) return error;
    memcpy(to, from, nbytes);
    ipcheap_allow_sleep(0);
    entered_end(&entered);
    ipcheap_allow_sleep(1);
    return 0;
}

ipcheap_view *holding_stream_view(ipcheap_endpoint *endpoint) {
    struct entered entered;
    if (FREE_THREADED && entered_begin(&entered, endpoint, NULL) != 0) return NULL;
    ipcheap_view *view = ipcheap_stream_view(endpoint);
    if (FREE_THREADED) {
        ipcheap_allow_sleep(0);
        entered_end(&entered);
        ipcheap_allow_sleep(1);
    }
    return view;
}

/* Buses ---------------------------------------------------------------------------------- */

KEEPING(int, try_post,
        (ipcheap_heap *heap, const ipcheap_channel *bus, const void *data, uint64_t nbytes,
         uint64_t *position),
        (heap, bus, data, nbytes, position), NULL, NULL)
KEEPING(int64_t, try_post_many,
        (ipcheap_heap *heap, const ipcheap_channel *bus, const ipcheap_bytes *copied, size_t count),
        (heap, bus, copied, count), NULL, NULL)
KEEPING(int, try_post_record,
        (ipcheap_heap *heap, const ipcheap_channel *bus, ipcheap_record *record,
         uint64_t *position),
        (heap, bus, record, position), NULL, record)
KEEPING(int, try_broadcast,
        (ipcheap_broadcast * broadcast, const void *data, uint64_t nbytes, int64_t timeout_ns),
        (broadcast, data, nbytes, timeout_ns), NULL, NULL)
KEEPING(int, try_broadcast_record,
        (ipcheap_broadcast * broadcast, ipcheap_record *record, int64_t timeout_ns),
        (broadcast, record, timeout_ns), NULL, record)

/* Stores --------------------------------------------------------------------------------- */

KEEPING(int, store_put,
        (ipcheap_endpoint *writer, const ipcheap_store_key *key, const void *data, uint64_t nbytes,
         int64_t ttl_ns, uint64_t *version),
        (writer, key, data, nbytes, ttl_ns, version), writer, NULL)
KEEPING(int, store_put_record,
        (ipcheap_endpoint *writer, const ipcheap_store_key *key, ipcheap_record *record,
         int64_t ttl_ns, uint64_t *version),
        (writer, key, record, ttl_ns, version), writer, record)
KEEPING(int, store_put_many,
        (ipcheap_endpoint *writer, const ipcheap_store_item *items, size_t count, int64_t ttl_ns,
         uint64_t *version),
        (writer, items, count, ttl_ns, version), writer, NULL)
KEEPING(int, store_delete,
        (ipcheap_endpoint *writer, const ipcheap_store_key *key, uint64_t *version),
        (writer, key, version), writer, NULL)
KEEPING(int, store_commit, (ipcheap_endpoint *writer, uint64_t *version), (writer, version), writer,
        NULL)
KEEPING(int, store_abort, (ipcheap_endpoint *writer), (writer), writer, NULL)
KEEPING(int, store_evict, (ipcheap_endpoint *writer, uint64_t nbytes), (writer, nbytes), writer,
        NULL)
KEEPING(int64_t, store_collect, (ipcheap_endpoint *writer), (writer), writer, NULL)
HOLDING(int, store_begin, (ipcheap_endpoint *writer), writer, (writer))
HOLDING(int, store_get,
        (ipcheap_endpoint *reader, const ipcheap_store_key *key, uint64_t newer_than,
         ipcheap_chunk *chunk),
        reader, (reader, key, newer_than, chunk))
HOLDING(int, store_peek,
        (ipcheap_endpoint *reader, const ipcheap_store_key *key, ipcheap_chunk *chunk), reader,
        (reader, key, chunk))
HOLDING(int, store_contains, (ipcheap_endpoint *reader, const ipcheap_store_key *key), reader,
        (reader, key))
HOLDING(int64_t, store_get_many,
        (ipcheap_endpoint *reader, const ipcheap_store_key *keys, size_t count,
         ipcheap_chunk *chunks),
        reader, (reader, keys, count, chunks))
HOLDING(int64_t, store_history,
        (ipcheap_endpoint *reader, const ipcheap_store_key *key, ipcheap_chunk *chunks,
         size_t room),
        reader, (reader, key, chunks, room))
HOLDING(int, store_next, (ipcheap_endpoint *reader, ipcheap_chunk *chunk), reader, (reader, chunk))
HOLDING(int, store_wait_for,
        (ipcheap_endpoint *reader, const ipcheap_store_key *key, uint64_t newer_than,
         int64_t timeout_ns, ipcheap_chunk *chunk),
        reader, (reader, key, newer_than, timeout_ns, chunk))
HOLDING(int, store_seek, (ipcheap_endpoint *reader, uint64_t version, uint64_t *position), reader,
        (reader, version, position))
HOLDING(int, store_notice, (ipcheap_endpoint *reader, uint64_t version), reader, (reader, version))
RELEASING_ENDPOINT(int, store_put,
                   (ipcheap_endpoint *writer, const ipcheap_store_key *key, const void *data,
                    uint64_t nbytes, int64_t ttl_ns, uint64_t *version),
                   writer, (writer, key, data, nbytes, ttl_ns, version))
RELEASING_ENDPOINT(int, store_put_many,
                   (ipcheap_endpoint *writer, const ipcheap_store_item *items, size_t count,
                    int64_t ttl_ns, uint64_t *version),
                   writer, (writer, items, count, ttl_ns, version))
RELEASING_ENDPOINT(int64_t, store_keys,
                   (ipcheap_endpoint *reader, ipcheap_store_entry *entries, size_t room), reader,
                   (reader, entries, room))
RELEASING_ENDPOINT(int, store_wait_for,
                   (ipcheap_endpoint *reader, const ipcheap_store_key *key, uint64_t newer_than,
                    int64_t timeout_ns, ipcheap_chunk *chunk),
                   reader, (reader, key, newer_than, timeout_ns, chunk))
