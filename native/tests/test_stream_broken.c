/* One word of a stream has a value that no participant writes: its sides get an error. */
#include "stream/endpoint.h"
#include "testing.h"

static ipcheap_stream_shape shape_with(uint32_t flags) {
    return (ipcheap_stream_shape){
        .capacity = 100,
        .backlog = 10,
        .flags = flags,
        .item = {.itemsize = 4, .type = "<u4"},
    };
}

struct flow {
    ipcheap_channel channel;
    ipcheap_endpoint *writer, *reader;
};

/* A stream with 60 items written and 20 of them released. */
static struct flow flow_of(ipcheap_heap *heap, uint32_t flags) {
    struct flow f;
    ipcheap_key key;
    uint32_t items[60] = {0};
    ipcheap_stream_shape shape = shape_with(flags);
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_add_stream(heap, &key, &shape, &f.channel), 0);
    f.writer = claim(heap, &f.channel, IPCHEAP_WRITER);
    f.reader = claim(heap, &f.channel, IPCHEAP_READER);
    EXPECT_EQ(ipcheap_stream_write(f.writer, items, 60), 60);
    EXPECT_EQ(ipcheap_stream_read(f.reader, items, 20, 20), 20);
    return f;
}

static void say_nothing(void *context, const char *text) { (void)context, (void)text; }

static bool is_corrupt(int64_t result) { return result == IPCHEAP_CORRUPT; }

static int64_t read_one(struct flow *f) {
    uint32_t item;
    return ipcheap_stream_read(f->reader, &item, 1, 1);
}
static int64_t peek_many(struct flow *f) {
    uint32_t items[50];
    return ipcheap_stream_peek(f->reader, items, 1, 50);
}
static int64_t skip_many(struct flow *f) { return ipcheap_stream_read(f->reader, NULL, 1, 50); }
static int64_t open_to_read(struct flow *f) {
    ipcheap_window window;
    return ipcheap_window_open(f->reader, 1, 50, 5, &window);
}
static int64_t write_many(struct flow *f) {
    uint32_t items[90] = {0};
    return ipcheap_stream_write(f->writer, items, 90);
}
static int64_t open_to_write(struct flow *f) {
    ipcheap_window window;
    return ipcheap_window_open(f->writer, 1, 100, 0, &window);
}
static int64_t room(struct flow *f) { return ipcheap_stream_ready(f->writer); }

typedef int64_t attempt(struct flow *f);

/* The word is wrong when `first` is called, which must say so, as all calls after it. */
static void expect_corrupt(ipcheap_heap *heap, uint32_t flags, shared64 *(*word)(struct channel *),
                           uint64_t value, attempt *first) {
    struct flow f = flow_of(heap, flags);
    ipcheap_key key;
    ipcheap_endpoint *again;
    uint64_t right = get(word(f.reader->channel));
    put(word(f.reader->channel), value);
    EXPECT(ipcheap_check(heap, say_nothing, NULL) != 0);
    EXPECT(is_corrupt(first(&f)));
    attempt *const all[] = {read_one,   peek_many,     skip_many, open_to_read,
                            write_many, open_to_write, room};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) EXPECT(is_corrupt(all[i](&f)));
    EXPECT_EQ(ipcheap_stream_ready(f.reader), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_stream_wait(f.reader, 1, -1), 0); /* there is an error to report */
    EXPECT_EQ(ipcheap_stream_history(f.reader, NULL, 1), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_stream_reset(f.reader), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_stream_reset(f.writer), IPCHEAP_CORRUPT);
    put(word(f.reader->channel), right);
    ipcheap_endpoint_release(f.writer);
    ipcheap_endpoint_release(f.reader);
    EXPECT_EQ(ipcheap_claim(heap, &f.channel, IPCHEAP_READER, &again), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    expect_sound(heap);
}

static shared64 *written(struct channel *c) { return &c->sides[IPCHEAP_WRITER].position; }
static shared64 *released(struct channel *c) { return &c->sides[IPCHEAP_READER].position; }
static shared64 *cut(struct channel *c) { return &c->stream.cut; }
static shared64 *spoilt(struct channel *c) { return &c->sides[IPCHEAP_WRITER].stream.floor; }

static void positions_that_are_impossible(ipcheap_heap *heap) {
    attempt *const reading[] = {peek_many, skip_many, open_to_read};
    for (int i = 0; i < 3; i++) {
        expect_corrupt(heap, 0, written, 121, reading[i]);
        expect_corrupt(heap, 0, written, 19, reading[i]);
        expect_corrupt(heap, IPCHEAP_OVERWRITE, written, 19, reading[i]);
    }
    attempt *const writing[] = {write_many, open_to_write, room};
    for (int i = 0; i < 3; i++) expect_corrupt(heap, 0, released, 61, writing[i]);
}

static void a_reset_or_a_floor_beyond_what_was_written(ipcheap_heap *heap) {
    attempt *const reading[] = {read_one, peek_many, skip_many, open_to_read};
    for (int i = 0; i < 4; i++) {
        expect_corrupt(heap, 0, cut, 61, reading[i]);
        expect_corrupt(heap, IPCHEAP_OVERWRITE, cut, 61, reading[i]);
        expect_corrupt(heap, IPCHEAP_OVERWRITE, spoilt, 61, reading[i]);
    }
}

/* The shape is looked at when a side is claimed. */
static void a_shape_that_does_not_fit_its_memory(ipcheap_heap *heap) {
    for (int word = 0; word < 4; word++) {
        struct flow f = flow_of(heap, 0);
        struct stream_head *head = stream_head_of(heap, f.channel.index);
        shared64 *const words[] = {&head->capacity, &head->backlog, &head->itemsize,
                                   &head->ring_bytes};
        uint64_t right = get(words[word]);
        ipcheap_stream_shape shape;
        ipcheap_description description;
        ipcheap_endpoint *again;
        ipcheap_key key;
        ipcheap_endpoint_release(f.reader);
        const uint64_t wrong[] = {right * 5000, UINT64_MAX / 2};
        for (int i = 0; i < 2; i++) {
            put(words[word], wrong[i]);
            EXPECT(ipcheap_check(heap, say_nothing, NULL) != 0);
            EXPECT_EQ(ipcheap_claim(heap, &f.channel, IPCHEAP_READER, &again), IPCHEAP_CORRUPT);
            EXPECT_EQ(ipcheap_stream_shape_of(heap, &f.channel, &shape, &description),
                      IPCHEAP_CORRUPT);
        }
        put(words[word], right);
        EXPECT(write_many(&f) > 0); /* a side that is open has a copy of its own */
        ipcheap_endpoint_release(f.writer);
        EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
        expect_sound(heap);
    }
}

int main(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    positions_that_are_impossible(heap);
    a_reset_or_a_floor_beyond_what_was_written(heap);
    a_shape_that_does_not_fit_its_memory(heap);
    ipcheap_release(heap);
    close(fd);
}
