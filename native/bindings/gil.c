/* gil.c - the core's calls that keep the GIL unless they have to sleep: see gil.h. */
#include "gil.h"

KEEPING(int, allocate, (ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record),
        (heap, nbytes, record))
KEEPING(int, allocate_array,
        (ipcheap_heap *heap, const void *description, size_t length, ipcheap_record *record),
        (heap, description, length, record))
KEEPING(int, free, (ipcheap_heap *heap, ipcheap_record *record), (heap, record))
KEEPING(int, keep, (ipcheap_heap *heap, ipcheap_record *record), (heap, record))
KEEPING(int, adopt, (ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record),
        (heap, from, record))
KEEPING_ENDPOINT(int, try_send, (ipcheap_endpoint *producer, ipcheap_record *record), producer,
                 (producer, record))
KEEPING_ENDPOINT(int64_t, try_send_many,
                 (ipcheap_endpoint *producer, ipcheap_record *records, size_t count), producer,
                 (producer, records, count))
KEEPING_ENDPOINT(int64_t, try_send_copies,
                 (ipcheap_endpoint *producer, const ipcheap_bytes *copied, size_t count), producer,
                 (producer, copied, count))
KEEPING_ENDPOINT(int, try_receive, (ipcheap_endpoint *consumer, ipcheap_record *record), consumer,
                 (consumer, record))
KEEPING_ENDPOINT(int, peek, (ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form),
                 consumer, (consumer, nbytes, form))
KEEPING_ENDPOINT(int, endpoint_descriptor, (ipcheap_endpoint *endpoint), endpoint, (endpoint))

int64_t holding_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take, void *context,
                                   size_t limit) {
    ipcheap_allow_sleep(0);
    int64_t value = ipcheap_try_receive_copies(consumer, take, context, limit);
    ipcheap_allow_sleep(1);
    return value;
}
