/*
 * os.h - layer base: the only door to the operating system.
 *
 * Returns 0 or a value on success, else a negative ipcheap_error. What can fail for lack of
 * something asks base/fault.h first, so that a test can make it fail.
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
int64_t os_now(void);                        /* monotonic, ns */
uint64_t os_wall_clock(void);                /* since the epoch, ns */
int64_t os_boot_clock(void);                 /* since boot, suspended time included, ns */
/* How far os_boot_clock() is ahead of the initial time namespace's, ns; 0 if that cannot be known. */
int64_t os_boot_clock_offset(void);
void os_nap(int64_t ns);
int os_doze(int64_t ns);                     /* the same, to the microsecond; INTERRUPTED */
int64_t os_deadline(int64_t timeout_ns);     /* INT64_MAX for a negative time-out, 0 for 0 */
int64_t os_remaining(int64_t deadline);      /* 0 if it is past, INT64_MAX if there is none */

/* Private memory: NULL when there is none; it goes back by free() -------------------- */
void *os_allocate_zeroed(size_t count, size_t bytes);
void *os_allocate_aligned(size_t alignment, size_t bytes);
void *os_reallocate(void *memory, size_t bytes);

/* Threads and processes that end or begin -------------------------------------------------- */
/* `ended` runs at the end of every thread that keeps a value other than NULL under the key. */
int os_thread_key(pthread_key_t *key, void (*ended)(void *value));
int os_thread_keep(pthread_key_t key, const void *value);
int os_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));

/* Who we are --------------------------------------------------------------------- */
uint32_t os_process_id(void);
uint32_t os_thread_id(void);
uint64_t os_process_namespace(void); /* which PID namespace that id counts in; 0: unknown */
void os_process_name(char name[16]);
uint64_t os_random(void);
uint32_t os_only_core(void); /* 1 + the only one this thread may run on; 0 when there are several */

/* The environment ---------------------------------------------------------------- */
/* A variable that pins what is otherwise found out by trying. */
struct choice {
    const char *name;
    const char *words; /* "the default|another|..." */
    _Atomic int known; /* 0: not read yet */
};
/*
 * Returns which of the words the variable has: 0, 1, ..., and 0 if it is unset or empty. BAD_VALUE
 * for anything else. It is read once: what a process does later to its environment changes nothing.
 */
int os_choice(struct choice *choice);

/* Sleeping on a shared word -------------------------------------------------------- */
int os_futex_wait(const shared32 *word, uint32_t expected, int64_t timeout_ns);
int os_futex_wake(const shared32 *word, int count);
/* On any of several, up to FUTEX_WORDS; where the kernel cannot, on the first for a moment. */
#define FUTEX_WORDS 128
struct awaited {
    const shared32 *word;
    uint32_t expected;
};
int os_futex_wait_any(const struct awaited *words, size_t count, int64_t timeout_ns);
/* Orders this thread's past stores before its later loads against all registered processes. */
bool os_membarrier_register(void);
bool os_membarrier(void); /* false when it was refused */
static inline void os_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* What else contended waiters can sleep on --------------------------------------------- */
int os_semaphore_init(void *shared); /* in shared memory, without a name */
int os_semaphore_open(const char *name, void **semaphore);
void os_semaphore_close(void *semaphore);
int os_semaphore_wait(void *semaphore, int64_t timeout_ns);
int os_semaphore_post(void *semaphore);
int os_sysv_wait(int id, int64_t timeout_ns);
int os_sysv_post(int id);

/* The segment ------------------------------------------------------------------------ */
int os_reopen(int fd);                       /* the same file, another open file description */
int os_duplicate(int fd);
void os_close(int fd);
uint64_t os_file_inode(int fd); /* 0 if that cannot be known */
int64_t os_file_bytes(int fd);
int os_file_resize(int fd, uint64_t bytes);
int os_file_read(int fd, uint64_t offset, void *data, size_t bytes);
int os_commit(int fd, uint64_t offset, uint64_t bytes);
int os_punch(int fd, uint64_t offset, uint64_t bytes);
/* If it can be, at a multiple of LARGE_PAGE_BYTES, so that these are mapped whole. */
int os_map(int fd, uint64_t bytes, unsigned char **base);
int os_map_sysv(int shmid, bool read_only, unsigned char **base);
int64_t os_sysv_bytes(int shmid);
void os_unmap(unsigned char *base, uint64_t bytes);
void os_unmap_sysv(unsigned char *base);
/*
 * Makes one large page of what is mapped at a multiple of LARGE_PAGE_BYTES: its small pages, of
 * which there must be one, and zeroes. False when the kernel does not.
 */
#define LARGE_PAGE_BYTES ((uint64_t)2 << 20)
bool os_make_large(unsigned char *start);
/* Gives the pages of a private or System V range back where the kernel can; else does nothing. */
void os_forget(unsigned char *start, uint64_t bytes);

/* Liveness: one byte of the file, locked for as long as the open file description lives. */
int os_byte_lock(int fd, uint64_t byte);     /* WOULD_BLOCK when another has it */
int os_byte_unlock(int fd, uint64_t byte);
int os_byte_locked(int fd, uint64_t byte);   /* 1 when another description has it */

#endif
