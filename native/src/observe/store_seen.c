/* store_seen.c - what a look finds of a store: its chunks, and what its readers hold. */

#include <stdlib.h>

#include "observe/observer.h"

#define SLOTS_AT_ONCE 32

static uint64_t piece_bytes(uint32_t piece) {
    uint64_t first = FIRST_PIECE * sizeof(struct store_slot) +
                     CELLS_OF_PIECE * sizeof(struct store_cell) + LOG_OF_PIECE * sizeof(shared64);
    return first << piece;
}

/* What is being looked at. */
struct store_look {
    uint32_t index, slots;
    struct store_root root;
    uint64_t head, now;
    struct seen_inside *inside;
    ipcheap_seen_channel *seen;
    uint64_t *sizes; /* of chunks */
};

static void chunk_look(struct store_look *s, uint32_t at, const struct store_slot *slot) {
    struct seen_chunk *chunk = &s->inside->chunks[at];
    uint64_t word = get(&slot->word), expires = get(&slot->expires), size = get(&slot->size);
    enum chunk_state state = chunk_state(word);
    chunk->offset = get(&slot->offset);
    chunk->form = size_form(size);
    chunk->used = state != CHUNK_FREE && chunk->offset;
    s->sizes[at] = size_bytes(size);
    if (!chunk->used) return;
    bool committed = state == CHUNK_LIVE && chunk_version(word) <= s->head;
    chunk->dead = state == CHUNK_DEAD || state == CHUNK_LEAVING ||
                  (committed && expires && expires <= s->now);
    if (chunk->dead) {
        s->seen->dead++;
        s->seen->dead_bytes += s->sizes[at];
    } else if (committed) {
        s->seen->chunks++;
        s->seen->nbytes += s->sizes[at];
    }
}

static bool piece_look(ipcheap_observer *o, struct store_look *s, uint32_t piece) {
    uint64_t offset = get(&s->root.piece[piece]);
    uint32_t first = s->slots, count = (uint32_t)FIRST_PIECE << piece;
    if (!area_is(o, offset, piece_bytes(piece), KIND_SYSTEM,
                 part_tag(s->index, PART_OF_PIECE + piece)))
        return false;
    size_t all = (size_t)first + count;
    struct seen_chunk *chunks = os_reallocate(s->inside->chunks, all * sizeof *chunks);
    if (chunks) s->inside->chunks = chunks;
    uint64_t *sizes = chunks ? os_reallocate(s->sizes, all * sizeof *sizes) : NULL;
    if (sizes) s->sizes = sizes;
    if (!sizes) {
        o->short_of_memory = true;
        return true;
    }
    for (uint32_t i = 0; i < count; i += SLOTS_AT_ONCE) {
        struct store_slot slots[SLOTS_AT_ONCE];
        if (!look_at_table(o, offset + i * sizeof *slots, slots, sizeof slots)) return true;
        for (uint32_t j = 0; j < SLOTS_AT_ONCE; j++) {
            s->inside->chunks[first + i + j] = (struct seen_chunk){0};
            chunk_look(s, first + i + j, &slots[j]);
        }
        s->inside->chunk_count = s->slots = first + i + SLOTS_AT_ONCE;
    }
    return true;
}

/* Notes what the hold words of a reader name. */
static void holds_look(ipcheap_observer *o, struct store_look *s, uint64_t offset, uint64_t used,
                       uint32_t number, uint32_t party) {
    ipcheap_seen_party *reader = (ipcheap_seen_party *)o->parties.items + party;
    uint64_t words[512];
    if (!area_is(o, offset, used * sizeof *words, KIND_SYSTEM,
                 part_tag(s->index, PART_OF_HOLDS + number))) {
        say(o, "store %u is corrupt: reader %u has no hold words of its own", s->index, number);
        return;
    }
    for (uint64_t at = 0; at < used; at += 512) {
        uint64_t count = least(512, used - at);
        if (!look_at_table(o, offset + at * sizeof *words, words, count * sizeof *words)) return;
        for (uint64_t i = 0; i < count; i++) {
            uint32_t slot = (uint32_t)words[i] - 1;
            if (at + i == 0 || !words[i] || slot >= s->slots) continue; /* word 0 is a moment's */
            struct seen_chunk *chunk = &s->inside->chunks[slot];
            reader->held++;
            reader->held_bytes += s->sizes[slot];
            reader->dead += chunk->dead;
            if (!chunk->reader) chunk->reader = party + 1;
        }
    }
}

static void reader_look(ipcheap_observer *o, struct store_look *s, uint32_t number,
                        const struct store_reader *entry) {
    uint64_t holder = get(&entry->seat.holder);
    if (side_state(holder) != SIDE_OPEN) return;
    uint32_t party = (uint32_t)o->parties.count;
    ipcheap_seen_party *reader = grow(o, &o->parties, sizeof *reader);
    if (!reader) return;
    reader->channel = s->index;
    reader->number = number;
    reader->holder = key_of_owner(o, holder);
    reader->closed = get(&entry->closed) != 0;
    reader->waiting = !reader->closed && get(&entry->seat.parked) != AWAKE;
    reader->position = get(&entry->side.position);
    reader->pending = s->head > reader->position ? s->head - reader->position : 0;
    reader->parks = get(&entry->side.parks);
    uint64_t used = least(get(&entry->used), MOST_HOLDS + 1);
    if (used > 1) holds_look(o, s, get(&entry->holds), used, number, party);
    reader = (ipcheap_seen_party *)o->parties.items + party;
    if (reader->closed && !reader->held) o->parties.count--; /* it is gone */
}

static void readers_look(ipcheap_observer *o, struct store_look *s) {
    uint32_t readers = (uint32_t)least(get(&s->root.readers), MOST_READERS), number = 0;
    for (uint32_t group = 0; group < READER_GROUPS && number < readers; group++) {
        uint64_t offset = get(&s->root.group[group]);
        uint32_t count = (uint32_t)FIRST_GROUP << group;
        if (!area_is(o, offset, count * sizeof(struct store_reader), KIND_SYSTEM,
                     part_tag(s->index, PART_OF_GROUP + group))) {
            say(o, "store %u is corrupt: readers from %u on cannot be found", s->index, number);
            return;
        }
        for (uint32_t i = 0; i < count && number < readers; i++, number++) {
            struct store_reader entry;
            if (!look_at_table(o, offset + i * sizeof entry, &entry, sizeof entry)) return;
            reader_look(o, s, number, &entry);
        }
    }
}

void look_at_store(ipcheap_observer *o, uint32_t index, const struct channel *copy) {
    struct store_look s = {.index = index, .inside = &o->inside[index], .seen = &o->seen[index]};
    uint64_t memory = get(&copy->parts[0]);
    if (!area_is(o, memory, sizeof s.root, KIND_SYSTEM, part_tag(index, 0))) {
        say(o, "store %u is corrupt: it has no memory of its own", index);
        return;
    }
    look_at(o, memory, &s.root, sizeof s.root);
    s.head = get(&s.root.head);
    s.now = (uint64_t)(os_boot_clock() - o->boot_offset);
    s.seen->sent = s.head;
    s.seen->capacity = get(&s.root.max_chunks);
    uint32_t pieces = (uint32_t)least(get(&s.root.pieces), STORE_PIECES);
    for (uint32_t piece = 0; piece < pieces && !o->short_of_memory; piece++) {
        if (piece_look(o, &s, piece)) continue;
        say(o, "store %u is corrupt: chunks from %u on cannot be found", index, s.slots);
        break;
    }
    if (!o->short_of_memory) readers_look(o, &s);
    s.seen->mean_nbytes = s.seen->chunks ? s.seen->nbytes / s.seen->chunks : 0;
    free(s.sizes);
}
