/* crash_memory.c - a death while allocating and freeing: slabs, extents, what others hold. */
#include <pthread.h>
#include <stdatomic.h>

#include "crash.h"
#include "memory/participant_memory.h"
#include "segment/lock.h"
#include "segment/membership.h"

static void small_come_and_go(struct world *w) {
    for (int i = 0; i < 36; i++) w->mine[i] = make(w, 1000, 0);
    for (int i = 0; i < 36; i++) give_back(w, &w->mine[i * 5 % 36]);
    w->mine[0] = make(w, 64, 0);
    look_around(w);
}

static void large_slabs_come_and_go(struct world *w) {
    for (int i = 0; i < 2; i++) w->mine[i] = make(w, 30000, 0);
    w->mine[2] = make(w, 40000, 0);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    look_around(w);
    w->mine[0] = make(w, 30000, 0);
}

static void extents_come_and_go(struct world *w) {
    for (uint64_t i = 0; i < 5; i++) w->mine[i] = make(w, 5000 + 4096 * i, 0);
    const int order[] = {1, 3, 2, 0};
    for (int i = 0; i < 4; i++) give_back(w, &w->mine[order[i]]);
    w->mine[0] = make(w, 4096, 0);
    w->mine[1] = make(w, 1, 0); /* an aligned one */
    w->mine[2] = make(w, 300000, 0);
    give_back(w, &w->mine[2]); /* beyond the reserve */
}

static void in_turn(struct world *w) {
    struct participant *me;
    EXPECT_EQ(participant_current(w->heap, &me), 0);
    EXPECT_EQ(CALL(memory_of(me) ? 0 : IPCHEAP_NO_MEMORY), 0);
    me->memory->rotation.trial.way = IN_TURN;
}

static void extents_in_turn(struct world *w) {
    for (int i = 0; i < 12; i++) {
        ipcheap_record *record = &w->mine[i % 3];
        if (i >= 3) give_back(w, record);
        *record = make(w, 100000, 0);
    }
}

static void leave_orphans(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, X, 32);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    for (int i = 0; i < 20; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(heap, 1000, &record), 0);
        fill(&record, 0);
        EXPECT_EQ(ipcheap_try_send(producer, &record), 0);
    }
    ipcheap_endpoint_release(producer);
}

/* Orphans with used, free and remotely freed blocks. */
static void adopt_before(struct world *w) {
    expect_success(run_peer(w->fd, leave_orphans));
    ipcheap_channel channel = add_channel(w, X, 32);
    ipcheap_endpoint *consumer = claim_side(w, &channel, IPCHEAP_CONSUMER);
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(consumer, &w->mine[i])), 0);
        EXPECT_EQ(CALL(ipcheap_keep(w->heap, &w->mine[i])), 0);
    }
    for (int i = 0; i < 20; i += 2) give_back(w, &w->mine[i]);
    ipcheap_endpoint_release(consumer);
    remove_id(w, X, 0);
}

static void adopt(struct world *w) {
    for (int i = 20; i < 40; i++) w->mine[i] = make(w, 1000, 0);
    for (int i = 20; i < 40; i++) give_back(w, &w->mine[i]);
}

static uint64_t adopted(struct world *w) {
    uint64_t bytes = 0;
    for (int i = 1; i < 20; i += 2) {
        expect_filled(&w->mine[i], 0);
        bytes += room_of(w, 1000);
        give_back(w, &w->mine[i]);
    }
    return bytes;
}

/* Empties A, but keeps the records first, so that the frees are remote. */
static void empty_a_keeping(struct world *w) {
    ipcheap_record record;
    while (ipcheap_try_receive(w->a_in, &record) == 0) {
        expect_filled(&record, w->a_received++);
        EXPECT_EQ(CALL(ipcheap_keep(w->heap, &record)), 0);
        give_back(w, &record);
    }
}

/* The survivor receives, keeps and frees a full slab; the victim collects. */
static void all_sent_and_freed(struct world *w) {
    for (int i = 0; i < 40; i++) w->mine[i] = make(w, 64, 0);
    fill_a(w);
}

static void collect_all(struct world *w) {
    for (int i = 40; i < 48; i++) w->mine[i] = make(w, 64 + (uint64_t)(i & 1), 0);
    look_around(w);
}

/* The survivor has empty slabs and the ring garbage; the victim needs all of that memory. */
static void hoard(struct world *w) {
    listen_a(w);
    send_b_full(w);
    w->mine[0] = make(w, 700, 0);
    w->mine[1] = make(w, 900, 0);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    ipcheap_channel b = w->b;
    ipcheap_endpoint *consumer = claim_side(w, &b, IPCHEAP_CONSUMER);
    for (uint64_t i = 0; i < SLOTS; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(consumer, &w->mine[i])), 0);
        give_back(w, &w->mine[i]);
        w->told->fate[i] = GIVEN;
    }
    ipcheap_endpoint_release(consumer);
}

static void take_everything(struct world *w) {
    ipcheap_record record;
    for (uint64_t bytes = 960 * 1024; bytes > 4096; bytes = bytes / 8 * 7)
        if (CALL(ipcheap_allocate(w->heap, bytes, &record)) == 0) break;
}

/* Takes all pages, so that only free blocks of slabs are left. */
static void take_pages(struct world *w) {
    ipcheap_record record;
    for (uint64_t bytes = MIB; bytes >= PAGE; bytes /= 2)
        while (CALL(ipcheap_allocate(w->heap, bytes, &record)) == 0) {}
}

/* The survivor's slabs have free blocks: of the size that the victim needs, and of a larger one. */
static void share(struct world *w) {
    const uint64_t sizes[] = {100, 700, 90};
    for (int i = 0; i < 3; i++) {
        int64_t error = CALL(ipcheap_allocate(w->heap, sizes[i], &w->mine[0]));
        /* Without a barrier nothing can be taken from the living. */
        EXPECT(error == 0 || (memory_fails && error == IPCHEAP_HEAP_FULL));
        if (error == 0 && i < 2) give_back(w, &w->mine[0]);
    }
}

/* The survivor frees what it holds in slabs that the victim has taken, and takes one back. */
static uint64_t shared(struct world *w) {
    for (int i = 0; i < 2; i++) {
        expect_filled(&w->own[i], (uint64_t)i);
        give_back(w, &w->own[i]);
        w->own[i] = make(w, i ? 1000 : 100, (uint64_t)i);
    }
    return 0;
}

static atomic_int lock_turn; /* of the victim's two threads */

/* Another thread of the victim, which has the lock for a while. */
static void *hold_the_lock(void *heap) {
    struct participant *me;
    EXPECT_EQ(participant_current(heap, &me), 0);
    EXPECT_EQ(heap_lock(me), 0);
    atomic_store(&lock_turn, 1);
    while (atomic_load(&lock_turn) == 1) usleep(100);
    heap_unlock(me);
    atomic_store(&lock_turn, 3);
    for (;;) pause();
}

static void make_two(struct world *w) {
    pthread_t thread;
    for (int i = 0; i < 2; i++) w->mine[i] = make(w, 50000, 0);
    EXPECT_EQ(pthread_create(&thread, NULL, hold_the_lock, w->heap), 0);
    while (atomic_load(&lock_turn) == 0) usleep(100);
}

/* Without the lock, frees are put off. */
static void defer(struct world *w) {
    ipcheap_set_lock_timeout(w->heap, 1000000);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    ipcheap_set_lock_timeout(w->heap, 10000000000);
    atomic_store(&lock_turn, 2);
    while (atomic_load(&lock_turn) == 2) usleep(100);
}

static void use_much(struct world *w) {
    for (int i = 0; i < 6; i++) w->mine[i] = make(w, 9000, 0);
    for (int i = 0; i < 6; i += 2) give_back(w, &w->mine[i]);
}

static void trim(struct world *w) {
    EXPECT(CALL(ipcheap_trim(w->heap, 4096)) >= 0);
    EXPECT(CALL(ipcheap_trim(w->heap, 0)) >= 0);
}

const struct scenario memory_scenarios[] = {
    {"small", MIB, .before = listen_a, .act = small_come_and_go},
    {"large slabs", 16 * MIB, .before = listen_a, .act = large_slabs_come_and_go},
    {"extents", MIB, .before = listen_a, .act = extents_come_and_go},
    {"extents in turn", 64 * MIB, .before = listen_a, .prepare = in_turn, .act = extents_in_turn},
    {"adopt", MIB, .before = adopt_before, .act = adopt, .verify = adopted},
    {"collect", MIB, .before = listen_a, .prepare = all_sent_and_freed,
     .meanwhile = empty_a_keeping, .act = collect_all},
    {"reclaim", MIB, .before = hoard, .act = take_everything},
    {"share", MIB, .before = listen_a, .prepare = take_pages, .act = share, .verify = shared},
    {"defer", MIB, .before = listen_a, .prepare = make_two, .act = defer},
    {"trim", MIB, .before = listen_a, .prepare = use_much, .act = trim},
    {0},
};
