/*
 * size_class.h - layer memory: the block sizes that slabs are cut into.
 *
 * In units of 64 bytes: 1, 2, ... 16, and from there eight sizes to a doubling up to
 * 32 KiB, so that rounding up wastes at most one eighth.
 */
#ifndef IPCHEAP_MEMORY_SIZE_CLASS_H
#define IPCHEAP_MEMORY_SIZE_CLASS_H

#include "segment/layout.h"

#define MOST_BLOCK_BYTES (UINT64_C(32) << 10) /* of the last class */

/* May be beyond the heap's last class: then the size is an extent's. */
static inline uint32_t size_class_of(uint64_t nbytes) {
    uint64_t units = nbytes / BLOCK_ALIGN + (nbytes % BLOCK_ALIGN != 0);
    if (units <= 16) return units ? (uint32_t)units - 1 : 0;
    uint32_t shift = 60 - (uint32_t)__builtin_clzll(units - 1);
    return 16 + (shift - 1) * 8 + (uint32_t)((units - 1) >> shift) - 8;
}

static inline uint32_t size_class_bytes(uint32_t size_class) {
    if (size_class < 16) return (size_class + 1) * BLOCK_ALIGN;
    uint32_t shift = (size_class - 16) / 8 + 1, step = (size_class - 16) % 8 + 9;
    return (step << shift) * BLOCK_ALIGN;
}

/* Larger classes live in larger slabs, so that little is left over at their end. */
static inline bool size_class_is_large(const struct geometry *geometry, uint32_t size_class) {
    return geometry->large_slab_shift && size_class >= 32;
}

#endif
