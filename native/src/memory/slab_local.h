/*
 * slab_local.h - layer memory: the quick paths of a slab's owner.
 *
 * What is inline here runs for every small record: no lock, no atomic read-modify-write,
 * no call. Everything else is in slab.c. Only the owner's thread calls these functions.
 */
#ifndef IPCHEAP_MEMORY_SLAB_LOCAL_H
#define IPCHEAP_MEMORY_SLAB_LOCAL_H

#include "memory/participant_memory.h"
#include "memory/slab.h"
#include "segment/size_class.h"

/* Moves a slab that got a block back: to another list, or, if it is empty, to the heap. */
void slab_move(struct participant *me, struct local_slab *s);

static inline bool is_mine(const struct local_slab *s) {
    return get(&s->shared->owner) == s->owner;
}

/*
 * is_mine() of a slab with a block that has our tag. The owner word is on another line, so it is
 * read only if any slab of the heap has ever been revoked. If this one is being taken just now, a
 * free may still go to our private half: see collect_by_tags().
 */
static inline bool is_still_mine(const struct participant *me, const struct local_slab *s) {
    return LIKELY(!get(&me->heap->header->revoked)) || is_mine(s);
}

/* Exact, because units * size stays below 2^32. */
static inline uint32_t block_index(const struct local_slab *s, uint64_t offset) {
    return (uint32_t)((offset - s->offset) / BLOCK_ALIGN * s->reciprocal >> 32);
}

static inline void mark_free(struct local_slab *s, uint32_t index) {
    s->words[index / 64].free |= UINT64_C(1) << (index & 63);
    s->filled |= 1u << (index / 64);
}

static inline uint32_t pop_free(struct local_slab *s) {
    uint32_t word = (uint32_t)__builtin_ctz(s->filled);
    uint64_t *bits = &s->words[word].free;
    uint32_t index = word * 64 + (uint32_t)__builtin_ctzll(*bits);
    *bits &= *bits - 1;
    if (!*bits) s->filled &= ~(1u << word);
    return index;
}

/* Takes a block of the current slab; 0 if it has none, or is no longer ours. */
static inline uint64_t slab_take(struct participant *me, uint32_t size_class) {
    struct local_slab *s = LIKELY(me->memory != NULL) ? me->memory->slabs.bins[size_class].current
                                                      : NULL;
    if (UNLIKELY(!s || !s->free_blocks)) return 0;
    participant_enter(me);
    if (UNLIKELY(!is_mine(s))) {
        participant_leave(me);
        return 0;
    }
    uint64_t offset = s->hot;
    uint32_t index = s->hot_index;
    if (LIKELY(offset)) {
        s->hot = 0;
    } else if (UNLIKELY(!s->filled)) {
        s->free_blocks = 0; /* a corrupt tag made a block count twice: there are none left */
        participant_leave(me);
        return 0;
    } else {
        index = pop_free(s);
        offset = s->offset + (uint64_t)index * s->bytes;
    }
    s->free_blocks--;
    s->words[index / 64].held |= UINT64_C(1) << (index & 63);
    me->memory->slabs.last_offset = offset;
    me->memory->slabs.last_slab = s;
    me->memory->slabs.last_index = index;
    put(&s->shared->tags[index], my_tag(me));
    participant_leave(me);
    return offset;
}

/* Returns the caller's slab at an offset, and the block's index; NULL if there is none. */
static inline struct local_slab *find_mine(struct participant *me, uint64_t offset,
                                           uint32_t *index) {
    if (UNLIKELY(!me->memory)) return NULL;
    struct slab_cache *cache = &me->memory->slabs;
    if (LIKELY(cache->last_offset == offset && is_still_mine(me, cache->last_slab))) {
        *index = cache->last_index;
        return cache->last_slab;
    }
    const struct geometry *g = &me->heap->geometry;
    uint64_t granule = (offset - g->data_at) >> g->slab_shift;
    if (UNLIKELY(granule >= cache->granules)) return NULL;
    struct local_slab *s = cache->by_granule[granule];
    if (UNLIKELY(!s || !is_still_mine(me, s))) return NULL;
    *index = block_index(s, offset);
    return LIKELY((uint64_t)*index * s->bytes == offset - s->offset && *index < s->blocks) ? s
                                                                                           : NULL;
}

/* Returns the tag of a block in a slab of the caller's, and that slab; NULL if there is none. */
static inline shared64 *slab_my_tag(struct participant *me, uint64_t offset,
                                    struct local_slab **slab) {
    uint32_t index;
    struct local_slab *s = *slab = find_mine(me, offset, &index);
    if (!s || UNLIKELY(block_is_remote_free(s->shared, index))) return NULL;
    return &s->shared->tags[index];
}

/* Notes that the caller no longer holds the block: it is sent, or free. */
static inline void slab_let_go(struct local_slab *s, uint64_t index) {
    s->words[index / 64].held &= ~(UINT64_C(1) << (index & 63));
}

/* The same if a record of so many bytes has that size class; otherwise NULL. */
static inline shared64 *slab_my_tag_for(struct participant *me, uint64_t offset, uint64_t nbytes) {
    struct local_slab *s;
    shared64 *tag = slab_my_tag(me, offset, &s);
    return LIKELY(tag && s->size_class == size_class_of(nbytes)) ? tag : NULL;
}

static inline void free_mine(struct participant *me, struct local_slab *s, uint32_t index,
                             uint64_t offset) {
    /* Release: the user is done before all_free() lets revoke() give the memory away. */
    put_release(&s->shared->tags[index], TAG_FREE);
    slab_let_go(s, index);
    if (s->hot) {
        mark_free(s, index);
    } else {
        s->hot = offset;
        s->hot_index = index;
    }
    s->free_blocks++;
    bool moves = s->list == FULL || s->free_blocks == s->blocks;
    if (UNLIKELY(moves && s->list != CURRENT)) slab_move(me, s);
}

/*
 * Frees a block that the caller allocated. The private `held` bits are trusted without reading the
 * tag, unless another thread of this process has freed or sent blocks on the caller's behalf
 * (ATTENTION_HELPED). Returns false if the caller does not hold it, or if a postponed trim must run
 * first.
 */
static inline bool slab_free_held(struct participant *me, uint64_t offset) {
    uint32_t index;
    struct local_slab *s = find_mine(me, offset, &index);
    uint8_t attention = me->attention;
    if (UNLIKELY(!s || attention & ATTENTION_TRIM)) return false;
    bool held = LIKELY(!attention) ? s->words[index / 64].held >> (index & 63) & 1
                                   : tag_owner(get(&s->shared->tags[index])) == me->tag &&
                                         !block_is_remote_free(s->shared, index);
    if (LIKELY(held)) free_mine(me, s, index, offset);
    return held;
}

/* Frees a block of the caller's that was sent with that tag; false if it has another tag now. */
static inline bool slab_free_sent(struct participant *me, uint64_t offset, uint64_t tag) {
    uint32_t index;
    struct local_slab *s = find_mine(me, offset, &index);
    if (UNLIKELY(!s || get(&s->shared->tags[index]) != tag)) return false;
    if (UNLIKELY(block_is_remote_free(s->shared, index))) return false;
    free_mine(me, s, index, offset);
    return true;
}

#endif
