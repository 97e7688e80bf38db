#include "bus/recover.h"

#include "bus/reclaim.h"
#include "bus/wake.h"

/* What was not posted -------------------------------------------------------------------------- */

/* True if the place in a channel with that tag still has the block. */
static bool is_wanted_back(ipcheap_heap *heap, uint64_t from, uint64_t offset) {
    const struct channel *channel = channel_at(heap, tag_channel(from));
    if (tag_kind(from) != TAG_SENT || !channel) return false;
    const struct kind *kind = kind_of(heap, channel);
    return kind && kind->holds && kind->holds(heap, from, offset);
}

/* True if a hold names the message, in whatever state. */
static bool is_named(struct bus *bus, const struct message *m) {
    uint64_t names = hold_names(hold_of(HOLD_HELD, m));
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        struct held_walk holds = held_walk_of(walk.listener);
        while (held_step(bus, walk.number, walk.listener, &holds))
            if (hold_names(holds.hold) == names) return true;
    }
    return false;
}

/*
 * True if the message of an intent was not posted. Its block has this tag: that of the intent's position,
 * or its former one. The former stays until then, and nobody else takes it.
 */
static bool is_unposted(struct bus *bus, uint64_t intent, const struct place *place, uint64_t tag) {
    struct message m;
    if (tag_kind(tag) == TAG_OWN) return true;
    if (!hold_message(bus, intent, &m) || tag != message_tag(bus, m.position)) return false;
    uint64_t word = get_acquire(bus_slot(bus, m.position)); /* pairs with post_once() */
    int64_t past = slot_laps_past(bus, m.position, word);
    if (past < 0) return true;
    if (past == 0) return ring_offset(word) != m.block;
    /* Its slot is used again. If it was posted, a hold names it until after its tag was taken. */
    return !is_named(bus, &m) && get_acquire(place->tag) == tag; /* with message_let_go() */
}

/* Gives the payload of an envelope the tag that it had, or frees it. */
static void payload_undo(const struct recovery *r, struct bus *bus, uint64_t block, uint64_t from) {
    struct message m = {.block = block, .apart = true};
    struct place place;
    const struct envelope *envelope = message_envelope(bus->heap, &m, NULL);
    uint64_t offset = envelope ? get(&envelope->payload) : 0;
    if (!offset || !place_find(bus->heap, offset, &place)) return;
    if (!place_is(&place, payload_tag(bus, block))) return;
    if (is_wanted_back(bus->heap, from, offset)) {
        put_release(place.tag, from); /* pairs with place_is() */
        return;
    }
    r->report->blocks++;
    r->report->bytes += place_bytes(bus->heap, &place);
    block_free(r->me, &place);
}

static void undo_intent(const struct recovery *r, struct bus *bus, uint64_t intent, uint64_t from) {
    struct place place;
    uint64_t block = (intent & OFFSET_UNITS) << 6;
    bool apart = intent >> 61 & 1;
    if (!place_find(bus->heap, block, &place)) return;
    /* Read once: what is somebody else's by now may be posted, and even freed, at any moment. */
    uint64_t tag = get_acquire(place.tag); /* with message_let_go() */
    if (tag_kind(tag) == TAG_OWN && !names_dead(r, tag)) return;
    if (!is_unposted(bus, intent, &place, tag)) return;
    /* The payload first: if this process is killed in between, the intent still explains it. */
    if (apart) payload_undo(r, bus, block, from);
    if (tag_kind(tag) == TAG_OWN) return; /* with all that the dead participant owned */
    if (!put_if(place.tag, &tag, my_tag(r->me))) return;
    r->report->blocks++;
    r->report->bytes += place_bytes(bus->heap, &place);
    r->me->held++;
    block_drop(r->me, block); /* now: the lock is ours */
}

/* The dead participant was freeing a message whose payload is apart. */
static void complete_letting(const struct recovery *r, struct bus *bus, uint64_t block) {
    struct message m = {.block = block, .apart = true};
    struct place place;
    const struct envelope *envelope = message_envelope(bus->heap, &m, &place);
    if (!envelope) return;
    uint64_t tag = get(place.tag);
    if (tag_kind(tag) == TAG_OWN && names_dead(r, tag)) payload_free(r->me, bus, block, envelope);
}

/* The dead participant may have taken words of listeners that poll, and been killed before it rang. */
static void ring_listeners(struct bus *bus) {
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) bell_ring(bus->heap, &walk.listener->seat, NULL);
    bus_wake_all(bus);
}

static void recover_writer(const struct recovery *r, struct bus *bus) {
    struct participant_slot *record = slot_at(r->heap, r->slot);
    uint64_t turn = get(&bus->root->turn);
    if (turn && names_dead(r, tag_owner(turn)) && put_if(&bus->root->turn, &turn, 0)) {
        put_add(&bus->root->turn_wake, 1);
        os_futex_wake(&bus->root->turn_wake, INT32_MAX);
    }
    uint64_t inside = get(&record->bus);
    bool dead = (int32_t)((uint32_t)(inside >> 32) - r->generation) <= 0;
    if ((uint32_t)inside != bus->index + 1 || !dead) return;
    if (get(&record->intent)) undo_intent(r, bus, get(&record->intent), get(&record->from));
    if (get(&record->letting)) complete_letting(r, bus, get(&record->letting));
    ring_listeners(bus);
    put(&record->intent, 0);
    put(&record->letting, 0);
    put_release(&record->bus, 0); /* pairs with bus_is_occupied() */
}

bool bus_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t from, uint64_t *by) {
    struct bus bus;
    if (tag_kind(tag) != TAG_PART || tag_position(tag) < PART_OF_ENVELOPE) return false;
    if (!bus_view(heap, tag_channel(tag), &bus)) return false;
    struct message m = {.block = envelope_offset(heap, tag_position(tag)), .apart = true};
    struct place place;
    const struct envelope *envelope = message_envelope(heap, &m, &place);
    if (!envelope || payload_glance(envelope) != offset) return false;
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = slot_at(heap, slot);
        uint64_t intent = get(&record->intent), inside = get(&record->bus);
        if ((intent & OFFSET_UNITS) << 6 != m.block || !(intent >> 61 & 1)) continue;
        if ((uint32_t)inside != bus.index + 1 || get(&record->from) != from) continue;
        *by = own_tag(slot, (uint32_t)(inside >> 32));
        return is_unposted(&bus, intent, &place, get(place.tag));
    }
    return false;
}

/* Listeners ------------------------------------------------------------------------------------ */

static void end_holds(const struct recovery *r, struct bus *bus, uint32_t number,
                      struct bus_listener *l) {
    struct held_walk walk = held_walk_of(l);
    struct message m;
    while (held_step(bus, number, l, &walk)) {
        if (!hold_message(bus, walk.hold, &m) || hold_end(r->me, bus, walk.at, &m))
            put_release(walk.at, 0); /* pairs with held_step() */
    }
}

static void recover_listeners_of_dead(const struct recovery *r, struct bus *bus) {
    uint32_t used = listeners_used(bus);
    bool freed = false;
    /* Also those whose bit is not set: they were killed while they came or went. */
    for (uint32_t number = 0; number < used; number++) {
        struct bus_listener *l = listener_at(bus, number);
        uint64_t holder = l ? get(&l->seat.holder) : 0;
        if (side_state(holder) != SIDE_OPEN) continue;
        bool closed = get(&l->flags) & LISTENER_CLOSED;
        if (closed ? !owned_by_dead(r, holder) : !names_dead(r, holder)) continue;
        end_holds(r, bus, number, l);
        listener_free(bus, number, SIDE_DIED);
        r->report->endpoints += !closed;
        freed = true;
    }
    listeners_tidy(bus); /* it may have been freeing one that was closed */
    if (freed) directory_notify(r->heap);
}

/* Frees what the dead participant was about to free, and what only it still had to receive. */
static void free_what_is_left(const struct recovery *r, struct bus *bus) {
    uint64_t before = bus_stay(r->me, bus);
    bus_tidy(r->me, bus);
    bus_return(r->me, before);
}

void bus_recover(const struct recovery *r, uint32_t index, int pass) {
    struct bus bus;
    if (!bus_view(r->heap, index, &bus)) return;
    if (pass == RECOVER_WRITERS) recover_writer(r, &bus);
    if (pass == RECOVER_READERS) {
        recover_listeners_of_dead(r, &bus);
        free_what_is_left(r, &bus);
    }
}

/* Memory --------------------------------------------------------------------------------------- */

/* True if a participant is about to post a block. */
static bool is_intended(ipcheap_heap *heap, uint64_t block) {
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = slot_at(heap, slot);
        if (get(&record->bus) && (get(&record->intent) & OFFSET_UNITS) << 6 == block) return true;
    }
    return false;
}

/* True if somebody has the message, may still receive it, or will: it is no garbage. */
static bool is_needed(struct bus *bus, uint64_t position, uint64_t block) {
    uint64_t end = bus_end(bus);
    position = end - ((end - position) & POSITION_MASK);
    struct survey s = bus_survey(bus, UINT64_MAX);
    uint64_t word = get_acquire(bus_slot(bus, position)); /* pairs with post_once() */
    bool stands = slot_laps_past(bus, position, word) == 0 && ring_offset(word) == block;
    uint64_t from = greatest(get(&bus->root->floor),
                             least(survey_all(&s), bus_history_from(bus, end)));
    if (stands && position >= from) return true;
    struct message whole = {position, block, false}, apart = {position, block, true};
    return message_is_held(bus, &whole, NULL) || message_is_held(bus, &apart, NULL) ||
           is_intended(bus->heap, block);
}

bool bus_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct bus bus;
    struct place place;
    if (!bus_view(heap, tag_channel(tag), &bus)) return false;
    if (tag_kind(tag) == TAG_SENT) return is_needed(&bus, tag_position(tag), offset);
    if (tag_kind(tag) != TAG_PART || tag_position(tag) < PART_OF_ENVELOPE) return false;
    struct message m = {.block = envelope_offset(heap, tag_position(tag)), .apart = true};
    const struct envelope *envelope = message_envelope(heap, &m, &place);
    if (!envelope || payload_glance(envelope) != offset) return false;
    uint64_t its = get_acquire(place.tag); /* pairs with post_once() */
    if (tag_kind(its) == TAG_OWN) return is_intended(heap, m.block);
    return tag_kind(its) == TAG_SENT && tag_channel(its) == bus.index &&
           is_needed(&bus, tag_position(its), m.block);
}

void bus_reclaim(struct participant *me, uint32_t index) {
    struct bus bus;
    if (!bus_view(me->heap, index, &bus)) return;
    uint64_t before = bus_stay(me, &bus);
    uint64_t end = bus_end(&bus); /* before the cursors */
    struct survey s = bus_survey(&bus, UINT64_MAX);
    /* What only lossy listeners still have to receive is given up. */
    floor_raise(&bus, least(least(s.counted, s.passed), least(end, bus_history_from(&bus, end))));
    bus_sweep(me, &bus);
    bus_return(me, before);
}

void bus_withdraw(struct participant *me, uint32_t index) {
    struct bus bus;
    if (!bus_view(me->heap, index, &bus)) return;
    uint64_t before = bus_stay(me, &bus);
    floor_raise(&bus, bus_end(&bus));
    bus_sweep(me, &bus);
    bus_return(me, before);
}

void bus_drain(struct participant *me, uint32_t index) {
    struct bus bus;
    bus_withdraw(me, index);
    if (bus_view(me->heap, index, &bus)) listeners_free_areas(me, &bus);
}
