/*
 * Threads that share one mapping: two of them in every kind of operation at a time.
 *
 * What ThreadSanitizer is for, which sees nothing between processes: see docs/design/models.md.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "testing.h"

enum { ROUNDS = 3000, FIRST = 1, SECOND_ONE = 2, OTHER = 3 };
static const int64_t long_enough = 60000000000;

/* One heap, and what the threads of a test tell each other. */
struct scene {
    ipcheap_heap *heap;
    ipcheap_channel first, second;
    atomic_int turn, stop;
    _Atomic uint64_t count;
    ipcheap_record handed; /* from one thread to the other, when it is the other's turn */
    void *bytes;           /* of a static segment */
};

static struct scene new_scene(uint64_t capacity) {
    int fd = new_segment(capacity);
    struct scene scene = {.heap = attach(fd)};
    close(fd);
    scene.first = record_channel(scene.heap, FIRST, 4);
    scene.second = record_channel(scene.heap, SECOND_ONE, 4);
    return scene;
}

static pthread_t start(void *(*body)(void *), struct scene *scene) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, body, scene), 0);
    return thread;
}

static void expect_empty(struct scene *scene) {
    EXPECT_EQ(statistics(scene->heap).in_use, 0);
    expect_sound(scene->heap);
    ipcheap_release(scene->heap);
}

static void await(atomic_int *word, int value) {
    while (atomic_load(word) != value) usleep(100);
}

static uint64_t size_of(uint64_t number) { return number % 7 == 3 ? 40000 : 8 + number % 300; }

static ipcheap_record numbered(ipcheap_heap *heap, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, size_of(number), &record), 0);
    memset(record.data, (int)number, record.nbytes);
    memcpy(record.data, &number, sizeof number);
    return record;
}

static uint64_t number_in(const ipcheap_record *record) {
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    EXPECT_EQ(record->nbytes, size_of(number));
    if (record->nbytes > 8)
        EXPECT_EQ(((unsigned char *)record->data)[record->nbytes - 1], (unsigned char)number);
    return number;
}

/* Sending, receiving, forwarding, keeping, freeing ---------------------------------------- */

static void *send_numbers(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_record record = numbered(scene->heap, i);
        EXPECT_EQ(ipcheap_send(producer, &record, long_enough), 0);
    }
    ipcheap_endpoint_release(producer);
    return NULL;
}

/* The same past consumers that come and go: a full ring whose consumer has closed says so. */
static void *send_numbers_on(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_record record = numbered(scene->heap, i);
        int error;
        while ((error = ipcheap_send(producer, &record, long_enough)) == IPCHEAP_CHANNEL_CLOSED)
            EXPECT_EQ(ipcheap_wait_peer(producer, long_enough), 0);
        EXPECT_EQ(error, 0);
    }
    ipcheap_endpoint_release(producer);
    return NULL;
}

static void *forward_numbers(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *in = claim(scene->heap, &scene->first, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = claim(scene->heap, &scene->second, IPCHEAP_PRODUCER);
    ipcheap_record record;
    while (ipcheap_receive(in, &record, long_enough) == 0) {
        if (number_in(&record) % 3 == 1) EXPECT_EQ(ipcheap_keep(scene->heap, &record), 0);
        if (number_in(&record) % 5 == 1)
            EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
        else
            EXPECT_EQ(ipcheap_send(out, &record, long_enough), 0);
    }
    ipcheap_endpoint_release(in);
    ipcheap_endpoint_release(out);
    return NULL;
}

static void records_go_through_three_threads(void) {
    struct scene scene = new_scene(4 * MIB);
    ipcheap_endpoint *in = claim(scene.heap, &scene.second, IPCHEAP_CONSUMER);
    pthread_t threads[2] = {start(send_numbers, &scene), start(forward_numbers, &scene)};
    EXPECT_EQ(ipcheap_wait_peer(in, long_enough), 0);
    ipcheap_record record;
    for (uint64_t expected = 0; expected < ROUNDS; expected++) {
        if (expected % 5 == 1) continue;
        EXPECT_EQ(ipcheap_receive(in, &record, long_enough), 0);
        EXPECT_EQ(number_in(&record), expected);
        EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_receive(in, &record, long_enough), IPCHEAP_CHANNEL_CLOSED);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    ipcheap_endpoint_release(in);
    expect_empty(&scene);
}

/* Each finds out from the slots where the ring stands, while the producer goes on filling them. */
static void consumers_come_and_go_while_a_producer_sends(void) {
    struct scene scene = new_scene(4 * MIB);
    pthread_t thread = start(send_numbers_on, &scene);
    ipcheap_record record;
    for (uint64_t expected = 0; expected < ROUNDS;) {
        ipcheap_endpoint *consumer = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
        for (uint64_t i = 0; i <= expected % 3 && expected < ROUNDS; i++, expected++) {
            EXPECT_EQ(ipcheap_receive(consumer, &record, long_enough), 0);
            EXPECT_EQ(number_in(&record), expected);
            EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
        }
        ipcheap_endpoint_release(consumer);
    }
    pthread_join(thread, NULL);
    expect_empty(&scene);
}

static void *free_what_is_handed_over(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < ROUNDS; i++) {
        await(&scene->turn, 1);
        number_in(&scene->handed);
        EXPECT_EQ(ipcheap_free(scene->heap, &scene->handed), 0);
        atomic_store(&scene->turn, 0);
    }
    return NULL;
}

static void another_thread_frees(void) {
    struct scene scene = new_scene(4 * MIB);
    pthread_t thread = start(free_what_is_handed_over, &scene);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_record mine = numbered(scene.heap, i);
        while (atomic_load(&scene.turn)) { /* the slab is in use while the other one frees in it */
            ipcheap_record more = numbered(scene.heap, i);
            EXPECT_EQ(ipcheap_free(scene.heap, &more), 0);
        }
        scene.handed = mine;
        atomic_store(&scene.turn, 1);
    }
    pthread_join(thread, NULL);
    expect_empty(&scene);
}

/* A consumer is closed while another thread gives back, keeps or forwards what it holds. */
static void *give_back_what_is_held(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *out = claim(scene->heap, &scene->second, IPCHEAP_PRODUCER);
    for (int i = 0; i < ROUNDS; i++) {
        await(&scene->turn, 1);
        ipcheap_record record = scene->handed;
        atomic_store(&scene->turn, 2);
        if (i % 3 == 0) EXPECT_EQ(ipcheap_keep(scene->heap, &record), 0);
        int error = i % 3 == 1 ? ipcheap_try_send(out, &record) : IPCHEAP_WOULD_BLOCK;
        if (error) EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
        atomic_store(&scene->turn, error ? 3 : 4);
    }
    ipcheap_endpoint_release(out);
    return NULL;
}

static void a_consumer_is_closed_while_another_thread_frees_for_it(void) {
    struct scene scene = new_scene(4 * MIB);
    pthread_t thread = start(give_back_what_is_held, &scene);
    ipcheap_endpoint *producer = claim(scene.heap, &scene.first, IPCHEAP_PRODUCER);
    ipcheap_endpoint *last = claim(scene.heap, &scene.second, IPCHEAP_CONSUMER);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_endpoint *consumer = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
        ipcheap_record record = numbered(scene.heap, i);
        EXPECT_EQ(ipcheap_send(producer, &record, long_enough), 0);
        EXPECT_EQ(ipcheap_receive(consumer, &scene.handed, long_enough), 0);
        atomic_store(&scene.turn, 1);
        while (atomic_load(&scene.turn) == 1) {}
        ipcheap_endpoint_close(consumer);
        /* Whoever of the two was first: the slot is free, and used again at once. */
        ipcheap_record next = numbered(scene.heap, i);
        EXPECT_EQ(ipcheap_send(producer, &next, long_enough), 0);
        ipcheap_endpoint *successor = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
        EXPECT_EQ(ipcheap_receive(successor, &next, long_enough), 0);
        EXPECT_EQ(number_in(&next), i);
        EXPECT_EQ(ipcheap_free(scene.heap, &next), 0);
        int turn;
        while ((turn = atomic_load(&scene.turn)) < 3) usleep(10);
        if (turn == 4) {
            EXPECT_EQ(ipcheap_receive(last, &record, long_enough), 0);
            EXPECT_EQ(number_in(&record), i);
            EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
        }
        ipcheap_endpoint_release(consumer);
        ipcheap_endpoint_release(successor);
    }
    pthread_join(thread, NULL);
    ipcheap_endpoint_release(producer);
    ipcheap_endpoint_release(last);
    expect_empty(&scene);
}

static void *free_or_send_handed(void *argument) {
    struct scene *scene = argument;
    ipcheap_record record = scene->handed;
    if (atomic_load(&scene->turn) == 0) {
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
        return NULL;
    }
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    EXPECT_EQ(ipcheap_send(producer, &record, long_enough), 0);
    ipcheap_endpoint_release(producer);
    return NULL;
}

/* Who allocated a block keeps account of it; what another thread does with it he is told. */
static void what_another_thread_has_given_away_is_gone(void) {
    for (int send = 0; send < 2; send++) {
        struct scene scene = new_scene(4 * MIB);
        atomic_store(&scene.turn, send);
        ipcheap_record mine[2];
        for (int i = 0; i < 2; i++) EXPECT_EQ(ipcheap_allocate(scene.heap, 100, &mine[i]), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &mine[1]), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &mine[1]), IPCHEAP_RECORD);
        scene.handed = mine[0];
        pthread_join(start(free_or_send_handed, &scene), NULL);
        EXPECT_EQ(ipcheap_free(scene.heap, &mine[0]), IPCHEAP_RECORD);
        EXPECT_EQ(ipcheap_keep(scene.heap, &mine[0]), IPCHEAP_RECORD);
        expect_sound(scene.heap);
        if (send) {
            ipcheap_record record;
            ipcheap_endpoint *consumer = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
            EXPECT_EQ(ipcheap_receive(consumer, &record, long_enough), 0);
            EXPECT_EQ(record.offset, mine[0].offset);
            EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
            EXPECT_EQ(ipcheap_free(scene.heap, &record), IPCHEAP_RECORD);
            ipcheap_endpoint_release(consumer);
        }
        EXPECT_EQ(ipcheap_allocate(scene.heap, 100, &mine[0]), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &mine[0]), 0);
        expect_empty(&scene);
    }
}

/* The same of one's own: sent, received, kept, sent on. */
static void what_one_has_given_away_is_gone(void) {
    struct scene scene = new_scene(4 * MIB);
    struct pair pair = pair_of(scene.heap, OTHER, 4);
    ipcheap_record record, old;
    EXPECT_EQ(ipcheap_allocate(scene.heap, 100, &record), 0);
    for (int round = 0; round < 3; round++) {
        old = record;
        EXPECT_EQ(ipcheap_send(pair.out, &record, long_enough), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &old), IPCHEAP_RECORD);
        EXPECT_EQ(ipcheap_receive(pair.in, &record, long_enough), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &old), IPCHEAP_RECORD);
        EXPECT_EQ(ipcheap_keep(scene.heap, &record), 0);
        expect_sound(scene.heap);
    }
    old = record;
    EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    EXPECT_EQ(ipcheap_free(scene.heap, &old), IPCHEAP_RECORD);
    pair_release(&pair);
    expect_empty(&scene);
}

/* Memory ---------------------------------------------------------------------------------- */

static void *allocate_and_free(void *argument) {
    struct scene *scene = argument;
    uint64_t state = 88172645463325252u + (uint64_t)atomic_fetch_add(&scene->turn, 1);
    ipcheap_record records[16] = {0};
    for (int i = 0; i < ROUNDS * 4; i++) {
        ipcheap_record *record = &records[next_random(&state) % 16];
        if (record->data) {
            const unsigned char *data = record->data;
            EXPECT_EQ(data[record->nbytes - 1], (unsigned char)record->offset);
            EXPECT_EQ(ipcheap_free(scene->heap, record), 0);
            record->data = NULL;
            continue;
        }
        uint64_t most = next_random(&state) % 8 ? 2000 : 300000;
        uint64_t nbytes = 1 + next_random(&state) % most;
        int error = ipcheap_allocate(scene->heap, nbytes, record);
        if (error) record->data = NULL;
        EXPECT(error == 0 || error == IPCHEAP_HEAP_FULL);
        if (!error) memset(record->data, (int)record->offset, record->nbytes);
        if (i % 512 == 0) EXPECT(ipcheap_trim(scene->heap, 0) >= 0);
        if (i % 512 == 1) statistics(scene->heap);
    }
    for (int i = 0; i < 16; i++)
        if (records[i].data) EXPECT_EQ(ipcheap_free(scene->heap, &records[i]), 0);
    atomic_fetch_add(&scene->stop, 1);
    return NULL;
}

/* Takes all there is, also the empty slabs of the two who come and go. */
static void memory_is_short_for_three(void) {
    struct scene scene = new_scene(2 * MIB);
    pthread_t threads[2] = {start(allocate_and_free, &scene), start(allocate_and_free, &scene)};
    ipcheap_recovery recovery;
    while (atomic_load(&scene.stop) < 2) {
        ipcheap_record all;
        int error = ipcheap_allocate(scene.heap, MIB, &all);
        if (error == 0) memset(all.data, 1, all.nbytes);
        if (error == 0) EXPECT_EQ(ipcheap_free(scene.heap, &all), 0);
        EXPECT_EQ(ipcheap_recover(scene.heap, &recovery), 0);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    EXPECT_EQ(recovery.participants, 0);
    expect_empty(&scene);
}

static void *send_copies(void *argument) {
    struct scene *scene = argument;
    static const unsigned char bytes[600];
    ipcheap_bytes copied[7];
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < ROUNDS * 4;) {
        for (uint64_t n = 0; n < 7; n++)
            copied[n] = (ipcheap_bytes){bytes, 1 + (i + n) / 100 * 97 % sizeof bytes};
        int64_t went = ipcheap_try_send_copies(producer, copied, 1 + i % 7);
        EXPECT(went >= 0);
        if (went == 0) EXPECT_EQ(ipcheap_wait(producer, long_enough), 0);
        i += (uint64_t)went;
    }
    ipcheap_endpoint_release(producer);
    return NULL;
}

static int count_copies(void *total, const ipcheap_bytes *records, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const unsigned char *bytes = records[i].data;
        for (uint64_t at = 0; at < records[i].nbytes; at++) EXPECT_EQ(bytes[at], 0);
    }
    *(uint64_t *)total += count;
    return 0;
}

/* What comes back in the ring is sent again, unless somebody has collected it. */
static void copies_are_sent_while_garbage_is_collected(void) {
    struct scene scene = new_scene(4 * MIB);
    ipcheap_endpoint *consumer = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
    pthread_t threads[2] = {start(send_copies, &scene), start(allocate_and_free, &scene)};
    EXPECT_EQ(ipcheap_wait_peer(consumer, long_enough), 0);
    int64_t got;
    uint64_t count = 0;
    while ((got = ipcheap_try_receive_copies(consumer, count_copies, &count, 5)) >= 0)
        if (got == 0) ipcheap_wait(consumer, long_enough);
    EXPECT_EQ(got, IPCHEAP_CHANNEL_CLOSED);
    EXPECT(count >= ROUNDS * 4);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    ipcheap_endpoint_release(consumer);
    expect_empty(&scene);
}

/* Channels -------------------------------------------------------------------------------- */

static void *add_and_remove(void *argument) {
    struct scene *scene = argument;
    ipcheap_key key;
    ipcheap_channel channel;
    for (uint64_t i = 0; i < ROUNDS / 4; i++) {
        ipcheap_key_int(&key, 100 + i % 5);
        int error = ipcheap_add_record_channel(scene->heap, &key, 8, &channel);
        EXPECT(error == 0 || error == IPCHEAP_CHANNEL_TYPE);
        ipcheap_endpoint *producer;
        if (!error && ipcheap_claim(scene->heap, &channel, IPCHEAP_PRODUCER, &producer) == 0) {
            ipcheap_record record = numbered(scene->heap, i);
            if (ipcheap_try_send(producer, &record)) ipcheap_free(scene->heap, &record);
            ipcheap_endpoint_release(producer);
        }
        error = ipcheap_find_channel(scene->heap, &key, &channel);
        EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND);
        error = ipcheap_remove_channel(scene->heap, &key, 1);
        EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND);
        ipcheap_key_int(&key, 200 + i % 3);
        error = ipcheap_add_static_segment(scene->heap, &key, 64, &channel);
        if (error == 1) EXPECT_EQ(ipcheap_static_ready(scene->heap, &channel, 1), 0);
    }
    return NULL;
}

static void two_add_and_remove_channels(void) {
    struct scene scene = new_scene(4 * MIB);
    pthread_t threads[2] = {start(add_and_remove, &scene), start(add_and_remove, &scene)};
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    ipcheap_key key;
    for (uint64_t id = 100; id < 105; id++) {
        ipcheap_key_int(&key, id);
        ipcheap_remove_channel(scene.heap, &key, 1);
    }
    for (uint64_t id = 200; id < 203; id++) {
        ipcheap_key_int(&key, id);
        EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 1), 0);
    }
    expect_empty(&scene);
}

static void *receive_until_it_is_gone(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *consumer = claim(scene->heap, &scene->first, IPCHEAP_CONSUMER);
    ipcheap_record record;
    int error;
    atomic_fetch_add(&scene->turn, 1);
    while ((error = ipcheap_receive(consumer, &record, long_enough)) == 0) {
        atomic_fetch_add(&scene->count, 1);
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    }
    EXPECT_EQ(error, IPCHEAP_ENDPOINT_CLOSED);
    ipcheap_endpoint_release(consumer);
    return NULL;
}

static void *receive_inside(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *consumer = claim(scene->heap, &scene->first, IPCHEAP_CONSUMER);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_endpoint_enter(consumer), 0);
    atomic_fetch_add(&scene->turn, 1);
    while (ipcheap_receive(consumer, &record, long_enough) == 0)
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    EXPECT_EQ(ipcheap_endpoint_leave(consumer), IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(consumer);
    return NULL;
}

static void *wait_for_a_peer(void *argument) {
    struct scene *scene = argument;
    ipcheap_channel channel = record_channel(scene->heap, OTHER, 4);
    ipcheap_endpoint *consumer = claim(scene->heap, &channel, IPCHEAP_CONSUMER);
    atomic_fetch_add(&scene->turn, 1);
    EXPECT_EQ(ipcheap_wait_peer(consumer, long_enough), IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(consumer);
    return NULL;
}

static void *send_until_it_is_gone(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    atomic_fetch_add(&scene->turn, 1);
    for (uint64_t i = 0;; i++) {
        ipcheap_record record = numbered(scene->heap, i);
        int error = ipcheap_send(producer, &record, long_enough);
        if (error == 0) continue;
        EXPECT_EQ(error, IPCHEAP_ENDPOINT_CLOSED);
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
        break;
    }
    ipcheap_endpoint_release(producer);
    return NULL;
}

static void a_channel_is_removed_while_it_is_used(void) {
    for (int round = 0; round < 50; round++) {
        struct scene scene = new_scene(4 * MIB);
        pthread_t threads[2] = {start(receive_until_it_is_gone, &scene),
                                start(send_until_it_is_gone, &scene)};
        await(&scene.turn, 2);
        while (atomic_load(&scene.count) < (uint64_t)round) usleep(10);
        ipcheap_key key;
        ipcheap_key_int(&key, FIRST);
        EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 1), 0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        expect_empty(&scene);
    }
}

/* Static segments ------------------------------------------------------------------------- */

static void *meet_and_count(void *argument) {
    struct scene *scene = argument;
    unsigned char *bytes = scene->bytes;
    uint64_t *plain = (uint64_t *)(void *)(bytes + 192);
    uint32_t generation;
    for (int i = 0; i < ROUNDS / 10; i++) {
        int order = ipcheap_barrier_arrive(bytes, 2, &generation);
        EXPECT(order >= 0);
        if (order == 0)
            EXPECT_EQ(ipcheap_barrier_wait(scene->heap, bytes, generation, long_enough), 0);
        EXPECT_EQ(ipcheap_lock_acquire(scene->heap, bytes + 64, long_enough), 0);
        ++*plain; /* the lock is all that guards it */
        EXPECT_EQ(ipcheap_lock_release(scene->heap, bytes + 64), 0);
    }
    EXPECT_EQ(ipcheap_event_wait(scene->heap, bytes + 128, long_enough), 0);
    return NULL;
}

static void two_meet_on_a_static_segment(void) {
    struct scene scene = new_scene(4 * MIB);
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_key_int(&key, OTHER);
    EXPECT_EQ(ipcheap_add_static_segment(scene.heap, &key, 256, &channel), 1);
    EXPECT_EQ(ipcheap_static_ready(scene.heap, &channel, 1), 0);
    scene.bytes = ipcheap_static_data(scene.heap, &channel);
    pthread_t threads[2] = {start(meet_and_count, &scene), start(meet_and_count, &scene)};
    EXPECT_EQ(ipcheap_event_set((char *)scene.bytes + 128), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    EXPECT_EQ(((uint64_t *)scene.bytes)[24], 2 * (ROUNDS / 10));
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 1), 0);
    expect_empty(&scene);
}

/* Closing the heap ------------------------------------------------------------------------ */

static void *allocate_until_closed(void *argument) {
    struct scene *scene = argument;
    ipcheap_record record;
    int error;
    atomic_fetch_add(&scene->turn, 1);
    /* Extents only: between two of them this participant has nothing that one could see. */
    while ((error = ipcheap_allocate(scene->heap, 100000, &record)) == 0) {
        memset(record.data, 1, record.nbytes);
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    }
    EXPECT_EQ(error, IPCHEAP_HEAP_CLOSED);
    return NULL;
}

static void *claim_until_closed(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *endpoint;
    int error;
    atomic_fetch_add(&scene->turn, 1);
    while ((error = ipcheap_claim(scene->heap, &scene->second, IPCHEAP_PRODUCER, &endpoint)) == 0)
        ipcheap_endpoint_release(endpoint);
    EXPECT_EQ(error, IPCHEAP_HEAP_CLOSED);
    return NULL;
}

/* Inside a call that closing must not pull the endpoint from under. */
static void *send_inside(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_endpoint_enter(producer), 0);
    atomic_fetch_add(&scene->turn, 1);
    for (uint64_t i = 0; ipcheap_allocate(scene->heap, size_of(i), &record) == 0; i++)
        if (ipcheap_try_send(producer, &record)) EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    EXPECT_EQ(ipcheap_endpoint_leave(producer), IPCHEAP_HEAP_CLOSED);
    EXPECT_EQ(ipcheap_endpoint_enter(producer), IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(producer);
    return NULL;
}

static void the_heap_is_closed_while_it_is_used(void) {
    for (int round = 0; round < 50; round++) {
        int fd = new_segment(8 * MIB);
        ipcheap_heap *witness = attach(fd);
        struct scene scene = {.heap = attach(fd)};
        scene.first = record_channel(scene.heap, FIRST, 4);
        scene.second = record_channel(scene.heap, SECOND_ONE, 4);
        void *(*bodies[])(void *) = {receive_inside, send_inside, wait_for_a_peer,
                                     allocate_until_closed, claim_until_closed};
        pthread_t threads[5];
        for (int i = 0; i < 5; i++) threads[i] = start(bodies[i], &scene);
        await(&scene.turn, 5);
        usleep((useconds_t)round * 20);
        EXPECT_EQ(ipcheap_close(scene.heap), 0);
        /* Nobody who is in the middle of something has become a stranger to the others. */
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(witness, 100000, &record), 0);
        EXPECT_EQ(ipcheap_free(witness, &record), 0);
        for (int i = 0; i < 5; i++) pthread_join(threads[i], NULL);
        ipcheap_release(scene.heap);
        ipcheap_endpoint *rest = claim(witness, &scene.first, IPCHEAP_CONSUMER);
        while (ipcheap_try_receive(rest, &record) == 0)
            EXPECT_EQ(ipcheap_free(witness, &record), 0);
        ipcheap_endpoint_release(rest);
        ipcheap_statistics s = statistics(witness);
        EXPECT_EQ(s.participants, 1);
        EXPECT_EQ(s.recoveries, 0);
        EXPECT_EQ(s.in_use, 0);
        expect_sound(witness);
        ipcheap_release(witness);
        close(fd);
    }
}

int main(void) {
    records_go_through_three_threads();
    consumers_come_and_go_while_a_producer_sends();
    another_thread_frees();
    a_consumer_is_closed_while_another_thread_frees_for_it();
    what_another_thread_has_given_away_is_gone();
    what_one_has_given_away_is_gone();
    memory_is_short_for_three();
    copies_are_sent_while_garbage_is_collected();
    two_add_and_remove_channels();
    a_channel_is_removed_while_it_is_used();
    two_meet_on_a_static_segment();
    the_heap_is_closed_while_it_is_used();
    return 0;
}
