/* Static segments and the objects in them: once-only initialisation, events, barriers, locks. */

#include <stdatomic.h>

#include "base/fault.h"
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

/* Users ---------------------------------------------------------------------------------- */

static int count_users(ipcheap_heap *heap, const ipcheap_channel *channel) {
    uint32_t cursor = 0;
    int count = 0;
    ipcheap_holder holder;
    while (ipcheap_next_user(heap, channel, &cursor, &holder) == 1) {
        EXPECT(holder.alive);
        count++;
    }
    return count;
}

static ipcheap_channel ready_segment(ipcheap_heap *heap) {
    ipcheap_channel channel = static_segment(heap, 1, 4096, 1);
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 1), 0);
    return channel;
}

static int remove_it(ipcheap_heap *heap, int force) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    return ipcheap_remove_channel(heap, &key, force);
}

static uint64_t in_use(ipcheap_heap *heap) {
    ipcheap_statistics found;
    EXPECT_EQ(ipcheap_heap_statistics(heap, &found), 0);
    return found.in_use;
}

/* The remover's own use does not refuse the removal: the memory stays, as after force. */
static void a_process_is_one_user_until_its_last_use(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_channel channel = ready_segment(heap);
    void *data, *again;
    for (int i = 0; i < 1000; i++) {
        EXPECT_EQ(ipcheap_static_hold(other, &channel, &again), 0);
        if (i == 0) EXPECT_EQ(ipcheap_static_hold(other, &channel, &data), 0);
        EXPECT(again == data);
    }
    EXPECT_EQ(count_users(heap, &channel), 1);
    EXPECT_EQ(remove_it(heap, 0), 0);
    for (int i = 0; i < 1000; i++) {
        EXPECT_EQ(ipcheap_static_release(other, &channel), 0);
        EXPECT_EQ(count_users(heap, &channel), 1);
    }
    EXPECT_EQ(in_use(heap), 4096);
    EXPECT_EQ(ipcheap_static_release(other, &channel), 0);
    EXPECT_EQ(in_use(heap), 0);
    EXPECT_EQ(ipcheap_static_hold(other, &channel, &data), IPCHEAP_CHANNEL_NOT_FOUND);
    expect_sound(heap);
    ipcheap_release(other);
    ipcheap_release(heap);
    close(fd);
}

static void what_is_removed_by_force_keeps_its_memory_for_its_users(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_channel channel = ready_segment(heap);
    void *data;
    EXPECT_EQ(ipcheap_static_hold(other, &channel, &data), 0);
    EXPECT_EQ(ipcheap_static_removed(other, &channel), 0);
    ipcheap_close(other); /* its memory stays in use */
    EXPECT_EQ(remove_it(heap, 1), 0);
    EXPECT_EQ(ipcheap_static_removed(other, &channel), 1);
    EXPECT_EQ(remove_it(heap, 1), IPCHEAP_CHANNEL_NOT_FOUND);
    expect_sound(heap);
    ipcheap_record all[256];
    int count = 0;
    while (count < 256 && ipcheap_allocate(heap, 4096, &all[count]) == 0)
        memset(all[count++].data, 0, 4096);
    memset(data, 7, 4096);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < 4096; j++) EXPECT_EQ(((char *)all[i].data)[j], 0);
    for (int i = 0; i < count; i++) EXPECT_EQ(ipcheap_free(heap, &all[i]), 0);
    EXPECT_EQ(in_use(heap), 4096);
    ipcheap_channel next = ready_segment(heap); /* another one of that ID */
    EXPECT(ipcheap_static_data(heap, &next) != data);
    EXPECT_EQ(in_use(heap), 8192);
    EXPECT_EQ(ipcheap_static_release(other, &channel), 0);
    EXPECT_EQ(in_use(heap), 4096);
    EXPECT_EQ(remove_it(heap, 0), 0);
    EXPECT_EQ(in_use(heap), 0);
    expect_sound(heap);
    ipcheap_release(other);
    ipcheap_release(heap);
    close(fd);
}

static void hold_and_die(ipcheap_heap *heap) {
    ipcheap_channel channel = static_segment(heap, 1, 4096, 0);
    void *data;
    EXPECT_EQ(ipcheap_static_hold(heap, &channel, &data), 0);
    raise(SIGKILL);
}

/* More users than a descriptor names; the dead do not count. */
static void many_processes_use_a_segment(void) {
    enum { CROWD = 3 * 8 };
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd), *others[CROWD];
    ipcheap_channel channel = ready_segment(heap);
    void *data;
    for (int i = 0; i < CROWD; i++) {
        others[i] = attach(fd);
        EXPECT_EQ(ipcheap_static_hold(others[i], &channel, &data), 0);
        EXPECT_EQ(count_users(heap, &channel), i + 1);
    }
    EXPECT(waitpid(run_peer(fd, hold_and_die), &status, 0) > 0);
    EXPECT_EQ(count_users(heap, &channel), CROWD);
    expect_sound(heap);
    EXPECT_EQ(remove_it(heap, 1), 0);
    for (int i = 0; i < CROWD; i++) {
        EXPECT_EQ(in_use(heap), 4096);
        ipcheap_release(others[i]);
    }
    EXPECT_EQ(in_use(heap), 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void the_last_user_of_a_removed_segment_dies(void) {
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd);
    ready_segment(heap);
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        ipcheap_heap *mine = attach(fd);
        ipcheap_channel channel = static_segment(mine, 1, 4096, 0);
        void *data;
        EXPECT_EQ(ipcheap_static_hold(mine, &channel, &data), 0);
        EXPECT_EQ(write(ready[1], "x", 1), 1);
        pause();
    }
    char byte;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    EXPECT_EQ(remove_it(heap, 0), IPCHEAP_CHANNEL_BUSY);
    EXPECT_EQ(remove_it(heap, 1), 0);
    EXPECT_EQ(in_use(heap), 4096);
    kill(pid, SIGKILL);
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    expect_sound(heap);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(report.participants, 1); /* its thread: the process's keeper is none */
    EXPECT_EQ(in_use(heap), 0);
    expect_sound(heap);
    close(ready[0]);
    close(ready[1]);
    ipcheap_release(heap);
    close(fd);
}

/* A forked child that calls nothing of the library is a user, whatever its parent does. */
static void a_forked_child_is_a_user(void) {
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd), *mine = attach(fd);
    ipcheap_channel channel = ready_segment(heap);
    void *data;
    EXPECT_EQ(ipcheap_static_hold(mine, &channel, &data), 0);
    pid_t pids[10]; /* with the parent, more than a descriptor names */
    for (int i = 0; i < 10; i++) {
        pids[i] = fork();
        EXPECT(pids[i] >= 0);
        if (pids[i] == 0)
            for (;;) pause();
    }
    EXPECT_EQ(count_users(heap, &channel), 11);
    EXPECT_EQ(ipcheap_static_release(mine, &channel), 0);
    ipcheap_release(mine);
    EXPECT_EQ(remove_it(heap, 1), 0);
    for (int i = 0; i < 10; i++) {
        ipcheap_recovery report;
        EXPECT_EQ(ipcheap_recover(heap, &report), 0);
        EXPECT_EQ(report.participants, 0);
        EXPECT_EQ(in_use(heap), 4096);
        expect_sound(heap);
        kill(pids[i], SIGKILL);
        EXPECT_EQ(waitpid(pids[i], &status, 0), pids[i]);
    }
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(in_use(heap), 0);
    ipcheap_release(heap);
    close(fd);
}

#ifdef IPCHEAP_STEPS
static bool lacks_descriptors(int number, const char *file, int line) {
    (void)file;
    (void)line;
    return number == EMFILE;
}

/* A child that cannot be made a user is covered by what its parent uses, until it asks again. */
static void a_child_without_a_slot_is_covered_by_its_parent(void) {
    int fd = new_segment(4 * MIB), to_child[2], to_parent[2];
    EXPECT(pipe(to_child) == 0 && pipe(to_parent) == 0);
    ipcheap_heap *heap = attach(fd), *mine = attach(fd);
    ipcheap_channel channel = ready_segment(heap);
    void *data;
    char byte = 0;
    EXPECT_EQ(ipcheap_static_hold(mine, &channel, &data), 0);
    ipcheap_fault_hook = lacks_descriptors;
    pid_t pid = fork();
    EXPECT(pid >= 0);
    ipcheap_fault_hook = NULL;
    if (pid == 0) {
        EXPECT_EQ(read(to_child[0], &byte, 1), 1);
        EXPECT_EQ(ipcheap_static_hold(mine, &channel, &data), 0);
        EXPECT_EQ(count_users(mine, &channel), 1);
        EXPECT_EQ(ipcheap_static_release(mine, &channel), 0);
        ipcheap_channel more = static_segment(mine, 2, 64, 1);
        EXPECT_EQ(ipcheap_static_ready(mine, &more, 1), 0);
        EXPECT_EQ(ipcheap_static_hold(mine, &more, &data), 0);
        EXPECT_EQ(count_users(mine, &channel), 2);
        EXPECT_EQ(write(to_parent[1], &byte, 1), 1);
        EXPECT_EQ(read(to_child[0], &byte, 1), 1);
        EXPECT_EQ(ipcheap_static_release(mine, &channel), 0);
        EXPECT_EQ(ipcheap_static_release(mine, &more), 0);
        _exit(0);
    }
    EXPECT_EQ(ipcheap_static_release(mine, &channel), 0);
    EXPECT_EQ(count_users(heap, &channel), 1);
    EXPECT_EQ(write(to_child[1], &byte, 1), 1);
    EXPECT_EQ(read(to_parent[0], &byte, 1), 1);
    ipcheap_release(mine);
    EXPECT_EQ(count_users(heap, &channel), 1);
    EXPECT_EQ(remove_it(heap, 1), 0);
    EXPECT_EQ(in_use(heap), 4096 + 4096);
    EXPECT_EQ(write(to_child[1], &byte, 1), 1);
    expect_success(pid);
    EXPECT_EQ(in_use(heap), 4096);
    expect_sound(heap);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_parent[i]);
    }
    ipcheap_release(heap);
    close(fd);
}
#else
static void a_child_without_a_slot_is_covered_by_its_parent(void) {}
#endif

/* Ten thousand short uses take no slot for long. */
static void the_slots_of_users_are_used_again(void) {
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = ready_segment(heap);
    void *data;
    for (int i = 0; i < 10000; i++) {
        EXPECT_EQ(ipcheap_static_hold(heap, &channel, &data), 0);
        EXPECT_EQ(ipcheap_static_release(heap, &channel), 0);
    }
    for (int i = 0; i < 100; i++) EXPECT(waitpid(run_peer(fd, hold_and_die), &status, 0) > 0);
    EXPECT_EQ(ipcheap_static_hold(heap, &channel, &data), 0);
    EXPECT_EQ(count_users(heap, &channel), 1);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void an_initialiser_that_adds_its_own_segment_is_told(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = static_segment(heap, 1, 4096, 1);
    static_segment(heap, 1, 4096, IPCHEAP_CHANNEL_BUSY);
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 1), 0);
    static_segment(heap, 1, 4096, 0);
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
    a_process_is_one_user_until_its_last_use();
    what_is_removed_by_force_keeps_its_memory_for_its_users();
    many_processes_use_a_segment();
    the_last_user_of_a_removed_segment_dies();
    a_forked_child_is_a_user();
    a_child_without_a_slot_is_covered_by_its_parent();
    the_slots_of_users_are_used_again();
    an_initialiser_that_adds_its_own_segment_is_told();
    return 0;
}
