#include "store/recover.h"

#include "channel/side.h"
#include "channel/wake.h"
#include "memory/block.h"
#include "segment/clock.h"
#include "store/collect.h"

/* What was not committed --------------------------------------------------------------------------- */

/* True if the place in a channel with that tag still has the block. */
static bool is_wanted_back(ipcheap_heap *heap, uint64_t from, uint64_t offset) {
    const struct channel *channel = channel_at(heap, tag_channel(from));
    if (tag_kind(from) != TAG_SENT || !channel) return false;
    const struct kind *kind = kind_of(heap, channel);
    return kind && kind->holds && kind->holds(heap, from, offset);
}

/* Gives a block that was being forwarded its former tag; then the slot's claim does not count. */
static void give_back(struct store *s, uint32_t slot) {
    const struct store_slot *shared = chunk_slot(s, slot);
    uint64_t from = get(&shared->died), offset = get(&shared->offset);
    struct place place;
    if (!offset || !place_find(s->heap, offset, &place)) return;
    if (!place_is(&place, tag_of_chunk(s, slot)) || !is_wanted_back(s->heap, from, offset)) return;
    put_release(place.tag, from); /* pairs with place_is() */
}

/* Lets the cell of a pending slot lead to what it was about to replace. */
static void cell_undo(struct store *s, uint32_t slot, uint64_t head) {
    struct store_cell *cell = cell_of_slot(s, slot);
    const struct store_slot *shared = chunk_slot(s, slot);
    uint32_t older = get(&shared->older);
    struct chunk_key key;
    if (!cell) return;
    key_in_slot(shared, &key);
    if (older && older <= s->slots) {
        uint64_t word = get(&chunk_slot(s, older - 1)->word);
        if (chunk_state(word) == CHUNK_LIVE && chunk_version(word) <= head &&
            slot_has_key(chunk_slot(s, older - 1), &key)) {
            cell_put(cell, key.hash, older - 1);
            return;
        }
    }
    cell_clear(s, cell);
}

static void undo(const struct recovery *r, struct store *s) {
    uint64_t head = store_head(s);
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        struct store_slot *shared = chunk_slot(s, slot);
        uint64_t word = get(&shared->word);
        if (chunk_state(word) == CHUNK_PREPARED) {
            give_back(s, slot);
            free_chunk(r->me, s, slot);
            r->report->blocks++;
        } else if (chunk_state(word) == CHUNK_LIVE && chunk_version(word) > head) {
            if (get(&shared->hash)) cell_undo(s, slot, head);
            give_back(s, slot);
            /* Readers may be looking at it, so it is collected like any other. */
            put_release(&shared->word, chunk_word(CHUNK_LEAVING, chunk_version(word)));
        }
    }
}

/* Writes the entries that the log lacks: those of slots first, so that no follower passes over one. */
static void log_complete(struct store *s) {
    uint64_t head = store_head(s);
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        const struct store_slot *shared = chunk_slot(s, slot);
        uint64_t word = get(&shared->word), version = chunk_version(word);
        if (chunk_state(word) != CHUNK_LIVE || version > head || head - version > s->log_mask)
            continue;
        shared64 *entry = &s->log[version & s->log_mask];
        uint64_t right = version << 32 | (get(&shared->offset) ? slot + 1 : 0);
        if (get(entry) != right) put_release(entry, right); /* with log_at() */
    }
    for (uint64_t i = 0; i <= s->log_mask; i++) {
        uint64_t version = head - ((head - i) & s->log_mask);
        if (head < ((head - i) & s->log_mask) || version == 0) continue;
        if (get(&s->log[i]) >> 32 != (version & UINT32_MAX))
            put_release(&s->log[i], version << 32); /* with log_at() */
    }
}

/* The dead writer may have taken words of readers that poll, and been killed before it rang. */
static void ring_readers(struct store *s) {
    uint32_t readers = readers_used(s);
    for (uint32_t i = 0; i < readers; i++) {
        struct store_reader *entry = store_reader_at(s, i);
        if (entry && side_state(get(&entry->seat.holder)) == SIDE_OPEN)
            bell_ring(s->heap, &entry->seat, NULL);
    }
}

static void recover_writer(const struct recovery *r, uint32_t index) {
    struct store s;
    struct channel *channel = channel_at(r->heap, index);
    if (!side_is_of_dead(r, channel, IPCHEAP_WRITER)) return;
    if (store_view(r->heap, index, &s)) {
        store_turn(&s);
        undo(r, &s);
        log_complete(&s);
        collect_alone(r->me, &s); /* makes DEAD what the writer was about to replace */
        ring_readers(&s);
    }
    side_recover(r, channel, IPCHEAP_WRITER);
}

static void recover_readers_of_dead(const struct recovery *r, uint32_t index) {
    struct store s;
    bool freed = false;
    if (!store_view(r->heap, index, &s)) return;
    uint32_t readers = readers_used(&s);
    for (uint32_t i = 0; i < readers; i++) {
        const struct store_reader *entry = store_reader_at(&s, i);
        if (!entry) continue;
        uint64_t holder = get(&entry->seat.holder);
        if (side_state(holder) != SIDE_OPEN) continue;
        bool closed = get(&entry->closed);
        if (closed ? !owned_by_dead(r, holder) : !names_dead(r, holder)) continue;
        entry_free(&s, i, SIDE_DIED);
        r->report->endpoints += !closed;
        freed = true;
    }
    if (!freed) return;
    if (side_state(get(&s.channel->seats[IPCHEAP_WRITER].holder)) != SIDE_OPEN)
        collect_alone(r->me, &s);
    directory_notify(r->heap);
}

/* The dead participant was collecting: no writer has been inside since. */
static void recover_collector(const struct recovery *r, uint32_t index) {
    struct store s;
    if (!store_view(r->heap, index, &s)) return;
    uint64_t collector = get(&s.root->collector);
    if (collector && names_dead(r, collector)) collect_alone(r->me, &s);
}

void store_recover(const struct recovery *r, uint32_t index, int pass) {
    if (pass == RECOVER_WRITERS) {
        recover_writer(r, index);
        recover_collector(r, index);
    } else {
        recover_readers_of_dead(r, index);
    }
}

bool store_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t from, uint64_t *by) {
    struct store s;
    uint64_t part = tag_position(tag);
    if (tag_kind(tag) != TAG_PART || part < PART_OF_CHUNK) return false;
    if (!store_view(heap, tag_channel(tag), &s) || part - PART_OF_CHUNK >= s.slots) return false;
    *by = get_acquire(&s.channel->seats[IPCHEAP_WRITER].holder); /* pairs with side_end() */
    if (side_state(*by) != SIDE_OPEN) return false;
    const struct store_slot *slot = chunk_slot(&s, (uint32_t)(part - PART_OF_CHUNK));
    uint64_t word = get(&slot->word);
    bool pending = chunk_state(word) == CHUNK_PREPARED ||
                   (chunk_state(word) == CHUNK_LIVE && chunk_version(word) > store_head(&s));
    return pending && get(&slot->offset) == offset && get(&slot->died) == from;
}

/* The end of a store ------------------------------------------------------------------------------- */

void store_withdraw(struct participant *me, uint32_t index) {
    struct store s;
    struct lists lists;
    if (!store_view(me->heap, index, &s)) return;
    /* Pairs with claim(). */
    uint64_t holder = get_acquire(&s.channel->seats[IPCHEAP_WRITER].holder);
    if (side_state(holder) == SIDE_OPEN && holder != me->tag) {
        if (get(&s.heap->header->fences) || !os_membarrier()) return;
        if (!participant_settled(s.heap, tag_slot(holder))) return;
    }
    if (lists_build(&s, &lists)) return;
    int64_t now = clock_now(s.heap);
    for (uint32_t slot = 0; slot < lists.slots; slot++)
        if (lists.notes[slot].state == NOTE_LIVE) bury(&s, &lists, slot, now);
    lists.deletion_count = 0;
    collect(me, &s, &lists, 0);
    lists_drop(&lists);
}

void store_drain(struct participant *me, uint32_t index) {
    struct store s;
    if (!store_view(me->heap, index, &s)) return;
    for (uint32_t slot = 0; slot < s.slots; slot++)
        if (chunk_state(get(&chunk_slot(&s, slot)->word)) != CHUNK_FREE) free_chunk(me, &s, slot);
    store_free_areas(me, &s);
}
