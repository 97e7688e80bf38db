/*
 * slab.h - layer memory: extents cut into equal blocks, owned by one participant.
 *
 *   shared:   owner | remote bits | tags[]      the truth about each block
 *   private:  free bits, counts, lists          the owner's cache, rebuilt from the tags
 *
 * Allocating and freeing by the owner touch one tag and private memory: no atomic
 * read-modify-write, no lock. All others free a block by setting its remote bit, which
 * the owner collects: it sets the tag to FREE, then clears the bit.
 *
 * A slab whose owner has left is an orphan: the next participant that needs its class
 * adopts it. A slab can also be taken from a living owner: slabs_revoke(), slab_share().
 */
#ifndef IPCHEAP_MEMORY_SLAB_H
#define IPCHEAP_MEMORY_SLAB_H

#include "segment/membership.h"
#include "segment/size_class.h"

/* Allocates a block with the caller's tag if slab_take() of slab_local.h found none. */
int slab_allocate(struct participant *me, uint32_t size_class, uint64_t *offset);

/* The place of a block. */
struct block {
    struct slab *slab;
    uint32_t index, granule;
    uint32_t bytes;
};
/* Finds the block at an offset; false if no slab is there, or no block begins there. */
bool slab_find(ipcheap_heap *heap, uint64_t offset, struct block *block);

/* Does the memory at an offset belong to a slab? */
bool slab_covers(ipcheap_heap *heap, uint64_t offset);

/* Frees a block whose tag the caller has validated; RECORD if it is free already. */
int slab_free(struct participant *me, const struct block *block);

/* Frees the caller's empty slabs. */
void slabs_release_empty(struct participant *me);
/* Under the lock: frees the empty orphans. */
void slabs_release_orphans(struct participant *me);
/* Under the lock: takes empty slabs from owners that are not using them right now. */
void slabs_revoke(struct participant *me);
/*
 * Allocates a block where the heap has no room for another slab: takes a slab with free blocks from
 * its owner, of this size class or a larger one. HEAP_FULL if there is none; WOULD_BLOCK if there may
 * be one whose owner is using it right now.
 */
int slab_share(struct participant *me, uint32_t size_class, uint64_t *offset);
/* The caller leaves: its slabs become orphans, or free; nothing happens if the lock times out. */
void slabs_abandon(struct participant *me);
/* Under the lock: makes a dead participant's slab an orphan. */
void slab_orphan(ipcheap_heap *heap, uint32_t granule);
/* Frees the private halves of all slabs. */
void slabs_forget(struct participant *me);
/* Under the lock: rebuilds the lists of orphans. */
void slabs_rebuild(ipcheap_heap *heap);

static inline struct slab *slab_at(const ipcheap_heap *heap, uint64_t granule) {
    return at_offset(heap, heap->geometry.slabs_at + granule * heap->geometry.slab_stride);
}

/* Returns the granule of the page at which an extent begins. */
static inline uint32_t granule_of_page(const ipcheap_heap *heap, uint64_t page) {
    return (uint32_t)(page >> (heap->geometry.slab_shift - PAGE_SHIFT));
}

static inline uint64_t page_of_granule(const ipcheap_heap *heap, uint64_t granule) {
    return granule << (heap->geometry.slab_shift - PAGE_SHIFT);
}

/* Returns how many blocks a slab of this class has; 0 for a class that does not exist. */
uint32_t slab_blocks(const ipcheap_heap *heap, uint32_t size_class);

/*
 * Is this run a slab, of a class that a run of this length can have? A caller that comes from the
 * heads asks this before it reads remote bits and tags, and uses this class from then on.
 */
bool slab_valid(ipcheap_heap *heap, uint64_t page, uint32_t *size_class);

static inline bool block_is_remote_free(const struct slab *slab, uint32_t index) {
    return get_acquire(&slab->remote[index / 64]) >> (index & 63) & 1; /* pairs with slab_free() */
}

#endif
