/*
 * broadcast.h - layer bus: posting in turn, and waiting for everybody to whom the message is owed.
 *
 *   turn      OWN tag, whose stamp is a count 18        0: nobody has it
 *   until     boot-time ms 45 | confirmed | count 18    when it ends at the latest
 *   message   position + 1 in 46 | count 18             once it is posted
 *
 * The turn is taken with room in sight and the letter sealed, and given back if the room is gone; so its
 * holder never waits without having posted. Anybody takes it from a holder who is dead, or whose time is
 * up, or whose message everybody has released; the holder finds another word there and leaves it alone. The
 * other two words count if they have the count of the turn.
 */
#ifndef IPCHEAP_BUS_BROADCAST_H
#define IPCHEAP_BUS_BROADCAST_H

#include "bus/post.h"

#define TURN_COUNT_BITS 18
#define TURN_COUNT ((UINT64_C(1) << TURN_COUNT_BITS) - 1)
static inline uint64_t turn_count(uint64_t turn) { return turn >> STAMP_SHIFT & TURN_COUNT; }
/* Returns a word about a turn. */
static inline uint64_t turn_word(uint64_t turn, uint64_t value) {
    return value << TURN_COUNT_BITS | turn_count(turn);
}
#define TURN_MOST (UINT64_MAX >> (TURN_COUNT_BITS + 1)) /* the latest that a turn ends: never */
/* Returns when a turn ends, as its word has it; `confirmed` once the turn is taken. */
static inline uint64_t turn_end_word(uint64_t turn, uint64_t ms, bool confirmed) {
    return turn_word(turn, ms << 1 | confirmed);
}
static inline uint64_t turn_end_time(uint64_t until) { return until >> (TURN_COUNT_BITS + 1); }
/* Returns the position after the last message of a turn; 0: none yet. */
static inline uint64_t last_broadcast(const struct bus_root *root) {
    return get(&root->turn_message) >> TURN_COUNT_BITS;
}

/* How it is with a listener and what is waited for. */
enum debt { OWED, RELEASED, GONE, SLOW };

/* A listener that still owes a release, or did. */
struct owed {
    uint32_t number;
    enum debt debt;
    uint64_t holder, joined, lost; /* as it was when the message was posted */
};

struct ipcheap_broadcast {
    struct poster poster;
    ipcheap_channel channel;
    uint64_t position; /* UINT64_MAX: nothing was posted */
    uint64_t end;      /* what is below it is to be released */
    bool drains;
    uint64_t turn;  /* our word; 0: we do not have the turn */
    uint64_t until; /* in ms: when it ends at the latest */
    struct owed *owed;
    size_t count, room;
    _Atomic bool cancelled;
};

#endif
