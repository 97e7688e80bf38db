/* What anybody can count of a record channel: who may ask, and that the numbers are exact. */

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "record/endpoint.h"
#include "testing.h"

static ipcheap_counts count(ipcheap_heap *heap, const ipcheap_channel *channel) {
    ipcheap_counts counts;
    EXPECT_EQ(ipcheap_channel_counts(heap, channel, &counts), 0);
    EXPECT_EQ(counts.sent, counts.received + counts.pending);
    EXPECT_EQ(counts.received, counts.freed + counts.held);
    EXPECT(counts.pending + counts.held <= counts.capacity);
    return counts;
}

static int send_number(ipcheap_heap *heap, ipcheap_endpoint *producer, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, sizeof number, &record), 0);
    /* Atomic for ThreadSanitizer, which does not see that a process between forwards the record. */
    __atomic_store_n((uint64_t *)record.data, number, __ATOMIC_RELAXED);
    int error = ipcheap_try_send(producer, &record);
    if (error) EXPECT_EQ(ipcheap_free(heap, &record), 0);
    return error;
}

static uint64_t number_in(const ipcheap_record *record) {
    return __atomic_load_n((const uint64_t *)record->data, __ATOMIC_RELAXED);
}

static void a_channel_that_nobody_used_has_no_ring_and_counts_nothing(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 100);
    ipcheap_counts counts = count(heap, &channel);
    EXPECT_EQ(counts.capacity, 128);
    EXPECT_EQ(counts.sent, 0);
    EXPECT_EQ(counts.producer, IPCHEAP_SIDE_NEVER);
    EXPECT_EQ(counts.consumer, IPCHEAP_SIDE_NEVER);
    EXPECT_EQ(counts.blocked, IPCHEAP_NOT_BLOCKED);
    ipcheap_release(heap);
    close(fd);
}

static void only_the_very_channel_is_counted(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, 8), segment;
    ipcheap_counts counts;
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, 2), 0);
    EXPECT(ipcheap_add_static_segment(heap, &key, 64, &segment) >= 0);
    EXPECT_EQ(ipcheap_channel_counts(heap, &segment, &counts), IPCHEAP_CHANNEL_TYPE);
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    EXPECT_EQ(ipcheap_channel_counts(heap, &channel, &counts), IPCHEAP_CHANNEL_NOT_FOUND);
    ipcheap_channel again = record_channel(heap, 1, 8);
    EXPECT_EQ(again.index, channel.index);
    EXPECT_EQ(ipcheap_channel_counts(heap, &channel, &counts), IPCHEAP_CHANNEL_NOT_FOUND);
    count(heap, &again);
    ipcheap_close(heap);
    EXPECT_EQ(ipcheap_channel_counts(heap, &again, &counts), IPCHEAP_HEAP_CLOSED);
    ipcheap_release(heap);
    close(fd);
}

static void a_broken_slot_is_counted_as_empty(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 4);
    for (uint64_t i = 0; i < 4; i++) EXPECT_EQ(send_number(heap, p.out, i), 0);
    struct ring_slot *slots = record_endpoint(p.in)->slots;
    const uint64_t words[] = {0,
                              UINT64_MAX,
                              ring_word(0, SLOT_FULL, 0),
                              ring_word(0, SLOT_FULL, heap->geometry.data_at - 64),
                              ring_word(9, SLOT_FULL, heap->geometry.data_at),
                              3};
    uint64_t right = get(&slots[2].word);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        put(&slots[2].word, words[i]);
        EXPECT_EQ(count(heap, &p.channel).pending, 3);
    }
    put(&slots[2].word, right);
    EXPECT_EQ(count(heap, &p.channel).pending, 4);
    for (uint64_t hint = 5; hint; hint <<= 1) { /* and a hint of where the producer is */
        ipcheap_counts counts;
        put(&p.out->channel->sides[IPCHEAP_PRODUCER].position, hint);
        EXPECT_EQ(ipcheap_channel_counts(heap, &p.channel, &counts), 0);
    }
    put(&p.out->channel->sides[IPCHEAP_PRODUCER].position, 4);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

/* Exact beside a producer ------------------------------------------------------------------ */

struct stage {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    _Atomic bool done;
};

/* Sends all the time: singly, and copies in bursts. */
static void *keep_sending(void *context) {
    struct stage *stage = context;
    ipcheap_endpoint *out = claim(stage->heap, &stage->channel, IPCHEAP_PRODUCER);
    static const char text[8];
    const ipcheap_bytes copies[3] = {{text, 8}, {text, 8}, {text, 8}};
    for (uint64_t i = 0; !stage->done; i++) {
        if (i % 2)
            send_number(stage->heap, out, i);
        else
            EXPECT(ipcheap_try_send_copies(out, copies, 3) >= 0);
    }
    ipcheap_endpoint_release(out);
    return NULL;
}

static void what_a_resting_consumer_freed_is_exact_beside_a_producer(uint64_t slots) {
    enum { MOST = 8, STEPS = 20000 };
    struct stage stage = {.heap = NULL};
    int fd = new_segment(4 * MIB);
    pthread_t thread;
    ipcheap_record held[MOST];
    uint64_t freed = 0, random = 1, sent = 0, holding = 0;
    stage.heap = attach(fd);
    stage.channel = record_channel(stage.heap, 1, slots);
    ipcheap_endpoint *in = claim(stage.heap, &stage.channel, IPCHEAP_CONSUMER);
    EXPECT_EQ(pthread_create(&thread, NULL, keep_sending, &stage), 0);
    for (int step = 0; step < STEPS; step++) {
        if (holding < least(MOST, slots) && next_random(&random) % 2) {
            holding += ipcheap_try_receive(in, &held[holding]) == 0;
        } else if (holding) { /* in any order */
            uint64_t at = next_random(&random) % holding;
            EXPECT_EQ(ipcheap_free(stage.heap, &held[at]), 0);
            held[at] = held[--holding];
            freed++;
        }
        ipcheap_counts counts = count(stage.heap, &stage.channel);
        ipcheap_endpoint_statistics s;
        EXPECT_EQ(ipcheap_endpoint_describe(in, &s), 0);
        EXPECT_EQ(s.held, counts.held);
        EXPECT_EQ(counts.freed + counts.held, freed + holding);
        EXPECT(counts.freed >= freed && counts.freed <= freed + s.detached);
        EXPECT(counts.sent >= sent);
        sent = counts.sent;
    }
    stage.done = true;
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    ipcheap_counts counts = count(stage.heap, &stage.channel);
    while (holding) EXPECT_EQ(ipcheap_free(stage.heap, &held[--holding]), 0);
    for (uint64_t i = 0; i < counts.pending; i++) {
        EXPECT_EQ(ipcheap_try_receive(in, &held[0]), 0);
        EXPECT_EQ(ipcheap_free(stage.heap, &held[0]), 0);
    }
    EXPECT_EQ(count(stage.heap, &stage.channel).freed, counts.sent);
    expect_sound(stage.heap);
    ipcheap_endpoint_release(in);
    ipcheap_release(stage.heap);
    close(fd);
}

/* Exact at a death ------------------------------------------------------------------------- */

enum { FROM = 1, ONTO = 2, RING = 8 };

/* Passes on what comes, one after the other, until it is killed. */
static void pass_on(ipcheap_heap *heap) {
    ipcheap_channel from = record_channel(heap, FROM, RING), to = record_channel(heap, ONTO, RING);
    ipcheap_endpoint *in = claim(heap, &from, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = claim(heap, &to, IPCHEAP_PRODUCER);
    ipcheap_record record;
    for (;;) {
        EXPECT_EQ(ipcheap_receive(in, &record, -1), 0);
        EXPECT_EQ(ipcheap_send(out, &record, -1), 0);
    }
}

static void *feed(void *context) {
    struct stage *stage = context;
    ipcheap_endpoint *out = claim(stage->heap, &stage->channel, IPCHEAP_PRODUCER);
    for (uint64_t i = 0; !stage->done;) i += send_number(stage->heap, out, i) == 0;
    ipcheap_endpoint_release(out);
    return NULL;
}

/* Counts all the time, also while another thread recovers: nothing may ever become less. */
static void *watch(void *context) {
    struct stage *stage = context;
    ipcheap_channel to = record_channel(stage->heap, ONTO, RING);
    uint64_t freed = 0, sent = 0;
    while (!stage->done) {
        uint64_t now = count(stage->heap, &stage->channel).freed;
        EXPECT(now >= freed);
        freed = now;
        now = count(stage->heap, &to).sent;
        EXPECT(now >= sent);
        sent = now;
    }
    return NULL;
}

/* Receives on the second channel until nothing comes; all must come in order, and once. */
static void drain(ipcheap_heap *heap, ipcheap_endpoint *in, uint64_t *arrived) {
    ipcheap_record record;
    while (ipcheap_try_receive(in, &record) == 0) {
        EXPECT_EQ(number_in(&record), (*arrived)++);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
}

static void a_forwarder_killed_at_any_moment_is_counted_on_one_side(void) {
    struct stage stage = {.heap = NULL};
    int fd = new_segment(4 * MIB);
    uint64_t arrived = 0, random = 5;
    pthread_t feeder, watcher;
    stage.heap = attach(fd);
    stage.channel = record_channel(stage.heap, FROM, RING);
    ipcheap_channel to = record_channel(stage.heap, ONTO, RING);
    ipcheap_endpoint *in = claim(stage.heap, &to, IPCHEAP_CONSUMER);
    EXPECT_EQ(pthread_create(&feeder, NULL, feed, &stage), 0);
    EXPECT_EQ(pthread_create(&watcher, NULL, watch, &stage), 0);
    for (int round = 0; round < 60; round++) {
        ipcheap_recovery report;
        int status;
        pid_t pid = run_peer(fd, pass_on);
        uint64_t until = arrived + 1 + next_random(&random) % 300;
        while (arrived < until) drain(stage.heap, in, &arrived);
        EXPECT_EQ(kill(pid, SIGKILL), 0);
        EXPECT_EQ(waitpid(pid, &status, 0), pid);
        uint64_t freed = count(stage.heap, &stage.channel).freed;
        EXPECT_EQ(count(stage.heap, &to).sent, freed);
        if (round % 2) EXPECT_EQ(ipcheap_recover(stage.heap, &report), 0);
        EXPECT_EQ(count(stage.heap, &to).sent, freed);
        EXPECT_EQ(count(stage.heap, &stage.channel).freed, freed);
        drain(stage.heap, in, &arrived);
        EXPECT_EQ(arrived, freed);
    }
    stage.done = true;
    EXPECT_EQ(pthread_join(feeder, NULL), 0);
    EXPECT_EQ(pthread_join(watcher, NULL), 0);
    ipcheap_endpoint *rest = claim(stage.heap, &stage.channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    EXPECT_EQ(count(stage.heap, &stage.channel).freed, arrived);
    while (ipcheap_try_receive(rest, &record) == 0) {
        EXPECT_EQ(number_in(&record), arrived++);
        EXPECT_EQ(ipcheap_free(stage.heap, &record), 0);
    }
    EXPECT_EQ(count(stage.heap, &stage.channel).sent, arrived);
    expect_sound(stage.heap);
    ipcheap_endpoint_release(rest);
    ipcheap_endpoint_release(in);
    ipcheap_release(stage.heap);
    close(fd);
}

int main(void) {
    a_channel_that_nobody_used_has_no_ring_and_counts_nothing();
    only_the_very_channel_is_counted();
    a_broken_slot_is_counted_as_empty();
    for (uint64_t slots = 1; slots <= 64; slots *= 4)
        what_a_resting_consumer_freed_is_exact_beside_a_producer(slots);
    a_forwarder_killed_at_any_moment_is_counted_on_one_side();
    return 0;
}
