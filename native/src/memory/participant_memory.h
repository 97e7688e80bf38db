/*
 * participant_memory.h - layer memory: what a participant keeps for this layer, in private memory.
 *
 * Its thread alone uses it; once that has ended, whoever has the process mutex.
 */
#ifndef IPCHEAP_MEMORY_PARTICIPANT_MEMORY_H
#define IPCHEAP_MEMORY_PARTICIPANT_MEMORY_H

#include <string.h>

#include "base/copy.h"
#include "memory/deferred.h"
#include "memory/rotation.h"

/* The owner's half of a slab. In its first line is what every call wants. */
struct local_slab {
    _Alignas(64) struct slab *shared;
    uint64_t offset;   /* of block 0 */
    uint64_t hot;      /* offset of a block freed lately that is not in `free`: the first to go */
    uint64_t reciprocal; /* 2^32 / units, rounded up */
    uint32_t hot_index;
    uint32_t bytes, blocks, free_blocks;
    uint32_t filled;   /* which words of `free` are not zero */
    enum { CURRENT, AVAILABLE, FULL } list; /* where it stands in its bin */
    uint64_t owner;    /* what `shared` says as long as it is ours */
    struct {
        uint64_t free;
        uint64_t held; /* allocated here, and neither freed nor sent here since */
    } words[REMOTE_WORDS];
    uint32_t size_class, granule;
    struct local_slab *next, *previous;
};
static_assert(offsetof(struct local_slab, words) == 64, "one line, and then that of the block");

struct list {
    struct local_slab *first, *last;
};

struct bin {
    struct local_slab *current; /* where allocation goes on; on neither list */
    struct list available;      /* have a free block or more */
    struct list full;           /* had none when last seen */
    uint32_t spares;            /* empty slabs on `available` */
};

struct slab_cache {
    struct bin bins[CLASSES];
    struct local_slab **by_granule; /* where an offset leads ... */
    uint64_t granules;              /* ... below this one; 0 before the first slab */
    struct local_slab **table;      /* by the index in the owner word */
    uint32_t room, count;
    uint32_t first_hole; /* no index below this one is free */
    /* The block allocated last: it is, as a rule, what is sent or freed next. */
    uint64_t last_offset;
    struct local_slab *last_slab;
    uint32_t last_index;
};

struct participant_memory {
    struct slab_cache slabs;
    struct deferred deferred;
    struct rotation rotation;
    struct copies copies[2]; /* by extent_order: each has its own fastest way to copy */
    uint64_t recent_page; /* the extent allocated last, to prefetch its descriptor */
};

/* What the caller has, made on first use; NULL when the process is out of memory. */
struct participant_memory *memory_of(struct participant *me);
/* Lets others see which ways the caller goes by now: ipcheap_holder. */
void memory_show_ways(struct participant *me);
/* Of SHORT_COPY bytes or more. */
void memory_copy_long(struct participant *me, void *to, const void *from, size_t nbytes);
/* The caller leaves: gives up its slabs and frees what is deferred, as far as the lock can be had. */
void memory_leave(struct participant *me);
/* Frees what is private; what there is in the segment is to others that of a dead participant. */
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
