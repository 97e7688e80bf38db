/* Threads that get, hold, follow and wait while a writer never rests. */

#include "store/release.h"
#include "threads.h"

enum { STORE = 7, KEYS = 8, KEPT = 16, MANY = 2 * ROUNDS, CLOSINGS = 200 };

static ipcheap_store_key key_number(uint64_t value) {
    ipcheap_store_key key;
    EXPECT_EQ(ipcheap_store_key_int(&key, value), 0);
    return key;
}

static void add_store(struct scene *scene, const ipcheap_store_options *options) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, STORE), 0);
    EXPECT_EQ(ipcheap_add_store(scene->heap, &key, options, &scene->first), 0);
}

/* A chunk of a round: its bytes follow from the round. */
static uint64_t size_in(uint64_t round, uint64_t key) {
    return key == 3 && round % 50 == 1 ? 40000 : 16 + round % 7 * 40 + key * 8;
}

static void fill_chunk(unsigned char *bytes, uint64_t round, uint64_t key) {
    memset(bytes, (int)(round + key), size_in(round, key));
    memcpy(bytes, &round, sizeof round);
    memcpy(bytes + 8, &key, sizeof key);
}

/* Returns the round of a chunk, all of whose bytes are of that round. */
static uint64_t round_in(const ipcheap_chunk *chunk) {
    const unsigned char *bytes = chunk->data;
    uint64_t round, key;
    memcpy(&round, bytes, sizeof round);
    memcpy(&key, bytes + 8, sizeof key);
    EXPECT_EQ(chunk->nbytes, size_in(round, key));
    for (uint64_t i = 16; i < chunk->nbytes; i += 1 + i / 64)
        EXPECT_EQ(bytes[i], (unsigned char)(round + key));
    return round;
}

static void put_round(ipcheap_endpoint *writer, uint64_t round) {
    static unsigned char bytes[KEYS][40000];
    ipcheap_store_key keys[KEYS];
    ipcheap_store_item items[KEYS];
    for (uint64_t key = 0; key < KEYS; key++) {
        keys[key] = key_number(key);
        fill_chunk(bytes[key], round, key);
        items[key] = (ipcheap_store_item){&keys[key], bytes[key], size_in(round, key)};
    }
    EXPECT_EQ(ipcheap_store_put_many(writer, items, KEYS, 0, NULL), 0);
}

/* Every round changes all keys at once; between them keys come and go, and chunks expire. */
static void write_rounds(ipcheap_endpoint *writer, uint64_t first, uint64_t end) {
    unsigned char bytes[200];
    ipcheap_store_key passing = key_number(KEYS + first % 5);
    for (uint64_t round = first; round < end; round++) {
        put_round(writer, round);
        uint64_t key = KEYS + round % 5;
        fill_chunk(bytes, round % 3, 0);
        passing = key_number(key);
        if (round % 4 == 0)
            EXPECT_EQ(ipcheap_store_put(writer, &passing, bytes, size_in(round % 3, 0), 0, NULL),
                      0);
        if (round % 4 == 2) EXPECT(ipcheap_store_delete(writer, &passing, NULL) >= 0);
        if (round % 4 == 3)
            EXPECT_EQ(ipcheap_store_put(writer, NULL, bytes, size_in(round % 3, 0), 1000, NULL), 0);
    }
}

static void *write_on(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *writer = claim(scene->heap, &scene->first, IPCHEAP_WRITER);
    for (uint64_t round = 0; round < MANY; round += 10) write_rounds(writer, round, round + 10);
    atomic_store(&scene->stop, 1);
    ipcheap_endpoint_release(writer);
    return NULL;
}

/* Gets key by key, and holds some chunks for a while. */
static void *get_and_hold(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
    ipcheap_chunk kept[KEPT] = {0};
    uint64_t rounds[KEPT] = {0}, newest[KEYS] = {0}, n = 0;
    for (; !atomic_load(&scene->stop) || n < KEPT; n++) {
        ipcheap_store_key key = key_number(n % KEYS);
        ipcheap_chunk *place = &kept[n * n % KEPT];
        if (place->data) {
            EXPECT_EQ(round_in(place), rounds[n * n % KEPT]);
            EXPECT_EQ(ipcheap_chunk_release(place), 0);
        }
        int there = ipcheap_store_get(reader, &key, 0, place);
        EXPECT(there == 1 || (there == 0 && !newest[n % KEYS]));
        if (!there) continue;
        EXPECT(place->version >= newest[n % KEYS]);
        newest[n % KEYS] = place->version;
        rounds[n * n % KEPT] = round_in(place);
    }
    for (int i = 0; i < KEPT; i++)
        if (kept[i].data) EXPECT_EQ(ipcheap_chunk_release(&kept[i]), 0);
    ipcheap_endpoint_release(reader);
    return NULL;
}

/* Gets all keys as of one moment: they are of one round. */
static void *get_rounds(void *argument) {
    struct scene *scene = argument;
    ipcheap_store_key keys[KEYS];
    ipcheap_chunk chunks[KEYS];
    uint64_t last = 0;
    for (uint64_t key = 0; key < KEYS; key++) keys[key] = key_number(key);
    while (!atomic_load(&scene->stop)) {
        ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
        for (int i = 0; i < 100; i++) {
            int64_t there = ipcheap_store_get_many(reader, keys, KEYS, chunks);
            EXPECT(there == KEYS || (there == 0 && !last));
            for (int64_t k = 0; k < there; k++) {
                EXPECT_EQ(round_in(&chunks[k]), round_in(&chunks[0]));
                EXPECT(round_in(&chunks[k]) >= last);
            }
            if (there) last = round_in(&chunks[0]);
            for (int64_t k = 0; k < there; k++) EXPECT_EQ(ipcheap_chunk_release(&chunks[k]), 0);
        }
        ipcheap_endpoint_release(reader);
    }
    return NULL;
}

/* Follows, always in order, and sleeps in between. */
static void *follow(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
    uint64_t last = 0;
    for (;;) {
        ipcheap_chunk chunk;
        int error = ipcheap_wait(reader, long_enough);
        if (!error) error = ipcheap_store_next(reader, &chunk);
        if (error == IPCHEAP_WOULD_BLOCK) continue;
        if (error == IPCHEAP_CHANNEL_CLOSED) break;
        EXPECT_EQ(error, 0);
        EXPECT(chunk.version > last);
        last = chunk.version;
        round_in(&chunk);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT_EQ(ipcheap_store_position(reader), ipcheap_store_version(reader));
    ipcheap_endpoint_release(reader);
    return NULL;
}

/* History: consecutive rounds, all there at one moment. */
static void *look_back(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
    ipcheap_store_key key = key_number(2);
    while (!atomic_load(&scene->stop)) {
        ipcheap_chunk chunks[3];
        int64_t count = ipcheap_store_history(reader, &key, chunks, 3);
        if (count == IPCHEAP_TIMED_OUT) continue;
        EXPECT(count >= 0 && count <= 3);
        for (int64_t i = 0; i < count; i++) {
            EXPECT_EQ(round_in(&chunks[i]), round_in(&chunks[0]) + (uint64_t)i);
            if (count < 3) EXPECT(round_in(&chunks[i]) < 2);
        }
        for (int64_t i = 0; i < count; i++) EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    }
    ipcheap_endpoint_release(reader);
    return NULL;
}

/* Waits for one key again and again. */
static void *wait_for_key(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
    ipcheap_store_key key = key_number(5);
    uint64_t last = 0;
    for (;;) {
        ipcheap_chunk chunk;
        int error = ipcheap_store_wait_for(reader, &key, last, long_enough, &chunk);
        if (error == IPCHEAP_CHANNEL_CLOSED) break;
        EXPECT_EQ(error, 0);
        EXPECT(chunk.version > last);
        last = chunk.version;
        round_in(&chunk);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    }
    EXPECT(last > 0);
    ipcheap_endpoint_release(reader);
    return NULL;
}

/* The writer begins when the readers are there, if they have to be. */
static void beside_a_writer(void *(*const readers[])(void *), const ipcheap_store_options *options,
                            bool before) {
    struct scene scene = new_scene(8 * MIB);
    pthread_t threads[8], writer;
    int count = 0;
    ipcheap_set_lock_timeout(scene.heap, long_enough); /* on a busy machine */
    add_store(&scene, options);
    if (!before) writer = start(write_on, &scene);
    for (; readers[count]; count++) threads[count] = start(readers[count], &scene);
    if (before) writer = start(write_on, &scene);
    pthread_join(writer, NULL);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    ipcheap_key key;
    ipcheap_key_int(&key, STORE);
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 0), 0);
    expect_empty(&scene);
}

/* Chunks are handed to another thread, which releases them. */
static ipcheap_chunk handed;

static void *release_what_is_handed_over(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < ROUNDS; i++) {
        await(&scene->turn, 1);
        round_in(&handed);
        EXPECT_EQ(ipcheap_chunk_release(&handed), 0);
        atomic_store(&scene->turn, 0);
    }
    return NULL;
}

static void another_thread_releases(void) {
    struct scene scene = new_scene(4 * MIB);
    static const ipcheap_store_options options = {.given = IPCHEAP_GIVEN_HOLD, .hold = 3};
    add_store(&scene, &options);
    pthread_t thread = start(release_what_is_handed_over, &scene);
    ipcheap_endpoint *writer = claim(scene.heap, &scene.first, IPCHEAP_WRITER);
    ipcheap_endpoint *reader = claim(scene.heap, &scene.first, IPCHEAP_READER);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        ipcheap_store_key key = key_number(i % KEYS);
        ipcheap_chunk chunk;
        put_round(writer, i);
        EXPECT_EQ(ipcheap_store_get(reader, &key, 0, &handed), 1);
        atomic_store(&scene.turn, 1);
        EXPECT_EQ(ipcheap_store_get(reader, &key, 0, &chunk), 1);
        EXPECT_EQ(round_in(&chunk), i);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
        await(&scene.turn, 0);
    }
    pthread_join(thread, NULL);
    ipcheap_endpoint_release(reader);
    ipcheap_endpoint_release(writer);
    ipcheap_key key;
    ipcheap_key_int(&key, STORE);
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 0), 0);
    expect_empty(&scene);
}

/* Holds and releases until another thread has closed the heap; what it holds then, it releases later. */
static void *get_until_closed(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *reader = claim(scene->heap, &scene->first, IPCHEAP_READER);
    ipcheap_chunk chunks[2] = {0};
    for (uint64_t n = 0;; n++) {
        ipcheap_store_key key = key_number(n % KEYS);
        ipcheap_chunk *chunk = &chunks[n % 2];
        if (chunk->data) EXPECT_EQ(ipcheap_chunk_release_beside(chunk), 0);
        if (ipcheap_endpoint_enter(reader)) break;
        int there = n % 3 ? ipcheap_store_get(reader, &key, 0, chunk)
                          : ipcheap_store_peek(reader, &key, chunk);
        EXPECT_EQ(there, 1);
        if (n == 10) atomic_store(&scene->turn, 1);
        int error = ipcheap_endpoint_leave(reader);
        round_in(chunk);
        if (n % 3 == 0) EXPECT(ipcheap_chunk_release_beside(chunk) == 0);
        if (error) break;
    }
    for (int i = 0; i < 2; i++)
        if (chunks[i].data) ipcheap_chunk_release_beside(&chunks[i]);
    ipcheap_endpoint_release(reader);
    return NULL;
}

/* Whatever the reader's thread is doing as its heap is closed, nothing of its holds is left. */
static void another_thread_closes(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *other = attach(fd);
    struct scene outside = {.heap = other};
    static const ipcheap_store_options plain;
    add_store(&outside, &plain);
    ipcheap_endpoint *writer = claim(other, &outside.first, IPCHEAP_WRITER);
    for (uint64_t round = 0; round < CLOSINGS; round++) {
        struct scene scene = {.heap = attach(fd), .first = outside.first};
        put_round(writer, round);
        pthread_t thread = start(get_until_closed, &scene);
        await(&scene.turn, 1);
        if (round % 2) put_round(writer, round + 1); /* what it holds is dead */
        EXPECT_EQ(ipcheap_close(scene.heap), 0);
        pthread_join(thread, NULL);
        ipcheap_release(scene.heap);
        ipcheap_store_statistics found;
        EXPECT(ipcheap_store_collect(writer) >= 0);
        EXPECT_EQ(ipcheap_store_describe(other, &outside.first, &found), 0);
        EXPECT_EQ(found.readers, 0);
        EXPECT_EQ(found.dead, 0);
        expect_sound(other);
    }
    ipcheap_endpoint_release(writer);
    ipcheap_key key;
    ipcheap_key_int(&key, STORE);
    EXPECT_EQ(ipcheap_remove_channel(other, &key, 0), 0);
    expect_empty(&outside);
    close(fd);
}

/* Another participant collects, checks and counts while the writer writes. */
static void *look_around(void *argument) {
    struct scene *scene = argument;
    while (!atomic_load(&scene->stop)) {
        ipcheap_store_statistics found;
        ipcheap_store_reader_info info;
        uint32_t cursor = 0;
        EXPECT(ipcheap_trim(scene->heap, 0) >= 0);
        EXPECT_EQ(ipcheap_store_describe(scene->heap, &scene->first, &found), 0);
        EXPECT(found.chunks <= 3 * KEYS + 5 + found.version);
        while (ipcheap_store_next_reader(scene->heap, &scene->first, &cursor, &info) == 1) {}
        EXPECT(ipcheap_store_blocker(scene->heap, &scene->first, &info) >= 0);
        expect_sound(scene->heap);
        usleep(2000);
    }
    return NULL;
}

int main(void) {
    static const ipcheap_store_options deep = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 3};
    static const ipcheap_store_options eager = {.given = IPCHEAP_GIVEN_GARBAGE, .garbage = 0};
    static const ipcheap_store_options plain;
    beside_a_writer((void *(*[])(void *)){get_and_hold, get_rounds, NULL}, &eager, false);
    beside_a_writer((void *(*[])(void *)){get_and_hold, look_back, NULL}, &deep, false);
    beside_a_writer((void *(*[])(void *)){follow, wait_for_key, NULL}, &plain, true);
    beside_a_writer((void *(*[])(void *)){get_rounds, follow, look_around, NULL}, &plain, true);
    another_thread_releases();
    another_thread_closes();
}
