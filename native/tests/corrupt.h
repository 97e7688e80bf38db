/*
 * corrupt.h - one entry point for everything that corrupts a heap and goes on using it.
 *
 * A case is a string of bytes. Any string is a case; bytes missing at its end are 0:
 *
 *   which heap 1 | living 1 | edits before 1 | beside 1 | seed of the operations 4 |
 *   edits of 12 bytes each:  region 1 | how 1 | where 2 | value 8
 *
 * The heap has participants, some of them dead, slabs, extents, orphans, channels with
 * records in every state, static segments, streams, stores and buses. The first edits happen before any user attaches,
 * the rest between the operations, as if a peer scribbled over the segment. If `beside` is odd, a
 * thread repeats the rest all the time, which no seed reproduces exactly. Its second bit adds
 * further kinds of operations: arrays, descriptors, peeking, waiting for any of many. Its third bit
 * adds operations on stores, and aims edits of an odd region at them; its fourth bit does the same for buses.
 */
#ifndef IPCHEAP_TESTS_CORRUPT_H
#define IPCHEAP_TESTS_CORRUPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CASE_HEADER = 8, CASE_EDIT = 12, CASE_MOST = CASE_HEADER + 64 * CASE_EDIT };

/* How the operations of a case ended. */
struct corrupt_result {
    uint32_t attached;   /* how many of the two users could attach */
    uint32_t operations; /* how many were tried */
    uint32_t succeeded;
    uint32_t corrupt; /* how many returned CORRUPT */
};

/* Builds the heap that every case starts from: once a process, before the first case. */
void corrupt_prepare(void);
/* Runs a case. If it does not return, that is a bug. */
struct corrupt_result corrupt_run(const unsigned char *bytes, size_t size);
/* Makes a case from a seed; returns its size. */
size_t corrupt_random(uint64_t seed, unsigned char bytes[CASE_MOST]);

#endif
