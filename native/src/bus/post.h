/*
 * post.h - layer bus: posting one message.
 *
 *   block, filled in                     tag OWN(me)
 *   q = the first position not posted; room; what stood in its slot is reclaimed
 *   intent = q, block                    in the participant's slot
 *   tag = SENT(bus, q)                   of a payload that is apart: PART, and `from` is its tag before
 *   slot: compare-and-swap -> q, block   <- posted
 *   head = q + 1; wakes listeners; intent = 0
 *
 * The swap claims the position and publishes the message in one step: there is no ticket and no lock, and
 * so no gap. A writer that loses it gives the block its tag back and starts again at the next position.
 */
#ifndef IPCHEAP_BUS_POST_H
#define IPCHEAP_BUS_POST_H

#include "bus/wake.h"
#include "endpoint/parcel.h"

struct poster;

/* What belongs to a post, with the poster that is passed; inside. */
struct errand {
    int (*before)(struct poster *p); /* 0, or why it is not to be posted */
    void (*after)(struct poster *p, uint64_t position);
};

/* Which bus a call is about. */
struct poster {
    struct participant *me;
    struct bus bus;
    uint32_t incarnation;
    uint32_t blocker; /* the number of a listener that was in the way of the last post */
    uint64_t ids;     /* pid and tid, as envelopes have them */
    uint64_t namespace;
    const struct errand *errand; /* NULL: a post and nothing else */
};

/*
 * Finds the calling thread's poster of a bus, and makes the memory of the bus if it has none. It is the
 * thread's own until it asks for another one.
 */
int poster_here(ipcheap_heap *heap, const ipcheap_channel *handle, struct poster **poster);
/* The same, as a copy of the caller's. */
int poster_find(ipcheap_heap *heap, const ipcheap_channel *handle, struct poster *poster);

/* A message that is ready to be posted, and not posted yet. */
struct letter {
    struct message message; /* its position is set by letter_post() */
    shared64 *tag;          /* of its block */
    struct local_slab *slab;
    struct parcel parcel; /* of a payload that is apart */
    bool large;           /* an extent goes with it, which is worth freeing immediately */
    uint64_t size;        /* as of a ring's slot */
    uint64_t from;        /* the payload's tag before it was a part; 0: it is still that */
};

/* Makes a letter of a copy; nothing is held after an error. */
int letter_copy(struct poster *p, const void *data, uint64_t nbytes, struct letter *letter);
/* Makes a letter of a record, which must stay where it is; under the heap's mutex. */
int letter_enclose(struct poster *p, ipcheap_record *record, struct letter *letter);
/*
 * Posts, inside and without waking anybody: 0 and its position in the letter, or WOULD_BLOCK or an error,
 * and it is as before.
 */
int letter_post(struct poster *p, struct letter *letter);
/* Frees what a letter that was not posted has allocated; the record is the caller's as before. */
void letter_drop(struct poster *p, struct letter *letter);
/* After the post of a record: its handle is dead. Under the heap's mutex. */
void letter_gone(struct letter *letter);

/* Posts a copy, or a record: what the public calls do. */
int post_bytes(struct poster *p, const void *data, uint64_t nbytes, uint64_t *position);
int post_record(struct poster *p, ipcheap_record *record, uint64_t *position);

/* True if there is room for a post; makes it. Otherwise p->blocker is in the way. Inside. */
bool bus_has_room(struct poster *p);
/* The same outside: 0, WOULD_BLOCK or an error. Recovers a dead listener that is in the way. */
int bus_check_room(struct poster *p);

#endif
