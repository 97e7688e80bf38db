/*
 * corrupt.h - one entry point for everything that spoils a heap and goes on using it.
 *
 * A case is a string of bytes; any string is one, and what is missing at its end is 0:
 *
 *   which heap 1 | who lives 1 | edits before 1 | beside 1 | seed of the operations 4 |
 *   edits of 12 bytes each:  region 1 | how 1 | where 2 | value 8
 *
 * The heap has participants, some of them dead, slabs, extents, orphans, channels with
 * records in every state, static segments. The first edits are made before anybody attaches,
 * the rest between the operations, as a peer would that scribbles over the segment; where
 * `beside` is odd by a thread, over and over, which no seed repeats exactly. With its second bit
 * there are more kinds of operations: arrays, descriptors, peeking, waiting for any of many.
 */
#ifndef IPCHEAP_TESTS_CORRUPT_H
#define IPCHEAP_TESTS_CORRUPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CASE_HEADER = 8, CASE_EDIT = 12, CASE_MOST = CASE_HEADER + 64 * CASE_EDIT };

/* What the operations of a case came to. */
struct corrupt_result {
    uint32_t attached;   /* how many of the two participants could attach */
    uint32_t operations; /* how many were tried */
    uint32_t succeeded;
    uint32_t corrupt;    /* how many said so */
};

/* Builds the heap that every case starts from; once a process, before the first case. */
void corrupt_prepare(void);
/* Runs a case. Comes back, or is a bug. */
struct corrupt_result corrupt_run(const unsigned char *bytes, size_t size);
/* Makes a case from a seed; returns its size. */
size_t corrupt_random(uint64_t seed, unsigned char bytes[CASE_MOST]);

#endif
