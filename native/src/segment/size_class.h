/*
 * size_class.h - layer segment: the block sizes that slabs are cut into. All facts about them.
 *
 *   class    0    1 ...   15 |   16   17 ...   23 |   24 ...   31 | ... |   48 ...    55
 *   bytes   64  128 ... 1024 | 1152 1280 ... 2048 | 2304 ... 4096 | ... | 18432 ... 32768
 *             EXACT_CLASSES       CLASS_STEPS to each of CLASS_DOUBLINGS doublings
 *
 * Rounding up wastes at most an eighth of a block above 512 bytes. A heap serves the classes below
 * geometry.classes from slabs, which are fewer in a small heap: geometry_of().
 */
#ifndef IPCHEAP_SEGMENT_SIZE_CLASS_H
#define IPCHEAP_SEGMENT_SIZE_CLASS_H

#include <assert.h>
#include <stdint.h>

#define BLOCK_ALIGN 64 /* the unit of all block sizes */

#define EXACT_CLASSES 16 /* multiples of BLOCK_ALIGN */
#define CLASS_SHIFT 3
#define CLASS_STEPS (1 << CLASS_SHIFT)
#define CLASS_DOUBLINGS 5
#define CLASSES (EXACT_CLASSES + CLASS_DOUBLINGS * CLASS_STEPS)
#define MOST_BLOCK_BYTES ((uint64_t)BLOCK_ALIGN * EXACT_CLASSES << CLASS_DOUBLINGS)

/* Classes beyond these live in large slabs, so that little is left over at a slab's end. */
#define SMALL_CLASSES (EXACT_CLASSES + 2 * CLASS_STEPS)

#define SMALL_SLAB_SHIFT 16 /* bytes of a slab; heaps below 4 MiB have smaller ones */
#define LARGE_SLAB_SHIFT 18
#define MAX_BLOCKS 1024 /* of any slab */

/* Bytes of a block; as a constant expression CLASS_BYTES(). */
#define CLASS_BYTES(c)                                                               \
    ((c) < EXACT_CLASSES ? ((c) + 1u) * BLOCK_ALIGN                                  \
                         : ((((c) - EXACT_CLASSES) % CLASS_STEPS + CLASS_STEPS + 1u) \
                            << (((c) - EXACT_CLASSES) / CLASS_STEPS + 1u)) *         \
                               BLOCK_ALIGN)

static inline uint32_t size_class_bytes(uint32_t size_class) { return CLASS_BYTES(size_class); }

/* The class of the smallest blocks that hold so many bytes; CLASSES or more if none do. */
static inline uint32_t size_class_of(uint64_t nbytes) {
    uint64_t units = nbytes / BLOCK_ALIGN + (nbytes % BLOCK_ALIGN != 0);
    if (units <= EXACT_CLASSES) return units ? (uint32_t)units - 1 : 0;
    uint32_t shift = 63 - CLASS_SHIFT - (uint32_t)__builtin_clzll(units - 1);
    return EXACT_CLASSES + (shift - 1) * CLASS_STEPS + (uint32_t)((units - 1) >> shift) -
           CLASS_STEPS;
}

static_assert(CLASS_BYTES(CLASSES - 1) == MOST_BLOCK_BYTES, "the last class is the largest block");
static_assert(CLASS_BYTES(EXACT_CLASSES - 1) == EXACT_CLASSES * BLOCK_ALIGN, "multiples end here");
static_assert(EXACT_CLASSES == 2 * CLASS_STEPS, "the first steps are as long as the multiples");
static_assert(CLASS_BYTES(SMALL_CLASSES - 1) == 4096, "small slabs hold at least 16 blocks");
static_assert((1u << SMALL_SLAB_SHIFT) / CLASS_BYTES(0) == MAX_BLOCKS, "as many bits and tags");
static_assert((1u << LARGE_SLAB_SHIFT) / CLASS_BYTES(SMALL_CLASSES) <= MAX_BLOCKS, "nor more");

#endif
