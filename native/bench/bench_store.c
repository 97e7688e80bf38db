/*
 * bench_store - what a store costs, beside a seqlock that does as much as it can.
 *
 *   bench_store [repetitions]
 *
 * A seqlock has one value in one place: its reader copies, and looks whether it was changed meanwhile.
 * It cannot hold anything, and is the least that a reader pays who wants the newest value. Floors
 * and figures alternate, so that their ratios hold on a noisy machine; medians of the repetitions. The
 * measuring process is on the first processor, and what is beside it on the second. What counts is the
 * processor's time: nobody waits here.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "store/endpoint.h"

enum { NBYTES = 64, GETS = 1 << 20, PUTS = 1 << 19, MANY_KEYS = 1000000, MANY_HELD = 10000 };
enum { FEW_KEYS = 10, WARM_UP = 4096, PACE = 1000 /* ns */ };

static int segment;
static unsigned char value[NBYTES], copied[NBYTES];

/* Keys ------------------------------------------------------------------------------------- */

static ipcheap_store_key *keys;
static uint32_t key_count;

static void make_keys(uint32_t count) {
    free(keys);
    key_count = count;
    keys = calloc(count, sizeof *keys);
    if (!keys) exit(1);
    for (uint32_t i = 0; i < count; i++) {
        char text[16];
        int length = snprintf(text, sizeof text, "key%u", i);
        MUST(ipcheap_store_key_of(&keys[i], IPCHEAP_KEY_TEXT, text, (size_t)length));
    }
}

/* The seqlock ------------------------------------------------------------------------------ */

static struct seqlock {
    _Alignas(128) _Atomic uint64_t sequence;
    _Atomic uint64_t words[NBYTES / 8];
} *seqlock;

static void seqlock_write(void) {
    uint64_t sequence = atomic_load_explicit(&seqlock->sequence, memory_order_relaxed), words[8];
    memcpy(words, value, sizeof words);
    atomic_store_explicit(&seqlock->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (int i = 0; i < 8; i++)
        atomic_store_explicit(&seqlock->words[i], words[i], memory_order_relaxed);
    atomic_store_explicit(&seqlock->sequence, sequence + 2, memory_order_release);
}

static inline void seqlock_read(void) {
    uint64_t before, words[8];
    do {
        before = atomic_load_explicit(&seqlock->sequence, memory_order_acquire);
        for (int i = 0; i < 8; i++)
            words[i] = atomic_load_explicit(&seqlock->words[i], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
    } while (before & 1 ||
             before != atomic_load_explicit(&seqlock->sequence, memory_order_relaxed));
    memcpy(copied, words, sizeof words);
    sink = copied[0];
}

/* The store -------------------------------------------------------------------------------- */

static ipcheap_channel channel;

static void new_store(uint32_t hold) {
    ipcheap_key key;
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_HOLD, .hold = hold};
    if (segment > 0) close(segment);
    segment = new_segment(UINT64_C(1) << 30);
    ipcheap_heap *heap = attached(segment);
    MUST(ipcheap_key_int(&key, 1));
    MUST(ipcheap_add_store(heap, &key, &options, &channel));
    ipcheap_release(heap);
}

static ipcheap_endpoint *claimed(ipcheap_heap *heap, int side) {
    ipcheap_endpoint *e;
    MUST(ipcheap_claim(heap, &channel, side, &e));
    return e;
}

static inline void put_one(ipcheap_endpoint *writer, uint64_t i) {
    uint64_t version;
    memcpy(value, &i, sizeof i);
    MUST(ipcheap_store_put(writer, &keys[i % key_count], value, NBYTES, 0, &version));
}

static inline void get_one(ipcheap_endpoint *reader, uint64_t i) {
    ipcheap_chunk chunk;
    MUST(ipcheap_store_get(reader, &keys[i % key_count], 0, &chunk));
    memcpy(copied, chunk.data, NBYTES);
    sink = copied[0];
    MUST(ipcheap_chunk_release(&chunk));
}

/* Beside the one that is measured ------------------------------------------------------------ */

static bool measured(void) {
    return atomic_load_explicit(&meeting->sent, memory_order_relaxed) != 0;
}

static void wait_until(double when) {
    while (now() < when) pause_briefly();
}

static void nobody(void) { both_start(); }

static void seqlock_writer(void) {
    both_start();
    for (double next = now(); !measured(); wait_until(next += PACE)) seqlock_write();
}

static void writer_beside(bool rests) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *writer = claimed(heap, IPCHEAP_WRITER);
    put_one(writer, 0);
    both_start();
    double next = now();
    for (uint64_t i = 1; !measured(); i++) {
        put_one(writer, i);
        if (rests) wait_until(next += PACE);
    }
    ipcheap_endpoint_release(writer);
    ipcheap_release(heap);
}

static void resting_writer(void) { writer_beside(true); }
static void restless_writer(void) { writer_beside(false); }

static uint32_t reader_count, held_count;
static double reader_pace; /* ns; 0: they never rest, negative: they do nothing */

/* Readers, the first of which holds dead chunks; in turns they get one key. */
static void readers_beside(void) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint **readers = calloc(reader_count + 1, sizeof(ipcheap_endpoint *));
    ipcheap_chunk *held = calloc(held_count + 1, sizeof *held);
    if (!readers || !held) exit(1);
    for (uint32_t i = 0; i < reader_count; i++) readers[i] = claimed(heap, IPCHEAP_READER);
    both_arrive(1);
    /* The writer puts, this one holds, and what is held is replaced. */
    for (uint32_t i = 0; i < held_count; i++) {
        while (atomic_load(&meeting->received) != i + 1) pause_briefly();
        MUST(ipcheap_store_get(readers[0], &keys[0], 0, &held[i]));
        atomic_store(&meeting->received, i + 1 + (UINT64_C(1) << 32));
    }
    both_arrive(2);
    double next = now();
    for (uint64_t i = 0; !measured(); i++) {
        if (reader_count && reader_pace >= 0) get_one(readers[i % reader_count], i);
        if (reader_pace != 0) wait_until(next += reader_pace > 0 ? reader_pace : PACE);
    }
    for (uint32_t i = 0; i < held_count; i++) MUST(ipcheap_chunk_release(&held[i]));
    for (uint32_t i = 0; i < reader_count; i++) ipcheap_endpoint_release(readers[i]);
    free(readers);
    free(held);
    ipcheap_release(heap);
}

/* What is measured ------------------------------------------------------------------------- */

static double used(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void done(double begin, double count, double *result) {
    *result = (used() - begin) / count;
    atomic_store(&meeting->sent, 1);
}

static void seqlock_reads(double *result) {
    both_start();
    double begin = used();
    for (int i = 0; i < GETS; i++) seqlock_read();
    done(begin, GETS, result);
}

static void seqlock_writes(double *result) {
    both_start();
    double begin = used();
    for (int i = 0; i < GETS; i++) seqlock_write();
    done(begin, GETS, result);
}

static double looks; /* of the last run, for each get */

static void gets(ipcheap_heap *heap, double *result) {
    ipcheap_endpoint *reader = claimed(heap, IPCHEAP_READER);
    for (uint64_t i = 0; i < WARM_UP; i++) get_one(reader, 0);
    uint64_t before = store_endpoint(reader)->again;
    double begin = used();
    for (uint64_t i = 0; i < GETS; i++) get_one(reader, 0);
    done(begin, GETS, result);
    looks = 1 + (double)(store_endpoint(reader)->again - before) / GETS;
    ipcheap_endpoint_release(reader);
}

static void gets_beside(double *result) {
    ipcheap_heap *heap = attached(segment);
    both_start();
    gets(heap, result);
    ipcheap_release(heap);
}

static void gets_alone(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *writer = claimed(heap, IPCHEAP_WRITER);
    both_start();
    for (uint32_t i = 0; i < FEW_KEYS; i++) put_one(writer, i);
    gets(heap, result);
    ipcheap_endpoint_release(writer);
    ipcheap_release(heap);
}

static void puts_beside(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *writer = claimed(heap, IPCHEAP_WRITER);
    for (uint32_t i = 0; i < key_count; i++) put_one(writer, i);
    both_arrive(1);
    for (uint32_t i = 0; i < held_count; i++) {
        put_one(writer, 0);
        atomic_store(&meeting->received, i + 1);
        while (atomic_load(&meeting->received) >> 32 == 0) pause_briefly();
    }
    for (uint64_t i = 0; i < WARM_UP; i++) put_one(writer, i % FEW_KEYS);
    both_arrive(2);
    double begin = used();
    /* Few keys of many: the caches hold what is put, however much there is beside it. */
    for (uint64_t i = 0; i < PUTS; i++) put_one(writer, i % FEW_KEYS);
    done(begin, PUTS, result);
    ipcheap_endpoint_release(writer);
    ipcheap_release(heap);
}

/* The run ---------------------------------------------------------------------------------- */

static void measure(void (*first)(double *result), void (*second)(void), double *result) {
    in_two_processes(first, second, result);
}

static const struct beside {
    const char *name;
    uint32_t readers, held;
    double pace;
    uint32_t keys;
} besides[] = {
    {"store, put of 64 B, no reader", 0, 0, -1, FEW_KEYS},
    {"store, put of 64 B, 1 idle reader", 1, 0, -1, FEW_KEYS},
    {"store, put of 64 B, 1 reader, a get a us", 1, 0, PACE, FEW_KEYS},
    {"store, put of 64 B, 8 readers, a get a us", 8, 0, PACE, FEW_KEYS},
    {"store, put of 64 B, 64 readers, a get a us", 64, 0, PACE, FEW_KEYS},
    {"store, put of 64 B, 1 reader without pause", 1, 0, 0, FEW_KEYS},
    {"store, put of 64 B, 10,000 chunks held", 1, MANY_HELD, -1, FEW_KEYS},
    {"store, put of 64 B, 1,000,000 keys", 1, 0, -1, MANY_KEYS},
};

enum { BESIDES = sizeof besides / sizeof *besides };
enum { FLOOR_ALONE, FLOOR_BESIDE, FLOOR_WRITE, ALONE, BESIDE, RESTLESS, LOOKS, FIGURES };

static double found[FIGURES][MOST], puts_found[BESIDES][MOST];

static void round_of_gets(int round) {
    make_keys(FEW_KEYS);
    new_store(1024);
    measure(seqlock_reads, nobody, &found[FLOOR_ALONE][round]);
    measure(gets_alone, nobody, &found[ALONE][round]);
    key_count = 1;
    measure(seqlock_reads, seqlock_writer, &found[FLOOR_BESIDE][round]);
    measure(gets_beside, resting_writer, &found[BESIDE][round]);
    measure(gets_beside, restless_writer, &found[RESTLESS][round]);
    found[LOOKS][round] = looks;
    measure(seqlock_writes, nobody, &found[FLOOR_WRITE][round]);
}

static void round_of_puts(int round) {
    for (int i = 0; i < BESIDES; i++) {
        make_keys(besides[i].keys);
        new_store(besides[i].held + 8);
        reader_count = besides[i].readers;
        held_count = besides[i].held;
        reader_pace = besides[i].pace;
        measure(puts_beside, readers_beside, &puts_found[i][round]);
    }
}

int main(int given, char **arguments) {
    int rounds = repetitions_of(given, arguments);
    double ns[FIGURES];
    seqlock = shared_memory(sizeof *seqlock);
    pin(0);
    for (int round = 0; round < rounds; round++) {
        round_of_gets(round);
        round_of_puts(round);
    }
    for (int i = 0; i < FIGURES; i++) ns[i] = median(found[i], rounds);
    row("floor: seqlock, copy of 64 B, alone", ns[FLOOR_ALONE], 0, NULL);
    row("store, get, copy and release of 64 B, alone", ns[ALONE], ns[FLOOR_ALONE], "the seqlock");
    row("floor: seqlock, 64 B, beside a write a us", ns[FLOOR_BESIDE], 0, NULL);
    row("store, get of 64 B, beside a put a us", ns[BESIDE], ns[FLOOR_BESIDE], "the seqlock");
    row("store, get of 64 B, puts without pause", ns[RESTLESS], ns[RESTLESS] / ns[LOOKS],
        "one look a get");
    row("floor: seqlock, write of 64 B, alone", ns[FLOOR_WRITE], 0, NULL);
    for (int i = 0; i < BESIDES; i++) {
        double put = median(puts_found[i], rounds), first = median(puts_found[1], rounds);
        row(besides[i].name, put, i > 1 ? first : ns[FLOOR_WRITE],
            i > 1 ? "beside 1 idle reader" : "the seqlock");
    }
    close(segment);
    return 0;
}
