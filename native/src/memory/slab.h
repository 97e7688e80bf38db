/*
 * slab.h - layer memory: extents cut into equal blocks, owned by one participant.
 *
 *   shared:   owner | remote bits | tags[]      what a block is, for everyone, for ever
 *   private:  free bits, counts, lists          a cache of its owner, made again from tags
 *
 * Allocating and freeing by the owner touch one tag and private memory: no atomic
 * read-modify-write, no lock. Everyone else frees by setting the block's remote bit, which
 * the owner collects: first the tag becomes FREE, then the bit is cleared.
 *
 * A slab whose owner has left is an orphan: the next participant that needs its class
 * adopts it. A slab that is empty can be taken back from a living owner, too: see
 * slabs_revoke().
 */
#ifndef IPCHEAP_MEMORY_SLAB_H
#define IPCHEAP_MEMORY_SLAB_H

#include "segment/size_class.h"
#include "segment/membership.h"

/* Takes a block and tags it as the caller's: what slab_take() in slab_local.h could not. */
int slab_allocate(struct participant *me, uint32_t size_class, uint64_t *offset);

/* Where a block is. */
struct block {
    struct slab *slab;
    uint32_t index, granule;
    uint32_t bytes;
};
/* The block at an offset, if a slab is there. */
bool slab_find(ipcheap_heap *heap, uint64_t offset, struct block *block);

/* Does the memory at an offset belong to a slab? */
bool slab_covers(ipcheap_heap *heap, uint64_t offset);

/* Frees a block; RECORD when that has happened already. The tag is the caller's to judge. */
int slab_free(struct participant *me, const struct block *block);

/* Returns empty slabs of the caller's to the heap. */
void slabs_release_empty(struct participant *me);
/* Under the lock: frees the orphans that are empty. */
void slabs_release_orphans(struct participant *me);
/* Under the lock: takes empty slabs away from owners who do not use them just now. */
void slabs_revoke(struct participant *me);
/* The caller leaves: its slabs become orphans, or free; without the lock nothing happens. */
void slabs_abandon(struct participant *me);
/* Under the lock: the same for a dead participant's slab. */
void slab_orphan(ipcheap_heap *heap, uint32_t granule);
/* Frees the private halves. */
void slabs_forget(struct participant *me);
/* Under the lock: finds all orphans again. */
void slabs_rebuild(ipcheap_heap *heap);

static inline struct slab *slab_at(const ipcheap_heap *heap, uint64_t granule) {
    return at_offset(heap, heap->geometry.slabs_at + granule * heap->geometry.slab_stride);
}

/* Of the page where an extent begins. */
static inline uint32_t granule_of_page(const ipcheap_heap *heap, uint64_t page) {
    return (uint32_t)(page >> (heap->geometry.slab_shift - PAGE_SHIFT));
}

static inline uint64_t page_of_granule(const ipcheap_heap *heap, uint64_t granule) {
    return granule << (heap->geometry.slab_shift - PAGE_SHIFT);
}

/* How many blocks a slab of this class has; 0 for a class that cannot be. */
uint32_t slab_blocks(const ipcheap_heap *heap, uint32_t size_class);

/*
 * Is this run a slab, of a class that such a run can have? Whoever comes from the heads asks
 * before he looks at remote bits and tags, and goes by this class from then on.
 */
bool slab_valid(ipcheap_heap *heap, uint64_t page, uint32_t *size_class);

static inline bool block_is_remote_free(const struct slab *slab, uint32_t index) {
    return get_acquire(&slab->remote[index / 64]) >> (index & 63) & 1; /* with slab_free() */
}

#endif
