/* Forks while other threads are inside the core: the child never waits for a lock of theirs. */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "testing.h"

enum { FORKS = 300, PATIENCE = 10 };

static atomic_bool over;
static char semaphore[32];

/* A heap whose waiters sleep on a named semaphore, which each attachment opens. */
static int segment_with_semaphore(void) {
    snprintf(semaphore, sizeof semaphore, "/ipcheap-test-%d", (int)getpid());
    EXPECT(sem_open(semaphore, O_CREAT | O_EXCL, 0600, 0) != SEM_FAILED);
    int fd = memfd_create("ipcheap-test", MFD_CLOEXEC);
    ipcheap_options options = {
        .capacity = MIB, .shm_kind = IPCHEAP_SHM_MEMFD, .sem_kind = IPCHEAP_SEM_POSIX};
    strcpy(options.sem_name, semaphore);
    EXPECT_EQ(ipcheap_format(fd, -1, &options), 0);
    return fd;
}

static void use(int fd) {
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_close(heap), 0);
    ipcheap_release(heap);
}

static void *work(void *context) {
    while (!atomic_load(&over)) use(*(const int *)context);
    return NULL;
}

static void fork_and_use(int fd) {
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        alarm(PATIENCE);
        use(fd);
        _exit(0);
    }
    int status;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

/* Also the very first attachments of the process, whose threads may be anywhere in them. */
static void a_child_attaches_whatever_other_threads_of_its_parent_do(int fd) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) EXPECT_EQ(pthread_create(&threads[i], NULL, work, &fd), 0);
    for (int i = 0; i < FORKS; i++) fork_and_use(fd);
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++) EXPECT_EQ(pthread_join(threads[i], NULL), 0);
}

static void a_fork_before_the_first_heap_counts(void) {
    uint32_t before = ipcheap_forks();
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) _exit(ipcheap_forks() == before + 1 ? 0 : 1);
    int status;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(ipcheap_forks(), before);
}

int main(void) {
    a_fork_before_the_first_heap_counts();
    int fd = segment_with_semaphore();
    a_child_attaches_whatever_other_threads_of_its_parent_do(fd);
    sem_unlink(semaphore);
    return 0;
}
