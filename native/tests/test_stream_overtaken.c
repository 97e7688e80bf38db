/*
 * A writer that overwrites overtakes a copy that its reader makes, at the moment at which that is
 * hardest: after the reader has chosen what to copy, and before it copies.
 */
#include <errno.h>

#include "stream/endpoint.h"
#include "testing.h"

#ifndef IPCHEAP_STEPS

int main(void) { return 77; }

#else

#include "base/fault.h"

enum { CAPACITY = 100, PORTION = 25 };

static ipcheap_endpoint *writer, *reader;
static uint32_t next; /* the number that is written next: that of its position */
static int times;     /* how often the writer overtakes */

static void write_numbers(uint32_t count) {
    uint32_t items[PORTION];
    for (; count > 0; count -= PORTION) {
        for (uint32_t i = 0; i < PORTION; i++) items[i] = next++;
        EXPECT_EQ(ipcheap_stream_write(writer, items, PORTION), PORTION);
    }
}

/* The reader moves its position past what is lost just before it copies. */
static void overtake(const char *file, int line) {
    (void)file, (void)line;
    if (times == 0) return;
    times--;
    ipcheap_step_hook = NULL;
    write_numbers(2 * CAPACITY);
    ipcheap_step_hook = overtake;
}

static void begin(ipcheap_heap *heap, uint64_t id) {
    ipcheap_stream_shape shape = {
        .capacity = CAPACITY,
        .flags = IPCHEAP_OVERWRITE,
        .item = {.itemsize = 4, .type = "<u4"},
    };
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &shape, &channel), 0);
    writer = claim(heap, &channel, IPCHEAP_WRITER);
    reader = claim(heap, &channel, IPCHEAP_READER);
    next = 0;
    write_numbers(2 * CAPACITY);
}

static void end(void) {
    EXPECT_EQ(times, 0);
    ipcheap_step_hook = NULL;
    ipcheap_endpoint_release(writer);
    ipcheap_endpoint_release(reader);
}

static ipcheap_stream_statistics numbers(void) {
    ipcheap_stream_statistics statistics;
    EXPECT_EQ(ipcheap_stream_describe(reader, &statistics), 0);
    return statistics;
}

static void expect_numbers(const uint32_t *items, int64_t count, uint32_t first) {
    for (int64_t i = 0; i < count; i++) EXPECT_EQ(items[i], first + i);
}

typedef int64_t taking(uint32_t *items);

static int64_t by_reading(uint32_t *items) {
    return ipcheap_stream_read(reader, items, 1, CAPACITY);
}

static int64_t by_peeking(uint32_t *items) {
    int64_t count = ipcheap_stream_peek(reader, items, 1, CAPACITY);
    EXPECT_EQ(ipcheap_stream_read(reader, NULL, (uint64_t)count, (uint64_t)count), count);
    return count;
}

static int64_t by_a_window(uint32_t *items) {
    ipcheap_window window;
    EXPECT_EQ(ipcheap_window_open(reader, 1, CAPACITY, 0, &window), 0);
    memcpy(items, window.data, window.items * sizeof *items);
    EXPECT_EQ(ipcheap_window_close(reader, window.items), 0);
    return (int64_t)window.items;
}

static taking *const ways[] = {by_reading, by_peeking, by_a_window};

/* After `overtaken` copies that are thrown away, the reader gets `count` items and counts the rest. */
static void expect_taken(ipcheap_heap *heap, taking *take, int overtaken, int64_t count) {
    uint32_t items[CAPACITY];
    begin(heap, 1);
    times = overtaken + (take == by_a_window); /* a window looks once more, for its size */
    ipcheap_step_hook = overtake;
    EXPECT_EQ(take(items), count);
    expect_numbers(items, count, next - (uint32_t)count);
    EXPECT_EQ(numbers().read, next);
    EXPECT_EQ(numbers().lost, next - (uint32_t)count);
    end();
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
}

static void a_copy_that_was_overtaken_is_repeated(ipcheap_heap *heap) {
    for (int i = 0; i < 3; i++) {
        expect_taken(heap, ways[i], 0, CAPACITY);
        expect_taken(heap, ways[i], 1, CAPACITY);
    }
}

static void after_two_the_reader_gets_the_newest(ipcheap_heap *heap) {
    for (int i = 0; i < 3; i++) {
        expect_taken(heap, ways[i], 2, CAPACITY / 4);
        expect_taken(heap, ways[i], 3, CAPACITY / 4);
    }
}

/* A reader that is overtaken without end takes nothing, and counts what it lost. */
static void a_reader_that_cannot_keep_up_gives_up(ipcheap_heap *heap) {
    uint32_t items[CAPACITY];
    begin(heap, 2);
    times = 64;
    ipcheap_step_hook = overtake;
    EXPECT_EQ(ipcheap_stream_read(reader, items, 1, CAPACITY), IPCHEAP_WOULD_BLOCK);
    ipcheap_step_hook = NULL;
    EXPECT_EQ(numbers().read, numbers().lost);
    EXPECT_EQ(ipcheap_stream_read(reader, items, 1, CAPACITY), CAPACITY / 4);
    expect_numbers(items, CAPACITY / 4, next - CAPACITY / 4);
    EXPECT_EQ(numbers().read, next);
    EXPECT_EQ(numbers().lost, next - CAPACITY / 4);
    end();
}

static bool no_memory(int number, const char *file, int line) {
    (void)file, (void)line;
    return number == ENOMEM;
}

/* The memory of a closed endpoint may be given to others, so its views never show that. */
static void a_view_without_memory_for_its_copy_shows_zeroes(ipcheap_heap *heap) {
    ipcheap_stream_layout layout;
    begin(heap, 3);
    EXPECT_EQ(ipcheap_stream_lay_out(reader, &layout), 0);
    ipcheap_view *view = ipcheap_stream_view(reader);
    if (view) {
        const uint32_t *shown = (const uint32_t *)layout.ring;
        EXPECT(shown[1] != 0);
        ipcheap_fault_hook = no_memory;
        ipcheap_endpoint_close(reader);
        ipcheap_fault_hook = NULL;
        for (uint64_t i = 0; i < 2 * layout.ring_bytes / sizeof *shown; i++) EXPECT_EQ(shown[i], 0);
        ipcheap_view_drop(view);
    }
    end();
}

int main(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    a_copy_that_was_overtaken_is_repeated(heap);
    after_two_the_reader_gets_the_newest(heap);
    a_reader_that_cannot_keep_up_gives_up(heap);
    a_view_without_memory_for_its_copy_shows_zeroes(heap);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

#endif
