/*
 * bench_heap - what a heap costs as it grows: participants, blocks, records of 1 MiB.
 *
 *   bench_heap [repetitions [blocks]]
 *
 * Floors and figures alternate within one run; medians of the repetitions. Ten million
 * blocks take about 1.2 GB of memory.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "bench.h"
#include "bulk.h"

enum { PAIRS = 1 << 21, PARTICIPANTS = 64, BLOCK = 64, BLOCKS = 10000000 };
enum { BULK = 2000, BULK_BYTES = 1 << 20 };

static const uint64_t small_heap = UINT64_C(64) << 20;

/* Participants ----------------------------------------------------------------------------- */

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
    double ns = pairs(heap, BLOCK, PAIRS);
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
    for (uint64_t i = first; i < first + count; i++)
        MUST(ipcheap_allocate(full, BLOCK, &records[i]));
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

/* The least that a free can do: to set the word that says so. */
static uint64_t *words;

static double random_words(uint64_t blocks) {
    uint64_t count = blocks / 10;
    shuffle(count, blocks);
    double begin = now();
    for (uint64_t i = 0; i < count; i++) words[records[i].offset / BLOCK % blocks] = i;
    return (now() - begin) / (double)count;
}

static double refills(uint64_t blocks) {
    uint64_t count = blocks / 10;
    shuffle(count, blocks);
    for (uint64_t i = 0; i < count; i++) MUST(ipcheap_free(full, &records[i]));
    double begin = now();
    fill(0, count);
    return (now() - begin) / (double)count;
}

/* The run ---------------------------------------------------------------------------------- */

int main(int count, char **arguments) {
    int repetitions = repetitions_of(count, arguments);
    uint64_t blocks = count > 2 ? strtoull(arguments[2], NULL, 10) : BLOCKS;
    if (blocks < 10) return 2;
    records = malloc(blocks * sizeof *records);
    words = mmap(NULL, blocks * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                 -1, 0);
    if (!records || words == MAP_FAILED) return 1;
    pin(0);
    bulk_prepare(&(struct bulk){
        .nbytes = BULK_BYTES,
        .buffers = BULK_HOT,
        .count = BULK,
        .segment = new_segment(small_heap),
        .channel = 1,
        .slots = BULK_HOT,
    });
    ipcheap_heap *heap = attached(new_segment(small_heap));
    full = attached(new_segment(blocks * BLOCK * 2 + small_heap));
    fill(0, blocks);
    shuffle(blocks, blocks);

    static double touched[MOST], alone[MOST], beside[MOST], frees[MOST], refill[MOST], cached[MOST],
        handed[MOST], bulk[MOST];
    for (int r = 0; r < repetitions; r++) {
        alone[r] = pairs(heap, BLOCK, PAIRS);
        beside[r] = pairs_beside(heap);
        touched[r] = random_words(blocks);
        frees[r] = random_frees(blocks);
        refill[r] = refills(blocks);
        cached[r] = bulk_copies(BULK_HOT, BULK);
        in_two_processes(bulk_copies_out, bulk_copies_in, &handed[r]);
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
    double touched_ns = median(touched, repetitions);
    row("floor: as many random words set", touched_ns, 0, NULL);
    row(name, median(frees, repetitions), touched_ns, "words set");
    snprintf(name, sizeof name, "allocate in their place, of %s", many);
    row(name, median(refill, repetitions), 0, NULL);
    row("floor: memcpy 1 MiB in cache", cached_ns, 0, NULL);
    row("floor: memcpy 1 MiB, read by another", handed_ns, cached_ns, "that in cache");
    row("1 MiB record, allocate ... free", bulk_ns, cached_ns, "memcpy in cache");
    row("", bulk_ns, handed_ns, "memcpy read by another");
    return 0;
}
