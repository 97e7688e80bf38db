/*
 * ring.h - layer record: the slots of a record channel, as a holder of the heap lock sees them.
 *
 *   | RELEASED 12 | FULL 9 | FULL 10 | EMPTY 11 |       4 slots with the positions they are for
 *     ^ garbage     ^ oldest           ^ sent: the next position to be sent
 *
 * The slots say what was sent and what was given back. A side's position is a hint, completed from
 * them. How the two sides use the slots is in record/endpoint.h.
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

/* Returns what record_fits() does, for a length that no block of a slab has. */
bool extent_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes);
/*
 * True if there is memory for a record of that length at that offset. What could be a block of a
 * slab only has to lie in the data zone: the call that frees it checks the tag.
 */
static inline bool record_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    const struct geometry *g = &heap->geometry;
    uint64_t into = offset - g->data_at, all = g->zone_pages[DATA_ZONE] << PAGE_SHIFT;
    if (UNLIKELY(into >= all || nbytes > all - into)) return false;
    return LIKELY(nbytes <= MOST_BLOCK_BYTES) || extent_fits(heap, offset, nbytes);
}

/* ring.c: what other files need of rings. Under the lock. */

/* Frees the blocks released into a ring whose producer is not inside; returns how many. */
uint64_t ring_collect(struct participant *me, uint32_t index);
/* Does the same for any producer, if it can be kept outside meanwhile: CHANNEL_REVOKED. */
void ring_reclaim(struct participant *me, uint32_t index);
/* Frees what a removed channel holds from a position on, and all garbage. */
void ring_drain(struct participant *me, uint32_t index, uint64_t from);
/* True if a block with this SENT tag is on its way, false if it is garbage. */
bool ring_holds(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
/* Returns the first position that has not been sent, by the hint and the slots. Needs no lock. */
uint64_t ring_sent(ipcheap_heap *heap, uint32_t index);
/* Returns the first position before `sent` that is still FULL; `sent` if none is. */
uint64_t ring_oldest(ipcheap_heap *heap, uint32_t index, uint64_t sent);

struct ring {
    struct ring_slot *slots;
    uint64_t count;
    uint32_t shift;
};
/* Finds the slots of a record channel; false if it has none, or they are not its own. */
bool ring_of(ipcheap_heap *heap, uint32_t index, struct ring *ring);
/*
 * True if the record with a position that was sent is still in the channel: its slot is FULL with it,
 * and the block's tag names the slot, or the block is being forwarded and has not arrived. Needs no
 * lock.
 */
bool ring_has(ipcheap_heap *heap, uint32_t index, const struct ring *ring, uint64_t position);
/*
 * True if a block with this tag is on its way from the slot whose tag is `here`, and has not arrived;
 * *by is the holder word of the participant that is forwarding it. Needs no lock.
 */
bool ring_awaited(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t here, uint64_t *by);
/* kind.awaits of a record channel. */
bool ring_awaits(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t here, uint64_t *by);
/* True if every slot is possible when `sent` is the position to be sent next. */
bool ring_valid(const struct ring *ring, uint64_t sent);

#endif
