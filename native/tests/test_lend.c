/* Extents that are lent: which records go round, and that nobody goes short for it. */

#include "testing.h"

#include "channel/lend.h"
#include "segment/lock.h"
#include "segment/participant.h"

enum { SIZE = 1 << 20, ROUNDS = 40 };
static const int64_t long_enough = 10000000000;

struct scene {
    int fd;
    ipcheap_heap *heap;
    struct pair pair;
    struct participant *me;
};

static struct scene scene_of(uint64_t capacity, uint64_t slots) {
    struct scene s = {.fd = new_segment(capacity)};
    s.heap = attach(s.fd);
    s.pair = pair_of(s.heap, 1, slots);
    EXPECT_EQ(participant_current(s.heap, &s.me), 0);
    return s;
}

static void scene_end(struct scene *s) {
    pair_release(&s->pair);
    EXPECT_EQ(s->me->lending.count, 0);
    expect_sound(s->heap);
    ipcheap_statistics left = statistics(s->heap);
    EXPECT_EQ(left.in_use, 0);
    EXPECT_EQ(left.extents, 0);
    EXPECT_EQ(left.largest_free, left.capacity);
    ipcheap_release(s->heap);
    close(s->fd);
}

static void send_number(struct scene *s, uint64_t nbytes, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(s->heap, nbytes, &record), 0);
    memset(record.data, (int)number, nbytes);
    EXPECT_EQ(ipcheap_send(s->pair.out, &record, long_enough), 0);
}

static ipcheap_record receive_number(struct scene *s, uint64_t nbytes, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_receive(s->pair.in, &record, long_enough), 0);
    EXPECT_EQ(record.nbytes, nbytes);
    const unsigned char *data = record.data;
    for (uint64_t i = 0; i < nbytes; i += 1000) EXPECT_EQ(data[i], (unsigned char)number);
    return record;
}

/* One record there and back; returns where it lay. */
static uint64_t pass(struct scene *s, uint64_t nbytes, uint64_t number) {
    send_number(s, nbytes, number);
    ipcheap_record record = receive_number(s, nbytes, number);
    EXPECT_EQ(ipcheap_free(s->heap, &record), 0);
    return record.offset;
}

/* Passes records of a size until those that are lent are all out. */
static void lend_all(struct scene *s, uint64_t nbytes) {
    for (uint64_t i = 0; i < ROUNDS; i++) pass(s, nbytes, i);
    EXPECT(s->me->lending.count > 0);
}

static void a_few_go_round(void) {
    struct scene s = scene_of(1024 * MIB, 16);
    uint64_t offsets[ROUNDS];
    for (uint64_t i = 0; i < ROUNDS; i++) offsets[i] = pass(&s, SIZE, i);
    EXPECT_EQ(s.me->lending.count, 4);
    for (int i = 10; i < ROUNDS; i++) {
        EXPECT_EQ(offsets[i], offsets[i - 4]);
        for (int k = 1; k < 4; k++) EXPECT(offsets[i] != offsets[i - k]);
    }
    /* They are nobody's records. */
    EXPECT_EQ(statistics(s.heap).in_use, 0);
    EXPECT_EQ(statistics(s.heap).records, 0);
    expect_sound(s.heap);
    EXPECT(ipcheap_trim(s.heap, 0) >= 4 * SIZE);
    EXPECT_EQ(statistics(s.heap).committed, 0);
    EXPECT_EQ(statistics(s.heap).largest_free, 1024 * MIB);
    lend_all(&s, SIZE);
    scene_end(&s);
}

/* The smallest and the largest that are, and those next to them. */
static void only_what_it_pays_for_is_lent(void) {
    const struct {
        uint64_t nbytes, lent;
    } cases[] = {{65536, 0}, {(256 << 10) - 4096, 0}, {256 << 10, 8}, {512 << 10, 8},
                 {2 * MIB - 131072, 2}, {2 * MIB, 0}, {6 * MIB, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct scene s = scene_of(512 * MIB, 16);
        for (uint64_t n = 0; n < ROUNDS; n++) pass(&s, cases[i].nbytes, n);
        EXPECT_EQ(s.me->lending.count, cases[i].lent);
        scene_end(&s);
    }
    struct scene small = scene_of(16 * MIB, 16);
    for (uint64_t n = 0; n < ROUNDS; n++) pass(&small, 256 << 10, n);
    EXPECT_EQ(small.me->lending.count, 1); /* a sixty-fourth of the heap */
    scene_end(&small);
}

static void who_asks_for_different_sizes_lends_nothing(void) {
    struct scene s = scene_of(512 * MIB, 16);
    for (uint64_t n = 0; n < ROUNDS; n++) {
        pass(&s, SIZE + n % 2 * 8192, n);
        EXPECT_EQ(s.me->lending.count, 0);
    }
    lend_all(&s, SIZE);
    /* Those of a size that is asked for no more wait for their slots' turn, and are freed then. */
    pass(&s, 2 * SIZE, 1);
    EXPECT_EQ(s.me->lending.count, 4);
    for (uint64_t n = 0; n < 16; n++) pass(&s, 100, n);
    EXPECT_EQ(statistics(s.heap).extents, 0);
    pass(&s, SIZE + 4096, 1);
    EXPECT_EQ(s.me->lending.count, 0);
    scene_end(&s);
}

/* Once where it must not sleep, and again where it may. */
static void what_is_asked_for_again_is_asked_for_once(void) {
    struct scene s = scene_of(512 * MIB, 16);
    ipcheap_record record;
    ipcheap_allow_sleep(0);
    EXPECT_EQ(ipcheap_allocate(s.heap, SIZE, &record), IPCHEAP_WOULD_SLEEP);
    ipcheap_allow_sleep(1);
    EXPECT_EQ(ipcheap_allocate(s.heap, SIZE, &record), 0);
    EXPECT_EQ(s.me->lending.wanted, 0);
    EXPECT_EQ(ipcheap_free(s.heap, &record), 0);
    scene_end(&s);
}

/* In a ring that is shorter than what is lent, and one whose slots others need. */
static void what_nobody_asks_for_is_freed_when_its_slot_is_needed(void) {
    struct scene s = scene_of(512 * MIB, 2);
    lend_all(&s, SIZE);
    EXPECT(s.me->lending.count <= 2);
    for (uint64_t n = 0; n < 4; n++) pass(&s, 100, n);
    EXPECT_EQ(statistics(s.heap).extents, 0);
    expect_sound(s.heap);
    lend_all(&s, SIZE);
    scene_end(&s);
}

static void consumers_do_with_them_as_they_like(void) {
    struct scene s = scene_of(512 * MIB, 16);
    struct pair other = pair_of(s.heap, 2, 16);
    ipcheap_record kept[ROUNDS], record;
    for (uint64_t n = 0; n < ROUNDS; n++) {
        send_number(&s, SIZE, n);
        record = receive_number(&s, SIZE, n);
        if (n % 3 == 0) {
            EXPECT_EQ(ipcheap_keep(s.heap, &record), 0);
        } else if (n % 3 == 1) {
            EXPECT_EQ(ipcheap_send(other.out, &record, 0), 0);
            EXPECT_EQ(ipcheap_receive(other.in, &record, 0), 0);
            EXPECT_EQ(ipcheap_keep(s.heap, &record), 0);
        }
        kept[n] = record;
        if (n % 3 == 2) EXPECT_EQ(ipcheap_free(s.heap, &record), 0);
        expect_sound(s.heap);
    }
    for (uint64_t n = 0; n < ROUNDS; n++) {
        const unsigned char *data = kept[n].data;
        if (n % 3 == 2) continue;
        EXPECT_EQ(data[SIZE - 1], n);
        EXPECT_EQ(ipcheap_free(s.heap, &kept[n]), 0);
    }
    pair_release(&other);
    scene_end(&s);
}

/* Where there is no membarrier, nobody collects from the ring of one who is alive, but idle. */
static void what_cannot_be_collected_is_not_lent(void) {
    struct scene s = scene_of(64 * MIB, 16);
    put(&s.heap->header->fences, 1);
    for (uint64_t n = 0; n < ROUNDS; n++) pass(&s, 256 << 10, n);
    ipcheap_heap *other = attach(s.fd);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(other, 64 * MIB, &record), 0);
    EXPECT_EQ(ipcheap_free(other, &record), 0);
    ipcheap_release(other);
    scene_end(&s);
}

/* Received as copies, also when the taker wants none of it at first. */
static int count_bytes(void *context, const ipcheap_bytes *records, size_t count) {
    uint64_t *bytes = context;
    if (*bytes == 0) return (int)++*bytes * -77;
    for (size_t i = 0; i < count; i++) *bytes += records[i].nbytes;
    return 0;
}

static void copies_are_lent_too(void) {
    static unsigned char data[SIZE];
    struct scene s = scene_of(512 * MIB, 16);
    const ipcheap_bytes copied = {data, SIZE};
    for (int n = 0; n < ROUNDS; n++) {
        uint64_t bytes = 0;
        EXPECT_EQ(ipcheap_try_send_copies(s.pair.out, &copied, 1), 1);
        EXPECT_EQ(ipcheap_try_receive_copies(s.pair.in, count_bytes, &bytes, 1), -77);
        EXPECT_EQ(ipcheap_try_receive_copies(s.pair.in, count_bytes, &bytes, 1), 1);
        EXPECT_EQ(bytes, 1 + SIZE);
        expect_sound(s.heap);
    }
    EXPECT_EQ(s.me->lending.count, 4);
    scene_end(&s);
}

/* What a consumer writes into a slot that it lets go is looked at before it is believed. */
static void a_slot_may_name_what_is_not_there(void) {
    const uint64_t offsets[] = {0, PAGE, UINT64_C(1) << 32, OFFSET_UNITS << 6 & ~(PAGE - 1)};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        struct scene s = scene_of(64 * MIB, 4);
        for (uint64_t n = 0; n < 3; n++) send_number(&s, 100, n);
        put(&s.pair.in->slots[0].word, ring_word(1, SLOT_RELEASED, offsets[i]));
        send_number(&s, 100, 3); /* looks at the slot that is next */
        send_number(&s, 100, 4);
        pair_release(&s.pair);
        ipcheap_release(s.heap);
        close(s.fd);
    }
}

/* All that there is, by who has lent some and by somebody else. */
static void take_nearly_all(ipcheap_heap *heap) {
    ipcheap_record record;
    uint64_t capacity = statistics(heap).capacity;
    EXPECT_EQ(ipcheap_allocate(heap, capacity - capacity / 20, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

static void memory_that_is_short_is_not_lent_out(void) {
    struct scene s = scene_of(64 * MIB, 16);
    lend_all(&s, 256 << 10);
    take_nearly_all(s.heap);
    lend_all(&s, 256 << 10);
    expect_success(run_peer(s.fd, take_nearly_all));
    expect_sound(s.heap);
    lend_all(&s, 256 << 10);
    scene_end(&s);
}

static void a_closed_producer_has_nothing_out(void) {
    struct scene s = scene_of(512 * MIB, 16);
    lend_all(&s, SIZE);
    send_number(&s, SIZE, 7);
    ipcheap_endpoint_release(s.pair.out);
    EXPECT_EQ(s.me->lending.count, 0);
    EXPECT_EQ(statistics(s.heap).in_use, SIZE);
    /* It is marked, and its producer is another one now, who knows nothing of it. */
    s.pair.out = claim(s.heap, &s.pair.channel, IPCHEAP_PRODUCER);
    ipcheap_record record = receive_number(&s, SIZE, 7);
    EXPECT_EQ(ipcheap_free(s.heap, &record), 0);
    expect_sound(s.heap);
    for (uint64_t n = 0; n < 20; n++) pass(&s, 100, n); /* a lap */
    EXPECT_EQ(statistics(s.heap).extents, 0);
    scene_end(&s);
}

/* All of it is there, at once. */
static void trim_and_take_all(ipcheap_heap *heap) {
    ipcheap_record record;
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT_EQ(statistics(heap).committed, 0);
    int64_t start = os_now();
    EXPECT_EQ(ipcheap_allocate(heap, statistics(heap).capacity, &record), 0);
    EXPECT(os_now() - start < 5 * SECOND);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

/* The lock is another's whenever a small record is sent where an extent came back. */
static void who_must_not_sleep_hides_nothing(void) {
    struct scene s = scene_of(64 * MIB, 16);
    ipcheap_heap *other = attach(s.fd);
    struct participant *rival;
    EXPECT_EQ(participant_current(other, &rival), 0);
    EXPECT_EQ(participant_current(s.heap, &s.me), 0);
    lend_all(&s, 256 << 10);
    pass(&s, 100, 0);
    for (uint64_t n = 0; n < 20; n++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(s.heap, 100, &record), 0);
        EXPECT_EQ(heap_lock(rival), 0);
        ipcheap_allow_sleep(0);
        int error = ipcheap_try_send(s.pair.out, &record);
        ipcheap_allow_sleep(1);
        heap_unlock(rival);
        if (error == IPCHEAP_WOULD_SLEEP) error = ipcheap_try_send(s.pair.out, &record);
        EXPECT_EQ(error, 0);
        EXPECT_EQ(ipcheap_receive(s.pair.in, &record, 0), 0);
        EXPECT_EQ(ipcheap_free(s.heap, &record), 0);
    }
    EXPECT_EQ(s.me->deferred_count, 0);
    ipcheap_release(other);
    expect_success(run_peer(s.fd, trim_and_take_all));
    scene_end(&s);
}

/* Somebody who is stopped has the heap lock: each call waits for it a few times, and then goes on. */
static void nobody_waits_for_the_lock_for_each(void) {
    struct scene s = scene_of(512 * MIB, 16);
    ipcheap_heap *other = attach(s.fd);
    struct participant *rival;
    ipcheap_record record;
    const int64_t timeout = 100 * MILLISECOND;
    lend_all(&s, 256 << 10);
    EXPECT_EQ(s.me->lending.count, 8);
    pass(&s, 100, 0);
    EXPECT_EQ(participant_current(other, &rival), 0);
    EXPECT_EQ(heap_lock(rival), 0);
    EXPECT_EQ(participant_current(s.heap, &s.me), 0);
    ipcheap_set_lock_timeout(s.heap, timeout);
    int64_t start = os_now();
    EXPECT_EQ(ipcheap_allocate(s.heap, 300 << 10, &record), IPCHEAP_HEAP_BUSY);
    EXPECT(os_now() - start < 5 * timeout);
    start = os_now();
    for (uint64_t n = 0; n < 40; n++) pass(&s, 100, n);
    EXPECT(os_now() - start < 5 * timeout);
    heap_unlock(rival);
    ipcheap_set_lock_timeout(s.heap, long_enough);
    for (uint64_t n = 0; n < 20; n++) pass(&s, 100, n);
    EXPECT_EQ(s.me->deferred_count, 0);
    ipcheap_release(other);
    scene_end(&s);
}

/* Two processes, sizes that come and go, all in order. */
enum { MANY = 20000 };

static uint64_t size_of(uint64_t number) {
    static const uint64_t sizes[] = {300000, 300000, 300000, 64, 700000, 20000};
    return sizes[number / 50 % 6];
}

static void produce(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, 8);
    struct scene s = {.heap = heap, .pair.out = claim(heap, &channel, IPCHEAP_PRODUCER)};
    for (uint64_t n = 0; n < MANY; n++) {
        ipcheap_record record;
        uint64_t nbytes = size_of(n);
        EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
        memcpy(record.data, &n, sizeof n);
        memcpy((char *)record.data + nbytes - sizeof n, &n, sizeof n);
        EXPECT_EQ(ipcheap_send(s.pair.out, &record, long_enough), 0);
    }
    ipcheap_endpoint_release(s.pair.out);
}

static void another_process_gets_them_in_order(void) {
    int fd = new_segment(256 * MIB);
    pid_t pid = run_peer(fd, produce);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 8);
    ipcheap_endpoint *in = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record held[3];
    for (uint64_t n = 0; n < MANY; n++) {
        uint64_t first, last;
        ipcheap_record *record = &held[n % 3];
        if (n >= 3) EXPECT_EQ(ipcheap_free(heap, record), 0);
        EXPECT_EQ(ipcheap_receive(in, record, long_enough), 0);
        memcpy(&first, record->data, sizeof first);
        memcpy(&last, (char *)record->data + record->nbytes - sizeof last, sizeof last);
        EXPECT_EQ(record->nbytes, size_of(n));
        EXPECT(first == n && last == n);
        if (n % 1000 == 0) expect_sound(heap);
    }
    for (int i = 0; i < 3; i++) EXPECT_EQ(ipcheap_free(heap, &held[i]), 0);
    expect_success(pid);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    a_few_go_round();
    a_slot_may_name_what_is_not_there();
    only_what_it_pays_for_is_lent();
    who_asks_for_different_sizes_lends_nothing();
    what_is_asked_for_again_is_asked_for_once();
    what_nobody_asks_for_is_freed_when_its_slot_is_needed();
    consumers_do_with_them_as_they_like();
    what_cannot_be_collected_is_not_lent();
    copies_are_lent_too();
    memory_that_is_short_is_not_lent_out();
    a_closed_producer_has_nothing_out();
    who_must_not_sleep_hides_nothing();
    nobody_waits_for_the_lock_for_each();
    another_process_gets_them_in_order();
    return 0;
}
