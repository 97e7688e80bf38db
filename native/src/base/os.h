/*
 * os.h - layer base: the only door to the operating system.
 *
 * Functions return 0 or a value on success, otherwise a negative ipcheap_error. Calls that can
 * fail because something has run out ask base/fault.h first, so that a test can make them fail.
 * Any thread may call them.
 */
#ifndef IPCHEAP_BASE_OS_H
#define IPCHEAP_BASE_OS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/shared.h"
#include "ipcheap/errors.h"

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)

/* Time --------------------------------------------------------------------------- */
int64_t os_now(void);         /* monotonic, ns */
uint64_t os_wall_clock(void); /* since the epoch, ns */
int64_t os_boot_clock(void);  /* since boot, suspended time included, ns */
/* How far os_boot_clock() is ahead of that of the initial time namespace, ns; 0 if unknown. */
int64_t os_boot_clock_offset(void);
void os_nap(int64_t ns);
int os_doze(int64_t ns);                 /* the same, exact to the microsecond; INTERRUPTED */
int64_t os_deadline(int64_t timeout_ns); /* INT64_MAX for a negative timeout; 0 for 0 */
int64_t os_remaining(int64_t deadline);  /* 0 when past; INT64_MAX: never */

/* Private memory: NULL if there is none left; free() returns it ----------------------- */
void *os_allocate_zeroed(size_t count, size_t bytes);
void *os_allocate_aligned(size_t alignment, size_t bytes);
void *os_reallocate(void *memory, size_t bytes);

/* Thread exit and fork ----------------------------------------------------------------- */
/* `ended` runs when a thread ends that keeps a value other than NULL under the key. */
int os_thread_key(pthread_key_t *key, void (*ended)(void *value));
int os_thread_keep(pthread_key_t key, const void *value);
int os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));
/*
 * For these handlers: between the two no thread is in a call that would leave a lock in a child. A
 * child calls the second one first: it forgets what was remembered of its parent.
 */
void os_before_fork(void);
void os_after_fork(void);

/* This process and thread --------------------------------------------------------------------- */
uint32_t os_process_id(void);
uint32_t os_thread_id(void);
/* The PID namespace of that id; 0: unknown. Remembered, because a process never changes its own. */
uint64_t os_process_namespace(void);
void os_process_name(char name[16]);
/* Reads the beginning of a file, as text; returns false if there is none. */
bool os_text_of(const char *path, char *text, size_t room);
uint64_t os_random(void);
uint32_t os_only_core(void); /* 1 + the only core this thread may run on; 0: several */

/* The environment ---------------------------------------------------------------- */
/* A variable that pins what is otherwise learnt by trying. */
struct choice {
    const char *name;
    const char *words; /* "the default|another|..." */
    _Atomic int known; /* 0: not read yet */
};
/*
 * Returns the index of the word that the variable has, 0 if it is unset or empty, and BAD_VALUE for
 * anything else. The variable is read once; later changes of the environment have no effect.
 */
int os_choice(struct choice *choice);

/* Sleeping on a shared word -------------------------------------------------------- */
int os_futex_wait(const shared32 *word, uint32_t expected, int64_t timeout_ns);
int os_futex_wake(const shared32 *word, int count);
/* Sleeps as some bits, and wakes all that sleep as one of them; os_futex_wake() wakes anybody. */
int os_futex_wait_as(const shared32 *word, uint32_t expected, uint32_t as, int64_t timeout_ns);
void os_futex_wake_as(const shared32 *word, uint32_t as);
#define FUTEX_WORDS 128
struct awaited {
    const shared32 *word;
    uint32_t expected;
};
/*
 * Sleeps on any of at most FUTEX_WORDS words. If the kernel cannot do that, sleeps on the first
 * word for at most a millisecond.
 */
int os_futex_wait_any(const struct awaited *words, size_t count, int64_t timeout_ns);
bool os_membarrier_register(void);
/*
 * Orders this thread's earlier stores before its later loads, and the same in every thread of the
 * registered processes. Returns false if the kernel refuses.
 */
bool os_membarrier(void);
static inline void os_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Other things that waiters can sleep on --------------------------------------------- */
int os_semaphore_init(
    void *shared); /* in shared memory, unnamed; also what a named one's file has */
size_t os_semaphore_bytes(void);
int os_semaphore_open(const char *name, void **semaphore);
void os_semaphore_close(void *semaphore);
int os_semaphore_wait(void *semaphore, int64_t timeout_ns);
int os_semaphore_post(void *semaphore);
int os_sysv_wait(int id, int64_t timeout_ns);
int os_sysv_post(int id);

/* A System V object; `key` is of the process's IPC namespace, the user IDs of its user namespace. */
struct os_sysv {
    int id, key;
    uint32_t uid, gid, creator, mode;
    uint64_t bytes; /* of a segment; of a semaphore set: how many it has */
};
/* Looks for a segment or a semaphore set, by its key or by its id, and attaches to nothing. */
int os_sysv_find(bool semaphore, bool by_key, int number, struct os_sysv *found);
/* Gives a segment or a semaphore set that owner, group and mode: for its owner, creator and root. */
int os_sysv_permit(bool semaphore, int id, uint32_t uid, uint32_t gid, uint32_t mode);

/* The segment ------------------------------------------------------------------------ */
void os_close(int fd);
/* Gets the path that a file was opened by, which may not lead to it any more; false without /proc. */
bool os_opened_path(int fd, char *path, size_t room);
/* Gets the path of a file; false if it has none any more, or if /proc is not mounted. */
bool os_file_path(int fd, char *path, size_t room);
uint64_t os_file_inode(int fd); /* 0 if that cannot be known */
int64_t os_file_bytes(int fd);
int os_file_resize(int fd, uint64_t bytes);
/* Makes later reads through this description read nothing ahead: os_touch() says why. */
void os_read_nothing_ahead(int fd);
int os_file_read(int fd, uint64_t offset, void *data, size_t bytes);
/* How the file system of a file gives memory. */
struct backing {
    uint64_t unit; /* bytes that have memory together: a page, or a large one on hugetlbfs */
    bool touch;    /* os_commit() does not suffice: each page is to be touched once, too */
};
struct backing os_backing(int fd);
/*
 * Reserves memory for a range of a file: MEMORY_FULL if there is none. SYSTEM with EOPNOTSUPP if
 * the file system cannot do that.
 */
int os_commit(int fd, uint64_t offset, uint64_t bytes);
int os_punch(int fd, uint64_t offset, uint64_t bytes);
/* Makes a new, empty file one that is overwritten in place, where that is not a matter of course. */
void os_overwrite_in_place(int fd);
/*
 * Makes each page of a mapping writable without changing it; MEMORY_FULL if its file system has no
 * room for one of them. A store would raise SIGBUS then.
 */
int os_touch(unsigned char *start, uint64_t bytes);
/*
 * Maps at a multiple of LARGE_PAGE_BYTES if possible, so that large pages can be mapped whole. A
 * mapping takes no memory that the file does not have yet, even if the process locks all its
 * memory, and is left out of core dumps unless coredump_choice says otherwise. Returns 1 if the
 * process locks its new mappings, which this one is not, and 0 if it does not.
 */
int os_map(int fd, uint64_t bytes, unsigned char **base);
/* Keeps whole pages in memory: 0 or SYSTEM, if the limit for locked memory forbids it. */
int os_pin(void *start, size_t bytes);
void os_unpin(void *start, size_t bytes);
/* True if new mappings of this process are locked, and so populated: mlockall(MCL_FUTURE). */
bool os_mappings_are_locked(void);
/*
 * Makes a process that locks its memory, now if `locks` or later, lock the pages of a mapping that it
 * touches, instead of populating the mapping. `gap` is the offset of a page that nobody ever touches.
 */
void os_lock_lazily(unsigned char *base, uint64_t bytes, uint64_t gap, bool locks);
/*
 * Makes a later mlockall() of this process populate a mapping up to that page only. Linux 6.15;
 * without effect before. Forks of this process then copy the page tables of the mapping.
 */
void os_stop_populating(unsigned char *gap);
/*
 * Makes a process that locks its memory lock the pages of new mappings that it touches, instead of
 * populating them; false if it does not populate them anyway. os_resume_populating() ends that.
 */
bool os_pause_populating(void);
void os_resume_populating(void);
extern struct choice coredump_choice; /* IPCHEAP_COREDUMP: exclude or include */
/* Gets a path by which a privileged process can open the file that is mapped there. */
bool os_mapping_path(const unsigned char *base, char path[64]);
int os_map_sysv(int shmid, bool read_only, unsigned char **base);
int64_t os_sysv_bytes(int shmid);
void os_unmap(unsigned char *base, uint64_t bytes);
void os_unmap_sysv(unsigned char *base);
/*
 * Turns what is mapped at a multiple of LARGE_PAGE_BYTES into one large page: its small pages, of
 * which at least one must exist, and zeroes for the rest. Returns false if the kernel does not.
 */
#define LARGE_PAGE_BYTES ((uint64_t)2 << 20)
bool os_make_large(unsigned char *start);
/* Returns the pages of a private or System V range to the system if the kernel can do that. */
void os_forget(unsigned char *start, uint64_t bytes);

/* Liveness: one byte of the file, locked as long as the open file description exists. */
/*
 * A mapping that keeps an open file description when its descriptors are closed, and that no forked
 * child inherits. Some file systems (overlayfs) map another file instead.
 */
struct hold {
    void *start; /* NULL: none */
    size_t bytes;
};
struct hold os_hold(int fd, uint64_t unit); /* of the file's memory: struct backing */
void os_let_go(struct hold *hold);
int os_byte_share(int fd, uint64_t byte); /* several may; WOULD_BLOCK if another has locked it */
int os_byte_lock(int fd, uint64_t byte);  /* WOULD_BLOCK if another description has it */
int os_byte_unlock(int fd, uint64_t byte);
int os_byte_locked(int fd, uint64_t byte);                  /* 1 if another description has it */
int os_bytes_locked(int fd, uint64_t byte, uint64_t count); /* 1 if another one has any of them */

#endif
