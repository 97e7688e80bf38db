/*
 * fault_heaps.c - calls fail where there is no survivor: a process that has never had a heap makes
 * one, uses all of it, and leaves it empty. Only test_faults runs these.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "crash.h"
#include "segment/lock.h"
#include "segment/membership.h"

/* A heap that comes and goes ---------------------------------------------------------------- */

/* What could not be formatted is no heap. */
static int format(int fd, int shmid, const ipcheap_options *options) {
    int error = ipcheap_format(fd, shmid, options), number = errno;
    if (error) EXPECT(ipcheap_formatted(fd, shmid) <= 0);
    errno = number;
    return error;
}

static void begin(struct world *w, int fd, int shmid, ipcheap_options options) {
    EXPECT_EQ(CALL(format(fd, shmid, &options)), 0);
    EXPECT_EQ(CALL(ipcheap_formatted(fd, shmid)), 1);
    EXPECT_EQ(CALL(ipcheap_attach(fd, shmid, &w->heap)), 0);
}

static void use_static(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_static_segment(w->heap, &key, 5000, &channel)), 1);
    EXPECT_EQ(CALL(ipcheap_static_ready(w->heap, &channel, 1)), 0);
    shared32 *words = ipcheap_static_data(w->heap, &channel);
    ipcheap_waitable cells[] = {{.word = words, .width = 4}, {.word = words + 1, .width = 4}};
    EXPECT_EQ(CALL(ipcheap_wait_any(cells, 2, 1000000)), 0);
    remove_id(w, X, 0);
}

/* Through a channel of one's own, whose consumer is polled. */
static void use_channel(struct world *w) {
    ipcheap_channel channel = add_channel(w, A, SLOTS);
    ipcheap_endpoint *out = claim_side(w, &channel, IPCHEAP_PRODUCER);
    ipcheap_endpoint *in = claim_side(w, &channel, IPCHEAP_CONSUMER);
    EXPECT(CALL(ipcheap_endpoint_descriptor(in)) >= 0);
    for (uint64_t i = 0; i < SLOTS; i++) {
        ipcheap_record record = make(w, i % 2 ? 100 : 30000, i);
        EXPECT_EQ(CALL(ipcheap_try_send(out, &record)), 0);
    }
    for (uint64_t i = 0; i < SLOTS; i++) {
        ipcheap_record record;
        EXPECT_EQ(CALL(ipcheap_try_receive(in, &record)), 0);
        expect_filled(&record, i);
        give_back(w, &record);
    }
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    remove_id(w, A, 0);
}

static void end(struct world *w) {
    EXPECT(CALL(ipcheap_trim(w->heap, 0)) >= 0);
    ipcheap_release(w->heap);
    w->heap = NULL;
}

/* Without faults: nothing is left in it but what the directory needs. */
static void expect_empty(int fd, int shmid) {
    ipcheap_heap *heap = NULL;
    EXPECT_EQ(ipcheap_attach(fd, shmid, &heap), 0);
    expect_sound(heap);
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    ipcheap_statistics left = statistics(heap);
    EXPECT_EQ(left.committed, 0);
    EXPECT_EQ(left.largest_free, heap->geometry.capacity);
    EXPECT_EQ(left.in_use, 0);
    EXPECT_EQ(left.records + left.extents + left.slabs + left.channels, 0);
    EXPECT_EQ(left.participants, 1);
    EXPECT_EQ(left.recoveries, 0);
    ipcheap_release(heap);
}

static void use(struct world *w, int fd, int shmid, ipcheap_options options) {
    w->fd = fd;
    w->shmid = shmid;
    begin(w, fd, shmid, options);
    use_static(w);
    use_channel(w);
    end(w);
}

static uint64_t empty(struct world *w) {
    expect_empty(w->fd, w->shmid);
    close(w->fd);
    return 0;
}

/* Kinds of heaps ---------------------------------------------------------------------------- */

static int new_file(void) {
    int fd = memfd_create("ipcheap-test", MFD_CLOEXEC);
    EXPECT(fd >= 0);
    return fd;
}

static void heap_in_memory(struct world *w) {
    ipcheap_options options = {.capacity = MIB, .shm_kind = IPCHEAP_SHM_MEMFD};
    use(w, new_file(), -1, options);
}

/* Pipes lie beside the file. */
static char directory[64];

static void heap_in_a_file(struct world *w) {
    char path[80];
    strcpy(directory, "/tmp/ipcheap-faults-XXXXXX");
    EXPECT(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/heap", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    ipcheap_options options = {.capacity = MIB, .shm_kind = IPCHEAP_SHM_FILE};
    use(w, fd, -1, options);
}

static uint64_t only_the_file(struct world *w) {
    char path[80];
    snprintf(path, sizeof path, "%s/heap", directory);
    empty(w);
    EXPECT_EQ(unlink(path), 0);
    EXPECT_EQ(rmdir(directory), 0); /* nothing else was in it */
    return 0;
}

static char semaphore[40];

static void heap_with_a_semaphore(struct world *w) {
    ipcheap_options options = {.capacity = MIB, .sem_kind = IPCHEAP_SEM_POSIX};
    snprintf(semaphore, sizeof semaphore, "/ipcheap-faults-%d", (int)getpid());
    memcpy(options.sem_name, semaphore, sizeof semaphore);
    sem_t *made = sem_open(semaphore, O_CREAT | O_EXCL, 0600, 0);
    EXPECT(made != SEM_FAILED);
    sem_close(made);
    use(w, new_file(), -1, options);
}

static uint64_t empty_and_unlinked(struct world *w) {
    empty(w);
    return (uint64_t)sem_unlink(semaphore);
}

static void *mapped;

static void heap_of_system_v(struct world *w) {
    ipcheap_options options = {.capacity = MIB, .shm_kind = IPCHEAP_SHM_SYSV};
    int shmid = shmget(IPC_PRIVATE, ipcheap_segment_bytes(MIB), IPC_CREAT | 0600);
    EXPECT(shmid >= 0);
    mapped = shmat(shmid, NULL, 0); /* it stays as long as somebody has it mapped */
    EXPECT(mapped != (void *)-1);
    EXPECT_EQ(shmctl(shmid, IPC_RMID, NULL), 0);
    use(w, new_file(), shmid, options);
}

static uint64_t empty_and_unmapped(struct world *w) {
    empty(w);
    return (uint64_t)shmdt(mapped);
}

/* What takes a heap of some size ------------------------------------------------------------ */

static void large_records(struct world *w) {
    w->fd = new_file();
    w->shmid = -1;
    begin(w, w->fd, -1, (ipcheap_options){.capacity = 256 * MIB});
    for (int round = 0; round < 2; round++) {
        w->mine[0] = make(w, 4 * MIB, 0);
        w->mine[1] = make(w, 5 * MIB + 1, 1);
        give_back(w, &w->mine[0]);
        give_back(w, &w->mine[1]);
        EXPECT(CALL(ipcheap_trim(w->heap, MIB)) >= 0);
    }
    end(w);
}

/* Threads: one comes and goes, and leaves what it could not free; one keeps the lock. */
static void *come_and_go(void *world) {
    struct world *w = world;
    w->mine[0] = make(w, 100, 0);
    w->mine[1] = make(w, 30000, 1);
    give_back(w, &w->mine[0]);
    return NULL;
}

static pthread_barrier_t locked;

static void *keep_the_lock(void *world) {
    struct world *w = world;
    struct participant *me;
    EXPECT_EQ(CALL(participant_current(w->heap, &me)), 0);
    EXPECT_EQ(heap_lock(me), 0);
    pthread_barrier_wait(&locked);
    pthread_barrier_wait(&locked);
    heap_unlock(me);
    return NULL;
}

static void run_thread(pthread_t *thread, void *(*body)(void *), struct world *w) {
    EXPECT_EQ(pthread_create(thread, NULL, body, w), 0);
}

static void threads(struct world *w) {
    pthread_t thread;
    w->fd = new_file();
    w->shmid = -1;
    begin(w, w->fd, -1, (ipcheap_options){.capacity = MIB});
    for (int i = 0; i < 3; i++) {
        run_thread(&thread, come_and_go, w);
        EXPECT_EQ(pthread_join(thread, NULL), 0);
        expect_filled(&w->mine[1], 1);
        give_back(w, &w->mine[1]);
    }
    /* The next one to join retires the last of them. */
    ipcheap_statistics now;
    EXPECT_EQ(CALL(ipcheap_heap_statistics(w->heap, &now)), 0);
    EXPECT(now.participants <= 2);
    end(w);
}

/* The heap lock cannot be had: what is freed then is freed later, and its page is remembered. */
static void free_later(struct world *w) {
    pthread_t thread;
    w->fd = new_file();
    w->shmid = -1;
    begin(w, w->fd, -1, (ipcheap_options){.capacity = MIB});
    for (uint64_t i = 0; i < 6; i++) w->mine[i] = make(w, 30000, i);
    EXPECT_EQ(pthread_barrier_init(&locked, NULL, 2), 0);
    run_thread(&thread, keep_the_lock, w);
    pthread_barrier_wait(&locked);
    ipcheap_set_lock_timeout(w->heap, 1000);
    for (int i = 0; i < 6; i++) give_back(w, &w->mine[i]);
    ipcheap_set_lock_timeout(w->heap, 10000000000);
    pthread_barrier_wait(&locked);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    end(w);
}

const struct scenario own_heap_scenarios[] = {
    {"heap in memory", .act = heap_in_memory, .verify = empty},
    {"heap in a file", .act = heap_in_a_file, .verify = only_the_file},
    {"heap with a semaphore", .act = heap_with_a_semaphore, .verify = empty_and_unlinked},
    {"heap of System V", .act = heap_of_system_v, .verify = empty_and_unmapped},
    {"large records", .act = large_records, .verify = empty},
    {"threads", .act = threads, .verify = empty},
    {"free later", .act = free_later, .verify = empty},
    {0},
};
