/*
 * bulk.h - large records and, as their floors, memcpy: in one process, and from one to another.
 *
 * Each is written whole; the reader looks at one byte a page, as the peers' figures do.
 */
#ifndef IPCHEAP_BENCH_BULK_H
#define IPCHEAP_BENCH_BULK_H

#include "bench.h"

enum { BULK_HOT = 4 }; /* so many buffers stay in the cache */

/* What a program has of them: once, before it measures. */
struct bulk {
    size_t nbytes;    /* of each */
    size_t buffers;   /* that are copied to, at least BULK_HOT */
    uint64_t count;   /* how many go over in one measurement */
    int segment;      /* of the heap that the records are in */
    uint64_t channel; /* its id */
    uint64_t slots;
};

void bulk_prepare(const struct bulk *bulk);

/* memcpy round so many buffers: a few stay in the cache, all of them do not. */
double bulk_copies(size_t buffers, uint64_t times);

/* memcpy into a few buffers that another process reads in between. */
void bulk_copies_out(double *result);
void bulk_copies_in(void);

/* Records, allocated, written, sent; received, looked at, freed. */
void bulk_out(double *result);
void bulk_in(void);

#endif
