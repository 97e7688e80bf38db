#include "memory/rotation.h"

#include "memory/participant_memory.h"

enum {
    MOST_PAGES = 512, /* of an extent: longer ones fill the caches that they would be found in */
    LAP_PAGES = 1024, /* 4 MiB: more than two cores have for themselves */
};
#define NOWHERE UINT64_MAX

/* The memory is new at first, as it is in the first lap after a change of order. */
static const struct schedule schedule = {
    .first = 4, .soon = 16, .later = 512, .tries = 4, .warm_up = 1};

struct choice extent_choice = {.name = "IPCHEAP_EXTENTS", .words = "learn|lowest|in-turn"};

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

void rotation_begin(struct rotation *r) {
    *r = (struct rotation){0};
    trial_begin(&r->trial, &schedule, os_choice(&extent_choice));
}

/* The order that is being tried has to be clearly faster. */
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
        r->last_word = 0; /* from the lowest on */
    }
}

/*
 * Only heads are to be believed, and only where a run is known to begin: as long as the last extent
 * is there, one does at its end.
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
    r->left -= pages; /* now: what was refused is asked for again, and counts once */
    r->last = first;
    r->last_word = page_word(PAGE_USED, KIND_RECORD, pages);
}
