/*
 * listeners.h - layer bus: the records of listeners, and their hold words.
 *
 *   record   cursor, joined, lost | seat, passed, stalled, waiters, turns | holds[64]
 *   tables   | hold | hold | ...                    512 further hold words, then 2048, ...
 *
 * A record is claimed and recovered under the heap lock, and freed by its holder or under it. Its bit in
 * `active` is set while it is registered: after its holder, and cleared before that. The holder's process writes the hold words. A listener that
 * closes while it holds messages leaves its record registered, with LISTENER_CLOSED: it receives nothing
 * and is in nobody's way.
 */
#ifndef IPCHEAP_BUS_LISTENERS_H
#define IPCHEAP_BUS_LISTENERS_H

#include "bus/bus.h"

/* Returns the record with that number; NULL if it was never made. */
struct bus_listener *listener_at(struct bus *bus, uint32_t number);
/* Returns the table of further hold words of a record; NULL if it has none. */
shared64 *listener_table(const struct bus *bus, uint32_t number, const struct bus_listener *l,
                         uint32_t table);
/* Makes that table. Under the lock. */
int listener_make_table(struct participant *me, struct bus *bus, uint32_t number, uint32_t table);
/* Returns the table that has a hold word from NEAR_HOLDS on, and where in it. */
uint32_t hold_table_of(uint32_t word, uint32_t *within);
/* Returns how many words a table has. */
static inline uint32_t hold_table_length(uint32_t table) { return FIRST_HOLD_TABLE << 2 * table; }

/* Registers a new listener; CHANNEL_BUSY if there are too many. Under the lock. */
int listener_take(struct participant *me, struct bus *bus, uint64_t history, uint32_t flags,
                  uint32_t *number);
/* Ends a registration; its holds are 0. Wakes those that wait for it. */
void listener_free(struct bus *bus, uint32_t number, enum side_state how);
/* True if all hold words are 0; of a closed listener they stay so. */
bool listener_holds_nothing(struct bus *bus, uint32_t number);
/*
 * Returns whose a record is, as an OWN tag: also while a registration is ending, when the seat already says
 * how it ends. The recovery of that participant does the rest if the one that was ending it is killed.
 */
static inline uint64_t listener_holder(const struct bus_listener *l) {
    uint64_t holder = get_acquire(&l->seat.holder); /* pairs with listener_take() */
    return (uint64_t)SIDE_OPEN << 62 | (holder & ~(UINT64_C(3) << 62));
}
/* True if the holder is alive, as an endpoint or only for its messages. */
bool listener_is_alive(const struct bus *bus, const struct bus_listener *l);
/* Recovers dead listeners. Under the lock. */
void listeners_recover(struct participant *me, struct bus *bus);
/* Frees records that are closed and hold nothing any more; true if any is left in use. */
bool listeners_tidy(struct bus *bus);
/* Wakes the writers that wait for a listener, after what they wait for; not on the listener's own path. */
void listener_wake_writers(struct bus_listener *l);
/* Frees the areas of all records. Under the lock, in a channel that nobody uses. */
void listeners_free_areas(struct participant *me, struct bus *bus);

static inline uint32_t listeners_used(const struct bus *bus) {
    return (uint32_t)least(get_acquire(&bus->root->listeners), /* pairs with listener_take() */
                           MOST_LISTENERS);
}

static inline bool bus_has_listeners(const struct bus *bus) {
    uint32_t used = listeners_used(bus);
    for (uint32_t i = 0; i * 64 < used; i++)
        if (get(&bus->root->active[i])) return true;
    return false;
}

/* Steps through the registered listeners: a few instructions for each, because there may be thousands. */
struct listener_walk {
    uint32_t next;
    uint32_t number; /* out */
    struct bus_listener *listener;
    /* What is known already: those of 64 that are still to come, and the records of a group. */
    uint64_t bits;
    uint32_t base, from, length;
    struct bus_listener *group;
};
/* Finds the next of them that are registered; false if there are none. */
bool listener_look(const struct bus *bus, struct listener_walk *walk);
/* Finds the group of a record; false if there is none. */
bool listener_group(struct bus *bus, struct listener_walk *walk, uint32_t number);

static inline bool listener_step(struct bus *bus, struct listener_walk *walk) {
    for (;;) {
        if (UNLIKELY(!walk->bits) && !listener_look(bus, walk)) return false;
        uint32_t number = walk->base + (uint32_t)__builtin_ctzll(walk->bits);
        walk->bits &= walk->bits - 1;
        walk->next = number + 1;
        if (UNLIKELY(number - walk->from >= walk->length) && !listener_group(bus, walk, number))
            continue;
        walk->number = number;
        walk->listener = walk->group + (number - walk->from);
        return true;
    }
}

/* Steps through the hold words of one listener that are not 0. */
struct held_walk {
    uint32_t next, used;
    uint32_t word; /* out: its number, */
    uint64_t hold; /* its value, */
    shared64 *at;  /* and where it is */
};
static inline struct held_walk held_walk_of(const struct bus_listener *l) {
    return (struct held_walk){.used = get_acquire(&l->used)}; /* pairs with word_take() */
}
bool held_step_on(const struct bus *bus, uint32_t number, struct bus_listener *l,
                  struct held_walk *walk);
/* Without a call for a listener that has held nothing yet. */
static inline bool held_step(const struct bus *bus, uint32_t number, struct bus_listener *l,
                             struct held_walk *walk) {
    return walk->next < walk->used && held_step_on(bus, number, l, walk);
}

static inline bool listener_is_open(const struct bus_listener *l) {
    return side_state(get_acquire(&l->seat.holder)) == SIDE_OPEN && /* with listener_take() */
           !(get(&l->flags) & LISTENER_CLOSED);
}

/* True if it never makes anybody wait. */
static inline bool listener_is_lossy(const struct bus *bus, const struct bus_listener *l) {
    return get(&l->flags) & LISTENER_LOSSY || bus->patience == 0;
}

/* True if the bus leads to that area: kind.has_part. */
bool bus_has_part(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset);

#endif
