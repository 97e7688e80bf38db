#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"

#define SMALL_PAGE_BYTES ((uint64_t)4 << 10)

static struct timespec timespec_of(int64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

/* Time */

int64_t os_now(void) { return clock_ns(CLOCK_MONOTONIC); }

int64_t os_boot_clock(void) { return clock_ns(CLOCK_BOOTTIME); }

#define INITIAL_TIME_NAMESPACE 0xEFFFFFFAu /* the kernel's PROC_TIME_INIT_INO */

static uint64_t inode_of(const char *path) {
    struct stat status;
    return stat(path, &status) ? 0 : status.st_ino;
}

/*
 * Reads /proc/self/timens_offsets, which describes the time namespace of the process's children. It
 * is also the process's own unless that has called unshare(CLONE_NEWTIME): then the offset is
 * unknown.
 */
int64_t os_boot_clock_offset(void) {
    uint64_t own = inode_of("/proc/self/ns/time");
    if (own == 0 || own == INITIAL_TIME_NAMESPACE) return 0;
    if (own != inode_of("/proc/self/ns/time_for_children")) return 0;
    FILE *file = fopen("/proc/self/timens_offsets", "re");
    if (!file) return 0;
    char clock[16];
    long long seconds, ns;
    int64_t offset = 0;
    while (fscanf(file, "%15s %lld %lld", clock, &seconds, &ns) == 3)
        if (strcmp(clock, "boottime") == 0) offset = seconds * SECOND + ns;
    fclose(file);
    return offset;
}

uint64_t os_wall_clock(void) { return (uint64_t)clock_ns(CLOCK_REALTIME); }

void os_nap(int64_t ns) {
    struct timespec span = timespec_of(ns);
    nanosleep(&span, NULL);
}

int os_doze(int64_t ns) {
    struct timespec span = timespec_of(ns);
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    if (slack > 1) prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    int error = nanosleep(&span, NULL);
    if (slack > 1) prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
    return error ? IPCHEAP_INTERRUPTED : 0;
}

int64_t os_deadline(int64_t timeout_ns) {
    if (timeout_ns < 0) return INT64_MAX;
    if (timeout_ns == 0) return 0; /* long past: no clock has to be read */
    int64_t now = os_now();
    return timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
}

int64_t os_remaining(int64_t deadline) {
    if (deadline == INT64_MAX) return INT64_MAX;
    int64_t now = os_now();
    return deadline > now ? deadline - now : 0;
}

/* Private memory */

void *os_allocate_zeroed(size_t count, size_t bytes) {
    return FAULT(ENOMEM) ? NULL : calloc(count, bytes);
}

void *os_allocate_aligned(size_t alignment, size_t bytes) {
    return FAULT(ENOMEM) ? NULL : aligned_alloc(alignment, bytes);
}

void *os_reallocate(void *memory, size_t bytes) {
    return FAULT(ENOMEM) ? NULL : realloc(memory, bytes);
}

/* Thread exit and fork */

static int thread_error(int number) {
    if (number) errno = number;
    return number == 0 ? 0 : number == ENOMEM ? IPCHEAP_NO_MEMORY : IPCHEAP_SYSTEM;
}

int os_thread_key(pthread_key_t *key, void (*ended)(void *value)) {
    return thread_error(FAULT(EAGAIN) ? EAGAIN : pthread_key_create(key, ended));
}

int os_thread_keep(pthread_key_t key, const void *value) {
    return thread_error(FAULT(ENOMEM) ? ENOMEM : pthread_setspecific(key, value));
}

int os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    return thread_error(FAULT(ENOMEM) ? ENOMEM : pthread_atfork(before, in_parent, in_child));
}

static _Atomic uint64_t own_namespace; /* 0: not looked up, or not known */

/* Held in calls of the C library that take a lock which it does not release in a forked child. */
static pthread_mutex_t library_mutex = PTHREAD_MUTEX_INITIALIZER;

void os_before_fork(void) { pthread_mutex_lock(&library_mutex); }

void os_after_fork(void) {
    own_namespace = 0;
    pthread_mutex_unlock(&library_mutex);
}

/* This process and thread */

uint32_t os_process_id(void) { return (uint32_t)getpid(); }

uint32_t os_thread_id(void) { return (uint32_t)syscall(SYS_gettid); }

uint64_t os_process_namespace(void) {
    uint64_t known = own_namespace;
    if (!known) own_namespace = known = inode_of("/proc/self/ns/pid");
    return known;
}

/* A thread's own name is not the process's: Python names its threads from 3.14 on. */
void os_process_name(char name[16]) {
    memset(name, 0, 16);
    prctl(PR_GET_NAME, name, 0, 0, 0);
    name[15] = 0;
    if (os_process_id() == os_thread_id()) return;
    char line[17] = {0};
    if (!os_text_of("/proc/self/comm", line, sizeof line)) return;
    line[strlen(line) - 1] = 0; /* a newline */
    memcpy(name, line, 16);
}

bool os_text_of(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t got = read(fd, text, room - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    return text[0] != 0;
}

uint64_t os_random(void) {
    uint64_t value = 0;
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value)
        value = (uint64_t)os_now() * UINT64_C(0x9E3779B97F4A7C15) ^ os_process_id();
    return value ? value : 1;
}

uint32_t os_only_core(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) || CPU_COUNT(&set) != 1) return 0;
    uint32_t core = 0;
    while (!CPU_ISSET(core, &set)) core++;
    return core + 1;
}

/* The environment */

static int index_of_word(const char *words, const char *word) {
    size_t length = strlen(word);
    for (int index = 0; length; index++) {
        size_t here = strcspn(words, "|");
        if (here == length && memcmp(words, word, length) == 0) return index;
        if (!words[here]) return IPCHEAP_BAD_VALUE;
        words += here + 1;
    }
    return 0;
}

int os_choice(struct choice *choice) {
    int known = choice->known;
    if (!known) {
        const char *value = getenv(choice->name);
        int index = value ? index_of_word(choice->words, value) : 0;
        choice->known = known = index < 0 ? index : index + 1;
    }
    return known < 0 ? known : known - 1;
}

/* Sleeping on a shared word */

int os_futex_wait(const shared32 *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec span = timespec_of(timeout_ns);
    struct timespec *limit = timeout_ns == INT64_MAX ? NULL : &span;
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, limit, NULL, 0) == 0) return 0;
    if (errno == ETIMEDOUT) return IPCHEAP_TIMED_OUT;
    if (errno == EINTR) return IPCHEAP_INTERRUPTED;
    return 0; /* EAGAIN: the word had changed already */
}

int os_futex_wait_as(const shared32 *word, uint32_t expected, uint32_t as, int64_t timeout_ns) {
    struct timespec until = timespec_of(os_deadline(timeout_ns));
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, &until, NULL, as) == 0) return 0;
    if (errno == ETIMEDOUT) return IPCHEAP_TIMED_OUT;
    if (errno == EINTR) return IPCHEAP_INTERRUPTED;
    return 0; /* EAGAIN: the word had changed already */
}

int os_futex_wait_any(const struct awaited *words, size_t count, int64_t timeout_ns) {
    if (count == 1) return os_futex_wait(words->word, words->expected, timeout_ns);
    struct futex_waitv list[FUTEX_WORDS];
    for (size_t i = 0; i < count; i++)
        list[i] = (struct futex_waitv){
            .val = words[i].expected, .uaddr = (uintptr_t)words[i].word, .flags = FUTEX_32};
    struct timespec until = timespec_of(os_deadline(timeout_ns));
    if (!FAULT(ENOMEM) && syscall(SYS_futex_waitv, list, count, 0, &until, CLOCK_MONOTONIC) >= 0)
        return 0;
    if (errno == ETIMEDOUT) return IPCHEAP_TIMED_OUT;
    if (errno == EINTR) return IPCHEAP_INTERRUPTED;
    if (errno == EAGAIN) return 0; /* a word had changed already */
    /* An old kernel lacks this call, and a sandbox may refuse it. */
    int64_t moment = (int64_t)least((uint64_t)timeout_ns, MILLISECOND);
    return os_futex_wait(words->word, words->expected, moment);
}

int os_futex_wake(const shared32 *word, int count) {
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return woken < 0 ? 0 : (int)woken;
}

void os_futex_wake_as(const shared32 *word, uint32_t as) {
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT32_MAX, NULL, NULL, as);
}

bool os_membarrier_register(void) {
    return !FAULT(ENOMEM) &&
           syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool os_membarrier(void) {
    if (!FAULT(ENOMEM) && syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0)
        return true;
    full_fence();
    return false;
}

/* Other things that waiters can sleep on */

int os_semaphore_init(void *shared) { return sem_init(shared, 1, 0) ? IPCHEAP_SYSTEM : 0; }

size_t os_semaphore_bytes(void) { return sizeof(sem_t); }

int os_semaphore_open(const char *name, void **semaphore) {
    pthread_mutex_lock(&library_mutex);
    sem_t *opened = FAULT(EMFILE) ? SEM_FAILED : sem_open(name, 0);
    pthread_mutex_unlock(&library_mutex);
    if (opened == SEM_FAILED) return IPCHEAP_SYSTEM;
    *semaphore = opened;
    return 0;
}

void os_semaphore_close(void *semaphore) {
    pthread_mutex_lock(&library_mutex);
    sem_close(semaphore);
    pthread_mutex_unlock(&library_mutex);
}

/* Weak, because glibc before 2.30 and musl lack it. */
extern int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until)
    __attribute__((weak));

/* Waits without sem_timedwait(), whose clock may be set while a thread waits. */
static int semaphore_wait_by_looking(sem_t *semaphore, int64_t deadline) {
    while (sem_trywait(semaphore)) {
        if (errno != EAGAIN) return -1;
        if (os_remaining(deadline) == 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        os_nap(MILLISECOND);
    }
    return 0;
}

int os_semaphore_wait(void *semaphore, int64_t timeout_ns) {
    int64_t deadline = os_now() + timeout_ns;
    struct timespec until = timespec_of(deadline);
    int error = sem_clockwait && !FAULT(ENOSYS) ? sem_clockwait(semaphore, CLOCK_MONOTONIC, &until)
                                                : semaphore_wait_by_looking(semaphore, deadline);
    if (!error) return 0;
    if (errno == ETIMEDOUT) return IPCHEAP_TIMED_OUT;
    return errno == EINTR ? IPCHEAP_INTERRUPTED : IPCHEAP_SYSTEM;
}

int os_semaphore_post(void *semaphore) { return sem_post(semaphore) ? IPCHEAP_SYSTEM : 0; }

int os_sysv_wait(int id, int64_t timeout_ns) {
    struct sembuf down = {.sem_num = 0, .sem_op = -1, .sem_flg = 0};
    struct timespec span = timespec_of(timeout_ns);
    if (semtimedop(id, &down, 1, &span) == 0) return 0;
    if (errno == EAGAIN) return IPCHEAP_TIMED_OUT;
    return errno == EINTR ? IPCHEAP_INTERRUPTED : IPCHEAP_SYSTEM;
}

int os_sysv_post(int id) {
    struct sembuf up = {.sem_num = 0, .sem_op = 1, .sem_flg = IPC_NOWAIT};
    return semop(id, &up, 1) ? IPCHEAP_SYSTEM : 0;
}

/* What semctl() takes, as the manual wants it declared. */
union semctl_argument {
    int value;
    struct semid_ds *set;
};

int os_sysv_find(bool semaphore, bool by_key, int number, struct os_sysv *found) {
    struct shmid_ds segment;
    struct semid_ds set;
    int id = number;
    if (by_key) id = semaphore ? semget(number, 0, 0) : shmget(number, 0, 0);
    if (id < 0) return IPCHEAP_SYSTEM;
    if (semaphore) {
        if (semctl(id, 0, IPC_STAT, (union semctl_argument){.set = &set})) return IPCHEAP_SYSTEM;
    } else if (shmctl(id, IPC_STAT, &segment)) {
        return IPCHEAP_SYSTEM;
    }
    const struct ipc_perm *of = semaphore ? &set.sem_perm : &segment.shm_perm;
    *found = (struct os_sysv){.id = id, .key = of->__key, .uid = of->uid, .creator = of->cuid};
    found->gid = of->gid;
    found->mode = of->mode & 0777;
    found->bytes = semaphore ? set.sem_nsems : segment.shm_segsz;
    return 0;
}

int os_sysv_permit(bool semaphore, int id, uint32_t uid, uint32_t gid, uint32_t mode) {
    struct ipc_perm wanted = {.uid = uid, .gid = gid, .mode = (mode_t)mode};
    struct shmid_ds segment = {.shm_perm = wanted}; /* nothing else is taken from these two */
    struct semid_ds set = {.sem_perm = wanted};
    int error = semaphore ? semctl(id, 0, IPC_SET, (union semctl_argument){.set = &set})
                          : shmctl(id, IPC_SET, &segment);
    return error ? IPCHEAP_SYSTEM : 0;
}

/* The segment */

void os_close(int fd) {
    if (fd >= 0) close(fd);
}

bool os_opened_path(int fd, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, room);
    if (length <= 0 || (size_t)length >= room) return false;
    path[length] = 0;
    return true;
}

bool os_file_path(int fd, char *path, size_t room) {
    struct stat by_path, by_file;
    if (!os_opened_path(fd, path, room)) return false;
    if (fstat(fd, &by_file) || stat(path, &by_path)) return false;
    return by_path.st_dev == by_file.st_dev && by_path.st_ino == by_file.st_ino;
}

uint64_t os_file_inode(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : status.st_ino;
}

int64_t os_file_bytes(int fd) {
    struct stat status;
    return fstat(fd, &status) ? IPCHEAP_SYSTEM : (int64_t)status.st_size;
}

int os_file_resize(int fd, uint64_t bytes) {
    if (!FAULT(ENOSPC) && ftruncate(fd, (off_t)bytes) == 0) return 0;
    return errno == ENOSPC || errno == EFBIG ? IPCHEAP_MEMORY_FULL : IPCHEAP_SYSTEM;
}

void os_read_nothing_ahead(int fd) { posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); }

int os_file_read(int fd, uint64_t offset, void *data, size_t bytes) {
    ssize_t got = FAULT(ENOMEM) ? -1 : pread(fd, data, bytes, (off_t)offset);
    return got < 0 ? IPCHEAP_SYSTEM : (int)got;
}

int os_commit(int fd, uint64_t offset, uint64_t bytes) {
    while (FAULT(ENOSPC) || fallocate(fd, 0, (off_t)offset, (off_t)bytes) != 0) {
        if (errno == EINTR) continue;
        bool full = errno == ENOSPC || errno == ENOMEM || errno == EDQUOT || errno == EFBIG;
        return full ? IPCHEAP_MEMORY_FULL : IPCHEAP_SYSTEM;
    }
    return 0;
}

int os_punch(int fd, uint64_t offset, uint64_t bytes) {
    int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    bool failed = FAULT(ENOSPC) || fallocate(fd, how, (off_t)offset, (off_t)bytes);
    return failed ? IPCHEAP_SYSTEM : 0;
}

struct backing os_backing(int fd) {
    struct statfs status;
    if (fstatfs(fd, &status)) return (struct backing){SMALL_PAGE_BYTES, true};
    bool large = status.f_type == HUGETLBFS_MAGIC;
    return (struct backing){
        .unit = large ? (uint64_t)status.f_bsize : SMALL_PAGE_BYTES,
        .touch = !large && status.f_type != TMPFS_MAGIC,
    };
}

void os_overwrite_in_place(int fd) {
    struct statfs status;
    int flags = 0;
    if (fstatfs(fd, &status) || status.f_type != BTRFS_SUPER_MAGIC) return;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags)) return;
    flags |= FS_NOCOW_FL;
    ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

/*
 * Lets the kernel or a zero into the first word of each page: it returns EFAULT where a store of
 * our own would raise SIGBUS. MADV_POPULATE_WRITE does the same, but is as new as Linux 5.14.
 *
 * Nothing is read ahead from a heap's file: that puts several pages into one folio of the page
 * cache, holes too, and a store to one of them then needs room on the disk for all.
 */
int os_touch(unsigned char *start, uint64_t bytes) {
    uint32_t or_zero = FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0);
    for (unsigned char *page = start; page < start + bytes; page += SMALL_PAGE_BYTES) {
        if (!FAULT(ENOSPC) &&
            syscall(SYS_futex, page, FUTEX_WAKE_OP_PRIVATE, 0, NULL, page, or_zero) >= 0)
            continue;
        return errno == EFAULT || errno == ENOSPC ? IPCHEAP_MEMORY_FULL : IPCHEAP_SYSTEM;
    }
    return 0;
}

/* Returns a place for so many bytes at a multiple of LARGE_PAGE_BYTES; NULL: let mmap() choose. */
static void *aligned_place(uint64_t bytes) {
    if (bytes < LARGE_PAGE_BYTES || FAULT(ENOMEM)) return NULL;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    unsigned char *room = mmap(NULL, bytes + LARGE_PAGE_BYTES, PROT_NONE, flags, -1, 0);
    if (room == MAP_FAILED) return NULL;
    munmap(room, bytes + LARGE_PAGE_BYTES);
    return room + (-(uintptr_t)room & (LARGE_PAGE_BYTES - 1));
}

bool os_mappings_are_locked(void) {
    unsigned char resident = 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *page = mmap(NULL, SMALL_PAGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED) return errno == EAGAIN; /* the limit of locked memory is reached */
    mincore(page, SMALL_PAGE_BYTES, &resident);
    munmap(page, SMALL_PAGE_BYTES);
    return resident & 1;
}

/* True if a mapping whose pages have not been touched is locked. */
static bool is_locked(void *start) {
    /* Changes nothing in a mapping without pages. The kernel refuses it in one that is locked. */
    return madvise(start, SMALL_PAGE_BYTES, MADV_DONTNEED) && os_mappings_are_locked();
}

/*
 * Maps one page that is not locked, and lets the mapping grow. What it grows by does not count
 * towards the limit of locked memory.
 */
static void *map_unlocked(int fd, uint64_t bytes) {
    int flags = MAP_SHARED | MAP_NORESERVE;
    void *page = mmap(NULL, SMALL_PAGE_BYTES, PROT_NONE, flags, fd, 0);
    if (page == MAP_FAILED) return page;
    munlock(page, SMALL_PAGE_BYTES);
    void *all = mremap(page, SMALL_PAGE_BYTES, bytes, MREMAP_MAYMOVE);
    if (all == MAP_FAILED) munmap(page, SMALL_PAGE_BYTES);
    return all;
}

struct choice coredump_choice = {.name = "IPCHEAP_COREDUMP", .words = "exclude|include"};

static void leave_out_of_core_dumps(void *start, uint64_t bytes) {
    if (os_choice(&coredump_choice) <= 0) madvise(start, bytes, MADV_DONTDUMP);
}

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13, for files 6.15 */
#endif

/* mlockall() populates each mapping until a page cannot be, and ignores the error. */
void os_stop_populating(unsigned char *gap) { madvise(gap, SMALL_PAGE_BYTES, MADV_GUARD_INSTALL); }

/* These change what happens to new mappings of the process, and nothing else. */

bool os_pause_populating(void) {
    return os_mappings_are_locked() && mlockall(MCL_FUTURE | MCL_ONFAULT) == 0;
}

int os_pin(void *start, size_t bytes) {
    if (FAULT(ENOMEM)) return IPCHEAP_SYSTEM;
    return mlock(start, bytes) ? IPCHEAP_SYSTEM : 0;
}

void os_unpin(void *start, size_t bytes) { munlock(start, bytes); }

void os_resume_populating(void) { mlockall(MCL_FUTURE); }

/* True if this process may lock so much memory; CAP_IPC_LOCK is above the limit. */
static bool may_lock(uint64_t bytes) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur >= bytes) return true;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    return syscall(SYS_capget, &header, data) == 0 && data[0].effective >> CAP_IPC_LOCK & 1;
}

void os_lock_lazily(unsigned char *base, uint64_t bytes, uint64_t gap, bool locks) {
    if (locks) munlock(base, bytes); /* a locked mapping takes no guard */
    if (locks || may_lock(bytes)) os_stop_populating(base + gap);
    if (locks) mlock2(base, bytes, MLOCK_ONFAULT);
}

/* Without access, a mapping is not populated. */
int os_map(int fd, uint64_t bytes, unsigned char **base) {
    int flags = MAP_SHARED | MAP_NORESERVE;
    /* Only a hint: another thread may have taken the place, and some files align themselves. */
    void *place = aligned_place(bytes), *address = MAP_FAILED;
    if (!FAULT(ENOMEM)) address = mmap(place, bytes, PROT_NONE, flags, fd, 0);
    bool locks = address == MAP_FAILED && errno == EAGAIN; /* and may lock no more */
    if (locks) address = map_unlocked(fd, bytes);
    if (address == MAP_FAILED) return errno == ENOMEM ? IPCHEAP_NO_MEMORY : IPCHEAP_SYSTEM;
    if (!locks && is_locked(address)) {
        locks = true;
        munlock(address, bytes);
    }
    leave_out_of_core_dumps(address, bytes);
    if (os_backing(fd).touch) madvise(address, bytes, MADV_RANDOM); /* see os_touch() */
    if (FAULT(ENOMEM) || mprotect(address, bytes, PROT_READ | PROT_WRITE)) {
        munmap(address, bytes);
        return errno == ENOMEM ? IPCHEAP_NO_MEMORY : IPCHEAP_SYSTEM;
    }
    *base = address;
    return locks;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

bool os_make_large(unsigned char *start) {
    return !FAULT(ENOMEM) && madvise(start, LARGE_PAGE_BYTES, MADV_COLLAPSE) == 0;
}

bool os_mapping_path(const unsigned char *base, char path[64]) {
    static const char folder[] = "/proc/self/map_files";
    DIR *all = FAULT(EMFILE) ? NULL : opendir(folder);
    if (!all) return false;
    const struct dirent *entry;
    while ((entry = readdir(all)))
        if (strtoull(entry->d_name, NULL, 16) == (uintptr_t)base) break;
    if (entry) snprintf(path, 64, "%s/%.40s", folder, entry->d_name);
    closedir(all);
    return entry != NULL;
}

int os_map_sysv(int shmid, bool read_only, unsigned char **base) {
    bool paused = os_pause_populating(); /* shmat() gives access immediately */
    void *address = FAULT(ENOMEM) ? (void *)-1 : shmat(shmid, NULL, read_only ? SHM_RDONLY : 0);
    int number = errno;
    if (paused) os_resume_populating();
    errno = number;
    if ((intptr_t)address == -1) return errno == ENOMEM ? IPCHEAP_NO_MEMORY : IPCHEAP_SYSTEM;
    int64_t bytes = os_sysv_bytes(shmid);
    if (bytes > 0) leave_out_of_core_dumps(address, round_up((uint64_t)bytes, SMALL_PAGE_BYTES));
    *base = address;
    return 0;
}

int64_t os_sysv_bytes(int shmid) {
    struct shmid_ds status;
    return shmctl(shmid, IPC_STAT, &status) ? IPCHEAP_SYSTEM : (int64_t)status.shm_segsz;
}

void os_unmap(unsigned char *base, uint64_t bytes) { munmap(base, bytes); }

void os_unmap_sysv(unsigned char *base) { shmdt(base); }

void os_forget(unsigned char *start, uint64_t bytes) {
    if (madvise(start, bytes, MADV_REMOVE) == 0 || errno != EINVAL) return;
    munlock(start, bytes); /* what is locked cannot be removed */
    if (madvise(start, bytes, MADV_REMOVE) == 0) mlock2(start, bytes, MLOCK_ONFAULT);
}

/* Liveness */

struct hold os_hold(int fd, uint64_t unit) {
    size_t bytes = (size_t)unit; /* a file of large pages is mapped in multiples of these */
    struct hold none = {0};
    void *start = MAP_FAILED;
    if (!FAULT(ENOMEM)) start = mmap(NULL, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (start == MAP_FAILED) return none;
    leave_out_of_core_dumps(start, bytes);
    /* A child that inherited the mapping would keep its dead parent alive. */
    if (FAULT(ENOMEM) || madvise(start, bytes, MADV_DONTFORK)) {
        munmap(start, bytes);
        return none;
    }
    return (struct hold){start, bytes};
}

void os_let_go(struct hold *hold) {
    if (hold->start) munmap(hold->start, hold->bytes);
    *hold = (struct hold){0};
}

static int byte_operation(int fd, int operation, short type, uint64_t byte, struct flock *lock) {
    *lock = (struct flock){
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
    return fcntl(fd, operation, lock);
}

int os_byte_lock(int fd, uint64_t byte) {
    struct flock lock;
    if (!FAULT(ENOLCK) && byte_operation(fd, F_OFD_SETLK, F_WRLCK, byte, &lock) == 0) return 0;
    return errno == EAGAIN || errno == EACCES ? IPCHEAP_WOULD_BLOCK : IPCHEAP_SYSTEM;
}

int os_byte_share(int fd, uint64_t byte) {
    struct flock lock;
    if (!FAULT(ENOLCK) && byte_operation(fd, F_OFD_SETLK, F_RDLCK, byte, &lock) == 0) return 0;
    return errno == EAGAIN || errno == EACCES ? IPCHEAP_WOULD_BLOCK : IPCHEAP_SYSTEM;
}

int os_byte_unlock(int fd, uint64_t byte) {
    struct flock lock;
    bool failed = FAULT(ENOLCK) || byte_operation(fd, F_OFD_SETLK, F_UNLCK, byte, &lock);
    return failed ? IPCHEAP_SYSTEM : 0;
}

int os_byte_locked(int fd, uint64_t byte) { return os_bytes_locked(fd, byte, 1); }

int os_bytes_locked(int fd, uint64_t byte, uint64_t count) {
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = (off_t)count};
    if (FAULT(ENOLCK) || fcntl(fd, F_OFD_GETLK, &lock)) return IPCHEAP_SYSTEM;
    return lock.l_type != F_UNLCK;
}
