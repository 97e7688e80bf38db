/*
 * bench_records - what a record costs, beside what the machine itself takes.
 *
 *   bench_records [repetitions]
 *
 * Floors and figures alternate within one run, so that their ratios hold on a noisy
 * machine; medians of the repetitions. Two processes, each pinned to a processor.
 */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { RECORDS = 1 << 20, TRIPS = 200000, PAIRS = 1 << 22, RING = 1024 };

/* What both processes share besides the heap. */
struct arena {
    _Alignas(128) _Atomic uint32_t ping;
    _Alignas(128) _Atomic uint32_t pong;
    _Alignas(128) _Atomic uint64_t sent;
    _Alignas(128) _Atomic uint64_t received;
    _Alignas(128) _Atomic uint32_t start;
    _Alignas(128) unsigned char slots[RING][64];
    struct there_and_back {
        _Alignas(128) _Atomic uint64_t slots[RING];
        _Alignas(128) unsigned char payload[RING][64];
    } trip[2];
    _Alignas(4096) unsigned char bulk[1024][65536];
};

static struct arena *arena;
static int segment;

static void in_two_processes(void (*first)(double *), void (*second)(void), double *result) {
    memset(arena, 0, offsetof(struct arena, slots));
    pid_t pid = fork();
    if (pid == 0) {
        pin(1);
        second();
        _exit(0);
    }
    first(result);
    waitpid(pid, NULL, 0);
}

static void both_start(void) {
    atomic_fetch_add(&arena->start, 1);
    while (atomic_load(&arena->start) < 2) pause_briefly();
}

/* Floors ----------------------------------------------------------------------------------- */

static void line_there(double *result) {
    both_start();
    double begin = now();
    for (uint32_t i = 1; i <= TRIPS; i++) {
        atomic_store_explicit(&arena->ping, i, memory_order_release);
        while (atomic_load_explicit(&arena->pong, memory_order_acquire) != i) {}
    }
    *result = (now() - begin) / TRIPS;
}

static void line_back(void) {
    both_start();
    for (uint32_t i = 1; i <= TRIPS; i++) {
        while (atomic_load_explicit(&arena->ping, memory_order_acquire) != i) {}
        atomic_store_explicit(&arena->pong, i, memory_order_release);
    }
}

static volatile uint64_t sink;

/*
 * The same with a payload in a line of its own, as every exchange of memory by offset has
 * it; the reader knows where it will be and fetches it along with the word.
 */
static void bare_send(struct there_and_back *way, uint64_t i) {
    memcpy(way->payload[i % RING], &i, sizeof i);
    atomic_store_explicit(&way->slots[i % RING], i, memory_order_release);
}

static void bare_receive(struct there_and_back *way, uint64_t i) {
    do __builtin_prefetch(way->payload[i % RING]);
    while (atomic_load_explicit(&way->slots[i % RING], memory_order_acquire) != i);
    sink = *(uint64_t *)way->payload[i % RING];
}

static void payload_there(double *result) {
    memset(arena->trip, 0, sizeof arena->trip);
    both_start();
    double begin = now();
    for (uint64_t i = 1; i <= TRIPS; i++) {
        bare_send(&arena->trip[0], i);
        bare_receive(&arena->trip[1], i);
    }
    *result = (now() - begin) / TRIPS;
}

static void payload_back(void) {
    both_start();
    for (uint64_t i = 1; i <= TRIPS; i++) {
        bare_receive(&arena->trip[0], i);
        bare_send(&arena->trip[1], i);
    }
}

/* A bare ring: counters with cached peers, 64 bytes copied in, read in place. */
static void ring_out(double *result) {
    unsigned char payload[64] = {1};
    uint64_t seen = 0;
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < RECORDS; i++) {
        while (i - seen >= RING)
            seen = atomic_load_explicit(&arena->received, memory_order_acquire);
        memcpy(payload, &i, sizeof i);
        memcpy(arena->slots[i % RING], payload, 64);
        atomic_store_explicit(&arena->sent, i + 1, memory_order_release);
    }
    while (atomic_load_explicit(&arena->received, memory_order_acquire) != RECORDS) {}
    *result = (now() - begin) / RECORDS;
}

static uint64_t sum64(const void *data) {
    uint64_t words[8], sum = 0;
    memcpy(words, data, 64);
    for (int i = 0; i < 8; i++) sum += words[i];
    return sum;
}

static void ring_in(void) {
    uint64_t seen = 0, sum = 0;
    both_start();
    for (uint64_t i = 0; i < RECORDS; i++) {
        while (seen == i) seen = atomic_load_explicit(&arena->sent, memory_order_acquire);
        sum += sum64(arena->slots[i % RING]);
        atomic_store_explicit(&arena->received, i + 1, memory_order_release);
    }
    sink = sum;
}

/* 64 KiB: each written whole; the reader looks at one byte a page, as the peers' figures do. */
enum { BULK = 40000, BULK_BYTES = 65536, BULK_SLOTS = 16, BULK_HOT = 4 };

static unsigned char source[BULK_BYTES];

/* memcpy round so many buffers: a few stay in the cache, all of them do not. */
static double copies(size_t buffers) {
    for (size_t i = 0; i < buffers; i++) memcpy(arena->bulk[i], source, BULK_BYTES);
    double begin = now();
    for (size_t i = 0; i < BULK / 2; i++) {
        memcpy(arena->bulk[i % buffers], source, BULK_BYTES);
        __asm__ volatile("" ::: "memory");
    }
    return (now() - begin) / (BULK / 2);
}

static uint64_t look_at_pages(const unsigned char *data) {
    uint64_t sum = 0;
    for (int at = 0; at < BULK_BYTES; at += 4096) sum += data[at];
    return sum;
}

/* memcpy into a few buffers that another process reads in between. */
static void copies_out(double *result) {
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < BULK; i++) {
        while (i - atomic_load_explicit(&arena->received, memory_order_acquire) >= BULK_HOT) {}
        memcpy(arena->bulk[i % BULK_HOT], source, BULK_BYTES);
        atomic_store_explicit(&arena->sent, i + 1, memory_order_release);
    }
    while (atomic_load_explicit(&arena->received, memory_order_acquire) != BULK) {}
    *result = (now() - begin) / BULK;
}

static void copies_in(void) {
    uint64_t sum = 0;
    both_start();
    for (uint64_t i = 0; i < BULK; i++) {
        while (atomic_load_explicit(&arena->sent, memory_order_acquire) == i) {}
        sum += look_at_pages(arena->bulk[i % BULK_HOT]);
        atomic_store_explicit(&arena->received, i + 1, memory_order_release);
    }
    sink = sum;
}

/* The heap --------------------------------------------------------------------------------- */

static ipcheap_heap *attached(void) {
    ipcheap_heap *heap;
    MUST(ipcheap_attach(segment, -1, &heap));
    return heap;
}

static ipcheap_endpoint *endpoint(ipcheap_heap *heap, uint64_t id, uint64_t slots, int side) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *e;
    MUST(ipcheap_key_int(&key, id));
    MUST(ipcheap_add_record_channel(heap, &key, slots, &channel));
    MUST(ipcheap_claim(heap, &channel, side, &e));
    MUST(ipcheap_wait_peer(e, -1));
    return e;
}

static void take(ipcheap_endpoint *consumer, ipcheap_record *record) {
    int error;
    while ((error = ipcheap_try_receive(consumer, record)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

static void give(ipcheap_endpoint *producer, ipcheap_record *record) {
    int error;
    while ((error = ipcheap_try_send(producer, record)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

static void records_out(double *result) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *out = endpoint(heap, 1, RING, IPCHEAP_PRODUCER);
    unsigned char payload[64] = {1};
    ipcheap_record record;
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < RECORDS; i++) {
        MUST(ipcheap_allocate(heap, 64, &record));
        memcpy(payload, &i, sizeof i);
        memcpy(record.data, payload, 64);
        give(out, &record);
    }
    while (atomic_load(&arena->received) == 0) {}
    *result = (now() - begin) / RECORDS;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static void records_in(void) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *in = endpoint(heap, 1, RING, IPCHEAP_CONSUMER);
    ipcheap_record record;
    uint64_t sum = 0;
    both_start();
    for (uint64_t i = 0; i < RECORDS; i++) {
        take(in, &record);
        sum += sum64(record.data);
        MUST(ipcheap_free(heap, &record));
    }
    sink = sum;
    atomic_store(&arena->received, 1);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

static void trips_there(double *result) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *out = endpoint(heap, 2, RING, IPCHEAP_PRODUCER);
    ipcheap_endpoint *in = endpoint(heap, 3, RING, IPCHEAP_CONSUMER);
    ipcheap_record request, answer;
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < TRIPS; i++) {
        MUST(ipcheap_allocate(heap, 64, &request));
        memcpy(request.data, &i, sizeof i);
        give(out, &request);
        if (i > 0) MUST(ipcheap_free(heap, &answer));
        take(in, &answer);
        sink = *(uint64_t *)answer.data;
    }
    MUST(ipcheap_free(heap, &answer));
    *result = (now() - begin) / TRIPS;
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

static void trips_back(void) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *in = endpoint(heap, 2, RING, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = endpoint(heap, 3, RING, IPCHEAP_PRODUCER);
    ipcheap_record request, answer;
    both_start();
    for (uint64_t i = 0; i < TRIPS; i++) {
        take(in, &request);
        MUST(ipcheap_allocate(heap, 64, &answer));
        memcpy(answer.data, request.data, sizeof i);
        give(out, &answer);
        MUST(ipcheap_free(heap, &request));
    }
    ipcheap_endpoint_release(in);
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static double pairs(uint64_t nbytes) {
    ipcheap_heap *heap = attached();
    ipcheap_record record;
    MUST(ipcheap_allocate(heap, nbytes, &record));
    MUST(ipcheap_free(heap, &record));
    double begin = now();
    for (int i = 0; i < PAIRS; i++) {
        MUST(ipcheap_allocate(heap, nbytes, &record));
        MUST(ipcheap_free(heap, &record));
    }
    double result = (now() - begin) / PAIRS;
    ipcheap_release(heap);
    return result;
}

static void bulk_out(double *result) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *out = endpoint(heap, 4, BULK_SLOTS, IPCHEAP_PRODUCER);
    ipcheap_record record;
    both_start();
    double begin = now();
    for (int i = 0; i < BULK; i++) {
        MUST(ipcheap_allocate(heap, BULK_BYTES, &record));
        memcpy(record.data, source, BULK_BYTES);
        give(out, &record);
    }
    while (atomic_load(&arena->received) == 0) {}
    *result = (now() - begin) / BULK;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static void bulk_in(void) {
    ipcheap_heap *heap = attached();
    ipcheap_endpoint *in = endpoint(heap, 4, BULK_SLOTS, IPCHEAP_CONSUMER);
    ipcheap_record record;
    uint64_t sum = 0;
    both_start();
    for (int i = 0; i < BULK; i++) {
        take(in, &record);
        sum += look_at_pages(record.data);
        MUST(ipcheap_free(heap, &record));
    }
    sink = sum;
    atomic_store(&arena->received, 1);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

/* The run ---------------------------------------------------------------------------------- */

int main(int count, char **arguments) {
    int repetitions = repetitions_of(count, arguments);
    arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) return 1;
    segment = memfd_create("bench", MFD_CLOEXEC);
    ipcheap_options options = {.capacity = UINT64_C(64) << 20, .shm_kind = IPCHEAP_SHM_MEMFD};
    MUST(ipcheap_format(segment, -1, &options));
    pin(0);
    memset(source, 1, sizeof source);
    static double line[MOST], payload[MOST], ring[MOST], cached[MOST], memory[MOST],
        handed[MOST], record[MOST], trip[MOST], pair[MOST], extent[MOST], bulk[MOST];
    for (int r = 0; r < repetitions; r++) {
        in_two_processes(line_there, line_back, &line[r]);
        in_two_processes(payload_there, payload_back, &payload[r]);
        in_two_processes(trips_there, trips_back, &trip[r]);
        in_two_processes(ring_out, ring_in, &ring[r]);
        in_two_processes(records_out, records_in, &record[r]);
        pair[r] = pairs(64);
        extent[r] = pairs(BULK_BYTES);
        cached[r] = copies(BULK_HOT);
        memory[r] = copies(sizeof arena->bulk / BULK_BYTES);
        in_two_processes(copies_out, copies_in, &handed[r]);
        in_two_processes(bulk_out, bulk_in, &bulk[r]);
    }
    double line_ns = median(line, repetitions), ring_ns = median(ring, repetitions);
    double payload_ns = median(payload, repetitions), handed_ns = median(handed, repetitions);
    double trip_ns = median(trip, repetitions), bulk_ns = median(bulk, repetitions);
    row("floor: cache-line round trip", line_ns, 0, NULL);
    row("floor: the same with a line of payload", payload_ns, line_ns, "the cache line");
    row("round trip with allocation", trip_ns, line_ns, "the cache line");
    row("", trip_ns, payload_ns, "that with payload");
    row("floor: bare ring, 64 B copied in and read", ring_ns, 0, NULL);
    row("64 B record, allocate ... free", median(record, repetitions), ring_ns, "the bare ring");
    row("allocate + free, 64 B", median(pair, repetitions), 0, NULL);
    row("allocate + free, 64 KiB", median(extent, repetitions), 0, NULL);
    double cached_ns = median(cached, repetitions), memory_ns = median(memory, repetitions);
    row("floor: memcpy 64 KiB in cache", cached_ns, 0, NULL);
    row("floor: memcpy 64 KiB to memory", memory_ns, 0, NULL);
    row("floor: memcpy 64 KiB, read by another", handed_ns, cached_ns, "that in cache");
    row("64 KiB record, allocate ... free", bulk_ns, cached_ns, "memcpy in cache");
    row("", bulk_ns, memory_ns, "memcpy to memory");
    row("", bulk_ns, handed_ns, "memcpy read by another");
    close(segment);
    return 0;
}
