/* Static segments and the objects in them: once-only initialisation, events, barriers, locks. */

#include <stdatomic.h>

#include "testing.h"

static const int64_t second = 1000000000;

static ipcheap_channel static_segment(ipcheap_heap *heap, uint64_t id, uint64_t nbytes,
                                      int wanted) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_static_segment(heap, &key, nbytes, &channel), wanted);
    return channel;
}

static void it_is_initialised_once_and_zero_to_begin_with(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record dirt;
    EXPECT_EQ(ipcheap_allocate(heap, 8192, &dirt), 0);
    memset(dirt.data, 0xFF, 8192);
    EXPECT_EQ(ipcheap_free(heap, &dirt), 0);
    ipcheap_channel channel = static_segment(heap, 1, 8000, 1);
    unsigned char *bytes = ipcheap_static_data(heap, &channel);
    for (int i = 0; i < 8000; i++) EXPECT_EQ(bytes[i], 0);
    /* If the first initialiser fails, the next adder initialises, starting from zeros. */
    bytes[5] = 1;
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 0), 0);
    EXPECT(ipcheap_static_data(heap, &channel) == NULL);
    static_segment(heap, 1, 8000, 1);
    EXPECT_EQ(bytes[5], 0);
    bytes[5] = 2;
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 1), 0);
    static_segment(heap, 1, 8000, 0);
    static_segment(heap, 1, 0, 0);
    static_segment(heap, 1, 8001, IPCHEAP_CHANNEL_TYPE);
    EXPECT_EQ(bytes[5], 2);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void die_while_initialising(ipcheap_heap *heap) {
    ipcheap_channel channel = static_segment(heap, 1, 64, 1);
    memset(ipcheap_static_data(heap, &channel), 7, 64);
    raise(SIGKILL);
}

static void a_dead_initialiser_is_replaced(void) {
    int fd = new_segment(4 * MIB), status;
    EXPECT(waitpid(run_peer(fd, die_while_initialising), &status, 0) > 0);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = static_segment(heap, 1, 64, 1);
    EXPECT_EQ(*(unsigned char *)ipcheap_static_data(heap, &channel), 0);
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 1), 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

/* What the following tests share: an event, a barrier, a lock and a counter. */
enum { EVENT = 0, BARRIER = 64, LOCK = 128, COUNTER = 192, ROUNDS = 2000, PARTIES = 3 };

static char *shared_by(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_text(&key, "sync", 4), 0);
    int made;
    do made = ipcheap_add_static_segment(heap, &key, 256, &channel);
    while (made == IPCHEAP_WOULD_BLOCK);
    EXPECT(made >= 0);
    if (made == 1) EXPECT_EQ(ipcheap_static_ready(heap, &channel, 1), 0);
    return ipcheap_static_data(heap, &channel);
}

static void meet(ipcheap_heap *heap, char *shared) {
    uint32_t generation;
    int order = ipcheap_barrier_arrive(shared + BARRIER, PARTIES, &generation);
    EXPECT(order >= 0 && order < PARTIES);
    if (order < PARTIES - 1)
        EXPECT_EQ(ipcheap_barrier_wait(heap, shared + BARRIER, generation, 20 * second), 0);
}

static void count_together(ipcheap_heap *heap) {
    char *shared = shared_by(heap);
    uint64_t *counter = (uint64_t *)(void *)(shared + COUNTER);
    EXPECT_EQ(ipcheap_event_wait(heap, shared + EVENT, 20 * second), 0);
    for (int round = 1; round <= ROUNDS; round++) {
        EXPECT_EQ(ipcheap_lock_acquire(heap, shared + LOCK, 20 * second), 0);
        ++*counter; /* a plain store: the lock protects it */
        EXPECT_EQ(ipcheap_lock_release(heap, shared + LOCK), 0);
        meet(heap, shared);
        EXPECT_EQ(*counter, round * PARTIES);
        meet(heap, shared);
    }
}

static void events_barriers_and_locks_hold_between_processes(void) {
    int fd = new_segment(4 * MIB);
    pid_t pids[PARTIES];
    for (int i = 0; i < PARTIES; i++) pids[i] = run_peer(fd, count_together);
    ipcheap_heap *heap = attach(fd);
    char *shared = shared_by(heap);
    EXPECT_EQ(ipcheap_event_wait(heap, shared + EVENT, second / 100), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_event_set(shared + EVENT), 0);
    for (int i = 0; i < PARTIES; i++) expect_success(pids[i]);
    EXPECT_EQ(ipcheap_event_is_set(shared + EVENT), 1);
    ipcheap_event_clear(shared + EVENT);
    EXPECT_EQ(ipcheap_event_is_set(shared + EVENT), 0);
    ipcheap_release(heap);
    close(fd);
}

static void die_with_the_lock(ipcheap_heap *heap) {
    EXPECT_EQ(ipcheap_lock_acquire(heap, shared_by(heap) + LOCK, second), 0);
    raise(SIGKILL);
}

static void a_lock_tells_that_its_owner_died(void) {
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd);
    char *shared = shared_by(heap);
    EXPECT(waitpid(run_peer(fd, die_with_the_lock), &status, 0) > 0);
    EXPECT_EQ(ipcheap_lock_acquire(heap, shared + LOCK, 5 * second), IPCHEAP_OWNER_DIED);
    EXPECT_EQ(ipcheap_lock_acquire(heap, shared + LOCK, second / 100), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_lock_release(heap, shared + LOCK), 0);
    EXPECT_EQ(ipcheap_lock_release(heap, shared + LOCK), IPCHEAP_WRONG_THREAD);
    EXPECT_EQ(ipcheap_lock_acquire(heap, shared + LOCK, 0), 0);
    ipcheap_release(heap);
    close(fd);
}

static void a_broken_barrier_releases_everyone(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    char *barrier = shared_by(heap) + BARRIER;
    uint32_t generation, again;
    EXPECT_EQ(ipcheap_barrier_arrive(barrier, 2, &generation), 0);
    EXPECT_EQ(ipcheap_barrier_waiting(barrier), 1);
    EXPECT_EQ(ipcheap_barrier_wait(heap, barrier, generation, second / 100), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_barrier_abort(barrier), 0);
    EXPECT_EQ(ipcheap_barrier_wait(heap, barrier, generation, second), IPCHEAP_BROKEN);
    EXPECT_EQ(ipcheap_barrier_arrive(barrier, 2, &again), IPCHEAP_BROKEN);
    EXPECT_EQ(ipcheap_barrier_broken(barrier), 1);
    EXPECT_EQ(ipcheap_barrier_reset(barrier), 0);
    EXPECT_EQ(ipcheap_barrier_arrive(barrier, 2, &again), 0);
    EXPECT_EQ(ipcheap_barrier_arrive(barrier, 2, &again), 1);
    EXPECT_EQ(ipcheap_barrier_wait(heap, barrier, again, second), 0);
    ipcheap_release(heap);
    close(fd);
}

static void wait_for_the_word(ipcheap_heap *heap) {
    char *shared = shared_by(heap);
    for (uint64_t i = 0; i < 1000; i++)
        EXPECT_EQ(ipcheap_word_wait(heap, shared + COUNTER, i, 8, 20 * second), 0);
}

static void a_word_is_waited_for(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    _Atomic uint64_t *word = (_Atomic uint64_t *)(void *)(shared_by(heap) + COUNTER);
    pid_t pid = run_peer(fd, wait_for_the_word);
    for (int i = 0; i < 1000; i++) {
        atomic_fetch_add(word, 1);
        ipcheap_word_wake(word, 1);
        if (i % 100 == 0) usleep(1000);
    }
    expect_success(pid);
    EXPECT_EQ(ipcheap_word_wait(heap, word, 1000, 8, second / 100), IPCHEAP_TIMED_OUT);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    it_is_initialised_once_and_zero_to_begin_with();
    a_dead_initialiser_is_replaced();
    events_barriers_and_locks_hold_between_processes();
    a_lock_tells_that_its_owner_died();
    a_broken_barrier_releases_everyone();
    a_word_is_waited_for();
    return 0;
}
