/* check_record.c - the slots of rings agree with the blocks that they name. */

#include "memory/block.h"
#include "observe/check.h"
#include "record/ring.h"

typedef unsigned long long number;

/*
 * True if the block that a FULL slot names exists, is large enough, and has a tag that names the
 * slot. The tag may differ while a consumer keeps or forwards what it has received.
 */
static bool full_slot_is_right(ipcheap_heap *heap, uint32_t index, uint64_t position,
                               const struct ring_slot *slot, uint64_t word) {
    struct channel *channel = channel_at(heap, index);
    struct place place;
    if (!place_find(heap, ring_offset(word), &place)) return false;
    if (get_acquire(place.tag) == sent_tag(index, position)) /* pairs with fill_slot() */
        return size_bytes(get(&slot->size)) <= place_bytes(heap, &place);
    bool held = side_state(get(&channel->seats[IPCHEAP_CONSUMER].holder)) == SIDE_OPEN;
    return held && position < get(&channel->sides[IPCHEAP_CONSUMER].position);
}

/* True if a slot is possible, given the next position to be sent in it. */
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
        uint64_t sent = ring_sent(heap, index);
        uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() and slot_leave() */
        /* The first position from `sent` on that uses this slot. */
        uint64_t next = sent + ((i - sent) & (ring->count - 1));
        if (slot_is_right(heap, index, ring, next, slot, word)) return;
        /* Pairs with fill_slot() and slot_leave(). */
        if (get_acquire(&slot->word) != word || ring_sent(heap, index) != sent) look = -1;
        if (look == LOOKS - 1)
            fault(c, "slot %llu of channel %u says what cannot be (%llx)", (number)i, index,
                  (number)word);
        os_pause();
    }
}

static void check_record(struct check *c, uint32_t index, struct channel *channel) {
    struct ring ring;
    uint64_t memory = get(&channel->parts[0]), slots = get(&channel->shape);
    if (slots == 0 || slots & (slots - 1)) {
        fault(c, "channel %u has %llu slots", index, (number)slots);
        return;
    }
    if (memory == 0) return; /* no side has been claimed yet */
    if (!run_is(c->heap, memory, KIND_SYSTEM, part_tag(index, 0),
                slots * sizeof(struct ring_slot)) ||
        !ring_of(c->heap, index, &ring)) {
        fault(c, "the ring of channel %u is not its own", index);
        return;
    }
    /* A removed channel may be half drained; the last side that closes drains the rest. */
    if (get(&channel->state) >> 62 == CHANNEL_REMOVED) return;
    for (uint64_t i = 0; i < ring.count; i++) check_slot(c, index, &ring, i);
}

/* True if a block was sent, waits in the ring to be reused, or is just being sent. */
static bool accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct ring ring;
    uint32_t index = tag_channel(tag);
    if (!ring_of(heap, index, &ring)) return false;
    uint64_t position = tag_position(tag);
    /* Pairs with fill_slot() and slot_leave(). */
    uint64_t word = get_acquire(&ring.slots[position & (ring.count - 1)].word);
    uint64_t lap = (position >> ring.shift) & LAP_MASK;
    return word == ring_word(lap, SLOT_FULL, offset) ||
           word == ring_word(lap + 1, SLOT_RELEASED, offset) ||
           word == ring_word(lap, SLOT_RELEASED, offset) ||
           get(&channel_at(heap, index)->sides[IPCHEAP_PRODUCER].record.intent) == offset;
}

const struct kind_check record_check = {
    .check = check_record, .accounts_for = accounts_for, .sides = {"producer", "consumer"}};
