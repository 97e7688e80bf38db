/* check_store.c - slots, cells, log and readers of a store agree with each other and with blocks. */

#include <stdio.h>
#include <stdlib.h>

#include "base/os.h"
#include "memory/block.h"
#include "memory/extent.h"
#include "observe/check.h"
#include "store/readers.h"
#include "store/tables.h"

typedef unsigned long long number;

/*
 * What one pass over a store has found. Writers work without the lock, so a pass counts only if nothing
 * was committed, cut or collected meanwhile and the writer was outside before and after.
 */
struct pass {
    struct store s;
    uint64_t head, epoch;
    uint32_t *led;      /* of every slot: how many cells lead to it; MANY: by way of a newer one */
    uint64_t *versions; /* of all LIVE slots */
    uint64_t live;
    int faults;
    char text[160];
};
#define MANY 1000000u

static void note_fault(struct pass *p, const char *what, uint64_t which, const char *is) {
    if (p->faults++ == 0) snprintf(p->text, sizeof p->text, "%s %llu %s", what, (number)which, is);
}

/* Slots ------------------------------------------------------------------------------------------- */

static bool block_is_right(struct pass *p, uint32_t at, const struct store_slot *slot) {
    uint64_t offset = get(&slot->offset), tag = part_tag(p->s.index, PART_OF_CHUNK + (uint64_t)at);
    struct place place;
    return place_find(p->s.heap, offset, &place) && get(place.tag) == tag &&
           size_bytes(get(&slot->size)) <= place_bytes(p->s.heap, &place);
}

static void check_slots(struct pass *p) {
    for (uint32_t at = 0; at < p->s.slots; at++) {
        const struct store_slot *slot = chunk_slot(&p->s, at);
        uint64_t word = get(&slot->word);
        enum chunk_state state = chunk_state(word);
        if (state > CHUNK_LEAVING) note_fault(p, "slot", at, "is in no known state");
        if ((get(&slot->form) & 0xFF) > IPCHEAP_STORE_KEY_MAX && state != CHUNK_FREE)
            note_fault(p, "slot", at, "has too long a key");
        if (state != CHUNK_LIVE && state != CHUNK_DEAD) continue;
        if (get(&slot->offset) && !block_is_right(p, at, slot))
            note_fault(p, "slot", at, "has no block of its own");
        if (chunk_version(word) > p->head || chunk_version(word) == 0)
            note_fault(p, "slot", at, "has a version that was never committed");
        if (state == CHUNK_LIVE) p->versions[p->live++] = chunk_version(word);
    }
}

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void check_versions(struct pass *p) {
    if (p->live) qsort(p->versions, (size_t)p->live, sizeof *p->versions, by_number);
    for (uint64_t i = 1; i < p->live; i++)
        if (p->versions[i] == p->versions[i - 1])
            note_fault(p, "version", p->versions[i], "exists twice");
}

/* Cells ------------------------------------------------------------------------------------------- */

/* Marks the older chunks of a key, which its newest one leads to. */
static void mark_older(struct pass *p, uint32_t newest) {
    uint32_t at = newest;
    for (uint64_t depth = 1; depth < p->s.depth; depth++) {
        uint32_t older = get(&chunk_slot(&p->s, at)->older);
        if (!older || older > p->s.slots) return;
        uint64_t word = get(&chunk_slot(&p->s, older - 1)->word);
        if (chunk_state(word) != CHUNK_LIVE ||
            chunk_version(word) >= chunk_version(get(&chunk_slot(&p->s, at)->word)) ||
            get(&chunk_slot(&p->s, older - 1)->hash) != get(&chunk_slot(&p->s, newest)->hash))
            return;
        p->led[older - 1] += MANY;
        at = older - 1;
    }
}

static void check_cells(struct pass *p) {
    const struct store *s = &p->s;
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        uint64_t word = get(&s->cells[i].word);
        uint32_t slot = (uint32_t)word;
        if (!slot) continue;
        if (slot > s->slots) {
            note_fault(p, "cell", i, "leads to no slot");
            continue;
        }
        uint64_t hash = get(&chunk_slot(s, slot - 1)->hash);
        uint32_t upper = (uint32_t)(hash >> 32);
        if (chunk_state(get(&chunk_slot(s, slot - 1)->word)) != CHUNK_LIVE || !hash ||
            word >> 32 != (upper ? upper : 1))
            note_fault(p, "cell", i, "leads to a slot of another key, or of none");
        for (uint64_t at = hash & s->cell_mask; at != i; at = (at + 1) & s->cell_mask)
            if (get(&s->cells[at].word) == 0) {
                note_fault(p, "cell", i, "cannot be found by its key");
                break;
            }
        p->led[slot - 1]++;
        mark_older(p, slot - 1);
    }
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        bool live = chunk_state(get(&chunk_slot(s, slot)->word)) == CHUNK_LIVE;
        bool keyed = live && get(&chunk_slot(s, slot)->hash) != 0;
        if (keyed && p->led[slot] != 1 && p->led[slot] != MANY)
            note_fault(p, "slot", slot, "is not led to by one cell");
    }
}

static void check_log(struct pass *p) {
    const struct store *s = &p->s;
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        uint64_t word = get(&chunk_slot(s, slot)->word), version = chunk_version(word);
        bool there = chunk_state(word) == CHUNK_LIVE && get(&chunk_slot(s, slot)->offset);
        if (!there || version > p->head || p->head - version > s->log_mask) continue;
        if (get(&s->log[version & s->log_mask]) != (version << 32 | (slot + 1)))
            note_fault(p, "version", version, "is not where the log leads");
    }
}

/* Passes ------------------------------------------------------------------------------------------ */

/* True if no participant may be half-way through a change: no writer is inside, no other collects. */
static bool is_quiet(const struct pass *p) {
    /* Pairs with collect_alone(). */
    if (get_acquire(&p->s.root->collector)) return false;
    uint64_t holder = get_acquire(&p->s.channel->seats[0].holder); /* pairs with claim() */
    if (side_state(holder) != SIDE_OPEN) return true;
    if (!participant_alive(p->s.heap, tag_slot(holder), tag_generation(holder))) return false;
    const struct participant_slot *record = participant_record(p->s.heap, holder);
    return record && get_acquire(&record->busy) == 0; /* pairs with participant_leave() */
}

/* Looks at everything once; false if that does not count. */
static bool pass_once(struct pass *p) {
    p->live = 0;
    p->faults = 0;
    for (uint32_t slot = 0; slot < p->s.slots; slot++) p->led[slot] = 0;
    if (!is_quiet(p)) return false;
    p->head = store_head(&p->s);
    p->epoch = store_epoch(&p->s);
    check_slots(p);
    check_versions(p);
    check_cells(p);
    check_log(p);
    return is_quiet(p) && store_head(&p->s) == p->head && store_epoch(&p->s) == p->epoch;
}

static void check_chunks(struct check *c, struct pass *p) {
    p->led = os_allocate_zeroed(p->s.slots, sizeof *p->led);
    p->versions = os_allocate_zeroed(p->s.slots, sizeof *p->versions);
    bool counts = p->led && p->versions;
    for (int look = 0; look < LOOKS && counts; look++) {
        counts = pass_once(p);
        if (!p->faults) break;
    }
    if (counts && p->faults) fault(c, "store %u: %s", p->s.index, p->text);
    free(p->led);
    free(p->versions);
}

/* Readers ----------------------------------------------------------------------------------------- */

/*
 * True if a reader's holder may exist. A closed entry that holds nothing stays until it is tidied up,
 * even if its holder has left.
 */
static bool holder_is_known(struct store *s, uint32_t at, uint64_t holder) {
    const struct store_reader *entry = store_reader_at(s, at);
    if (!get(&entry->closed) && may_hold(s->heap, holder)) return true;
    return get(&entry->closed) && (may_own(s->heap, holder) || entry_holds_nothing(s, at));
}

static void check_reader(struct check *c, struct store *s, uint32_t at) {
    const struct store_reader *entry = store_reader_at(s, at);
    if (!entry) {
        fault(c, "reader %u of store %u has no entry", at, s->index);
        return;
    }
    uint64_t holder = get_acquire(&entry->seat.holder); /* pairs with claim() */
    if (side_state(holder) != SIDE_OPEN) return;
    if (!holder_is_known(s, at, holder) &&
        get_acquire(&entry->seat.holder) == holder) /* pairs with claim() */
        fault(c, "reader %u of store %u is held by nobody (%llx)", at, s->index, (number)holder);
    shared64 *words = store_holds_at(s, at);
    if (!words) {
        fault(c, "reader %u of store %u has no hold words", at, s->index);
        return;
    }
    if (get(&entry->used) > s->hold + 1)
        fault(c, "reader %u of store %u uses more hold words than it has", at, s->index);
    for (uint64_t i = 0; i <= s->hold; i++) {
        uint32_t slot = (uint32_t)get(&words[i]);
        if (slot > s->slots && store_refresh(s) && slot > s->slots)
            fault(c, "reader %u of store %u holds slot %u of %u", at, s->index, slot - 1, s->slots);
    }
}

static void check_store(struct check *c, uint32_t index, struct channel *channel) {
    struct pass p = {0};
    uint64_t memory = get(&channel->parts[0]);
    if (!run_is(c->heap, memory, KIND_SYSTEM, part_tag(index, 0), sizeof(struct store_root)) ||
        !store_view(c->heap, index, &p.s)) {
        fault(c, "the memory of store %u is not its own", index);
        return;
    }
    if (get(&p.s.root->readers) > MOST_READERS) fault(c, "store %u has too many readers", index);
    uint32_t readers = readers_used(&p.s);
    for (uint32_t i = 0; i < readers; i++) check_reader(c, &p.s, i);
    /* A removed store may be half withdrawn, and a poisoned one is only removed. */
    if (get(&channel->state) >> 62 == CHANNEL_REMOVED) return;
    if (!(get(&channel->flags) & CHANNEL_POISONED)) check_chunks(c, &p);
}

/* Blocks and areas -------------------------------------------------------------------------------- */

static bool leads_to(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset) {
    struct store s;
    if (!store_view(heap, index, &s)) return false;
    if (part >= PART_OF_HOLDS) {
        const struct store_reader *entry = store_reader_at(&s, (uint32_t)(part - PART_OF_HOLDS));
        return part < PART_OF_HOLDS + MOST_READERS && entry && get(&entry->holds) == offset;
    }
    if (part >= PART_OF_GROUP)
        return part < PART_OF_GROUP + READER_GROUPS &&
               get(&s.root->group[part - PART_OF_GROUP]) == offset;
    return part >= PART_OF_PIECE && part < PART_OF_PIECE + s.pieces &&
           get(&s.root->piece[part - PART_OF_PIECE]) == offset;
}

const struct kind_check store_kind_check = {
    .check = check_store,
    .accounts_for = store_claims,
    .sides = {"writer"},
    .leads_to = leads_to,
};
