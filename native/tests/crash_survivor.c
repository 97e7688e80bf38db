/* crash_survivor.c - the survivor, which recovers and accounts for everything. */
#include <sys/socket.h>

#include "crash.h"

static const uint64_t own_bytes[OWN] = {100, 1000, 5000, 40000};

int recover_now(ipcheap_heap *heap, ipcheap_recovery *report) {
    ipcheap_set_lock_timeout(heap, 1000000);
    int error = ipcheap_recover(heap, report);
    ipcheap_set_lock_timeout(heap, 10000000000);
    return error;
}

/* Counts, if the channel exists. */
static bool count(struct world *w, uint64_t id, ipcheap_counts *counts) {
    ipcheap_channel channel;
    *counts = (ipcheap_counts){0};
    if (!find_id(w, id, &channel) || channel.kind != IPCHEAP_RECORD_CHANNEL) return false;
    EXPECT_EQ(ipcheap_channel_counts(w->heap, &channel, counts), 0);
    EXPECT_EQ(counts->sent, counts->received + counts->pending);
    EXPECT_EQ(counts->received, counts->freed + counts->held);
    return true;
}

void note_counts(struct world *w) {
    for (uint64_t id = A; id <= C; id++) count(w, id, &w->counts[id]);
}

void expect_counts(struct world *w) {
    ipcheap_counts now;
    for (uint64_t id = A; id <= C; id++) {
        if (!count(w, id, &now)) continue;
        EXPECT_EQ(now.sent, w->counts[id].sent);
        EXPECT_EQ(now.freed, w->counts[id].freed);
    }
}

/* Expects that the counts noted after the death have been right: of so many, so many had left. */
static void expect_counted(struct world *w, uint64_t id, uint64_t sent, uint64_t freed) {
    if (!w->counts[id].capacity) return;
    EXPECT_EQ(w->counts[id].sent, sent);
    EXPECT_EQ(w->counts[id].freed, freed);
}

static uint64_t drain_a(struct world *w) {
    uint64_t bytes = 0, limit = w->told->sending, before = w->a_received;
    ipcheap_record records[SLOTS];
    int taken = 0;
    while (taken < SLOTS && ipcheap_try_receive(w->a_in, &records[taken]) == 0) {
        expect_filled(&records[taken], w->a_received++);
        bytes += room_taken(w, &records[taken++]);
    }
    EXPECT(w->a_received >= w->told->sent && w->a_received <= limit);
    for (int i = 0; i < taken; i++) give_back(w, &records[i]);
    expect_counted(w, A, w->a_received, before);
    return bytes;
}

/* Receives what is redelivered on B and what is new on C: no record is on both. */
static uint64_t drain_b_and_c(struct world *w) {
    uint64_t bytes = 0, number, last = 0, on_b = 0, on_c = 0;
    bool seen_b[MOST] = {false}, seen_c[MOST] = {false};
    ipcheap_record record;
    w->b_in = claim(w->heap, &w->b, IPCHEAP_CONSUMER);
    if (w->counts[B].capacity) expect_counts(w);
    while (ipcheap_try_receive(w->b_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_b[number]);
        last = number;
        seen_b[number] = true;
        w->b_redelivered |= UINT64_C(1) << number;
        bytes += room_taken(w, &record);
        give_back(w, &record);
    }
    last = 0;
    while (w->c_in && ipcheap_try_receive(w->c_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_c[number]);
        last = number;
        seen_c[number] = true;
        bytes += room_taken(w, &record);
        give_back(w, &record);
    }
    for (uint64_t i = 0; i < w->b_sent; i++) {
        enum fate fate = w->told->fate[i];
        EXPECT(!seen_b[i] || !seen_c[i]);
        on_b += seen_b[i];
        on_c += seen_c[i];
        if (fate == UNTOUCHED) EXPECT(seen_b[i]);
        if (fate == GIVEN) EXPECT(!seen_b[i] && !seen_c[i]);
        if (fate == FORWARDING) EXPECT(seen_b[i] || seen_c[i]);
        if (fate == FORWARDED) EXPECT(seen_c[i]);
    }
    expect_counted(w, B, w->b_sent, w->b_sent - on_b);
    if (w->c_in) expect_counted(w, C, on_c, 0);
    ipcheap_endpoint_release(w->b_in);
    return bytes;
}

/* The channel keeps working, with the survivor on both sides. */
static void use_channel(struct world *w, uint64_t id, ipcheap_endpoint *out, ipcheap_endpoint *in) {
    ipcheap_channel channel = record_channel(w->heap, id, SLOTS);
    ipcheap_counts before, after;
    EXPECT(count(w, id, &before));
    if (!out) out = claim(w->heap, &channel, IPCHEAP_PRODUCER);
    if (!in) in = claim(w->heap, &channel, IPCHEAP_CONSUMER);
    EXPECT(count(w, id, &after));
    EXPECT(after.sent == before.sent && after.freed == before.freed);
    EXPECT_EQ(after.sent, after.freed);
    ipcheap_record record;
    for (uint64_t round = 0; round < 3 * SLOTS; round += SLOTS) {
        for (uint64_t i = round; i < round + SLOTS; i++) {
            record = make(w, bytes_of(i), i);
            EXPECT_EQ(ipcheap_try_send(out, &record), 0);
        }
        for (uint64_t i = round; i < round + SLOTS; i++) {
            EXPECT_EQ(ipcheap_try_receive(in, &record), 0);
            expect_filled(&record, i);
            give_back(w, &record);
        }
    }
    EXPECT(count(w, id, &after));
    EXPECT(after.sent == before.sent + 3 * SLOTS && after.freed == after.sent);
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    remove_id(w, id, 0);
}

static void use_memory(struct world *w) {
    ipcheap_record records[48];
    for (int i = 0; i < 48; i++) records[i] = make(w, i % 4 ? 900 : 9000, (uint64_t)i);
    expect_sound(w->heap);
    for (int i = 0; i < 48; i++) {
        expect_filled(&records[i], (uint64_t)i);
        give_back(w, &records[i]);
    }
}

void accept_all(struct world *w, const struct scenario *s) {
    expect_sound(w->heap);
    uint64_t in_use = statistics(w->heap).in_use, bytes = 0;
    EXPECT_EQ(statistics(w->heap).participants, 1);
    expect_sound(w->heap);
    for (int i = 0; i < OWN; i++) bytes += room_of(w, own_bytes[i]);
    if (w->b.shape) bytes += drain_b_and_c(w);
    if (w->a_in) bytes += drain_a(w);
    if (s->verify) bytes += s->verify(w);
    EXPECT_EQ(in_use, bytes);
    expect_sound(w->heap);
    use_memory(w);
    use_channel(w, A, NULL, w->a_in);
    use_channel(w, B, w->b_out, NULL);
    use_channel(w, C, NULL, w->c_in);
    for (int i = 0; i < OWN; i++) {
        expect_filled(&w->own[i], (uint64_t)i);
        give_back(w, &w->own[i]);
    }
    expect_sound(w->heap);
    ipcheap_statistics left = statistics(w->heap);
    EXPECT_EQ(left.in_use, 0);
    EXPECT_EQ(left.records, 0);
    EXPECT_EQ(left.extents, 0);
    EXPECT_EQ(left.slabs, 0);
    EXPECT_EQ(left.channels, 0);
    EXPECT_EQ(left.largest_free, s->capacity);
    EXPECT(ipcheap_trim(w->heap, 0) >= 0);
    EXPECT_EQ(statistics(w->heap).committed, 0);
    /* Only the directory's chunks and one table are left. */
    uint64_t pages = get(&w->heap->header->zones[SYSTEM_ZONE].used), chunks = 0;
    for (uint64_t i = 0; i < DIRECTORY_CHUNKS; i++)
        if (get(&w->heap->header->chunks[i])) chunks += (UINT64_C(16) << i);
    uint64_t table_log = get(&w->heap->header->table) >> 56;
    EXPECT_EQ(pages, chunks + ((UINT64_C(4) << table_log) >> PAGE_SHIFT));
    expect_sound(w->heap);
}

void meet(struct world *w, int end, int times) {
    char byte = 0;
    for (int i = 0; i < times; i++) {
        EXPECT_EQ(write(w->meet[end], &byte, 1), 1);
        EXPECT_EQ(read(w->meet[end], &byte, 1), 1);
    }
}

void world_begin(struct world *w, const struct scenario *s) {
    alarm(30);
    w->fd = new_segment(s->capacity);
    w->heap = attach(w->fd);
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, w->meet), 0);
    for (int i = 0; i < OWN; i++) w->own[i] = make(w, own_bytes[i], (uint64_t)i);
    if (s->before) s->before(w);
}

void world_meanwhile(struct world *w, const struct scenario *s) {
    close(w->meet[1]);
    meet(w, 0, 1);
    if (s->meanwhile) s->meanwhile(w);
    meet(w, 0, 1);
}

const struct crash_area crash_areas[] = {
    {"memory", memory_scenarios},      {"directory", directory_scenarios},
    {"static", static_scenarios},      {"channel", channel_scenarios},
    {"stream", stream_scenarios},      {"store", store_scenarios},
    {"upkeep", upkeep_scenarios},      {"bus", bus_scenarios},
    {"listeners", listener_scenarios}, {NULL, NULL},
};
