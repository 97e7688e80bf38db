/*
 * Buses under random kills and stops: processes that post, broadcast, listen, hold and hand on, in any
 * order. Whatever happens, listeners hear the same messages at the same positions, unspoilt until they
 * free them, and know how many they have lost; in the end nothing is left in the heap.
 *
 * IPCHEAP_MURDER: seconds, 4 unless given. IPCHEAP_SEED: of the random numbers.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "bus/endpoint.h"
#include "testing.h"

enum { BUSES = 4, WORKERS = 6, HELD = 24, SEEN = 1 << 16 };

struct seen {
    _Atomic uint64_t position, seed;
};

/* What all processes see beside the heap. */
struct ledger {
    struct seen seen[BUSES][SEEN];
    _Atomic uint64_t heard, lost, posted, handed_on, full;
};

static struct ledger *ledger;
static uint64_t state;

static uint64_t any(uint64_t n) { return next_random(&state) % n; }

static const ipcheap_bus_options shapes[BUSES] = {
    {.given = 7, .capacity = 8, .patience_ns = 5000000},
    {.given = 7, .capacity = 4, .history = 4, .patience_ns = -1},
    {.given = 7, .capacity = 1, .patience_ns = 2000000},
    {.given = 7, .capacity = 64, .history = 7, .patience_ns = 0},
};

static ipcheap_channel channels[BUSES];

static void add_buses(ipcheap_heap *heap) {
    ipcheap_key key;
    for (uint64_t i = 0; i < BUSES; i++) {
        EXPECT_EQ(ipcheap_key_int(&key, i), 0);
        EXPECT_EQ(ipcheap_add_bus(heap, &key, &shapes[i], &channels[i]), 0);
    }
}

/* Messages ------------------------------------------------------------------------------------- */

static void fill(uint64_t *words, uint64_t nbytes, uint64_t seed) {
    for (uint64_t i = 0; i < nbytes / 8; i++) words[i] = seed + i;
}

static void expect_unspoilt(const ipcheap_record *message, uint64_t seed) {
    const uint64_t *words = message->data;
    for (uint64_t i = 0; i < message->nbytes / 8; i++) EXPECT_EQ(words[i], seed + i);
}

static uint64_t some_bytes(void) {
    uint64_t how = any(20);
    return 8 + 8 * (how < 15 ? any(20) : how < 19 ? any(700) : any(6000));
}

/* All hear the same at a position. */
static void expect_the_same(uint64_t which, uint64_t position, uint64_t seed) {
    struct seen *s = &ledger->seen[which][position % SEEN];
    uint64_t before = s->position;
    if (before == position + 1) {
        EXPECT_EQ(s->seed, seed);
    } else if (before < position + 1) {
        s->seed = seed; /* two at a time store the same, or the test fails */
        s->position = position + 1;
    }
}

/* A worker ------------------------------------------------------------------------------------- */

struct ear {
    ipcheap_endpoint *listener;
    uint64_t which;
    uint64_t next, lost; /* UINT64_MAX: nothing heard yet */
};

struct holding {
    ipcheap_record message;
    uint64_t seed;
};

static struct ear ears[3];
static struct holding held[HELD];
static int held_count;

static void give_back(ipcheap_heap *heap, int i) {
    expect_unspoilt(&held[i].message, held[i].seed);
    EXPECT_EQ(ipcheap_free(heap, &held[i].message), 0);
    held[i] = held[--held_count];
}

/* An error that is nobody's fault. */
static bool is_excused(int error) {
    if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL) ledger->full++;
    return error == IPCHEAP_WOULD_BLOCK || error == IPCHEAP_TIMED_OUT ||
           error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL ||
           error == IPCHEAP_HEAP_BUSY || error == IPCHEAP_OWN_LISTENER;
}

static void post_one(ipcheap_heap *heap) {
    static uint64_t buffer[8192];
    ipcheap_channel bus = channels[any(BUSES)];
    uint64_t seed = (uint64_t)getpid() << 32 | any(UINT32_MAX), nbytes = some_bytes();
    ipcheap_broadcast_report report;
    ipcheap_record record;
    int error;
    switch (any(4)) {
    case 0:
        error = ipcheap_allocate(heap, nbytes, &record);
        if (!error) {
            fill(record.data, nbytes, seed);
            error = ipcheap_post_record(heap, &bus, &record, 1000000, NULL);
            if (error) EXPECT_EQ(ipcheap_free(heap, &record), 0);
        }
        break;
    case 1:
        fill(buffer, nbytes, seed);
        error = ipcheap_broadcast_bytes(heap, &bus, buffer, nbytes, 3000000, 0, &report);
        EXPECT_EQ(report.released + report.gone + report.slow, report.listeners);
        break;
    default:
        fill(buffer, nbytes, seed);
        error = ipcheap_post(heap, &bus, buffer, nbytes, 1000000, NULL);
    }
    ledger->posted += !error;
    if (error) EXPECT(is_excused(error));
}

static void hear(ipcheap_heap *heap, struct ear *ear) {
    ipcheap_record message;
    const struct listener *l = (const struct listener *)ear->listener;
    if (any(8) == 0) ipcheap_wait(ear->listener, 500000);
    int error = ipcheap_try_receive(ear->listener, &message);
    if (error == IPCHEAP_MESSAGES_LOST) {
        EXPECT(shapes[ear->which].patience_ns > 0);
        EXPECT(ipcheap_listener_lost(ear->listener) > 0);
        return;
    }
    if (error) {
        EXPECT(is_excused(error));
        return;
    }
    /* Exact. The statistics count what the next call is going to notice, too. */
    if (ear->next != UINT64_MAX) EXPECT_EQ(message.position - ear->next, l->lost - ear->lost);
    ledger->lost += l->lost - ear->lost;
    ear->next = message.position + 1;
    ear->lost = l->lost;
    ledger->heard++;
    uint64_t seed = *(const uint64_t *)message.data;
    expect_unspoilt(&message, seed);
    expect_the_same(ear->which, message.position, seed);
    if (any(4) == 0) EXPECT_EQ(ipcheap_keep(heap, &message), 0);
    held[held_count++] = (struct holding){message, seed};
}

static void hand_on(ipcheap_heap *heap) {
    int i = (int)any((uint64_t)held_count);
    ipcheap_channel bus = channels[any(BUSES)];
    expect_unspoilt(&held[i].message, held[i].seed);
    int error = ipcheap_try_post_record(heap, &bus, &held[i].message, NULL);
    if (error) {
        EXPECT(is_excused(error));
        return;
    }
    ledger->handed_on++;
    held[i] = held[--held_count];
}

static void come_or_go(ipcheap_heap *heap) {
    struct ear *ear = &ears[any(3)];
    if (ear->listener) {
        for (int i = held_count; i-- > 0;)
            if (held[i].message.consumer == ear->listener && any(2)) give_back(heap, i);
        ipcheap_endpoint_release(ear->listener);
        ear->listener = NULL;
        return;
    }
    *ear = (struct ear){.which = any(BUSES), .next = UINT64_MAX};
    ipcheap_channel bus = channels[ear->which];
    ipcheap_listen_options options = {any(shapes[ear->which].history + 1),
                                      any(3) ? 0 : IPCHEAP_LOSSY};
    int error = ipcheap_listen(heap, &bus, &options, &ear->listener);
    if (error) EXPECT(is_excused(error));
}

static void work(int fd, uint64_t seed) {
    state = seed;
    ipcheap_heap *heap = attach(fd);
    for (;;) {
        struct ear *ear = &ears[any(3)];
        uint64_t what = any(100);
        if (held_count == HELD || (held_count && what < 25)) {
            give_back(heap, (int)any((uint64_t)held_count));
        } else if (what < 50) {
            post_one(heap);
        } else if (what < 54) {
            come_or_go(heap);
        } else if (what < 58 && held_count) {
            hand_on(heap);
        } else if (ear->listener) {
            hear(heap, ear);
        }
    }
}

/* The murderer --------------------------------------------------------------------------------- */

static pid_t start(int fd) {
    uint64_t seed = next_random(&state);
    pid_t pid = fork_child();
    if (!pid) {
        work(fd, seed);
        _exit(0);
    }
    return pid;
}

static void expect_alive(pid_t pid) {
    int status;
    if (waitpid(pid, &status, WNOHANG) == 0) return;
    fprintf(stderr, "a worker ended with status %x\n", status);
    abort();
}

int main(void) {
    const char *seconds = getenv("IPCHEAP_MURDER"), *seed = getenv("IPCHEAP_SEED");
    state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) * 2654435761 + 1;
    fprintf(stderr, "seed %llu\n", (unsigned long long)state);
    ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(ledger != MAP_FAILED);
    int fd = new_segment(8 * MIB);
    ipcheap_heap *heap = attach(fd);
    add_buses(heap); /* the workers inherit the handles */
    pid_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) workers[i] = start(fd);
    time_t end = time(NULL) + (seconds ? atoi(seconds) : 4);
    uint64_t killed = 0, stopped = 0;
    while (time(NULL) < end) {
        struct timespec nap = {.tv_nsec = (long)any(8000000)};
        nanosleep(&nap, NULL);
        for (int i = 0; i < WORKERS; i++) expect_alive(workers[i]);
        pid_t *victim = &workers[any(WORKERS)];
        if (any(3)) {
            kill(*victim, SIGSTOP);
            nap.tv_nsec = (long)any(20000000);
            nanosleep(&nap, NULL);
            stopped++;
            if (any(4)) {
                kill(*victim, SIGCONT);
                continue;
            }
        }
        kill(*victim, SIGKILL);
        EXPECT_EQ(waitpid(*victim, NULL, 0), *victim);
        *victim = start(fd);
        killed++;
    }
    for (int i = 0; i < WORKERS; i++) {
        expect_alive(workers[i]);
        kill(workers[i], SIGKILL);
        EXPECT_EQ(waitpid(workers[i], NULL, 0), workers[i]);
    }
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    expect_sound(heap);
    for (uint64_t i = 0; i < BUSES; i++) {
        ipcheap_key key;
        ipcheap_bus_statistics s;
        EXPECT_EQ(ipcheap_bus_describe(heap, &channels[i], &s), 0);
        EXPECT_EQ(s.listeners, 0);
        EXPECT_EQ(ipcheap_key_int(&key, i), 0);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    }
    expect_sound(heap);
    fprintf(stderr,
            "%llu killed, %llu stopped; %llu posted, %llu heard, %llu lost, %llu handed on, "
            "%llu times full\n",
            (unsigned long long)killed, (unsigned long long)stopped,
            (unsigned long long)ledger->posted, (unsigned long long)ledger->heard,
            (unsigned long long)ledger->lost, (unsigned long long)ledger->handed_on,
            (unsigned long long)ledger->full);
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_release(heap);
    close(fd);
    return 0;
}
