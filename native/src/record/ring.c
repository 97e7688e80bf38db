#include "record/ring.h"

bool __attribute__((noinline)) extent_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    struct place place;
    return place_find(heap, offset, &place) && nbytes <= place_bytes(heap, &place);
}

bool ring_of(ipcheap_heap *heap, uint32_t index, struct ring *ring) {
    struct channel *channel = channel_at(heap, index);
    if (!channel || get(&channel->kind) != IPCHEAP_RECORD_CHANNEL) return false;
    uint64_t slots = get(&channel->shape);
    if (slots == 0 || slots & (slots - 1) || slots > MOST_SLOTS) return false;
    uint64_t memory = channel_part(heap, index, 0, slots * sizeof(struct ring_slot));
    if (!memory) return false;
    ring->slots = at_offset(heap, memory);
    ring->count = slots;
    ring->shift = (uint32_t)__builtin_ctzll(slots);
    return true;
}

static uint64_t lap_at(const struct ring *ring, uint64_t position) {
    return (position >> ring->shift) & LAP_MASK;
}

/* True if a position has been sent: its slot is full with it, or was given back after it. */
static bool was_sent(const struct ring *ring, uint64_t position) {
    /* Pairs with fill_slot(). */
    uint64_t word = get_acquire(&ring->slots[position & (ring->count - 1)].word);
    uint64_t lap = lap_at(ring, position);
    if (ring_state(word) == SLOT_FULL) return ring_lap(word) == lap;
    return ring_lap(word) == ((lap + 1) & LAP_MASK);
}

uint64_t ring_sent(ipcheap_heap *heap, uint32_t index) {
    struct ring ring;
    if (!ring_of(heap, index, &ring)) return 0;
    const shared64 *hint = &channel_at(heap, index)->sides[IPCHEAP_PRODUCER].position;
    uint64_t first, position, tries = 0;
    do {
        first = position = get_acquire(hint); /* pairs with fill_slot() */
        while (position - first < ring.count && was_sent(&ring, position)) position++;
        /*
         * A living producer may have wrapped around since we read its hint, and then the slots
         * belong to another lap. It moves the hint after each send, or burst of at most a ring, so
         * reading the hint again shows that.
         */
    } while (get(hint) != first && tries++ < ring.count);
    return position;
}

uint64_t ring_oldest(ipcheap_heap *heap, uint32_t index, uint64_t sent) {
    struct ring ring;
    if (!ring_of(heap, index, &ring)) return sent;
    uint64_t position = sent > ring.count ? sent - ring.count : 0;
    for (; position < sent; position++) {
        /* Pairs with fill_slot(). */
        uint64_t word = get_acquire(&ring.slots[position & (ring.count - 1)].word);
        if (ring_state(word) == SLOT_FULL && ring_lap(word) == lap_at(&ring, position)) break;
    }
    return position;
}

bool ring_valid(const struct ring *ring, uint64_t sent) {
    for (uint64_t position = sent; position != sent + ring->count; position++) {
        /* Pairs with fill_slot() and slot_leave(). */
        uint64_t word = get_acquire(&ring->slots[position & (ring->count - 1)].word);
        if (!slot_word_possible(word, lap_at(ring, position))) return false;
    }
    return true;
}

bool ring_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct ring ring;
    if (tag_kind(tag) != TAG_SENT || !ring_of(heap, tag_channel(tag), &ring)) return false;
    uint64_t position = tag_position(tag);
    /* Pairs with fill_slot(). */
    uint64_t word = get_acquire(&ring.slots[position & (ring.count - 1)].word);
    return word == ring_word(lap_at(&ring, position), SLOT_FULL, offset);
}

bool ring_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t here, uint64_t *by) {
    struct ring ring;
    uint32_t index = tag_channel(tag);
    if (tag_kind(tag) != TAG_SENT || !ring_of(heap, index, &ring)) return false;
    const struct channel *channel = channel_at(heap, index);
    const struct side *side = &channel->sides[IPCHEAP_PRODUCER];
    *by = get_acquire(&channel->seats[IPCHEAP_PRODUCER].holder); /* pairs with side_end() */
    return side_state(*by) == SIDE_OPEN &&
           get_acquire(&side->record.intent) == offset && /* with recover_producer() */
           get(&side->record.from) == here && tag == sent_tag(index, ring_sent(heap, index));
}

bool ring_awaited(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t here, uint64_t *by) {
    if (tag_kind(tag) != TAG_SENT && tag_kind(tag) != TAG_PART) return false;
    const struct channel *channel = channel_at(heap, tag_channel(tag));
    const struct kind *kind = channel ? kind_of(heap, channel) : NULL;
    return kind && kind->awaits && kind->awaits(heap, tag, offset, here, by);
}

#define TRIES 8 /* how often to look again at a block whose tag is changing */

bool ring_has(ipcheap_heap *heap, uint32_t index, const struct ring *ring, uint64_t position) {
    const struct ring_slot *slot = &ring->slots[position & (ring->count - 1)];
    uint64_t here = sent_tag(index, position), by;
    for (int tries = 0; tries < TRIES; tries++) {
        /* Pairs with fill_slot() and slot_leave(). */
        uint64_t word = get_acquire(&slot->word), offset = ring_offset(word);
        struct place place;
        if (ring_state(word) != SLOT_FULL || ring_lap(word) != lap_at(ring, position)) return false;
        if (!place_find(heap, offset, &place)) return false;
        uint64_t tag = get_acquire(place.tag); /* pairs with fill_slot() and recover_producer() */
        if (tag == here) return true;
        /* What was on its way may have been freed there, which its remote bit says. */
        if (ring_awaited(heap, tag, offset, here, &by) && place_is(&place, tag)) return true;
        /* A recovery that returns a half-forwarded block restores its tag before anything else. */
        if (get(place.tag) == tag) return false;
    }
    return false;
}

uint64_t ring_collect(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct ring ring;
    if (!ring_of(heap, index, &ring)) return 0;
    const struct side *producer = &channel_at(heap, index)->sides[IPCHEAP_PRODUCER];
    uint64_t freed = 0, sent = ring_sent(heap, index), intent = get(&producer->record.intent);
    for (uint64_t i = 0; i < ring.count; i++) {
        uint64_t position = sent + i; /* to be sent next in its slot */
        struct ring_slot *slot = &ring.slots[position & (ring.count - 1)];
        uint64_t word = get_acquire(&slot->word); /* pairs with slot_leave() */
        uint64_t lap = lap_at(&ring, position);
        if (ring_state(word) != SLOT_RELEASED || ring_lap(word) != lap) continue;
        struct place place;
        uint64_t offset = ring_offset(word);
        /*
         * With the second tag, refill_slot() was about to send the block again. If the block is the
         * intent, however, it was being sent as another record, perhaps a forwarded one, and
         * recover_producer() deals with it.
         */
        bool ours = place_find(heap, offset, &place) &&
                    (place_is(&place, sent_tag(index, position - ring.count)) ||
                     (offset != intent && place_is(&place, sent_tag(index, position))));
        /* The block first: if we are killed in between, its tag no longer names this slot. */
        if (ours && block_free(me, &place) == 0) freed++;
        put_release(&slot->word, ring_word(lap, SLOT_EMPTY, 0)); /* pairs with look_at_slot() */
    }
    return freed;
}

static bool has_garbage(const struct ring *ring) {
    for (uint64_t i = 0; i < ring->count; i++)
        if (ring_state(get(&ring->slots[i].word)) == SLOT_RELEASED) return true;
    return false;
}

/* Collects while keeping a living producer outside the ring; see participant_enter(). */
static void collect_from_other(struct participant *me, uint32_t index, uint32_t producer) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    if (get(&heap->header->fences)) return;
    put_or(&channel->flags, CHANNEL_REVOKED);
    if (os_membarrier() && participant_settled(heap, producer)) ring_collect(me, index);
    put_and(&channel->flags, ~(uint32_t)CHANNEL_REVOKED);
}

void ring_reclaim(struct participant *me, uint32_t index) {
    struct channel *channel = channel_at(me->heap, index);
    struct ring ring;
    if (!ring_of(me->heap, index, &ring) || !has_garbage(&ring)) return;
    uint64_t holder = get(&channel->seats[IPCHEAP_PRODUCER].holder);
    if (side_state(holder) == SIDE_OPEN && holder != me->tag)
        collect_from_other(me, index, tag_slot(holder));
    else
        ring_collect(me, index);
}

void ring_drain(struct participant *me, uint32_t index, uint64_t from) {
    ipcheap_heap *heap = me->heap;
    struct ring ring;
    if (!ring_of(heap, index, &ring)) return;
    ring_collect(me, index);
    uint64_t sent = ring_sent(heap, index);
    for (uint64_t p = greatest(from, sent > ring.count ? sent - ring.count : 0); p < sent; p++) {
        struct ring_slot *slot = &ring.slots[p & (ring.count - 1)];
        uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() */
        uint64_t lap = lap_at(&ring, p);
        if (ring_state(word) != SLOT_FULL || ring_lap(word) != lap) continue;
        struct place place;
        bool ours = place_find(heap, ring_offset(word), &place) &&
                    place_is(&place, sent_tag(index, p));
        if (ours) block_free(me, &place);
        put_release(&slot->word, ring_word(lap + 1, SLOT_EMPTY, 0));
    }
}
