/*
 * record.h - layer record: what a received record still has to do with its ring.
 *
 * It occupies its slot until it is freed, kept or forwarded; whoever does so, wherever, lets the
 * slot go.
 */
#ifndef IPCHEAP_RECORD_RECORD_H
#define IPCHEAP_RECORD_RECORD_H

#include "endpoint/notify.h"
#include "memory/slab_local.h"
#include "record/endpoint.h"

static inline bool consumer_is_open(const ipcheap_record *record) {
    return record->consumer && !record->consumer->closed;
}

/* Has another thread's consumer received it? */
static inline bool is_anothers(const ipcheap_record *record) {
    return record->consumer->me->thread != thread_marker();
}

/* The slot that a received record still occupies; NULL when it does not any more. */
static inline struct ring_slot *slot_held(const ipcheap_record *record) {
    const struct record_endpoint *e = record_endpoint(record->consumer);
    struct ring_slot *slot = slot_of(e, record->position);
    uint64_t full = ring_word(lap_of(e, record->position), SLOT_FULL, record->offset);
    return get(&slot->word) == full ? slot : NULL;
}

/* Without telling the producer. */
static inline void slot_leave(struct record_endpoint *e, struct ring_slot *slot, uint64_t position,
                              enum slot_state state, uint64_t offset) {
    /* Release: pairs with the producer's acquire of the slot. Our reads are over. */
    put_release(&slot->word, ring_word(lap_of(e, position) + 1, state, offset));
}

static inline void slot_let_go(struct record_endpoint *e, struct ring_slot *slot, uint64_t position,
                               enum slot_state state, uint64_t offset) {
    slot_leave(e, slot, position, state, offset);
    endpoint_notify(&e->base);
}

/* Will nobody collect what is released? */
static inline bool is_deserted(const struct record_endpoint *e) {
    return get(&e->base.channel->flags) & (CHANNEL_DESERTED | CHANNEL_GONE);
}

/* Is the record a block that its producer can be left to free? */
static inline bool producer_collects(const struct record_endpoint *e, const ipcheap_record *record) {
    if (is_deserted(e)) return false;
    /* Extents start with a page. */
    return record->offset % PAGE || slab_covers(e->base.heap, record->offset);
}

/* Makes the record at a position of its consumer's ring the caller's own; its slot is EMPTY. CORRUPT. */
int take_out(struct participant *me, struct record_endpoint *e, uint64_t position, uint64_t offset);

/* Has the record perhaps been detached? Its slot does not hold it any more; its tag knows. */
bool may_be_detached(const ipcheap_record *record);
/* Why somebody who should own the block at an offset does not: RECORD, WRONG_PROCESS. */
int nobody_here_owns(ipcheap_heap *heap, uint64_t offset);

#endif
