/*
 * bench.h - what the benchmarks have in common: clock, pinning, medians, lines of output.
 */
#ifndef IPCHEAP_BENCH_H
#define IPCHEAP_BENCH_H

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ipcheap/ipcheap.h"

enum { MOST = 99 }; /* repetitions */

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static inline void pin(size_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static inline void die(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, ipcheap_error_text(error));
    exit(1);
}

#define MUST(call)                              \
    do {                                        \
        int error_ = (int)(call);               \
        if (error_ < 0) die(#call, error_);     \
    } while (0)

static inline int repetitions_of(int count, char **arguments) {
    int repetitions = count > 1 ? atoi(arguments[1]) : 7;
    return repetitions < 1 || repetitions > MOST ? 7 : repetitions;
}

static inline int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

/* A name, or "" for another ratio of the line before; a floor, or NULL for none. */
static inline void row(const char *what, double ns, double floor, const char *of) {
    printf("%-46s %9.1f ns", what, ns);
    if (of) printf("   %5.2f x %s", ns / floor, of);
    printf("\n");
}

#endif
