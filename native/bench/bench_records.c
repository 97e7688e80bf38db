/*
 * bench_records - what a record costs, beside what the machine itself takes.
 *
 *   bench_records [repetitions]
 *
 * Floors and figures alternate within one run, so that their ratios hold on a noisy
 * machine; medians of the repetitions. Two processes, each pinned to a processor.
 */

#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "bulk.h"

enum { RECORDS = 1 << 20, TRIPS = 200000, PAIRS = 1 << 22, RING = 1024 };
enum { FEW = 8 }; /* slots for a request and its answer: more lines go round in a longer ring */
enum { BULK = 40000, BULK_BYTES = 65536, BULK_SLOTS = 16, BULK_BUFFERS = 1024 };

/* What both processes share besides the heap. */
struct arena {
    _Alignas(128) unsigned char slots[RING][64];
    struct there_and_back {
        _Alignas(128) _Atomic uint64_t slots[FEW];
        _Alignas(128) unsigned char payload[FEW][64];
    } trip[2];
};

static struct arena *arena;
static int segment;

/* Floors ----------------------------------------------------------------------------------- */

/*
 * The same with a payload in a line of its own, as every exchange of memory by offset has
 * it; the reader knows where it will be and fetches it along with the word.
 */
static void bare_send(struct there_and_back *way, uint64_t i) {
    memcpy(way->payload[i % FEW], &i, sizeof i);
    atomic_store_explicit(&way->slots[i % FEW], i, memory_order_release);
}

static void bare_receive(struct there_and_back *way, uint64_t i) {
    do __builtin_prefetch(way->payload[i % FEW]);
    while (atomic_load_explicit(&way->slots[i % FEW], memory_order_acquire) != i);
    sink = *(uint64_t *)way->payload[i % FEW];
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
            seen = atomic_load_explicit(&meeting->received, memory_order_acquire);
        memcpy(payload, &i, sizeof i);
        memcpy(arena->slots[i % RING], payload, 64);
        atomic_store_explicit(&meeting->sent, i + 1, memory_order_release);
    }
    while (atomic_load_explicit(&meeting->received, memory_order_acquire) != RECORDS) {}
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
        while (seen == i) seen = atomic_load_explicit(&meeting->sent, memory_order_acquire);
        sum += sum64(arena->slots[i % RING]);
        atomic_store_explicit(&meeting->received, i + 1, memory_order_release);
    }
    sink = sum;
}

/* The heap --------------------------------------------------------------------------------- */

static void records_out(double *result) {
    ipcheap_heap *heap = attached(segment);
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
    while (atomic_load(&meeting->received) == 0) {}
    *result = (now() - begin) / RECORDS;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static void records_in(void) {
    ipcheap_heap *heap = attached(segment);
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
    atomic_store(&meeting->received, 1);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

static struct {
    uint64_t there, back, slots;
} trip_way; /* their channels */

/* The fast way: allocates while waiting, and frees while the answer is on its way. */
static void trips_there(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *out = endpoint(heap, trip_way.there, trip_way.slots, IPCHEAP_PRODUCER);
    ipcheap_endpoint *in = endpoint(heap, trip_way.back, trip_way.slots, IPCHEAP_CONSUMER);
    ipcheap_record request, answer, next;
    both_start();
    double begin = now();
    MUST(ipcheap_allocate(heap, 64, &next));
    for (uint64_t i = 0; i < TRIPS; i++) {
        request = next;
        memcpy(request.data, &i, sizeof i);
        give(out, &request);
        if (i > 0) MUST(ipcheap_free(heap, &answer));
        MUST(ipcheap_allocate(heap, 64, &next));
        take(in, &answer);
        sink = *(uint64_t *)answer.data;
    }
    MUST(ipcheap_free(heap, &answer));
    MUST(ipcheap_free(heap, &next));
    *result = (now() - begin) / TRIPS;
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

static void trips_back(void) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *in = endpoint(heap, trip_way.there, trip_way.slots, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = endpoint(heap, trip_way.back, trip_way.slots, IPCHEAP_PRODUCER);
    ipcheap_record request, answer;
    both_start();
    for (uint64_t i = 0; i < TRIPS; i++) {
        MUST(ipcheap_allocate(heap, 64, &answer));
        take(in, &request);
        memcpy(answer.data, request.data, sizeof i);
        give(out, &answer);
        MUST(ipcheap_free(heap, &request));
    }
    ipcheap_endpoint_release(in);
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static void trips(uint64_t there, uint64_t back, uint64_t slots, double *result) {
    trip_way.there = there;
    trip_way.back = back;
    trip_way.slots = slots;
    in_two_processes(trips_there, trips_back, result);
}

static double pairs_of(uint64_t nbytes) {
    ipcheap_heap *heap = attached(segment);
    double ns = pairs(heap, nbytes, PAIRS);
    ipcheap_release(heap);
    return ns;
}

/* The run ---------------------------------------------------------------------------------- */

int main(int count, char **arguments) {
    int repetitions = repetitions_of(count, arguments);
    arena = shared_memory(sizeof *arena);
    segment = new_segment(UINT64_C(64) << 20);
    pin(0);
    bulk_prepare(&(struct bulk){
        .nbytes = BULK_BYTES,
        .buffers = BULK_BUFFERS,
        .count = BULK,
        .segment = segment,
        .channel = 4,
        .slots = BULK_SLOTS,
    });
    static double line[MOST], payload[MOST], ring[MOST], cached[MOST], memory[MOST], handed[MOST],
        record[MOST], trip[MOST], long_trip[MOST], pair[MOST], extent[MOST], bulk[MOST];
    for (int r = 0; r < repetitions; r++) {
        line[r] = cache_line();
        in_two_processes(payload_there, payload_back, &payload[r]);
        trips(2, 3, FEW, &trip[r]);
        trips(5, 6, RING, &long_trip[r]);
        in_two_processes(ring_out, ring_in, &ring[r]);
        in_two_processes(records_out, records_in, &record[r]);
        pair[r] = pairs_of(64);
        extent[r] = pairs_of(BULK_BYTES);
        cached[r] = bulk_copies(BULK_HOT, BULK / 2);
        memory[r] = bulk_copies(BULK_BUFFERS, BULK / 2);
        in_two_processes(bulk_copies_out, bulk_copies_in, &handed[r]);
        in_two_processes(bulk_out, bulk_in, &bulk[r]);
    }
    double line_ns = median(line, repetitions), ring_ns = median(ring, repetitions);
    double payload_ns = median(payload, repetitions), handed_ns = median(handed, repetitions);
    double trip_ns = median(trip, repetitions), bulk_ns = median(bulk, repetitions);
    row("floor: cache-line round trip", line_ns, 0, NULL);
    row("floor: the same with a line of payload", payload_ns, line_ns, "the cache line");
    row("round trip with allocation", trip_ns, line_ns, "the cache line");
    row("", trip_ns, payload_ns, "that with payload");
    double long_ns = median(long_trip, repetitions);
    row("the same through rings of 1,024", long_ns, line_ns, "the cache line");
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
