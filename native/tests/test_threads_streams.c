/* Threads that write and read a stream: in every way, while it is reset, handed on and removed. */

#include <poll.h>

#include "base/shared.h"
#include "threads.h"

/* 170 items of 24 bytes in a ring of 4096: there is no spare room, and the ring wraps inside one. */
enum { STREAM = 4, CAPACITY = 157, BACKLOG = 13, LARGEST_PORTION = 48, ITEMS = 200000 };

/* Item k of the stream has the number k. */
typedef struct numbered_item {
    uint64_t first, number, last;
} numbered_item;

/* The stream of a test. */
struct flow {
    struct scene scene;
    ipcheap_channel channel;
    _Atomic uint64_t cut; /* items below it were dropped before this was stored */
    atomic_int ended;     /* the writer has */
    bool polls;           /* both sides sleep in poll() */
    bool resets;          /* both sides reset it at times */
};

static void new_flow(struct flow *flow, uint32_t flags) {
    const ipcheap_stream_shape shape = {
        .capacity = CAPACITY,
        .backlog = BACKLOG,
        .flags = flags,
        .item = {.itemsize = sizeof(numbered_item), .type = "|V24"},
    };
    ipcheap_key key;
    *flow = (struct flow){.scene = new_scene(4 * MIB)};
    EXPECT_EQ(ipcheap_key_int(&key, STREAM), 0);
    EXPECT_EQ(ipcheap_add_stream(flow->scene.heap, &key, &shape, &flow->channel), 0);
}

static void flow_end(struct flow *flow) {
    ipcheap_key key;
    expect_sound(flow->scene.heap);
    EXPECT_EQ(ipcheap_key_int(&key, STREAM), 0);
    EXPECT_EQ(ipcheap_remove_channel(flow->scene.heap, &key, 0), 0);
    expect_empty(&flow->scene);
}

static pthread_t begin(void *(*body)(void *), struct flow *flow) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, body, flow), 0);
    return thread;
}

static ipcheap_stream_statistics numbers(ipcheap_endpoint *e) {
    ipcheap_stream_statistics s;
    EXPECT_EQ(ipcheap_stream_describe(e, &s), 0);
    return s;
}

/* Sleeps until there are so many items, or room for them; now and then it only looks again. */
static void rest(const struct flow *flow, ipcheap_endpoint *e, uint64_t items, uint64_t dice) {
    if (dice % 4 == 0) return;
    if (!flow->polls) {
        EXPECT_EQ(ipcheap_stream_wait(e, items, long_enough), 0);
        return;
    }
    struct pollfd bell = {.fd = ipcheap_endpoint_descriptor(e), .events = POLLIN};
    EXPECT(bell.fd >= 0);
    EXPECT_EQ(ipcheap_stream_want(e, items), 0);
    EXPECT_EQ(poll(&bell, 1, 60000), 1);
}

/* Writing ---------------------------------------------------------------------------------- */

static void fill(numbered_item *items, uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        items[i] = (numbered_item){first + i, first + i, first + i};
}

/* Writes some items, by one of the calls; returns false if the reader has closed. */
static bool write_some(const struct flow *flow, ipcheap_endpoint *writer, uint64_t dice) {
    uint64_t count = dice % LARGEST_PORTION + 1, at = numbers(writer).written;
    int64_t result;
    if (dice / 64 % 2) {
        numbered_item items[LARGEST_PORTION];
        fill(items, at, count);
        result = ipcheap_stream_write(writer, items, count);
        count = 1;
    } else {
        ipcheap_window window;
        result = ipcheap_window_open(writer, count, count, 0, &window);
        if (result == 0) {
            EXPECT_EQ(window.position, at);
            EXPECT_EQ(window.items, count);
            fill(window.data, at, count);
            /* Not all of it, at times. */
            uint64_t part = dice / 128 % 4 ? count : count / 2;
            EXPECT_EQ(ipcheap_window_close(writer, part), 0);
            EXPECT_EQ(numbers(writer).written, at + part);
        }
    }
    if (result == IPCHEAP_CHANNEL_CLOSED) return false;
    if (result == IPCHEAP_WOULD_BLOCK)
        rest(flow, writer, count, dice / 512);
    else
        EXPECT(result >= 0);
    return true;
}

static void *write_all(void *argument) {
    struct flow *flow = argument;
    uint64_t dice = 1;
    ipcheap_endpoint *writer = claim(flow->scene.heap, &flow->channel, IPCHEAP_WRITER);
    while (numbers(writer).written < ITEMS)
        if (!write_some(flow, writer, next_random(&dice)))
            EXPECT_EQ(ipcheap_wait_peer(writer, long_enough), 0);
    atomic_store(&flow->ended, 1);
    ipcheap_endpoint_release(writer);
    return NULL;
}

/* Reading ---------------------------------------------------------------------------------- */

static void expect_numbers(const numbered_item *items, uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        EXPECT_EQ(items[i].first, first + i);
        EXPECT_EQ(items[i].number, first + i);
        EXPECT_EQ(items[i].last, first + i);
    }
}

/* Counts what one call has done to the position: nothing goes that was not delivered, lost or dropped. */
static void account(const struct flow *flow, const ipcheap_stream_statistics *before,
                    const ipcheap_stream_statistics *after, uint64_t delivered) {
    uint64_t gone = after->read - before->read, lost = after->lost - before->lost;
    EXPECT(gone >= delivered + lost);
    if (!flow->resets) EXPECT_EQ(gone, delivered + lost); /* otherwise the rest was dropped */
}

static int64_t read_copy(const struct flow *flow, ipcheap_endpoint *reader, uint64_t few,
                         bool skip) {
    numbered_item items[CAPACITY];
    uint64_t cut = atomic_load(&flow->cut);
    ipcheap_stream_statistics before = numbers(reader);
    int64_t count = ipcheap_stream_read(reader, skip ? NULL : items, few, skip ? few : CAPACITY);
    ipcheap_stream_statistics after = numbers(reader);
    account(flow, &before, &after, count > 0 ? (uint64_t)count : 0);
    if (count <= 0 || skip) return count;
    EXPECT(items[0].number >= greatest(before.read, cut));
    EXPECT(items[0].number + (uint64_t)count <= after.read);
    if (!flow->resets) EXPECT_EQ(items[0].number + (uint64_t)count, after.read);
    expect_numbers(items, items[0].number, (uint64_t)count);
    return count;
}

static int64_t peek(const struct flow *flow, ipcheap_endpoint *reader, uint64_t few) {
    numbered_item items[CAPACITY];
    int64_t count = ipcheap_stream_peek(reader, items, few, CAPACITY);
    if (count <= 0) return count;
    uint64_t position = numbers(reader).read;
    EXPECT(items[0].number <= position); /* a reset may have come after the copy */
    if (!flow->resets) EXPECT_EQ(items[0].number, position);
    expect_numbers(items, items[0].number, (uint64_t)count);
    return count;
}

static int64_t look_back(ipcheap_endpoint *reader) {
    numbered_item items[BACKLOG];
    int64_t count = ipcheap_stream_history(reader, items, BACKLOG);
    EXPECT(count >= 0);
    expect_numbers(items, numbers(reader).read - (uint64_t)count, (uint64_t)count);
    return count;
}

static int64_t read_window(const struct flow *flow, ipcheap_endpoint *reader, uint64_t few,
                           uint64_t dice) {
    ipcheap_window window;
    ipcheap_stream_statistics before = numbers(reader);
    int error = ipcheap_window_open(reader, few, CAPACITY, dice % (BACKLOG + 1), &window);
    if (error) return error;
    ipcheap_stream_statistics inside = numbers(reader);
    account(flow, &before, &inside, 0);
    EXPECT_EQ(window.position, inside.read);
    expect_numbers(window.data, window.position - window.overlap, window.overlap + window.items);
    uint64_t taken = dice / 16 % 4 ? window.items : window.items / 2;
    EXPECT_EQ(ipcheap_window_close(reader, taken), 0);
    ipcheap_stream_statistics after = numbers(reader);
    account(flow, &inside, &after, flow->resets ? 0 : taken);
    return (int64_t)window.items;
}

/* Reads some items, by one of the calls; returns false when the writer has closed. */
static bool read_some(const struct flow *flow, ipcheap_endpoint *reader, uint64_t dice) {
    uint64_t few = dice % LARGEST_PORTION + 1, cut = atomic_load(&flow->cut);
    int64_t result;
    switch (dice / 64 % 8) {
    case 0:
        result = peek(flow, reader, few);
        break;
    case 1:
        result = look_back(reader);
        break;
    case 2:
        result = read_copy(flow, reader, few, true);
        break;
    case 3:
    case 4:
        result = read_copy(flow, reader, few, false);
        break;
    default:
        result = read_window(flow, reader, few, dice / 512);
    }
    if (result == IPCHEAP_CHANNEL_CLOSED) return false;
    if (result == IPCHEAP_WOULD_BLOCK)
        rest(flow, reader, few, dice / 4096);
    else
        EXPECT(result >= 0);
    EXPECT(ipcheap_stream_ready(reader) >= 0);
    EXPECT(numbers(reader).read >= cut); /* nothing that was dropped before the call is left */
    return true;
}

static void *read_all(void *argument) {
    const struct flow *flow = argument;
    uint64_t dice = 2;
    ipcheap_endpoint *reader = claim(flow->scene.heap, &flow->channel, IPCHEAP_READER);
    while (read_some(flow, reader, next_random(&dice))) {}
    EXPECT_EQ(numbers(reader).read, numbers(reader).written);
    ipcheap_endpoint_release(reader);
    return NULL;
}

static void exchange(struct flow *flow) {
    pthread_t threads[2] = {begin(write_all, flow), begin(read_all, flow)};
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    flow_end(flow);
}

static void items_go_from_one_thread_to_another(void) {
    for (int polls = 0; polls < 2; polls++) {
        struct flow flow;
        new_flow(&flow, 0);
        flow.polls = polls;
        exchange(&flow);
    }
}

static void a_reader_never_sees_what_is_overwritten(void) {
    for (int polls = 0; polls < 2; polls++) {
        struct flow flow;
        new_flow(&flow, IPCHEAP_OVERWRITE);
        flow.polls = polls;
        exchange(&flow);
    }
}

/* Resets ----------------------------------------------------------------------------------- */

static void *write_and_reset(void *argument) {
    struct flow *flow = argument;
    uint64_t dice = 3;
    ipcheap_endpoint *writer = claim(flow->scene.heap, &flow->channel, IPCHEAP_WRITER);
    while (numbers(writer).written < ITEMS) {
        EXPECT(write_some(flow, writer, next_random(&dice)));
        if (next_random(&dice) % 16) continue;
        EXPECT_EQ(ipcheap_stream_reset(writer), 0);
        atomic_store(&flow->cut, numbers(writer).written);
    }
    atomic_store(&flow->ended, 1);
    ipcheap_endpoint_release(writer);
    return NULL;
}

static void *read_and_reset(void *argument) {
    const struct flow *flow = argument;
    uint64_t dice = 4;
    ipcheap_endpoint *reader = claim(flow->scene.heap, &flow->channel, IPCHEAP_READER);
    while (read_some(flow, reader, next_random(&dice))) {
        if (next_random(&dice) % 16) continue;
        uint64_t written = numbers(reader).written;
        EXPECT_EQ(ipcheap_stream_reset(reader), 0);
        EXPECT(numbers(reader).read >= written);
        EXPECT_EQ(ipcheap_stream_history(reader, NULL, BACKLOG), 0);
    }
    EXPECT_EQ(numbers(reader).read, numbers(reader).written);
    ipcheap_endpoint_release(reader);
    return NULL;
}

static void both_sides_reset(void) {
    for (uint32_t flags = 0; flags <= IPCHEAP_OVERWRITE; flags++)
        for (int polls = 0; polls < 2; polls++) {
            struct flow flow;
            new_flow(&flow, flags);
            flow.polls = polls;
            flow.resets = true;
            pthread_t threads[2] = {begin(write_and_reset, &flow), begin(read_and_reset, &flow)};
            for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
            flow_end(&flow);
        }
}

/* Ends ------------------------------------------------------------------------------------- */

static void *write_in_turns(void *argument) {
    struct flow *flow = argument;
    uint64_t dice = 5, at = 0;
    while (at < ITEMS) {
        ipcheap_endpoint *writer = claim(flow->scene.heap, &flow->channel, IPCHEAP_WRITER);
        EXPECT_EQ(numbers(writer).written, at); /* where the last one was */
        for (uint64_t left = next_random(&dice) % 50; left > 0; left--)
            if (!write_some(flow, writer, next_random(&dice))) break;
        at = numbers(writer).written;
        ipcheap_endpoint_release(writer);
    }
    atomic_store(&flow->ended, 1);
    return NULL;
}

static void *read_in_turns(void *argument) {
    struct flow *flow = argument;
    uint64_t dice = 6, at = 0;
    for (bool last = false; !last;) {
        last = atomic_load(&flow->ended);
        ipcheap_endpoint *reader = claim(flow->scene.heap, &flow->channel, IPCHEAP_READER);
        EXPECT_EQ(numbers(reader).read, at); /* where the last one was */
        uint64_t turns = last ? UINT64_MAX : next_random(&dice) % 50;
        while (turns > 0 && read_some(flow, reader, next_random(&dice))) turns--;
        at = numbers(reader).read;
        if (last) EXPECT_EQ(at, numbers(reader).written);
        ipcheap_endpoint_release(reader);
    }
    return NULL;
}

static void successors_continue_on_both_sides(void) {
    for (uint32_t flags = 0; flags <= IPCHEAP_OVERWRITE; flags++) {
        struct flow flow;
        new_flow(&flow, flags);
        pthread_t threads[2] = {begin(write_in_turns, &flow), begin(read_in_turns, &flow)};
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        flow_end(&flow);
    }
}

static void *read_until_it_is_gone(void *argument) {
    struct flow *flow = argument;
    ipcheap_endpoint *reader = claim(flow->scene.heap, &flow->channel, IPCHEAP_READER);
    numbered_item items[CAPACITY];
    int64_t result;
    atomic_fetch_add(&flow->scene.turn, 1);
    while ((result = ipcheap_stream_read(reader, items, 1, CAPACITY)) > 0 ||
           result == IPCHEAP_WOULD_BLOCK) {
        if (result > 0) atomic_fetch_add(&flow->scene.count, (uint64_t)result);
        if (result > 0) continue;
        int error = ipcheap_stream_wait(reader, 1, long_enough);
        EXPECT(error == 0 || error == IPCHEAP_ENDPOINT_CLOSED || error == IPCHEAP_HEAP_CLOSED);
    }
    EXPECT(result == IPCHEAP_ENDPOINT_CLOSED || result == IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(reader);
    return NULL;
}

static void *write_until_it_is_gone(void *argument) {
    struct flow *flow = argument;
    ipcheap_endpoint *writer = claim(flow->scene.heap, &flow->channel, IPCHEAP_WRITER);
    ipcheap_window window;
    int error;
    atomic_fetch_add(&flow->scene.turn, 1);
    do {
        error = ipcheap_window_open(writer, LARGEST_PORTION, LARGEST_PORTION, 0, &window);
        if (error == 0) {
            fill(window.data, window.position, window.items);
            error = ipcheap_window_close(writer, window.items);
        } else if (error == IPCHEAP_WOULD_BLOCK) {
            error = ipcheap_stream_wait(writer, LARGEST_PORTION, long_enough);
        }
    } while (error == 0);
    EXPECT(error == IPCHEAP_ENDPOINT_CLOSED || error == IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(writer);
    return NULL;
}

static void a_stream_is_removed_while_it_is_used(void) {
    for (uint32_t flags = 0; flags <= IPCHEAP_OVERWRITE; flags++)
        for (int round = 0; round < 30; round++) {
            struct flow flow;
            ipcheap_key key;
            new_flow(&flow, flags);
            pthread_t threads[2] = {begin(write_until_it_is_gone, &flow),
                                    begin(read_until_it_is_gone, &flow)};
            await(&flow.scene.turn, 2);
            while (atomic_load(&flow.scene.count) < 10 * (uint64_t)round) usleep(10);
            EXPECT_EQ(ipcheap_key_int(&key, STREAM), 0);
            EXPECT_EQ(ipcheap_remove_channel(flow.scene.heap, &key, 1), 0);
            for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
            expect_empty(&flow.scene);
        }
}

int main(void) {
    items_go_from_one_thread_to_another();
    a_reader_never_sees_what_is_overwritten();
    both_sides_reset();
    successors_continue_on_both_sides();
    a_stream_is_removed_while_it_is_used();
    return 0;
}
