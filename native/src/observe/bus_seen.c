/* bus_seen.c - what a look finds of a bus: its log, its listeners, and what they hold. */

#include <stdlib.h>

#include "observe/observer.h"

/* What is being looked at. */
struct bus_look {
    uint32_t index, patience;
    struct seen_inside *inside;
    ipcheap_seen_channel *seen;
    uint32_t listeners, first_party;
    uint64_t least_cursor;
    struct growing holds; /* seen_hold */
};

/* Log ------------------------------------------------------------------------------------------ */

/* Returns by how many laps the slot of a position is past it; negative: it was not posted yet. */
static int64_t laps_past(const struct seen_inside *bus, uint64_t position) {
    uint64_t word = bus->log[position & (bus->log_count - 1)];
    if ((uint32_t)ring_state(word) == MESSAGE_NEVER) return -1;
    uint64_t past = (ring_lap(word) - (position >> bus->log_shift)) & LAP_MASK;
    return past <= LAP_MASK / 2 ? (int64_t)past : -1;
}

/* Returns the first position that is not posted, by the hints and the slots as they were read. */
static uint64_t end_of(const struct seen_inside *bus, uint64_t head, uint64_t floor) {
    uint64_t position = head - floor > bus->log_count ? floor : head;
    for (uint64_t steps = 2 * bus->log_count; steps > 0; steps--) {
        int64_t past = laps_past(bus, position);
        if (past < 0) break;
        position += ((uint64_t)past << bus->log_shift) + 1;
    }
    return greatest(position, floor);
}

static bool log_look(ipcheap_observer *o, struct bus_look *b, uint64_t memory) {
    struct seen_inside *bus = b->inside;
    struct {
        shared64 floor;
        char between[offsetof(struct bus_root, head) - sizeof(shared64)];
        shared64 head;
    } hints;
    bus->log = look_allocate(o, bus->log_count, sizeof *bus->log);
    if (!bus->log) return false;
    uint64_t at = memory + offsetof(struct bus_root, slots);
    if (!look_at_table(o, at, bus->log, bus->log_count * sizeof *bus->log)) return false;
    look_at(o, memory, &hints, sizeof hints);
    bus->floor = get(&hints.floor);
    bus->end = end_of(bus, get(&hints.head), bus->floor);
    b->seen->sent = bus->end;
    return true;
}

/* Listeners ------------------------------------------------------------------------------------ */

static void hold_note(ipcheap_observer *o, struct bus_look *b, uint32_t party, uint64_t word) {
    enum hold_state state = (enum hold_state)(word >> 62);
    if (state == HOLD_FREE) return;
    ipcheap_seen_party *listener = (ipcheap_seen_party *)o->parties.items + party;
    listener->held += state == HOLD_HELD || state == HOLD_KEPT;
    struct seen_hold *hold = grow(o, &b->holds, sizeof *hold);
    if (!hold) return;
    *hold = (struct seen_hold){
        .block = (word & OFFSET_UNITS) << 6,
        .party = party,
        .position = (uint32_t)(word >> 40 & HOLD_POSITION_MASK),
    };
}

static void more_holds_look(ipcheap_observer *o, struct bus_look *b, uint32_t party,
                            const struct bus_listener *l, uint32_t number) {
    uint64_t words[512], used = get(&l->used), next = NEAR_HOLDS;
    for (uint32_t table = 0; table < HOLD_TABLES && next < used; table++) {
        uint64_t length = (uint64_t)FIRST_HOLD_TABLE << 2 * table, offset = get(&l->more[table]);
        if (!area_is(o, offset, length * sizeof *words, KIND_SYSTEM,
                     part_tag(b->index, PART_OF_MORE_HOLDS + number))) {
            say(o, "bus %u is corrupt: listener %u has no hold words of its own", b->index, number);
            return;
        }
        uint64_t end = least(length, used - next);
        for (uint64_t at = 0; at < end; at += 512) {
            uint64_t count = least(512, end - at);
            if (!look_at_table(o, offset + at * sizeof *words, words, count * sizeof *words))
                return;
            for (uint64_t i = 0; i < count; i++) hold_note(o, b, party, words[i]);
        }
        next += length;
    }
}

static void listener_look(ipcheap_observer *o, struct bus_look *b, uint32_t number,
                          const struct bus_listener *l) {
    const struct seen_inside *bus = b->inside;
    uint64_t cursor = get(&l->side.position), floor = bus->floor, joined = get(&l->side.bus.joined);
    uint64_t from = greatest(cursor, joined == JOINING ? 0 : joined);
    uint32_t flags = get(&l->flags), party = (uint32_t)o->parties.count;
    ipcheap_seen_party *listener = grow(o, &o->parties, sizeof *listener);
    if (!listener) return;
    listener->channel = b->index;
    listener->number = number;
    listener->holder = key_of_owner(o, get(&l->seat.holder));
    listener->closed = (flags & LISTENER_CLOSED) != 0;
    listener->lossy = flags & LISTENER_LOSSY || b->patience == 0;
    listener->passed = !listener->closed && !listener->lossy && get(&l->passed) == cursor + 1;
    listener->position = cursor;
    uint64_t unread = greatest(cursor, floor);
    listener->pending = !listener->closed && bus->end > unread ? bus->end - unread : 0;
    listener->lost = get(&l->side.bus.lost) + (floor > from ? floor - from : 0);
    listener->waiting = !listener->closed && get(&l->seat.parked) != AWAKE && !listener->pending;
    listener->stalls = get(&l->waiters) != 0 && !listener->closed;
    listener->parks = get(&l->side.parks);
    if (!listener->closed && cursor < b->least_cursor) {
        b->least_cursor = cursor;
        b->inside->slowest = party + 1;
    }
    uint64_t near = least(get(&l->used), NEAR_HOLDS);
    for (uint64_t i = 0; i < near; i++) hold_note(o, b, party, get(&l->holds[i]));
    more_holds_look(o, b, party, l, number);
}

static void listeners_look(ipcheap_observer *o, struct bus_look *b, const struct bus_root *root) {
    uint32_t used = (uint32_t)least(get(&root->listeners), MOST_LISTENERS), number = 0;
    for (uint32_t group = 0; group < LISTENER_GROUPS && number < used; group++) {
        uint64_t offset = get(&root->group[group]);
        uint32_t count = (uint32_t)FIRST_LISTENERS << group;
        if (!area_is(o, offset, count * sizeof(struct bus_listener), KIND_SYSTEM,
                     part_tag(b->index, PART_OF_LISTENERS + group))) {
            say(o, "bus %u is corrupt: listeners from %u on cannot be found", b->index, number);
            return;
        }
        for (uint32_t i = 0; i < count && number < used; i++, number++) {
            struct bus_listener listener;
            if (!(get(&root->active[number / 64]) >> (number & 63) & 1)) continue;
            if (!look_at_table(o, offset + i * sizeof listener, &listener, sizeof listener)) return;
            listener_look(o, b, number, &listener);
        }
    }
}

static int by_block(const void *a, const void *b) {
    const struct seen_hold *one = a, *other = b;
    if (one->block != other->block) return one->block < other->block ? -1 : 1;
    return one->party < other->party ? -1 : one->party > other->party;
}

void look_at_bus(ipcheap_observer *o, uint32_t index, const struct channel *copy) {
    uint64_t shape = get(&copy->shape), memory = get(&copy->parts[0]);
    uint32_t log = shape_log(shape);
    struct bus_look b = {.index = index,
                         .patience = shape_patience(shape),
                         .inside = &o->inside[index],
                         .seen = &o->seen[index],
                         .least_cursor = UINT64_MAX};
    if (log > BUS_CAPACITY_LOG || shape_history(shape) > UINT64_C(1) << log) {
        say(o, "bus %u is corrupt: it has a shape that no bus has", index);
        return;
    }
    b.seen->capacity = UINT64_C(1) << log;
    if (!memory) return; /* it has not been used yet */
    uint64_t bytes = sizeof(struct bus_root) + (sizeof(shared64) << log);
    struct bus_root root;
    if (!area_is(o, memory, bytes, KIND_SYSTEM, part_tag(index, 0))) {
        say(o, "bus %u is corrupt: it has no log of its own", index);
        return;
    }
    b.inside->log_shift = log;
    b.inside->log_count = UINT64_C(1) << log;
    if (!log_look(o, &b, memory)) {
        b.inside->log_count = 0;
        return;
    }
    look_at(o, memory, &root, sizeof root);
    b.seen->passed = get(&root.passes);
    listeners_look(o, &b, &root);
    struct seen_inside *bus = b.inside;
    bus->holds = b.holds.items;
    bus->hold_count = b.holds.count;
    if (bus->hold_count) qsort(bus->holds, bus->hold_count, sizeof *bus->holds, by_block);
    uint64_t history = shape_history(shape), end = bus->end;
    bus->history_from = greatest(bus->floor, end > history ? end - history : 0);
    bus->next_from = greatest(bus->floor, b.least_cursor);
    b.seen->pending = end > bus->next_from ? end - bus->next_from : 0;
    b.seen->received = end - b.seen->pending;
    if (!b.seen->pending) bus->slowest = 0;
    if (bus->slowest) {
        ipcheap_seen_party *slowest = (ipcheap_seen_party *)o->parties.items + bus->slowest - 1;
        b.seen->full = slowest->stalls ? IPCHEAP_FULL_PENDING : 0;
    }
}
