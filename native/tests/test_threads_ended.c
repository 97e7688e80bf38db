/* What a thread leaves when it ends: its slot is used again, its records live on. */

#include "threads.h"

enum { MANY = 10000, LEFT = 1000, AT_ONCE = 24, AGAIN = 20 };

/* Records that threads have left, and where the next one goes. */
static ipcheap_record left[MANY];
static atomic_int next;

static void *leave_one(void *argument) {
    struct scene *scene = argument;
    int i = atomic_fetch_add(&next, 1);
    EXPECT_EQ(ipcheap_allocate(scene->heap, LEFT, &left[i]), 0);
    memset(left[i].data, (unsigned char)i, LEFT);
    return NULL;
}

static void free_left(struct scene *scene, int from) {
    for (int i = from; i < next; i++) {
        const unsigned char *bytes = left[i].data;
        EXPECT(bytes[0] == (unsigned char)i && bytes[LEFT - 1] == (unsigned char)i);
        EXPECT_EQ(ipcheap_free(scene->heap, &left[i]), 0);
    }
    next = from;
}

static struct scene scene_of_ended(uint64_t capacity) {
    next = 0;
    return new_scene(capacity);
}

static void many_short_threads_leave_a_record_each(void) {
    struct scene scene = scene_of_ended(64 * MIB);
    for (int i = 0; i < MANY; i++) pthread_join(start(leave_one, &scene), NULL);
    EXPECT_EQ(statistics(scene.heap).records, MANY);
    EXPECT_EQ(statistics(scene.heap).participants, 2);
    expect_sound(scene.heap);
    /* Recovery does not take them for records of the dead. */
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(scene.heap, &report), 0);
    EXPECT(report.participants == 0 && report.blocks == 0);
    free_left(&scene, 0);
    expect_empty(&scene);
}

static void threads_at_a_time_take_a_slot_each(void) {
    struct scene scene = scene_of_ended(16 * MIB);
    for (int round = 0; round < AGAIN; round++) {
        pthread_t threads[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) threads[i] = start(leave_one, &scene);
        for (int i = 0; i < AT_ONCE; i++) pthread_join(threads[i], NULL);
        EXPECT(statistics(scene.heap).participants <= AT_ONCE + 1);
    }
    free_left(&scene, 0);
    /* Slots without a record are free again as soon as the process looks for one. */
    pthread_join(start(leave_one, &scene), NULL);
    EXPECT_EQ(statistics(scene.heap).participants, 2);
    free_left(&scene, 0);
    expect_empty(&scene);
}

/* Another thread frees, sends and keeps what an ended one has left, and what came with it. */
static void what_is_left_can_be_used(void) {
    struct scene scene = scene_of_ended(MIB);
    for (int i = 0; i < 3; i++) pthread_join(start(leave_one, &scene), NULL);
    ipcheap_endpoint *out = claim(scene.heap, &scene.first, IPCHEAP_PRODUCER);
    ipcheap_endpoint *in = claim(scene.heap, &scene.first, IPCHEAP_CONSUMER);
    EXPECT_EQ(ipcheap_keep(scene.heap, &left[0]), 0);
    EXPECT_EQ(ipcheap_try_send(out, &left[0]), 0);
    EXPECT_EQ(ipcheap_try_receive(in, &left[0]), 0);
    ipcheap_record again = left[1];
    free_left(&scene, 0);
    EXPECT_EQ(ipcheap_free(scene.heap, &again), IPCHEAP_RECORD);
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    expect_empty(&scene);
}

static void *lock_and_leave_one(void *argument) {
    struct scene *scene = argument;
    EXPECT_EQ(ipcheap_lock_acquire(scene->heap, scene->bytes, long_enough), 0);
    return leave_one(argument);
}

static void *release_in_vain(void *argument) {
    struct scene *scene = argument;
    EXPECT_EQ(ipcheap_lock_release(scene->heap, scene->bytes), IPCHEAP_WRONG_THREAD);
    return leave_one(argument);
}

static ipcheap_channel static_of(struct scene *scene, int expected) {
    ipcheap_key key;
    ipcheap_channel segment;
    EXPECT_EQ(ipcheap_key_int(&key, OTHER), 0);
    EXPECT_EQ(ipcheap_add_static_segment(scene->heap, &key, 4096, &segment), expected);
    return segment;
}

static void *initialise_and_leave_one(void *argument) {
    static_of(argument, 1);
    return leave_one(argument);
}

/* To a lock, and to a segment that it was initialising, an ended thread is a dead one. */
static void an_ended_thread_holds_no_lock(void) {
    struct scene scene = scene_of_ended(MIB);
    pthread_join(start(initialise_and_leave_one, &scene), NULL);
    ipcheap_channel segment = static_of(&scene, 1);
    EXPECT_EQ(ipcheap_static_ready(scene.heap, &segment, 1), 0);
    scene.bytes = ipcheap_static_data(scene.heap, &segment);
    pthread_join(start(lock_and_leave_one, &scene), NULL);
    pthread_join(start(release_in_vain, &scene), NULL);
    EXPECT_EQ(ipcheap_lock_acquire(scene.heap, scene.bytes, long_enough), IPCHEAP_OWNER_DIED);
    EXPECT_EQ(ipcheap_lock_release(scene.heap, scene.bytes), 0);
    EXPECT_EQ(statistics(scene.heap).records, 3);
    expect_sound(scene.heap);
    free_left(&scene, 0);
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, OTHER), 0);
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 1), 0);
    expect_empty(&scene);
}

/* In a child, which ends without a word. */
static void leave_and_die(ipcheap_heap *heap) {
    struct scene scene = {.heap = heap};
    for (int i = 0; i < 40; i++) {
        pthread_t two[2] = {start(leave_one, &scene), start(leave_one, &scene)};
        for (int t = 0; t < 2; t++) pthread_join(two[t], NULL);
    }
    _exit(0);
}

static void a_dead_process_leaves_nothing(void) {
    int fd = new_segment(4 * MIB);
    next = 0;
    struct scene scene = {.heap = attach(fd)};
    pthread_join(start(leave_one, &scene), NULL);
    expect_success(run_peer(fd, leave_and_die));
    EXPECT_EQ(statistics(scene.heap).records, 81);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(scene.heap, &report), 0);
    EXPECT_EQ(report.blocks, 80);
    EXPECT_EQ(statistics(scene.heap).records, 1);
    expect_sound(scene.heap);
    free_left(&scene, 0);
    expect_empty(&scene);
    close(fd);
}

/* A forked child owns nothing of what ended threads of its parent have left. */
static void the_child_of_a_fork_has_none(void) {
    struct scene scene = scene_of_ended(MIB);
    for (int i = 0; i < 2; i++) pthread_join(start(leave_one, &scene), NULL);
    pid_t pid = fork_child();
    if (pid == 0) {
        for (int i = 0; i < 2; i++)
            EXPECT_EQ(ipcheap_free(scene.heap, &left[i]), IPCHEAP_WRONG_PROCESS);
        pthread_join(start(leave_one, &scene), NULL);
        EXPECT_EQ(ipcheap_free(scene.heap, &left[2]), 0);
        ipcheap_release(scene.heap);
        _exit(0);
    }
    expect_success(pid);
    free_left(&scene, 0);
    expect_empty(&scene);
}

int main(void) {
    many_short_threads_leave_a_record_each();
    threads_at_a_time_take_a_slot_each();
    what_is_left_can_be_used();
    an_ended_thread_holds_no_lock();
    a_dead_process_leaves_nothing();
    the_child_of_a_fork_has_none();
    return 0;
}
