#include "bus/listeners.h"

#include "channel/wake.h"

/* Records -------------------------------------------------------------------------------------- */

static uint32_t group_of(uint32_t number, uint32_t *within) {
    uint32_t group = 31 - (uint32_t)__builtin_clz(number / FIRST_LISTENERS + 1);
    *within = number - FIRST_LISTENERS * ((UINT32_C(1) << group) - 1);
    return group;
}

static uint64_t group_bytes(uint32_t group) {
    return (FIRST_LISTENERS * sizeof(struct bus_listener)) << group;
}

struct bus_listener *listener_at(struct bus *bus, uint32_t number) {
    if (number >= MOST_LISTENERS) return NULL;
    uint32_t within, group = group_of(number, &within);
    if (UNLIKELY(!bus->group[group])) {
        uint64_t offset = get_acquire(&bus->root->group[group]); /* pairs with group_prepare() */
        if (!channel_area_is(bus->heap, bus->index, PART_OF_LISTENERS + group, offset,
                             group_bytes(group)))
            return NULL;
        bus->group[group] = at_offset(bus->heap, offset);
    }
    return bus->group[group] + within;
}

/* Makes the group of a record, unless it is there. */
static int group_prepare(struct participant *me, struct bus *bus, uint32_t number) {
    if (listener_at(bus, number)) return 0;
    uint32_t within, group = group_of(number, &within);
    uint64_t offset;
    int error = channel_make_area(me, bus->index, PART_OF_LISTENERS + group, group_bytes(group),
                                  &offset);
    if (error) return error;
    put_release(&bus->root->group[group], offset); /* pairs with listener_at() */
    return 0;
}

static bool is_active(const struct bus *bus, uint32_t number) {
    uint64_t bits = get_acquire(&bus->root->active[number / 64]); /* with listener_free() */
    return bits >> (number & 63) & 1;
}

bool listener_look(const struct bus *bus, struct listener_walk *walk) {
    uint32_t used = listeners_used(bus);
    while (walk->next < used) {
        uint32_t base = walk->base = walk->next / 64 * 64;
        uint64_t all = get_acquire(&bus->root->active[base / 64]); /* pairs with listener_take() */
        if (used - base < 64) all &= (UINT64_C(1) << (used - base)) - 1;
        walk->bits = all & UINT64_MAX << (walk->next & 63);
        if (walk->bits) return true;
        walk->next = base + 64;
    }
    return false;
}

bool listener_group(struct bus *bus, struct listener_walk *walk, uint32_t number) {
    uint32_t within, group = group_of(number, &within);
    struct bus_listener *l = listener_at(bus, number);
    if (!l) return false;
    walk->group = l - within;
    walk->from = number - within;
    walk->length = FIRST_LISTENERS << group;
    return true;
}

bool listener_is_alive(const struct bus *bus, const struct bus_listener *l) {
    uint64_t holder = get_acquire(&l->seat.holder); /* pairs with listener_take() */
    if (side_state(holder) != SIDE_OPEN) return false;
    uint32_t slot = tag_slot(holder), generation = tag_generation(holder), latest;
    if (!(get(&l->flags) & LISTENER_CLOSED)) return participant_alive(bus->heap, slot, generation);
    /* Messages outlive the thread that holds them, as records do. */
    return participant_latest(bus->heap, slot, &latest) && (int32_t)(generation - latest) <= 0 &&
           (int32_t)(generation - participant_first(bus->heap, slot)) >= 0 &&
           participant_alive(bus->heap, slot, latest);
}

void listeners_recover(struct participant *me, struct bus *bus) {
    uint32_t used = listeners_used(bus);
    for (uint32_t number = 0; number < used; number++) {
        struct bus_listener *l = listener_at(bus, number);
        if (!l || listener_is_alive(bus, l)) continue;
        uint64_t holder = get(&l->seat.holder);
        bool open = side_state(holder) == SIDE_OPEN;
        /* A holder that never existed cannot be recovered, and will never close its seat. */
        if (open ? recover_if_dead(me, holder) == IPCHEAP_CORRUPT : is_active(bus, number))
            listener_free(bus, number, SIDE_DIED);
    }
}

bool listeners_tidy(struct bus *bus) {
    struct listener_walk walk = {0};
    bool left = false;
    while (listener_step(bus, &walk)) {
        bool closed = get(&walk.listener->flags) & LISTENER_CLOSED;
        if (closed && listener_holds_nothing(bus, walk.number))
            listener_free(bus, walk.number, SIDE_CLOSED);
        else
            left = true;
    }
    return left;
}

/*
 * Returns a record that nobody holds; MOST_LISTENERS if there is none below `used`. Not by its bit, which
 * goes before its holder does: listener_free().
 */
static uint32_t find_free(struct bus *bus, uint32_t used) {
    for (uint32_t number = 0; number < used; number++) {
        const struct bus_listener *l = listener_at(bus, number);
        if (l && side_state(get_acquire(&l->seat.holder)) != SIDE_OPEN && /* with listener_free() */
            !is_active(bus, number))
            return number;
    }
    return MOST_LISTENERS;
}

static int find_record(struct participant *me, struct bus *bus, uint32_t *number) {
    uint32_t used = listeners_used(bus);
    listeners_tidy(bus);
    *number = find_free(bus, used);
    if (*number == MOST_LISTENERS) {
        listeners_recover(me, bus);
        *number = find_free(bus, used);
    }
    if (*number < MOST_LISTENERS) return listener_at(bus, *number) ? 0 : IPCHEAP_CORRUPT;
    if (used == MOST_LISTENERS) return IPCHEAP_CHANNEL_BUSY;
    *number = used;
    int error = group_prepare(me, bus, used);
    if (!error) put_release(&bus->root->listeners, used + 1); /* pairs with listeners_used() */
    return error;
}

/* Returns where a listener begins that wants so much history if the log ends there. */
static uint64_t beginning(const struct bus *bus, uint64_t end, uint64_t history) {
    uint64_t kept = greatest(bus_history_from(bus, end), get(&bus->root->floor));
    return end - least(history, end - least(kept, end));
}

int listener_take(struct participant *me, struct bus *bus, uint64_t history, uint32_t flags,
                  uint32_t *number) {
    int error = find_record(me, bus, number);
    if (error) return error;
    struct bus_listener *l = listener_at(bus, *number);
    put(&l->side.parks, 0);
    put(&l->side.wakes, 0);
    put(&l->side.since, 0);
    for (int i = 0; i < MARKS; i++) put(&l->side.marks[i], 0);
    put(&l->side.bus.joined, JOINING);
    put(&l->side.bus.lost, 0);
    put(&l->side.bus.lost_from, 0);
    put(&l->side.bus.lost_to, 0);
    put(&l->passed, 0);
    put(&l->stalled, 0);
    put(&l->flags, flags);
    /* The least at which it may begin: writers that see the bit leave all from there on. */
    put(&l->side.position, beginning(bus, bus_end(bus), history));
    /* From here on recovery knows whose it is; then writers see it. */
    put_release(&l->seat.holder, me->tag); /* pairs with listener_is_open() */
    put_or(&bus->root->active[*number / 64], UINT64_C(1) << (*number & 63));
    full_fence(); /* what a writer that missed the bit reclaims is below what we see now */
    uint64_t end = bus_end(bus);
    put(&l->side.position, beginning(bus, end, history));
    put_release(&l->side.bus.joined, end); /* pairs with broadcast_owe() */
    return 0;
}

void listener_wake_writers(struct bus_listener *l) {
    put_exchange(&l->waiters, 0);
    put_add(&l->turns, 1);
    os_futex_wake(&l->turns, INT32_MAX);
}

void listener_free(struct bus *bus, uint32_t number, enum side_state how) {
    struct bus_listener *l = listener_at(bus, number);
    put(&l->side.since, 0);
    put(&l->seat.parked, AWAKE);
    bell_recover(bus->heap, &l->seat);
    put_and(&bus->root->polled[number / 64], ~(UINT64_C(1) << (number & 63)));
    put_and(&bus->root->active[number / 64], ~(UINT64_C(1) << (number & 63)));
    uint64_t holder = get(&l->seat.holder) & ~(UINT64_C(3) << 62);
    /* Last: from here on the record may be another's. Pairs with listener_is_open(). */
    put_release(&l->seat.holder, (uint64_t)how << 62 | holder);
    listener_wake_writers(l);
}

/* Areas ---------------------------------------------------------------------------------------- */

bool bus_has_part(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset) {
    struct bus bus;
    if (!bus_view(heap, index, &bus)) return false;
    if (part >= PART_OF_LISTENERS && part < PART_OF_LISTENERS + LISTENER_GROUPS)
        return get(&bus.root->group[part - PART_OF_LISTENERS]) == offset;
    if (part < PART_OF_MORE_HOLDS || part >= PART_OF_MORE_HOLDS + MOST_LISTENERS) return false;
    const struct bus_listener *l = listener_at(&bus, (uint32_t)(part - PART_OF_MORE_HOLDS));
    for (uint32_t table = 0; l && table < HOLD_TABLES; table++)
        if (get(&l->more[table]) == offset) return true;
    return false;
}

/* Holds ---------------------------------------------------------------------------------------- */

uint32_t hold_table_of(uint32_t word, uint32_t *within) {
    uint32_t table = 0;
    word -= NEAR_HOLDS;
    while (table < HOLD_TABLES && word >= hold_table_length(table))
        word -= hold_table_length(table++);
    *within = word;
    return table;
}

static uint64_t table_bytes(uint32_t table) { return hold_table_length(table) * sizeof(shared64); }

shared64 *listener_table(const struct bus *bus, uint32_t number, const struct bus_listener *l,
                         uint32_t table) {
    uint64_t offset = get_acquire(&l->more[table]); /* pairs with listener_make_table() */
    bool own = channel_area_is(bus->heap, bus->index, PART_OF_MORE_HOLDS + number, offset,
                               table_bytes(table));
    return own ? at_offset(bus->heap, offset) : NULL;
}

int listener_make_table(struct participant *me, struct bus *bus, uint32_t number, uint32_t table) {
    struct bus_listener *l = listener_at(bus, number);
    uint64_t offset;
    if (listener_table(bus, number, l, table)) return 0;
    int error = channel_make_area(me, bus->index, PART_OF_MORE_HOLDS + number, table_bytes(table),
                                  &offset);
    if (!error) put_release(&l->more[table], offset); /* pairs with listener_table() */
    return error;
}

bool held_step_on(const struct bus *bus, uint32_t number, struct bus_listener *l,
                  struct held_walk *walk) {
    shared64 *words = NULL;
    uint32_t loaded = HOLD_TABLES, within;
    while (walk->next < walk->used) {
        walk->word = walk->next++;
        if (LIKELY(walk->word < NEAR_HOLDS)) {
            walk->at = &l->holds[walk->word];
        } else {
            uint32_t table = hold_table_of(walk->word, &within);
            if (table == HOLD_TABLES) return false; /* `used` is corrupt */
            if (table != loaded) words = listener_table(bus, number, l, loaded = table);
            if (!words) return false;
            walk->at = &words[within];
        }
        walk->hold = get_acquire(walk->at); /* pairs with hold_end() */
        if (walk->hold) return true;
    }
    return false;
}

bool listener_holds_nothing(struct bus *bus, uint32_t number) {
    struct bus_listener *l = listener_at(bus, number);
    struct held_walk walk = held_walk_of(l);
    return !held_step(bus, number, l, &walk);
}

void listeners_free_areas(struct participant *me, struct bus *bus) {
    uint32_t used = listeners_used(bus);
    for (uint32_t number = 0; number < used; number++) {
        struct bus_listener *l = listener_at(bus, number);
        for (uint32_t table = 0; l && table < HOLD_TABLES; table++) {
            shared64 *words = listener_table(bus, number, l, table);
            if (!words) continue;
            put(&l->more[table], 0);
            channel_free_area(me, offset_of(bus->heap, words));
        }
    }
    put(&bus->root->listeners, 0);
    for (uint32_t group = 0; group < LISTENER_GROUPS; group++) {
        uint64_t offset = get(&bus->root->group[group]);
        put(&bus->root->group[group], 0);
        if (offset && channel_area_is(bus->heap, bus->index, PART_OF_LISTENERS + group, offset, 1))
            channel_free_area(me, offset);
    }
}
