/* Threads that allocate, copy and wrap around while another thread collects garbage. */

#include "memory/participant_memory.h"
#include "segment/lock.h"
#include "segment/membership.h"
#include "threads.h"

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

/* Takes all memory, also the empty slabs of the two other threads. */
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

/* A block that comes back in the ring is sent again, unless it was collected meanwhile. */
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

static void *send_large_ones(void *argument) {
    struct scene *scene = argument;
    struct participant *me;
    EXPECT_EQ(participant_current(scene->heap, &me), 0);
    EXPECT(memory_of(me) != NULL);
    me->memory->rotation.trial.way = IN_TURN;
    ipcheap_endpoint *producer = claim(scene->heap, &scene->first, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(scene->heap, 256 << 10, &record), 0);
        memcpy(record.data, &i, sizeof i);
        memcpy((char *)record.data + record.nbytes - sizeof i, &i, sizeof i);
        EXPECT_EQ(ipcheap_send(producer, &record, long_enough), 0);
    }
    ipcheap_endpoint_release(producer);
    return NULL;
}

static void *collect_garbage(void *argument) {
    struct scene *scene = argument;
    while (!atomic_load(&scene->stop)) {
        EXPECT(ipcheap_trim(scene->heap, 8 * MIB) >= 0);
        statistics(scene->heap);
        usleep(200);
    }
    return NULL;
}

/* The next place may have been given back to the system, or taken by another thread. */
static void extents_go_round_while_memory_is_trimmed(void) {
    struct scene scene = new_scene(64 * MIB);
    ipcheap_endpoint *consumer = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
    pthread_t threads[2] = {start(send_large_ones, &scene), start(collect_garbage, &scene)};
    ipcheap_record record;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        uint64_t first, last;
        EXPECT_EQ(ipcheap_receive(consumer, &record, long_enough), 0);
        memcpy(&first, record.data, sizeof first);
        memcpy(&last, (char *)record.data + record.nbytes - sizeof last, sizeof last);
        EXPECT(first == i && last == i);
        EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    }
    pthread_join(threads[0], NULL);
    atomic_store(&scene.stop, 1);
    pthread_join(threads[1], NULL);
    ipcheap_endpoint_release(consumer);
    expect_empty(&scene);
}

static void *allocate_once(void *argument) {
    struct scene *scene = argument;
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(scene->heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    return NULL;
}

static void *come_and_go(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < ROUNDS / 10; i++) pthread_join(start(allocate_once, scene), NULL);
    atomic_store(&scene->stop, 1);
    return NULL;
}

/* To find out why a record is refused needs no list that joining and leaving change. */
static void records_are_refused_while_threads_come_and_go(void) {
    struct scene scene = new_scene(MIB);
    pthread_t thread = start(come_and_go, &scene);
    while (!atomic_load(&scene.stop)) {
        ipcheap_record record, again;
        EXPECT_EQ(ipcheap_allocate(scene.heap, 100, &record), 0);
        again = record;
        EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
        EXPECT_EQ(ipcheap_free(scene.heap, &again), IPCHEAP_RECORD);
    }
    pthread_join(thread, NULL);
    expect_empty(&scene);
}

enum { WORKERS = 100, SIZES = 40 };

/* What the workers hold at the same time: one record of each size. */
static struct {
    ipcheap_record records[WORKERS][SIZES];
    uint64_t sizes[SIZES];
    int count;
} held;

static void *hold_one_of_each(void *argument) {
    struct scene *scene = argument;
    int turn = atomic_fetch_add(&scene->turn, 1);
    for (int i = 0; i < held.count; i++) {
        ipcheap_record *record = &held.records[turn][i];
        EXPECT_EQ(ipcheap_allocate(scene->heap, held.sizes[i], record), 0);
        memset(record->data, turn + i, record->nbytes);
    }
    atomic_fetch_add(&scene->count, 1);
    while (!atomic_load(&scene->stop)) usleep(1000);
    for (int i = 0; i < held.count; i++) {
        const unsigned char *data = held.records[turn][i].data;
        EXPECT_EQ(data[0], (unsigned char)(turn + i));
        EXPECT_EQ(data[held.sizes[i] - 1], (unsigned char)(turn + i));
        EXPECT_EQ(ipcheap_free(scene->heap, &held.records[turn][i]), 0);
    }
    return NULL;
}

/* Threads share the slabs that there are, if there is no room for one for each of them. */
static void many_hold_one_of_each(uint64_t capacity, int workers, int sizes) {
    struct scene scene = new_scene(capacity);
    pthread_t threads[WORKERS];
    held.count = sizes;
    double size = 64;
    for (int i = 0; i < sizes; i++, size *= 1.16) held.sizes[i] = (uint64_t)size;
    for (int i = 0; i < workers; i++) threads[i] = start(hold_one_of_each, &scene);
    while (atomic_load(&scene.count) < (uint64_t)workers) usleep(1000);
    EXPECT_EQ(statistics(scene.heap).records, workers * sizes);
    expect_sound(scene.heap);
    atomic_store(&scene.stop, 1);
    for (int i = 0; i < workers; i++) pthread_join(threads[i], NULL);
    expect_empty(&scene);
}

enum { LAST_PAGE = 16384 }; /* blocks of 64 bytes in a heap of 1 MiB */
static ipcheap_record all[LAST_PAGE];

static void *take_every_block(void *argument) {
    struct scene *scene = argument;
    for (uint64_t i; (i = atomic_fetch_add(&scene->count, 1)) < LAST_PAGE;) {
        EXPECT_EQ(ipcheap_allocate(scene->heap, 64, &all[i]), 0);
        memcpy(all[i].data, &i, sizeof i);
    }
    atomic_fetch_add(&scene->turn, 1);
    while (!atomic_load(&scene->stop)) usleep(1000);
    return NULL;
}

/* Free blocks are anybody's: as many records fit as blocks. */
static void a_heap_is_used_to_its_last_block(void) {
    struct scene scene = new_scene(MIB);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) threads[i] = start(take_every_block, &scene);
    await(&scene.turn, 3);
    ipcheap_record one;
    EXPECT_EQ(ipcheap_allocate(scene.heap, 64, &one), IPCHEAP_HEAP_FULL);
    for (uint64_t i = 0; i < LAST_PAGE; i += 5) EXPECT_EQ(ipcheap_free(scene.heap, &all[i]), 0);
    for (uint64_t i = 0; i < LAST_PAGE; i += 5) {
        EXPECT_EQ(ipcheap_allocate(scene.heap, 64, &all[i]), 0);
        memcpy(all[i].data, &i, sizeof i);
    }
    EXPECT_EQ(ipcheap_allocate(scene.heap, 64, &one), IPCHEAP_HEAP_FULL);
    expect_sound(scene.heap);
    atomic_store(&scene.stop, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (uint64_t i = 0; i < LAST_PAGE; i++) {
        uint64_t found;
        memcpy(&found, all[i].data, sizeof found);
        EXPECT_EQ(found, i);
        EXPECT_EQ(ipcheap_free(scene.heap, &all[i]), 0);
    }
    expect_empty(&scene);
}

/* Allocates and frees as much as there is, in turn with others that do the same. */
static void *live_in_need(void *argument) {
    struct scene *scene = argument;
    uint64_t state = 88172645463325252u + (uint64_t)atomic_fetch_add(&scene->turn, 1);
    enum { MINE = 1500 };
    ipcheap_record *records = calloc(MINE, sizeof *records);
    EXPECT(records != NULL);
    for (int i = 0; i < ROUNDS * 4; i++) {
        ipcheap_record *record = &records[next_random(&state) % MINE];
        if (record->data) {
            EXPECT_EQ(*(uint64_t *)record->data, record->offset);
            EXPECT_EQ(ipcheap_free(scene->heap, record), 0);
            record->data = NULL;
            continue;
        }
        int error = ipcheap_allocate(scene->heap, 8 + next_random(&state) % 900, record);
        EXPECT(error == 0 || error == IPCHEAP_HEAP_FULL);
        if (error)
            record->data = NULL;
        else
            *(uint64_t *)record->data = record->offset;
    }
    for (int i = 0; i < MINE; i++)
        if (records[i].data) EXPECT_EQ(ipcheap_free(scene->heap, &records[i]), 0);
    free(records);
    return NULL;
}

static void slabs_are_shared_while_they_are_used(void) {
    struct scene scene = new_scene(MIB);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) threads[i] = start(live_in_need, &scene);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    expect_empty(&scene);
}

static void *free_without_the_lock(void *argument) {
    struct scene *scene = argument;
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(scene->heap, MIB, &record), 0);
    atomic_store(&scene->turn, 1);
    await(&scene->turn, 2);
    EXPECT_EQ(ipcheap_free(scene->heap, &record), 0); /* later */
    atomic_store(&scene->turn, 3);
    await(&scene->turn, 4);
    /* What it put off is another's by now. */
    EXPECT_EQ(ipcheap_allocate(scene->heap, MIB, &record), IPCHEAP_HEAP_FULL);
    return NULL;
}

/* An extent whose free timed out on the lock is free to all, whatever its owner does. */
static void what_is_deferred_is_anybodys(void) {
    struct scene scene = new_scene(2 * MIB);
    struct participant *me;
    EXPECT_EQ(participant_current(scene.heap, &me), 0);
    pthread_t thread = start(free_without_the_lock, &scene);
    await(&scene.turn, 1);
    ipcheap_set_lock_timeout(scene.heap, 1000000);
    EXPECT_EQ(heap_lock(me), 0);
    atomic_store(&scene.turn, 2);
    await(&scene.turn, 3);
    expect_sound(scene.heap);
    heap_unlock(me);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(scene.heap, 2 * MIB - 64 * 1024, &record), 0);
    memset(record.data, 1, record.nbytes);
    atomic_store(&scene.turn, 4);
    pthread_join(thread, NULL);
    expect_sound(scene.heap);
    EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    expect_empty(&scene);
}

int main(void) {
    what_is_deferred_is_anybodys();
    many_hold_one_of_each(4 * MIB, WORKERS, 1);
    many_hold_one_of_each(64 * MIB, 32, SIZES);
    a_heap_is_used_to_its_last_block();
    slabs_are_shared_while_they_are_used();
    memory_is_short_for_three();
    copies_are_sent_while_garbage_is_collected();
    extents_go_round_while_memory_is_trimmed();
    records_are_refused_while_threads_come_and_go();
    return 0;
}
