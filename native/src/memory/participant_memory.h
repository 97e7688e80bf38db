/*
 * participant_memory.h - layer memory: a participant's private memory of this layer.
 *
 * It exists while there is something in it. Only the participant's thread uses it; after the end of
 * that thread, the holder of the process mutex.
 */
#ifndef IPCHEAP_MEMORY_PARTICIPANT_MEMORY_H
#define IPCHEAP_MEMORY_PARTICIPANT_MEMORY_H

#include <string.h>

#include "base/copy.h"
#include "memory/deferred.h"
#include "memory/rotation.h"

/* The owner's half of a slab. Every call needs the first line. */
struct local_slab {
    _Alignas(64) struct slab *shared;
    uint64_t offset; /* of block 0 */
    uint64_t hot;    /* offset of a block freed recently, not in `free`; allocated first; 0: none */
    uint64_t reciprocal; /* 2^32 / units, rounded up */
    uint32_t hot_index;
    uint32_t bytes, blocks, free_blocks;
    uint32_t filled;                        /* bit w: words[w].free is not 0 */
    enum { CURRENT, AVAILABLE, FULL } list; /* its place in its bin */
    uint64_t owner;                         /* the owner word while the slab is ours */
    struct {
        uint64_t free;
        uint64_t held; /* allocated here, and not freed or sent here since */
    } words[REMOTE_WORDS];
    uint32_t size_class, granule;
    bool was_shared; /* a former owner that lives may free blocks in its own half */
    struct local_slab *next, *previous;
};
static_assert(offsetof(struct local_slab, words) == 64, "one line, then the line of the block");

struct list {
    struct local_slab *first, *last;
};

struct bin {
    struct local_slab *current; /* blocks are taken from it; on neither list */
    struct list available;      /* have at least one free block */
    struct list full;           /* had none when last checked */
    uint32_t spares;            /* empty slabs on `available` */
};

struct slab_cache {
    struct bin bins[CLASSES];
    struct local_slab **by_granule; /* the slab at an offset ... */
    uint64_t granules;              /* ... if its granule is below this; 0 before the first slab */
    struct local_slab **table;      /* by the index in the owner word */
    uint32_t room, count;
    uint32_t first_hole; /* no index below this one is free */
    /* The block allocated last, which is usually the one sent or freed next. */
    uint64_t last_offset;
    struct local_slab *last_slab;
    uint32_t last_index;
};

struct participant_memory {
    struct slab_cache slabs;
    struct deferred deferred;
    struct rotation rotation;
    struct copies copies[2]; /* by extent_order: each order has its own fastest way to copy */
    uint64_t recent_page;    /* the extent allocated last, to prefetch its descriptor */
};

/* Returns the caller's, which is made on first use; NULL if the process is out of memory. */
struct participant_memory *memory_of(struct participant *me);
/* Publishes the ways that the caller has learnt, for ipcheap_holder. */
void memory_show_ways(struct participant *me);
/* memory_copy() of SHORT_COPY bytes or more. */
void memory_copy_long(struct participant *me, void *to, const void *from, size_t nbytes);
/* The caller leaves: gives up its slabs and retries deferred frees, if it gets the lock. */
void memory_leave(struct participant *me);
/*
 * Frees the private memory. What the participant still has in the segment belongs to a dead
 * participant from then on.
 */
void memory_forget(struct participant *me);

/*
 * Copies what another process is to read, as memcpy() does; `from` may be NULL for nothing. A
 * release after it publishes the copy.
 */
static inline void memory_copy(struct participant *me, void *to, const void *from, size_t nbytes) {
    if (UNLIKELY(nbytes >= SHORT_COPY))
        memory_copy_long(me, to, from, nbytes);
    else if (LIKELY(nbytes))
        memcpy(to, from, nbytes);
}

#endif
