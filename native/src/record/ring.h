/*
 * ring.h - layer record: the slots of a record channel, as anyone under the heap lock sees them.
 *
 * The slots tell what was sent and what was given back; a position is a hint that is completed from
 * them. How the two sides go about it is in record/endpoint.h.
 */
#ifndef IPCHEAP_RECORD_RING_H
#define IPCHEAP_RECORD_RING_H

#include "channel/directory.h"
#include "channel/kind.h"
#include "memory/block.h"
#include "segment/size_class.h"

#define MOST_SLOTS (UINT64_C(1) << 24)

/*
 * The values a slot may hold between its use in the previous lap and its use in this one. Any other
 * value violates the protocol.
 */
static inline bool slot_word_possible(uint64_t word, uint64_t lap) {
    enum slot_state state = ring_state(word);
    if (state == SLOT_FULL)
        return ring_lap(word) == lap || ring_lap(word) == ((lap - 1) & LAP_MASK);
    return ring_lap(word) == lap && (state == SLOT_EMPTY || state == SLOT_RELEASED);
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

/* Under the lock. What others need of rings: ring.c. */

/* Frees the blocks that wait in a ring whose producer is out of the way; returns how many. */
uint64_t ring_collect(struct participant *me, uint32_t index);
/* The same of a living producer, if it is outside just now: see CHANNEL_REVOKED. */
void ring_reclaim(struct participant *me, uint32_t index);
/* Frees what a removed channel holds from a position on. */
void ring_drain(struct participant *me, uint32_t index, uint64_t from);
/* Is a block with this SENT tag on its way, that is, not garbage? */
bool ring_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
/* The first position that has not been sent, going on from the hint. */
uint64_t ring_sent(ipcheap_heap *heap, uint32_t index);
/* The first position before `sent` that is still FULL; `sent` when none is. */
uint64_t ring_oldest(ipcheap_heap *heap, uint32_t index, uint64_t sent);

struct ring {
    struct ring_slot *slots;
    uint64_t count;
    uint32_t shift;
};
bool ring_of(ipcheap_heap *heap, uint32_t index, struct ring *ring);
/* Is every slot what it can be when `sent` is the position to be sent next? */
bool ring_valid(const struct ring *ring, uint64_t sent);

#endif
