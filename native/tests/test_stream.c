/* Streams: order, windows in one piece, overlap, overwriting, resets, ends, waiting. */
#include <poll.h>
#include <pthread.h>

#include "base/shared.h"
#include "testing.h"

/* Under ThreadSanitizer no ring is mapped twice: windows are copies there. */
#ifdef __SANITIZE_THREAD__
enum { MIRRORED = 0 };
#else
enum { MIRRORED = 1 };
#endif

static ipcheap_stream_shape bytes_shape(uint64_t capacity, uint64_t backlog, uint32_t flags) {
    return (ipcheap_stream_shape){
        .capacity = capacity,
        .backlog = backlog,
        .flags = flags,
        .item = {.itemsize = 1, .type = "|u1"},
    };
}

static ipcheap_stream_shape shape_of(uint64_t itemsize, uint64_t capacity, uint64_t backlog,
                                     uint32_t flags) {
    ipcheap_stream_shape shape = bytes_shape(capacity, backlog, flags);
    shape.item.itemsize = itemsize;
    shape.item.type = "|V12";
    return shape;
}

struct flow {
    ipcheap_channel channel;
    ipcheap_endpoint *writer, *reader;
};

static struct flow flow_of(ipcheap_heap *heap, uint64_t id, const ipcheap_stream_shape *shape) {
    struct flow f;
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, shape, &f.channel), 0);
    f.writer = claim(heap, &f.channel, IPCHEAP_WRITER);
    f.reader = claim(heap, &f.channel, IPCHEAP_READER);
    return f;
}

static void flow_release(struct flow *f) {
    ipcheap_endpoint_release(f->writer);
    ipcheap_endpoint_release(f->reader);
}

static ipcheap_stream_statistics numbers(ipcheap_endpoint *e) {
    ipcheap_stream_statistics s;
    EXPECT_EQ(ipcheap_stream_describe(e, &s), 0);
    return s;
}

static void an_existing_stream_is_compared(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel, again;
    ipcheap_key_int(&key, 1);
    ipcheap_stream_shape shape = shape_of(12, 100, 7, 0), other = shape;
    EXPECT_EQ(ipcheap_add_stream(heap, &key, NULL, &channel), IPCHEAP_CHANNEL_NOT_FOUND);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &shape, &channel), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &shape, &again), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, NULL, &again), 0);
    other.backlog = 8;
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &other, &again), IPCHEAP_CHANNEL_TYPE);
    other = shape;
    other.flags = IPCHEAP_OVERWRITE;
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &other, &again), IPCHEAP_CHANNEL_TYPE);
    other = shape;
    other.item.type = "|V13";
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &other, &again), IPCHEAP_CHANNEL_TYPE);
    EXPECT_EQ(ipcheap_add_record_channel(heap, &key, 4, &again), IPCHEAP_CHANNEL_TYPE);
    ipcheap_description description;
    EXPECT_EQ(ipcheap_stream_shape_of(heap, &channel, &other, &description), 0);
    EXPECT_EQ(other.capacity, 100);
    EXPECT_EQ(other.backlog, 7);
    EXPECT_EQ(other.item.itemsize, 12);
    EXPECT(strcmp(other.item.type, "|V12") == 0);
    ipcheap_stream_shape bad = bytes_shape(0, 0, 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &bad, &again), IPCHEAP_BAD_VALUE);
    bad = bytes_shape(UINT64_C(1) << 37, 0, 0);
    EXPECT_EQ(ipcheap_key_int(&key, 2), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &bad, &again), IPCHEAP_HEAP_FULL);
    ipcheap_key_int(&key, 1);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    expect_sound(heap);
    EXPECT_EQ(statistics(heap).in_use, 0);
}

/* Items of 12 bytes in a ring of 1000: the ring wraps inside an item. */
static void items_come_in_order(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = shape_of(12, 1000, 0, 0);
    struct flow f = flow_of(heap, 1, &shape);
    EXPECT_EQ(numbers(f.writer).mirrored, MIRRORED);
    uint32_t out[300][3], in[300][3], next = 0, expected = 0;
    uint64_t random = 1;
    for (int round = 0; round < 2000; round++) {
        uint64_t count = next_random(&random) % 300;
        for (uint64_t i = 0; i < count; i++) out[i][0] = out[i][1] = out[i][2] = next + (uint32_t)i;
        int64_t went = ipcheap_stream_write(f.writer, out, count);
        if (went == IPCHEAP_WOULD_BLOCK) went = 0;
        EXPECT(went >= 0 && (uint64_t)went <= count);
        next += (uint32_t)went;
        int64_t came = ipcheap_stream_read(f.reader, in, 1, next_random(&random) % 300 + 1);
        if (came == IPCHEAP_WOULD_BLOCK) came = 0;
        for (int64_t i = 0; i < came; i++, expected++)
            for (int k = 0; k < 3; k++) EXPECT_EQ(in[i][k], expected);
    }
    EXPECT_EQ(numbers(f.writer).written, next);
    EXPECT_EQ(numbers(f.reader).read, expected);
    flow_release(&f);
}

static void windows_are_in_one_piece(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = shape_of(12, 500, 100, 0);
    struct flow f = flow_of(heap, 2, &shape);
    uint32_t next = 0, expected = 0;
    for (int round = 0; round < 1000; round++) {
        ipcheap_window w, r;
        EXPECT_EQ(ipcheap_window_open(f.writer, 77, 77, 0, &w), 0);
        EXPECT_EQ(ipcheap_window_open(f.writer, 1, 1, 0, &r), IPCHEAP_WINDOW);
        EXPECT_EQ(ipcheap_stream_write(f.writer, w.data, 1), IPCHEAP_WINDOW);
        uint32_t (*items)[3] = w.data;
        for (int i = 0; i < 77; i++) items[i][0] = items[i][2] = next++;
        EXPECT_EQ(ipcheap_window_close(f.writer, 77), 0);
        EXPECT_EQ(ipcheap_window_close(f.writer, 0), IPCHEAP_WINDOW);
        EXPECT_EQ(ipcheap_window_open(f.reader, 77, 77, 100, &r), 0);
        EXPECT_EQ(r.position, expected);
        EXPECT_EQ(r.overlap, expected < 100 ? expected : 100);
        items = r.data;
        for (uint64_t i = 0; i < r.overlap + r.items; i++)
            EXPECT_EQ(items[i][0], expected - r.overlap + i);
        EXPECT_EQ(ipcheap_window_close(f.reader, 78), IPCHEAP_BAD_VALUE);
        EXPECT_EQ(ipcheap_window_close(f.reader, 77), 0);
        expected += 77;
    }
    uint32_t history[100][3];
    EXPECT_EQ(ipcheap_stream_history(f.reader, history, 100), 100);
    EXPECT_EQ(history[0][0], expected - 100);
    EXPECT_EQ(ipcheap_stream_history(f.reader, history, 101), IPCHEAP_BAD_VALUE);
    /* No call waits for more than half. */
    ipcheap_window w;
    EXPECT_EQ(ipcheap_window_open(f.writer, 251, 251, 0, &w), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_window_open(f.writer, 250, 500, 0, &w), 0);
    EXPECT_EQ(w.items, 500); /* the backlog has memory of its own */
    EXPECT_EQ(ipcheap_window_close(f.writer, 500), 0);
    EXPECT_EQ(ipcheap_window_open(f.writer, 1, 1, 0, &w), IPCHEAP_WOULD_BLOCK);
    expect_sound(heap);
    flow_release(&f);
}

static void a_successor_continues(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(10, 0, 0);
    struct flow f = flow_of(heap, 3, &shape);
    char in[10];
    EXPECT_EQ(ipcheap_stream_write(f.writer, "abcdef", 6), 6);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 2, 2), 2);
    EXPECT_EQ(ipcheap_stream_peek(f.reader, in, 4, 4), 4);
    flow_release(&f);
    f = flow_of(heap, 3, &shape);
    EXPECT_EQ(numbers(f.writer).written, 6);
    EXPECT_EQ(numbers(f.reader).read, 2);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "ghijklmn", 8), 6);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "x", 1), IPCHEAP_WOULD_BLOCK);
    ipcheap_endpoint_release(f.writer);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 5, 5), 5);
    EXPECT(memcmp(in, "cdefg", 5) == 0);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 5, 10), 5);
    EXPECT(memcmp(in, "hijkl", 5) == 0);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 1, 10), IPCHEAP_CHANNEL_CLOSED);
    ipcheap_endpoint_release(f.reader);
}

static void a_reset_drops_what_was_written(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(10, 4, 0);
    struct flow f = flow_of(heap, 4, &shape);
    char in[10];
    EXPECT_EQ(ipcheap_stream_write(f.writer, "0123456789", 10), 10);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 3, 3), 3);
    EXPECT_EQ(ipcheap_stream_reset(f.writer), 0);
    EXPECT_EQ(ipcheap_stream_ready(f.reader), 0);
    EXPECT_EQ(numbers(f.reader).read, 10);
    EXPECT_EQ(ipcheap_stream_history(f.reader, NULL, 4), 0);
    EXPECT_EQ(ipcheap_stream_ready(f.writer), 10);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "abcdef", 6), 6);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 2, 2), 2);
    EXPECT_EQ(ipcheap_stream_history(f.reader, in, 4), 2);
    /* Inside a window the reader keeps what it sees; its release is stale. */
    ipcheap_window window;
    EXPECT_EQ(ipcheap_window_open(f.reader, 2, 2, 0, &window), 0);
    EXPECT_EQ(ipcheap_stream_reset(f.writer), 0);
    EXPECT(memcmp(window.data, "cd", 2) == 0);
    EXPECT_EQ(ipcheap_window_close(f.reader, 2), 0);
    EXPECT_EQ(numbers(f.reader).read, 16);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "xyz", 3), 3);
    EXPECT_EQ(ipcheap_stream_reset(f.reader), 0);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 1, 1), IPCHEAP_WOULD_BLOCK);
    /* Without a reader the reset gives the room back itself. */
    ipcheap_endpoint_release(f.reader);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "0123456789", 10), 10);
    EXPECT_EQ(ipcheap_stream_reset(f.writer), 0);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "0123456789", 10), 10);
    expect_sound(heap);
    ipcheap_endpoint_release(f.writer);
}

/* What looks at the stream meanwhile does not let the writer fill the place of an open window. */
static void a_window_outlasts_a_reset(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(10, 0, 0);
    struct flow f = flow_of(heap, 9, &shape);
    ipcheap_window window;
    EXPECT_EQ(ipcheap_stream_write(f.writer, "0123456789", 10), 10);
    EXPECT_EQ(ipcheap_window_open(f.reader, 5, 5, 0, &window), 0);
    EXPECT_EQ(ipcheap_stream_reset(f.writer), 0);
    EXPECT_EQ(ipcheap_stream_ready(f.reader), 0);
    EXPECT_EQ(ipcheap_stream_want(f.reader, 2), 0);
    EXPECT_EQ(ipcheap_stream_wait(f.reader, 1, 0), IPCHEAP_TIMED_OUT);
    EXPECT(ipcheap_endpoint_descriptor(f.reader) >= 0);
    EXPECT_EQ(numbers(f.reader).read, 0);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "x", 1), IPCHEAP_WOULD_BLOCK);
    EXPECT(memcmp(window.data, "01234", 5) == 0);
    EXPECT_EQ(ipcheap_window_close(f.reader, 0), 0);
    EXPECT_EQ(numbers(f.reader).read, 10);
    EXPECT_EQ(ipcheap_stream_write(f.writer, "x", 1), 1);
    flow_release(&f);
}

static ipcheap_endpoint *resetting;

static void reset_now(const char *file, int line) {
    (void)file;
    (void)line;
    ipcheap_step_hook = NULL;
    EXPECT_EQ(ipcheap_stream_reset(resetting), 0);
}

/* The writer resets just before the reader's side ends: the reader cannot follow any more. */
static void a_closing_reader_leaves_the_room_of_a_reset(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(10, 0, 0);
    struct flow f = flow_of(heap, 10, &shape);
    for (int asks = 0; asks < 2; asks++) {
        EXPECT_EQ(ipcheap_stream_write(f.writer, "0123456789", 10), 10);
        resetting = f.writer;
        ipcheap_step_hook = reset_now;
        ipcheap_endpoint_release(f.reader);
        EXPECT(ipcheap_step_hook == NULL);
        if (asks) EXPECT_EQ(ipcheap_stream_ready(f.writer), 10);
        EXPECT_EQ(ipcheap_stream_write(f.writer, "abc", 3), 3);
        f.reader = claim(heap, &f.channel, IPCHEAP_READER);
        char in[10];
        EXPECT_EQ(ipcheap_stream_read(f.reader, in, 1, 10), 3);
        EXPECT(memcmp(in, "abc", 3) == 0);
    }
    expect_sound(heap);
    flow_release(&f);
}

static void overwriting_loses_the_oldest(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = shape_of(4, 100, 10, IPCHEAP_OVERWRITE);
    struct flow f = flow_of(heap, 5, &shape);
    uint32_t out[250], in[250], next = 0;
    for (int i = 0; i < 250; i++) out[i] = next++;
    EXPECT_EQ(ipcheap_stream_write(f.writer, out, 250), 250);
    EXPECT_EQ(ipcheap_stream_ready(f.reader), 100);
    EXPECT_EQ(ipcheap_stream_read(f.reader, in, 1, 30), 30);
    for (uint32_t i = 0; i < 30; i++) EXPECT_EQ(in[i], 150 + i);
    EXPECT_EQ(numbers(f.reader).lost, 150);
    EXPECT_EQ(numbers(f.reader).read, 180);
    ipcheap_window window;
    EXPECT_EQ(ipcheap_window_open(f.reader, 1, 20, 10, &window), 0);
    EXPECT_EQ(window.overlap, 10);
    EXPECT_EQ(((uint32_t *)window.data)[0], 170);
    EXPECT_EQ(ipcheap_stream_write(f.writer, out, 250), 250);
    EXPECT_EQ(((uint32_t *)window.data)[29], 199); /* a copy */
    EXPECT_EQ(ipcheap_window_close(f.reader, 20), 0);
    EXPECT_EQ(numbers(f.reader).read, 200);
    /* Opening the writer's window spoils what stands there. */
    EXPECT_EQ(ipcheap_window_open(f.writer, 50, 50, 0, &window), 0);
    EXPECT_EQ(ipcheap_window_close(f.writer, 0), 0);
    EXPECT_EQ(ipcheap_stream_ready(f.reader), 60);
    expect_sound(heap);
    flow_release(&f);
}

static void a_view_outlives_its_endpoint(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(4096, 0, 0);
    struct flow f = flow_of(heap, 6, &shape);
    char out[3000];
    memset(out, 'a', sizeof out);
    EXPECT_EQ(ipcheap_stream_write(f.writer, out, 3000), 3000);
    ipcheap_window window;
    EXPECT_EQ(ipcheap_window_open(f.reader, 1, 3000, 0, &window), 0);
    ipcheap_view *view = ipcheap_stream_view(f.reader);
    EXPECT(view != NULL);
    flow_release(&f);
    ipcheap_key key;
    ipcheap_key_int(&key, 6);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 800000, &record), 0); /* its memory is reused */
    memset(record.data, 'z', 800000);
    EXPECT(memcmp(window.data, out, 3000) == 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    ipcheap_view_drop(view);
}

/* Waiting ------------------------------------------------------------------------------------ */

static int pipe_of(ipcheap_endpoint *e) {
    int fd = ipcheap_endpoint_descriptor(e);
    EXPECT(fd >= 0);
    return fd;
}

static int polls(int fd) {
    struct pollfd poll_ = {.fd = fd, .events = POLLIN};
    return poll(&poll_, 1, 0);
}

static void the_descriptor_obeys_the_watermark(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(100, 0, 0);
    struct flow f = flow_of(heap, 7, &shape);
    char bytes[100] = {0};
    int in = pipe_of(f.reader), out = pipe_of(f.writer);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(polls(out), 1);
    EXPECT_EQ(ipcheap_stream_want(f.reader, 51), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_stream_want(f.reader, 20), 0);
    EXPECT_EQ(ipcheap_stream_write(f.writer, bytes, 19), 19);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(ipcheap_stream_write(f.writer, bytes, 1), 1);
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_stream_read(f.reader, bytes, 1, 1), 1);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(ipcheap_stream_want(f.reader, 19), 0);
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_stream_write(f.writer, bytes, 100), 81);
    EXPECT_EQ(polls(out), 0);
    EXPECT_EQ(ipcheap_stream_read(f.reader, bytes, 1, 100), 100);
    EXPECT_EQ(polls(out), 1);
    ipcheap_endpoint_release(f.writer);
    EXPECT_EQ(polls(in), 1);
    ipcheap_endpoint_release(f.reader);
}

/* A reset wakes a poller. Whatever call finds too little then, the descriptor does not show more. */
static void every_call_settles_the_descriptor(ipcheap_heap *heap) {
    ipcheap_stream_shape shape = bytes_shape(100, 10, 0);
    struct flow f = flow_of(heap, 11, &shape);
    char bytes[100] = {0};
    int in = pipe_of(f.reader);
    EXPECT_EQ(ipcheap_stream_want(f.reader, 20), 0);
    for (int way = 0; way < 4; way++) {
        ipcheap_window window;
        EXPECT_EQ(ipcheap_stream_write(f.writer, bytes, 2), 2);
        EXPECT_EQ(ipcheap_stream_reset(f.writer), 0);
        EXPECT_EQ(ipcheap_stream_write(f.writer, bytes, 2), 2);
        EXPECT_EQ(polls(in), 1);
        if (way == 0) EXPECT_EQ(ipcheap_stream_ready(f.reader), 2);
        if (way == 1) EXPECT_EQ(ipcheap_stream_peek(f.reader, bytes, 1, 10), 2);
        if (way == 2) EXPECT_EQ(ipcheap_stream_history(f.reader, bytes, 10), 0);
        if (way == 3) EXPECT_EQ(ipcheap_window_open(f.reader, 1, 2, 0, &window), 0);
        if (way == 3) EXPECT_EQ(ipcheap_window_close(f.reader, 0), 0);
        EXPECT_EQ(polls(in), 0);
    }
    flow_release(&f);
}

enum { TOTAL = 400000 };

static void write_in_portions(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_key_int(&key, 8);
    EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
    ipcheap_endpoint *writer = claim(heap, &channel, IPCHEAP_WRITER);
    uint32_t items[64], next = 0;
    while (next < TOTAL) {
        for (uint32_t i = 0; i < 64; i++) items[i] = next + i;
        for (uint64_t done = 0; done < 64;) {
            int64_t went = ipcheap_stream_write(writer, items + done, 64 - done);
            if (went == IPCHEAP_WOULD_BLOCK) {
                EXPECT_EQ(ipcheap_stream_wait(writer, 1, -1), 0);
                continue;
            }
            EXPECT(went > 0);
            done += (uint64_t)went;
        }
        next += 64;
    }
    ipcheap_endpoint_release(writer);
}

static void two_processes_exchange_items(ipcheap_heap *heap, int fd) {
    ipcheap_stream_shape shape = shape_of(4, 1000, 0, 0);
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_key_int(&key, 8);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &shape, &channel), 0);
    ipcheap_endpoint *reader = claim(heap, &channel, IPCHEAP_READER);
    pid_t peer = run_peer(fd, write_in_portions);
    uint32_t expected = 0, in[512];
    for (;;) {
        int64_t came = ipcheap_stream_read(reader, in, 500, 512);
        if (came == IPCHEAP_WOULD_BLOCK) {
            EXPECT_EQ(ipcheap_stream_wait(reader, 500, -1), 0);
            continue;
        }
        if (came == IPCHEAP_CHANNEL_CLOSED) break;
        EXPECT(came > 0);
        for (int64_t i = 0; i < came; i++) EXPECT_EQ(in[i], expected++);
    }
    EXPECT_EQ(expected, TOTAL);
    expect_success(peer);
    ipcheap_endpoint_release(reader);
}

int main(void) {
    int fd = new_segment(2 * MIB);
    ipcheap_heap *heap = attach(fd);
    an_existing_stream_is_compared(heap);
    items_come_in_order(heap);
    windows_are_in_one_piece(heap);
    a_successor_continues(heap);
    a_reset_drops_what_was_written(heap);
    a_window_outlasts_a_reset(heap);
    a_closing_reader_leaves_the_room_of_a_reset(heap);
    overwriting_loses_the_oldest(heap);
    if (MIRRORED) a_view_outlives_its_endpoint(heap);
    the_descriptor_obeys_the_watermark(heap);
    every_call_settles_the_descriptor(heap);
    two_processes_exchange_items(heap, fd);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}
