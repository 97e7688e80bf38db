/*
 * A hunt for lost wake-ups: two processes with two threads each, rings of one to eight slots,
 * random pauses on both sides, every way of waiting mixed.
 *
 *   test_hunt [messages] [seed]      prints what it did; without arguments it runs a few seconds
 *
 * For half of the messages the two threads of a process share an attachment. For the other half
 * each has its own, so that they do not count as company and doze.
 *
 * Records must arrive in order, each once. A sleeper looks around every half second by itself,
 * which would hide a lost wake-up. So a wait that takes longer than the pauses of the other side
 * explain counts as a stall, whatever ended it.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "testing.h"

enum { LANES = 2, ROUND = 5000, LONGEST_PAUSE_US = 2000 };
#define SECOND INT64_C(1000000000)
/* A lost wake-up costs at least half a second; busy machines cause delays, too. */
#define SUSPICIOUS (SECOND * 49 / 100)
#define STALL SECOND

struct tally {
    _Atomic long suspicious, stalls;
    _Atomic int64_t longest;
    _Atomic long style[2][6];
    _Atomic long parks, wakes;
};

struct lane {
    ipcheap_heap *heap;
    int number, side;
    long messages;
    uint64_t random;
};

static struct tally *tally; /* shared by both processes */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void took(int64_t span) {
    if (span > SUSPICIOUS) tally->suspicious++;
    if (span > STALL) tally->stalls++;
    int64_t longest = tally->longest;
    while (span > longest && !atomic_compare_exchange_weak(&tally->longest, &longest, span)) {}
}

static uint64_t pick(struct lane *l, uint64_t among) { return next_random(&l->random) % among; }

static void pause_a_while(struct lane *l) {
    uint64_t how = pick(l, 1000);
    if (how < 700) return;
    if (how < 980) {
        for (uint64_t i = pick(l, 600); i > 0; i--) __asm__ volatile("" ::: "memory");
    } else {
        usleep((useconds_t)pick(l, how < 999 ? 60 : LONGEST_PAUSE_US));
    }
}

/* Waits until a try may succeed, in a random way; nothing ever arrives at `idle`. */
static int wait_somehow(struct lane *l, ipcheap_endpoint *e, ipcheap_endpoint *idle) {
    static _Thread_local _Alignas(64) uint32_t event[16];
    int style = (int)pick(l, 6);
    tally->style[l->side][style]++;
    switch (style) {
    case 0:
        return ipcheap_wait(e, -1);
    case 1: {
        int result = ipcheap_wait(e, (int64_t)pick(l, 200000));
        return result == IPCHEAP_TIMED_OUT ? 0 : result;
    }
    case 2: {
        ipcheap_waitable items[3] = {{.endpoint = idle}, {.endpoint = e}, {.word = event}};
        int64_t ready = ipcheap_wait_any(items, 3, -1);
        EXPECT(ready != 0);
        return ready < 0 ? (int)ready : 0;
    }
    case 3: {
        struct pollfd one = {.fd = ipcheap_endpoint_descriptor(e), .events = POLLIN};
        EXPECT(one.fd >= 0);
        EXPECT_EQ(poll(&one, 1, 20000), 1);
        return 0;
    }
    case 4: {
        ipcheap_waitable items[2] = {{.endpoint = e}, {.endpoint = idle}};
        int64_t ready = ipcheap_wait_any(items, 2, (int64_t)pick(l, 100000));
        return ready < 0 ? (int)ready : 0;
    }
    default:
        return 0; /* no wait: just retry */
    }
}

static void produce(struct lane *l, ipcheap_endpoint *out, ipcheap_endpoint *idle, uint64_t first) {
    for (uint64_t n = first; n < first + ROUND; n++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(l->heap, 8, &record), 0);
        memcpy(record.data, &n, 8);
        int64_t begin = now();
        int result = pick(l, 3) ? IPCHEAP_WOULD_BLOCK : ipcheap_send(out, &record, -1);
        while (result == IPCHEAP_WOULD_BLOCK) {
            result = ipcheap_try_send(out, &record);
            if (result != IPCHEAP_WOULD_BLOCK) break;
            EXPECT_EQ(wait_somehow(l, out, idle), 0);
        }
        EXPECT_EQ(result, 0);
        took(now() - begin);
        pause_a_while(l);
    }
}

static void consume(struct lane *l, ipcheap_endpoint *in, ipcheap_endpoint *idle, uint64_t first) {
    for (uint64_t n = first; n < first + ROUND;) {
        ipcheap_record records[4];
        size_t limit = 1 + (size_t)pick(l, 4);
        int64_t begin = now(), got = 0;
        if (pick(l, 3) == 0) {
            got = ipcheap_receive(in, records, -1) == 0;
            EXPECT_EQ(got, 1);
        }
        while (got == 0) {
            got = ipcheap_try_receive_many(in, records, limit);
            if (got == 0) EXPECT_EQ(wait_somehow(l, in, idle), 0);
        }
        EXPECT(got > 0);
        took(now() - begin);
        for (int64_t i = 0; i < got; i++, n++) {
            uint64_t number;
            memcpy(&number, records[i].data, 8);
            EXPECT_EQ(number, n);
            EXPECT_EQ(ipcheap_free(l->heap, &records[i]), 0);
        }
        pause_a_while(l);
    }
}

static void *run_lane(void *argument) {
    struct lane *l = argument;
    uint64_t unused = (uint64_t)(1000 + l->number * 2 + l->side);
    ipcheap_channel nothing = record_channel(l->heap, unused, 1);
    ipcheap_endpoint *idle = claim(l->heap, &nothing, IPCHEAP_CONSUMER);
    uint64_t rounds = (uint64_t)((l->messages + ROUND - 1) / ROUND);
    for (uint64_t round = 0; round < rounds; round++) {
        /* Each round has a new channel, of another size; both sides compute the same one. */
        uint64_t slots = UINT64_C(1) << ((round + (uint64_t)l->number) % 4);
        uint64_t id = (uint64_t)l->number + 2 * (round % 4);
        ipcheap_channel channel = record_channel(l->heap, 10000 + id * 10 + slots, slots);
        ipcheap_endpoint *e;
        while (ipcheap_claim(l->heap, &channel, l->side, &e) == IPCHEAP_CHANNEL_BUSY) usleep(100);
        ipcheap_endpoint_statistics before, s;
        EXPECT_EQ(ipcheap_endpoint_describe(e, &before), 0);
        EXPECT_EQ(ipcheap_wait_peer(e, 20 * SECOND), 0);
        (l->side == IPCHEAP_PRODUCER ? produce : consume)(l, e, idle, round * ROUND);
        EXPECT_EQ(ipcheap_endpoint_describe(e, &s), 0);
        if (l->side == IPCHEAP_CONSUMER) {
            tally->parks += (long)(s.parks - before.parks);
            tally->wakes += (long)(s.wakes - before.wakes);
        }
        ipcheap_endpoint_release(e);
    }
    ipcheap_endpoint_release(idle);
    return NULL;
}

/* One process: lane 0 goes one way, lane 1 the other. */
static void run_process(int fd, int process, bool strangers, long messages, uint64_t seed) {
    ipcheap_heap *heaps[LANES] = {attach(fd)};
    pthread_t threads[LANES];
    struct lane lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        if (i > 0) heaps[i] = strangers ? attach(fd) : heaps[0];
        lanes[i] = (struct lane){heaps[i], i, (i + process) % 2, messages / LANES,
                                 seed * 977 + (uint64_t)(process * LANES + i + 1) * 7919};
        EXPECT_EQ(pthread_create(&threads[i], NULL, run_lane, &lanes[i]), 0);
    }
    for (int i = 0; i < LANES; i++) pthread_join(threads[i], NULL);
    expect_sound(heaps[0]);
    for (int i = 0; i < LANES; i++)
        if (i == 0 || strangers) ipcheap_release(heaps[i]);
}

static pid_t process_of(int fd, int process, bool strangers, long messages, uint64_t seed) {
    pid_t pid = fork_child();
    if (pid) return pid;
    run_process(fd, process, strangers, messages, seed);
    _exit(0);
}

static void run_both(int fd, bool strangers, long messages, uint64_t seed) {
    pid_t one = process_of(fd, 0, strangers, messages, seed);
    pid_t other = process_of(fd, 1, strangers, messages, seed);
    expect_success(one);
    expect_success(other);
}

int main(int argc, char **argv) {
    long messages = argc > 1 ? atol(argv[1]) : 100000;
    uint64_t seed = argc > 2 ? (uint64_t)atol(argv[2]) : 1;
    tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(tally != MAP_FAILED);
    int fd = new_segment(4 * MIB);
    int64_t begin = now();
    run_both(fd, false, messages / 2, seed);
    run_both(fd, true, messages / 2, seed);
    printf("%ld messages, seed %llu, %.1f s; consumers slept %ld times and woke producers %ld "
           "times; longest wait %.1f ms, %ld over 490 ms, %ld over 1 s\n",
           messages, (unsigned long long)seed, (double)(now() - begin) / 1e9, tally->parks,
           tally->wakes, (double)tally->longest / 1e6, tally->suspicious, tally->stalls);
    EXPECT_EQ(tally->stalls, 0);
    EXPECT(tally->suspicious <= messages / 100000);
    close(fd);
    return 0;
}
