/*
 * reclaim.h - layer bus: reclaiming messages, exactly once and without a lock.
 *
 *   receiver                          reclaimer of p
 *     hold = HELD(p, block)             floor > p
 *     compiler barrier                  membarrier
 *     floor <= p: it may be used        a hold names it: left to that holder
 *                                       tag: SENT(bus, p) -> OWN(me), by compare-and-swap; then freed
 *   holder
 *     hold = RELEASING
 *     compiler barrier
 *     floor <= p: hold = 0; otherwise full fence, reclaims p as above, hold = 0
 *
 * Any participant raises the floor and reclaims what is below it. The one that wins the tag frees the
 * message, and is its owner at every instant until then. While a payload that is apart is freed,
 * `letting` in the participant's slot names its envelope, so that recovery completes it.
 */
#ifndef IPCHEAP_BUS_RECLAIM_H
#define IPCHEAP_BUS_RECLAIM_H

#include "bus/listeners.h"
#include "memory/participant_memory.h"

/* Which positions the registered listeners still have to receive. */
struct survey {
    uint64_t counted; /* the least cursor of those that make writers wait, */
    uint64_t passed;  /* of those that were passed, */
    uint64_t lossy;   /* and of those that never make anybody wait; all these are before `near`; */
    uint64_t far;     /* of any other */
};

/*
 * Looks at all listeners; UINT64_MAX where there are none. What was posted is read before. How those are
 * whose cursors are at `near` or beyond is left open: that takes another cache line of each.
 */
struct survey bus_survey(struct bus *bus, uint64_t near);

/* Returns up to where nobody has anything left to receive. */
static inline uint64_t survey_all(const struct survey *s) {
    return least(least(s->counted, s->passed), least(s->lossy, s->far));
}

/* Raises the floor to a position, unless it is there already. */
void floor_raise(const struct bus *bus, uint64_t to);
/* Reclaims all messages below the floor that nobody holds. Inside, or in a listener's seat. */
int bus_sweep(struct participant *me, struct bus *bus);
/* Raises the floor as far as no listener and no history loses anything by it, and sweeps. */
int bus_tidy(struct participant *me, struct bus *bus);

/* Reclaims one message that is below the floor, unless somebody holds it; settled already. */
void message_let_go(struct participant *me, struct bus *bus, const struct message *m);
/* Makes sure that one hold can be ended whatever happens: 0 or NO_MEMORY. */
int hold_reserve_slowly(struct participant *me);
static inline int hold_reserve(struct participant *me) {
    const struct participant_memory *memory = me->memory;
    if (LIKELY(memory && memory->deferred.room - memory->deferred.count >= 2)) return 0;
    return hold_reserve_slowly(me);
}
/*
 * Ends the hold of a message: the caller's process's, or a dead listener's. An extent that nobody else
 * needs is freed immediately. NO_MEMORY has changed nothing.
 */
int hold_end(struct participant *me, struct bus *bus, shared64 *hold, const struct message *m);
/* Finds out what a hold word names; false if that is no message of the bus any more. */
bool hold_message(const struct bus *bus, uint64_t hold, struct message *m);
/*
 * Frees a message that is an extent, or that has one, if nobody needs it any more. Nothing of the message
 * is looked at, so another may have freed it already. Inside, or in a listener's seat.
 */
void extent_let_go(struct participant *me, struct bus *bus, const struct message *m);
/* True if what is there is an extent: it is worth freeing immediately. */
static inline bool offset_is_extent(ipcheap_heap *heap, uint64_t offset) {
    return offset % PAGE == 0 && !slab_covers(heap, offset);
}
/* True if a hold word other than this one keeps the message. */
bool message_is_held(struct bus *bus, const struct message *m, const shared64 *but);
/* Orders this thread's stores before its loads, and the same in all listeners. */
void bus_settle(struct bus *bus);

/* Frees the payload of a message that is apart, unless it went elsewhere; the caller has its envelope. */
void payload_free(struct participant *me, const struct bus *bus, uint64_t block,
                  const struct envelope *envelope);

#endif
