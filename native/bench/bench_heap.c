/*
 * bench_heap - what a heap costs as it grows: participants, blocks, records of 1 MiB.
 *
 *   bench_heap [repetitions [blocks]]
 *
 * Floors and figures alternate within one run; medians of the repetitions. Ten million
 * blocks take about 1.2 GB of memory.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { PAIRS = 1 << 21, PARTICIPANTS = 64, BLOCK = 64, BLOCKS = 10000000 };
enum { BULK = 2000, BULK_BYTES = 1 << 20, BULK_HOT = 4 };

static const uint64_t small_heap = UINT64_C(64) << 20;

/* What both processes share besides the heap. */
struct arena {
    _Alignas(128) _Atomic uint64_t sent;
    _Alignas(128) _Atomic uint64_t received;
    _Alignas(128) _Atomic uint32_t start;
    _Alignas(4096) unsigned char bulk[BULK_HOT][BULK_BYTES];
};

static struct arena *arena;
static unsigned char source[BULK_BYTES];
static volatile uint64_t sink;

static int new_segment(uint64_t capacity) {
    int fd = memfd_create("bench", MFD_CLOEXEC);
    ipcheap_options options = {.capacity = capacity, .shm_kind = IPCHEAP_SHM_MEMFD};
    MUST(ipcheap_format(fd, -1, &options));
    return fd;
}

static ipcheap_heap *attached(int fd) {
    ipcheap_heap *heap;
    MUST(ipcheap_attach(fd, -1, &heap));
    return heap;
}

/* Participants ----------------------------------------------------------------------------- */

static double pairs(ipcheap_heap *heap) {
    ipcheap_record record;
    MUST(ipcheap_allocate(heap, BLOCK, &record));
    MUST(ipcheap_free(heap, &record));
    double begin = now();
    for (int i = 0; i < PAIRS; i++) {
        MUST(ipcheap_allocate(heap, BLOCK, &record));
        MUST(ipcheap_free(heap, &record));
    }
    return (now() - begin) / PAIRS;
}

static pthread_barrier_t arrived, leave;

/* One that has a slab of its own, a block in it, and nothing to do. */
static void *stand_by(void *heap) {
    ipcheap_record record;
    MUST(ipcheap_allocate(heap, BLOCK, &record));
    pthread_barrier_wait(&arrived);
    pthread_barrier_wait(&leave);
    MUST(ipcheap_free(heap, &record));
    return NULL;
}

static double pairs_beside(ipcheap_heap *heap) {
    pthread_t threads[PARTICIPANTS - 1];
    pthread_barrier_init(&arrived, NULL, PARTICIPANTS);
    pthread_barrier_init(&leave, NULL, PARTICIPANTS);
    for (int i = 0; i < PARTICIPANTS - 1; i++)
        if (pthread_create(&threads[i], NULL, stand_by, heap) != 0) exit(1);
    pthread_barrier_wait(&arrived);
    double ns = pairs(heap);
    pthread_barrier_wait(&leave);
    for (int i = 0; i < PARTICIPANTS - 1; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&arrived);
    pthread_barrier_destroy(&leave);
    return ns;
}

/* Many blocks ------------------------------------------------------------------------------ */

static uint64_t dice = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t roll(uint64_t below) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return dice % below;
}

static ipcheap_heap *full;
static ipcheap_record *records;

static void fill(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; i++) MUST(ipcheap_allocate(full, BLOCK, &records[i]));
}

/* The handles are moved about, so that they are read in order and the blocks are not. */
static void shuffle(uint64_t count, uint64_t among) {
    for (uint64_t i = 0; i < count; i++) {
        uint64_t other = roll(among);
        ipcheap_record swapped = records[i];
        records[i] = records[other];
        records[other] = swapped;
    }
}

/* Frees a tenth of them, picked at random while all are there; then makes up for it. */
static double random_frees(uint64_t blocks) {
    uint64_t count = blocks / 10;
    shuffle(count, blocks);
    double begin = now();
    for (uint64_t i = 0; i < count; i++) MUST(ipcheap_free(full, &records[i]));
    double ns = (now() - begin) / (double)count;
    fill(0, count);
    return ns;
}

static double refills(uint64_t blocks) {
    uint64_t count = blocks / 10;
    shuffle(count, blocks);
    for (uint64_t i = 0; i < count; i++) MUST(ipcheap_free(full, &records[i]));
    double begin = now();
    fill(0, count);
    return (now() - begin) / (double)count;
}

/* 1 MiB ------------------------------------------------------------------------------------ */

static int segment;

static void in_two_processes(void (*first)(double *), void (*second)(void), double *result) {
    memset(arena, 0, offsetof(struct arena, bulk));
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

static uint64_t look_at_pages(const unsigned char *data) {
    uint64_t sum = 0;
    for (int at = 0; at < BULK_BYTES; at += 4096) sum += data[at];
    return sum;
}

static double copies(void) {
    for (int i = 0; i < BULK_HOT; i++) memcpy(arena->bulk[i], source, BULK_BYTES);
    double begin = now();
    for (int i = 0; i < BULK; i++) {
        memcpy(arena->bulk[i % BULK_HOT], source, BULK_BYTES);
        __asm__ volatile("" ::: "memory");
    }
    return (now() - begin) / BULK;
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

static ipcheap_endpoint *endpoint(ipcheap_heap *heap, int side) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *e;
    MUST(ipcheap_key_int(&key, 1));
    MUST(ipcheap_add_record_channel(heap, &key, BULK_HOT, &channel));
    MUST(ipcheap_claim(heap, &channel, side, &e));
    MUST(ipcheap_wait_peer(e, -1));
    return e;
}

static void bulk_out(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *out = endpoint(heap, IPCHEAP_PRODUCER);
    ipcheap_record record;
    both_start();
    double begin = now();
    for (int i = 0; i < BULK; i++) {
        MUST(ipcheap_allocate(heap, BULK_BYTES, &record));
        memcpy(record.data, source, BULK_BYTES);
        int error;
        while ((error = ipcheap_try_send(out, &record)) == IPCHEAP_WOULD_BLOCK) {}
        MUST(error);
    }
    while (atomic_load(&arena->received) == 0) {}
    *result = (now() - begin) / BULK;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static void bulk_in(void) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *in = endpoint(heap, IPCHEAP_CONSUMER);
    ipcheap_record record;
    uint64_t sum = 0;
    both_start();
    for (int i = 0; i < BULK; i++) {
        int error;
        while ((error = ipcheap_try_receive(in, &record)) == IPCHEAP_WOULD_BLOCK) {}
        MUST(error);
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
    uint64_t blocks = count > 2 ? strtoull(arguments[2], NULL, 10) : BLOCKS;
    if (blocks < 10) return 2;
    arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    records = malloc(blocks * sizeof *records);
    if (arena == MAP_FAILED || records == NULL) return 1;
    pin(0);
    memset(source, 1, sizeof source);
    segment = new_segment(small_heap);
    ipcheap_heap *heap = attached(new_segment(small_heap));
    full = attached(new_segment(blocks * BLOCK * 2 + small_heap));
    fill(0, blocks);
    shuffle(blocks, blocks);

    static double alone[MOST], beside[MOST], frees[MOST], refill[MOST], cached[MOST], handed[MOST],
        bulk[MOST];
    for (int r = 0; r < repetitions; r++) {
        alone[r] = pairs(heap);
        beside[r] = pairs_beside(heap);
        frees[r] = random_frees(blocks);
        refill[r] = refills(blocks);
        cached[r] = copies();
        in_two_processes(copies_out, copies_in, &handed[r]);
        in_two_processes(bulk_out, bulk_in, &bulk[r]);
    }

    char many[64] = "10 million", name[128];
    if (blocks != BLOCKS) snprintf(many, sizeof many, "%llu", (unsigned long long)blocks);
    double alone_ns = median(alone, repetitions), cached_ns = median(cached, repetitions);
    double handed_ns = median(handed, repetitions), bulk_ns = median(bulk, repetitions);
    row("allocate + free, 64 B, alone", alone_ns, 0, NULL);
    row("allocate + free, 64 B, beside 64 participants", median(beside, repetitions), alone_ns,
        "alone");
    snprintf(name, sizeof name, "free of random blocks of %s", many);
    row(name, median(frees, repetitions), 0, NULL);
    snprintf(name, sizeof name, "allocate in their place, of %s", many);
    row(name, median(refill, repetitions), 0, NULL);
    row("floor: memcpy 1 MiB in cache", cached_ns, 0, NULL);
    row("floor: memcpy 1 MiB, read by another", handed_ns, cached_ns, "that in cache");
    row("1 MiB record, allocate ... free", bulk_ns, cached_ns, "memcpy in cache");
    row("", bulk_ns, handed_ns, "memcpy read by another");
    return 0;
}
