/* Buses: order, holds, history, lossy and slow listeners, broadcasts, forwarding, waiting, ends. */
#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "bus/endpoint.h"
#include "segment/handle.h"
#include "testing.h"

/* Sanitizers would take minutes over two million posts. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SLOW true
#else
#define IS_SLOW false
#endif

/* Small things --------------------------------------------------------------------------------- */

static ipcheap_channel bus_of(ipcheap_heap *heap, uint64_t id, ipcheap_bus_options options) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &channel), 0);
    return channel;
}

static ipcheap_channel plain_bus(ipcheap_heap *heap, uint64_t id, uint64_t capacity) {
    return bus_of(heap, id,
                  (ipcheap_bus_options){.given = IPCHEAP_BUS_CAPACITY, .capacity = capacity});
}

static ipcheap_endpoint *listen_as(ipcheap_heap *heap, const ipcheap_channel *bus, uint64_t history,
                                   uint32_t flags) {
    ipcheap_endpoint *listener = NULL;
    ipcheap_listen_options options = {history, flags};
    EXPECT_EQ(ipcheap_listen(heap, bus, &options, &listener), 0);
    return listener;
}

static ipcheap_endpoint *listen_to(ipcheap_heap *heap, const ipcheap_channel *bus) {
    return listen_as(heap, bus, 0, 0);
}

static uint64_t post_number(ipcheap_heap *heap, const ipcheap_channel *bus, uint64_t n) {
    uint64_t position = 0;
    EXPECT_EQ(ipcheap_try_post(heap, bus, &n, sizeof n, &position), 0);
    return position;
}

static ipcheap_record next_of(ipcheap_endpoint *listener) {
    ipcheap_record message;
    EXPECT_EQ(ipcheap_try_receive(listener, &message), 0);
    return message;
}

static void expect_number(const ipcheap_record *message, uint64_t n) {
    EXPECT_EQ(message->nbytes, sizeof n);
    EXPECT_EQ(*(const uint64_t *)message->data, n);
}

static void expect_next(ipcheap_heap *heap, ipcheap_endpoint *listener, uint64_t n) {
    ipcheap_record message = next_of(listener);
    expect_number(&message, n);
    EXPECT_EQ(ipcheap_free(heap, &message), 0);
}

static void expect_nothing(ipcheap_endpoint *listener) {
    ipcheap_record message;
    EXPECT_EQ(ipcheap_try_receive(listener, &message), IPCHEAP_WOULD_BLOCK);
}

static void close_bus(ipcheap_heap *heap, uint64_t id) {
    ipcheap_key key;
    expect_sound(heap);
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    expect_sound(heap);
    EXPECT_EQ(statistics(heap).in_use, 0);
}

/* Tests ---------------------------------------------------------------------------------------- */

static void everybody_hears_everything_in_order(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 1, 16);
    ipcheap_endpoint *a = listen_to(heap, &bus), *b = listen_to(heap, &bus);
    for (uint64_t round = 0; round < 100; round++) {
        for (uint64_t n = 0; n < 10; n++) EXPECT_EQ(post_number(heap, &bus, n), round * 10 + n);
        EXPECT_EQ(ipcheap_pending(a), 10);
        for (uint64_t n = 0; n < 10; n++) expect_next(heap, a, n);
        for (uint64_t n = 0; n < 10; n++) expect_next(heap, b, n);
        expect_nothing(a);
        expect_nothing(b);
    }
    expect_sound(heap);
    ipcheap_endpoint_release(a);
    ipcheap_endpoint_release(b);
    close_bus(heap, 1);
}

static void a_slow_listener_stops_writers(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 2, 4);
    ipcheap_endpoint *a = listen_to(heap, &bus);
    uint64_t n;
    for (n = 0; n < 4; n++) post_number(heap, &bus, n);
    EXPECT_EQ(ipcheap_try_post(heap, &bus, &n, sizeof n, NULL), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_wait_room(heap, &bus, -1), IPCHEAP_OWN_LISTENER);
    EXPECT_EQ(ipcheap_post(heap, &bus, &n, sizeof n, 1000000, NULL), IPCHEAP_TIMED_OUT);
    ipcheap_record held = next_of(a);
    /* Holding takes no place in the log. */
    post_number(heap, &bus, 4);
    EXPECT_EQ(ipcheap_try_post(heap, &bus, &n, sizeof n, NULL), IPCHEAP_WOULD_BLOCK);
    for (n = 1; n < 5; n++) expect_next(heap, a, n);
    for (n = 0; n < 4; n++) post_number(heap, &bus, n);
    expect_number(&held, 0);
    EXPECT_EQ(ipcheap_free(heap, &held), 0);
    ipcheap_endpoint_release(a);
    close_bus(heap, 2);
}

static void a_lossy_one_never_does(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 3, 8);
    ipcheap_endpoint *a = listen_as(heap, &bus, 0, IPCHEAP_LOSSY);
    ipcheap_listener_statistics s;
    for (uint64_t n = 0; n < 1000; n++) post_number(heap, &bus, n);
    ipcheap_record message = next_of(a);
    uint64_t first = *(uint64_t *)message.data;
    EXPECT(first >= 992);
    EXPECT_EQ(ipcheap_free(heap, &message), 0);
    EXPECT_EQ(ipcheap_listener_describe(a, &s), 0);
    EXPECT_EQ(s.lost, first);
    for (uint64_t n = first + 1; n < 1000; n++) expect_next(heap, a, n);
    expect_nothing(a);
    ipcheap_endpoint_release(a);
    close_bus(heap, 3);
}

static void patience_ends(ipcheap_heap *heap) {
    ipcheap_channel bus = bus_of(
        heap, 4,
        (ipcheap_bus_options){.given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_PATIENCE,
                              .capacity = 4,
                              .patience_ns = 20000000});
    ipcheap_endpoint *a = listen_to(heap, &bus);
    ipcheap_record message;
    uint64_t n;
    for (n = 0; n < 4; n++) post_number(heap, &bus, n);
    EXPECT_EQ(ipcheap_try_post(heap, &bus, &n, sizeof n, NULL), IPCHEAP_WOULD_BLOCK);
    for (n = 4; n < 8; n++) EXPECT_EQ(ipcheap_post(heap, &bus, &n, sizeof n, -1, NULL), 0);
    EXPECT_EQ(ipcheap_try_receive(a, &message), IPCHEAP_MESSAGES_LOST);
    uint64_t lost = ipcheap_listener_lost(a);
    EXPECT_EQ(lost, 4);
    for (n = lost; n < 8; n++) expect_next(heap, a, n);
    expect_nothing(a);
    ipcheap_bus_statistics s;
    EXPECT_EQ(ipcheap_bus_describe(heap, &bus, &s), 0);
    EXPECT_EQ(s.passed, 1);
    EXPECT_EQ(s.posted, 8);
    ipcheap_endpoint_release(a);
    close_bus(heap, 4);
}

static void history_is_there_for_later_ones(ipcheap_heap *heap) {
    ipcheap_channel bus = bus_of(
        heap, 5,
        (ipcheap_bus_options){
            .given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_HISTORY, .capacity = 8, .history = 8});
    for (uint64_t n = 0; n < 100; n++) post_number(heap, &bus, n);
    ipcheap_endpoint *a = listen_as(heap, &bus, 3, 0), *b = listen_as(heap, &bus, 8, 0);
    for (uint64_t n = 97; n < 100; n++) expect_next(heap, a, n);
    for (uint64_t n = 92; n < 100; n++) expect_next(heap, b, n);
    ipcheap_endpoint *c = NULL;
    ipcheap_listen_options more = {9, 0};
    EXPECT_EQ(ipcheap_listen(heap, &bus, &more, &c), IPCHEAP_BAD_VALUE);
    post_number(heap, &bus, 100);
    expect_next(heap, a, 100);
    expect_next(heap, b, 100);
    EXPECT_EQ(statistics(heap).records, 8);
    ipcheap_endpoint_release(a);
    ipcheap_endpoint_release(b);
    close_bus(heap, 5);
}

static void extents_go_back_immediately(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 6, 16);
    ipcheap_endpoint *a = listen_to(heap, &bus), *b = listen_to(heap, &bus);
    size_t nbytes = 3 * MIB;
    char *bytes = calloc(1, nbytes);
    for (int round = 0; round < 30; round++) {
        EXPECT_EQ(ipcheap_try_post(heap, &bus, bytes, nbytes, NULL), 0);
        ipcheap_record x = next_of(a), y = next_of(b);
        EXPECT_EQ(x.data, y.data);
        EXPECT_EQ(statistics(heap).records, 1);
        EXPECT_EQ(ipcheap_free(heap, &x), 0);
        EXPECT_EQ(statistics(heap).records, 1);
        EXPECT_EQ(ipcheap_free(heap, &y), 0);
        EXPECT_EQ(statistics(heap).extents, 0);
    }
    free(bytes);
    ipcheap_endpoint_release(a);
    ipcheap_endpoint_release(b);
    close_bus(heap, 6);
}

static void records_are_posted_and_handed_on(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 7, 16), other = plain_bus(heap, 8, 16);
    ipcheap_endpoint *a = listen_to(heap, &bus), *b = listen_to(heap, &bus);
    ipcheap_endpoint *c = listen_to(heap, &other);
    struct pair ring = pair_of(heap, 9, 8);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    uint64_t offset = record.offset;
    memcpy(record.data, "record", 7);
    EXPECT_EQ(ipcheap_try_post_record(heap, &bus, &record, NULL), 0);
    EXPECT(record.data == NULL);
    ipcheap_record x = next_of(a), y = next_of(b);
    EXPECT_EQ(x.offset, offset);
    EXPECT_EQ(y.offset, offset);
    /* Others hold it, so that a copy goes on. */
    EXPECT_EQ(ipcheap_try_send(ring.out, &x), 0);
    ipcheap_record z = next_of(ring.in);
    EXPECT(z.offset != offset);
    EXPECT_EQ(strcmp(z.data, "record"), 0);
    /* Nobody else does any more. */
    EXPECT_EQ(ipcheap_try_post_record(heap, &other, &y, NULL), 0);
    x = next_of(c);
    EXPECT_EQ(x.offset, offset);
    EXPECT_EQ(strcmp(x.data, "record"), 0);
    EXPECT_EQ(ipcheap_try_send(ring.out, &x), 0);
    x = next_of(ring.in);
    EXPECT_EQ(x.offset, offset);
    EXPECT_EQ(ipcheap_try_post_record(heap, &bus, &x, NULL), 0); /* out of a ring */
    EXPECT_EQ(ipcheap_try_post_record(heap, &bus, &z, NULL), 0);
    expect_sound(heap);
    x = next_of(a);
    EXPECT_EQ(x.offset, offset);
    EXPECT_EQ(ipcheap_keep(heap, &x), 0);
    EXPECT_EQ(ipcheap_free(heap, &x), 0);
    EXPECT_EQ(ipcheap_free(heap, &x), IPCHEAP_RECORD);
    ipcheap_endpoint_release(a);
    ipcheap_endpoint_release(b);
    ipcheap_endpoint_release(c);
    pair_release(&ring);
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, 9), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    EXPECT_EQ(ipcheap_key_int(&key, 8), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    close_bus(heap, 7);
}

static void any_number_may_be_held(ipcheap_heap *heap) {
    enum { MANY = 3000 };
    ipcheap_channel bus = plain_bus(heap, 10, 16);
    ipcheap_endpoint *a = listen_to(heap, &bus);
    static ipcheap_record held[MANY];
    for (int round = 0; round < 2; round++) {
        for (uint64_t n = 0; n < MANY; n++) {
            post_number(heap, &bus, n);
            held[n] = next_of(a);
        }
        ipcheap_listener_statistics s;
        EXPECT_EQ(ipcheap_listener_describe(a, &s), 0);
        EXPECT_EQ(s.held, MANY);
        expect_sound(heap);
        for (uint64_t n = 0; n < MANY; n++) {
            expect_number(&held[n], n);
            EXPECT_EQ(ipcheap_free(heap, &held[n]), 0);
        }
        EXPECT_EQ(statistics(heap).records, 0);
    }
    /* What is held outlives the listener. */
    post_number(heap, &bus, 7);
    held[0] = next_of(a);
    EXPECT_EQ(ipcheap_endpoint_close(a), 0);
    for (uint64_t n = 0; n < 100; n++) post_number(heap, &bus, n);
    expect_number(&held[0], 7);
    ipcheap_endpoint_release(a);
    EXPECT_EQ(statistics(heap).records, 1);
    EXPECT_EQ(ipcheap_free(heap, &held[0]), 0);
    close_bus(heap, 10);
}

static void a_broadcast_waits_for_all(ipcheap_heap *heap);

struct peer {
    ipcheap_heap *heap;
    ipcheap_channel bus;
    uint64_t count;
    pthread_barrier_t *ready;
    uint64_t first_nap;
};

static void *listen_in_thread(void *context) {
    struct peer *peer = context;
    ipcheap_endpoint *listener = listen_to(peer->heap, &peer->bus);
    pthread_barrier_wait(peer->ready);
    for (uint64_t n = 0; n < peer->count; n++) {
        ipcheap_record message;
        EXPECT_EQ(ipcheap_receive(listener, &message, -1), 0);
        expect_number(&message, n);
        EXPECT_EQ(ipcheap_free(peer->heap, &message), 0);
    }
    ipcheap_endpoint_release(listener);
    return NULL;
}

static void a_broadcast_waits_for_all(ipcheap_heap *heap) {
    enum { PEERS = 3, COUNT = 2000 };
    ipcheap_channel bus = plain_bus(heap, 11, 16);
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, PEERS + 1);
    struct peer peer = {heap, bus, COUNT, &ready, 0};
    pthread_t threads[PEERS];
    ipcheap_endpoint *own = listen_as(heap, &bus, 0, IPCHEAP_LOSSY);
    for (int i = 0; i < PEERS; i++) pthread_create(&threads[i], NULL, listen_in_thread, &peer);
    pthread_barrier_wait(&ready);
    for (uint64_t n = 0; n < COUNT; n++) {
        ipcheap_broadcast_report report;
        EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, &n, sizeof n, -1, 0, &report), 0);
        EXPECT_EQ(report.position, n);
        EXPECT_EQ(report.listeners, PEERS);
        EXPECT_EQ(report.slow, 0);
    }
    for (int i = 0; i < PEERS; i++) pthread_join(threads[i], NULL);
    ipcheap_endpoint_release(own);
    close_bus(heap, 11);
}

struct deaf {
    ipcheap_heap *heap;
    ipcheap_channel bus;
    pthread_barrier_t *meet;
    bool releases;
};

/* Receives one message, and releases it or not; two meetings later the listener ends. */
static void *hear_one(void *context) {
    struct deaf *deaf = context;
    ipcheap_endpoint *listener = listen_to(deaf->heap, &deaf->bus);
    ipcheap_record message;
    pthread_barrier_wait(deaf->meet);
    EXPECT_EQ(ipcheap_receive(listener, &message, -1), 0);
    if (deaf->releases) EXPECT_EQ(ipcheap_free(deaf->heap, &message), 0);
    pthread_barrier_wait(deaf->meet);
    if (!deaf->releases) EXPECT_EQ(ipcheap_free(deaf->heap, &message), 0);
    ipcheap_endpoint_release(listener);
    return NULL;
}

static void the_slow_ones_are_named(ipcheap_heap *heap) {
    enum { PEERS = 4 };
    ipcheap_channel bus = plain_bus(heap, 15, 16);
    for (int slow = 0; slow < PEERS; slow++) {
        pthread_barrier_t meet[PEERS];
        struct deaf deaf[PEERS];
        pthread_t threads[PEERS];
        ipcheap_broadcast_report report;
        /* One after the other, so that the slow one has that place among them. */
        for (int i = 0; i < PEERS; i++) {
            pthread_barrier_init(&meet[i], NULL, 2);
            deaf[i] = (struct deaf){heap, bus, &meet[i], i != slow};
            pthread_create(&threads[i], NULL, hear_one, &deaf[i]);
            pthread_barrier_wait(&meet[i]);
        }
        EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, "", 0, 50000000, 0, &report), 0);
        EXPECT_EQ(report.listeners, PEERS);
        EXPECT_EQ(report.slow, 1);
        EXPECT_EQ(report.released, PEERS - 1);
        EXPECT_EQ(ipcheap_drain(heap, &bus, 0, &report), 0);
        EXPECT_EQ(report.slow, 1);
        for (int i = 0; i < PEERS; i++) pthread_barrier_wait(&meet[i]);
        for (int i = 0; i < PEERS; i++) pthread_join(threads[i], NULL);
    }
    close_bus(heap, 15);
}

/* Tries to broadcast. */
static void *try_it(void *context) {
    struct peer *peer = context;
    ipcheap_broadcast *b;
    EXPECT_EQ(ipcheap_broadcast_begin(peer->heap, &peer->bus, &b), 0);
    int error = ipcheap_try_broadcast(b, "", 0, 0);
    ipcheap_broadcast_end(b);
    return (void *)(intptr_t)error;
}

static intptr_t try_elsewhere(struct peer *peer) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, try_it, peer);
    pthread_join(thread, &result);
    return (intptr_t)result;
}

static void *hear_and_hold(void *context) {
    struct peer *peer = context;
    ipcheap_endpoint *listener = listen_to(peer->heap, &peer->bus);
    ipcheap_record message;
    pthread_barrier_wait(peer->ready);
    EXPECT_EQ(ipcheap_receive(listener, &message, -1), 0);
    pthread_barrier_wait(peer->ready);
    pthread_barrier_wait(peer->ready);
    EXPECT_EQ(ipcheap_free(peer->heap, &message), 0);
    ipcheap_endpoint_release(listener);
    return NULL;
}

/* A thread may have a turn on each of several buses. */
static void turns_are_of_one_bus(ipcheap_heap *heap) {
    ipcheap_channel one = plain_bus(heap, 18, 16), two = plain_bus(heap, 19, 16);
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, 2);
    struct peer peer = {heap, one, 1, &ready, 0};
    ipcheap_broadcast *a, *b;
    pthread_t thread;
    pthread_create(&thread, NULL, hear_and_hold, &peer);
    pthread_barrier_wait(&ready);
    EXPECT_EQ(ipcheap_broadcast_begin(heap, &one, &a), 0);
    EXPECT_EQ(ipcheap_broadcast_begin(heap, &two, &b), 0);
    EXPECT_EQ(ipcheap_try_broadcast(a, "one", 3, -1), 0);
    pthread_barrier_wait(&ready);
    EXPECT_EQ(ipcheap_try_broadcast(b, "two", 3, 1000), 0);
    struct timespec a_while = {.tv_nsec = 20000000};
    nanosleep(&a_while, NULL);
    EXPECT_EQ(try_elsewhere(&peer), IPCHEAP_WOULD_BLOCK);
    /* Nor does a forked child end its parent's turn. */
    pid_t pid = fork_child();
    if (!pid) {
        ipcheap_broadcast_end(a);
        _exit(0);
    }
    expect_success(pid);
    EXPECT_EQ(try_elsewhere(&peer), IPCHEAP_WOULD_BLOCK);
    pthread_barrier_wait(&ready);
    EXPECT_EQ(ipcheap_await_releases(a, -1), 0);
    EXPECT_EQ(try_elsewhere(&peer), 0); /* all have released it */
    ipcheap_broadcast_end(a);
    ipcheap_broadcast_end(b);
    pthread_join(thread, NULL);
    close_bus(heap, 18);
    close_bus(heap, 19);
}

/* Holds the first message for so long that the last bits of its position recur. */
static void *hold_for_long(void *context) {
    struct peer *peer = context;
    ipcheap_endpoint *listener = listen_to(peer->heap, &peer->bus);
    ipcheap_record held, message;
    pthread_barrier_wait(peer->ready);
    EXPECT_EQ(ipcheap_receive(listener, &held, -1), 0);
    for (uint64_t n = 0; n < peer->count; n++) {
        EXPECT_EQ(ipcheap_receive(listener, &message, -1), 0);
        EXPECT_EQ(ipcheap_free(peer->heap, &message), 0);
    }
    pthread_barrier_wait(peer->ready);
    pthread_barrier_wait(peer->ready);
    EXPECT_EQ(ipcheap_free(peer->heap, &held), 0);
    ipcheap_endpoint_release(listener);
    return NULL;
}

static void positions_are_whole(ipcheap_heap *heap) {
    if (IS_SLOW) return;
    ipcheap_channel bus = plain_bus(heap, 20, 1024);
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, 2);
    struct peer peer = {heap, bus, HOLD_POSITION_MASK + 1, &ready, 0};
    ipcheap_broadcast_report report;
    pthread_t thread;
    pthread_create(&thread, NULL, hold_for_long, &peer);
    pthread_barrier_wait(&ready);
    for (uint64_t n = 0; n <= HOLD_POSITION_MASK; n++)
        EXPECT_EQ(ipcheap_post(heap, &bus, &n, sizeof n, -1, NULL), 0);
    EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, "", 0, 2000000000, 0, &report), 0);
    EXPECT_EQ(report.position, HOLD_POSITION_MASK + 1);
    EXPECT_EQ(report.released, 1);
    pthread_barrier_wait(&ready);
    EXPECT_EQ(ipcheap_drain(heap, &bus, 0, &report), 0);
    EXPECT_EQ(report.slow, 1); /* the first one is not released */
    pthread_barrier_wait(&ready);
    pthread_join(thread, NULL);
    close_bus(heap, 20);
}

static void the_own_listener_is_noticed(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 21, 4);
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, 2);
    struct peer peer = {heap, bus, 4, &ready, 0};
    pthread_t thread;
    pthread_create(&thread, NULL, hear_and_hold, &peer);
    /* Before it hears anything: both are equally far behind, and the other one came first. */
    ipcheap_bus_statistics s = {0};
    while (!s.listeners) EXPECT_EQ(ipcheap_bus_describe(heap, &bus, &s), 0);
    ipcheap_endpoint *own = listen_to(heap, &bus);
    for (uint64_t n = 0; n < 4; n++) post_number(heap, &bus, n);
    EXPECT_EQ(ipcheap_post(heap, &bus, "", 0, -1, NULL), IPCHEAP_OWN_LISTENER);
    ipcheap_endpoint_release(own);
    for (int i = 0; i < 3; i++) pthread_barrier_wait(&ready);
    pthread_join(thread, NULL);
    close_bus(heap, 21);
}

/* Returns a process's view of a bus, to store what only a writer would. */
static struct bus view_of(ipcheap_heap *heap, const ipcheap_channel *channel) {
    struct bus bus;
    EXPECT(bus_view(heap, channel->index, &bus));
    return bus;
}

static void an_old_hint_misleads_nobody(ipcheap_heap *heap) {
    if (IS_SLOW) return;
    ipcheap_channel channel = plain_bus(heap, 16, 1);
    uint64_t count = (LAP_MASK >> 1) + 10;
    for (uint64_t n = 0; n < count; n++) post_number(heap, &channel, n);
    /* A writer that was stopped after its first post goes on. */
    struct bus bus = view_of(heap, &channel);
    put_release(&bus.root->head, 1);
    EXPECT_EQ(bus_end(&bus), count);
    EXPECT_EQ(post_number(heap, &channel, 0), count);
    put_release(&bus.root->head, UINT64_MAX); /* corrupt */
    EXPECT_EQ(post_number(heap, &channel, 0), count + 1);
    close_bus(heap, 16);
}

/* Laps that follow each other in a circle. */
static void a_corrupt_log_ends(ipcheap_heap *heap) {
    ipcheap_channel channel = plain_bus(heap, 17, 4);
    ipcheap_key key;
    ipcheap_endpoint *a = listen_as(heap, &channel, 0, IPCHEAP_LOSSY);
    uint64_t n = 0;
    for (; n < 10; n++) post_number(heap, &channel, n);
    struct bus bus = view_of(heap, &channel);
    for (uint64_t i = 0; i < 4; i++)
        put(&bus.root->slots[i],
            ring_word(i * (LAP_MASK / 4 + 1), (enum slot_state)MESSAGE_WHOLE, 64));
    EXPECT_EQ(ipcheap_try_post(heap, &channel, &n, sizeof n, NULL), IPCHEAP_CORRUPT);
    ipcheap_endpoint_release(a);
    EXPECT_EQ(ipcheap_key_int(&key, 17), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
}

static void a_removed_bus_ends_everything(ipcheap_heap *heap) {
    ipcheap_channel bus = plain_bus(heap, 12, 16);
    ipcheap_endpoint *a = listen_to(heap, &bus);
    ipcheap_key key;
    ipcheap_record message;
    post_number(heap, &bus, 1);
    post_number(heap, &bus, 2);
    ipcheap_record held = next_of(a);
    EXPECT_EQ(ipcheap_key_int(&key, 12), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), IPCHEAP_CHANNEL_BUSY);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
    EXPECT_EQ(ipcheap_try_receive(a, &message), IPCHEAP_ENDPOINT_CLOSED);
    EXPECT_EQ(ipcheap_try_post(heap, &bus, "", 0, NULL), IPCHEAP_CHANNEL_NOT_FOUND);
    EXPECT_EQ(statistics(heap).records, 1);
    expect_number(&held, 1);
    ipcheap_endpoint_release(a);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_free(heap, &held), 0);
    EXPECT_EQ(statistics(heap).records, 0);
    bus = plain_bus(heap, 12, 16);
    EXPECT_EQ(post_number(heap, &bus, 1), 0);
    close_bus(heap, 12);
}

/* The log works at every length, and a message may have any. */
static void every_length(ipcheap_heap *heap) {
    for (uint64_t capacity = 1; capacity <= 64; capacity *= 4) {
        ipcheap_channel bus = plain_bus(heap, 13, capacity);
        ipcheap_endpoint *a = listen_to(heap, &bus);
        static char bytes[100000], got[100000];
        for (size_t nbytes = 0; nbytes < sizeof bytes; nbytes = nbytes * 2 + 1) {
            memset(bytes, (int)nbytes, sizeof bytes);
            EXPECT_EQ(ipcheap_try_post(heap, &bus, bytes, nbytes, NULL), 0);
            ipcheap_record message = next_of(a);
            EXPECT_EQ(message.nbytes, nbytes);
            memcpy(got, message.data, nbytes);
            EXPECT_EQ(memcmp(got, bytes, nbytes), 0);
            EXPECT_EQ(ipcheap_free(heap, &message), 0);
        }
        ipcheap_endpoint_release(a);
        close_bus(heap, 13);
    }
}

static void writers_find_one_order(ipcheap_heap *heap);

enum { WRITERS = 3, EACH = 20000 };

static void *write_in_thread(void *context) {
    struct peer *peer = context;
    pthread_barrier_wait(peer->ready);
    for (uint64_t n = 0; n < EACH; n++) {
        uint64_t text[2] = {(uint64_t)(uintptr_t)pthread_self(), n};
        EXPECT_EQ(ipcheap_post(peer->heap, &peer->bus, text, sizeof text, -1, NULL), 0);
    }
    return NULL;
}

static void *hear_all(void *context) {
    struct peer *peer = context;
    ipcheap_endpoint *listener = listen_to(peer->heap, &peer->bus);
    uint64_t hash = 1;
    pthread_barrier_wait(peer->ready);
    for (uint64_t n = 0; n < (uint64_t)WRITERS * EACH; n++) {
        ipcheap_record message;
        EXPECT_EQ(ipcheap_receive(listener, &message, -1), 0);
        EXPECT_EQ(message.position, n);
        const uint64_t *text = message.data;
        hash = (hash ^ text[0] ^ text[1] << 40) * 1099511628211u;
        EXPECT_EQ(ipcheap_free(peer->heap, &message), 0);
    }
    ipcheap_endpoint_release(listener);
    return (void *)(uintptr_t)hash;
}

static void writers_find_one_order(ipcheap_heap *heap) {
    enum { LISTENERS = 2 };
    ipcheap_channel bus = plain_bus(heap, 14, 64);
    pthread_barrier_t ready;
    pthread_barrier_init(&ready, NULL, WRITERS + LISTENERS);
    struct peer peer = {heap, bus, 0, &ready, 0};
    pthread_t writers[WRITERS], listeners[LISTENERS];
    for (int i = 0; i < LISTENERS; i++) pthread_create(&listeners[i], NULL, hear_all, &peer);
    for (int i = 0; i < WRITERS; i++) pthread_create(&writers[i], NULL, write_in_thread, &peer);
    void *heard[LISTENERS];
    for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
    for (int i = 0; i < LISTENERS; i++) pthread_join(listeners[i], &heard[i]);
    EXPECT(heard[0] == heard[1]);
    close_bus(heap, 14);
}

int main(void) {
    static void (*const tests[])(ipcheap_heap *) = {
        everybody_hears_everything_in_order,
        a_slow_listener_stops_writers,
        a_lossy_one_never_does,
        patience_ends,
        history_is_there_for_later_ones,
        extents_go_back_immediately,
        records_are_posted_and_handed_on,
        any_number_may_be_held,
        a_broadcast_waits_for_all,
        the_slow_ones_are_named,
        turns_are_of_one_bus,
        positions_are_whole,
        the_own_listener_is_noticed,
        an_old_hint_misleads_nobody,
        a_corrupt_log_ends,
        a_removed_bus_ends_everything,
        every_length,
        writers_find_one_order,
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        int fd = new_segment(64 * MIB);
        ipcheap_heap *heap = attach(fd);
        tests[i](heap);
        ipcheap_release(heap);
        close(fd);
        fprintf(stderr, "test %zu passed\n", i);
    }
    return 0;
}
