/* crash_stream.c - a death while adding, claiming, writing, reading, resetting, waiting, closing. */
#include <poll.h>

#include "crash.h"

enum { CAPACITY = 10, BACKLOG = 3, MIDDLE = 4 };

/* Item k is the number k. What the victim had done for certain, and what it was about to do: */
#define written(w) ((w)->told->sent)
#define writing(w) ((w)->told->sending)
#define released(w) ((w)->told->fate[0])
#define releasing(w) ((w)->told->fate[1])

static const ipcheap_stream_shape plain = {
    .capacity = CAPACITY, .backlog = BACKLOG, .item = {.itemsize = 4, .type = "<u4"}};
static const ipcheap_stream_shape overwriting = {.capacity = CAPACITY,
                                                 .backlog = BACKLOG,
                                                 .flags = IPCHEAP_OVERWRITE,
                                                 .item = {.itemsize = 4, .type = "<u4"}};

static ipcheap_channel stream_of_shape(struct world *w, const ipcheap_stream_shape *shape) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_stream(w->heap, &key, shape, &channel)), 0);
    return channel;
}

static ipcheap_endpoint *side_of_x(struct world *w, int side) {
    ipcheap_channel channel;
    EXPECT(find_id(w, X, &channel));
    return claim_side(w, &channel, side);
}

static void write_some(struct world *w, ipcheap_endpoint *writer, uint64_t count) {
    uint32_t items[64];
    for (uint64_t i = 0; i < count; i++) items[i] = (uint32_t)(written(w) + i);
    writing(w) = written(w) + count;
    EXPECT_EQ(CALL(ipcheap_stream_write(writer, items, count)), (int64_t)count);
    written(w) += count;
}

static void write_window(struct world *w, ipcheap_endpoint *writer, uint64_t count,
                         uint64_t committed) {
    ipcheap_window window;
    EXPECT_EQ(CALL(ipcheap_window_open(writer, count, count, 0, &window)), 0);
    for (uint64_t i = 0; i < count; i++) ((uint32_t *)window.data)[i] = (uint32_t)(written(w) + i);
    writing(w) = written(w) + committed;
    EXPECT_EQ(CALL(ipcheap_window_close(writer, committed)), 0);
    written(w) += committed;
}

static void expect_items(const void *items, uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) EXPECT_EQ(((const uint32_t *)items)[i], first + i);
}

static uint64_t position(ipcheap_endpoint *e, bool writer) {
    ipcheap_stream_statistics s;
    EXPECT_EQ(ipcheap_stream_describe(e, &s), 0);
    return writer ? s.written : s.read;
}

static void read_some(struct world *w, ipcheap_endpoint *reader, uint64_t count) {
    uint32_t items[64];
    releasing(w) = (enum fate)(released(w) + count);
    EXPECT_EQ(CALL(ipcheap_stream_read(reader, items, count, count)), (int64_t)count);
    expect_items(items, released(w), count);
    released(w) = releasing(w);
}

static void read_window(struct world *w, ipcheap_endpoint *reader, uint64_t count,
                        uint64_t given_back) {
    ipcheap_window window;
    EXPECT_EQ(CALL(ipcheap_window_open(reader, count, count, BACKLOG, &window)), 0);
    expect_items(window.data, released(w) - window.overlap, window.overlap + count);
    releasing(w) = (enum fate)(released(w) + given_back);
    EXPECT_EQ(CALL(ipcheap_window_close(reader, given_back)), 0);
    released(w) = releasing(w);
}

/* Adding and removing ---------------------------------------------------------------------- */

static void add_and_remove_stream(struct world *w) {
    stream_of_shape(w, &plain);
    w->told->progress = 1;
    remove_id(w, X, 0);
    w->told->progress = 2;
}

static uint64_t stream_added(struct world *w) {
    ipcheap_channel channel;
    bool there = find_id(w, X, &channel);
    if (w->told->progress == 2) EXPECT(!there);
    stream_of_shape(w, &plain);
    remove_id(w, X, 0);
    return there ? 2 * PAGE : 0;
}

/* The survivor uses the stream and removes it ------------------------------------------------- */

/* Takes whichever side it does not have, finds exactly what it should, and goes on. */
static uint64_t stream_after(struct world *w) {
    ipcheap_endpoint *writer = w->x_out ? w->x_out : side_of_x(w, IPCHEAP_WRITER);
    ipcheap_endpoint *reader = w->x_in ? w->x_in : side_of_x(w, IPCHEAP_READER);
    uint64_t next = position(writer, true), first = position(reader, false);
    EXPECT(next >= written(w) && next <= greatest(writing(w), written(w)));
    EXPECT(first >= released(w) && first <= greatest(releasing(w), released(w)));
    uint32_t items[64];
    while (first < next) {
        int64_t came = ipcheap_stream_read(reader, items, 1, 64);
        EXPECT(came > 0);
        expect_items(items, first, (uint64_t)came);
        first += (uint64_t)came;
    }
    EXPECT_EQ(first, next);
    EXPECT_EQ(ipcheap_stream_read(reader, items, 1, 1), IPCHEAP_WOULD_BLOCK);
    written(w) = next;
    released(w) = releasing(w) = (enum fate)first;
    for (int round = 0; round < 5; round++) {
        EXPECT_EQ(ipcheap_stream_ready(writer), CAPACITY);
        write_some(w, writer, CAPACITY);
        EXPECT_EQ(ipcheap_stream_write(writer, items, 1), IPCHEAP_WOULD_BLOCK);
        read_window(w, reader, CAPACITY / 2, CAPACITY / 2);
        read_some(w, reader, CAPACITY / 2);
    }
    ipcheap_endpoint_release(writer);
    ipcheap_endpoint_release(reader);
    remove_id(w, X, 0);
    return 2 * PAGE;
}

/* Writing ------------------------------------------------------------------------------------ */

static void reader_of_x(struct world *w) {
    stream_of_shape(w, &plain);
    w->x_in = side_of_x(w, IPCHEAP_READER);
}

static void reader_with_bell(struct world *w) {
    reader_of_x(w);
    w->bell = (int)CALL(ipcheap_endpoint_descriptor(w->x_in));
    EXPECT(w->bell >= 0);
    EXPECT_EQ(CALL(ipcheap_stream_want(w->x_in, MIDDLE)), 0);
}

static void writer_of_x(struct world *w) {
    stream_of_shape(w, &plain);
    w->x_out = side_of_x(w, IPCHEAP_WRITER);
}

static void claim_writer(struct world *w) { w->x_out = side_of_x(w, IPCHEAP_WRITER); }

static void write_and_close(struct world *w) {
    ipcheap_endpoint *writer = w->x_out;
    write_some(w, writer, 3);
    write_window(w, writer, 5, 4);
    write_window(w, writer, 2, 0);
    write_some(w, writer, 3);
    ipcheap_endpoint_release(writer);
}

static void claim_and_write(struct world *w) {
    claim_writer(w);
    write_and_close(w);
}

static uint64_t stream_after_bell(struct world *w) {
    bool enough = position(w->x_in, false) + MIDDLE <= written(w);
    if (enough) EXPECT(bell_rings(w));
    EXPECT_EQ(ipcheap_stream_want(w->x_in, 1), 0);
    return stream_after(w);
}

/* Reading ------------------------------------------------------------------------------------ */

static void full_stream(struct world *w) {
    writer_of_x(w);
    write_some(w, w->x_out, CAPACITY);
}

static void claim_and_read(struct world *w) {
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    read_some(w, reader, 3);
    read_window(w, reader, 4, 2);
    read_window(w, reader, 1, 0);
    releasing(w) = (enum fate)(released(w) + 2);
    EXPECT_EQ(CALL(ipcheap_stream_read(reader, NULL, 2, 2)), 2);
    released(w) = releasing(w);
    ipcheap_endpoint_release(reader);
}

/* Waiting ------------------------------------------------------------------------------------ */

static void empty_stream(struct world *w) { writer_of_x(w); }

/* Sleeps, polls, and closes. */
static void wait_for_items(struct world *w) {
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    EXPECT_EQ(CALL(ipcheap_stream_wait(reader, 3, 1000000)), IPCHEAP_TIMED_OUT);
    EXPECT(CALL(ipcheap_endpoint_descriptor(reader)) >= 0);
    EXPECT_EQ(CALL(ipcheap_stream_want(reader, MIDDLE)), 0);
    EXPECT_EQ(CALL(ipcheap_stream_wait(reader, 2, 1000000)), IPCHEAP_TIMED_OUT);
    ipcheap_endpoint_release(reader);
}

static void wait_for_room(struct world *w) {
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    write_some(w, writer, CAPACITY);
    EXPECT_EQ(CALL(ipcheap_stream_wait(writer, 3, 1000000)), IPCHEAP_TIMED_OUT);
    EXPECT(CALL(ipcheap_endpoint_descriptor(writer)) >= 0);
    ipcheap_endpoint_release(writer);
}

/* Resets ------------------------------------------------------------------------------------- */

/* Writes and reads a little, so that there is a backlog. */
static void half_full(struct world *w) {
    reader_of_x(w);
    w->x_out = side_of_x(w, IPCHEAP_WRITER);
    write_some(w, w->x_out, 8);
    read_some(w, w->x_in, 5);
}

static void half_full_without_writer(struct world *w) {
    half_full(w);
    ipcheap_endpoint_release(w->x_out);
    w->x_out = NULL;
}

static void half_full_without_reader(struct world *w) {
    half_full(w);
    ipcheap_endpoint_release(w->x_in);
    w->x_in = NULL;
}

static void half_full_without_both(struct world *w) {
    half_full_without_writer(w);
    ipcheap_endpoint_release(w->x_in);
    w->x_in = NULL;
}

static void reset_as_writer(struct world *w) {
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    releasing(w) = (enum fate)written(w);
    EXPECT_EQ(CALL(ipcheap_stream_reset(writer)), 0);
    w->told->progress = 1;
    write_some(w, writer, 2);
    ipcheap_endpoint_release(writer);
}

static void reset_as_reader(struct world *w) {
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    releasing(w) = (enum fate)written(w);
    EXPECT_EQ(CALL(ipcheap_stream_reset(reader)), 0);
    w->told->progress = 1;
    released(w) = releasing(w);
    ipcheap_endpoint_release(reader);
}

/* Everything that was there, or nothing of it; never a part. */
static uint64_t reset_after(struct world *w) {
    ipcheap_endpoint *reader = w->x_in ? w->x_in : side_of_x(w, IPCHEAP_READER);
    w->x_in = reader;
    int64_t there = ipcheap_stream_ready(reader);
    EXPECT(there >= 0);
    uint64_t first = position(reader, false);
    EXPECT(first == 5 || first == 8);
    if (w->told->progress) EXPECT_EQ(first, 8);
    released(w) = releasing(w) = (enum fate)first;
    int64_t kept = ipcheap_stream_history(reader, NULL, BACKLOG);
    EXPECT(kept == 0 || first == 5);
    return stream_after(w);
}

/* Overwriting -------------------------------------------------------------------------------- */

static void overwritten_stream(struct world *w) {
    stream_of_shape(w, &overwriting);
    w->x_in = side_of_x(w, IPCHEAP_READER);
}

static void overwrite(struct world *w) {
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    write_some(w, writer, 25);
    write_window(w, writer, 5, 2);
    write_some(w, writer, 4);
    ipcheap_endpoint_release(writer);
}

/* What is delivered is whole, and what is lost is counted. */
static uint64_t overwritten_after(struct world *w) {
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    uint64_t next = position(writer, true), from = position(w->x_in, false), got = 0;
    EXPECT(next >= written(w) - least(written(w), 25) && next <= writing(w));
    uint32_t items[64];
    for (;;) {
        int64_t came = ipcheap_stream_read(w->x_in, items, 1, 64);
        if (came == IPCHEAP_WOULD_BLOCK) break;
        EXPECT(came > 0 && came <= CAPACITY);
        got += (uint64_t)came;
        expect_items(items, position(w->x_in, false) - (uint64_t)came, (uint64_t)came);
    }
    ipcheap_stream_statistics s;
    EXPECT_EQ(ipcheap_stream_describe(w->x_in, &s), 0);
    EXPECT_EQ(s.read - from, s.lost + got);
    /* What was being spoilt when the writer died is lost when somebody needs its place, or now. */
    EXPECT(s.read <= next);
    written(w) = next;
    write_some(w, writer, 2);
    EXPECT_EQ(ipcheap_stream_read(w->x_in, items, 2, 2), 2);
    expect_items(items, next, 2);
    ipcheap_endpoint_release(writer);
    ipcheap_endpoint_release(w->x_in);
    remove_id(w, X, 0);
    return 2 * PAGE;
}

static void write_over_and_read(struct world *w) {
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    uint32_t items[64];
    write_some(w, writer, 25);
    EXPECT_EQ(CALL(ipcheap_stream_read(reader, items, 1, 4)), 4);
    expect_items(items, 15, 4);
    ipcheap_window window;
    EXPECT_EQ(CALL(ipcheap_window_open(reader, 2, 2, 1, &window)), 0);
    expect_items(window.data, 19 - window.overlap, window.overlap + 2);
    EXPECT_EQ(CALL(ipcheap_window_close(reader, 1)), 0);
    ipcheap_endpoint_release(reader);
    ipcheap_endpoint_release(writer);
}

static void overwritten_by_nobody(struct world *w) { stream_of_shape(w, &overwriting); }

static uint64_t both_after(struct world *w) {
    w->x_in = side_of_x(w, IPCHEAP_READER);
    return overwritten_after(w);
}

const struct scenario stream_scenarios[] = {
    {"stream", MIB, .act = add_and_remove_stream, .verify = stream_added},
    {"write", MIB, .before = reader_of_x, .act = claim_and_write, .verify = stream_after},
    {"write to a poller", MIB, .before = reader_with_bell, .prepare = claim_writer,
     .act = write_and_close, .verify = stream_after_bell},
    {"read", MIB, .before = full_stream, .act = claim_and_read, .verify = stream_after},
    {"wait for items", MIB, .before = empty_stream, .act = wait_for_items, .verify = stream_after},
    {"wait for room", MIB, .before = reader_of_x, .act = wait_for_room, .verify = stream_after},
    {"reset by the writer", MIB, .before = half_full_without_writer, .act = reset_as_writer,
     .verify = reset_after},
    {"reset by the writer, unread", MIB, .before = half_full_without_both, .act = reset_as_writer,
     .verify = reset_after},
    {"reset by the reader", MIB, .before = half_full_without_reader, .act = reset_as_reader,
     .verify = reset_after},
    {"overwrite", MIB, .before = overwritten_stream, .act = overwrite, .verify = overwritten_after},
    {"overwrite and read", MIB, .before = overwritten_by_nobody, .act = write_over_and_read,
     .verify = both_after},
    {0},
};
