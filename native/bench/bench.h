/*
 * bench.h - what the benchmarks have in common: clock, pinning, medians, lines of output; two
 * processes that take part in a measurement; a heap and what is done with it.
 */
#ifndef IPCHEAP_BENCH_H
#define IPCHEAP_BENCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "ipcheap/ipcheap.h"

enum { MOST = 99 }; /* repetitions */

/* Time ------------------------------------------------------------------------------------- */

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void pin(size_t cpu);

/* The run ---------------------------------------------------------------------------------- */

_Noreturn void die(const char *what, int error);

#define MUST(call)                          \
    do {                                    \
        int error_ = (int)(call);           \
        if (error_ < 0) die(#call, error_); \
    } while (0)

int repetitions_of(int count, char **arguments);
double median(double *values, int count);

/* A name, or "" for another ratio of the line before; a floor, or NULL for none. */
void row(const char *what, double ns, double floor, const char *of);
/* The same for a number of instructions. */
void row_of_instructions(const char *what, double count, double floor, const char *of);

/* Two processes ---------------------------------------------------------------------------- */

/* What they meet by, and count; it is zero when they begin. */
struct meeting {
    _Alignas(128) _Atomic uint64_t sent;
    _Alignas(128) _Atomic uint64_t received;
    _Alignas(128) _Atomic uint32_t arrived;
};

extern struct meeting *meeting;

/* Returns zeroed memory that they share. */
void *shared_memory(size_t nbytes);
/* Runs the second one in a child on another processor, until both have returned. */
void in_two_processes(void (*first)(double *result), void (*second)(void), double *result);
/* Returns when both have come to the nth place, counted from 1. */
void both_arrive(uint32_t nth);
/* What is timed begins here, in both at once. */
static inline void both_start(void) { both_arrive(1); }

/* Nanoseconds for a cache line to the other processor and back. */
double cache_line(void);

/* Instructions ----------------------------------------------------------------------------- */

/*
 * Returns how many instructions `work` takes, without those of the kernel. A trap after each of them is
 * counted, because many virtual machines have no counter. -1 where that is not known.
 */
double instructions(void (*work)(void));

/* A heap ----------------------------------------------------------------------------------- */

extern volatile uint64_t sink; /* for what is read, so that it is */

int new_segment(uint64_t capacity);
ipcheap_heap *attached(int segment);
/* One side of a channel, whose other side is there too. */
ipcheap_endpoint *endpoint(ipcheap_heap *heap, uint64_t id, uint64_t slots, int side);

static inline void give(ipcheap_endpoint *producer, ipcheap_record *record) {
    int error;
    while ((error = ipcheap_try_send(producer, record)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

static inline void take(ipcheap_endpoint *consumer, ipcheap_record *record) {
    int error;
    while ((error = ipcheap_try_receive(consumer, record)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

/* Nanoseconds for allocating and freeing. */
double pairs(ipcheap_heap *heap, uint64_t nbytes, int count);

#endif
