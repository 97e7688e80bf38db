/*
 * endpoint.h - layer stream: a writer or a reader of a stream.
 *
 *   W = sides[0].position   items committed        written by the writer alone
 *   R = sides[1].position   items released         written by the reader alone
 *
 *         R - backlog      R                W               R + capacity
 *   ring     | released    | to be read     | to be written |
 *
 *   writer   fill the items, W = W + n (release)      <- committed
 *   reader   use the items,  R = R + n (release)      <- released
 *   both     load the other's `parked`; if it sleeps, compare with `wanted`, wake it if reached
 *
 * These two stores are the stream: recovery has nothing to repair, and a successor goes on from
 * them. A writer that overwrites does not look at R. Before it fills, it moves `floor`, below which
 * items may be spoilt. A reader copies, then looks at `floor` again and throws the copy away if it
 * was overtaken.
 *
 * The writer's reset stores `cut`, and the reader notices it: only the reader moves R. The reader's
 * reset stores `base`, so that the backlog does not reach back, and then R.
 */
#ifndef IPCHEAP_STREAM_ENDPOINT_H
#define IPCHEAP_STREAM_ENDPOINT_H

#include "base/mirror.h"
#include "channel/side.h"
#include "endpoint/endpoint.h"
#include "stream/ring.h"

struct stream_endpoint {
    struct ipcheap_endpoint base;
    struct stream stream;
    struct mirror *mirror; /* NULL: the system refused */
    unsigned char *ring;   /* in the mirror, or in the heap's mapping */
    uint64_t position;     /* as stored */
    uint64_t at;           /* the byte of the ring where that item begins */
    uint64_t seen;         /* the other side's position, when last looked at */
    uint64_t watermark;    /* items, for polling */
    uint64_t need;         /* items that it waits for now */
    uint64_t lost;         /* items that this reader missed */
    uint64_t overtaken;    /* copies in a row that the writer spoilt */
    bool in_window;
    uint64_t window;         /* items of it */
    uint64_t window_begin;   /* position of its first item */
    unsigned char *own_copy; /* what windows show if not the ring itself */
    uint64_t own_copy_bytes;
    bool pinned; /* the ring is, where the heap has it */
};

static inline struct stream_endpoint *stream_endpoint(ipcheap_endpoint *e) {
    return (struct stream_endpoint *)e;
}

static inline bool is_writer(const struct stream_endpoint *e) {
    return e->base.side == IPCHEAP_WRITER;
}

static inline struct stream_words *words_of_stream(const struct stream_endpoint *e) {
    return &e->base.channel->stream;
}

static inline shared64 *position_of(const struct stream_endpoint *e, int side) {
    return &e->base.channel->sides[side].position;
}

/* The most that a call may wait for: two sides can never wait for each other. */
static inline uint64_t most_waited_for(const struct stream *s) {
    return s->overwrite ? s->capacity : s->capacity / 2 + (s->capacity & 1);
}

/* Returns how many items there are to read, or room for how many, as of the last look. */
static inline uint64_t items_seen(const struct stream_endpoint *e) {
    if (is_writer(e)) {
        if (e->stream.overwrite) return e->stream.capacity;
        return e->seen + e->stream.capacity - e->position;
    }
    return least(e->seen - e->position, e->stream.capacity);
}

/*
 * Looks at the other side's position: false, and the channel is poisoned, if it is impossible.
 */
bool look_at_peer(struct stream_endpoint *e);
/*
 * Follows resets of the writer, which the reader may have missed; not while a window is open, whose
 * items stay. Afterwards no reset stands between the position and the writer's, as last seen. False,
 * and the channel is poisoned, if a reset is of items that were never written.
 */
bool notice_cut(struct stream_endpoint *e);
/* A writer takes the room of a reset that the reader's side ended without following: 0 or an error. */
int give_room_back(struct stream_endpoint *e);
/* Publishes that the next `items` items are committed or released, and wakes the other side. */
void advance(struct stream_endpoint *e, uint64_t items);
/* Returns 0 if the caller may use the endpoint, and it is one of a stream. */
int stream_check(ipcheap_endpoint *endpoint);

/* The answers of a stream: channel/kind.h. */
extern const struct kind stream_kind;

#endif
