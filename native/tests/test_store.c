/* Stores: keys, order, depth, expiry, limits, holds, transactions, records, waiting, ends, growth. */
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "segment/handle.h"
#include "segment/lock.h"
#include "segment/membership.h"
#include "store/endpoint.h"
#include "testing.h"

/* Small things -------------------------------------------------------------------------------- */

static ipcheap_store_key number(uint64_t value) {
    ipcheap_store_key key;
    EXPECT_EQ(ipcheap_store_key_int(&key, value), 0);
    return key;
}

struct shop {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    ipcheap_endpoint *writer, *reader;
};

static ipcheap_channel store_of(ipcheap_heap *heap, uint64_t id,
                                const ipcheap_store_options *options) {
    static const ipcheap_store_options none;
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_store(heap, &key, options ? options : &none, &channel), 0);
    return channel;
}

static struct shop open_shop(ipcheap_heap *heap, uint64_t id,
                             const ipcheap_store_options *options) {
    struct shop s = {.heap = heap, .channel = store_of(heap, id, options)};
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    s.reader = claim(heap, &s.channel, IPCHEAP_READER);
    return s;
}

static void close_shop(struct shop *s, uint64_t id) {
    ipcheap_key key;
    if (s->writer) ipcheap_endpoint_release(s->writer);
    if (s->reader) ipcheap_endpoint_release(s->reader);
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_remove_channel(s->heap, &key, 0), 0);
    expect_sound(s->heap);
    EXPECT_EQ(statistics(s->heap).in_use, 0);
}

static ipcheap_store_statistics numbers(const struct shop *s) {
    ipcheap_store_statistics found;
    EXPECT_EQ(ipcheap_store_describe(s->heap, &s->channel, &found), 0);
    return found;
}

static uint64_t put_text(const struct shop *s, uint64_t at, const char *text) {
    ipcheap_store_key key = number(at);
    uint64_t version = 0;
    EXPECT_EQ(ipcheap_store_put(s->writer, &key, text, strlen(text), 0, &version), 0);
    return version;
}

static bool is_text(const ipcheap_chunk *chunk, const char *text) {
    return chunk->data && chunk->nbytes == strlen(text) &&
           memcmp(chunk->data, text, chunk->nbytes) == 0;
}

static int get_from(ipcheap_endpoint *reader, uint64_t at, ipcheap_chunk *chunk) {
    ipcheap_store_key key = number(at);
    return ipcheap_store_get(reader, &key, 0, chunk);
}

static void expect_text(const struct shop *s, uint64_t at, const char *text) {
    ipcheap_chunk chunk;
    EXPECT_EQ(get_from(s->reader, at, &chunk), 1);
    EXPECT(is_text(&chunk, text));
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
}

static void expect_gone(const struct shop *s, uint64_t at) {
    ipcheap_chunk chunk;
    ipcheap_store_key key = number(at);
    EXPECT_EQ(get_from(s->reader, at, &chunk), 0);
    EXPECT(!chunk.data);
    EXPECT_EQ(ipcheap_store_contains(s->reader, &key), 0);
}

static void expect_next(const struct shop *s, uint64_t version, const char *text) {
    ipcheap_chunk chunk;
    EXPECT_EQ(ipcheap_store_next(s->reader, &chunk), 0);
    EXPECT_EQ(chunk.version, version);
    EXPECT(is_text(&chunk, text));
    EXPECT_EQ(ipcheap_store_position(s->reader), version);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
}

static void expect_no_next(const struct shop *s, int error) {
    ipcheap_chunk chunk;
    EXPECT_EQ(ipcheap_store_next(s->reader, &chunk), error);
}

/* Adding ----------------------------------------------------------------------------------------- */

static void options_that_are_given_are_compared(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel, again;
    ipcheap_key_int(&key, 1);
    ipcheap_store_options options = {
        .given = IPCHEAP_GIVEN_DEPTH | IPCHEAP_GIVEN_TTL, .depth = 3, .ttl_ns = 5000000000};
    EXPECT_EQ(ipcheap_add_store(heap, &key, NULL, &channel), IPCHEAP_CHANNEL_NOT_FOUND);
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &channel), 0);
    EXPECT_EQ(ipcheap_add_store(heap, &key, NULL, &again), 0);
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), 0);
    EXPECT_EQ(again.index, channel.index);
    options.given = IPCHEAP_GIVEN_DEPTH;
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), 0);
    options.depth = 1;
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), IPCHEAP_CHANNEL_TYPE);
    options.given = 0;
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), 0);
    options = (ipcheap_store_options){.given = IPCHEAP_GIVEN_HOLD, .hold = 1024};
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), 0);
    options.hold = 0;
    EXPECT_EQ(ipcheap_add_store(heap, &key, &options, &again), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_add_record_channel(heap, &key, 4, &again), IPCHEAP_CHANNEL_TYPE);
    EXPECT_EQ(ipcheap_store_options_of(heap, &channel, &options), 0);
    EXPECT_EQ(options.depth, 3);
    EXPECT_EQ(options.garbage, 1 << 20);
    EXPECT_EQ(options.hold, 1024);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
}

static void there_is_one_writer_and_many_readers(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 2, NULL);
    ipcheap_endpoint *other, *readers[40];
    EXPECT_EQ(ipcheap_claim(heap, &s.channel, IPCHEAP_WRITER, &other), IPCHEAP_CHANNEL_BUSY);
    put_text(&s, 1, "one");
    for (int i = 0; i < 40; i++) readers[i] = claim(heap, &s.channel, IPCHEAP_READER);
    EXPECT_EQ(numbers(&s).readers, 41);
    ipcheap_chunk chunks[80];
    for (int i = 0; i < 40; i++) {
        EXPECT_EQ(get_from(readers[i], 1, &chunks[2 * i]), 1);
        EXPECT_EQ(ipcheap_store_next(readers[i], &chunks[2 * i + 1]), 0);
    }
    uint32_t cursor = 0, found = 0;
    ipcheap_store_reader_info info;
    while (ipcheap_store_next_reader(heap, &s.channel, &cursor, &info) == 1) {
        EXPECT(info.holder.alive && info.holder.ours);
        EXPECT(found == 0 || (info.held == 2 && info.position == 1 && info.behind == 0));
        found++;
    }
    EXPECT_EQ(found, 41);
    expect_sound(heap);
    for (int i = 0; i < 40; i++) ipcheap_endpoint_release(readers[i]); /* with what they hold */
    ipcheap_key key;
    ipcheap_key_int(&key, 2);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), IPCHEAP_CHANNEL_BUSY);
    ipcheap_endpoint_release(s.writer);
    ipcheap_endpoint_release(s.reader);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    expect_sound(heap);
    for (int i = 0; i < 80; i++) {
        EXPECT(is_text(&chunks[i], "one"));
        EXPECT(statistics(heap).in_use > 0);
        EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    }
    EXPECT_EQ(statistics(heap).in_use, 0);
}

/* Keys and order ---------------------------------------------------------------------------------- */

static void a_key_has_its_newest_chunk(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 3, NULL);
    ipcheap_chunk old, chunk;
    expect_gone(&s, 1);
    EXPECT_EQ(put_text(&s, 1, "first"), 1);
    EXPECT_EQ(put_text(&s, 2, "other"), 2);
    EXPECT_EQ(get_from(s.reader, 1, &old), 1);
    EXPECT_EQ(put_text(&s, 1, "second"), 3);
    expect_text(&s, 1, "second");
    expect_text(&s, 2, "other");
    EXPECT(is_text(&old, "first")); /* whatever happens to its key */
    ipcheap_chunk_info info;
    EXPECT_EQ(ipcheap_chunk_describe(&old, &info), 0);
    EXPECT(!info.live && info.expires_in_ns == INT64_MAX && info.age_ns >= 0);
    EXPECT_EQ(info.key.kind, IPCHEAP_KEY_INT);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 0); /* it is held */
    EXPECT(is_text(&old, "first"));
    EXPECT_EQ(numbers(&s).held, 1);
    EXPECT_EQ(ipcheap_chunk_release(&old), 0);
    EXPECT_EQ(ipcheap_chunk_release(&old), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 5);
    EXPECT_EQ(numbers(&s).dead, 0);
    ipcheap_store_key key = number(1);
    EXPECT_EQ(ipcheap_store_get(s.reader, &key, 3, &chunk), 0);
    EXPECT_EQ(ipcheap_store_get(s.reader, &key, 2, &chunk), 1);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    EXPECT_EQ(ipcheap_store_version(s.reader), 3);
    close_shop(&s, 3);
}

static void the_three_spaces_of_keys_are_apart(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 4, NULL);
    ipcheap_store_key text, bytes, whole = number(0x6161616161616161);
    ipcheap_chunk chunk;
    EXPECT_EQ(ipcheap_store_key_of(&text, IPCHEAP_KEY_TEXT, "aaaaaaaa", 8), 0);
    EXPECT_EQ(ipcheap_store_key_of(&bytes, IPCHEAP_KEY_BYTES, "aaaaaaaa", 8), 0);
    EXPECT_EQ(ipcheap_store_key_of(&text, IPCHEAP_KEY_TEXT, "", 0), IPCHEAP_BAD_VALUE);
    char most[65];
    memset(most, 'x', sizeof most);
    EXPECT_EQ(ipcheap_store_key_of(&text, IPCHEAP_KEY_TEXT, most, 65), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_store_key_of(&text, IPCHEAP_KEY_INT, most, 8), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_store_put(s.writer, &text, "t", 1, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_put(s.writer, &bytes, "b", 1, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_put(s.writer, &whole, "i", 1, 0, NULL), 0);
    const ipcheap_store_key *keys[3] = {&text, &bytes, &whole};
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(ipcheap_store_get(s.reader, keys[i], 0, &chunk), 1);
        EXPECT(*(const char *)chunk.data == "tbi"[i]);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(ipcheap_store_get(s.reader, NULL, 0, &chunk), IPCHEAP_BAD_VALUE);
    close_shop(&s, 4);
}

static void chunks_of_no_bytes_are_chunks(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 5, NULL);
    ipcheap_chunk chunk;
    put_text(&s, 1, "");
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    EXPECT(chunk.data && chunk.nbytes == 0);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    close_shop(&s, 5);
}

static void followers_get_what_is_live_in_order(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 6, NULL);
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    put_text(&s, 1, "a");
    put_text(&s, 2, "b");
    put_text(&s, 1, "c");
    EXPECT_EQ(ipcheap_store_put(s.writer, NULL, "d", 1, 0, NULL), 0);
    expect_next(&s, 2, "b");
    expect_next(&s, 3, "c");
    expect_next(&s, 4, "d");
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    uint64_t position;
    EXPECT_EQ(ipcheap_store_seek(s.reader, 0, &position), 0);
    EXPECT_EQ(position, 0);
    expect_next(&s, 2, "b");
    EXPECT_EQ(ipcheap_store_seek(s.reader, UINT64_MAX, &position), 0);
    EXPECT_EQ(position, 4);
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    put_text(&s, 3, "e");
    expect_next(&s, 5, "e");
    ipcheap_store_endpoint_statistics found;
    EXPECT_EQ(ipcheap_store_endpoint_describe(s.reader, &found), 0);
    EXPECT_EQ(found.given, 5);
    EXPECT_EQ(found.skipped, 2);
    ipcheap_endpoint_release(s.writer);
    s.writer = NULL;
    expect_no_next(&s, IPCHEAP_CHANNEL_CLOSED);
    expect_text(&s, 3, "e"); /* what is there stays */
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(put_text(&s, 3, "f"), 6);
    expect_next(&s, 6, "f");
    close_shop(&s, 6);
}

/* The log has 512 entries while there are 192 slots. */
static void an_overtaken_follower_scans(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 7, NULL);
    put_text(&s, 1000, "old");
    for (int i = 0; i < 1000; i++) put_text(&s, (uint64_t)(i % 10), "x");
    expect_next(&s, 1, "old");
    for (uint64_t i = 0; i < 10; i++) expect_next(&s, 992 + i, "x");
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(numbers(&s).slots, 192);
    ipcheap_store_endpoint_statistics found;
    EXPECT_EQ(ipcheap_store_endpoint_describe(s.reader, &found), 0);
    EXPECT_EQ(found.skipped, 990);
    close_shop(&s, 7);
}

static void keys_go_by_version(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 8, NULL);
    ipcheap_store_entry entries[8];
    for (uint64_t i = 0; i < 5; i++) put_text(&s, i, "x");
    put_text(&s, 0, "y");
    ipcheap_store_key key = number(2);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, NULL), 1);
    EXPECT_EQ(ipcheap_store_keys(s.reader, entries, 8), 4);
    const uint64_t order[] = {1, 3, 4, 0};
    for (int i = 0; i < 4; i++) {
        uint64_t value;
        memcpy(&value, entries[i].key.bytes, sizeof value);
        EXPECT_EQ(value, order[i]);
    }
    EXPECT_EQ(ipcheap_store_keys(s.reader, entries, 2), 4);
    EXPECT_EQ(numbers(&s).keys, 4);
    close_shop(&s, 8);
}

/* Depth, deletion --------------------------------------------------------------------------------- */

static void expect_history(const struct shop *s, uint64_t at, const char *texts) {
    ipcheap_chunk chunks[8];
    ipcheap_store_key key = number(at);
    int64_t count = ipcheap_store_history(s->reader, &key, chunks, 8);
    EXPECT_EQ(count, strlen(texts));
    for (int64_t i = 0; i < count; i++) {
        EXPECT(*(const char *)chunks[i].data == texts[i]);
        EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    }
}

static void a_key_keeps_as_many_as_its_depth(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 3};
    struct shop s = open_shop(heap, 9, &options);
    expect_history(&s, 1, "");
    put_text(&s, 1, "a");
    expect_history(&s, 1, "a");
    put_text(&s, 1, "b");
    put_text(&s, 1, "c");
    expect_history(&s, 1, "abc");
    put_text(&s, 1, "d");
    expect_history(&s, 1, "bcd");
    ipcheap_chunk chunks[2];
    ipcheap_store_key key = number(1);
    EXPECT_EQ(ipcheap_store_history(s.reader, &key, chunks, 2), 2);
    EXPECT(*(const char *)chunks[0].data == 'c' && *(const char *)chunks[1].data == 'd');
    for (int i = 0; i < 2; i++) EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    EXPECT_EQ(numbers(&s).replaced, 1);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, NULL), 1);
    expect_history(&s, 1, "");
    expect_gone(&s, 1);
    EXPECT_EQ(numbers(&s).deleted, 3);
    put_text(&s, 1, "e");
    expect_history(&s, 1, "e");
    expect_sound(heap);
    close_shop(&s, 9);
}

static void a_deletion_is_a_commit(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 10, NULL);
    ipcheap_store_key key = number(1);
    uint64_t version = 0;
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, &version), 0);
    EXPECT_EQ(version, 0);
    put_text(&s, 1, "a");
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, &version), 1);
    EXPECT_EQ(version, 2);
    expect_gone(&s, 1);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, &version), 0);
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_store_position(s.reader), 2);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 1);
    expect_gone(&s, 1);
    EXPECT_EQ(put_text(&s, 1, "b"), 3);
    expect_text(&s, 1, "b");
    EXPECT_EQ(ipcheap_store_delete(s.writer, NULL, NULL), IPCHEAP_BAD_VALUE);
    close_shop(&s, 10);
}

static void cells_of_gone_keys_are_used_again(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 11, NULL);
    for (uint64_t i = 0; i < 20000; i++) {
        ipcheap_store_key key = number(i);
        put_text(&s, i, "x");
        if (i >= 8) {
            key = number(i - 8);
            EXPECT_EQ(ipcheap_store_delete(s.writer, &key, NULL), 1);
        }
        if (i % 5000 == 0) expect_sound(heap);
    }
    for (uint64_t i = 19992; i < 20000; i++) expect_text(&s, i, "x");
    expect_gone(&s, 19991);
    EXPECT(numbers(&s).slots <= 64 + 128 + 256);
    close_shop(&s, 11);
}

/* Expiry -------------------------------------------------------------------------------------------- */

/* Moves the clock of this process on. */
static void pass(ipcheap_heap *heap, int64_t ns) { heap->boot_offset -= ns; }

static int put_for(const struct shop *s, uint64_t at, const char *text, int64_t ttl) {
    ipcheap_store_key key = number(at);
    return ipcheap_store_put(s->writer, &key, text, strlen(text), ttl, NULL);
}

static void chunks_expire(ipcheap_heap *heap) {
    int64_t offset = heap->boot_offset;
    ipcheap_store_options options = {
        .given = IPCHEAP_GIVEN_TTL | IPCHEAP_GIVEN_DEPTH, .ttl_ns = 10 * SECOND, .depth = 3};
    struct shop s = open_shop(heap, 12, &options);
    ipcheap_chunk chunk;
    ipcheap_chunk_info info;
    EXPECT_EQ(put_for(&s, 1, "usual", 0), 0);
    EXPECT_EQ(put_for(&s, 2, "long", 20 * SECOND), 0);
    EXPECT_EQ(put_for(&s, 3, "ever", -1), 0);
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    EXPECT_EQ(ipcheap_chunk_describe(&chunk, &info), 0);
    EXPECT(info.live && info.expires_in_ns > 9 * SECOND && info.expires_in_ns <= 10 * SECOND);
    pass(heap, 11 * SECOND);
    EXPECT_EQ(ipcheap_chunk_describe(&chunk, &info), 0);
    EXPECT(!info.live && info.expires_in_ns <= 0 && info.age_ns >= 11 * SECOND);
    EXPECT(is_text(&chunk, "usual"));
    expect_gone(&s, 1);
    expect_text(&s, 2, "long");
    EXPECT_EQ(numbers(&s).chunks, 2);
    EXPECT_EQ(numbers(&s).keys, 2);
    EXPECT_EQ(numbers(&s).dead, 1);
    expect_next(&s, 2, "long");
    ipcheap_store_key key = number(1);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &key, NULL), 0); /* it is gone already */
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 5);
    EXPECT_EQ(numbers(&s).expired, 1);
    pass(heap, 1000 * SECOND);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 4);
    expect_text(&s, 3, "ever");
    heap->boot_offset = offset;
    close_shop(&s, 12);
}

static void what_expires_in_the_middle_cuts_no_history(ipcheap_heap *heap) {
    int64_t offset = heap->boot_offset;
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 4};
    struct shop s = open_shop(heap, 13, &options);
    EXPECT_EQ(put_for(&s, 1, "a", -1), 0);
    EXPECT_EQ(put_for(&s, 1, "b", SECOND), 0);
    EXPECT_EQ(put_for(&s, 1, "c", -1), 0);
    expect_history(&s, 1, "abc");
    pass(heap, 2 * SECOND);
    expect_history(&s, 1, "ac");
    EXPECT_EQ(ipcheap_store_collect(s.writer), 1);
    expect_history(&s, 1, "ac");
    expect_sound(heap);
    /* When the newest has expired, its history is gone as well. */
    EXPECT_EQ(put_for(&s, 1, "d", SECOND), 0);
    expect_history(&s, 1, "acd");
    pass(heap, 2 * SECOND);
    expect_gone(&s, 1);
    expect_history(&s, 1, "");
    EXPECT_EQ(ipcheap_store_collect(s.writer), 3);
    EXPECT_EQ(numbers(&s).expired, 4);
    heap->boot_offset = offset;
    close_shop(&s, 13);
}

/* Limits -------------------------------------------------------------------------------------------- */

static void a_limit_refuses_or_evicts(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_MAX_CHUNKS, .max_chunks = 3};
    struct shop s = open_shop(heap, 14, &options);
    for (uint64_t i = 0; i < 3; i++) put_text(&s, i, "x");
    EXPECT_EQ(put_for(&s, 3, "y", 0), IPCHEAP_STORE_FULL);
    EXPECT_EQ(ipcheap_store_limits_met(s.writer), IPCHEAP_GIVEN_MAX_CHUNKS);
    expect_gone(&s, 3);
    EXPECT_EQ(ipcheap_store_version(s.writer), 3);
    put_text(&s, 1, "z"); /* replaces one */
    EXPECT_EQ(numbers(&s).chunks, 3);
    close_shop(&s, 14);
    options = (ipcheap_store_options){.given = IPCHEAP_GIVEN_MAX_CHUNKS | IPCHEAP_GIVEN_MAX_BYTES |
                                               IPCHEAP_GIVEN_FLAGS,
                                      .max_chunks = 3,
                                      .max_bytes = 10,
                                      .flags = IPCHEAP_EVICT};
    s = open_shop(heap, 14, &options);
    for (uint64_t i = 0; i < 5; i++) put_text(&s, i, "x");
    expect_gone(&s, 1);
    expect_text(&s, 2, "x");
    EXPECT_EQ(numbers(&s).evicted, 2);
    EXPECT_EQ(put_for(&s, 9, "12345678901", 0), IPCHEAP_STORE_FULL); /* never fits: nothing goes */
    EXPECT_EQ(ipcheap_store_limits_met(s.writer), IPCHEAP_GIVEN_MAX_BYTES);
    EXPECT_EQ(numbers(&s).chunks, 3);
    put_text(&s, 9, "123456789");
    EXPECT_EQ(numbers(&s).chunks, 2);
    EXPECT_EQ(numbers(&s).bytes, 10);
    expect_text(&s, 4, "x");
    expect_sound(heap);
    close_shop(&s, 14);
}

static void expired_chunks_do_not_count(ipcheap_heap *heap) {
    int64_t offset = heap->boot_offset;
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_MAX_CHUNKS, .max_chunks = 1};
    struct shop s = open_shop(heap, 15, &options);
    EXPECT_EQ(put_for(&s, 1, "a", SECOND), 0);
    EXPECT_EQ(put_for(&s, 2, "b", 0), IPCHEAP_STORE_FULL);
    pass(heap, 2 * SECOND);
    EXPECT_EQ(put_for(&s, 2, "b", 0), 0);
    expect_text(&s, 2, "b");
    heap->boot_offset = offset;
    close_shop(&s, 15);
}

static void a_full_heap_evicts_and_names_the_reader(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_FLAGS, .flags = IPCHEAP_EVICT};
    struct shop s = open_shop(heap, 16, &options);
    static char bytes[100000], most[2 * MIB];
    ipcheap_store_key key;
    ipcheap_store_reader_info info;
    for (uint64_t i = 0; i < 50; i++) {
        key = number(i);
        EXPECT_EQ(ipcheap_store_put(s.writer, &key, bytes, sizeof bytes, 0, NULL), 0);
    }
    EXPECT(numbers(&s).evicted >= 39 && numbers(&s).chunks >= 9);
    EXPECT_EQ(ipcheap_store_put(s.writer, &key, most, sizeof most, 0, NULL), IPCHEAP_HEAP_FULL);
    EXPECT(numbers(&s).chunks >= 9);
    EXPECT_EQ(ipcheap_store_blocker(heap, &s.channel, &info), 0);
    /* What readers hold is not evicted, so there comes an end. */
    ipcheap_chunk chunks[16];
    int held = 0;
    EXPECT_EQ(ipcheap_store_seek(s.reader, 0, NULL), 0);
    while (ipcheap_store_next(s.reader, &chunks[held]) == 0) held++;
    EXPECT(held >= 9);
    EXPECT_EQ(ipcheap_store_put(s.writer, &key, bytes, 900000, 0, NULL), IPCHEAP_HEAP_FULL);
    EXPECT_EQ(ipcheap_store_blocker(heap, &s.channel, &info), 1);
    EXPECT_EQ(info.dead, held);
    EXPECT_EQ(info.dead_bytes, (uint64_t)held * sizeof bytes);
    EXPECT(info.holder.pid == (uint32_t)getpid());
    for (int i = 0; i < held; i++) EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    EXPECT_EQ(ipcheap_store_put(s.writer, &key, most, 900000, 0, NULL), 0);
    close_shop(&s, 16);
    ipcheap_release(heap);
    close(fd);
}

static void memory_is_bounded_by_the_garbage_threshold(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_GARBAGE, .garbage = 5000};
    struct shop s = open_shop(heap, 17, &options);
    static char bytes[1000];
    ipcheap_store_key key = number(1);
    for (int i = 0; i < 1000; i++) {
        EXPECT_EQ(ipcheap_store_put(s.writer, &key, bytes, sizeof bytes, 0, NULL), 0);
        EXPECT(numbers(&s).dead_bytes <= 5000);
    }
    EXPECT(numbers(&s).collections > 100);
    close_shop(&s, 17);
    options.garbage = 0;
    s = open_shop(heap, 17, &options);
    for (int i = 0; i < 10; i++) {
        EXPECT_EQ(ipcheap_store_put(s.writer, &key, bytes, sizeof bytes, 0, NULL), 0);
        EXPECT_EQ(numbers(&s).dead, 0);
    }
    close_shop(&s, 17);
}

/* The spares of a put are in use again after one round, and others free them like any garbage. */
static void puts_use_blocks_again(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 17, NULL);
    static char bytes[1000];
    ipcheap_store_key key = number(1), other = number(2);
    for (int i = 0; i < 1000; i++) {
        memset(bytes, i % 128, sizeof bytes);
        EXPECT_EQ(ipcheap_store_put(s.writer, &key, bytes, (uint64_t)(i % 1000), 0, NULL), 0);
        EXPECT_EQ(ipcheap_store_put(s.writer, &other, bytes, 700, 0, NULL), 0);
        ipcheap_chunk chunk;
        EXPECT_EQ(ipcheap_store_get(s.reader, &key, 0, &chunk), 1);
        EXPECT_EQ(chunk.nbytes, (uint64_t)(i % 1000));
        EXPECT(chunk.nbytes == 0 || memcmp(chunk.data, bytes, chunk.nbytes) == 0);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    expect_sound(heap);
    EXPECT(numbers(&s).dead > 0);
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT_EQ(numbers(&s).dead, 0);
    for (int i = 0; i < 300; i++) put_text(&s, 1, "after");
    expect_text(&s, 1, "after");
    EXPECT(numbers(&s).dead > 0);
    EXPECT(ipcheap_store_collect(s.writer) > 0);
    EXPECT_EQ(numbers(&s).dead, 0);
    expect_sound(heap);
    close_shop(&s, 17);
}

/* Holds --------------------------------------------------------------------------------------------- */

static void a_reader_holds_so_many_and_no_more(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_HOLD, .hold = 2};
    struct shop s = open_shop(heap, 18, &options);
    ipcheap_chunk a, b, c, both[3];
    put_text(&s, 1, "a");
    put_text(&s, 2, "b");
    put_text(&s, 3, "c");
    EXPECT_EQ(get_from(s.reader, 1, &a), 1);
    EXPECT_EQ(ipcheap_store_next(s.reader, &b), 0);
    EXPECT_EQ(get_from(s.reader, 3, &c), IPCHEAP_HOLDS);
    EXPECT_EQ(ipcheap_store_next(s.reader, &c), IPCHEAP_HOLDS);
    EXPECT_EQ(ipcheap_store_position(s.reader), 1);
    ipcheap_store_key keys[3] = {number(1), number(2), number(3)};
    EXPECT_EQ(ipcheap_store_contains(s.reader, &keys[2]), 1); /* holds nothing */
    EXPECT_EQ(ipcheap_store_peek(s.reader, &keys[2], &c), 1); /* takes no place */
    EXPECT(c.nbytes == 1 && memcmp(c.data, "c", 1) == 0);
    EXPECT_EQ(ipcheap_chunk_release(&c), 0);
    ipcheap_store_key of_a;
    EXPECT_EQ(ipcheap_chunk_key(&a, &of_a), 0);
    EXPECT(of_a.kind == keys[0].kind && memcmp(of_a.bytes, keys[0].bytes, of_a.length) == 0);
    EXPECT_EQ(ipcheap_chunk_release(&a), 0);
    EXPECT_EQ(ipcheap_store_get_many(s.reader, keys, 3, both), IPCHEAP_HOLDS);
    EXPECT_EQ(ipcheap_store_next(s.reader, &c), 0);
    EXPECT_EQ(ipcheap_chunk_release(&b), 0);
    EXPECT_EQ(ipcheap_chunk_release(&c), 0);
    EXPECT_EQ(ipcheap_store_get_many(s.reader, keys, 2, both), 2);
    for (int i = 0; i < 2; i++) EXPECT_EQ(ipcheap_chunk_release(&both[i]), 0);
    close_shop(&s, 18);
}

static void a_chunk_outlives_reader_and_store(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 19, NULL);
    ipcheap_chunk chunk, other;
    put_text(&s, 1, "lasts");
    put_text(&s, 2, "goes");
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    EXPECT_EQ(get_from(s.reader, 1, &other), 1);
    put_text(&s, 1, "newer");
    ipcheap_endpoint_release(s.reader);
    EXPECT_EQ(numbers(&s).readers, 0);
    uint32_t cursor = 0;
    ipcheap_store_reader_info info;
    EXPECT_EQ(ipcheap_store_next_reader(heap, &s.channel, &cursor, &info), 1);
    EXPECT(info.closed && info.held == 2);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 0);
    EXPECT(is_text(&chunk, "lasts"));
    ipcheap_key key;
    ipcheap_key_int(&key, 19);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
    EXPECT_EQ(put_for(&s, 1, "x", 0), IPCHEAP_ENDPOINT_CLOSED);
    ipcheap_endpoint_release(s.writer);
    EXPECT_EQ(statistics(heap).records, 1); /* all else was freed */
    EXPECT(is_text(&chunk, "lasts"));
    expect_sound(heap);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    EXPECT(is_text(&other, "lasts"));
    EXPECT_EQ(statistics(heap).records, 1);
    EXPECT_EQ(ipcheap_chunk_release(&other), 0);
    EXPECT_EQ(statistics(heap).records, 0);
    expect_sound(heap);
}

static void what_is_copied_outlives_its_reader(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 36, NULL);
    ipcheap_store_key key = number(1);
    ipcheap_chunk chunk, of_next;
    put_text(&s, 1, "lasts");
    EXPECT_EQ(ipcheap_store_peek(s.reader, &key, &chunk), 1);
    ipcheap_endpoint_release(s.reader);
    put_text(&s, 1, "newer");
    EXPECT_EQ(ipcheap_store_collect(s.writer), 0);
    put_text(&s, 2, "other");
    EXPECT(is_text(&chunk, "lasts"));
    s.reader = claim(heap, &s.channel, IPCHEAP_READER);
    EXPECT_EQ(ipcheap_store_peek(s.reader, &key, &of_next), 1);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    put_text(&s, 1, "newest");
    EXPECT_EQ(ipcheap_store_collect(s.writer), 5); /* "lasts" */
    put_text(&s, 2, "third");
    EXPECT(is_text(&of_next, "newer"));
    EXPECT_EQ(ipcheap_chunk_release(&of_next), 0);
    close_shop(&s, 36);
    expect_sound(heap);
}

static void *release_it(void *chunk) {
    EXPECT_EQ(ipcheap_chunk_release(chunk), 0);
    return NULL;
}

static void any_thread_may_release(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_HOLD, .hold = 1};
    struct shop s = open_shop(heap, 20, &options);
    put_text(&s, 1, "x");
    for (int i = 0; i < 3; i++) {
        ipcheap_chunk chunk, more;
        pthread_t thread;
        EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
        EXPECT_EQ(get_from(s.reader, 1, &more), IPCHEAP_HOLDS);
        EXPECT_EQ(pthread_create(&thread, NULL, release_it, &chunk), 0);
        EXPECT_EQ(pthread_join(thread, NULL), 0);
        EXPECT(!chunk.data);
    }
    close_shop(&s, 20);
}

static void what_was_in_use_when_its_store_went_is_freed_by_recovery(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 37, NULL);
    struct participant *me;
    ipcheap_chunk chunk;
    ipcheap_recovery report;
    ipcheap_key key;
    pthread_t thread;
    put_text(&s, 1, "x");
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    ipcheap_endpoint_release(s.reader);
    ipcheap_endpoint_release(s.writer);
    ipcheap_key_int(&key, 37);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
    EXPECT_EQ(participant_current(heap, &me), 0);
    EXPECT_EQ(heap_lock(me), 0);
    EXPECT_EQ(pthread_create(&thread, NULL, release_it, &chunk), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0); /* it does not wait for the lock */
    heap_unlock(me);
    EXPECT(statistics(heap).in_use > 0);
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
}

/* A reader in a thread that ends after it has released a chunk of a closed endpoint. */
struct visitor {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    sem_t closed, locked, released;
};

static void *visit(void *argument) {
    struct visitor *v = argument;
    ipcheap_endpoint *reader = claim(v->heap, &v->channel, IPCHEAP_READER);
    ipcheap_chunk chunk;
    EXPECT_EQ(get_from(reader, 1, &chunk), 1);
    ipcheap_endpoint_release(reader);
    sem_post(&v->closed);
    sem_wait(&v->locked);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0); /* which cannot tidy up now */
    sem_post(&v->released);
    return NULL;
}

static void a_closed_reader_that_nobody_tidied_up_is_none(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 61, NULL);
    struct visitor v = {.heap = heap, .channel = s.channel};
    ipcheap_store_reader_info info;
    struct participant *me;
    pthread_t thread;
    sem_init(&v.closed, 0, 0);
    sem_init(&v.locked, 0, 0);
    sem_init(&v.released, 0, 0);
    ipcheap_endpoint_release(s.reader);
    put_text(&s, 1, "x");
    EXPECT_EQ(participant_current(heap, &me), 0);
    EXPECT_EQ(pthread_create(&thread, NULL, visit, &v), 0);
    sem_wait(&v.closed);
    uint32_t cursor = 0;
    EXPECT_EQ(ipcheap_store_next_reader(heap, &s.channel, &cursor, &info), 1);
    EXPECT(info.closed && info.held == 1);
    EXPECT_EQ(heap_lock(me), 0);
    sem_post(&v.locked);
    sem_wait(&v.released);
    heap_unlock(me);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    expect_sound(heap);
    cursor = 0;
    EXPECT_EQ(ipcheap_store_next_reader(heap, &s.channel, &cursor, &info), 0);
    EXPECT_EQ(numbers(&s).readers, 0);
    s.reader = claim(heap, &s.channel, IPCHEAP_READER); /* in its place */
    cursor = 0;
    EXPECT_EQ(ipcheap_store_next_reader(heap, &s.channel, &cursor, &info), 1);
    EXPECT_EQ(info.number, 0);
    close_shop(&s, 61);
}

static void a_deserted_store_is_collected_by_its_readers(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 21, NULL);
    ipcheap_chunk chunk;
    put_text(&s, 1, "old");
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    put_text(&s, 1, "new");
    ipcheap_endpoint_release(s.writer);
    s.writer = NULL;
    EXPECT_EQ(numbers(&s).dead, 1);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    EXPECT_EQ(numbers(&s).dead, 0);
    expect_text(&s, 1, "new");
    close_shop(&s, 21);
}

/* Transactions ------------------------------------------------------------------------------------ */

static void a_transaction_is_one_commit(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 22, NULL);
    ipcheap_store_key a = number(1), b = number(2), c = number(3);
    uint64_t version;
    put_text(&s, 1, "a");
    put_text(&s, 2, "b");
    EXPECT_EQ(ipcheap_store_commit(s.writer, NULL), IPCHEAP_TRANSACTION);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    EXPECT_EQ(ipcheap_store_begin(s.writer), IPCHEAP_TRANSACTION);
    EXPECT_EQ(ipcheap_store_put(s.writer, &a, "A", 1, 0, &version), 0);
    EXPECT_EQ(version, 3);
    EXPECT_EQ(ipcheap_store_put(s.writer, &c, "x", 1, 0, &version), 0);
    EXPECT_EQ(ipcheap_store_put(s.writer, &c, "C", 1, 0, &version), 0);
    EXPECT_EQ(version, 5);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &b, &version), 1);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &b, NULL), 0);
    EXPECT_EQ(version, 6);
    expect_text(&s, 1, "a"); /* nothing shows before the end */
    expect_text(&s, 2, "b");
    expect_gone(&s, 3);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_store_commit(s.writer, &version), 0);
    EXPECT_EQ(version, 6);
    expect_text(&s, 1, "A");
    expect_text(&s, 3, "C");
    expect_gone(&s, 2);
    expect_next(&s, 3, "A");
    expect_next(&s, 5, "C");
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    EXPECT_EQ(ipcheap_store_put(s.writer, &a, "lost", 4, 0, &version), 0);
    EXPECT_EQ(ipcheap_store_delete(s.writer, &c, NULL), 1);
    EXPECT_EQ(ipcheap_store_abort(s.writer), 0);
    expect_text(&s, 1, "A");
    expect_text(&s, 3, "C");
    EXPECT_EQ(put_text(&s, 4, "d"), 7);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0); /* closing undoes it */
    EXPECT_EQ(ipcheap_store_put(s.writer, &a, "lost", 4, 0, &version), 0);
    expect_sound(heap);
    close_shop(&s, 22);
}

static void many_are_put_or_none(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_MAX_CHUNKS, .max_chunks = 5};
    struct shop s = open_shop(heap, 23, &options);
    ipcheap_store_key keys[6];
    ipcheap_store_item items[6];
    uint64_t version = 99;
    for (uint64_t i = 0; i < 6; i++) {
        keys[i] = number(i % 5);
        items[i] = (ipcheap_store_item){&keys[i], "abcdef" + i, 1};
    }
    EXPECT_EQ(ipcheap_store_put_many(s.writer, items, 0, 0, &version), 0);
    EXPECT_EQ(version, 0);
    EXPECT_EQ(ipcheap_store_put_many(s.writer, items, 6, 0, &version), 0);
    EXPECT_EQ(version, 6);
    expect_text(&s, 0, "f"); /* the last of a key counts */
    expect_text(&s, 4, "e");
    keys[0] = number(10);
    EXPECT_EQ(ipcheap_store_put_many(s.writer, items, 6, 0, &version), IPCHEAP_STORE_FULL);
    expect_gone(&s, 10);
    expect_text(&s, 0, "f");
    keys[3].kind = 77;
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    ipcheap_store_key one = number(1);
    EXPECT_EQ(ipcheap_store_put(s.writer, &one, "before", 6, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_put_many(s.writer, items, 6, 0, &version), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_store_commit(s.writer, &version), 0);
    EXPECT_EQ(version, 7);
    expect_text(&s, 1, "before");
    expect_text(&s, 2, "c");
    expect_sound(heap);
    close_shop(&s, 23);
}

static void many_are_got_as_of_one_moment(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 24, NULL);
    ipcheap_store_key keys[3] = {number(1), number(7), number(2)};
    ipcheap_chunk chunks[3];
    put_text(&s, 1, "a");
    put_text(&s, 2, "b");
    EXPECT_EQ(ipcheap_store_get_many(s.reader, keys, 3, chunks), 2);
    EXPECT(is_text(&chunks[0], "a") && !chunks[1].data && is_text(&chunks[2], "b"));
    EXPECT_EQ(ipcheap_chunk_release(&chunks[0]), 0);
    EXPECT_EQ(ipcheap_chunk_release(&chunks[2]), 0);
    close_shop(&s, 24);
}

/* Records ----------------------------------------------------------------------------------------- */

static void a_chunk_says_which_array_it_is(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 35, NULL);
    const uint64_t shape[] = {3, 5};
    const ipcheap_array wanted = {.itemsize = 4, .dimensions = 2, .shape = shape, .type = "<f4"};
    ipcheap_store_key key = number(1);
    ipcheap_description description;
    ipcheap_array array;
    ipcheap_record record;
    ipcheap_chunk chunk;
    int64_t length = ipcheap_describe_array(&wanted, &description);
    EXPECT(length > 0);
    EXPECT_EQ(ipcheap_allocate_array(heap, &description, (size_t)length, &record), 0);
    EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &record, 0, NULL), 0);
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    EXPECT_EQ(chunk.nbytes, 60);
    memset(&description, 0, sizeof description);
    EXPECT_EQ(ipcheap_chunk_array(heap, &chunk, &description, &array), length);
    EXPECT(array.itemsize == 4 && array.dimensions == 2 && !strcmp(array.type, "<f4"));
    EXPECT(array.shape[0] == 3 && array.shape[1] == 5);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    EXPECT_EQ(ipcheap_chunk_array(heap, &chunk, &description, &array), IPCHEAP_RECORD);
    put_text(&s, 1, "no array");
    EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
    EXPECT_EQ(ipcheap_chunk_array(heap, &chunk, &description, &array), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    close_shop(&s, 35);
}

static void records_are_put_without_a_copy(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 25, NULL);
    struct pair p = pair_of(heap, 26, 4);
    ipcheap_store_key key = number(1);
    ipcheap_record record, copy;
    ipcheap_chunk chunk;
    const uint64_t sizes[] = {100, 200000};
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(ipcheap_allocate(heap, sizes[i], &record), 0);
        memset(record.data, 'r', sizes[i]);
        record.form = IPCHEAP_OBJECT;
        const void *data = record.data;
        EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &record, 0, NULL), 0);
        EXPECT(!record.data);
        EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
        EXPECT(chunk.data == data && chunk.nbytes == sizes[i] && chunk.form == IPCHEAP_OBJECT);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
        /* Received on a channel: its slot is given back. */
        EXPECT_EQ(ipcheap_allocate(heap, sizes[i], &record), 0);
        memset(record.data, 's', sizes[i]);
        EXPECT_EQ(ipcheap_try_send(p.out, &record), 0);
        EXPECT_EQ(ipcheap_try_receive(p.in, &record), 0);
        copy = record;
        EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &record, 0, NULL), 0);
        EXPECT(!record.data);
        EXPECT_EQ(ipcheap_free(heap, &copy), IPCHEAP_RECORD);
        EXPECT_EQ(get_from(s.reader, 1, &chunk), 1);
        EXPECT(*(const char *)chunk.data == 's');
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    /* An abort makes both kinds the caller's again. */
    ipcheap_record own, received;
    EXPECT_EQ(ipcheap_allocate(heap, 64, &own), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 64, &received), 0);
    EXPECT_EQ(ipcheap_try_send(p.out, &received), 0);
    EXPECT_EQ(ipcheap_try_receive(p.in, &received), 0);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &own, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &received, 0, NULL), 0);
    copy = own;
    EXPECT_EQ(ipcheap_free(heap, &copy), IPCHEAP_RECORD);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_store_abort(s.writer), 0);
    EXPECT_EQ(ipcheap_free(heap, &own), 0);
    EXPECT_EQ(ipcheap_free(heap, &received), 0);
    /* In a transaction, the one that does not count is freed with the commit. */
    EXPECT_EQ(ipcheap_allocate(heap, 64, &own), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 64, &received), 0);
    EXPECT_EQ(ipcheap_try_send(p.out, &received), 0);
    EXPECT_EQ(ipcheap_try_receive(p.in, &received), 0);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &received, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_put_record(s.writer, &key, &own, 0, NULL), 0);
    EXPECT_EQ(ipcheap_store_commit(s.writer, NULL), 0);
    EXPECT(!own.data && !received.data);
    pair_release(&p);
    ipcheap_key id;
    ipcheap_key_int(&id, 26);
    EXPECT_EQ(ipcheap_remove_channel(heap, &id, 0), 0);
    close_shop(&s, 25);
}

/* Waiting ----------------------------------------------------------------------------------------- */

static int polls(int fd) {
    struct pollfd poll_ = {.fd = fd, .events = POLLIN};
    return poll(&poll_, 1, 0);
}

static void the_descriptor_says_what_can_be_followed(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 27, NULL);
    int in = ipcheap_endpoint_descriptor(s.reader), out = ipcheap_endpoint_descriptor(s.writer);
    EXPECT(in >= 0 && out >= 0);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(polls(out), 1);
    for (int i = 0; i < 3; i++) {
        put_text(&s, 1, "x");
        EXPECT_EQ(polls(in), 1);
        ipcheap_chunk chunk;
        EXPECT_EQ(ipcheap_store_next(s.reader, &chunk), 0);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
        EXPECT_EQ(ipcheap_store_next(s.reader, &chunk), IPCHEAP_WOULD_BLOCK);
        EXPECT_EQ(polls(in), 0);
    }
    put_text(&s, 2, "y");
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_store_seek(s.reader, UINT64_MAX, NULL), 0);
    EXPECT_EQ(polls(in), 0);
    ipcheap_endpoint_release(s.writer);
    s.writer = NULL;
    EXPECT_EQ(polls(in), 1);
    close_shop(&s, 27);
}

enum { ROUNDS = 2000 };

/* For a caller that polls for a key, what has been looked at does not count. */
static void what_was_noticed_makes_no_reader_ready(ipcheap_heap *heap) {
    struct shop s = open_shop(heap, 28, NULL);
    int in = ipcheap_endpoint_descriptor(s.reader);
    put_text(&s, 1, "x");
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_store_notice(s.reader, ipcheap_store_version(s.reader)), 0);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(ipcheap_wait(s.reader, 0), IPCHEAP_TIMED_OUT);
    put_text(&s, 2, "y");
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_store_notice(s.reader, 2), 0);
    EXPECT_EQ(polls(in), 0);
    EXPECT_EQ(ipcheap_store_notice(s.reader, 0), 0);
    EXPECT_EQ(polls(in), 1);
    EXPECT_EQ(ipcheap_store_notice(s.writer, 0), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_store_notice(s.reader, 2), 0);
    ipcheap_endpoint_release(s.writer);
    s.writer = NULL;
    EXPECT_EQ(polls(in), 1); /* an end does count */
    close_shop(&s, 28);
}

static void the_oldest_make_way_for_a_record(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_FLAGS, .flags = IPCHEAP_EVICT};
    struct shop s = open_shop(heap, 29, &options);
    for (uint64_t key = 0; key < 4; key++) put_text(&s, key, "1234");
    EXPECT_EQ(ipcheap_store_evict(s.writer, 5), 1);
    ipcheap_store_entry entries[4];
    EXPECT_EQ(ipcheap_store_keys(s.reader, entries, 4), 2);
    EXPECT_EQ(entries[0].version, 3);
    EXPECT_EQ(ipcheap_store_evict(s.writer, 1000), 1);
    EXPECT_EQ(ipcheap_store_evict(s.writer, 1), 0);
    EXPECT_EQ(ipcheap_store_evict(s.reader, 1), IPCHEAP_BAD_VALUE);
    close_shop(&s, 29);
    s = open_shop(heap, 29, NULL);
    put_text(&s, 1, "1234");
    EXPECT_EQ(ipcheap_store_evict(s.writer, 1), 0);
    close_shop(&s, 29);
}

static void put_rounds(ipcheap_heap *heap) {
    struct shop s = {.heap = heap, .channel = store_of(heap, 28, NULL)};
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    EXPECT_EQ(ipcheap_wait_peer(s.writer, -1), 0);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        ipcheap_store_key key = number(i % 7);
        EXPECT_EQ(ipcheap_store_put(s.writer, i % 3 ? &key : NULL, &i, sizeof i, -1, NULL), 0);
        if (i % 100 == 0) usleep(2000);
    }
    ipcheap_endpoint_release(s.writer);
}

static void readers_follow_until_the_end(ipcheap_heap *heap, int fd) {
    ipcheap_channel channel = store_of(heap, 28, NULL);
    ipcheap_endpoint *reader = claim(heap, &channel, IPCHEAP_READER);
    ipcheap_endpoint *other = claim(heap, &channel, IPCHEAP_READER);
    pid_t peer = run_peer(fd, put_rounds);
    uint64_t last = 0, unkeyed = 0;
    for (;;) {
        ipcheap_chunk chunk;
        int error = ipcheap_store_next(reader, &chunk);
        if (error == IPCHEAP_WOULD_BLOCK) {
            ipcheap_waitable both[2] = {{.endpoint = reader}, {.endpoint = other}};
            if (last % 2)
                EXPECT_EQ(ipcheap_wait(reader, -1), 0);
            else
                EXPECT(ipcheap_wait_any(both, 2, -1) >= 1);
            EXPECT_EQ(ipcheap_store_seek(other, UINT64_MAX, NULL), 0);
            continue;
        }
        if (error == IPCHEAP_CHANNEL_CLOSED) break;
        EXPECT_EQ(error, 0);
        uint64_t value;
        memcpy(&value, chunk.data, sizeof value);
        EXPECT(value == chunk.version && value > last);
        unkeyed += value % 3 == 0;
        last = value;
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(last, ROUNDS);
    EXPECT_EQ(unkeyed, ROUNDS / 3); /* nothing replaces those */
    expect_success(peer);
    struct shop s = {.heap = heap, .channel = channel, .reader = reader, .writer = other};
    close_shop(&s, 28);
}

static void put_slowly(ipcheap_heap *heap) {
    struct shop s = {.heap = heap, .channel = store_of(heap, 29, NULL)};
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    for (int i = 0; i < 5; i++) {
        usleep(20000);
        put_text(&s, 2, "not this");
        put_text(&s, 1, "this");
    }
    usleep(20000);
    ipcheap_endpoint_release(s.writer);
}

static void a_key_is_waited_for(ipcheap_heap *heap, int fd) {
    ipcheap_channel channel = store_of(heap, 29, NULL);
    ipcheap_endpoint *reader = claim(heap, &channel, IPCHEAP_READER);
    ipcheap_store_key key = number(1), never = number(9);
    ipcheap_chunk chunk;
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, 0, 0, &chunk), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, 0, 1000000, &chunk), IPCHEAP_TIMED_OUT);
    pid_t peer = run_peer(fd, put_slowly);
    uint64_t version = 0;
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(ipcheap_store_wait_for(reader, &key, version, -1, &chunk), 0);
        EXPECT(chunk.version > version && is_text(&chunk, "this"));
        version = chunk.version;
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(ipcheap_store_position(reader), 0);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, version, -1, &chunk), IPCHEAP_CHANNEL_CLOSED);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &never, 0, -1, &chunk), IPCHEAP_CHANNEL_CLOSED);
    expect_success(peer);
    struct shop s = {.heap = heap, .channel = channel, .reader = reader};
    close_shop(&s, 29);
}

static void hold_and_wait(ipcheap_heap *heap) {
    ipcheap_channel channel = store_of(heap, 30, NULL);
    ipcheap_endpoint *reader = claim(heap, &channel, IPCHEAP_READER);
    ipcheap_chunk chunk;
    ipcheap_store_key key = number(1);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, 0, -1, &chunk), 0);
    key = number(2);
    ipcheap_store_wait_for(reader, &key, 0, -1, &chunk);
}

static void the_holds_of_the_dead_end(ipcheap_heap *heap, int fd) {
    struct shop s = open_shop(heap, 30, NULL);
    pid_t peer = run_peer(fd, hold_and_wait);
    put_text(&s, 1, "held");
    EXPECT_EQ(ipcheap_wait_peer(s.writer, -1), 0);
    while (numbers(&s).held == 0) {
        put_text(&s, 1, "held");
        usleep(1000);
    }
    kill(peer, SIGKILL);
    waitpid(peer, NULL, 0);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(report.endpoints, 1);
    ipcheap_store_collect(s.writer);
    EXPECT_EQ(numbers(&s).dead, 0);
    EXPECT_EQ(numbers(&s).readers, 1);
    close_shop(&s, 30);
}

/* Collecting for others ----------------------------------------------------------------------------- */

static void others_collect_for_a_living_writer(ipcheap_heap *heap, int fd) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_GARBAGE, .garbage = 1 << 30};
    struct shop s = open_shop(heap, 31, &options);
    put_text(&s, 1, "one");
    put_text(&s, 1, "two");
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    ipcheap_store_key key = number(5);
    EXPECT_EQ(ipcheap_store_put(s.writer, &key, "open", 4, 0, NULL), 0);
    EXPECT_EQ(numbers(&s).dead, 1);
    ipcheap_heap *other = attach(fd);
    EXPECT(ipcheap_trim(other, 0) >= 0);
    EXPECT_EQ(numbers(&s).dead, 0);
    EXPECT_EQ(ipcheap_store_commit(s.writer, NULL), 0); /* the lists are rebuilt first */
    expect_text(&s, 5, "open");
    expect_text(&s, 1, "two");
    for (uint64_t i = 0; i < 300; i++) put_text(&s, i, "x");
    expect_sound(heap);
    ipcheap_release(other);
    close_shop(&s, 31);
}

/* Growth -------------------------------------------------------------------------------------------- */

static void a_store_grows_to_any_number_of_keys(void) {
    int fd = new_segment(64 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct shop s = open_shop(heap, 32, NULL);
    enum { KEYS = 100000 };
    for (uint64_t i = 0; i < KEYS; i++) {
        ipcheap_store_key key = number(i * 7919);
        EXPECT_EQ(ipcheap_store_put(s.writer, &key, &i, sizeof i, 0, NULL), 0);
        if (i % 9973 == 0) {
            ipcheap_chunk chunk;
            EXPECT_EQ(ipcheap_store_next(s.reader, &chunk), 0);
            EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
        }
    }
    for (uint64_t i = 0; i < KEYS; i++) {
        ipcheap_store_key key = number(i * 7919);
        ipcheap_chunk chunk;
        EXPECT_EQ(ipcheap_store_get(s.reader, &key, 0, &chunk), 1);
        EXPECT(memcmp(chunk.data, &i, sizeof i) == 0 && chunk.version == i + 1);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(ipcheap_store_seek(s.reader, 0, NULL), 0);
    for (uint64_t i = 0; i < KEYS; i++) {
        ipcheap_chunk chunk;
        EXPECT_EQ(ipcheap_store_next(s.reader, &chunk), 0);
        EXPECT_EQ(chunk.version, i + 1);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(numbers(&s).chunks, KEYS);
    EXPECT_EQ(numbers(&s).keys, KEYS);
    expect_sound(heap);
    /* The next writer finds all of it. */
    ipcheap_endpoint_release(s.writer);
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    EXPECT_EQ(put_text(&s, 7919, "again"), KEYS + 1);
    EXPECT_EQ(numbers(&s).keys, KEYS);
    close_shop(&s, 32);
    ipcheap_release(heap);
    close(fd);
}

/*
 * The log of a piece begins on a page of its own. While nobody may read it, a reader that looks into it
 * stops there, until the writer has grown the tables and put into the new slots.
 */
static struct {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    void *page;
    uint64_t slots;    /* there are by then */
    _Atomic int stage; /* 1: overtaken, 2: the reader is stopped, 3: grown, 4: over */
} stopped;

static void reach(int stage) {
    while (stopped.stage < stage) {}
}

static void stop_here(int signal) {
    (void)signal;
    mprotect(stopped.page, 1, PROT_READ | PROT_WRITE);
    stopped.stage = 2;
    reach(3);
}

static void *grow_beside(void *unused) {
    struct shop s = {.heap = stopped.heap, .channel = stopped.channel};
    s.writer = claim(s.heap, &s.channel, IPCHEAP_WRITER);
    for (int i = 0; i < 3000; i++) put_text(&s, 0, "x");
    stopped.slots = numbers(&s).slots;
    stopped.stage = 1;
    reach(2);
    for (uint64_t i = 1; i <= stopped.slots; i++) put_text(&s, i, "y");
    stopped.stage = 3;
    reach(4);
    ipcheap_endpoint_release(s.writer);
    return unused;
}

static void a_follower_misses_nothing_while_tables_grow(void) {
    int fd = new_segment(16 * MIB);
    stopped.heap = attach(fd);
    stopped.channel = store_of(stopped.heap, 33, NULL);
    struct shop s = {.heap = stopped.heap, .channel = stopped.channel};
    struct sigaction stops = {.sa_handler = stop_here}, before;
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, grow_beside, NULL), 0);
    reach(1);
    s.reader = claim(s.heap, &s.channel, IPCHEAP_READER);
    const struct store *view = &store_endpoint(s.reader)->holds->store;
    EXPECT(view->log_mask < 2999);
    stopped.page = (void *)((uintptr_t)view->log & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1));
    EXPECT_EQ(sigaction(SIGSEGV, &stops, &before), 0);
    EXPECT_EQ(mprotect(stopped.page, 1, PROT_NONE), 0);
    expect_next(&s, 3000, "x");
    EXPECT_EQ(stopped.stage, 3);
    EXPECT_EQ(sigaction(SIGSEGV, &before, NULL), 0);
    for (uint64_t i = 1; i <= stopped.slots; i++) expect_next(&s, 3000 + i, "y");
    expect_no_next(&s, IPCHEAP_WOULD_BLOCK);
    EXPECT(numbers(&s).slots > stopped.slots);
    stopped.stage = 4;
    pthread_join(thread, NULL);
    close_shop(&s, 33);
    ipcheap_release(s.heap);
    close(fd);
}

int main(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    options_that_are_given_are_compared(heap);
    a_key_has_its_newest_chunk(heap);
    the_three_spaces_of_keys_are_apart(heap);
    chunks_of_no_bytes_are_chunks(heap);
    followers_get_what_is_live_in_order(heap);
    an_overtaken_follower_scans(heap);
    keys_go_by_version(heap);
    a_key_keeps_as_many_as_its_depth(heap);
    a_deletion_is_a_commit(heap);
    cells_of_gone_keys_are_used_again(heap);
    chunks_expire(heap);
    what_expires_in_the_middle_cuts_no_history(heap);
    a_limit_refuses_or_evicts(heap);
    expired_chunks_do_not_count(heap);
    a_full_heap_evicts_and_names_the_reader();
    memory_is_bounded_by_the_garbage_threshold(heap);
    puts_use_blocks_again(heap);
    a_reader_holds_so_many_and_no_more(heap);
    a_chunk_outlives_reader_and_store(heap);
    what_is_copied_outlives_its_reader(heap);
    any_thread_may_release(heap);
    what_was_in_use_when_its_store_went_is_freed_by_recovery(heap);
    a_closed_reader_that_nobody_tidied_up_is_none(heap);
    a_deserted_store_is_collected_by_its_readers(heap);
    a_transaction_is_one_commit(heap);
    many_are_put_or_none(heap);
    many_are_got_as_of_one_moment(heap);
    a_chunk_says_which_array_it_is(heap);
    records_are_put_without_a_copy(heap);
    the_descriptor_says_what_can_be_followed(heap);
    what_was_noticed_makes_no_reader_ready(heap);
    the_oldest_make_way_for_a_record(heap);
    readers_follow_until_the_end(heap, fd);
    a_key_is_waited_for(heap, fd);
    the_holds_of_the_dead_end(heap, fd);
    others_collect_for_a_living_writer(heap, fd);
    a_store_grows_to_any_number_of_keys();
    a_follower_misses_nothing_while_tables_grow();
    there_is_one_writer_and_many_readers(heap);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}
