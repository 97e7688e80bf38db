#include "memory/rotation.h"

#include "base/copy.h"
#include "memory/participant_memory.h"

enum {
    MOST_PAGES = 512, /* of an extent: longer ones fill the caches that they would be found in */
    LAP_PAGES = 1024, /* 4 MiB: more than two cores have for themselves */
    TRIES = 4,        /* laps in either order, of which the fastest counts */
    FIRST = 4,        /* laps before the orders are compared, for the memory is new; then after ... */
    SOON = 16,        /* ... so many, if that has changed anything, or else ... */
    LATER = 512,      /* ... twice as many each time, up to this */
};
#define NOWHERE UINT64_MAX

/* Less of a small heap, for its free memory to stay in one piece. */
static uint64_t lap_pages(const ipcheap_heap *heap) {
    return least(LAP_PAGES, heap->geometry.zone_pages[DATA_ZONE] / 64);
}

static bool takes_part(const struct participant *me, uint64_t pages) {
    return pages < MOST_PAGES && pages <= lap_pages(me->heap) / 2;
}

/* What little is left is not to be taken apart. */
static bool is_short(const ipcheap_heap *heap) {
    uint64_t used = get(&heap->header->zones[DATA_ZONE].used);
    return used > heap->geometry.zone_pages[DATA_ZONE] / 4 * 3;
}

static void compare_later(struct rotation *r, uint32_t laps) {
    r->next = laps;
    r->laps = 0;
    r->lap_ns[LOWEST] = r->lap_ns[IN_TURN] = INT64_MAX;
}

static void change_order(struct rotation *r) {
    r->order = r->order == LOWEST ? IN_TURN : LOWEST;
    copy_memory_use(r->order);
}

/* The order that is being tried has to be clearly faster. */
static void decide(struct rotation *r) {
    if (r->lap_ns[r->order] < r->lap_ns[!r->order] / 10 * 9) {
        compare_later(r, SOON);
    } else {
        change_order(r);
        compare_later(r, (uint32_t)least(2 * r->next, LATER));
    }
}

/* The last few laps in the usual order count, and all in the other but for the first. */
static void lap_over(struct rotation *r) {
    int64_t now = os_now(), lap = now - r->since;
    r->since = now;
    if (UNLIKELY(!r->next)) {
        compare_later(r, FIRST);
        return;
    }
    uint32_t nth = r->laps++;
    bool counts = nth + TRIES >= r->next && nth != r->next;
    if (counts && lap < r->lap_ns[r->order]) r->lap_ns[r->order] = lap;
    if (nth + 1 == r->next) change_order(r);
    if (nth == r->next + TRIES) decide(r);
}

void rotation_turn(struct participant *me, uint64_t pages) {
    struct rotation *r = &me->memory->rotation;
    if (!takes_part(me, pages)) return;
    if (r->left < pages) {
        lap_over(r);
        r->left = lap_pages(me->heap);
        r->last_word = 0; /* from the lowest on */
    }
}

/*
 * Only heads are to be believed, and only where a run is known to begin: as long as the last extent
 * is there, one does at its end.
 */
uint64_t rotation_page(const struct participant *me, uint64_t pages) {
    const struct rotation *r = &me->memory->rotation;
    if (r->order == LOWEST || !r->last_word || !takes_part(me, pages)) return NOWHERE;
    if (get(&me->heap->pages[r->last].word) != r->last_word || is_short(me->heap)) return NOWHERE;
    return r->last + word_length(r->last_word);
}

void rotation_note(struct participant *me, uint64_t first, uint64_t pages) {
    struct rotation *r = &me->memory->rotation;
    if (!takes_part(me, pages)) return;
    r->left -= pages; /* now: what was refused is asked for again, and counts once */
    r->last = first;
    r->last_word = page_word(PAGE_USED, KIND_RECORD, pages);
}
