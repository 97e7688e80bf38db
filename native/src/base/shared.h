/*
 * shared.h - layer base: how shared memory is read and written.
 *
 * Every store to the segment's own structures goes through one of these macros, so that a test
 * can stop a process before each of them (IPCHEAP_STEPS). The payload belongs to the user, who
 * writes to it directly. The suffix is the memory order: each `_acquire` names the function with
 * the `_release`, or the read-modify-write, that it pairs with (tests/test_ordering.py).
 */
#ifndef IPCHEAP_BASE_SHARED_H
#define IPCHEAP_BASE_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#ifdef IPCHEAP_STEPS
/* Called before every shared store. Tests set it; the hook need not return. */
extern void (*_Atomic ipcheap_step_hook)(const char *file, int line);
#define STEP() (ipcheap_step_hook ? ipcheap_step_hook(__FILE__, __LINE__) : (void)0)
#else
#define STEP() ((void)0)
#endif

#define put(where, value) (STEP(), atomic_store_explicit(where, value, memory_order_relaxed))
#define put_release(where, value) \
    (STEP(), atomic_store_explicit(where, value, memory_order_release))
#define put_exchange(where, value) \
    (STEP(), atomic_exchange_explicit(where, value, memory_order_acq_rel))
#define put_add(where, value) \
    (STEP(), atomic_fetch_add_explicit(where, value, memory_order_acq_rel))
#define put_or(where, value) (STEP(), atomic_fetch_or_explicit(where, value, memory_order_acq_rel))
#define put_and(where, value) \
    (STEP(), atomic_fetch_and_explicit(where, value, memory_order_acq_rel))
#define put_if(where, expected, value)                                                             \
    (STEP(), atomic_compare_exchange_strong_explicit(where, expected, value, memory_order_acq_rel, \
                                                     memory_order_acquire))

#define get(where) atomic_load_explicit(where, memory_order_relaxed)
#define get_acquire(where) atomic_load_explicit(where, memory_order_acquire)

/* Orders a store before a load for the compiler only; os_membarrier() orders the processor. */
#define compiler_fence() atomic_signal_fence(memory_order_seq_cst)

/*
 * Orders a store before a load for the compiler and the processor. ThreadSanitizer does not model
 * fences, so under it this is a read-modify-write of one word that all fences share.
 */
static inline void full_fence(void) {
#ifdef __SANITIZE_THREAD__
    extern _Atomic(uint32_t) ipcheap_fence_word;
    atomic_fetch_add(&ipcheap_fence_word, 1);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

typedef _Atomic(uint32_t) shared32;
typedef _Atomic(uint64_t) shared64;

/* Fetches a cache line that will be written, in parallel with whatever comes in between. */
static inline void prefetch_to_write(const void *where) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)where));
#else
    __builtin_prefetch(where, 1);
#endif
}

static inline uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

static inline uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static inline uint64_t greatest(uint64_t a, uint64_t b) { return a > b ? a : b; }

#endif
