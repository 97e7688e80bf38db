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

/* Users of a segment --------------------------------------------------------------------- */

static void *hold(struct world *w, const ipcheap_channel *channel) {
    void *data = NULL;
    EXPECT_EQ(CALL(ipcheap_static_hold(w->heap, channel, &data)), 0);
    EXPECT(data != NULL);
    return data;
}

static void release(struct world *w, const ipcheap_channel *channel) {
    EXPECT_EQ(CALL(ipcheap_static_release(w->heap, channel)), 0);
}

/* The dead use nothing: the segment can be removed, unless the victim has done so. */
static uint64_t unused_after(struct world *w) {
    ipcheap_channel channel;
    if (!find_id(w, X, &channel)) return 0;
    EXPECT(w->told->progress < 2);
    remove_id(w, X, 0);
    return PAGE;
}

static void hold_twice(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    hold(w, &channel);
    hold(w, &channel);
    release(w, &channel);
    release(w, &channel);
}

/* What is removed by force stays until the victim's last use of it. */
static void hold_what_is_removed(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    unsigned char *data = hold(w, &channel);
    w->told->progress = 1;
    remove_id(w, X, 1);
    w->told->progress = 2;
    EXPECT_EQ(ipcheap_static_removed(w->heap, &channel), 1);
    ipcheap_record record = make(w, 60, 5);
    memset(data, 3, 64);
    expect_filled(&record, 5);
    give_back(w, &record);
    release(w, &channel);
}

/* As many users as the descriptor names: these and, in the victim, their copies. All are closed. */
static ipcheap_heap *crowd[USERS / 2];

static void crowd_before(struct world *w) {
    lock_before(w);
    for (int i = 0; i < USERS / 2; i++) {
        void *data;
        ipcheap_channel channel;
        crowd[i] = attach(w->fd);
        ipcheap_key key = key_of(X);
        EXPECT_EQ(ipcheap_find_channel(crowd[i], &key, &channel), 0);
        EXPECT_EQ(ipcheap_static_hold(crowd[i], &channel, &data), 0);
        ipcheap_close(crowd[i]);
    }
}

static void hold_in_a_crowd(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    hold(w, &channel);
    release(w, &channel);
}

static uint64_t crowd_after(struct world *w) {
    uint64_t bytes = unused_after(w), before = statistics(w->heap).in_use;
    for (int i = 0; i < USERS / 2; i++) {
        EXPECT_EQ(statistics(w->heap).in_use, before);
        ipcheap_release(crowd[i]);
    }
    EXPECT_EQ(statistics(w->heap).in_use, before - bytes);
    return bytes;
}

/* The child's use ends with it, whatever becomes of the victim. */
static void hold_and_fork(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    hold(w, &channel);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        release(w, &channel);
        _exit(0);
    }
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    release(w, &channel);
}

static uint64_t fork_after(struct world *w) {
    ipcheap_key key = key_of(X);
    int error = IPCHEAP_CHANNEL_BUSY;
    for (int i = 0; i < 5000 && error == IPCHEAP_CHANNEL_BUSY; i++) {
        if (i) usleep(1000);
        error = ipcheap_remove_channel(w->heap, &key, 0);
    }
    EXPECT_EQ(error, 0);
    return PAGE;
}

const struct scenario static_scenarios[] = {
    {"first static", MIB, .act = add_static, .verify = static_added},
    {"static", MIB, .before = listen_a, .act = add_and_remove_static, .verify = static_added},
    {"lock", MIB, .before = lock_before, .act = lock_twice, .verify = lock_after},
    {"hold", MIB, .before = lock_before, .act = hold_twice, .verify = unused_after},
    {"hold removed", MIB, .before = lock_before, .act = hold_what_is_removed,
     .verify = unused_after},
    {"hold in a crowd", MIB, .before = crowd_before, .act = hold_in_a_crowd, .verify = crowd_after},
    {"hold and fork", MIB, .before = lock_before, .act = hold_and_fork, .verify = fork_after},
    {0},
};
