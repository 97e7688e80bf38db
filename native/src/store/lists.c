#include "store/lists.h"

#include <stdlib.h>
#include <string.h>

#include "segment/clock.h"

/* Memory ------------------------------------------------------------------------------------- */

int lists_reserve(struct lists *l, uint32_t slots) {
    struct note *notes = os_allocate_aligned(_Alignof(struct note), slots * sizeof *notes);
    if (notes && l->notes) memcpy(notes, l->notes, l->slots * sizeof *notes);
    if (notes) {
        free(l->notes);
        l->notes = notes;
    }
    uint32_t *kept[3] = {l->free, l->dead, l->deletions};
    for (int i = 0; i < 3; i++) {
        uint32_t *more = os_reallocate(kept[i], slots * sizeof *more);
        if (!more) notes = NULL;
        if (more) kept[i] = more;
    }
    l->free = kept[0];
    l->dead = kept[1];
    l->deletions = kept[2];
    return notes ? 0 : IPCHEAP_NO_MEMORY;
}

void lists_extend(struct lists *l, uint32_t slots) {
    for (uint32_t slot = slots; slot-- > l->slots;) {
        l->notes[slot] = (struct note){.state = NOTE_FREE};
        l->free[l->free_count++] = slot;
    }
    l->slots = slots;
}

void lists_drop(struct lists *l) {
    free(l->notes);
    free(l->free);
    free(l->dead);
    free(l->deletions);
    free(l->expiries);
    *l = (struct lists){0};
}

/* Expiries ----------------------------------------------------------------------------------- */

static bool is_current(const struct lists *l, const struct expiry *e) {
    const struct note *note = &l->notes[e->slot];
    return note->state == NOTE_LIVE && note->version == e->version;
}

static void sift_down(struct lists *l, uint32_t at) {
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= l->expiry_count) return;
        if (child + 1 < l->expiry_count && l->expiries[child + 1].at < l->expiries[child].at)
            child++;
        if (l->expiries[at].at <= l->expiries[child].at) return;
        struct expiry moved = l->expiries[at];
        l->expiries[at] = l->expiries[child];
        l->expiries[child] = moved;
        at = child;
    }
}

/* Removes what is not live any more, and orders the rest. */
static void expiries_tidy(struct lists *l) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < l->expiry_count; i++)
        if (is_current(l, &l->expiries[i])) l->expiries[kept++] = l->expiries[i];
    l->expiry_count = kept;
    for (uint32_t i = kept / 2; i-- > 0;) sift_down(l, i);
}

int expiries_make_room(struct lists *l, uint32_t more) {
    expiries_tidy(l);
    if (l->expiry_room - l->expiry_count >= l->expiry_room / 2 &&
        l->expiry_room - l->expiry_count >= more)
        return 0;
    uint32_t room = 2 * l->expiry_room + more + 64;
    struct expiry *expiries = os_reallocate(l->expiries, room * sizeof *expiries);
    if (!expiries) return IPCHEAP_NO_MEMORY;
    l->expiries = expiries;
    l->expiry_room = room;
    return 0;
}

void expiry_add(struct lists *l, uint64_t at, uint32_t slot, uint64_t version) {
    uint32_t child = l->expiry_count++;
    l->expiries[child] = (struct expiry){at, version, slot};
    while (child > 0 && l->expiries[(child - 1) / 2].at > at) {
        uint32_t parent = (child - 1) / 2;
        struct expiry moved = l->expiries[child];
        l->expiries[child] = l->expiries[parent];
        l->expiries[parent] = moved;
        child = parent;
    }
}

/* Chunks ------------------------------------------------------------------------------------- */

void spare_add(struct lists *l, uint32_t slot) {
    struct note *note = &l->notes[slot];
    uint32_t size_class = note->room - 1u;
    note->state = NOTE_SPARE;
    note->after = l->spares[size_class];
    l->spares[size_class] = slot + 1;
    l->spare_rooms |= UINT64_C(1) << size_class;
    l->spare_bytes += note->bytes;
    l->spare_count++;
}

void age_link(struct lists *l, uint32_t slot) {
    struct note *note = &l->notes[slot];
    note->before = l->last;
    note->after = 0;
    if (l->last)
        l->notes[l->last - 1].after = slot + 1;
    else
        l->first = slot + 1;
    l->last = slot + 1;
}

void age_unlink(struct lists *l, uint32_t slot) {
    const struct note *note = &l->notes[slot];
    if (note->before)
        l->notes[note->before - 1].after = note->after;
    else
        l->first = note->after;
    if (note->after)
        l->notes[note->after - 1].before = note->before;
    else
        l->last = note->before;
}

void lists_commit(struct lists *l, uint32_t slot, uint32_t older) {
    struct note *note = &l->notes[slot];
    note->state = NOTE_LIVE;
    note->newer = 0;
    note->older = older;
    note->oldest = slot + 1;
    note->count = note->deletion ? 0 : 1;
    if (older) {
        struct note *before = &l->notes[older - 1];
        before->newer = slot + 1;
        if (!before->deletion && !note->deletion) {
            note->oldest = before->oldest;
            note->count = before->count + 1;
        } else if (note->deletion) {
            note->oldest = before->oldest; /* for key_gone(), until all of them are buried */
        }
    }
    if (note->deletion)
        l->deletions[l->deletion_count++] = slot;
    else
        age_add(l, slot);
}

void store_turn(struct store *s) {
    put_release(&s->root->epoch, get(&s->root->epoch) + 1); /* pairs with store_epoch() */
}

uint64_t key_gone(struct store *s, struct lists *l, uint32_t newest, int64_t now) {
    struct store_cell *cell = cell_of_slot(s, newest);
    store_turn(s);
    if (cell) cell_clear(s, cell);
    uint64_t chunks = 0;
    for (uint32_t link = newest + 1; link;) {
        uint32_t older = l->notes[link - 1].older;
        chunks += !l->notes[link - 1].deletion;
        bury(s, l, link - 1, now);
        link = older;
    }
    return chunks;
}

void tail_gone(struct store *s, struct lists *l, uint32_t newest, int64_t now) {
    struct note *top = &l->notes[newest];
    uint32_t slot = top->oldest - 1, newer = l->notes[slot].newer;
    l->notes[newer - 1].older = 0;
    top->oldest = newer;
    if (!top->deletion) top->count--;
    bury(s, l, slot, now);
}

/*
 * Takes a chunk between others of its key away. Readers that look for what was the newest at an earlier
 * moment would miss it, so the epoch changes first.
 */
static void middle_gone(struct store *s, struct lists *l, uint32_t newest, uint32_t slot,
                        int64_t now) {
    const struct note *note = &l->notes[slot];
    store_turn(s);
    put_release(&chunk_slot(s, note->newer - 1)->older, note->older); /* with older_of() */
    l->notes[note->newer - 1].older = note->older;
    l->notes[note->older - 1].newer = note->newer;
    l->notes[newest].count--;
    bury(s, l, slot, now);
}

/* Finds the newest chunk of a key, of which a slot has an older one: by the cell, or step by step. */
static uint32_t newest_of(struct store *s, const struct lists *l, uint32_t slot) {
    struct chunk_key key;
    uint32_t newest;
    key_in_slot(chunk_slot(s, slot), &key);
    if (cell_find(s, &key, &newest) && is_newest(l, newest)) return newest;
    newest = slot;
    while (l->notes[newest].newer) newest = l->notes[newest].newer - 1;
    return newest;
}

uint64_t chunk_gone(struct store *s, struct lists *l, uint32_t slot, int64_t now) {
    const struct note *note = &l->notes[slot];
    if (note->keyed && !note->newer) return key_gone(s, l, slot, now);
    if (note->keyed) {
        uint32_t newest = newest_of(s, l, slot);
        if (note->older)
            middle_gone(s, l, newest, slot, now);
        else
            tail_gone(s, l, newest, now);
    } else {
        bury(s, l, slot, now);
    }
    return 1;
}

void expire_some(struct store *s, struct lists *l, int64_t now) {
    shared64 *expired = &s->root->expired;
    while (l->expiry_count && l->expiries[0].at <= (uint64_t)now) {
        struct expiry next = l->expiries[0];
        l->expiries[0] = l->expiries[--l->expiry_count];
        sift_down(l, 0);
        if (!is_current(l, &next)) continue;
        put(expired, get(expired) + chunk_gone(s, l, next.slot, now));
    }
}

/* Building ----------------------------------------------------------------------------------- */

struct aged {
    uint64_t version;
    uint32_t slot;
};

static int by_version(const void *a, const void *b) {
    uint64_t x = ((const struct aged *)a)->version, y = ((const struct aged *)b)->version;
    return x < y ? -1 : x > y;
}

/* Notes what every slot is; returns how many are LIVE, or CORRUPT. */
static int64_t notes_fill(struct store *s, struct lists *l, struct aged *aged) {
    uint64_t head = store_head(s);
    int64_t live = 0;
    for (uint32_t slot = s->slots; slot-- > 0;) {
        struct store_slot *shared = chunk_slot(s, slot);
        uint64_t word = get_acquire(&shared->word); /* pairs with make_pending() */
        struct note *note = &l->notes[slot];
        *note = (struct note){
            .version = chunk_version(word),
            .bytes = get(&shared->offset) ? size_bytes(get(&shared->size)) : 0,
            .deletion = get(&shared->offset) == 0,
            .keyed = get(&shared->hash) != 0,
        };
        switch (chunk_state(word)) {
        case CHUNK_FREE:
            l->free[l->free_count++] = slot;
            break;
        case CHUNK_PREPARED:
            note->state = NOTE_PENDING;
            break;
        case CHUNK_LIVE:
            if (note->version > head || note->version == 0) return IPCHEAP_CORRUPT;
            note->state = NOTE_LIVE;
            aged[live++] = (struct aged){note->version, slot};
            break;
        case CHUNK_DEAD:
        case CHUNK_LEAVING:
            note->state = NOTE_DEAD;
            l->dead[l->dead_count++] = slot;
            l->dead_bytes += note->bytes;
            break;
        default:
            return IPCHEAP_CORRUPT;
        }
    }
    return live;
}

/* Adds what a cell leads to, as far as it is of the same key, older and within the depth. */
static bool chain_add(struct store *s, struct lists *l, uint32_t newest) {
    struct note *top = &l->notes[newest];
    if (top->state != NOTE_LIVE || !top->keyed || top->count) return false;
    top->count = 1;
    top->oldest = newest + 1;
    if (top->deletion) return true;
    struct chunk_key key;
    key_in_slot(chunk_slot(s, newest), &key);
    uint32_t at = newest;
    while (top->count < s->depth) {
        uint32_t older = get(&chunk_slot(s, at)->older);
        if (!older || older > s->slots) break;
        struct note *note = &l->notes[older - 1];
        if (note->state != NOTE_LIVE || note->deletion || note->version >= l->notes[at].version)
            break;
        if (!slot_has_key(chunk_slot(s, older - 1), &key)) break;
        l->notes[at].older = older;
        note->newer = at + 1;
        at = older - 1;
        top->count++;
    }
    top->oldest = at + 1;
    return true;
}

static int chains_build(struct store *s, struct lists *l) {
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        uint64_t word = get(&s->cells[i].word);
        uint32_t slot = (uint32_t)word;
        if (!slot) continue;
        if (slot > s->slots || !chain_add(s, l, slot - 1)) return IPCHEAP_CORRUPT;
    }
    return 0;
}

/* True if no cell leads to a chunk with a key. */
static bool is_lost(const struct note *note) { return note->keyed && !note->count && !note->newer; }

static int live_add(struct store *s, struct lists *l, const struct aged *aged, int64_t live) {
    int64_t now = clock_now(s->heap);
    for (int64_t i = 0; i < live; i++) {
        uint32_t slot = aged[i].slot;
        struct note *note = &l->notes[slot];
        if (note->deletion) {
            l->deletions[l->deletion_count++] = slot;
            note->count = 0;
            continue;
        }
        age_add(l, slot);
        uint64_t at = get(&chunk_slot(s, slot)->expires);
        int error = at ? expiries_reserve(l, 1) : 0;
        if (error) return error;
        if (at) expiry_add(l, at, slot, note->version);
    }
    for (int64_t i = 0; i < live; i++) {
        uint32_t slot = aged[i].slot;
        const struct note *note = &l->notes[slot];
        bool lost = note->deletion ? !cell_of_slot(s, slot) : is_lost(note);
        if (lost) bury(s, l, slot, now);
    }
    return 0;
}

int lists_build(struct store *s, struct lists *l) {
    *l = (struct lists){.collection = 1, .evicts = s->evicts};
    struct aged *aged = NULL;
    if (!store_refresh(s)) return IPCHEAP_CORRUPT;
    int error = lists_reserve(l, s->slots);
    if (!error) aged = os_allocate_zeroed(s->slots, sizeof *aged);
    if (!error && !aged) error = IPCHEAP_NO_MEMORY;
    int64_t live = error ? error : notes_fill(s, l, aged);
    if (live < 0) {
        error = (int)live;
    } else {
        l->slots = s->slots;
        qsort(aged, (size_t)live, sizeof *aged, by_version);
        error = chains_build(s, l);
        if (!error) error = live_add(s, l, aged, live);
    }
    free(aged);
    if (error) lists_drop(l);
    return error;
}
