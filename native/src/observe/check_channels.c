/* check_channels.c - participants, directory and rings agree with what they lead to. */

#include "observe/check.h"
#include "record/ring.h"

typedef unsigned long long number;

/* Rings ---------------------------------------------------------------------------------- */

/*
 * A FULL slot: the block it names is there, is large enough, and its tag names the slot. Of
 * what a consumer has received, he may just be keeping or forwarding it.
 */
static bool full_slot_is_right(ipcheap_heap *heap, uint32_t index, uint64_t position,
                               const struct ring_slot *slot, uint64_t word) {
    struct channel *channel = channel_at(heap, index);
    struct place place;
    if (!place_find(heap, ring_offset(word), &place)) return false;
    if (get_acquire(place.tag) == sent_tag(index, position))
        return size_bytes(get(&slot->size)) <= place_bytes(heap, &place);
    bool held = side_state(get(&channel->seats[IPCHEAP_CONSUMER].holder)) == SIDE_OPEN;
    return held && position < get(&channel->sides[IPCHEAP_CONSUMER].position);
}

/* The slot of the last position sent in it, or, where none was, of the first. */
static bool slot_is_right(ipcheap_heap *heap, uint32_t index, const struct ring *ring,
                          uint64_t next, const struct ring_slot *slot, uint64_t word) {
    uint64_t lap = (next >> ring->shift) & LAP_MASK;
    if (ring_state(word) == SLOT_EMPTY || ring_state(word) == SLOT_RELEASED)
        return ring_lap(word) == lap;
    return ring_state(word) == SLOT_FULL && next >= ring->count &&
           ring_lap(word) == ((lap - 1) & LAP_MASK) &&
           full_slot_is_right(heap, index, next - ring->count, slot, word);
}

static void check_slot(struct check *c, uint32_t index, const struct ring *ring, uint64_t i) {
    ipcheap_heap *heap = c->heap;
    struct ring_slot *slot = &ring->slots[i];
    for (int look = 0; look < LOOKS; look++) {
        uint64_t sent = ring_sent(heap, index), word = get_acquire(&slot->word);
        /* The first position from `sent` on that has this slot. */
        uint64_t next = sent + ((i - sent) & (ring->count - 1));
        if (slot_is_right(heap, index, ring, next, slot, word)) return;
        if (get_acquire(&slot->word) != word || ring_sent(heap, index) != sent) look = -1;
        if (look == LOOKS - 1)
            fault(c, "slot %llu of channel %u says what cannot be (%llx)", (number)i, index,
                  (number)word);
        os_pause();
    }
}

static void check_ring(struct check *c, uint32_t index, struct channel *channel) {
    struct ring ring;
    uint64_t memory = get(&channel->parts[0]), slots = get(&channel->shape);
    if (slots == 0 || slots & (slots - 1)) {
        fault(c, "channel %u has %llu slots", index, (number)slots);
        return;
    }
    if (memory == 0) return; /* nobody has claimed a side yet */
    if (!run_is(c->heap, memory, KIND_SYSTEM, part_tag(index, 0),
                slots * sizeof(struct ring_slot)) ||
        !ring_of(c->heap, index, &ring)) {
        fault(c, "the ring of channel %u is not its own", index);
        return;
    }
    /* The pending ones of a removed channel may be half drained; the last to close goes on. */
    if (get(&channel->state) >> 62 == CHANNEL_REMOVED) return;
    for (uint64_t i = 0; i < ring.count; i++) check_slot(c, index, &ring, i);
}

/* A side is held by somebody whose death would be noticed. */
static void check_side(struct check *c, uint32_t index, struct channel *channel, int side) {
    for (int look = 0; look < LOOKS; look++) {
        uint64_t holder = get_acquire(&channel->seats[side].holder);
        if (side_state(holder) != SIDE_OPEN || may_own(c->heap, holder)) return;
        if (look == LOOKS - 1 && get_acquire(&channel->seats[side].holder) == holder)
            fault(c, "the %s side of channel %u is held by nobody (%llx)",
                  side == IPCHEAP_PRODUCER ? "producer" : "consumer", index, (number)holder);
    }
}

/* Static segments ------------------------------------------------------------------------ */

static void check_static(struct check *c, uint32_t index, struct channel *channel) {
    uint64_t ready = get(&channel->ready);
    if (!run_is(c->heap, get(&channel->parts[0]), KIND_STATIC, part_tag(index, 0),
                get(&channel->shape)))
        fault(c, "the memory of static segment %u is not its own", index);
    bool initialised = ready == 0 || ready == STATIC_READY;
    if (!initialised && (tag_kind(ready) != TAG_OWN || !may_own(c->heap, ready)))
        fault(c, "static segment %u is being initialised by nobody (%llx)", index, (number)ready);
}

/* The directory -------------------------------------------------------------------------- */

static void check_entry(struct check *c, uint32_t index, struct channel *channel) {
    uint32_t kind = get(&channel->kind);
    if (kind == IPCHEAP_STATIC_SEGMENT) {
        check_static(c, index, channel);
    } else if (kind == IPCHEAP_RECORD_CHANNEL) {
        check_ring(c, index, channel);
        for (int side = 0; side < 2; side++) check_side(c, index, channel, side);
    } else {
        fault(c, "channel %u is of no known kind", index);
    }
}

/* Can a channel be found, and nothing else in its place? */
static void check_key(struct check *c, uint32_t index, struct channel *channel) {
    ipcheap_key key;
    ipcheap_channel found;
    channel_key(channel, &key);
    if (ipcheap_find_channel(c->heap, &key, &found) || found.index != index)
        fault(c, "channel %u cannot be found by its id", index);
}

static void check_free_entries(struct check *c, uint32_t free_entries) {
    ipcheap_heap *heap = c->heap;
    uint32_t listed = 0, link = get(&heap->header->free_entry);
    for (; link && listed <= free_entries; listed++) {
        struct channel *channel = channel_at(heap, link - 1);
        if (!channel || get(&channel->state) >> 62 != CHANNEL_FREE) {
            fault(c, "the list of free channels leads to channel %u, which is not free", link - 1);
            return;
        }
        link = get(&channel->next_free);
    }
    if (listed != free_entries)
        fault(c, "%u channels are free, and %u are listed", free_entries, listed);
}

static void check_directory_memory(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint64_t word = get(&heap->header->table), offset = word & ((UINT64_C(1) << 56) - 1);
    uint64_t table_bytes = UINT64_C(4) << (word >> 56 & 63);
    if (word && !run_is(heap, offset, KIND_SYSTEM, part_tag(NO_CHANNEL, DIRECTORY_TABLE), table_bytes))
        fault(c, "the table of the directory is not its own");
    for (uint32_t i = 0; i < DIRECTORY_CHUNKS; i++) {
        uint64_t chunk = get(&heap->header->chunks[i]);
        uint64_t bytes = ((uint64_t)FIRST_CHUNK << i) * sizeof(struct channel);
        if (chunk && !run_is(heap, chunk, KIND_SYSTEM, part_tag(NO_CHANNEL, i), bytes))
            fault(c, "chunk %u of the directory is not its own", i);
    }
}

static void check_directory(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint32_t entries = get(&heap->header->entries), living = 0, free_entries = 0;
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(heap, index);
        if (!channel) {
            fault(c, "channel %u of %u has no descriptor", index, entries);
            return;
        }
        switch (get_acquire(&channel->state) >> 62) {
        case CHANNEL_LIVE:
            living++;
            check_key(c, index, channel);
            check_entry(c, index, channel);
            break;
        case CHANNEL_REMOVED: /* it goes when its last side closes */
            check_entry(c, index, channel);
            break;
        case CHANNEL_FREE:
            free_entries++;
            break;
        default:
            fault(c, "channel %u is half-made", index);
        }
    }
    uint32_t counted = get(&heap->header->channels);
    if (living != counted)
        fault(c, "the directory counts %u channels and has %u", counted, living);
    check_free_entries(c, free_entries);
}

/* Participants --------------------------------------------------------------------------- */

static void check_participants(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint32_t used = get(&heap->header->slots_used);
    if (used > PARTICIPANTS) {
        fault(c, "%u participant slots are in use, and there are %u", used, PARTICIPANTS);
        return;
    }
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = participant_record(heap, slot);
        if (!record) {
            fault(c, "participant slot %u is in use and has no memory", slot);
            return;
        }
        uint64_t state = get_acquire(&record->word) & 0xFF;
        if (state != SLOT_FREE && state != SLOT_LIVE)
            fault(c, "participant slot %u is in no known state", slot);
    }
}

void check_channels(struct check *c) {
    check_participants(c);
    check_directory_memory(c);
    check_directory(c);
}
