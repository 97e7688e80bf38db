/*
 * endpoint.h - layer record: a producer or a consumer of a record channel.
 *
 *   producer                                    consumer
 *     slot EMPTY(lap) or RELEASED(lap, block)     slot FULL(lap, block)
 *     free that block, if there is one            hand it to the user; the slot stays FULL
 *     intent = offset                             free():  slot = RELEASED(lap + 1, block)
 *     tag = SENT(channel, position)               keep():  tag = OWN, slot = EMPTY(lap + 1)
 *     slot = FULL(lap, block)     <- sent
 *     intent = 0
 *
 * Copies go into the RELEASED block itself: tag = SENT(channel, position), slot = FULL(lap, block).
 *
 * The slot alone says what has happened; positions are hints. A slot's claim on a block counts
 * only while the block's tag names that slot, so that a forwarded or kept record is never
 * delivered twice. Extents do not wait in a ring to be freed: the consumer frees them.
 *
 * Held records never block a channel. A consumer that would have to wait for a record while it
 * still holds the one a whole ring before it, in the same slot, detaches the old one: takes it out
 * of the slot as keep() does, so that the producer can go on. The user of it does not notice.
 *
 * The endpoint itself is private memory. The thread that claimed the side calls; any thread of its
 * process may free, keep and forward records.
 */
#ifndef IPCHEAP_RECORD_ENDPOINT_H
#define IPCHEAP_RECORD_ENDPOINT_H

#include "channel/side.h"
#include "endpoint/endpoint.h"
#include "record/ring.h"

#define SOME_ROOM 15 /* slots: four lines */

struct record_endpoint {
    struct ipcheap_endpoint base;
    struct ring_slot *slots;
    uint64_t mask;     /* slots - 1 */
    uint32_t shift;    /* log2 of slots */
    bool writable;     /* a producer has seen that its next slot is writable */
    uint64_t position; /* the next to send or to receive */
    uint64_t released; /* a producer's next slot, if a block came back in it; 0: none, or freed */
    uint64_t doubtful; /* a consumer checks positions below this one against tags */
};

static inline struct record_endpoint *record_endpoint(ipcheap_endpoint *e) {
    return (struct record_endpoint *)e;
}

static inline struct ring_slot *slot_of(const struct record_endpoint *e, uint64_t position) {
    return &e->slots[position & e->mask];
}

static inline uint64_t lap_of(const struct record_endpoint *e, uint64_t position) {
    return (position >> e->shift) & LAP_MASK;
}

static inline uint64_t my_sent_tag(const struct record_endpoint *e, uint64_t position) {
    return sent_tag(e->base.index, position);
}

/* True if a producer's slot is free to be filled. */
static inline bool slot_is_writable(const struct record_endpoint *e, uint64_t position,
                                    uint64_t word) {
    return ring_state(word) != SLOT_FULL && ring_lap(word) == lap_of(e, position);
}

/* True if a consumer's slot holds the record with that position. */
static inline bool slot_is_readable(const struct record_endpoint *e, uint64_t position,
                                    uint64_t word) {
    return ring_state(word) == SLOT_FULL && ring_lap(word) == lap_of(e, position);
}

/*
 * Prefetches the block that was released into a slot. The producer usually collects it there and
 * sends it in the same slot next. Fetched while the consumer waits, the block arrives together with
 * the slot instead of after it. A corrupt word is harmless: a prefetch does not fault.
 */
static inline void expect_block(const struct record_endpoint *e, uint64_t word) {
    if (ring_state(word) == SLOT_RELEASED)
        __builtin_prefetch(at_offset(e->base.heap, ring_offset(word)));
}

/* True if there is a record to receive, or room to send one. */
static inline bool record_can_go_on(const struct record_endpoint *e) {
    /* Pairs with fill_slot() and slot_leave(). */
    uint64_t word = get_acquire(&slot_of(e, e->position)->word);
    if (e->base.side == IPCHEAP_PRODUCER) return slot_is_writable(e, e->position, word);
    expect_block(e, word);
    /* What a former consumer had received is examined one by one: settle_doubtful(). */
    return slot_is_readable(e, e->position, word) || e->position < e->doubtful;
}

/*
 * Returns why a call that found `word` in its slot must not wait: the channel's end or an error. It
 * returns WOULD_BLOCK if the call may wait, and 0 if the slot has changed meanwhile.
 */
int why_not(struct record_endpoint *e, uint64_t word);
/* Stops both sides of a corrupt ring. Returns CORRUPT, as the other side's next call will. */
static inline int record_poison(struct record_endpoint *e) {
    return channel_poison(e->base.heap, e->base.channel);
}

/* The answers of a record channel: channel/kind.h. */
extern const struct kind record_kind;

#endif
