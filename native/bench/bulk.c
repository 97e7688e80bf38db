#include "bulk.h"

#include <stdlib.h>
#include <string.h>

static struct bulk bulk;
static unsigned char *memory; /* shared: the buffers */
static unsigned char *source;

void bulk_prepare(const struct bulk *wanted) {
    bulk = *wanted;
    memory = shared_memory(bulk.buffers * bulk.nbytes);
    source = aligned_alloc(4096, bulk.nbytes);
    if (!source) exit(1);
    memset(source, 1, bulk.nbytes);
}

static unsigned char *buffer(size_t index) { return memory + index * bulk.nbytes; }

static uint64_t look_at_pages(const unsigned char *data) {
    uint64_t sum = 0;
    for (size_t at = 0; at < bulk.nbytes; at += 4096) sum += data[at];
    return sum;
}

double bulk_copies(size_t buffers, uint64_t times) {
    for (size_t i = 0; i < buffers; i++) memcpy(buffer(i), source, bulk.nbytes);
    double begin = now();
    for (uint64_t i = 0; i < times; i++) {
        memcpy(buffer(i % buffers), source, bulk.nbytes);
        __asm__ volatile("" ::: "memory");
    }
    return (now() - begin) / (double)times;
}

void bulk_copies_out(double *result) {
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < bulk.count; i++) {
        while (i - atomic_load_explicit(&meeting->received, memory_order_acquire) >= BULK_HOT) {}
        memcpy(buffer(i % BULK_HOT), source, bulk.nbytes);
        atomic_store_explicit(&meeting->sent, i + 1, memory_order_release);
    }
    while (atomic_load_explicit(&meeting->received, memory_order_acquire) != bulk.count) {}
    *result = (now() - begin) / (double)bulk.count;
}

void bulk_copies_in(void) {
    uint64_t sum = 0;
    both_start();
    for (uint64_t i = 0; i < bulk.count; i++) {
        while (atomic_load_explicit(&meeting->sent, memory_order_acquire) == i) {}
        sum += look_at_pages(buffer(i % BULK_HOT));
        atomic_store_explicit(&meeting->received, i + 1, memory_order_release);
    }
    sink = sum;
}

void bulk_out(double *result) {
    ipcheap_heap *heap = attached(bulk.segment);
    ipcheap_endpoint *out = endpoint(heap, bulk.channel, bulk.slots, IPCHEAP_PRODUCER);
    ipcheap_record record;
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < bulk.count; i++) {
        MUST(ipcheap_allocate(heap, bulk.nbytes, &record));
        ipcheap_copy(heap, record.data, source, bulk.nbytes);
        give(out, &record);
    }
    while (atomic_load(&meeting->received) == 0) {}
    *result = (now() - begin) / (double)bulk.count;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

void bulk_in(void) {
    ipcheap_heap *heap = attached(bulk.segment);
    ipcheap_endpoint *in = endpoint(heap, bulk.channel, bulk.slots, IPCHEAP_CONSUMER);
    ipcheap_record record;
    uint64_t sum = 0;
    both_start();
    for (uint64_t i = 0; i < bulk.count; i++) {
        take(in, &record);
        sum += look_at_pages(record.data);
        MUST(ipcheap_free(heap, &record));
    }
    sink = sum;
    atomic_store(&meeting->received, 1);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}
