#include "record/endpoint.h"

#include "record/record.h"
#include "record/recover.h"
#include "segment/lock.h"

/* The channel -------------------------------------------------------------------------------- */

int ipcheap_add_record_channel(ipcheap_heap *heap, const ipcheap_key *key, uint64_t capacity,
                               ipcheap_channel *handle) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (error) return error;
    if (capacity > MOST_SLOTS) return IPCHEAP_BAD_VALUE;
    uint64_t slots = 1;
    while (slots < capacity) slots *= 2;
    error = heap_lock(me);
    if (error) return error;
    bool added;
    error = directory_add(me, key, IPCHEAP_RECORD_CHANNEL, capacity ? slots : 0, NULL, handle,
                          &added);
    heap_unlock(me);
    return error;
}

static int make(struct participant *me, uint32_t index, uint64_t slots, const void *details) {
    (void)details;
    return channel_make_part(me, index, 0, slots * sizeof(struct ring_slot));
}

/*
 * Frees what the consumer has not received, after CHANNEL_GONE was set. The consumer stores its
 * position and then reads the flag: after a membarrier, either its position is beyond a record, or
 * it does not take the record. The producer must be outside the ring. If that cannot be known, what
 * is pending is freed when the last side closes. Under the lock.
 */
static void drain_pending(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    if (get(&heap->header->fences)) return;
    if (!os_membarrier()) return;
    /* Pairs with claim(). */
    uint64_t holder = get_acquire(&channel->seats[IPCHEAP_PRODUCER].holder);
    bool other = side_state(holder) == SIDE_OPEN && holder != me->tag;
    if (other && !participant_settled(heap, tag_slot(holder))) return;
    /* No acquire: os_membarrier() orders this load after the consumer's store in move_to(). */
    ring_drain(me, index, get(&channel->sides[IPCHEAP_CONSUMER].position));
}

static void collect(struct participant *me, uint32_t index) { ring_collect(me, index); }

static void drain(struct participant *me, uint32_t index) { ring_drain(me, index, 0); }

/* Claiming and closing ----------------------------------------------------------------------- */

/* Sets an endpoint's position by the slots; a producer collects what was released meanwhile. */
static void take_position(struct record_endpoint *e) {
    uint64_t sent = ring_sent(e->base.heap, e->base.index);
    if (e->base.side == IPCHEAP_PRODUCER) {
        e->position = sent;
        ring_collect(e->base.me, e->base.index);
    } else {
        e->position = ring_oldest(e->base.heap, e->base.index, sent);
        e->doubtful = sent;
    }
    put(&e->base.channel->sides[e->base.side].position, e->position);
}

static int take_side(ipcheap_endpoint *endpoint) {
    struct record_endpoint *e = record_endpoint(endpoint);
    struct channel *channel = e->base.channel;
    struct ring ring;
    if (!ring_of(e->base.heap, e->base.index, &ring)) return IPCHEAP_CORRUPT;
    if (!ring_valid(&ring, ring_sent(e->base.heap, e->base.index))) return IPCHEAP_CORRUPT;
    e->slots = ring.slots;
    e->mask = ring.count - 1;
    e->shift = ring.shift;
    take_position(e);
    if (e->base.side == IPCHEAP_PRODUCER)
        put_and(&channel->flags, ~(uint32_t)(CHANNEL_DESERTED | CHANNEL_REVOKED));
    return 0;
}

/* Makes what a closing consumer holds its participant's own, so that it is not redelivered. */
static void keep_held(ipcheap_endpoint *endpoint, struct participant *me) {
    struct record_endpoint *e = record_endpoint(endpoint);
    if (e->base.side != IPCHEAP_CONSUMER) return;
    uint64_t first = e->position > e->mask ? e->position - e->mask - 1 : 0;
    for (uint64_t p = first; p < e->position; p++) {
        struct ring_slot *slot = slot_of(e, p);
        uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() */
        struct place place;
        if (!slot_is_readable(e, p, word) || !place_find(e->base.heap, ring_offset(word), &place) ||
            !place_is(&place, my_sent_tag(e, p)))
            continue;
        put(place.tag, my_tag(e->base.me));
        /* Release: pairs with look_at_slot(). */
        put_release(&slot->word, ring_word(lap_of(e, p) + 1, SLOT_EMPTY, 0));
        participant_holds(me, e->base.me, 1);
    }
}

/* Waiting ------------------------------------------------------------------------------------ */

/* True if the word in the endpoint's next slot violates the protocol. */
static bool is_broken(const struct record_endpoint *e, uint64_t word) {
    return e->position >= e->doubtful && !slot_word_possible(word, lap_of(e, e->position));
}

static bool can_go_on(const ipcheap_endpoint *e) {
    return record_can_go_on((const struct record_endpoint *)e);
}

/*
 * True if it pays to stop spinning. In a full ring both sides work on one cache line, and each
 * record costs the consumer, the slower side, a miss. So a producer that spins waits for several
 * free slots; once it stops spinning, one will do.
 */
static bool has_some(const ipcheap_endpoint *endpoint) {
    const struct record_endpoint *e = (const struct record_endpoint *)endpoint;
    if (e->base.side == IPCHEAP_PRODUCER) {
        uint64_t further = e->position + least(SOME_ROOM, e->mask / 4);
        if (!slot_is_writable(e, further, get(&slot_of(e, further)->word))) return false;
    }
    return record_can_go_on(e);
}

static bool ready(const ipcheap_endpoint *endpoint) {
    const struct record_endpoint *e = (const struct record_endpoint *)endpoint;
    if (record_can_go_on(e)) return true;
    enum side_state peer = peer_state(endpoint);
    if (peer == SIDE_CLOSED || peer == SIDE_DIED || endpoint_is_over(endpoint)) return true;
    return is_broken(e, get_acquire(&slot_of(e, e->position)->word)); /* with fill_slot() */
}

static void before_waiting(ipcheap_endpoint *endpoint) {
    if (endpoint->side == IPCHEAP_CONSUMER && !ready(endpoint)) make_way(record_endpoint(endpoint));
}

int why_not(struct record_endpoint *e, uint64_t word) {
    return UNLIKELY(is_broken(e, word)) ? record_poison(e) : endpoint_why_not(&e->base);
}

/* Looking ------------------------------------------------------------------------------------ */

/* Returns how many slots the consumer has received and not given back. */
static uint64_t slots_held(const struct record_endpoint *e) {
    uint64_t held = 0, first = e->position > e->mask ? e->position - e->mask - 1 : 0;
    for (uint64_t p = first; p < e->position; p++) {
        uint64_t word = get_acquire(&slot_of(e, p)->word); /* pairs with slot_leave() */
        held += slot_is_readable(e, p, word);
    }
    return held;
}

int ipcheap_endpoint_describe(ipcheap_endpoint *endpoint, ipcheap_endpoint_statistics *statistics) {
    if (endpoint->role >> 1 != IPCHEAP_RECORD_CHANNEL) return IPCHEAP_BAD_VALUE;
    const struct record_endpoint *e = record_endpoint(endpoint);
    const struct channel *channel = endpoint->channel;
    const struct side *side = &channel->sides[endpoint->side];
    *statistics = (ipcheap_endpoint_statistics){
        .capacity = e->mask + 1,
        .sent = get(&channel->sides[IPCHEAP_PRODUCER].position),
        .received = get(&channel->sides[IPCHEAP_CONSUMER].position),
        .parks = get(&side->parks),
        .wakes = get(&side->wakes),
        .spins = endpoint->patience.spins,
        .doze_ns = (uint64_t)endpoint->patience.doze,
        .detached = get(&channel->sides[IPCHEAP_CONSUMER].record.detached),
        .held = endpoint->side == IPCHEAP_CONSUMER && !endpoint->closed ? slots_held(e) : 0,
    };
    return 0;
}

/* Returns how many positions from `received` on a former consumer had freed, out of order. */
static int64_t freed_already(const struct record_endpoint *e, uint64_t received) {
    int64_t count = 0;
    for (uint64_t p = received; p < e->doubtful; p++) {
        uint64_t word = get_acquire(&slot_of(e, p)->word); /* pairs with slot_leave() */
        count += !slot_is_readable(e, p, word);
    }
    return count;
}

int64_t ipcheap_pending(ipcheap_endpoint *endpoint) {
    if (endpoint->kind->receiving) return endpoint->kind->receiving->pending(endpoint);
    if (endpoint->role >> 1 != IPCHEAP_RECORD_CHANNEL) return IPCHEAP_BAD_VALUE;
    const struct record_endpoint *e = record_endpoint(endpoint);
    uint64_t sent = get(&endpoint->channel->sides[IPCHEAP_PRODUCER].position);
    uint64_t received = get(&endpoint->channel->sides[IPCHEAP_CONSUMER].position);
    int64_t pending = sent > received ? (int64_t)(sent - received) : 0;
    return UNLIKELY(received < e->doubtful) ? pending - freed_already(e, received) : pending;
}

const struct kind record_kind = {
    .zone = SYSTEM_ZONE,
    .pages = KIND_SYSTEM,
    .make = make,
    .holds = ring_holds,
    .collect = collect,
    .reclaim = ring_reclaim,
    .withdraw = drain_pending,
    .drain = drain,
    .recover = record_recover,
    .lends = record_lends,
    .taken = record_taken,
    .awaits = ring_awaits,
    .endpoint_bytes = sizeof(struct record_endpoint),
    .take_side = take_side,
    .keep_held = keep_held,
    .can_go_on = can_go_on,
    .has_some = has_some,
    .ready = ready,
    .before_waiting = before_waiting,
};
