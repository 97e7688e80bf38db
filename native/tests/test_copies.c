/* Copies: blocks that are sent again where they came back, and records that are read in place. */

#include <pthread.h>

#include "segment/sleep.h"
#include "testing.h"

enum { COUNT = 1 << 18, SLOTS = 32, MOST = 40000 };
static const int64_t long_enough = 10000000000;

/* The message that a number is sent as: its size and every byte follow from the number. */
static uint64_t size_of(uint64_t number) {
    return number % 50 == 49 ? 8 + number % MOST : 8 + number % 700;
}

static void write_number(unsigned char *bytes, uint64_t number) {
    memset(bytes, (int)number, size_of(number));
    memcpy(bytes, &number, sizeof number);
}

static void expect_number(const unsigned char *bytes, uint64_t nbytes, uint64_t number) {
    uint64_t found;
    memcpy(&found, bytes, sizeof found);
    EXPECT_EQ(found, number);
    EXPECT_EQ(nbytes, size_of(number));
    for (uint64_t i = sizeof found; i < nbytes; i++) EXPECT_EQ(bytes[i], (unsigned char)number);
}

/* Sends up to `count` numbers from `first` on; returns how many were sent. */
static int64_t send_numbers(ipcheap_endpoint *producer, uint64_t first, size_t count) {
    static _Thread_local unsigned char bytes[SLOTS][MOST + 8];
    ipcheap_bytes copied[SLOTS];
    EXPECT(count <= SLOTS);
    for (size_t i = 0; i < count; i++) {
        write_number(bytes[i], first + i);
        copied[i] = (ipcheap_bytes){bytes[i], size_of(first + i)};
    }
    return ipcheap_try_send_copies(producer, copied, count);
}

/* The next number; after how many calls to take no more; and the error to return then. */
struct reading {
    uint64_t next;
    int left, error;
};

static int read_number(void *context, const ipcheap_bytes *records, size_t count) {
    struct reading *reading = context;
    if (reading->left-- == 0) return reading->error;
    for (size_t i = 0; i < count; i++)
        expect_number(records[i].data, records[i].nbytes, reading->next++);
    return 0;
}

static int64_t read_numbers(ipcheap_endpoint *consumer, uint64_t *next, size_t limit) {
    struct reading reading = {*next, -1, 0};
    int64_t got = ipcheap_try_receive_copies(consumer, read_number, &reading, limit);
    *next = reading.next;
    return got;
}

static void expect_empty(ipcheap_heap *heap) {
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
}

/* Another process -------------------------------------------------------------------------- */

static void produce(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; i < COUNT;) {
        uint64_t count = 1 + i % 11 * 3 % SLOTS;
        int64_t went = send_numbers(producer, i, count < COUNT - i ? count : COUNT - i);
        EXPECT(went >= 0);
        if (went == 0) EXPECT_EQ(ipcheap_wait(producer, long_enough), 0);
        i += (uint64_t)went;
    }
    ipcheap_endpoint_release(producer);
}

/* Takes records in every way there is, in turns. */
static void everything_arrives_in_order_from_another_process(void) {
    int fd = new_segment(4 * MIB);
    pid_t pid = run_peer(fd, produce);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *consumer = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record kept = {0}, record;
    for (uint64_t i = 0; i < COUNT;) {
        if (i / 100 % 2) {
            int64_t got = read_numbers(consumer, &i, 1 + i % SLOTS);
            EXPECT(got >= 0);
            if (got == 0) EXPECT_EQ(ipcheap_wait(consumer, long_enough), 0);
            continue;
        }
        EXPECT_EQ(ipcheap_receive(consumer, &record, long_enough), 0);
        expect_number(record.data, record.nbytes, i++);
        if (i % 13 == 0) {
            if (kept.data) EXPECT_EQ(ipcheap_free(heap, &kept), 0);
            EXPECT_EQ(ipcheap_keep(heap, &record), 0);
            kept = record;
            continue;
        }
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(ipcheap_free(heap, &kept), 0);
    expect_success(pid);
    uint64_t end = COUNT;
    EXPECT_EQ(read_numbers(consumer, &end, 1), IPCHEAP_CHANNEL_CLOSED);
    expect_empty(heap);
    ipcheap_endpoint_release(consumer);
    ipcheap_release(heap);
    close(fd);
}

/* In one thread ---------------------------------------------------------------------------- */

struct scene {
    ipcheap_heap *heap;
    struct pair pair;
    int fd;
};

static struct scene new_scene(uint64_t capacity, uint64_t slots) {
    struct scene scene = {.fd = new_segment(capacity)};
    scene.heap = attach(scene.fd);
    scene.pair = pair_of(scene.heap, 1, slots);
    return scene;
}

static void end(struct scene *scene) {
    pair_release(&scene->pair);
    expect_empty(scene->heap);
    ipcheap_release(scene->heap);
    close(scene->fd);
}

/* Sends a record of that many bytes, frees it, and returns where it was. */
static uint64_t offset_of_one(struct scene *scene, uint64_t nbytes) {
    static const unsigned char bytes[MOST];
    ipcheap_record record;
    ipcheap_bytes copied = {bytes, nbytes};
    EXPECT_EQ(ipcheap_try_send_copies(scene->pair.out, &copied, 1), 1);
    EXPECT_EQ(ipcheap_try_receive(scene->pair.in, &record), 0);
    EXPECT_EQ(record.nbytes, nbytes);
    EXPECT_EQ(ipcheap_free(scene->heap, &record), 0);
    return record.offset;
}

static void a_block_is_sent_again_where_it_came_back(void) {
    struct scene scene = new_scene(4 * MIB, 2);
    uint64_t first = offset_of_one(&scene, 100), second = offset_of_one(&scene, 100);
    EXPECT(first != second);
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(offset_of_one(&scene, (uint64_t)(100 + i)), first);
        EXPECT_EQ(offset_of_one(&scene, 128), second);
    }
    EXPECT(offset_of_one(&scene, 0) != first); /* of another class */
    EXPECT_EQ(offset_of_one(&scene, 100), second);
    EXPECT(offset_of_one(&scene, 36000) != first); /* an extent, which does not come back */
    EXPECT_EQ(offset_of_one(&scene, 100), second);
    end(&scene);
}

static void as_many_go_as_there_is_room_for(void) {
    struct scene scene = new_scene(4 * MIB, 8);
    uint64_t sent = 0, received = 0;
    EXPECT_EQ(send_numbers(scene.pair.out, sent, 0), 0);
    for (int lap = 0; lap < 5; lap++) {
        EXPECT_EQ(send_numbers(scene.pair.out, sent, 20), 8);
        EXPECT_EQ(send_numbers(scene.pair.out, sent + 8, 20), 0);
        EXPECT_EQ(read_numbers(scene.pair.in, &received, 3), 3);
        EXPECT_EQ(send_numbers(scene.pair.out, sent + 8, 20), 3);
        sent += 11;
        EXPECT_EQ(read_numbers(scene.pair.in, &received, 100), 8);
        EXPECT_EQ(read_numbers(scene.pair.in, &received, 100), 0);
    }
    EXPECT_EQ(send_numbers(scene.pair.out, sent, 3), 3); /* they stay in the ring */
    EXPECT_EQ(send_numbers(scene.pair.in, sent, 1), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(read_numbers(scene.pair.out, &received, 1), IPCHEAP_BAD_VALUE);
    ipcheap_key key;
    ipcheap_key_int(&key, 1);
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 1), 0);
    EXPECT_EQ(send_numbers(scene.pair.out, sent + 3, 1), IPCHEAP_ENDPOINT_CLOSED);
    EXPECT_EQ(read_numbers(scene.pair.in, &received, 1), IPCHEAP_ENDPOINT_CLOSED);
    end(&scene);
}

static void a_group_that_is_rejected_is_redelivered(void) {
    struct scene scene = new_scene(4 * MIB, 8);
    EXPECT_EQ(size_of(35049), 35057); /* an extent, which is received alone */
    EXPECT_EQ(send_numbers(scene.pair.out, 35044, 8), 8);
    struct reading reading = {35044, 0, -77};
    EXPECT_EQ(ipcheap_try_receive_copies(scene.pair.in, read_number, &reading, 8), -77);
    reading = (struct reading){35044, 0, 77}; /* not an error number */
    EXPECT_EQ(ipcheap_try_receive_copies(scene.pair.in, read_number, &reading, 8),
              IPCHEAP_BAD_VALUE);
    reading = (struct reading){35044, 1, -77};
    EXPECT_EQ(ipcheap_try_receive_copies(scene.pair.in, read_number, &reading, 8), 5);
    reading.left = 0;
    EXPECT_EQ(ipcheap_try_receive_copies(scene.pair.in, read_number, &reading, 8), -77);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(scene.pair.in, &record), 0);
    expect_number(record.data, record.nbytes, 35049);
    EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    uint64_t next = 35050;
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), 2);
    end(&scene);
}

/* How many records each call was shown, in order. */
struct groups {
    size_t counts[16];
    int n;
};

static int note_group(void *context, const ipcheap_bytes *records, size_t count) {
    struct groups *groups = context;
    uint64_t nbytes = 0;
    for (size_t i = 0; i < count; i++) nbytes += records[i].nbytes;
    EXPECT(count == 1 || nbytes <= 64 << 10);
    groups->counts[groups->n++] = count;
    return 0;
}

static void groups_are_of_64_records_and_64_kib(void) {
    static const unsigned char bytes[20000];
    struct scene scene = new_scene(16 * MIB, 256);
    ipcheap_bytes copied[200];
    for (int i = 0; i < 200; i++) copied[i] = (ipcheap_bytes){bytes, i < 150 ? 16 : 20000};
    EXPECT_EQ(ipcheap_try_send_copies(scene.pair.out, copied, 160), 160);
    struct groups groups = {{0}, 0};
    EXPECT_EQ(ipcheap_try_receive_copies(scene.pair.in, note_group, &groups, 200), 160);
    const size_t expected[] = {64, 64, 22 + 3, 3, 3, 1};
    EXPECT_EQ(groups.n, 6);
    for (int i = 0; i < groups.n; i++) EXPECT_EQ(groups.counts[i], expected[i]);
    end(&scene);
}

/* A free that takes the lock is left to a caller that may sleep. */
static void an_extent_is_not_read_where_sleeping_is_not_allowed(void) {
    struct scene scene = new_scene(4 * MIB, 8);
    EXPECT_EQ(size_of(35049), 35057);
    uint64_t next = 35048;
    EXPECT_EQ(send_numbers(scene.pair.out, next, 3), 3);
    ipcheap_allow_sleep(0);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), 1);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), IPCHEAP_WOULD_SLEEP);
    ipcheap_allow_sleep(1);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), 2);
    EXPECT_EQ(next, 35051);
    end(&scene);
}

static void what_is_read_after_the_producer_has_gone_is_freed(void) {
    struct scene scene = new_scene(4 * MIB, 8);
    uint64_t next = 0;
    EXPECT_EQ(send_numbers(scene.pair.out, 0, 8), 8);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 4), 4);
    EXPECT_EQ(ipcheap_endpoint_close(scene.pair.out), 0);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), 4);
    EXPECT_EQ(statistics(scene.heap).in_use, 0);
    EXPECT_EQ(read_numbers(scene.pair.in, &next, 8), IPCHEAP_CHANNEL_CLOSED);
    end(&scene);
}

/* Long copies ------------------------------------------------------------------------------- */

/* The bytes before and behind a copy stay as they are, wherever it begins and ends. */
static void expect_copied(ipcheap_heap *heap, unsigned char *to, const unsigned char *from,
                          size_t nbytes) {
    enum { AROUND = 128 };
    memset(to, 0xEE, nbytes + 2 * AROUND);
    ipcheap_copy(heap, to + AROUND, from, nbytes);
    EXPECT_EQ(memcmp(to + AROUND, from, nbytes), 0);
    for (size_t i = 0; i < AROUND; i++) {
        EXPECT_EQ(to[i], 0xEE);
        EXPECT_EQ(to[AROUND + nbytes + i], 0xEE);
    }
}

/* Often enough for both ways to have been tried. */
static void copies_are_exact(void) {
    enum { LONGEST = 9 * MIB, TIMES = 24 };
    static const size_t lengths[] = {0, 1, 63, 16384, 33333, 100003, LONGEST, LONGEST + 70};
    unsigned char *from = malloc(LONGEST + 256), *to = malloc(LONGEST + 1024);
    EXPECT(from && to);
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    for (size_t i = 0; i < LONGEST + 256; i++) from[i] = (unsigned char)(i * 0x9E3779B1u >> 24);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t n = 0; n < TIMES; n++) expect_copied(heap, to + n * 9, from + n, lengths[i]);
    }
    ipcheap_close(heap);
    expect_copied(heap, to, from, LONGEST);
    ipcheap_release(heap);
    close(fd);
    free(from);
    free(to);
}

static void a_long_copy_is_whole_when_it_arrives(void) {
    enum { LONG = 2 * MIB, TIMES = 40 };
    int fd = new_segment(4 * LONG);
    ipcheap_heap *heap = attach(fd);
    struct pair pair = pair_of(heap, 1, 4);
    unsigned char *bytes = malloc(LONG);
    EXPECT(bytes);
    for (int i = 1; i <= TIMES; i++) {
        ipcheap_bytes copied = {bytes, LONG};
        ipcheap_record record;
        memset(bytes, i, LONG);
        EXPECT_EQ(ipcheap_try_send_copies(pair.out, &copied, 1), 1);
        EXPECT_EQ(ipcheap_try_receive(pair.in, &record), 0);
        EXPECT_EQ(memcmp(record.data, bytes, LONG), 0);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    free(bytes);
    pair_release(&pair);
    expect_empty(heap);
    ipcheap_release(heap);
    close(fd);
}

/* Another participant collects ------------------------------------------------------------- */

/* Takes all free memory, including what waits in rings, and gives it back. */
static void take_all(ipcheap_heap *heap) {
    ipcheap_record all;
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT_EQ(ipcheap_allocate(heap, 13 * MIB, &all), 0);
    memset(all.data, 0xAA, all.nbytes);
    EXPECT_EQ(ipcheap_free(heap, &all), 0);
}

/* The block that the producer saw in its next slot belongs to another participant by now. */
static void blocks_are_collected_between_two_sends(bool by_another) {
    struct scene scene = new_scene(16 * MIB, 16);
    uint64_t sent = 0, received = 0;
    for (int lap = 0; lap < 8; lap++) {
        for (int i = 0; i < 16; i++) sent += (uint64_t)send_numbers(scene.pair.out, sent, 3);
        EXPECT(read_numbers(scene.pair.in, &received, 100) > 0);
        EXPECT_EQ(send_numbers(scene.pair.out, sent, 1), 1); /* and looks at the next slot */
        sent++;
        if (by_another)
            expect_success(run_peer(scene.fd, take_all));
        else
            take_all(scene.heap);
        expect_sound(scene.heap);
    }
    EXPECT(read_numbers(scene.pair.in, &received, 100) > 0);
    EXPECT_EQ(received, sent);
    end(&scene);
}

static void fill(ipcheap_heap *heap, ipcheap_record *records, int count) {
    for (int i = 0; i < count; i++) {
        EXPECT_EQ(ipcheap_allocate(heap, 100, &records[i]), 0);
        memset(records[i].data, 0x55, 100);
    }
}

static void expect_filled(ipcheap_heap *heap, ipcheap_record *records, int count) {
    for (int i = 0; i < count; i++) {
        const unsigned char *bytes = records[i].data;
        for (int at = 0; at < 100; at++) EXPECT_EQ(bytes[at], 0x55);
        EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    }
}

/* The block's slab stays, so the block is handed out again, before or after the next send. */
static void a_collected_block_has_one_user(bool by_another, bool before) {
    enum { MANY = 3000 };
    static ipcheap_record records[MANY];
    static const unsigned char zeros[100];
    struct scene scene = new_scene(16 * MIB, 2);
    ipcheap_bytes copied = {zeros, sizeof zeros};
    ipcheap_record held, record;
    EXPECT_EQ(ipcheap_allocate(scene.heap, 100, &held), 0);
    for (int i = 0; i < 3; i++) offset_of_one(&scene, 100);
    if (by_another)
        expect_success(run_peer(scene.fd, take_all));
    else
        take_all(scene.heap);
    if (before) fill(scene.heap, records, MANY);
    EXPECT_EQ(ipcheap_try_send_copies(scene.pair.out, &copied, 1), 1);
    if (!before) fill(scene.heap, records, MANY);
    EXPECT_EQ(ipcheap_try_receive(scene.pair.in, &record), 0);
    EXPECT_EQ(memcmp(record.data, zeros, sizeof zeros), 0);
    EXPECT_EQ(ipcheap_free(scene.heap, &record), 0);
    expect_filled(scene.heap, records, MANY);
    EXPECT_EQ(ipcheap_free(scene.heap, &held), 0);
    end(&scene);
}

int main(void) {
    everything_arrives_in_order_from_another_process();
    a_block_is_sent_again_where_it_came_back();
    as_many_go_as_there_is_room_for();
    a_group_that_is_rejected_is_redelivered();
    groups_are_of_64_records_and_64_kib();
    an_extent_is_not_read_where_sleeping_is_not_allowed();
    what_is_read_after_the_producer_has_gone_is_freed();
    copies_are_exact();
    a_long_copy_is_whole_when_it_arrives();
    blocks_are_collected_between_two_sends(false);
    blocks_are_collected_between_two_sends(true);
    for (int i = 0; i < 4; i++) a_collected_block_has_one_user(i & 1, i & 2);
    return 0;
}
