#include "memory/slab.h"

#include <stdlib.h>

#include "memory/deferred.h"
#include "memory/extent.h"
#include "memory/slab_local.h"
#include "memory/trim.h"
#include "segment/clock.h"
#include "segment/lock.h"

#define PROBES 16 /* full slabs that are checked for remote frees before a new slab is made */

/* Geometry ------------------------------------------------------------------------------- */

static uint64_t slab_bytes(const ipcheap_heap *heap, uint32_t size_class) {
    const struct geometry *g = &heap->geometry;
    bool large = g->large_slab_shift && size_class >= SMALL_CLASSES;
    return UINT64_C(1) << (large ? g->large_slab_shift : g->slab_shift);
}

uint32_t slab_blocks(const ipcheap_heap *heap, uint32_t size_class) {
    if (size_class >= heap->geometry.classes) return 0;
    return (uint32_t)(slab_bytes(heap, size_class) / size_class_bytes(size_class));
}

bool slab_valid(ipcheap_heap *heap, uint64_t page, uint32_t *size_class) {
    const struct geometry *g = &heap->geometry;
    uint32_t granule = granule_of_page(heap, page);
    if (page >= g->zone_pages[DATA_ZONE] || page_of_granule(heap, granule) != page) return false;
    struct slab *slab = slab_at(heap, granule);
    if (!segment_meta_committed(heap, slab, sizeof *slab)) return false;
    uint64_t word = get_acquire(&heap->pages[page].word); /* pairs with slab_create() */
    if (word_state(word) != PAGE_USED || word_kind(word) != KIND_SLAB) return false;
    *size_class = get(&slab->size_class);
    if (*size_class >= g->classes) return false;
    uint64_t pages = slab_bytes(heap, *size_class) >> PAGE_SHIFT;
    if (word_length(word) != pages || page % pages || page + pages > g->zone_pages[DATA_ZONE])
        return false;
    uint64_t tags = slab_blocks(heap, *size_class) * sizeof(shared64);
    return segment_meta_committed(heap, slab->tags, tags);
}

/* Returns the page at which the slab that covers `page` begins, or UINT64_MAX. */
static uint64_t slab_head(ipcheap_heap *heap, uint64_t page) {
    const struct geometry *g = &heap->geometry;
    if (UNLIKELY(page >= g->zone_pages[DATA_ZONE]))
        return UINT64_MAX; /* a slot may contain anything */
    uint64_t small = UINT64_C(1) << (g->slab_shift - PAGE_SHIFT);
    uint64_t head = page & ~(small - 1);
    if (!segment_meta_committed(heap, &heap->pages[head], sizeof(struct page))) return UINT64_MAX;
    uint64_t word = get_acquire(&heap->pages[head].word); /* pairs with slab_create() */
    if (word_state(word) == PAGE_PART && g->large_slab_shift) {
        head = page & ~((UINT64_C(1) << (g->large_slab_shift - PAGE_SHIFT)) - 1);
        word = get_acquire(&heap->pages[head].word); /* pairs with slab_create() */
    }
    bool slab = word_state(word) == PAGE_USED && word_kind(word) == KIND_SLAB;
    return slab && page - head < word_length(word) ? head : UINT64_MAX;
}

bool slab_covers(ipcheap_heap *heap, uint64_t offset) {
    return slab_head(heap, (offset - heap->geometry.data_at) >> PAGE_SHIFT) != UINT64_MAX;
}

bool slab_find(ipcheap_heap *heap, uint64_t offset, struct block *block) {
    uint64_t head = slab_head(heap, (offset - heap->geometry.data_at) >> PAGE_SHIFT);
    uint32_t size_class;
    if (head == UINT64_MAX || !slab_valid(heap, head, &size_class)) return false;
    block->granule = granule_of_page(heap, head);
    block->slab = slab_at(heap, block->granule);
    uint32_t bytes = block->bytes = size_class_bytes(size_class);
    uint32_t into = (uint32_t)(offset - page_offset(heap, head)); /* 32 bits divide faster */
    block->index = into / bytes;
    return into % bytes == 0 && block->index < slab_blocks(heap, size_class);
}

/* Lists ---------------------------------------------------------------------------------- */

static void list_add(struct bin *bin, struct local_slab *s) {
    s->list = s->free_blocks ? AVAILABLE : FULL;
    struct list *list = s->list == FULL ? &bin->full : &bin->available;
    s->next = NULL;
    s->previous = list->last;
    *(s->previous ? &s->previous->next : &list->first) = s;
    list->last = s;
    if (s->free_blocks == s->blocks) bin->spares++;
}

static void list_remove(struct bin *bin, struct local_slab *s) {
    struct list *list = s->list == FULL ? &bin->full : &bin->available;
    if (s->list == AVAILABLE && s->free_blocks == s->blocks) bin->spares--;
    s->list = CURRENT;
    *(s->next ? &s->next->previous : &list->last) = s->previous;
    *(s->previous ? &s->previous->next : &list->first) = s->next;
    s->next = s->previous = NULL;
}

/* Removes a slab from its bin, wherever it is in there. */
static void bin_remove(struct bin *bin, struct local_slab *s) {
    if (bin->current == s)
        bin->current = NULL;
    else
        list_remove(bin, s);
}

/* Returns the caller's slabs; NULL if it has never had any. */
static struct slab_cache *slabs_of(const struct participant *me) {
    return me->memory && me->memory->slabs.granules ? &me->memory->slabs : NULL;
}

static struct slab_cache *cache_of(struct participant *me) {
    struct participant_memory *memory = memory_of(me);
    if (!memory) return NULL;
    struct slab_cache *cache = &memory->slabs;
    if (LIKELY(cache->granules)) return cache;
    /* One pointer for each granule of the heap; the system provides its pages on demand. */
    cache->by_granule = os_allocate_zeroed(me->heap->geometry.granules, sizeof *cache->by_granule);
    if (!cache->by_granule) return NULL;
    cache->granules = me->heap->geometry.granules;
    return cache;
}

static uint64_t slab_granules(const ipcheap_heap *heap, const struct local_slab *s) {
    return slab_bytes(heap, s->size_class) >> heap->geometry.slab_shift;
}

/* Makes every granule that a slab covers lead to it. */
static void lead_to(struct participant *me, struct local_slab *s) {
    uint64_t count = slab_granules(me->heap, s);
    for (uint64_t i = 0; i < count; i++) me->memory->slabs.by_granule[s->granule + i] = s;
}

/* Undoes lead_to(), except where another slab was made after this one had been revoked. */
static void lead_nowhere(struct participant *me, const struct local_slab *s) {
    struct local_slab **lead = me->memory->slabs.by_granule + s->granule;
    uint64_t count = slab_granules(me->heap, s);
    for (uint64_t i = 0; i < count; i++)
        if (lead[i] == s) lead[i] = NULL;
}

/* Makes the private half of a slab and adds it to the table. */
static struct local_slab *local_new(struct participant *me, uint32_t granule, uint32_t size_class) {
    struct slab_cache *cache = cache_of(me);
    if (!cache) return NULL;
    uint32_t index = cache->first_hole;
    while (index < cache->count && cache->table[index]) index++;
    cache->first_hole = index;
    if (index == cache->count && cache->count == cache->room) {
        uint32_t room = cache->room ? 2 * cache->room : 16;
        struct local_slab **table = os_reallocate(cache->table, room * sizeof(struct local_slab *));
        if (!table) return NULL;
        cache->table = table;
        cache->room = room;
    }
    struct local_slab *s = NULL;
    if (index < MAX_LOCAL_SLABS - 1)
        s = os_allocate_aligned(_Alignof(struct local_slab), sizeof *s);
    if (!s) return NULL;
    *s = (struct local_slab){0};
    if (index == cache->count) cache->count++;
    cache->table[index] = s;
    s->shared = slab_at(me->heap, granule);
    s->owner = slab_owner_word(me->tag, index);
    s->offset = page_offset(me->heap, page_of_granule(me->heap, granule));
    s->blocks = slab_blocks(me->heap, size_class);
    s->size_class = size_class;
    s->bytes = size_class_bytes(size_class);
    uint32_t units = s->bytes / BLOCK_ALIGN;
    s->reciprocal = ((UINT64_C(1) << 32) + units - 1) / units;
    s->granule = granule;
    lead_to(me, s);
    return s;
}

static void local_drop(struct participant *me, struct local_slab *s) {
    uint32_t index = slab_owner_index(s->owner);
    lead_nowhere(me, s);
    me->memory->slabs.table[index] = NULL;
    if (index < me->memory->slabs.first_hole) me->memory->slabs.first_hole = index;
    if (me->memory->slabs.last_slab == s) me->memory->slabs.last_offset = 0;
    free(s);
}

/* Blocks --------------------------------------------------------------------------------- */

/*
 * Marks blocks free whose tags say so: their former owner, from which the slab was taken, may have
 * freed them in its own half. Returns how many.
 */
static uint32_t collect_by_tags(struct local_slab *s) {
    uint32_t before = s->free_blocks;
    for (uint32_t i = 0; i < s->blocks; i++) {
        if (get_acquire(&s->shared->tags[i]) != TAG_FREE) continue; /* pairs with free_mine() */
        if (s->words[i / 64].free >> (i & 63) & 1 || (s->hot && s->hot_index == i)) continue;
        mark_free(s, i);
        s->free_blocks++;
    }
    return s->free_blocks - before;
}

/* Takes what others have freed; returns how many blocks. In collect_mine(), or under the lock. */
static uint32_t collect(struct local_slab *s) {
    uint32_t before = s->free_blocks;
    for (uint32_t w = 0; w < (s->blocks + 63) / 64; w++) {
        uint64_t bits = get_acquire(&s->shared->remote[w]); /* pairs with slab_free() */
        if (!bits) continue;
        /* A block that is free already cannot have been freed by another: do not count it twice. */
        uint64_t fresh = bits & ~s->words[w].free;
        if (s->hot && s->hot_index / 64 == w) fresh &= ~(UINT64_C(1) << (s->hot_index & 63));
        for (uint64_t left = fresh; left; left &= left - 1) {
            uint32_t index = w * 64 + (uint32_t)__builtin_ctzll(left);
            if (index >= s->blocks) break;
            put_release(&s->shared->tags[index], TAG_FREE); /* pairs with all_free() */
            mark_free(s, index);
            s->free_blocks++;
        }
        put_and(&s->shared->remote[w], ~bits); /* after the tags, so that no bit is lost */
    }
    if (UNLIKELY(s->was_shared)) collect_by_tags(s);
    return s->free_blocks - before;
}

/* The same for a slab that may be revoked meanwhile. */
static uint32_t collect_mine(struct participant *me, struct local_slab *s) {
    participant_enter(me);
    uint32_t count = is_mine(s) ? collect(s) : 0;
    participant_leave(me);
    return count;
}

/*
 * Returns 1 if the slab is still the caller's. Otherwise it was revoked: drops the private half and
 * returns 0, or returns an error. A participant that revokes may still restore the owner word; it
 * does so under the lock, so the lock is taken before the final look.
 */
static int drop_if_revoked(struct participant *me, struct bin *bin, struct local_slab *s) {
    if (LIKELY(is_mine(s))) return 1;
    int error = heap_lock(me);
    if (error) return error;
    bool mine = is_mine(s);
    heap_unlock(me);
    if (mine) return 1;
    bin_remove(bin, s);
    local_drop(me, s);
    return 0;
}

/* Slabs ---------------------------------------------------------------------------------- */

/* Frees a slab of which no block is in use. */
static int slab_release(struct participant *me, struct bin *bin, struct local_slab *s) {
    int error = heap_lock(me);
    if (error) return error;
    if (is_mine(s)) {
        put(&s->shared->owner, 0);
        extent_free(me, page_of_granule(me->heap, s->granule));
    }
    heap_unlock(me);
    bin_remove(bin, s);
    local_drop(me, s);
    extents_trim_if_due(me);
    return 0;
}

static int slab_create(struct participant *me, uint32_t size_class, struct local_slab **result) {
    ipcheap_heap *heap = me->heap;
    uint64_t pages = slab_bytes(heap, size_class) >> PAGE_SHIFT, first;
    /* Until the tags are in order: others that need memory wait for it, survivors free it. */
    int error = extent_allocate(me, DATA_ZONE, pages, pages, KIND_FREE_PENDING, my_tag(me), &first);
    if (error) return error;
    uint32_t granule = granule_of_page(heap, first);
    uint32_t blocks = slab_blocks(heap, size_class);
    struct slab *shared = slab_at(heap, granule);
    error = segment_commit_meta(heap, shared, sizeof *shared + blocks * sizeof(shared64));
    uint64_t step = UINT64_C(1) << (heap->geometry.slab_shift - PAGE_SHIFT);
    for (uint64_t part = first + step; part < first + pages && !error; part += step)
        error = segment_commit_meta(heap, &heap->pages[part], sizeof(struct page));
    struct local_slab *s = error ? NULL : local_new(me, granule, size_class);
    if (!s) {
        deferred_extent_free(me, first);
        return error ? error : IPCHEAP_NO_MEMORY;
    }
    put(&shared->size_class, size_class);
    put(&shared->next_orphan, 0);
    put(&shared->owner, s->owner);
    for (uint32_t w = 0; w < REMOTE_WORDS; w++) put(&shared->remote[w], 0);
    for (uint32_t i = 0; i < blocks; i++) put(&shared->tags[i], TAG_FREE);
    for (uint64_t part = first + step; part < first + pages; part += step)
        put(&heap->pages[part].word, page_word(PAGE_PART, KIND_SLAB, 0));
    put_release(&heap->pages[first].word, page_word(PAGE_USED, KIND_SLAB, pages));
    for (uint32_t i = 0; i < blocks; i++) mark_free(s, i);
    s->free_blocks = blocks;
    *result = s;
    return 0;
}

/* Under the lock: takes over an orphan. Its tags say everything about it. */
static struct local_slab *slab_adopt(struct participant *me, uint32_t granule,
                                     uint32_t size_class) {
    struct slab *shared = slab_at(me->heap, granule);
    struct local_slab *s = local_new(me, granule, size_class);
    if (!s) return NULL;
    put_release(&shared->owner, s->owner);
    s->was_shared = get(&me->heap->header->revoked) != 0;
    for (uint32_t i = 0; i < s->blocks; i++)
        if (get(&shared->tags[i]) == TAG_FREE) {
            mark_free(s, i);
            s->free_blocks++;
        }
    /* If a dead owner had set the tag to FREE but not cleared the bit, the block counts once. */
    for (uint32_t w = 0; w < REMOTE_WORDS; w++)
        if (s->words[w].free & get(&shared->remote[w]))
            put_and(&shared->remote[w], ~s->words[w].free);
    collect(s);
    return s;
}

/* Under the lock: takes the first orphan of a class; 0 if there is none, or its list is broken. */
static uint32_t orphan_pop(ipcheap_heap *heap, uint32_t size_class, bool *sound) {
    shared32 *list = &heap->header->orphans[size_class];
    uint32_t link = get(list);
    *sound = true;
    if (link == 0) return 0;
    uint32_t found;
    *sound = link <= heap->geometry.granules &&
             slab_valid(heap, page_of_granule(heap, link - 1), &found) && found == size_class &&
             get(&slab_at(heap, link - 1)->owner) == 0;
    put(list, *sound ? get(&slab_at(heap, link - 1)->next_orphan) : 0);
    return *sound ? link : 0;
}

static struct local_slab *adopt_any(struct participant *me, uint32_t size_class) {
    struct local_slab *s = NULL;
    bool sound;
    if (get(&me->heap->header->orphans[size_class]) == 0 || heap_lock(me)) return NULL;
    uint32_t link = orphan_pop(me->heap, size_class, &sound);
    if (link) s = slab_adopt(me, link - 1, size_class);
    if (link && !s) slab_orphan(me->heap, link - 1); /* no memory for the private half */
    if (UNLIKELY(!sound)) slabs_rebuild(me->heap);
    heap_unlock(me);
    return s;
}

/* Looks for remote frees in full slabs; the slabs checked go to the end of their list. */
static struct local_slab *probe_full(struct participant *me, struct bin *bin, uint32_t probes) {
    struct local_slab *last = bin->full.last;
    for (; bin->full.first && probes; probes--) {
        struct local_slab *s = bin->full.first;
        bool round = s == last;
        int mine = drop_if_revoked(me, bin, s);
        if (mine > 0) {
            list_remove(bin, s);
            if (collect_mine(me, s)) return s;
            list_add(bin, s);
        }
        if (round || mine < 0) break;
    }
    return NULL;
}

/* Finds a slab with a free block, and takes it off its list. */
static int find_slab(struct participant *me, uint32_t size_class, struct local_slab **result) {
    struct bin *bin = &me->memory->slabs.bins[size_class];
    struct local_slab *s;
    while ((s = bin->available.first)) {
        int mine = drop_if_revoked(me, bin, s);
        if (mine < 0) return mine;
        if (mine == 0) continue;
        list_remove(bin, s);
        *result = s;
        return 0;
    }
    *result = probe_full(me, bin, PROBES);
    while (!*result && (s = adopt_any(me, size_class))) {
        if (s->free_blocks)
            *result = s;
        else
            list_add(bin, s);
    }
    if (*result) return 0;
    int error = slab_create(me, size_class, result);
    if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL || error == IPCHEAP_CORRUPT) {
        *result = probe_full(me, bin, UINT32_MAX);
        if (*result) return 0;
    }
    return error;
}

/* Makes bin->current a slab with a free block. */
static int refill(struct participant *me, uint32_t size_class) {
    clock_tick(me->heap);
    struct bin *bin = &me->memory->slabs.bins[size_class];
    if (bin->current) {
        int mine = drop_if_revoked(me, bin, bin->current);
        if (mine < 0) return mine;
        if (mine && (bin->current->free_blocks || collect_mine(me, bin->current))) return 0;
    }
    struct local_slab *s = NULL;
    int error = find_slab(me, size_class, &s);
    if (error) return error;
    if (bin->current) list_add(bin, bin->current);
    bin->current = s;
    return 0;
}

int slab_allocate(struct participant *me, uint32_t size_class, uint64_t *offset) {
    if (!cache_of(me)) return IPCHEAP_NO_MEMORY;
    for (;;) {
        int error = refill(me, size_class);
        if (error) return error;
        *offset = slab_take(me, size_class);
        if (*offset) return 0;
    }
}

void slab_move(struct participant *me, struct local_slab *s) {
    struct bin *bin = &me->memory->slabs.bins[s->size_class];
    bool empty = s->free_blocks == s->blocks;
    if (s->list == FULL) {
        list_remove(bin, s);
        list_add(bin, s);
    } else if (empty) {
        bin->spares++;
    }
    if (empty && bin->spares > 1) slab_release(me, bin, s);
}

int slab_free(struct participant *me, const struct block *block) {
    struct slab *shared = block->slab;
    const struct slab_cache *cache = slabs_of(me);
    struct local_slab *s = cache ? cache->by_granule[block->granule] : NULL;
    if (s && s->shared == shared && is_mine(s)) {
        free_mine(me, s, block->index, s->offset + (uint64_t)block->index * s->bytes);
        return 0;
    }
    uint64_t bit = UINT64_C(1) << (block->index & 63);
    /* Release: pairs with collect(). */
    return put_or(&shared->remote[block->index / 64], bit) & bit ? IPCHEAP_RECORD : 0;
}

/* Giving slabs back ------------------------------------------------------------------------ */

static void release_if_empty(struct participant *me, struct local_slab *s) {
    struct bin *bin = &me->memory->slabs.bins[s->size_class];
    if (drop_if_revoked(me, bin, s) <= 0) return;
    bool listed = bin->current != s;
    if (listed) list_remove(bin, s);
    collect_mine(me, s);
    if (listed) list_add(bin, s);
    if (s->free_blocks == s->blocks) slab_release(me, bin, s);
}

void slabs_release_empty(struct participant *me) {
    struct slab_cache *cache = slabs_of(me);
    if (!cache) return;
    for (uint32_t i = 0; i < cache->count; i++)
        if (cache->table[i]) release_if_empty(me, cache->table[i]);
}

void slab_orphan(ipcheap_heap *heap, uint32_t granule) {
    struct slab *shared = slab_at(heap, granule);
    uint32_t size_class = get(&shared->size_class);
    put_release(&shared->owner, 0);
    if (size_class >= heap->geometry.classes) return;
    put(&shared->next_orphan, get(&heap->header->orphans[size_class]));
    put(&heap->header->orphans[size_class], granule + 1);
}

void slabs_abandon(struct participant *me) {
    struct slab_cache *cache = slabs_of(me);
    if (!cache) return;
    slabs_release_empty(me);
    if (heap_lock(me)) return; /* the slabs stay, and so does the participant */
    for (uint32_t i = 0; i < cache->count; i++) {
        struct local_slab *s = cache->table[i];
        if (!s) continue;
        if (is_mine(s)) slab_orphan(me->heap, s->granule);
        free(s);
    }
    heap_unlock(me);
    cache->count = 0;
    slabs_forget(me);
}

void slabs_forget(struct participant *me) {
    struct slab_cache *cache = &me->memory->slabs;
    for (uint32_t i = 0; i < cache->count; i++) free(cache->table[i]);
    free(cache->table);
    free(cache->by_granule);
    *cache = (struct slab_cache){0};
}

/*
 * Returns how many blocks are free, including those that the owner has not collected yet; 0 if there
 * are fewer than `wanted`.
 */
static uint32_t count_free(ipcheap_heap *heap, struct slab *shared, uint32_t size_class,
                           uint32_t wanted) {
    uint32_t blocks = slab_blocks(heap, size_class), count = 0;
    for (uint32_t i = 0; i < blocks && count + blocks - i >= wanted; i++) {
        bool is_free = get_acquire(&shared->tags[i]) == TAG_FREE; /* with collect(), free_mine() */
        count += is_free || block_is_remote_free(shared, i);
    }
    return count >= wanted ? count : 0;
}

static bool all_free(ipcheap_heap *heap, struct slab *shared, uint32_t size_class) {
    return count_free(heap, shared, size_class, slab_blocks(heap, size_class)) != 0;
}

void slabs_release_orphans(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    bool sound = true;
    for (uint32_t size_class = 0; size_class < heap->geometry.classes && sound; size_class++) {
        uint32_t kept = 0, link;
        /* Taking a list apart reverses its links, so even a circular list ends. */
        uint64_t bound = 2 * heap->geometry.granules;
        while (bound-- && (link = orphan_pop(heap, size_class, &sound))) {
            struct slab *shared = slab_at(heap, link - 1);
            if (all_free(heap, shared, size_class)) {
                extent_free(me, page_of_granule(heap, link - 1));
            } else {
                put(&shared->next_orphan, kept);
                kept = link;
            }
        }
        put(&heap->header->orphans[size_class], kept);
    }
    if (UNLIKELY(!sound)) slabs_rebuild(heap);
}

void slabs_rebuild(ipcheap_heap *heap) {
    for (uint32_t c = 0; c < CLASSES; c++) put(&heap->header->orphans[c], 0);
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk)) {
        if (walk.state != PAGE_USED || walk.kind != KIND_SLAB) continue;
        uint32_t size_class;
        if (!slab_valid(heap, walk.first, &size_class)) continue;
        uint32_t granule = granule_of_page(heap, walk.first);
        if (get(&slab_at(heap, granule)->owner) == 0) slab_orphan(heap, granule);
    }
}

/*
 * Under the lock: tries to take a slab from a living owner, which may go on to use the blocks that
 * it holds in there, and will take no other. Makes the owner's check fail, then looks again whether
 * as many blocks as wanted are free.
 */
static bool revoke(struct participant *me, struct slab *shared, uint32_t size_class,
                   uint32_t wanted) {
    uint64_t owner = get(&shared->owner);
    if (owner == 0 || slab_owner_tag(owner) == me->tag) return false;
    if (!count_free(me->heap, shared, size_class, wanted)) return false;
    put(&me->heap->header->revoked, 1); /* from now on no private half is trusted */
    put(&shared->owner, slab_owner_word(me->tag, MAX_LOCAL_SLABS - 1));
    uint32_t slot = tag_slot(slab_owner_tag(owner));
    bool quiet = os_membarrier() && participant_settled(me->heap, slot);
    if (quiet && count_free(me->heap, shared, size_class, wanted)) return true;
    put(&shared->owner, owner);
    return false;
}

/* Takes a slab of which no block is in use. */
static bool revoke_empty(struct participant *me, uint64_t page) {
    uint32_t size_class;
    if (!slab_valid(me->heap, page, &size_class)) return false;
    struct slab *shared = slab_at(me->heap, granule_of_page(me->heap, page));
    return revoke(me, shared, size_class, slab_blocks(me->heap, size_class));
}

void slabs_revoke(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    if (get(&heap->header->fences)) return; /* some owner cannot be reached by a membarrier */
    uint64_t taken[64];
    size_t count;
    do {
        count = 0;
        struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
        while (count < sizeof taken / sizeof *taken && extent_step(heap, &walk))
            if (walk.state == PAGE_USED && walk.kind == KIND_SLAB && revoke_empty(me, walk.first))
                taken[count++] = walk.first;
        for (size_t i = 0; i < count; i++) {
            put(&slab_at(heap, granule_of_page(heap, taken[i]))->owner, 0);
            extent_free(me, taken[i]);
        }
    } while (count == sizeof taken / sizeof *taken);
}

/* Sharing ---------------------------------------------------------------------------------- */

#define REFUSALS 8 /* slabs whose owners are busy that are passed over */

/* A slab that another participant, or none, could let us have. */
struct offer {
    uint32_t granule, size_class, free_blocks;
    bool owned;
};

static bool is_refused(const uint32_t refused[REFUSALS], uint32_t count, uint32_t granule) {
    while (count--)
        if (refused[count] == granule) return true;
    return false;
}

/*
 * Under the lock: finds the slab of the lowest class, of this one and those above, and among these
 * one that has half of its blocks free, or the most. False if no slab of others has a free block.
 */
static bool find_offer(struct participant *me, uint32_t size_class, const uint32_t *refused,
                       uint32_t refusals, struct offer *best) {
    ipcheap_heap *heap = me->heap;
    bool fences = get(&heap->header->fences); /* see slabs_revoke() */
    *best = (struct offer){.size_class = CLASSES};
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk)) {
        uint32_t found, granule = granule_of_page(heap, walk.first);
        if (walk.state != PAGE_USED || walk.kind != KIND_SLAB) continue;
        if (!slab_valid(heap, walk.first, &found)) continue;
        if (found < size_class || found > best->size_class) continue;
        struct slab *shared = slab_at(heap, granule);
        uint64_t owner = get(&shared->owner);
        bool mine = owner && slab_owner_tag(owner) == me->tag;
        if (mine || (owner && fences) || is_refused(refused, refusals, granule)) continue;
        uint32_t wanted = found < best->size_class ? 1 : best->free_blocks + 1;
        uint32_t count = count_free(heap, shared, found, wanted);
        if (!count) continue;
        *best = (struct offer){granule, found, count, owner != 0};
        if (found == size_class && count >= slab_blocks(heap, found) / 2) break;
    }
    return best->free_blocks != 0;
}

/* Returns the lowest of our classes above this one with a free block; CLASSES if there is none. */
static uint32_t own_larger(const struct participant *me, uint32_t size_class) {
    const struct bin *bins = me->memory->slabs.bins;
    uint32_t classes = me->heap->geometry.classes;
    for (uint32_t c = size_class + 1; c < classes; c++)
        if (bins[c].available.first || (bins[c].current && bins[c].current->free_blocks)) return c;
    return CLASSES;
}

/* Under the lock: makes an offered slab the current one of its bin; false if its owner is busy. */
static bool accept(struct participant *me, const struct offer *offer, int *error) {
    struct slab *shared = slab_at(me->heap, offer->granule);
    if (offer->owned && !revoke(me, shared, offer->size_class, 1)) return false;
    struct bin *bin = &me->memory->slabs.bins[offer->size_class];
    struct local_slab *s = slab_adopt(me, offer->granule, offer->size_class);
    if (!s) {
        *error = IPCHEAP_NO_MEMORY; /* for the private half */
        if (offer->owned) slab_orphan(me->heap, offer->granule);
        return true;
    }
    if (!offer->owned) slabs_rebuild(me->heap); /* it may have been anywhere in its list */
    if (bin->current) list_add(bin, bin->current);
    bin->current = s;
    return true;
}

int slab_share(struct participant *me, uint32_t size_class, uint64_t *offset) {
    if (!cache_of(me)) return IPCHEAP_NO_MEMORY;
    uint32_t refused[REFUSALS], refusals = 0;
    struct offer offer;
    int error = heap_lock(me);
    if (error) return error;
    *offset = 0;
    while (!*offset && !error) {
        bool found = find_offer(me, size_class, refused, refusals, &offer);
        uint32_t own = own_larger(me, size_class);
        if (own < CLASSES && own <= offer.size_class) {
            error = slab_allocate(me, own, offset);
            /* That block was gone already; the next look finds another one, or none. */
            if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL) error = 0;
        } else if (!found) {
            error = refusals ? IPCHEAP_WOULD_BLOCK : IPCHEAP_HEAP_FULL;
        } else if (accept(me, &offer, &error)) {
            if (!error) *offset = slab_take(me, offer.size_class);
            if (!error && !*offset) error = IPCHEAP_HEAP_FULL; /* corrupt tags */
        } else if (refusals < REFUSALS) {
            refused[refusals++] = offer.granule;
        } else {
            error = IPCHEAP_WOULD_BLOCK;
        }
    }
    heap_unlock(me);
    return error;
}
