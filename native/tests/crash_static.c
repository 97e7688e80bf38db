/* crash_static.c - a death while using static segments, and locks in them. */
#include "crash.h"

enum { STATIC_BYTES = 9000 };

static void add_static(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_static_segment(w->heap, &key, STATIC_BYTES, &channel)), 1);
    unsigned char *data = ipcheap_static_data(w->heap, &channel);
    for (int i = 0; i < STATIC_BYTES; i++) EXPECT_EQ(data[i], 0);
    memset(data, 7, STATIC_BYTES);
    w->told->progress = 1;
    EXPECT_EQ(CALL(ipcheap_static_ready(w->heap, &channel, 1)), 0);
    w->told->progress = 2;
}

static void add_and_remove_static(struct world *w) {
    add_static(w);
    w->told->progress = 3;
    remove_id(w, X, 0);
    w->told->progress = 4;
}

/* Statics: the survivor adds the segment, too, and removes it. */
static uint64_t static_added(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    bool there = find_id(w, X, &channel);
    if (w->told->progress == 2) EXPECT(there);
    if (w->told->progress == 4) EXPECT(!there);
    int fresh = ipcheap_add_static_segment(w->heap, &key, STATIC_BYTES, &channel);
    if (w->told->progress == 2) EXPECT_EQ(fresh, 0);
    if (w->told->progress < 1 || w->told->progress == 4) EXPECT_EQ(fresh, 1);
    unsigned char *data = ipcheap_static_data(w->heap, &channel);
    EXPECT(data != NULL);
    for (int i = 0; i < STATIC_BYTES; i++) EXPECT_EQ(data[i], fresh ? 0 : 7);
    if (fresh) EXPECT_EQ(CALL(ipcheap_static_ready(w->heap, &channel, 1)), 0);
    remove_id(w, X, 0);
    return there ? round_up(STATIC_BYTES, PAGE) : 0;
}

/* Locks in a static segment -------------------------------------------------------------- */

static ipcheap_channel lock_segment(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    int fresh = ipcheap_add_static_segment(w->heap, &key, 64, &channel);
    EXPECT(fresh >= 0);
    if (fresh) EXPECT_EQ(CALL(ipcheap_static_ready(w->heap, &channel, 1)), 0);
    return channel;
}

static void lock_before(struct world *w) {
    listen_a(w);
    lock_segment(w);
}

static void lock_twice(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    void *lock = ipcheap_static_data(w->heap, &channel);
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(CALL(ipcheap_lock_acquire(w->heap, lock, -1)), 0);
        w->told->progress = 1;
        EXPECT_EQ(CALL(ipcheap_lock_release(w->heap, lock)), 0);
        w->told->progress = 0;
    }
}

static uint64_t lock_after(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    void *lock = ipcheap_static_data(w->heap, &channel);
    int got = ipcheap_lock_acquire(w->heap, lock, 1000000000);
    EXPECT_EQ(got, w->told->progress ? IPCHEAP_OWNER_DIED : 0);
    EXPECT_EQ(CALL(ipcheap_lock_release(w->heap, lock)), 0);
    EXPECT_EQ(CALL(ipcheap_lock_acquire(w->heap, lock, 1000000000)), 0);
    EXPECT_EQ(CALL(ipcheap_lock_release(w->heap, lock)), 0);
    remove_id(w, X, 0);
    return PAGE;
}

const struct scenario static_scenarios[] = {
    {"first static", MIB, .act = add_static, .verify = static_added},
    {"static", MIB, .before = listen_a, .act = add_and_remove_static, .verify = static_added},
    {"lock", MIB, .before = lock_before, .act = lock_twice, .verify = lock_after},
    {0},
};
