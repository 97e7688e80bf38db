#include "memory/rotation.h"

#include "memory/participant_memory.h"

enum {
    MOST_PAGES = 512, /* of an extent: longer ones fill the cache that cores share */
    LAP_PAGES = 1024, /* 4 MiB: more than the private caches of two cores */
};
#define NOWHERE UINT64_MAX

/* The first laps, and the first after a change of order, use memory that is new to the caches. */
static const struct schedule schedule = {
    .first = 4, .soon = 16, .later = 512, .tries = 4, .warm_up = 1};

struct choice extent_choice = {.name = "IPCHEAP_EXTENTS", .words = "learn|lowest|in-turn"};

/* Returns the pages of a lap: fewer in a small heap, so that its free memory stays in one piece. */
static uint64_t lap_pages(const ipcheap_heap *heap) {
    return least(LAP_PAGES, heap->geometry.zone_pages[DATA_ZONE] / 64);
}

static bool takes_part(const struct participant *me, uint64_t pages) {
    return pages < MOST_PAGES && pages <= lap_pages(me->heap) / 2;
}

/* Is the heap so full that its free memory must stay in one piece? */
static bool is_short(const ipcheap_heap *heap) {
    uint64_t used = get(&heap->header->zones[DATA_ZONE].used);
    return used > heap->geometry.zone_pages[DATA_ZONE] / 4 * 3;
}

void rotation_begin(struct rotation *r) {
    *r = (struct rotation){0};
    trial_begin(&r->trial, &schedule, os_choice(&extent_choice));
}

/* The order that is being tried must be clearly faster. */
static void decide(struct trial *t) {
    uint32_t usual = trial_usual(t), other = !usual;
    trial_decide(t, &schedule, t->best[other] < t->best[usual] / 10 * 9 ? other : usual);
}

static void lap_over(struct rotation *r) {
    int64_t now = os_now(), since = r->since;
    r->since = now;
    if (since && trial_go(&r->trial, &schedule, (uint64_t)(now - since))) decide(&r->trial);
}

void rotation_turn(struct participant *me, uint64_t pages) {
    struct rotation *r = &me->memory->rotation;
    if (!takes_part(me, pages)) return;
    if (r->left < pages) {
        lap_over(r);
        r->left = lap_pages(me->heap);
        r->last_word = 0; /* from the lowest place on */
    }
}

/*
 * A word is a head only where a run is known to begin. One begins at the end of the last extent
 * while that extent exists.
 */
uint64_t rotation_page(const struct participant *me, uint64_t pages) {
    const struct rotation *r = &me->memory->rotation;
    if (r->trial.way == LOWEST || !r->last_word || !takes_part(me, pages)) return NOWHERE;
    if (get(&me->heap->pages[r->last].word) != r->last_word || is_short(me->heap)) return NOWHERE;
    return r->last + word_length(r->last_word);
}

void rotation_note(struct participant *me, uint64_t first, uint64_t pages) {
    struct rotation *r = &me->memory->rotation;
    if (!takes_part(me, pages)) return;
    r->left -= pages; /* not before: a refused call is repeated and must count once */
    r->last = first;
    r->last_word = page_word(PAGE_USED, KIND_RECORD, pages);
}
