/*
 * ring.h - layer record: the slots of a record channel, and what the two sides do with them.
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
 * The slot alone says what has happened; positions are hints. A slot's claim on a block
 * counts only while the block's tag names that slot, so that a forwarded or kept record is
 * never delivered twice. Extents do not wait in a ring to be freed: the consumer does that.
 *
 * Private memory. The thread that claimed it calls; only freeing records is for any thread.
 */
#ifndef IPCHEAP_RECORD_RING_H
#define IPCHEAP_RECORD_RING_H

#include "endpoint/endpoint.h"
#include "memory/block.h"
#include "memory/size_class.h"

#define MOST_SLOTS (UINT64_C(1) << 24)
#define SOME_ROOM 15 /* slots: four lines */

static inline struct ring_slot *slot_of(const ipcheap_endpoint *e, uint64_t position) {
    return &e->slots[position & e->mask];
}

static inline uint64_t lap_of(const ipcheap_endpoint *e, uint64_t position) {
    return (position >> e->shift) & LAP_MASK;
}

static inline uint64_t my_sent_tag(const ipcheap_endpoint *e, uint64_t position) {
    return sent_tag(e->index, position);
}

/*
 * What a slot can say from the time that its position of the lap before was sent until that
 * of the next is: anything else nobody has written who keeps to the protocol.
 */
static inline bool slot_word_possible(uint64_t word, uint64_t lap) {
    enum slot_state state = ring_state(word);
    if (state == SLOT_FULL)
        return ring_lap(word) == lap || ring_lap(word) == ((lap - 1) & LAP_MASK);
    return ring_lap(word) == lap && (state == SLOT_EMPTY || state == SLOT_RELEASED);
}

/* A producer's slot is free to be filled. */
static inline bool slot_is_writable(const ipcheap_endpoint *e, uint64_t position, uint64_t word) {
    return ring_state(word) != SLOT_FULL && ring_lap(word) == lap_of(e, position);
}

static inline bool slot_is_readable(const ipcheap_endpoint *e, uint64_t position, uint64_t word) {
    return ring_state(word) == SLOT_FULL && ring_lap(word) == lap_of(e, position);
}

/*
 * The block that was released into a slot is, as a rule, what its producer sends in it next:
 * he collects it there just before. Fetched while we wait, it arrives together with the slot
 * instead of after it. The word may say anything: a prefetch does not fault.
 */
static inline void expect_block(const ipcheap_endpoint *e, uint64_t word) {
    if (ring_state(word) == SLOT_RELEASED)
        __builtin_prefetch(at_offset(e->heap, ring_offset(word)));
}

/* Is there a record to receive, or room to send one? */
static inline bool endpoint_can_go_on(const ipcheap_endpoint *e) {
    uint64_t word = get_acquire(&slot_of(e, e->position)->word);
    if (e->side == IPCHEAP_PRODUCER) return slot_is_writable(e, e->position, word);
    expect_block(e, word);
    /* What a former consumer had received is looked at one by one: see settle_doubtful(). */
    return slot_is_readable(e, e->position, word) || e->position < e->doubtful;
}

/* record_fits() for a length that no block has. */
bool extent_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes);
/*
 * Is there memory for a record of that length at that offset? For what could be a block, only
 * that it lies in the data zone: the tag is looked at by whoever frees it.
 */
static inline bool record_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    const struct geometry *g = &heap->geometry;
    uint64_t into = offset - g->data_at, all = g->zone_pages[DATA_ZONE] << PAGE_SHIFT;
    if (UNLIKELY(into >= all || nbytes > all - into)) return false;
    return LIKELY(nbytes <= MOST_BLOCK_BYTES) || extent_fits(heap, offset, nbytes);
}

/*
 * Is it worth while to go on? In a full ring both sides work on one line, and each record costs the
 * consumer, who is the slower one, a miss. So while he spins a producer looks for more than one
 * free slot; at the end of that, one will do.
 */
static inline bool endpoint_has_some(const ipcheap_endpoint *e) {
    if (e->side == IPCHEAP_PRODUCER) {
        uint64_t further = e->position + least(SOME_ROOM, e->mask / 4);
        if (!slot_is_writable(e, further, get(&slot_of(e, further)->word))) return false;
    }
    return endpoint_can_go_on(e);
}

/* Under the lock. What others need of rings: ring.c. */

/* Frees the blocks that wait in a ring whose producer is out of the way; returns how many. */
uint64_t ring_collect(struct participant *me, uint32_t index);
/* Tries to collect from every ring: see CHANNEL_REVOKED. */
void rings_reclaim(struct participant *me);
/* Frees what a removed channel holds from a position on. */
void ring_drain(struct participant *me, uint32_t index, uint64_t from);
/* Frees a removed channel once no side is open. */
void channel_drop_if_done(struct participant *me, uint32_t index);
/* Is a block with this SENT tag on its way, that is, not garbage? */
bool ring_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
/* The first position that has not been sent, going on from the hint. */
uint64_t ring_sent(ipcheap_heap *heap, uint32_t index);
/* The first position before `sent` that is still FULL; `sent` when none is. */
uint64_t ring_oldest(ipcheap_heap *heap, uint32_t index, uint64_t sent);
/* A side will not go on: changes its holder's state and tells the other side. */
void side_end(ipcheap_heap *heap, struct channel *channel, int side, enum side_state state);

struct ring {
    struct ring_slot *slots;
    uint64_t count;
    uint32_t shift;
};
bool ring_of(ipcheap_heap *heap, uint32_t index, struct ring *ring);
/* Is every slot what it can be when `sent` is the position to be sent next? */
bool ring_valid(const struct ring *ring, uint64_t sent);

#endif
