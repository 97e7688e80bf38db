/*
 * bus.h - layer bus: the words of a bus, and a process's view of them.
 *
 *   root   | floor, settled, swept | head | sleepers, wake | turn | listeners | slots[capacity]
 *   slot   | lap 22 | whole or apart 2 | block / 64 |       position p stands in slot p mod capacity
 *   hold   | state 2 | apart 1 | position 21 | block / 64 | of a listener, for what it has received
 *
 * A position p is posted when its slot has lap p / capacity. The block that a slot names has the tag
 * SENT(bus, p) until a participant takes it away to free it. No position below the floor may be received
 * any more.
 */
#ifndef IPCHEAP_BUS_BUS_H
#define IPCHEAP_BUS_BUS_H

#include "channel/directory.h"
#include "memory/block.h"

/* What a process knows of a bus: private, and worked out from what cannot change. */
struct bus {
    ipcheap_heap *heap;
    struct channel *channel;
    struct bus_root *root;
    uint32_t index;
    uint32_t shift;    /* log2 of the slots */
    uint64_t mask;     /* slots - 1 */
    uint64_t history;  /* how many of the last messages are kept for listeners that come later */
    uint32_t patience; /* ms; PATIENCE_UNLIMITED */
    struct bus_listener *group[LISTENER_GROUPS]; /* once they were asked for */
};

/* Looks at a bus; false if it has no memory yet, or none that is its own. */
bool bus_view(ipcheap_heap *heap, uint32_t index, struct bus *bus);
/* The same, and makes the memory if there is none. Under the lock. */
int bus_view_made(struct participant *me, uint32_t index, struct bus *bus);

static inline shared64 *bus_slot(const struct bus *bus, uint64_t position) {
    return &bus->root->slots[position & bus->mask];
}

static inline uint64_t bus_lap(const struct bus *bus, uint64_t position) {
    return (position >> bus->shift) & LAP_MASK;
}

static inline enum message_kind slot_message(uint64_t word) {
    return (enum message_kind)ring_state(word);
}

/* How many laps a slot is past a position's own: 0: it has that position; negative: not yet. */
static inline int64_t slot_laps_past(const struct bus *bus, uint64_t position, uint64_t word) {
    if (slot_message(word) == MESSAGE_NEVER) return -1;
    uint64_t past = (ring_lap(word) - bus_lap(bus, position)) & LAP_MASK;
    return past <= LAP_MASK / 2 ? (int64_t)past : -1;
}

/*
 * Finds the first position that is not posted. The hint may be of any age, because the writer that stored
 * it may have been stopped before; and a slot's lap says something only within half of all laps. So it
 * counts only if the floor is not beyond it, before and after. False if there seems to be no such position:
 * the laps of the slots run in a circle, or the floor lies. No writer is ever followed for so long.
 */
#define LONGEST_CHASE (UINT64_C(1) << 16)
static inline bool bus_find_end(const struct bus *bus, uint64_t *end) {
    uint64_t most = 2 * (bus->mask + 1) + LONGEST_CHASE;
    for (;;) {
        uint64_t head = get_acquire(&bus->root->head);   /* pairs with post_once() */
        uint64_t floor = get_acquire(&bus->root->floor); /* pairs with floor_raise() */
        uint64_t position = head;
        if (UNLIKELY(head - floor > bus->mask + 1)) {
            position = *end = floor;
            /* What is below the floor was posted. */
            uint64_t below = floor ? get(bus_slot(bus, floor - 1)) : 0;
            if (floor && slot_laps_past(bus, floor - 1, below) < 0) {
                /* Unless more than half of all laps were posted between the two loads. */
                if (get(&bus->root->floor) == floor || most-- == 0) return false;
                continue;
            }
        }
        for (;; most--) {
            uint64_t word = get_acquire(bus_slot(bus, position)); /* pairs with post_once() */
            int64_t past = slot_laps_past(bus, position, word);
            *end = position;
            if (past < 0) break;
            if (UNLIKELY(most == 0)) return false;
            position += ((uint64_t)past << bus->shift) + 1;
        }
        /* Pairs with floor_raise(). */
        if (LIKELY(get_acquire(&bus->root->floor) <= position)) return true;
        if (UNLIKELY(most-- == 0)) return false;
    }
}

/* Returns the first position that is not posted; of a corrupt log one that is. */
static inline uint64_t bus_end(const struct bus *bus) {
    uint64_t end;
    bus_find_end(bus, &end);
    return end;
}

/* Returns the first position that the history keeps if the log ends there. */
static inline uint64_t bus_history_from(const struct bus *bus, uint64_t end) {
    return end > bus->history ? end - bus->history : 0;
}

/* Messages ------------------------------------------------------------------------------------- */

/* A message, as slots and holds name it. */
struct message {
    uint64_t position;
    uint64_t block;
    bool apart;
};

static inline struct message slot_says(uint64_t position, uint64_t word) {
    return (struct message){position, ring_offset(word), slot_message(word) >= MESSAGE_APART};
}

static inline uint64_t hold_of(enum hold_state state, const struct message *m) {
    return (uint64_t)state << 62 | (uint64_t)m->apart << 61 |
           (m->position & HOLD_POSITION_MASK) << 40 | m->block >> 6;
}

static inline enum hold_state hold_state(uint64_t hold) { return (enum hold_state)(hold >> 62); }

/* True if the bytes of a message may still be used by a hold with this word. */
static inline bool hold_uses(uint64_t hold) {
    return hold_state(hold) == HOLD_HELD || hold_state(hold) == HOLD_KEPT;
}

/* The same without its state, to compare. */
static inline uint64_t hold_names(uint64_t hold) { return hold & ((UINT64_C(1) << 62) - 1); }

static inline uint64_t message_tag(const struct bus *bus, uint64_t position) {
    return sent_tag(bus->index, position);
}

/* Returns the tag of the payload of a message that is apart. */
static inline uint64_t payload_tag(const struct bus *bus, uint64_t block) {
    uint64_t number = PART_OF_ENVELOPE + (block - bus->heap->geometry.data_at) / BLOCK_ALIGN;
    return part_tag(bus->index, number);
}

/* The offset of the envelope with a part number from PART_OF_ENVELOPE on. */
static inline uint64_t envelope_offset(const ipcheap_heap *heap, uint64_t part) {
    return heap->geometry.data_at + (part - PART_OF_ENVELOPE) * BLOCK_ALIGN;
}

/*
 * Finds a message's envelope; NULL if no block is there that could have one. The block's tag is not
 * looked at: *place, unless it is NULL, is for that.
 */
struct envelope *message_envelope(ipcheap_heap *heap, const struct message *m, struct place *place);
/*
 * Returns the payload that an envelope names, for a caller that does not keep the message there. Its block
 * may be somebody else's by now: the tag says so afterwards.
 */
uint64_t payload_glance(const struct envelope *envelope);

/* Being inside --------------------------------------------------------------------------------- */
/*
 * A writer has no seat, so its participant's slot says which bus it is inside of. A bus that is removed
 * keeps its memory until nobody is: its remover sets CHANNEL_GONE, runs os_membarrier() and looks
 * at all slots.
 */

/* Enters a bus: 0, CHANNEL_NOT_FOUND if it is removed, CORRUPT. The caller does not sleep inside. */
int bus_enter(struct participant *me, const struct bus *bus, uint32_t incarnation);
static inline void bus_leave(struct participant *me) {
    put_release(&me->record->bus, 0); /* pairs with bus_is_occupied() */
}
/*
 * Enters a bus whose memory is kept there by something else, which may end meanwhile. Returns where the
 * caller was before, for bus_return(): pairs may be nested.
 */
static inline uint64_t bus_stay(struct participant *me, const struct bus *bus) {
    uint64_t before = get(&me->record->bus);
    put(&me->record->bus, (uint64_t)tag_generation(me->tag) << 32 | (bus->index + 1));
    compiler_fence(); /* pairs with the membarrier in bus_is_occupied() */
    return before;
}
static inline void bus_return(struct participant *me, uint64_t before) {
    put_release(&me->record->bus, before); /* pairs with bus_is_occupied() */
}
/*
 * True if a participant other than the caller may be inside, or was when it died and has not been
 * recovered. Under the lock.
 */
bool bus_is_occupied(struct participant *me, uint32_t index);

#endif
