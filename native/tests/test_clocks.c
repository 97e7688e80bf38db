/* Waits depend on no clock that can be set: CLOCK_REALTIME jumps here, and none becomes longer. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>

#include "testing.h"

#include "base/fault.h"
#include "segment/lock.h"
#include "segment/membership.h"

#define SECOND_NS INT64_C(1000000000)

/*
 * In place of the C library's: a clock that can be set is an hour ahead. So a deadline on it is an
 * hour later than the kernel will think, as if the clock had been set back during the wait.
 */
int clock_gettime(clockid_t clock, struct timespec *now) {
    long error = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 3600;
    return (int)error;
}

static int64_t now_ns(void) {
    struct timespec now;
    EXPECT_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static ipcheap_heap *heap_of(uint32_t sem_kind, int sem_id) {
    int fd = memfd_create("ipcheap-test", MFD_CLOEXEC);
    ipcheap_options options = {
        .capacity = MIB, .shm_kind = IPCHEAP_SHM_MEMFD, .sem_kind = sem_kind, .sem_id = sem_id};
    EXPECT_EQ(ipcheap_format(fd, -1, &options), 0);
    ipcheap_heap *heap = attach(fd);
    close(fd);
    return heap;
}

static atomic_int holding;

static void *hold(void *context) {
    struct participant *me;
    EXPECT_EQ(participant_current(context, &me), 0);
    EXPECT_EQ(heap_lock(me), 0);
    atomic_store(&holding, 1);
    while (atomic_load(&holding)) usleep(1000);
    heap_unlock(me);
    return NULL;
}

static void a_wait_for_the_heap_lock_ends_in_time(uint32_t sem_kind, int sem_id) {
    ipcheap_heap *heap = heap_of(sem_kind, sem_id);
    struct participant *me;
    EXPECT_EQ(participant_current(heap, &me), 0);
    ipcheap_set_lock_timeout(heap, SECOND_NS / 4);
    pthread_t holder;
    EXPECT_EQ(pthread_create(&holder, NULL, hold, heap), 0);
    while (!atomic_load(&holding)) usleep(100);
    int64_t start = now_ns();
    EXPECT_EQ(heap_lock(me), IPCHEAP_HEAP_BUSY);
    int64_t took = now_ns() - start;
    EXPECT(took > SECOND_NS / 5);
    EXPECT(took < 20 * SECOND_NS);
    atomic_store(&holding, 0);
    EXPECT_EQ(pthread_join(holder, NULL), 0);
    ipcheap_release(heap);
}

static void a_wait_for_a_record_ends_in_time(void) {
    ipcheap_heap *heap = heap_of(IPCHEAP_SEM_FUTEX, 0);
    ipcheap_channel channel = record_channel(heap, 1, 4);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_waitable item = {.endpoint = consumer};
    int64_t start = now_ns();
    EXPECT_EQ(ipcheap_wait(consumer, SECOND_NS / 4), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_wait_any(&item, 1, SECOND_NS / 4), 0);
    EXPECT(now_ns() - start > SECOND_NS / 3);
    EXPECT(now_ns() - start < 20 * SECOND_NS);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
}

/* A listener without messages, writers without room, and a broadcast that is not released. */
static void waits_on_a_bus_end_in_time(void) {
    ipcheap_heap *heap = heap_of(IPCHEAP_SEM_FUTEX, 0);
    ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 2};
    ipcheap_key key;
    ipcheap_channel bus;
    ipcheap_endpoint *listener;
    ipcheap_record message;
    ipcheap_broadcast_report report;
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &bus), 0);
    EXPECT_EQ(ipcheap_listen(heap, &bus, NULL, &listener), 0);
    int64_t start = now_ns();
    EXPECT_EQ(ipcheap_receive(listener, &message, SECOND_NS / 8), IPCHEAP_TIMED_OUT);
    for (int i = 0; i < 2; i++) EXPECT_EQ(ipcheap_try_post(heap, &bus, "", 0, NULL), 0);
    EXPECT_EQ(ipcheap_post(heap, &bus, "", 0, SECOND_NS / 8, NULL), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, "", 0, SECOND_NS / 8, 0, &report),
              IPCHEAP_TIMED_OUT);
    EXPECT(now_ns() - start > SECOND_NS / 4);
    EXPECT(now_ns() - start < 20 * SECOND_NS);
    ipcheap_endpoint_release(listener);
    ipcheap_release(heap);
}

#ifdef IPCHEAP_STEPS
/* As on a system whose C library has no sem_clockwait(). */
static bool lacks_clockwait(int number, const char *file, int line) {
    (void)file;
    (void)line;
    return number == ENOSYS;
}
#endif

int main(void) {
    alarm(120);
    int semaphore = semget(IPC_PRIVATE, 1, 0600);
    EXPECT(semaphore >= 0);
    a_wait_for_the_heap_lock_ends_in_time(IPCHEAP_SEM_FUTEX, 0);
    a_wait_for_the_heap_lock_ends_in_time(IPCHEAP_SEM_POSIX, 0);
    a_wait_for_the_heap_lock_ends_in_time(IPCHEAP_SEM_SYSV, semaphore);
    semctl(semaphore, 0, IPC_RMID);
    a_wait_for_a_record_ends_in_time();
    waits_on_a_bus_end_in_time();
#ifdef IPCHEAP_STEPS
    ipcheap_fault_hook = lacks_clockwait;
    a_wait_for_the_heap_lock_ends_in_time(IPCHEAP_SEM_POSIX, 0);
#endif
    return 0;
}
