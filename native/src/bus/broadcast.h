/*
 * broadcast.h - layer bus: posting in turn, and waiting for everybody to whom the message is owed.
 *
 *   turn   0 -> TAKEN(tag) -> POSTED(tag) -> 0
 *
 * The turn is taken with room in sight, and given back if that is gone; so its holder never waits without
 * having posted. When it has, `turn_position` and `turn_until` say which message it is and when the turn ends
 * at the latest. Only the holder of a turn that is not POSTED writes them. Anybody takes the turn from a holder who is dead, or whose time is up,
 * or whose message everybody has released; the holder finds another word there and leaves it alone.
 */
#ifndef IPCHEAP_BUS_BROADCAST_H
#define IPCHEAP_BUS_BROADCAST_H

#include "bus/post.h"

/* A turn word: an OWN tag, whose stamp is: POSTED 1 | count 17. The count tells turns of one thread apart. */
#define TURN_POSTED (UINT64_C(1) << 61)
#define TURN_COUNT_SHIFT STAMP_SHIFT
#define TURN_COUNT_MASK ((UINT64_C(1) << 17) - 1)

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
    uint64_t turn; /* our word; 0: we do not have the turn */
    struct owed *owed;
    size_t count, room;
    _Atomic bool cancelled;
};

#endif
