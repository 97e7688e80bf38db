/* check_bus.c - the log, the listeners and the holds of a bus agree with the blocks that they name. */

#include <stdio.h>

#include "base/os.h"
#include "bus/listeners.h"
#include "memory/extent.h"
#include "observe/check.h"

typedef unsigned long long number;

/* Blocks --------------------------------------------------------------------------------------- */

/* True if a hold word of a registered listener names the block as that position. */
static bool is_held(struct bus *bus, uint64_t position, uint64_t block) {
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        struct held_walk holds = held_walk_of(walk.listener);
        while (held_step(bus, walk.number, walk.listener, &holds)) {
            uint64_t same = (holds.hold >> 40 ^ position) & HOLD_POSITION_MASK;
            if (!same && (holds.hold & OFFSET_UNITS) << 6 == block) return true;
        }
    }
    return false;
}

/* True if a participant has under way to post the block, or to free it. */
static bool is_under_way(ipcheap_heap *heap, uint64_t block) {
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = participant_record(heap, slot);
        if (!record || !get(&record->bus)) continue;
        if ((get(&record->intent) & OFFSET_UNITS) << 6 == block) return true;
        if (get(&record->letting) == block) return true;
    }
    return false;
}

/* True if a message with that position, at its end modulo 2^38, stands in its slot. */
static bool stands(const struct bus *bus, uint64_t position, uint64_t block) {
    uint64_t word = get_acquire(bus_slot(bus, position)); /* pairs with post_once() */
    return slot_message(word) != MESSAGE_NEVER && ring_lap(word) == bus_lap(bus, position) &&
           ring_offset(word) == block;
}

static bool accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct bus bus;
    struct place place;
    if (!bus_view(heap, tag_channel(tag), &bus)) return false;
    uint64_t position = tag_position(tag), block = offset;
    if (tag_kind(tag) == TAG_PART) {
        if (position < PART_OF_ENVELOPE) return false;
        block = envelope_offset(heap, position);
        if (!place_find(heap, block, &place)) return false;
        const struct envelope *envelope = at_offset(heap, block);
        if (payload_glance(envelope) != offset) return false;
        uint64_t its = get_acquire(place.tag); /* pairs with post_once() */
        if (tag_kind(its) != TAG_SENT || tag_channel(its) != bus.index)
            return is_under_way(heap, block);
        position = tag_position(its);
    }
    return stands(&bus, position, block) || is_held(&bus, position, block) ||
           is_under_way(heap, block);
}

/* The log -------------------------------------------------------------------------------------- */

/* What one look has found. */
struct look {
    int faults;
    char text[160];
};

static void note_fault(struct look *look, const char *what, uint64_t which, const char *is) {
    if (look->faults++ == 0)
        snprintf(look->text, sizeof look->text, "%s %llu %s", what, (number)which, is);
}

static void check_log(const struct bus *bus, uint64_t end, struct look *look) {
    uint64_t floor = get(&bus->root->floor);
    uint64_t head = get(&bus->root->head);
    if (floor > end) note_fault(look, "floor", floor, "is beyond the end of the log");
    /* A stopped writer may set it back, and nobody sets it beyond. */
    if (head > end) note_fault(look, "head", head, "is beyond the end of the log");
    if (get(&bus->root->settled) > floor)
        note_fault(look, "settled", get(&bus->root->settled), "is above the floor");
    if (get(&bus->root->swept) > floor)
        note_fault(look, "swept", get(&bus->root->swept), "is above the floor");
    for (uint64_t i = 0; i <= bus->mask; i++) {
        uint64_t next = end + i, word = get_acquire(bus_slot(bus, next)); /* with post_once() */
        if (slot_message(word) == MESSAGE_NEVER) {
            if (next > bus->mask || word) note_fault(look, "slot", next & bus->mask, "is empty");
            continue;
        }
        uint64_t lap = bus_lap(bus, next);
        if (ring_lap(word) != ((lap - 1) & LAP_MASK))
            note_fault(look, "slot", next & bus->mask, "is of another lap");
    }
}

static void check_listener(const struct bus *bus, uint32_t which, struct bus_listener *l,
                           uint64_t end, struct look *look) {
    uint64_t holder = listener_holder(l), floor = get(&bus->root->floor);
    uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() */
    bool closed = get(&l->flags) & LISTENER_CLOSED, lossy = listener_is_lossy(bus, l);
    if (get(&l->flags) & ~(uint32_t)(LISTENER_LOSSY | LISTENER_CLOSED))
        note_fault(look, "listener", which, "has flags that do not exist");
    if (!closed && !may_hold(bus->heap, holder))
        note_fault(look, "listener", which, "is held by nobody");
    if (cursor > end) note_fault(look, "listener", which, "is beyond the end of the log");
    bool passed = get(&l->passed) != 0;
    bool gone = get(&bus->channel->flags) & CHANNEL_GONE; /* nobody receives anything any more */
    if (cursor < floor && !gone && !lossy && !passed && !closed &&
        get(&l->side.bus.joined) != JOINING && cursor >= get(&l->side.bus.joined))
        note_fault(look, "listener", which, "lost messages and was not passed");
    struct held_walk holds = held_walk_of(l);
    while (held_step(bus, which, l, &holds)) {
        struct place place;
        uint64_t block = (holds.hold & OFFSET_UNITS) << 6;
        if (hold_state(holds.hold) == HOLD_FREE || !place_find(bus->heap, block, &place))
            note_fault(look, "listener", which, "holds what is no message");
        /* A closed one that holds nothing any more is freed by the next one that looks, under the lock. */
        if (closed && !may_own(bus->heap, holder))
            note_fault(look, "listener", which, "holds for nobody");
    }
}

static void check_once(struct bus *bus, struct look *look) {
    *look = (struct look){0};
    uint64_t end = bus_end(bus);
    check_log(bus, end, look);
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) check_listener(bus, walk.number, walk.listener, end, look);
    for (uint32_t i = 0; i < LISTENER_WORDS; i++) {
        uint32_t used = listeners_used(bus);
        uint64_t beyond = i * 64 + 64 <= used ? 0 : UINT64_MAX << (used > i * 64 ? used & 63 : 0);
        if (get(&bus->root->active[i]) & beyond)
            note_fault(look, "listener", i * 64, "is registered and was never made");
    }
    if (bus_end(bus) != end) look->faults = -1; /* writers are at work */
}

static void check_bus(struct check *c, uint32_t index, struct channel *channel) {
    struct bus bus;
    struct look look;
    uint64_t shape = get(&channel->shape);
    uint32_t log = shape_log(shape);
    if (log > BUS_CAPACITY_LOG || shape_history(shape) > UINT64_C(1) << log) {
        fault(c, "channel %u has a shape that no bus has (%llx)", index, (number)shape);
        return;
    }
    if (get(&channel->parts[0]) == 0) return; /* it has not been used yet */
    if (!bus_view(c->heap, index, &bus)) {
        fault(c, "channel %u has no log of its own", index);
        return;
    }
    if (get(&channel->flags) & CHANNEL_POISONED) return;
    int wrong = 0;
    for (int tries = 0; tries < 100 && wrong < LOOKS; tries++) {
        check_once(&bus, &look);
        if (look.faults == 0) return;
        wrong = look.faults < 0 ? 0 : wrong + 1;
        os_pause();
    }
    if (wrong == LOOKS) fault(c, "bus %u: %s", index, look.text);
}

const struct kind_check bus_kind_check = {
    .check = check_bus,
    .accounts_for = accounts_for,
    .leads_to = bus_has_part,
};
