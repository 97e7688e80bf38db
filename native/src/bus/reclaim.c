#include "bus/reclaim.h"

#include "base/timing.h"
#include "memory/deferred.h"
#include "memory/participant_memory.h"
#include "memory/slab_local.h"
#include "segment/clock.h"
#include "segment/lock.h"

#define LOOK 4096 /* positions that one look at the holds is for */
#define BATCH 256 /* of these, as many as are freed without asking for memory again */
/* How long after a membarrier was refused every listener has seen header->fences. */
#define FENCES_SEEN (10 * MILLISECOND)

/* The floor ------------------------------------------------------------------------------------ */

struct survey bus_survey(struct bus *bus, uint64_t near) {
    struct survey s = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        const struct bus_listener *l = walk.listener;
        uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() */
        if (cursor >= near) {
            s.far = least(s.far, cursor);
            continue;
        }
        if (get(&l->flags) & LISTENER_CLOSED) continue;
        if (listener_is_lossy(bus, l))
            s.lossy = least(s.lossy, cursor);
        else if (get(&l->passed) == cursor + 1)
            s.passed = least(s.passed, cursor);
        else
            s.counted = least(s.counted, cursor);
    }
    return s;
}

void floor_raise(const struct bus *bus, uint64_t to) {
    uint64_t seen = get(&bus->root->floor);
    while (seen < to && !put_if(&bus->root->floor, &seen, to)) {}
}

/* Barriers ------------------------------------------------------------------------------------- */

void bus_settle(struct bus *bus) {
    if (LIKELY(os_membarrier())) return;
    put(&bus->heap->header->fences, 1);
    full_fence();
    uint64_t now = (uint64_t)clock_now(bus->heap), since = get(&bus->root->fences_since);
    if (!since) put(&bus->root->fences_since, since = now);
    uint64_t passed = now - since;
    /* Once in the life of a bus: a sandbox forbids it to a participant. */
    if (passed < (uint64_t)FENCES_SEEN) os_nap(FENCES_SEEN - (int64_t)passed);
    full_fence();
}

/* Makes sure that each message below the floor that was received shows in a hold. */
static void settle_floor(struct bus *bus) {
    struct bus_root *root = bus->root;
    uint64_t to = get(&root->floor);
    uint64_t seen = get_acquire(&root->settled); /* pairs with settle_floor() */
    if (LIKELY(seen >= to)) return;
    /* A listener that registers after this look sees the floor. */
    if (bus_has_listeners(bus)) bus_settle(bus);
    while (seen < to && !put_if(&root->settled, &seen, to)) {}
}

/* Orders what a listener stored before what it loads: by the membarrier of others, or here. */
static inline void holder_fence(const struct bus *bus) {
    compiler_fence(); /* pairs with the membarrier in bus_settle() */
    if (UNLIKELY(get(&bus->heap->header->fences))) full_fence();
}

/* Holds ---------------------------------------------------------------------------------------- */

bool message_is_held(struct bus *bus, const struct message *m, const shared64 *but) {
    uint64_t names = hold_names(hold_of(HOLD_HELD, m));
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        struct held_walk holds = held_walk_of(walk.listener);
        while (held_step(bus, walk.number, walk.listener, &holds))
            if (holds.at != but && hold_uses(holds.hold) && hold_names(holds.hold) == names)
                return true;
    }
    return false;
}

/* Notes which of the messages from `from` on are held; at most LOOK. */
static void look_at_holds(struct bus *bus, uint64_t from, uint64_t count,
                          uint64_t held[LOOK / 64]) {
    struct listener_walk walk = {0};
    for (uint64_t i = 0; i < (count + 63) / 64; i++) held[i] = 0;
    while (listener_step(bus, &walk)) {
        struct held_walk holds = held_walk_of(walk.listener);
        while (held_step(bus, walk.number, walk.listener, &holds)) {
            if (!hold_uses(holds.hold)) continue;
            uint64_t at = ((holds.hold >> 40) - from) & HOLD_POSITION_MASK;
            if (at >= count) continue;
            /* Its position may be another one with the same last bits: the block says so. */
            struct message m = slot_says(from + at, get(bus_slot(bus, from + at)));
            if (hold_names(holds.hold) == hold_names(hold_of(HOLD_HELD, &m)))
                held[at / 64] |= UINT64_C(1) << (at & 63);
        }
    }
}

/* Freeing -------------------------------------------------------------------------------------- */

void payload_free(struct participant *me, const struct bus *bus, uint64_t block,
                  const struct envelope *envelope) {
    struct place place;
    uint64_t offset = get(&envelope->payload);
    if (!place_find(bus->heap, offset, &place) || !place_is(&place, payload_tag(bus, block)))
        return;
    put_release(place.tag, my_tag(me)); /* pairs with place_is() */
    me->held++;
    block_drop(me, offset);
}

/* Frees a block that is the caller's by its tag. */
static void free_taken(struct participant *me, uint64_t offset) {
    uint32_t index;
    struct local_slab *s = find_mine(me, offset, &index);
    if (LIKELY(s && !block_is_remote_free(s->shared, index))) {
        free_mine(me, s, index, offset);
        return;
    }
    me->held++;
    block_drop(me, offset);
}

void message_let_go(struct participant *me, struct bus *bus, const struct message *m) {
    struct place place;
    struct local_slab *slab;
    uint64_t tag = message_tag(bus, m->position);
    shared64 *mine = m->apart ? NULL : slab_my_tag(me, m->block, &slab);
    if (LIKELY(mine != NULL)) {
        /* Acquire: pairs with put_release() of the tag in post_once(). */
        if (LIKELY(put_if(mine, &tag, my_tag(me))))
            free_mine(me, slab, (uint32_t)(mine - slab->shared->tags), m->block);
        return;
    }
    const struct envelope *envelope = message_envelope(bus->heap, m, &place);
    if (!envelope || get(place.tag) != tag) return;
    if (m->apart) put(&me->record->letting, m->block);
    /* Acquire: pairs with put_release() of the tag in post_once(). */
    if (put_if(place.tag, &tag, my_tag(me))) {
        if (m->apart) payload_free(me, bus, m->block, envelope);
        free_taken(me, m->block);
    }
    if (m->apart) put(&me->record->letting, 0);
}

/*
 * Makes sure that what is freed next is freed, or put off: there is room for that in private memory, or the
 * caller has the heap lock, under which nothing is put off. *locked is true if it was taken for that.
 */
static int freeing_begin(struct participant *me, size_t count, bool *locked) {
    *locked = false;
    if (me->lock_depth || deferred_reserve(me, count) == 0) return 0;
    *locked = heap_try_lock(me);
    return *locked ? 0 : IPCHEAP_NO_MEMORY;
}

static void freeing_end(struct participant *me, bool locked) {
    if (locked) heap_unlock(me);
}

/* Reclaims what stands at these positions and is not held. */
static void sweep_batch(struct participant *me, struct bus *bus, uint64_t from, uint64_t count,
                        const uint64_t *held) {
    for (uint64_t i = 0; i < count; i++) {
        uint64_t position = from + i;
        if (UNLIKELY(held[i / 64] >> (i & 63) & 1)) continue;
        uint64_t word = get_acquire(bus_slot(bus, position)); /* pairs with post_once() */
        /* A writer that has posted there since has reclaimed it. */
        if (UNLIKELY(slot_laps_past(bus, position, word) != 0)) continue;
        struct message m = slot_says(position, word);
        message_let_go(me, bus, &m);
    }
}

int hold_reserve_slowly(struct participant *me) {
    return me->lock_depth ? 0 : deferred_reserve(me, 2);
}

int bus_sweep(struct participant *me, struct bus *bus) {
    struct bus_root *root = bus->root;
    /* Pair with bus_sweep() and with floor_raise(): listeners are looked at after that. */
    uint64_t from = get_acquire(&root->swept), to = get_acquire(&root->floor);
    if (from >= to) return 0;
    if (to - from > bus->mask + 1) from = to - bus->mask - 1;
    settle_floor(bus); /* the floor that `to` is, or a later one */
    while (from < to) {
        uint64_t held[LOOK / 64], look = least(to - from, LOOK);
        look_at_holds(bus, from, look, held);
        for (uint64_t done = 0; done < look; done += BATCH) {
            uint64_t count = least(look - done, BATCH);
            bool locked;
            int error = freeing_begin(me, 2 * count, &locked); /* payloads and blocks */
            if (error) return error;
            sweep_batch(me, bus, from + done, count, &held[done / 64]);
            freeing_end(me, locked);
        }
        from += look;
    }
    uint64_t seen = get(&root->swept);
    while (seen < to && !put_if(&root->swept, &seen, to)) {} /* pairs with the acquire above */
    return 0;
}

int bus_tidy(struct participant *me, struct bus *bus) {
    uint64_t end = bus_end(bus); /* before the cursors */
    struct survey s = bus_survey(bus, UINT64_MAX);
    floor_raise(bus, least(least(survey_all(&s), end), bus_history_from(bus, end)));
    return bus_sweep(me, bus);
}

/* True if a message that the caller holds is an extent, or has one. */
static bool has_extent(const struct bus *bus, const struct message *m) {
    if (!m->apart) return offset_is_extent(bus->heap, m->block);
    const struct envelope *envelope = message_envelope(bus->heap, m, NULL);
    return envelope && offset_is_extent(bus->heap, get(&envelope->payload));
}

/* True if a listener still has to receive or to release a message. */
static bool is_behind(struct bus *bus, uint32_t number, const struct message *m) {
    struct bus_listener *l = number < listeners_used(bus) ? listener_at(bus, number) : NULL;
    if (!l || side_state(get_acquire(&l->seat.holder)) != SIDE_OPEN) /* with listener_take() */
        return false;
    bool closed = get(&l->flags) & LISTENER_CLOSED;
    if (!closed && get_acquire(&l->side.position) <= m->position) /* pairs with move_past() */
        return true;
    struct held_walk walk = held_walk_of(l);
    uint64_t names = hold_names(hold_of(HOLD_HELD, m));
    while (held_step(bus, number, l, &walk))
        if (hold_uses(walk.hold) && hold_names(walk.hold) == names) return true;
    return false;
}

/* True if some listener is; the one that was last time is looked at first. */
static bool any_is_behind(struct bus *bus, const struct message *m) {
    struct listener_walk walk = {0};
    if (is_behind(bus, (uint32_t)get(&bus->root->laggard), m)) return true;
    while (listener_step(bus, &walk)) {
        if (!is_behind(bus, walk.number, m)) continue;
        put(&bus->root->laggard, walk.number);
        return true;
    }
    return false;
}

void extent_let_go(struct participant *me, struct bus *bus, const struct message *m) {
    full_fence(); /* of two that release at the same time, one sees that both have */
    if (bus->history && bus_history_from(bus, bus_end(bus)) <= m->position) return;
    if (any_is_behind(bus, m)) return;
    bus_tidy(me, bus); /* without memory for it, the next one that makes room does it */
}

bool hold_message(const struct bus *bus, uint64_t hold, struct message *m) {
    struct place place;
    *m = (struct message){.block = (hold & OFFSET_UNITS) << 6, .apart = hold >> 61 & 1};
    if (!place_find(bus->heap, m->block, &place)) return false;
    uint64_t tag = get(place.tag), end = bus_end(bus);
    if (tag_kind(tag) != TAG_SENT || tag_channel(tag) != bus->index) return false;
    m->position = end - ((end - tag_position(tag)) & POSITION_MASK);
    return hold_names(hold_of(HOLD_HELD, m)) == hold_names(hold);
}

int hold_end(struct participant *me, struct bus *bus, shared64 *hold, const struct message *m) {
    const struct deferred *deferred = me->memory ? &me->memory->deferred : NULL;
    bool locked = false;
    if (UNLIKELY(!deferred || deferred->room - deferred->count < 2)) {
        int error = freeing_begin(me, 2, &locked); /* before anything is done */
        if (error) return error;
    }
    /* While it is held; one that is below the floor already may be gone. */
    bool small = LIKELY(!m->apart && m->block % PAGE) || get(&bus->root->floor) > m->position ||
                 !has_extent(bus, m);
    put_release(hold, hold_of(HOLD_RELEASING, m)); /* our use is over; pairs with held_step() */
    holder_fence(bus);
    if (LIKELY(small && get(&bus->root->floor) <= m->position)) {
        put_release(hold, 0); /* pairs with held_step() */
        freeing_end(me, locked);
        return 0;
    }
    uint64_t before = bus_stay(me, bus); /* without the hold, the memory of the bus may go */
    if (get(&bus->root->floor) <= m->position) {
        put_release(hold, 0); /* pairs with held_step() */
        extent_let_go(me, bus, m);
    } else {
        full_fence(); /* of two that release at the same time, one sees that both are */
        settle_floor(bus);
        if (!message_is_held(bus, m, hold)) message_let_go(me, bus, m);
        put_release(hold, 0); /* pairs with held_step() */
    }
    bus_return(me, before);
    freeing_end(me, locked);
    return 0;
}
