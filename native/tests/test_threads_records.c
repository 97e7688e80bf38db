/* Threads that send, receive, forward, keep and free. */

#include "threads.h"

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

/* Like send_numbers(), while consumers come and go: a full ring reports a closed consumer. */
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

/* Each new consumer finds its position from the slots while the producer keeps filling them. */
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
        while (atomic_load(&scene.turn)) { /* use the slab while the other thread frees */
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
        /* Whichever of the two was first, the slot is free and immediately used again. */
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

/* The allocating thread tracks its blocks, and notices what other threads do with them. */
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

/* The same within one thread: sent, received, kept, sent on. */
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

int main(void) {
    records_go_through_three_threads();
    consumers_come_and_go_while_a_producer_sends();
    another_thread_frees();
    a_consumer_is_closed_while_another_thread_frees_for_it();
    what_another_thread_has_given_away_is_gone();
    what_one_has_given_away_is_gone();
    return 0;
}
