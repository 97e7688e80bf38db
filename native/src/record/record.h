/*
 * record.h - layer record: a received record and the slot that it occupies.
 *
 *   slot FULL(lap, block)  ->  RELEASED(lap + 1, block)    freed: the producer collects the block
 *                          ->  EMPTY(lap + 1)              kept, forwarded or detached
 *
 * A received record occupies its slot until it is freed, kept, forwarded or detached. Any thread of
 * the consumer's process may do the first three. Threads other than the consumer's do so under the
 * heap's mutex, which a closing consumer takes as well.
 */
#ifndef IPCHEAP_RECORD_RECORD_H
#define IPCHEAP_RECORD_RECORD_H

#include "endpoint/notify.h"
#include "memory/slab_local.h"
#include "record/endpoint.h"

/* True if an endpoint of another kind has received the record: that kind answers for it. */
static inline bool is_foreign(const ipcheap_record *record) {
    return record->consumer && record->consumer->kind != &record_kind;
}

static inline bool consumer_is_open(const ipcheap_record *record) {
    return record->consumer && !record->consumer->closed;
}

/* True if another thread's consumer received the record, or another thread may be closing it. */
static inline bool is_anothers(const ipcheap_record *record) {
    return record->consumer->me->thread != thread_marker() || endpoint_is_closing(record->consumer);
}

/* Returns the slot that a received record occupies; NULL if it does not occupy one any more. */
static inline struct ring_slot *slot_held(const ipcheap_record *record) {
    const struct record_endpoint *e = record_endpoint(record->consumer);
    struct ring_slot *slot = slot_of(e, record->position);
    uint64_t full = ring_word(lap_of(e, record->position), SLOT_FULL, record->offset);
    return get(&slot->word) == full ? slot : NULL;
}

/* Gives a slot back without waking the producer. */
static inline void slot_leave(struct record_endpoint *e, struct ring_slot *slot, uint64_t position,
                              enum slot_state state, uint64_t offset) {
    /* Release: pairs with look_at_slot() and refill_slots(). Our reads are over. */
    put_release(&slot->word, ring_word(lap_of(e, position) + 1, state, offset));
}

/* Gives a slot back and wakes the producer. */
static inline void slot_let_go(struct record_endpoint *e, struct ring_slot *slot, uint64_t position,
                               enum slot_state state, uint64_t offset) {
    slot_leave(e, slot, position, state, offset);
    endpoint_notify(&e->base);
}

/* True if no producer will collect what is released. */
static inline bool is_deserted(const struct record_endpoint *e) {
    return get(&e->base.channel->flags) & (CHANNEL_DESERTED | CHANNEL_GONE);
}

/* True if a record can be left to its producer to free: a block in a slab. */
static inline bool producer_collects(const struct record_endpoint *e,
                                     const ipcheap_record *record) {
    if (is_deserted(e)) return false;
    /* Extents start on a page boundary. */
    return record->offset % PAGE || slab_covers(e->base.heap, record->offset);
}

/*
 * Makes the record at a position of its consumer's ring the caller's own, and its slot EMPTY.
 * Returns CORRUPT if the block is not that slot's.
 */
int take_out(struct participant *me, struct record_endpoint *e, uint64_t position, uint64_t offset);

/* True if a record whose slot holds it no more may have been detached; its tag decides. */
bool may_be_detached(const ipcheap_record *record);
/* Detaches the record that a consumer holds in the very slot that it waits for, if it does. */
void make_way(struct record_endpoint *e);

/* kind.lends and kind.taken of a record channel. */
int record_lends(const ipcheap_record *record, uint64_t *tag);
void record_taken(ipcheap_record *record);

#endif
