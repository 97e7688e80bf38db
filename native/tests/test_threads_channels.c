/* Threads that add, use and remove channels, static segments and the heap. */

#include "threads.h"

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

/* Uses a segment that others remove and add again; what is not used any more becomes records. */
static void *use_what_is_removed(void *argument) {
    struct scene *scene = argument;
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, OTHER), 0);
    for (int i = 0; i < ROUNDS / 4; i++) {
        ipcheap_channel channel;
        int added = ipcheap_add_static_segment(scene->heap, &key, 4096, &channel);
        int ready = added == 1 ? ipcheap_static_ready(scene->heap, &channel, 1) : 0;
        EXPECT(ready == 0 || ready == IPCHEAP_CHANNEL_NOT_FOUND);
        EXPECT(added >= 0 || added == IPCHEAP_WOULD_BLOCK);
        void *data = NULL;
        int error = added < 0 ? added : ipcheap_static_hold(scene->heap, &channel, &data);
        EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND || added < 0);
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(scene->heap, 4096, &record), 0);
        memset(record.data, 0, record.nbytes);
        int removed = ipcheap_remove_channel(scene->heap, &key, i % 2);
        EXPECT(removed == 0 || removed == IPCHEAP_CHANNEL_NOT_FOUND);
        if (error == 0) {
            atomic_fetch_add((_Atomic uint64_t *)data, 1);
            EXPECT_EQ(ipcheap_static_release(scene->heap, &channel), 0);
        }
        for (uint64_t j = 0; j < record.nbytes; j++)
            EXPECT_EQ(((unsigned char *)record.data)[j], 0);
        EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    }
    return NULL;
}

static void what_is_removed_while_it_is_used_spoils_no_record(void) {
    struct scene scene = new_scene(MIB);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) threads[i] = start(use_what_is_removed, &scene);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, OTHER), 0);
    ipcheap_remove_channel(scene.heap, &key, 1);
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
        ++*plain; /* only the lock protects it */
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
    /* Extents only: between two of them nothing in the segment names this participant. */
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

/* Sends inside enter() and leave(): closing the heap must not free the endpoint meanwhile. */
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
        /* A thread in the middle of a call still looks alive to other participants. */
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
    two_add_and_remove_channels();
    a_channel_is_removed_while_it_is_used();
    what_is_removed_while_it_is_used_spoils_no_record();
    two_meet_on_a_static_segment();
    the_heap_is_closed_while_it_is_used();
    return 0;
}
