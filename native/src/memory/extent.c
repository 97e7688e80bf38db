#include "memory/extent.h"

#include "memory/deferred.h"
#include "memory/extent_index.h"
#include "memory/participant_memory.h"
#include "memory/rotation.h"
#include "memory/trim.h"
#include "segment/commit.h"
#include "segment/lock.h"

static uint64_t zone_end(const ipcheap_heap *heap, int zone) {
    return heap->geometry.zone_first[zone] + heap->geometry.zone_pages[zone];
}

static int zone_of(const ipcheap_heap *heap, uint64_t page) {
    return page < heap->geometry.zone_first[SYSTEM_ZONE] ? DATA_ZONE : SYSTEM_ZONE;
}

/* Has any run begun or ended there? If not, the page of its descriptor may be a hole. */
static bool descriptor_exists(const ipcheap_heap *heap, uint64_t page) {
    return segment_meta_committed(heap, &heap->pages[page], sizeof(struct page));
}

/* Returns the length of the free run that starts at `first`; 0 if none does. */
static uint64_t free_length(const ipcheap_heap *heap, int zone, uint64_t first) {
    if (first < heap->geometry.zone_first[zone] || first >= zone_end(heap, zone)) return 0;
    if (!descriptor_exists(heap, first)) return 0;
    uint64_t word = get(&heap->pages[first].word), length = word_length(word);
    if (word_state(word) != PAGE_FREE) return 0;
    return length >= 1 && length <= zone_end(heap, zone) - first ? length : 0;
}

static int commit_descriptor(ipcheap_heap *heap, uint64_t page) {
    return segment_commit_meta(heap, &heap->pages[page], sizeof(struct page));
}

static int rebuild_zone(ipcheap_heap *heap, int zone);

/* Finding and taking ------------------------------------------------------------------ */

struct fit {
    uint64_t head, length, start;
};

static bool fits(ipcheap_heap *heap, int zone, uint64_t head, uint64_t pages, uint64_t align,
                 struct fit *fit) {
    uint64_t length = free_length(heap, zone, head);
    uint64_t start = round_up(head, align);
    if (length < pages || start + pages > head + length) return false;
    *fit = (struct fit){head, length, start};
    return true;
}

/* Returns 0, HEAP_FULL, or CORRUPT if the zone may only look full because its heads are broken. */
static int find(ipcheap_heap *heap, int zone, uint64_t pages, uint64_t align, struct fit *fit) {
    int bin = -1;
    uint64_t head;
    bool stale = false;
    while (index_candidate(heap, zone, pages, &bin, &head)) {
        if (head != UINT64_MAX && fits(heap, zone, head, pages, align, fit)) return 0;
        stale |= head == UINT64_MAX || free_length(heap, zone, head) == 0;
    }
    if (UNLIKELY(stale)) rebuild_zone(heap, zone);
    /* The caller can do without a large page, so do not keep the lock for long. */
    if (align == LARGE_PAGE) return IPCHEAP_HEAP_FULL;
    /* The lowest run of each bin does not fit. Look at every run before giving up. */
    struct extent_walk walk = extent_walk_of(heap, zone);
    while (extent_step(heap, &walk))
        if (walk.state == PAGE_FREE && fits(heap, zone, walk.first, pages, align, fit)) return 0;
    return walk.broken ? IPCHEAP_CORRUPT : IPCHEAP_HEAP_FULL;
}

static void put_tail(ipcheap_heap *heap, uint64_t first, uint64_t length) {
    if (length > 1 && descriptor_exists(heap, first + length - 1))
        put(&heap->pages[first + length - 1].word, page_word(PAGE_TAIL, KIND_NONE, length));
}

static int take(ipcheap_heap *heap, int zone, const struct fit *fit, uint64_t pages,
                enum page_kind kind, uint64_t tag) {
    struct page *page = heap->pages;
    uint64_t first = fit->start, end = first + pages;
    uint64_t before = first - fit->head, after = fit->head + fit->length - end;
    int error = commit_descriptor(heap, first);
    if (!error && before) error = commit_descriptor(heap, first - 1);
    if (!error) error = commit_descriptor(heap, end - 1);
    if (!error) error = commit_descriptor(heap, end); /* pages[] has a spare one */
    if (error) return error;

    bool sound = index_remove(heap, zone, fit->head, fit->length);
    if (after) {
        put_tail(heap, end, after);
        put(&page[end].word, page_word(PAGE_FREE, KIND_NONE, after));
    }
    if (pages > 1) put(&page[end - 1].word, 0); /* or a neighbour would find a stale tail */
    put(&page[first].tag, tag);
    /* A crash right after the next store would leave a used head inside a free run. */
    if (before) put(&heap->header->freeing, first + 1);
    put_release(&page[first].word, page_word(PAGE_USED, kind, pages));
    if (before) {
        /* So far everything lay inside one free run. This store cuts it. */
        put_release(&page[fit->head].word, page_word(PAGE_FREE, KIND_NONE, before));
        put_tail(heap, fit->head, before);
        index_insert(heap, zone, fit->head, before);
    }
    if (after) index_insert(heap, zone, end, after);
    put(&heap->header->zones[zone].used, get(&heap->header->zones[zone].used) + pages);
    if (UNLIKELY(!sound)) rebuild_zone(heap, zone);
    return 0;
}

int extent_cut(struct participant *me, const struct extent_walk *run, uint64_t first,
               uint64_t pages, enum page_kind kind) {
    struct fit fit = {run->first, run->length, first};
    return take(me->heap, run->zone, &fit, pages, kind, my_tag(me));
}

/* `anew`: does not believe that a page has memory already. */
static int allocate(struct participant *me, int zone, uint64_t pages, uint64_t align,
                    enum page_kind kind, uint64_t tag, bool anew, uint64_t *first) {
    ipcheap_heap *heap = me->heap;
    if (pages == 0 || pages > heap->geometry.zone_pages[zone]) return IPCHEAP_HEAP_FULL;
    if (!memory_of(me)) return IPCHEAP_NO_MEMORY;
    bool stream = kind == KIND_RECORD && align == 1; /* not a future slab */
    if (stream) {
        rotation_turn(me, pages);
        memory_show_ways(me);
    }
    /* Another core had these lines last: fetch them in parallel, and with the lock. */
    index_prefetch(heap, zone, pages);
    prefetch_to_write(&heap->pages[me->memory->recent_page]);
    int error = deferred_reserve(me, 1); /* for the case that it must be freed again below */
    if (!error) error = heap_lock(me);
    if (error) return error;
    struct fit fit;
    bool in_turn = stream && fits(heap, zone, rotation_page(me, pages), pages, align, &fit);
    if (!in_turn) error = find(heap, zone, pages, align, &fit);
    if (!error) error = take(heap, zone, &fit, pages, kind, tag);
    if (!error && zone == DATA_ZONE) {
        note_taken(heap, pages - committed_pages(heap, fit.start, pages));
    }
    heap_unlock(me);
    if (error) return error;
    error = anew ? commit_pages_anew(heap, fit.start, pages) : commit_pages(heap, fit.start, pages);
    if (error) {
        deferred_extent_free(me, fit.start);
        return error;
    }
    if (stream) rotation_note(me, fit.start, pages);
    me->memory->recent_page = fit.start;
    *first = fit.start;
    return 0;
}

int extent_allocate(struct participant *me, int zone, uint64_t pages, uint64_t align,
                    enum page_kind kind, uint64_t tag, uint64_t *first) {
    return allocate(me, zone, pages, align, kind, tag, false, first);
}

int extent_allocate_anew(struct participant *me, int zone, uint64_t pages, enum page_kind kind,
                         uint64_t tag, uint64_t *first) {
    return allocate(me, zone, pages, 1, kind, tag, true, first);
}

/* Freeing ----------------------------------------------------------------------------- */

/* Returns the start of the free run that ends before `page`; `page` itself if there is none. */
static uint64_t free_run_before(ipcheap_heap *heap, int zone, uint64_t page) {
    if (page == heap->geometry.zone_first[zone]) return page;
    uint64_t word = get(&heap->pages[page - 1].word), length = word_length(word);
    bool one = word_state(word) == PAGE_FREE && length == 1;
    if (!one && word_state(word) != PAGE_TAIL) return page;
    if (length > page - heap->geometry.zone_first[zone]) return page;
    return free_length(heap, zone, page - length) == length ? page - length : page;
}

static void release_run(ipcheap_heap *heap, int zone, uint64_t first, uint64_t length) {
    struct page *page = heap->pages;
    uint64_t start = free_run_before(heap, zone, first), end = first + length;
    uint64_t right = end < zone_end(heap, zone) ? free_length(heap, zone, end) : 0;
    bool sound = true;
    if (start != first) sound &= index_remove(heap, zone, start, first - start);
    if (right) sound &= index_remove(heap, zone, end, right);
    uint64_t total = end + right - start;
    /* A crash right after the commit would leave a used head inside a free run. */
    if (start != first) put(&heap->header->freeing, first + 1);
    /* Frees and merges in one store, so that a crash cannot leave half of it. */
    put_release(&page[start].word, page_word(PAGE_FREE, KIND_NONE, total));
    if (start != first) {
        if (first - 1 != start) put(&page[first - 1].word, 0);
        put(&page[first].word, 0);
    }
    if (right) put(&page[end].word, 0);
    put_tail(heap, start, total);
    index_insert(heap, zone, start, total);
    put(&heap->header->zones[zone].used, get(&heap->header->zones[zone].used) - length);
    if (UNLIKELY(!sound)) rebuild_zone(heap, zone);
}

int extent_free(struct participant *me, uint64_t first) {
    ipcheap_heap *heap = me->heap;
    if (first >= heap->geometry.total_pages || !descriptor_exists(heap, first))
        return IPCHEAP_CORRUPT;
    int zone = zone_of(heap, first);
    prefetch_to_write(&heap->pages[first]);
    index_prefetch(heap, zone, word_length(get(&heap->pages[first].word)));
    int error = heap_lock(me);
    if (error) return error;
    uint64_t word = get(&heap->pages[first].word), length = word_length(word);
    bool valid = word_state(word) == PAGE_USED && length >= 1 &&
                 length <= zone_end(heap, zone) - first;
    /* Returning memory to the system takes too long for a caller that must not sleep. */
    bool trim = valid && zone == DATA_ZONE && word_kind(word) != KIND_FREE_PENDING &&
                me->lock_depth == 1 && trim_is_due(heap, length);
    bool later = trim && !may_sleep();
    if (valid && !later) release_run(heap, zone, first, length);
    heap_unlock(me);
    if (!valid) return IPCHEAP_CORRUPT;
    if (later) return IPCHEAP_WOULD_SLEEP;
    if (trim) extents_trim_if_due(me);
    return 0;
}

/* Scanning ----------------------------------------------------------------------------- */

struct extent_walk extent_walk_of(const ipcheap_heap *heap, int zone) {
    return (struct extent_walk){.zone = zone, .next = heap->geometry.zone_first[zone]};
}

bool extent_step(const ipcheap_heap *heap, struct extent_walk *walk) {
    uint64_t end = zone_end(heap, walk->zone);
    if (walk->next >= end) return false;
    uint64_t word = descriptor_exists(heap, walk->next) ? get(&heap->pages[walk->next].word) : 0;
    walk->first = walk->next;
    walk->length = word_length(word);
    walk->state = word_state(word);
    walk->kind = word_kind(word);
    bool head = walk->state == PAGE_FREE || walk->state == PAGE_USED;
    if (!head || walk->length < 1 || walk->length > end - walk->first) {
        walk->broken = true;
        return false;
    }
    walk->next += walk->length;
    return true;
}

bool extent_is(const ipcheap_heap *heap, uint64_t offset, uint64_t bytes, enum page_kind kind,
               uint64_t tag) {
    const struct geometry *g = &heap->geometry;
    uint64_t page = (offset - g->data_at) >> PAGE_SHIFT;
    if (offset < g->data_at || offset % PAGE || page >= g->total_pages) return false;
    if (!descriptor_exists(heap, page)) return false;
    uint64_t word = get_acquire(&heap->pages[page].word); /* pairs with take() */
    uint64_t length = word_length(word);
    if (word_state(word) != PAGE_USED || word_kind(word) != kind) return false;
    if (length > zone_end(heap, zone_of(heap, page)) - page) return false;
    return bytes <= length << PAGE_SHIFT && get(&heap->pages[page].tag) == tag;
}

uint64_t extents_longest(ipcheap_heap *heap) {
    uint64_t longest = 0;
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk))
        if (walk.state == PAGE_FREE) longest = greatest(longest, walk.length);
    return longest;
}

static int rebuild_zone(ipcheap_heap *heap, int zone) {
    struct page *page = heap->pages;
    uint64_t used = 0, run = 0, run_length = 0, freeing = get(&heap->header->freeing);
    index_clear(heap, zone);
    struct extent_walk walk = extent_walk_of(heap, zone);
    while (extent_step(heap, &walk)) {
        bool inside = freeing && freeing - 1 > walk.first && freeing - 1 < walk.next;
        /* Inside a used run, that word belongs to the run: it may mark a part of a large slab. */
        if (inside && walk.state == PAGE_FREE && descriptor_exists(heap, freeing - 1))
            put(&page[freeing - 1].word, 0);
        if (walk.state == PAGE_FREE && run_length) {
            run_length += walk.length;
            put_release(&page[run].word, page_word(PAGE_FREE, KIND_NONE, run_length));
        } else if (walk.state == PAGE_FREE) {
            run = walk.first;
            run_length = walk.length;
        } else {
            used += walk.length;
        }
        if (run_length && (walk.state == PAGE_USED || walk.next >= zone_end(heap, zone))) {
            put_tail(heap, run, run_length);
            index_insert(heap, zone, run, run_length);
            run_length = 0;
        }
        if (walk.state == PAGE_USED && walk.length > 1) {
            uint64_t last = walk.first + walk.length - 1;
            /* An allocation that a crash interrupted may have left a tail inside a used run. */
            if (descriptor_exists(heap, last) && word_state(get(&page[last].word)) == PAGE_TAIL)
                put(&page[last].word, 0);
        }
    }
    if (run_length) { /* the last run before a break */
        put_tail(heap, run, run_length);
        index_insert(heap, zone, run, run_length);
    }
    put(&heap->header->zones[zone].used, used);
    return walk.broken ? IPCHEAP_CORRUPT : 0;
}

int extents_rebuild(ipcheap_heap *heap) {
    recount_committed(heap);
    int data = rebuild_zone(heap, DATA_ZONE), system = rebuild_zone(heap, SYSTEM_ZONE);
    return data ? data : system;
}

bool extents_index_valid(ipcheap_heap *heap) {
    for (int zone = 0; zone < ZONES; zone++) {
        uint64_t runs = 0;
        struct extent_walk walk = extent_walk_of(heap, zone);
        while (extent_step(heap, &walk)) runs += walk.state == PAGE_FREE;
        if (walk.broken || index_count(heap, zone) != runs) return false;
    }
    return true;
}
