#include "store/readers.h"

#include "channel/wake.h"
#include "segment/clock.h"

/* Entries ------------------------------------------------------------------------------------ */

static bool is_open(const struct store_reader *entry) {
    return side_state(get_acquire(&entry->seat.holder)) == SIDE_OPEN; /* with claim() */
}

bool entry_is_alive(struct store *s, const struct store_reader *entry) {
    uint64_t holder = get_acquire(&entry->seat.holder); /* pairs with claim() */
    if (side_state(holder) != SIDE_OPEN) return false;
    uint32_t slot = tag_slot(holder), generation = tag_generation(holder), latest;
    if (!get(&entry->closed)) return participant_alive(s->heap, slot, generation);
    /* Chunks outlive the thread that holds them, as records do. */
    return participant_latest(s->heap, slot, &latest) && (int32_t)(generation - latest) <= 0 &&
           (int32_t)(generation - participant_first(s->heap, slot)) >= 0 &&
           participant_alive(s->heap, slot, latest);
}

void entry_free(struct store *s, uint32_t number, enum side_state how) {
    struct store_reader *entry = store_reader_at(s, number);
    shared64 *holds = store_holds_at(s, number);
    uint64_t used = least(get(&entry->used), (uint64_t)s->hold + 1);
    for (uint64_t i = 0; holds && i < used; i++)
        if (get(&holds[i])) put_release(&holds[i], 0); /* pairs with hold_step() */
    put_release(&entry->used, 0);                      /* pairs with hold_step() */
    put(&entry->closed, 0);
    put(&entry->side.since, 0);
    put(&entry->seat.parked, AWAKE);
    bell_recover(s->heap, &entry->seat);
    uint64_t holder = get(&entry->seat.holder) & ~(UINT64_C(3) << 62);
    put_release(&entry->seat.holder, (uint64_t)how << 62 | holder); /* with is_open() */
}

bool entry_holds_nothing(struct store *s, uint32_t number) {
    const struct store_reader *entry = store_reader_at(s, number);
    const shared64 *holds = store_holds_at(s, number);
    uint64_t used = least(get(&entry->used), (uint64_t)s->hold + 1);
    for (uint64_t i = 0; holds && i < used; i++)
        if (get_acquire(&holds[i])) return false; /* pairs with unhold() */
    return true;
}

bool entries_tidy(struct store *s) {
    bool left = false;
    uint32_t readers = readers_used(s);
    for (uint32_t i = 0; i < readers; i++) {
        struct store_reader *entry = store_reader_at(s, i);
        if (!entry || !is_open(entry)) continue;
        if (get(&entry->closed) && entry_holds_nothing(s, i))
            entry_free(s, i, SIDE_CLOSED);
        else
            left = true;
    }
    return left;
}

/* Gives an entry its hold words, if it has none. */
static int entry_prepare(struct participant *me, struct store *s, uint32_t number) {
    struct store_reader *entry = store_reader_at(s, number);
    uint64_t offset, bytes = ((uint64_t)s->hold + 1) * sizeof(shared64);
    if (store_holds_at(s, number)) return 0;
    int error = channel_make_area(me, s->index, PART_OF_HOLDS + number, bytes, &offset);
    if (error) return error;
    put_release(&entry->holds, offset); /* pairs with store_holds_at() */
    return 0;
}

/* Makes the group of the next entry, unless it is there. */
static int group_prepare(struct participant *me, struct store *s, uint32_t number) {
    if (store_reader_at(s, number)) return 0;
    uint32_t group = 31 - (uint32_t)__builtin_clz(number / FIRST_GROUP + 1);
    uint64_t offset, bytes = (FIRST_GROUP * sizeof(struct store_reader)) << group;
    int error = channel_make_area(me, s->index, PART_OF_GROUP + group, bytes, &offset);
    if (error) return error;
    put_release(&s->root->group[group], offset); /* pairs with store_reader_at() */
    return 0;
}

/* Returns a free entry below `readers`; MOST_READERS if there is none. */
static uint32_t find_free(struct store *s, uint32_t readers) {
    for (uint32_t i = 0; i < readers; i++) {
        const struct store_reader *entry = store_reader_at(s, i);
        if (entry && !is_open(entry)) return i;
    }
    return MOST_READERS;
}

void readers_recover(struct participant *me, struct store *s) {
    uint32_t readers = readers_used(s);
    for (uint32_t i = 0; i < readers; i++) {
        const struct store_reader *entry = store_reader_at(s, i);
        if (!entry || !is_open(entry) || entry_is_alive(s, entry)) continue;
        int error = recover_if_dead(me, get(&entry->seat.holder));
        /* A holder that never existed cannot be recovered, and will never close its seat. */
        if (error == IPCHEAP_CORRUPT) entry_free(s, i, SIDE_DIED);
    }
}

int entry_take(struct participant *me, struct store *s, uint32_t *number) {
    uint32_t readers = readers_used(s);
    entries_tidy(s);
    *number = find_free(s, readers);
    if (*number == MOST_READERS) {
        readers_recover(me, s);
        *number = find_free(s, readers);
    }
    if (*number == MOST_READERS) {
        if (readers == MOST_READERS) return IPCHEAP_CHANNEL_BUSY;
        *number = readers;
        int error = group_prepare(me, s, readers);
        if (error) return error;
        put_release(&s->root->readers, readers + 1); /* pairs with readers_used() */
    }
    int error = entry_prepare(me, s, *number);
    if (error) return error;
    struct store_reader *entry = store_reader_at(s, *number);
    put(&entry->closed, 0);
    put(&entry->since, os_wall_clock());
    put(&entry->given, 0);
    put(&entry->skipped, 0);
    put(&entry->side.position, 0);
    put(&entry->side.parks, 0);
    put(&entry->side.wakes, 0);
    put(&entry->side.since, 0);
    for (int i = 0; i < MARKS; i++) put(&entry->side.marks[i], 0);
    return 0;
}

/* Holds -------------------------------------------------------------------------------------- */

uint64_t hold_age(const ipcheap_heap *heap, uint64_t hold) {
    uint64_t now = (uint64_t)(clock_now(heap) / SECOND);
    return (now - (hold >> 46)) & (STAMP_MASK >> STAMP_SHIFT);
}

bool hold_step(struct store *s, struct hold_walk *walk) {
    uint32_t readers = readers_used(s);
    for (;;) {
        while (walk->word < walk->used) {
            walk->hold = get_acquire(&walk->words[walk->word++]); /* pairs with unhold() */
            if (held_slot(walk->hold)) return true;
        }
        if (walk->reader >= readers) return false;
        uint32_t number = walk->reader++;
        const struct store_reader *entry = store_reader_at(s, number);
        walk->word = walk->used = 0;
        if (!entry || !is_open(entry)) continue;
        walk->words = store_holds_at(s, number);
        /* Pairs with hold_return() and entry_free(). */
        uint64_t used = least(get_acquire(&entry->used), (uint64_t)s->hold + 1);
        if (walk->words) walk->used = (uint32_t)used;
    }
}
