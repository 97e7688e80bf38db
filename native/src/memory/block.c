#include "memory/block.h"

#include "base/timing.h"
#include "memory/deferred.h"
#include "memory/extent.h"
#include "memory/trim.h"
#include "segment/commit.h"
#include "segment/lock.h"
#include "segment/membership.h"
#include "segment/participant.h"

bool place_find(ipcheap_heap *heap, uint64_t offset, struct place *place) {
    const struct geometry *g = &heap->geometry;
    uint64_t end = g->data_at + (g->zone_pages[DATA_ZONE] << PAGE_SHIFT);
    if (offset < g->data_at || offset >= end || offset % BLOCK_ALIGN) return false;
    place->in_slab = slab_find(heap, offset, &place->block);
    if (place->in_slab) {
        place->tag = &place->block.slab->tags[place->block.index];
        return true;
    }
    if (offset % PAGE) return false;
    place->page = (offset - g->data_at) >> PAGE_SHIFT;
    if (!segment_meta_committed(heap, &heap->pages[place->page], sizeof(struct page))) return false;
    uint64_t word = get_acquire(&heap->pages[place->page].word); /* pairs with take() */
    place->tag = &heap->pages[place->page].tag;
    return word_state(word) == PAGE_USED && word_kind(word) == KIND_RECORD;
}

bool place_is(const struct place *place, uint64_t tag) {
    /* The bit first, because the slab's owner clears it after it has changed the tag. */
    if (place->in_slab && block_is_remote_free(place->block.slab, place->block.index)) return false;
    return get_acquire(place->tag) == tag; /* pairs with collect() and free_mine() */
}

uint64_t place_bytes(ipcheap_heap *heap, const struct place *place) {
    if (place->in_slab) return place->block.bytes;
    return word_length(get(&heap->pages[place->page].word)) << PAGE_SHIFT;
}

struct participant *block_owner(ipcheap_heap *heap, const struct place *place) {
    uint64_t tag = get(place->tag);
    if (tag_kind(tag) != TAG_OWN) return NULL;
    struct participant *owner = heap->by_slot[tag_slot(tag)];
    if (!owner || !participant_owns(owner, tag)) return NULL;
    if (place->in_slab && block_is_remote_free(place->block.slab, place->block.index)) return NULL;
    return owner;
}

int nobody_here_owns(ipcheap_heap *heap, uint64_t offset) {
    struct place place;
    if (!place_find(heap, offset, &place)) return IPCHEAP_RECORD;
    uint64_t tag = get(place.tag);
    int why = IPCHEAP_RECORD;
    process_enter(); /* threads come and go */
    for (const struct participant *p = heap->inherited; p; p = p->next_of_heap)
        if (participant_owns(p, tag)) why = IPCHEAP_WRONG_PROCESS;
    for (const struct participant *p = heap->members; p; p = p->next_of_heap)
        if (p->lost && participant_owns(p, tag)) why = IPCHEAP_DESCRIPTOR_LOST;
    process_leave();
    return why;
}

void participant_holds(struct participant *me, struct participant *owner, int change) {
    if (LIKELY(me == owner))
        owner->held += change;
    else
        atomic_fetch_add_explicit(&owner->held_elsewhere, change, memory_order_relaxed);
}

/*
 * Does rounding cost the heap little? It may cost one of 32 such records. In a heap of 8 to 32
 * times the size it must not cost any, including what alignment leaves unused before the first
 * record: a heap made for a number of records has to hold them.
 */
static bool is_spacious(const ipcheap_heap *heap, uint64_t pages, uint64_t rounded) {
    uint64_t all = heap->geometry.zone_pages[DATA_ZONE];
    if (rounded <= all / 32) return true;
    return rounded <= all / 8 && (all - LARGE_PAGE) / rounded >= all / pages;
}

/*
 * Allocates whole large pages. HEAP_FULL if that adds more than 1/32, if the heap is not spacious
 * enough, or if there are no large pages, as in System V segments.
 */
static int allocate_large(struct participant *me, uint64_t pages, uint64_t *first) {
    uint64_t rounded = round_up(pages, LARGE_PAGE);
    if (me->heap->sysv || rounded - pages > pages / 32) return IPCHEAP_HEAP_FULL;
    if (!is_spacious(me->heap, pages, rounded)) return IPCHEAP_HEAP_FULL;
    return extent_allocate(me, DATA_ZONE, rounded, LARGE_PAGE, KIND_RECORD, my_tag(me), first);
}

static int allocate_once(struct participant *me, uint64_t nbytes, uint64_t *offset) {
    uint32_t size_class = size_class_of(nbytes);
    int error = IPCHEAP_HEAP_FULL;
    if (LIKELY(size_class < me->heap->geometry.classes)) {
        error = slab_allocate(me, size_class, offset);
        if (LIKELY(error != IPCHEAP_HEAP_FULL)) return error;
    }
    /* The size is too large for a slab, or no slab fits any more. */
    uint64_t pages = nbytes / PAGE + (nbytes % PAGE != 0 || nbytes == 0), first;
    error = allocate_large(me, pages, &first);
    /* After CORRUPT, an unaligned run may still fit in the part whose heads add up. */
    if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL || error == IPCHEAP_CORRUPT)
        error = extent_allocate(me, DATA_ZONE, pages, 1, KIND_RECORD, my_tag(me), &first);
    if (!error) *offset = page_offset(me->heap, first);
    return error;
}

#define BUSY_LOOKS 20 /* how often to look again at slabs that could not be taken */

/* The slow half of block_allocate(): reclaims and tries again. */
static int allocate_again(struct participant *me, uint64_t nbytes, uint64_t *offset, int error) {
    /* After CORRUPT, what is reclaimed may still do. */
    bool short_of = error == IPCHEAP_HEAP_FULL || error == IPCHEAP_CORRUPT;
    if (!short_of && error != IPCHEAP_MEMORY_FULL) return error;
    if (nbytes > me->heap->geometry.zone_pages[DATA_ZONE] << PAGE_SHIFT) return IPCHEAP_HEAP_FULL;
    if (!may_sleep()) return IPCHEAP_WOULD_SLEEP;
    int64_t deadline = os_deadline(me->heap->lock_timeout);
    uint32_t size_class = size_class_of(nbytes);
    for (int looks = BUSY_LOOKS;;) {
        int busy = heap_reclaim(me, error == IPCHEAP_MEMORY_FULL);
        if (busy) return busy;
        error = allocate_once(me, nbytes, offset);
        if (error != IPCHEAP_HEAP_FULL && error != IPCHEAP_MEMORY_FULL) return error;
        /* A trimmer is returning memory to the system, piece by piece: each is free in a moment. */
        bool soon = true;
        if (heap_lock(me) == 0) {
            soon = extents_free_pending(me->heap);
            heap_unlock(me);
        }
        int shared = IPCHEAP_HEAP_FULL;
        if (size_class < me->heap->geometry.classes) shared = slab_share(me, size_class, offset);
        if (shared == IPCHEAP_WOULD_BLOCK)
            soon |= looks-- > 0;
        else if (shared != IPCHEAP_HEAP_FULL)
            return shared;
        if (error == IPCHEAP_MEMORY_FULL || !soon || os_remaining(deadline) == 0) return error;
        os_nap(TRIM_NAP);
    }
}

int block_allocate(struct participant *me, uint64_t nbytes, uint64_t *offset) {
    deferred_retry(me);
    int error = trim_retry(me);
    if (!error) error = allocate_once(me, nbytes, offset);
    if (error) error = allocate_again(me, nbytes, offset, error);
    if (!error) me->held++;
    return error;
}

static int block_free_extent(struct participant *me, const struct place *place) {
    uint64_t before = get(place->tag);
    deferred_retry(me);
    put(place->tag, my_tag(me));
    int error = extent_free(me, place->page);
    if (LIKELY(!error)) return 0;
    /* Private memory is needed only here: freeing takes none and cannot fail under the lock. */
    if (error == IPCHEAP_HEAP_BUSY) error = deferred_reserve(me, 1);
    if (!error) {
        deferred_add(me, place->page);
        return 0;
    }
    put(place->tag, before); /* the former owner's again, as the counts of held records say */
    return error;
}

void block_drop(struct participant *me, uint64_t offset) {
    struct place place;
    if (!place_find(me->heap, offset, &place)) return;
    uint64_t page = place.page;
    if (block_free(me, &place) == IPCHEAP_WOULD_SLEEP) deferred_add(me, page);
    me->held--;
}

int block_free(struct participant *me, const struct place *place) {
    return LIKELY(place->in_slab) ? slab_free(me, &place->block) : block_free_extent(me, place);
}

int heap_reclaim(struct participant *me, bool give_back) {
    deferred_retry(me);
    slabs_release_empty(me);
    int error = heap_lock(me);
    if (error) return error;
    me->heap->hooks->reclaim(me);
    deferred_free_all(me);
    slabs_release_orphans(me);
    slabs_revoke(me);
    heap_unlock(me);
    slabs_release_empty(me); /* channels may have returned the last block of a slab */
    if (give_back) {
        int64_t given = extents_trim(me, 0);
        if (given < 0) return (int)given;
    }
    extents_trim_if_due(me);
    return 0;
}
