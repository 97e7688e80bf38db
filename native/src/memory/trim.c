#include "memory/trim.h"

#include "base/timing.h"
#include "memory/deferred.h"
#include "memory/extent.h"
#include "memory/slab.h"
#include "segment/commit.h"
#include "segment/lock.h"

#define MIB (UINT64_C(1) << 20)
#define TRIM_BATCH 64
#define TRIM_PAGES 1024       /* 4 MiB: what cannot be allocated while a trimmer punches it */
#define SMALLEST_GIVE_BACK 16 /* pages: shorter free runs are not worth a system call */

/* Returns how many pages have memory and no user. */
static uint64_t idle_pages(ipcheap_heap *heap) {
    uint64_t committed = get(&heap->header->committed);
    uint64_t used = get(&heap->header->zones[DATA_ZONE].used);
    /* A corrupt count. */
    if (UNLIKELY(committed > heap->geometry.zone_pages[DATA_ZONE])) return 0;
    return committed > used ? committed - used : 0;
}

static uint64_t extents_reserve(const ipcheap_heap *heap) {
    return least(64 * MIB, heap->geometry.capacity / 16);
}

/*
 * Under the lock: returns how many idle pages may stay. That is the reserve, and a slack: what was
 * needed again soon after it had been returned to the system (note_taken). Each second the slack
 * shrinks to what was really used of it.
 */
static uint64_t idle_limit(ipcheap_heap *heap, uint64_t idle) {
    struct header *header = heap->header;
    uint64_t slack = get(&header->slack), now = (uint64_t)os_now();
    if (slack && now - get(&header->slack_since) > (uint64_t)CALM) {
        uint64_t lowest = least(get(&header->idle_lowest), idle);
        slack = least(slack, idle - lowest);
        put(&header->slack, slack);
        put(&header->idle_lowest, idle);
        put(&header->slack_since, now);
    }
    return (extents_reserve(heap) >> PAGE_SHIFT) + slack;
}

void note_taken(ipcheap_heap *heap, uint64_t missing) {
    struct header *header = heap->header;
    uint64_t idle = idle_pages(heap);
    if (idle < get(&header->idle_lowest)) put(&header->idle_lowest, idle);
    if (missing == 0) return;
    uint64_t now = (uint64_t)os_now(), most = heap->geometry.zone_pages[DATA_ZONE];
    if (now - get(&header->trimmed_at) > (uint64_t)CALM / 4) return;
    /* Grows by half each time, so that a few times are enough. */
    uint64_t slack = get(&header->slack);
    put(&header->slack, least(most, slack + slack / 2 + 2 * missing));
    put(&header->idle_lowest, 0);
    put(&header->slack_since, now);
}

bool trim_is_due(ipcheap_heap *heap, uint64_t more) {
    uint64_t idle = idle_pages(heap) + more;
    return idle > extents_reserve(heap) >> PAGE_SHIFT && idle > idle_limit(heap, idle);
}

void extents_trim_if_due(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    uint64_t idle = idle_pages(heap), limit = extents_reserve(heap) >> PAGE_SHIFT;
    if (idle <= limit || heap_lock(me)) return;
    limit = idle_limit(heap, idle);
    heap_unlock(me);
    if (idle <= limit) return;
    if (!may_sleep() || me->lock_depth || get(&me->record->busy)) {
        me->attention |= ATTENTION_TRIM;
        return;
    }
    put(&heap->header->trimmed_at, (uint64_t)os_now());
    extents_trim(me, (limit / 4 * 3) << PAGE_SHIFT);
}

int trim_retry(struct participant *me) {
    if (LIKELY(!(me->attention & ATTENTION_TRIM))) return 0;
    if (!may_sleep()) return IPCHEAP_WOULD_SLEEP;
    me->attention &= (uint8_t)~ATTENTION_TRIM;
    extents_trim_if_due(me);
    return 0;
}

struct cut {
    uint64_t first, pages;
};

/* Returns the first page of [first, end) with memory, or without; `end` if there is none. */
static uint64_t next_committed(const ipcheap_heap *heap, uint64_t first, uint64_t end, bool with) {
    while (first < end && (committed_pages(heap, first, 1) == 1) != with) {
        uint64_t step = least(64, end - first);
        uint64_t have = committed_pages(heap, first, step);
        first += have == (with ? 0 : step) ? step : 1;
    }
    return first;
}

/*
 * Finds the first stretch of committed pages in a free run, from `at` on, that lies above the
 * lowest `keep` pages and is not too short. *kept counts the pages kept so far. False at the end
 * of the run.
 */
static bool next_cut(const ipcheap_heap *heap, const struct extent_walk *run, uint64_t at,
                     uint64_t keep, uint64_t shortest, uint64_t *kept, struct cut *cut) {
    for (;;) {
        uint64_t first = next_committed(heap, at, run->next, true);
        if (first == run->next) return false;
        at = next_committed(heap, first, run->next, false);
        uint64_t lower = *kept < keep ? least(keep - *kept, at - first) : 0;
        *kept += lower;
        cut->first = first + lower;
        cut->pages = whole_units(heap, &cut->first, at - cut->first);
        if (cut->pages && at - first >= shortest) return true;
    }
}

/*
 * Takes at most TRIM_PAGES free pages that have memory, so that they are not allocated while they
 * lose it. Returns how many cuts that are.
 */
static int collect_cuts(struct participant *me, uint64_t keep, uint64_t shortest,
                        struct cut cuts[TRIM_BATCH]) {
    ipcheap_heap *heap = me->heap;
    int count = 0;
    uint64_t kept = 0, taken = 0;
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (count < TRIM_BATCH && taken < TRIM_PAGES && extent_step(heap, &walk)) {
        struct cut cut;
        if (walk.state != PAGE_FREE) continue;
        if (!next_cut(heap, &walk, walk.first, keep, shortest, &kept, &cut)) continue;
        cut.pages = least(cut.pages, greatest(TRIM_PAGES - taken, pages_of_unit(heap)));
        cut.pages = whole_units(heap, &cut.first, cut.pages);
        if (extent_cut(me, &walk, cut.first, cut.pages, KIND_FREE_PENDING)) {
            /* There is no memory for the descriptors of a part; those of the whole run exist. */
            cut = (struct cut){walk.first, walk.length};
            if (extent_cut(me, &walk, cut.first, cut.pages, KIND_FREE_PENDING)) break;
        }
        cuts[count++] = cut;
        taken += cut.pages;
        walk.next = cut.first + cut.pages; /* above it is a separate run now */
    }
    return count;
}

/*
 * Returns the tags of slabs that no longer exist to the system. Does nothing once a slab has been
 * revoked, because its former owner still reads the owner word.
 */
static void uncommit_tags(ipcheap_heap *heap, const struct cut *cut) {
    uint64_t step = page_of_granule(heap, 1);
    uint64_t first = round_up(cut->first, step) / step, end = (cut->first + cut->pages) / step;
    if (first >= end || get(&heap->header->revoked)) return;
    segment_uncommit_meta(heap, slab_at(heap, first), (end - first) * heap->geometry.slab_stride);
}

int64_t extents_trim(struct participant *me, uint64_t keep) {
    ipcheap_heap *heap = me->heap;
    uint64_t given = 0;
    if (!may_sleep()) return IPCHEAP_WOULD_SLEEP;
    for (;;) {
        struct cut cuts[TRIM_BATCH];
        int error = deferred_reserve(me, TRIM_BATCH);
        if (!error) error = heap_lock(me);
        if (error) return error == IPCHEAP_WOULD_SLEEP ? error : (int64_t)given << PAGE_SHIFT;
        uint64_t shortest = keep ? SMALLEST_GIVE_BACK : 1;
        int count = collect_cuts(me, keep >> PAGE_SHIFT, shortest, cuts);
        heap_unlock(me);
        if (count == 0) return (int64_t)(given << PAGE_SHIFT);
        for (int i = 0; i < count; i++) {
            given += uncommit_pages(heap, cuts[i].first, cuts[i].pages);
            uncommit_tags(heap, &cuts[i]);
        }
        bool free_now = true; /* after one timeout on the lock, do not wait for it again */
        for (int i = 0; i < count; i++) {
            if (free_now)
                free_now = deferred_extent_free(me, cuts[i].first);
            else
                deferred_add(me, cuts[i].first);
        }
        if (!free_now) return (int64_t)(given << PAGE_SHIFT);
    }
}

bool extents_free_pending(ipcheap_heap *heap) {
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk)) {
        if (walk.state != PAGE_USED || walk.kind != KIND_FREE_PENDING) continue;
        uint64_t tag = get(&heap->pages[walk.first].tag);
        if (participant_alive(heap, tag_slot(tag), tag_generation(tag))) return true;
    }
    return false;
}
