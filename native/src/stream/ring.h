/*
 * ring.h - layer stream: the memory of a stream, and how its shape is checked.
 *
 *   | head: the shape | ring: backlog + capacity items, rounded up to pages |
 *
 * Item k, counted from 0 when the stream was added, begins at byte k * itemsize % ring_bytes and may
 * continue at the ring's start. The head is written before the descriptor is LIVE, never after.
 */
#ifndef IPCHEAP_STREAM_RING_H
#define IPCHEAP_STREAM_RING_H

#include "base/description.h"
#include "channel/directory.h"

#define MOST_ITEMS (UINT64_C(1) << POSITION_BITS)

/* The shape of a stream, checked, in private memory. */
struct stream {
    uint64_t capacity, backlog; /* items */
    uint64_t cells;             /* capacity + backlog */
    uint64_t itemsize;          /* bytes */
    uint64_t ring_bytes;
    unsigned char *ring;
    bool overwrite;
};

/* Returns the bytes of the ring; 0 if no heap has room for it. */
uint64_t stream_ring_bytes(uint64_t capacity, uint64_t backlog, uint64_t itemsize);
/* Returns the head of a stream; NULL if the channel is none, or has no memory of its own. */
struct stream_head *stream_head_of(ipcheap_heap *heap, uint32_t index);
/* Reads the shape; false if it does not fit its memory. */
bool stream_of(ipcheap_heap *heap, uint32_t index, struct stream *stream);

/* Returns the byte of the ring at which an item begins. */
static inline uint64_t byte_of(const struct stream *s, uint64_t position) {
    return (uint64_t)((unsigned __int128)position * s->itemsize % s->ring_bytes);
}

#endif
