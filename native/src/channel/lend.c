#include "channel/lend.h"

#include "segment/participant.h"

/* What it pays for: less fits a core's caches in any case, more does not in all of them. */
#define LENT_LEAST (UINT64_C(256) << 10 >> PAGE_SHIFT)
#define LENT_MOST (UINT64_C(2) << 20 >> PAGE_SHIFT)
#define LENT_PAGES (UINT64_C(4) << 20 >> PAGE_SHIFT) /* that a participant may have out at a time */

/* Would another one of so many pages go out? */
static bool is_wanted(const struct participant *me, uint64_t pages) {
    const struct lending *l = &me->lending;
    if (pages != l->wanted || l->count == LOANS) return false;
    /* Without a barrier nobody else can collect what is out: see collect_from_other(). */
    if (UNLIKELY(get(&me->heap->header->fences))) return false;
    return l->pages + pages <= least(LENT_PAGES, me->heap->geometry.zone_pages[DATA_ZONE] / 64);
}

uint64_t lent_mark(const struct participant *me, uint64_t pages) {
    return is_wanted(me, pages) ? RING_LENT : 0;
}

/* Off the list, whatever has become of it. */
static void forget(struct lending *l, uint32_t i) {
    l->pages -= l->loans[i].pages;
    l->count--;
    for (; i < l->count; i++) l->loans[i] = l->loans[i + 1];
}

enum outcome { AWAY, GONE, BACK };

/* Inside participant_enter(). */
static enum outcome look(const struct loan *loan, struct place *place) {
    const ipcheap_endpoint *e = loan->by;
    /* Who collects garbage, removes the channel or has broken it decides what becomes of it. */
    uint32_t flags = get(&e->channel->flags);
    if (flags & (CHANNEL_REVOKED | CHANNEL_GONE | CHANNEL_POISONED)) return AWAY;
    uint64_t lap = lap_of(e, loan->position), offset = loan->offset;
    uint64_t word = get_acquire(&slot_of(e, loan->position)->word); /* pairs with slot_leave() */
    if (word == ring_word(lap, SLOT_FULL, offset)) return AWAY;
    bool back = word == ring_word(lap + 1, SLOT_RELEASED, offset) &&
                place_find(e->heap, offset, place) &&
                place_is(place, my_sent_tag(e, loan->position));
    return back ? BACK : GONE;
}

/* Makes a loan that has come back the caller's. */
static enum outcome take(struct participant *me, const struct loan *loan) {
    struct place place;
    participant_enter(me);
    enum outcome outcome = look(loan, &place);
    if (outcome == BACK) put(place.tag, me->tag); /* now the slot's claim does not count */
    participant_leave(me);
    return outcome;
}

/* Has its slot been sent in again? Then what was in there has been freed. */
static bool is_over(const struct loan *loan) {
    return loan->by->position - loan->position > loan->by->mask + 1;
}

/*
 * Might another one go out before this is taken? Were the first to come back taken at once, it would
 * go to and fro alone. But not when its slot is the next to be sent in: there it would be freed.
 */
static bool can_wait(const struct participant *me, const struct loan *loan) {
    return is_wanted(me, loan->pages) && loan->by->position - loan->position <= loan->by->mask;
}

/*
 * Under the heap's mutex, so that the endpoints stay. Those of another size wait for their slot's
 * turn; they count until then, so that never more is out.
 */
static uint64_t take_oldest(struct participant *me, uint64_t pages) {
    struct lending *l = &me->lending;
    for (uint32_t i = 0; i < l->count;) {
        struct loan loan = l->loans[i];
        bool fits = loan.pages == pages;
        if (fits && can_wait(me, &loan)) return 0;
        enum outcome outcome = is_over(&loan) ? GONE : fits ? take(me, &loan) : AWAY;
        if (outcome == AWAY)
            i++;
        else
            forget(l, i);
        if (outcome == BACK) return loan.offset;
    }
    return 0;
}

void lent_asked(struct participant *me, uint64_t nbytes) {
    struct lending *l = &me->lending;
    uint64_t pages = extent_pages(nbytes);
    bool pays = LENT_LEAST <= pages && pages < LENT_MOST;
    l->wanted = pays && pages == l->asked ? pages : 0;
    l->asked = pages;
}

uint64_t lent_take(struct participant *me, uint64_t nbytes) {
    if (!me->lending.count) return 0;
    pthread_mutex_lock(&me->heap->mutex);
    uint64_t offset = take_oldest(me, extent_pages(nbytes));
    pthread_mutex_unlock(&me->heap->mutex);
    return offset;
}

void lent_add(ipcheap_endpoint *e, uint64_t position, uint64_t offset) {
    struct lending *l = &e->me->lending;
    pthread_mutex_lock(&e->heap->mutex);
    if (!e->closed) {
        l->loans[l->count++] = (struct loan){e, position, offset, l->wanted};
        l->pages += l->wanted;
    }
    pthread_mutex_unlock(&e->heap->mutex);
}

void lent_forget(struct participant *me, const ipcheap_endpoint *e) {
    struct lending *l = &me->lending;
    for (uint32_t i = 0; i < l->count;)
        if (l->loans[i].by == e)
            forget(l, i);
        else
            i++;
}
