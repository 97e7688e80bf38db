/* Record channels: order, ends, claims, holding, keeping, forwarding, between processes. */

#include <pthread.h>
#include <sched.h>

#include "testing.h"

enum { COUNT = 1 << 18 };

static void send_number(ipcheap_heap *heap, ipcheap_endpoint *producer, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 8 + number % 100, &record), 0);
    memcpy(record.data, &number, sizeof number);
    EXPECT_EQ(ipcheap_send(producer, &record, 10000000000), 0);
}

static uint64_t number_in(const ipcheap_record *record) {
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    EXPECT_EQ(record->nbytes, 8 + number % 100);
    return number;
}

static void produce(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, 64);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < COUNT; i++) send_number(heap, producer, i);
    ipcheap_endpoint_release(producer);
}

static void everything_arrives_in_order_from_another_process(void) {
    int fd = new_segment(MIB);
    pid_t pid = run_peer(fd, produce);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 64);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    for (uint64_t i = 0; i < COUNT; i++) {
        EXPECT_EQ(ipcheap_receive(consumer, &record, 10000000000), 0);
        EXPECT_EQ(number_in(&record), i);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_receive(consumer, &record, 10000000000), IPCHEAP_CHANNEL_CLOSED);
    expect_success(pid);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

static void a_producer_may_be_gone_before_a_consumer_comes(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 5, 1000);
    EXPECT_EQ(channel.shape, 1024);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < 1024; i++) send_number(heap, producer, i);
    ipcheap_record extra;
    EXPECT_EQ(ipcheap_allocate(heap, 8, &extra), 0);
    EXPECT_EQ(ipcheap_try_send(producer, &extra), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_send(producer, &extra, 1000000), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_free(heap, &extra), 0);
    EXPECT_EQ(ipcheap_pending(producer), 1024);
    ipcheap_endpoint_release(producer);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER), *second;
    EXPECT_EQ(ipcheap_claim(heap, &channel, IPCHEAP_CONSUMER, &second), IPCHEAP_CHANNEL_BUSY);
    ipcheap_record record;
    for (uint64_t i = 0; i < 1024; i++) {
        EXPECT_EQ(ipcheap_try_receive(consumer, &record), 0);
        EXPECT_EQ(number_in(&record), i);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_try_receive(consumer, &record), IPCHEAP_CHANNEL_CLOSED);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

static void held_records_stay_and_closing_keeps_them(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 4);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record held[4], record;
    for (uint64_t i = 0; i < 4; i++) send_number(heap, producer, i);
    for (uint64_t i = 0; i < 4; i++) EXPECT_EQ(ipcheap_try_receive(consumer, &held[i]), 0);
    /* Freed out of order; to ask for a fifth detaches the first, whose slot that needs. */
    EXPECT_EQ(ipcheap_free(heap, &held[2]), 0);
    EXPECT_EQ(ipcheap_free(heap, &held[2]), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_try_receive(consumer, &record), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_keep(heap, &held[0]), 0);
    send_number(heap, producer, 4);
    EXPECT_EQ(ipcheap_try_receive(consumer, &record), 0);
    EXPECT_EQ(number_in(&record), 4);
    EXPECT_EQ(ipcheap_free(heap, &held[1]), 0);
    send_number(heap, producer, 5);
    ipcheap_endpoint_close(consumer);
    ipcheap_endpoint *former = consumer;
    consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record next;
    EXPECT_EQ(ipcheap_try_receive(consumer, &next), 0);
    EXPECT_EQ(number_in(&next), 5);
    EXPECT_EQ(number_in(&held[0]), 0);
    EXPECT_EQ(number_in(&held[3]), 3);
    EXPECT_EQ(ipcheap_free(heap, &held[0]), 0);
    EXPECT_EQ(ipcheap_free(heap, &held[3]), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &next), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(former);
    ipcheap_endpoint_release(consumer);
    ipcheap_endpoint_release(producer);
    ipcheap_release(heap);
    close(fd);
}

/* However many a consumer holds, its producer goes on; what it holds longest is its own. */
static void held_records_never_stop_a_channel(uint64_t slots, uint64_t nbytes) {
    enum { HELD = 500 };
    int fd = new_segment(64 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, slots);
    ipcheap_endpoint_statistics numbers;
    ipcheap_record held[HELD];
    for (uint64_t i = 0; i < HELD; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
        memcpy(record.data, &i, sizeof i);
        if (i >= slots) {
            EXPECT_EQ(ipcheap_try_send(p.out, &record), IPCHEAP_WOULD_BLOCK);
            if (i % 2)
                EXPECT_EQ(ipcheap_try_receive(p.in, &held[i]), IPCHEAP_WOULD_BLOCK);
            else
                EXPECT_EQ(ipcheap_wait(p.in, 0), IPCHEAP_TIMED_OUT);
        }
        EXPECT_EQ(ipcheap_try_send(p.out, &record), 0);
        EXPECT_EQ(ipcheap_try_receive(p.in, &held[i]), 0);
    }
    EXPECT_EQ(ipcheap_endpoint_describe(p.in, &numbers), 0);
    EXPECT_EQ(numbers.held, slots);
    EXPECT_EQ(numbers.detached, HELD - slots);
    expect_sound(heap);
    for (uint64_t i = 0; i < HELD; i++) EXPECT_EQ(*(uint64_t *)held[i].data, i);
    /* In any way and order: kept, sent on, freed. */
    for (uint64_t i = 0; i < HELD; i += 5) EXPECT_EQ(ipcheap_keep(heap, &held[i]), 0);
    for (uint64_t i = 1; i < HELD; i += 5) {
        ipcheap_record none;
        EXPECT_EQ(ipcheap_try_receive(p.in, &none), IPCHEAP_WOULD_BLOCK);
        EXPECT_EQ(ipcheap_try_send(p.out, &held[i]), 0);
        EXPECT_EQ(ipcheap_try_receive(p.in, &held[i]), 0);
        EXPECT_EQ(*(uint64_t *)held[i].data, i);
    }
    for (uint64_t i = HELD; i-- > 0;) EXPECT_EQ(ipcheap_free(heap, &held[i]), 0);
    for (uint64_t i = 0; i < HELD; i++) EXPECT_EQ(ipcheap_free(heap, &held[i]), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_endpoint_describe(p.in, &numbers), 0);
    EXPECT_EQ(numbers.held, 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

/* A handle that was freed is not taken for that of a detached record, whatever its block is now. */
static void a_freed_handle_frees_nothing_else(void) {
    enum { MOST = 100 };
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 2);
    ipcheap_record held[3], freed, none, later[MOST];
    for (uint64_t i = 0; i < 3; i++) {
        if (i == 2) EXPECT_EQ(ipcheap_try_receive(p.in, &none), IPCHEAP_WOULD_BLOCK);
        send_number(heap, p.out, i);
        EXPECT_EQ(ipcheap_try_receive(p.in, &held[i]), 0);
    }
    freed = held[1];
    EXPECT_EQ(ipcheap_free(heap, &freed), 0);
    for (uint64_t i = 90; i < 96; i++) { /* of another size class */
        send_number(heap, p.out, i);
        EXPECT_EQ(ipcheap_try_receive(p.in, &none), 0);
        EXPECT_EQ(ipcheap_free(heap, &none), 0);
        if (i == 90) EXPECT_EQ(ipcheap_free(heap, &held[2]), 0);
    }
    int count = 0; /* until the block is in use again */
    do EXPECT_EQ(ipcheap_allocate(heap, 9, &later[count]), 0);
    while (later[count++].offset != freed.offset && count < MOST);
    EXPECT_EQ(later[count - 1].offset, freed.offset);
    EXPECT_EQ(ipcheap_free(heap, &freed), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_keep(heap, &freed), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_try_send(p.out, &freed), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_free(heap, &held[0]), 0); /* this one was detached */
    while (count) EXPECT_EQ(ipcheap_free(heap, &later[--count]), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

/* Sends one record for each byte that it reads, as a new producer each time. */
static void come_and_go(ipcheap_heap *heap, int asked) {
    ipcheap_channel channel = record_channel(heap, 1, 1);
    char byte;
    for (uint64_t i = 0; read(asked, &byte, 1) == 1; i++) {
        usleep((useconds_t)(i * 37 % 100));
        ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
        send_number(heap, producer, i);
        ipcheap_endpoint_release(producer);
    }
}

static int wait_for_one(ipcheap_endpoint *endpoint, bool among_many) {
    ipcheap_waitable item = {.endpoint = endpoint};
    if (!among_many) return ipcheap_wait(endpoint, 5000000000);
    int64_t ready = ipcheap_wait_any(&item, 1, 5000000000);
    return ready > 0 ? 0 : ready < 0 ? (int)ready : IPCHEAP_TIMED_OUT;
}

/*
 * A consumer that holds the whole ring begins to wait while its producer has closed, so that there
 * is an end to report, and goes on waiting because a new producer claims the side.
 */
static void a_new_producer_finds_the_way_free(bool among_many) {
    enum { TIMES = 100 };
    int fd = new_segment(MIB), asking[2];
    EXPECT_EQ(pipe(asking), 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        close(asking[1]);
        ipcheap_heap *heap = attach(fd);
        come_and_go(heap, asking[0]);
        ipcheap_release(heap);
        _exit(0);
    }
    close(asking[0]);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 1);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record held, next;
    for (uint64_t i = 0; i < TIMES; i++) {
        EXPECT_EQ(write(asking[1], "", 1), 1);
        while (ipcheap_pending(consumer) == 0) EXPECT_EQ(wait_for_one(consumer, among_many), 0);
        EXPECT_EQ(ipcheap_try_receive(consumer, &next), 0);
        EXPECT_EQ(number_in(&next), i);
        if (i > 0) EXPECT_EQ(ipcheap_free(heap, &held), 0);
        held = next;
        int closed;
        while ((closed = ipcheap_try_receive(consumer, &next)) == IPCHEAP_WOULD_BLOCK) usleep(10);
        EXPECT_EQ(closed, IPCHEAP_CHANNEL_CLOSED);
    }
    close(asking[1]);
    expect_success(pid);
    EXPECT_EQ(ipcheap_free(heap, &held), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

/* A consumer that is killed: what was detached is freed, the rest is delivered again. */
static void of_a_dead_consumer_only_detached_records_are_gone(void) {
    enum { HELD = 50, SLOTS_HERE = 4 };
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS_HERE);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
        ipcheap_record record;
        for (int i = 0; i < HELD; i++) EXPECT_EQ(ipcheap_receive(consumer, &record, -1), 0);
        raise(SIGKILL);
    }
    for (uint64_t i = 0; i < HELD; i++) send_number(heap, producer, i);
    EXPECT_EQ(waitpid(pid, NULL, 0), pid);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    for (uint64_t i = HELD - SLOTS_HERE; i < HELD; i++) {
        EXPECT_EQ(ipcheap_try_receive(consumer, &record), 0);
        EXPECT_EQ(number_in(&record), i);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_try_receive(consumer, &record), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(consumer);
    ipcheap_endpoint_release(producer);
    ipcheap_release(heap);
    close(fd);
}

static void forwarding_passes_the_same_memory_on(uint64_t nbytes) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel first = record_channel(heap, 1, 8), second = record_channel(heap, 2, 8);
    ipcheap_endpoint *in = claim(heap, &first, IPCHEAP_PRODUCER);
    ipcheap_endpoint *middle = claim(heap, &first, IPCHEAP_CONSUMER);
    ipcheap_endpoint *onward = claim(heap, &second, IPCHEAP_PRODUCER);
    ipcheap_endpoint *out = claim(heap, &second, IPCHEAP_CONSUMER);
    for (int round = 0; round < 100; round++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
        memset(record.data, round, nbytes);
        uint64_t offset = record.offset;
        EXPECT_EQ(ipcheap_try_send(in, &record), 0);
        EXPECT_EQ(ipcheap_try_send(in, &record), IPCHEAP_RECORD); /* sent twice */
        EXPECT_EQ(ipcheap_free(heap, &record), IPCHEAP_RECORD);
        EXPECT_EQ(ipcheap_try_receive(middle, &record), 0);
        EXPECT_EQ(ipcheap_try_send(onward, &record), 0);
        EXPECT_EQ(ipcheap_try_receive(out, &record), 0);
        EXPECT_EQ(record.offset, offset);
        EXPECT_EQ(((unsigned char *)record.data)[nbytes - 1], round);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(in);
    ipcheap_endpoint_release(middle);
    ipcheap_endpoint_release(onward);
    ipcheap_endpoint_release(out);
    EXPECT_EQ(statistics(heap).slabs, 0);
    ipcheap_release(heap);
    close(fd);
}

struct worker {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    uint64_t received;
};

static void *consume_all(void *argument) {
    struct worker *w = argument;
    ipcheap_endpoint *consumer = claim(w->heap, &w->channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    int error;
    while ((error = ipcheap_receive(consumer, &record, -1)) == 0) {
        EXPECT_EQ(number_in(&record), w->received);
        w->received++;
        EXPECT_EQ(ipcheap_free(w->heap, &record), 0);
    }
    EXPECT_EQ(error, IPCHEAP_CHANNEL_CLOSED);
    ipcheap_endpoint_release(consumer);
    return NULL;
}

static void produce_for_two(ipcheap_heap *heap) {
    ipcheap_channel channels[2] = {record_channel(heap, 1, 256), record_channel(heap, 2, 256)};
    ipcheap_endpoint *producers[2] = {claim(heap, &channels[0], IPCHEAP_PRODUCER),
                                      claim(heap, &channels[1], IPCHEAP_PRODUCER)};
    for (uint64_t i = 0; i < COUNT; i++) send_number(heap, producers[i % 2], i / 2);
    ipcheap_endpoint_release(producers[0]);
    ipcheap_endpoint_release(producers[1]);
}

static void one_process_feeds_two_threads(void) {
    int fd = new_segment(4 * MIB);
    pid_t pid = run_peer(fd, produce_for_two);
    ipcheap_heap *heap = attach(fd);
    struct worker workers[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        workers[i] = (struct worker){heap, record_channel(heap, (uint64_t)i + 1, 256), 0};
        EXPECT_EQ(pthread_create(&threads[i], NULL, consume_all, &workers[i]), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    expect_success(pid);
    EXPECT_EQ(workers[0].received + workers[1].received, COUNT);
    EXPECT_EQ(statistics(heap).in_use, 0);
    EXPECT_EQ(statistics(heap).participants, 1);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

enum { ROUNDS = 3000, HANDED = 4 };

struct hand {
    ipcheap_heap *heap;
    ipcheap_record records[HANDED];
    _Atomic int given; /* set by the consumer's thread, to be freed; -1: no more */
};

static void *free_what_is_given(void *argument) {
    struct hand *hand = argument;
    for (;;) {
        int given = hand->given;
        if (given < 0) return NULL;
        if (given == 0) {
            sched_yield();
            continue;
        }
        for (int i = 0; i < given; i++) EXPECT_EQ(ipcheap_free(hand->heap, &hand->records[i]), 0);
        hand->given = 0;
    }
}

/* The consumer closes while another thread gives back what it had received. */
static void records_are_freed_elsewhere_while_their_consumer_closes(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 2 * HANDED);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    struct hand hand = {.heap = heap};
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, free_what_is_given, &hand), 0);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
        for (int n = 0; n < HANDED; n++) {
            send_number(heap, producer, i);
            EXPECT_EQ(ipcheap_receive(consumer, &hand.records[n], 0), 0);
            EXPECT_EQ(number_in(&hand.records[n]), i);
        }
        hand.given = HANDED;
        EXPECT_EQ(ipcheap_endpoint_close(consumer), 0);
        while (hand.given) sched_yield();
        ipcheap_endpoint_release(consumer);
    }
    hand.given = -1;
    pthread_join(thread, NULL);
    ipcheap_endpoint_release(producer);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void another_threads_endpoint(ipcheap_heap *heap, ipcheap_endpoint *producer) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 1, &record), 0);
    EXPECT_EQ(ipcheap_try_send(producer, &record), IPCHEAP_WRONG_PROCESS);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

static void a_forked_child_uses_the_heap_through_its_own_endpoints(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 8);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    ipcheap_record mine;
    EXPECT_EQ(ipcheap_allocate(heap, 8, &mine), 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        another_threads_endpoint(heap, producer);
        ipcheap_record record = mine;
        EXPECT_EQ(ipcheap_free(heap, &record), IPCHEAP_WRONG_PROCESS);
        ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER), *second;
        EXPECT_EQ(ipcheap_claim(heap, &channel, IPCHEAP_PRODUCER, &second), IPCHEAP_CHANNEL_BUSY);
        EXPECT_EQ(ipcheap_receive(consumer, &record, 10000000000), 0);
        EXPECT_EQ(number_in(&record), 77);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
        ipcheap_release(heap);
        _exit(0);
    }
    send_number(heap, producer, 77);
    expect_success(pid);
    EXPECT_EQ(ipcheap_free(heap, &mine), 0);
    ipcheap_endpoint_release(producer);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void die_holding_things(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, 16);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    ipcheap_record record;
    for (uint64_t i = 0; i < 10; i++) send_number(heap, producer, i);
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 100000, &record), 0);
    raise(9);
}

static void a_dead_producer_loses_nothing_it_had_sent(void) {
    int fd = new_segment(4 * MIB), status;
    pid_t pid = run_peer(fd, die_holding_things);
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFSIGNALED(status));
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 16);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    for (uint64_t i = 0; i < 10; i++) {
        EXPECT_EQ(ipcheap_receive(consumer, &record, -1), 0);
        EXPECT_EQ(number_in(&record), i);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_receive(consumer, &record, -1), IPCHEAP_PEER_DIED);
    EXPECT_EQ(statistics(heap).in_use, 0);
    EXPECT_EQ(statistics(heap).recoveries, 1);
    expect_sound(heap);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

static void removal_frees_what_was_pending(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_key key;
    ipcheap_key_int(&key, 9);
    for (int round = 0; round < 10; round++) {
        ipcheap_channel channel = record_channel(heap, 9, 16);
        ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
        ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
        for (uint64_t i = 0; i < 10; i++) send_number(heap, producer, i);
        ipcheap_record held, record;
        EXPECT_EQ(ipcheap_try_receive(consumer, &held), 0);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), IPCHEAP_CHANNEL_BUSY);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
        EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), IPCHEAP_CHANNEL_NOT_FOUND);
        EXPECT_EQ(ipcheap_try_receive(consumer, &record), IPCHEAP_ENDPOINT_CLOSED);
        EXPECT_EQ(ipcheap_allocate(heap, 1, &record), 0);
        EXPECT_EQ(ipcheap_try_send(producer, &record), IPCHEAP_ENDPOINT_CLOSED);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
        ipcheap_endpoint_release(producer);
        ipcheap_endpoint_close(consumer);
        EXPECT_EQ(number_in(&held), 0);
        EXPECT_EQ(ipcheap_free(heap, &held), 0);
        ipcheap_endpoint_release(consumer);
        EXPECT_EQ(statistics(heap).in_use, 0);
        expect_sound(heap);
    }
    ipcheap_release(heap);
    close(fd);
}

static void memory_in_rings_is_reclaimed_before_the_heap_is_full(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 256);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    for (int i = 0; i < 256; i++) {
        EXPECT_EQ(ipcheap_allocate(heap, 32768, &record), 0);
        EXPECT_EQ(ipcheap_try_send(producer, &record), 0);
    }
    while (ipcheap_try_receive(consumer, &record) == 0) EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    EXPECT_EQ(ipcheap_allocate(heap, 15 * MIB, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    expect_sound(heap);
    ipcheap_endpoint_release(producer);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

static void a_hundred_thousand_channels(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    for (uint64_t i = 0; i < 100000; i++) record_channel(heap, i, 1024);
    EXPECT_EQ(statistics(heap).channels, 100000);
    for (uint64_t i = 0; i < 100000; i++) {
        ipcheap_key key;
        ipcheap_channel channel;
        ipcheap_key_int(&key, i);
        EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
        if (i % 3 == 0) EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    }
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    a_producer_may_be_gone_before_a_consumer_comes();
    held_records_stay_and_closing_keeps_them();
    held_records_never_stop_a_channel(4, 100);
    held_records_never_stop_a_channel(1, 100);
    held_records_never_stop_a_channel(2, 40000);
    a_freed_handle_frees_nothing_else();
    a_new_producer_finds_the_way_free(false);
    a_new_producer_finds_the_way_free(true);
    of_a_dead_consumer_only_detached_records_are_gone();
    forwarding_passes_the_same_memory_on(100);
    forwarding_passes_the_same_memory_on(MIB);
    a_forked_child_uses_the_heap_through_its_own_endpoints();
    a_dead_producer_loses_nothing_it_had_sent();
    removal_frees_what_was_pending();
    memory_in_rings_is_reclaimed_before_the_heap_is_full();
    everything_arrives_in_order_from_another_process();
    one_process_feeds_two_threads();
    records_are_freed_elsewhere_while_their_consumer_closes();
    a_hundred_thousand_channels();
    return 0;
}
