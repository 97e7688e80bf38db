/* crash_directory.c - a death while channels are added and removed. */
#include "crash.h"

static void add_first(struct world *w) {
    ipcheap_channel channel = add_channel(w, X, 8);
    w->x_out = claim_side(w, &channel, IPCHEAP_PRODUCER);
    ipcheap_record record = make(w, 100, 0);
    EXPECT_EQ(CALL(ipcheap_try_send(w->x_out, &record)), 0);
}

/* Empties X and removes it; returns the bytes that were pending. */
static uint64_t empty_x(struct world *w) {
    ipcheap_channel channel;
    uint64_t before = statistics(w->heap).in_use;
    /* If X was removed by force, what was pending is freed with the last endpoint. */
    if (w->x_in) ipcheap_endpoint_release(w->x_in);
    if (w->x_out) ipcheap_endpoint_release(w->x_out);
    uint64_t bytes = before - statistics(w->heap).in_use;
    if (!find_id(w, X, &channel)) return bytes;
    ipcheap_endpoint *consumer = claim_side(w, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    while (ipcheap_try_receive(consumer, &record) == 0) {
        expect_filled(&record, 0);
        bytes += room_of(w, record.nbytes);
        give_back(w, &record);
    }
    ipcheap_endpoint_release(consumer);
    remove_id(w, X, 0);
    return bytes;
}

static void add_and_remove(struct world *w) {
    add_channel(w, X, 8);
    add_channel(w, X + 1, 8);
    remove_id(w, X, 0);
    add_channel(w, X, 4);
    remove_id(w, X + 1, 0);
}

static uint64_t added_and_removed(struct world *w) {
    ipcheap_channel channel;
    if (find_id(w, X + 1, &channel)) remove_id(w, X + 1, 0);
    return empty_x(w);
}

static void many_channels(struct world *w, uint64_t count) {
    listen_a(w);
    for (uint64_t i = 1; i < count; i++) add_channel(w, 1000 + i, 1);
}

static void before_second_chunk(struct world *w) { many_channels(w, 127); }

static void before_second_table(struct world *w) { many_channels(w, 767); }

static uint64_t many_removed(struct world *w) {
    uint32_t cursor = 0;
    ipcheap_key key;
    ipcheap_channel channel;
    uint64_t id, found = 0;
    while (ipcheap_next_channel(w->heap, &cursor, &key, &channel) == 1) {
        memcpy(&id, key.bytes, sizeof id);
        if (id <= 1000) continue;
        found++;
        EXPECT_EQ(CALL(ipcheap_remove_channel(w->heap, &key, 0)), 0);
    }
    EXPECT(found == 126 || found == 766);
    return added_and_removed(w);
}

static void pending_x(struct world *w) {
    listen_a(w);
    ipcheap_channel channel = add_channel(w, X, 4);
    w->x_out = claim_side(w, &channel, IPCHEAP_PRODUCER);
    w->x_in = claim_side(w, &channel, IPCHEAP_CONSUMER);
    for (int i = 0; i < 4; i++) {
        ipcheap_record record = make(w, i == 2 ? 20000 : 100, 0);
        EXPECT_EQ(CALL(ipcheap_try_send(w->x_out, &record)), 0);
    }
    ipcheap_record record;
    EXPECT_EQ(CALL(ipcheap_try_receive(w->x_in, &record)), 0);
    give_back(w, &record);
}

static void pending_x_closed(struct world *w) {
    pending_x(w);
    ipcheap_endpoint_release(w->x_out);
    ipcheap_endpoint_release(w->x_in);
    w->x_out = w->x_in = NULL;
}

static void remove_x(struct world *w) { remove_id(w, X, 1); }

const struct scenario directory_scenarios[] = {
    {"first channel", MIB, .act = add_first, .verify = empty_x},
    {"channels", MIB, .before = listen_a, .act = add_and_remove, .verify = added_and_removed},
    {"second chunk", MIB, .before = before_second_chunk, .act = add_and_remove,
     .verify = many_removed},
    {"second table", MIB, .before = before_second_table, .act = add_and_remove,
     .verify = many_removed},
    {"remove", MIB, .before = pending_x_closed, .act = remove_x, .verify = empty_x},
    {"remove by force", MIB, .before = pending_x, .act = remove_x, .verify = empty_x},
    {0},
};
