/* check_stream.c - a stream's positions and its shape agree with its memory. */

#include "memory/extent.h"
#include "observe/check.h"

typedef unsigned long long number;

static void check_shape(struct check *c, uint32_t index, const struct channel *channel) {
    const struct stream_head *head = at_offset(c->heap, get(&channel->parts[0]));
    uint64_t capacity = get(&head->capacity), backlog = get(&head->backlog), bytes;
    bool sound = capacity > 0 && capacity == get(&channel->shape) && get(&head->itemsize) > 0 &&
                 !__builtin_add_overflow(capacity, backlog, &bytes) &&
                 !__builtin_mul_overflow(bytes, get(&head->itemsize), &bytes) &&
                 get(&head->ring_bytes) >= bytes && get(&head->ring_bytes) - bytes < PAGE &&
                 get(&head->description_bytes) <= sizeof head->description;
    if (!sound) fault(c, "the shape of stream %u is not possible", index);
    if (sound && !run_is(c->heap, get(&channel->parts[0]), KIND_STREAM, part_tag(index, 0),
                         sizeof *head + get(&head->ring_bytes)))
        fault(c, "the memory of stream %u has not the size of its ring", index);
}

/* The words move while both sides work, so a contradiction has to be seen to stay. */
static void check_positions(struct check *c, uint32_t index, const struct channel *channel) {
    const struct stream_head *head = at_offset(c->heap, get(&channel->parts[0]));
    const struct side *writer = &channel->sides[0], *reader = &channel->sides[1];
    bool overwrites = get(&head->flags) & 1;
    const char *what = NULL;
    uint64_t written = 0, released = 0;
    for (int look = 0; look < LOOKS; look++) {
        /* What the reader or a reset stores never exceeds a `written` that is loaded after it. */
        released = get_acquire(&reader->position);        /* pairs with advance() */
        uint64_t cut = get_acquire(&channel->stream.cut); /* with reset_by_writer() */
        uint64_t base = get(&channel->stream.base);
        uint64_t floor = get_acquire(&writer->stream.floor); /* pairs with spoil() */
        written = get_acquire(&writer->position);            /* pairs with advance() */
        what = NULL;
        if (released > written) what = "released more items than were written";
        if (!overwrites && written - released > get(&head->capacity) && released <= written &&
            get(&reader->position) == released)
            what = "has more unread items than room";
        if (cut > written || base > written) what = "was reset at a position beyond its end";
        if (floor > written) what = "has spoilt items beyond its end";
        if (!what) return;
        os_pause();
    }
    fault(c, "stream %u %s (%llu written, %llu released)", index, what, (number)written,
          (number)released);
}

static void check_stream(struct check *c, uint32_t index, struct channel *channel) {
    uint64_t memory = get(&channel->parts[0]), tag = part_tag(index, 0);
    if (!extent_is(c->heap, memory, sizeof(struct stream_head), KIND_STREAM, tag)) {
        fault(c, "the memory of stream %u is not its own", index);
        return;
    }
    check_shape(c, index, channel);
    check_positions(c, index, channel);
}

const struct kind_check stream_kind_check = {.check = check_stream, .sides = {"writer", "reader"}};
