/*
 * A crash before every shared store.
 *
 * A victim prepares itself, then does what the scenario is about and is killed before its
 * k-th store to shared memory; k = 1, 2, ... until it gets to the end. A survivor that was
 * there before, with records and endpoints of its own, recovers, and finds all of it
 * accounted for: what belongs to the living is as it was, what was sent arrives once and in
 * order, what the dead was doing is done or not done, and the heap can be used to the end.
 * Then the same with a second one killed while it recovers the first.
 *
 *   test_crash [scenario [k [j]]]    only that one; only that step; only that step of recovery
 */
#include "testing.h"

#ifndef IPCHEAP_STEPS

int main(void) { return 77; }

#else

#include <poll.h>
#include <sys/socket.h>

#include "heap/size_class.h"
#include "segment/heap.h"

enum { SLOTS = 4, MOST = 64, OWN = 4 };
enum { A = 1, B = 2, C = 3, X = 9 }; /* ids: victim to survivor, back, forwarded, of a scenario */

/* What became of a record of channel B in the victim's hands. */
enum fate { UNTOUCHED, GIVING, GIVEN, FORWARDING, FORWARDED };

/* What the victim tells before it dies; shared by fork. */
struct told {
    const char *file;
    int line;
    int done;     /* it got to the end */
    int attached; /* it is a participant */
    uint64_t sending, sent; /* on A */
    enum fate fate[MOST];   /* of what came on B */
    int progress;           /* as the scenario likes */
};

struct world {
    int fd;
    ipcheap_heap *heap;
    struct told *told;
    ipcheap_channel a, b, c;
    ipcheap_endpoint *a_out, *a_in, *b_out, *b_in, *c_out, *c_in, *x_in, *x_out;
    uint64_t a_received, b_sent;
    ipcheap_record own[OWN], mine[MOST];
    int meet[2]; /* the survivor's end, the victim's */
    pid_t helper;
    int bell; /* the descriptor of a_in, if it was asked for: armed when the victim acts */
};

struct scenario {
    const char *name;
    uint64_t capacity;
    void (*before)(struct world *w);    /* survivor: before the victim comes */
    void (*prepare)(struct world *w);   /* victim */
    void (*meanwhile)(struct world *w); /* survivor, between the two */
    void (*act)(struct world *w);       /* victim: killed in here */
    uint64_t (*verify)(struct world *w); /* survivor: bytes in use beyond the ordinary */
};

/* The hook ------------------------------------------------------------------------------- */

static struct told *hook_told;
static long steps_left;
static int each_line; /* how many times a line counts; 0: always */
static struct { const char *file; int line, count; } lines_seen[1024];

static bool counts(const char *file, int line) {
    if (!each_line) return true;
    size_t i = 0;
    while (lines_seen[i].file && (lines_seen[i].line != line || lines_seen[i].file != file)) i++;
    EXPECT(i < 1023);
    lines_seen[i].file = file;
    lines_seen[i].line = line;
    return ++lines_seen[i].count <= each_line;
}

static void step(const char *file, int line) {
    if (!counts(file, line) || --steps_left > 0) return;
    hook_told->file = file;
    hook_told->line = line;
    raise(SIGKILL);
}

static void arm(struct told *told, long steps, int times) {
    hook_told = told;
    steps_left = steps;
    each_line = times;
    memset(lines_seen, 0, sizeof lines_seen);
    ipcheap_step_hook = step;
}

/* Records -------------------------------------------------------------------------------- */

static uint64_t bytes_of(uint64_t number) { return number % 3 == 2 ? 20000 + number : 64 + number; }

static uint64_t room_of(struct world *w, uint64_t nbytes) {
    uint32_t size_class = size_class_of(nbytes);
    if (size_class < w->heap->geometry.classes) return size_class_bytes(size_class);
    return round_up(nbytes, PAGE);
}

static void fill(const ipcheap_record *record, uint64_t number) {
    memset(record->data, (int)(number + 1), record->nbytes);
    memcpy(record->data, &number, sizeof number);
}

static void expect_filled(const ipcheap_record *record, uint64_t number) {
    uint64_t found;
    memcpy(&found, record->data, sizeof found);
    EXPECT_EQ(found, number);
    for (uint64_t i = sizeof found; i < record->nbytes; i++)
        EXPECT_EQ(((unsigned char *)record->data)[i], (unsigned char)(number + 1));
}

static ipcheap_record make(struct world *w, uint64_t nbytes, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(w->heap, nbytes, &record), 0);
    fill(&record, number);
    return record;
}

static void give_back(struct world *w, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_free(w->heap, record), 0);
}

/* Channels ------------------------------------------------------------------------------- */

static ipcheap_key key_of(uint64_t id) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    return key;
}

static void remove_id(struct world *w, uint64_t id, int force) {
    ipcheap_key key = key_of(id);
    EXPECT_EQ(ipcheap_remove_channel(w->heap, &key, force), 0);
}

static bool find_id(struct world *w, uint64_t id, ipcheap_channel *channel) {
    ipcheap_key key = key_of(id);
    int error = ipcheap_find_channel(w->heap, &key, channel);
    EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND);
    return !error;
}

static void send_a(struct world *w) {
    uint64_t number = w->told->sent;
    ipcheap_record record = make(w, bytes_of(number), number);
    w->told->sending = number + 1;
    EXPECT_EQ(ipcheap_try_send(w->a_out, &record), 0);
    w->told->sent = number + 1;
}

static void send_b(struct world *w) {
    ipcheap_record record = make(w, bytes_of(w->b_sent), w->b_sent);
    EXPECT_EQ(ipcheap_try_send(w->b_out, &record), 0);
    w->b_sent++;
}

static uint64_t receive_b(struct world *w, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_try_receive(w->b_in, record), 0);
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    expect_filled(record, number);
    return number;
}

/* The usual worlds of a survivor. */
static void listen_a(struct world *w) {
    w->a = record_channel(w->heap, A, SLOTS);
    w->a_in = claim(w->heap, &w->a, IPCHEAP_CONSUMER);
}

static void send_b_full(struct world *w) {
    w->b = record_channel(w->heap, B, SLOTS);
    w->b_out = claim(w->heap, &w->b, IPCHEAP_PRODUCER);
    for (int i = 0; i < SLOTS; i++) send_b(w);
}

static void all_channels(struct world *w) {
    listen_a(w);
    send_b_full(w);
    w->c = record_channel(w->heap, C, SLOTS);
    w->c_in = claim(w->heap, &w->c, IPCHEAP_CONSUMER);
}

/* The channel that is forwarded to comes before the one that is forwarded from. */
static void all_channels_backwards(struct world *w) {
    w->c = record_channel(w->heap, C, SLOTS);
    w->c_in = claim(w->heap, &w->c, IPCHEAP_CONSUMER);
    listen_a(w);
    send_b_full(w);
}

static void claim_a(struct world *w) { w->a_out = claim(w->heap, &w->a, IPCHEAP_PRODUCER); }

static void claim_b(struct world *w) { w->b_in = claim(w->heap, &w->b, IPCHEAP_CONSUMER); }

static void claim_all(struct world *w) {
    claim_a(w);
    claim_b(w);
    w->c_out = claim(w->heap, &w->c, IPCHEAP_PRODUCER);
}

static void fill_a(struct world *w) {
    claim_a(w);
    for (int i = 0; i < SLOTS; i++) send_a(w);
}

/* Receives all that is on A; frees it through the ring. */
static void empty_a(struct world *w) {
    ipcheap_record record;
    while (ipcheap_try_receive(w->a_in, &record) == 0) {
        expect_filled(&record, w->a_received++);
        give_back(w, &record);
    }
}

/* The same, but keeps them first, so that the frees are remote. */
static void empty_a_keeping(struct world *w) {
    ipcheap_record record;
    while (ipcheap_try_receive(w->a_in, &record) == 0) {
        expect_filled(&record, w->a_received++);
        EXPECT_EQ(ipcheap_keep(w->heap, &record), 0);
        give_back(w, &record);
    }
}

/* Memory --------------------------------------------------------------------------------- */

static void small_come_and_go(struct world *w) {
    for (int i = 0; i < 36; i++) w->mine[i] = make(w, 1000, 0);
    for (int i = 0; i < 36; i++) give_back(w, &w->mine[i * 5 % 36]);
    w->mine[0] = make(w, 64, 0);
    statistics(w->heap);
}

static void large_slabs_come_and_go(struct world *w) {
    for (int i = 0; i < 2; i++) w->mine[i] = make(w, 30000, 0);
    w->mine[2] = make(w, 40000, 0);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    statistics(w->heap);
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
    ipcheap_channel channel = record_channel(w->heap, X, 32);
    ipcheap_endpoint *consumer = claim(w->heap, &channel, IPCHEAP_CONSUMER);
    for (int i = 0; i < 20; i++) {
        EXPECT_EQ(ipcheap_try_receive(consumer, &w->mine[i]), 0);
        EXPECT_EQ(ipcheap_keep(w->heap, &w->mine[i]), 0);
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

/* A full slab, all sent, kept and freed by the survivor; the victim collects. */
static void all_sent_and_freed(struct world *w) {
    for (int i = 0; i < 40; i++) w->mine[i] = make(w, 64, 0);
    fill_a(w);
}

static void collect_all(struct world *w) {
    for (int i = 40; i < 48; i++) w->mine[i] = make(w, 64 + (uint64_t)(i & 1), 0);
    statistics(w->heap);
}

/* The survivor sits on empty slabs, the ring on garbage; the victim needs all of it. */
static void hoard(struct world *w) {
    listen_a(w);
    send_b_full(w);
    w->mine[0] = make(w, 700, 0);
    w->mine[1] = make(w, 900, 0);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    ipcheap_channel b = w->b;
    ipcheap_endpoint *consumer = claim(w->heap, &b, IPCHEAP_CONSUMER);
    for (uint64_t i = 0; i < SLOTS; i++) {
        EXPECT_EQ(ipcheap_try_receive(consumer, &w->mine[i]), 0);
        give_back(w, &w->mine[i]);
        w->told->fate[i] = GIVEN;
    }
    ipcheap_endpoint_release(consumer);
}

static void take_everything(struct world *w) {
    ipcheap_record record;
    for (uint64_t bytes = 960 * 1024; bytes > 4096; bytes = bytes / 8 * 7)
        if (ipcheap_allocate(w->heap, bytes, &record) == 0) break;
}

static void use_much(struct world *w) {
    for (int i = 0; i < 6; i++) w->mine[i] = make(w, 9000, 0);
    for (int i = 0; i < 6; i += 2) give_back(w, &w->mine[i]);
}

static void trim(struct world *w) {
    EXPECT(ipcheap_trim(w->heap, 4096) >= 0);
    EXPECT(ipcheap_trim(w->heap, 0) >= 0);
}

/* Directory ------------------------------------------------------------------------------ */

static void add_first(struct world *w) {
    ipcheap_channel channel = record_channel(w->heap, X, 8);
    ipcheap_endpoint *producer = claim(w->heap, &channel, IPCHEAP_PRODUCER);
    ipcheap_record record = make(w, 100, 0);
    EXPECT_EQ(ipcheap_try_send(producer, &record), 0);
}

/* What is pending on X, and X goes. */
static uint64_t empty_x(struct world *w) {
    ipcheap_channel channel;
    uint64_t before = statistics(w->heap).in_use;
    /* If it was removed by force, what was pending goes with the last endpoint. */
    if (w->x_in) ipcheap_endpoint_release(w->x_in);
    if (w->x_out) ipcheap_endpoint_release(w->x_out);
    uint64_t bytes = before - statistics(w->heap).in_use;
    if (!find_id(w, X, &channel)) return bytes;
    ipcheap_endpoint *consumer = claim(w->heap, &channel, IPCHEAP_CONSUMER);
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
    record_channel(w->heap, X, 8);
    record_channel(w->heap, X + 1, 8);
    remove_id(w, X, 0);
    record_channel(w->heap, X, 4);
    remove_id(w, X + 1, 0);
}

static uint64_t added_and_removed(struct world *w) {
    ipcheap_channel channel;
    if (find_id(w, X + 1, &channel)) remove_id(w, X + 1, 0);
    return empty_x(w);
}

static void many_channels(struct world *w, uint64_t count) {
    listen_a(w);
    for (uint64_t i = 1; i < count; i++) record_channel(w->heap, 1000 + i, 1);
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
        EXPECT_EQ(ipcheap_remove_channel(w->heap, &key, 0), 0);
    }
    EXPECT(found == 126 || found == 766);
    return added_and_removed(w);
}

static void pending_x(struct world *w) {
    listen_a(w);
    ipcheap_channel channel = record_channel(w->heap, X, 4);
    w->x_out = claim(w->heap, &channel, IPCHEAP_PRODUCER);
    w->x_in = claim(w->heap, &channel, IPCHEAP_CONSUMER);
    for (int i = 0; i < 4; i++) {
        ipcheap_record record = make(w, i == 2 ? 20000 : 100, 0);
        EXPECT_EQ(ipcheap_try_send(w->x_out, &record), 0);
    }
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(w->x_in, &record), 0);
    give_back(w, &record);
}

static void pending_x_closed(struct world *w) {
    pending_x(w);
    ipcheap_endpoint_release(w->x_out);
    ipcheap_endpoint_release(w->x_in);
    w->x_out = w->x_in = NULL;
}

static void remove_x(struct world *w) { remove_id(w, X, 1); }

enum { STATIC_BYTES = 9000 };

static void add_static(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_add_static_segment(w->heap, &key, STATIC_BYTES, &channel), 1);
    unsigned char *data = ipcheap_static_data(w->heap, &channel);
    for (int i = 0; i < STATIC_BYTES; i++) EXPECT_EQ(data[i], 0);
    memset(data, 7, STATIC_BYTES);
    w->told->progress = 1;
    EXPECT_EQ(ipcheap_static_ready(w->heap, &channel, 1), 0);
    w->told->progress = 2;
}

static void add_and_remove_static(struct world *w) {
    add_static(w);
    w->told->progress = 3;
    remove_id(w, X, 0);
    w->told->progress = 4;
}

/* Statics: the survivor adds it too, and removes it. */
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
    if (fresh) EXPECT_EQ(ipcheap_static_ready(w->heap, &channel, 1), 0);
    remove_id(w, X, 0);
    return there ? round_up(STATIC_BYTES, PAGE) : 0;
}

/* Endpoints ------------------------------------------------------------------------------ */

static void unclaimed(struct world *w) {
    w->a = record_channel(w->heap, A, SLOTS);
    w->b = record_channel(w->heap, B, SLOTS);
}

static void claim_both(struct world *w) {
    claim_a(w);
    claim_b(w);
}

static void die_with_all(ipcheap_heap *heap) {
    struct world w = {.heap = heap, .told = hook_told};
    EXPECT(find_id(&w, A, &w.a) && find_id(&w, B, &w.b));
    claim_both(&w);
    ipcheap_record record;
    for (int i = 0; i < SLOTS - 1; i++) send_a(&w);
    for (int i = 0; i < 3; i++) receive_b(&w, &record);
    EXPECT_EQ(ipcheap_keep(heap, &record), 0);
    w.told->fate[2] = GIVEN;
    make(&w, 100, 0);
    make(&w, 50000, 0);
    raise(SIGKILL);
}

static void somebody_died(struct world *w) {
    listen_a(w);
    send_b_full(w);
    hook_told = w->told;
    pid_t pid = run_peer(w->fd, die_with_all);
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void recover_somebody(struct world *w) {
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(w->heap, &report), 0);
    EXPECT_EQ(report.participants, 1);
}

static void send_again(struct world *w) {
    for (int i = 0; i < SLOTS; i++) send_a(w);
}

static void receive_and_free(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) numbers[i] = receive_b(w, &records[i]);
    const int order[SLOTS] = {1, 0, 3, 2};
    for (int i = 0; i < SLOTS; i++) {
        enum fate *fate = &w->told->fate[numbers[order[i]]];
        *fate = GIVING;
        give_back(w, &records[order[i]]);
        *fate = GIVEN;
    }
}

static void keep_and_free(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        numbers[i] = receive_b(w, &records[i]);
        enum fate *fate = &w->told->fate[numbers[i]];
        *fate = GIVING;
        EXPECT_EQ(ipcheap_keep(w->heap, &records[i]), 0);
        *fate = GIVEN;
    }
    for (int i = SLOTS - 1; i >= 0; i--) give_back(w, &records[i]);
}

static void close_b(struct world *w) {
    ipcheap_endpoint_release(w->b_out);
    w->b_out = NULL;
}

static void deserted(struct world *w) {
    all_channels(w);
    close_b(w);
}

static void forward(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) numbers[i] = receive_b(w, &records[i]);
    for (int i = 0; i < SLOTS; i++) {
        enum fate *fate = &w->told->fate[numbers[i]];
        *fate = FORWARDING;
        EXPECT_EQ(ipcheap_try_send(w->c_out, &records[i]), 0);
        *fate = FORWARDED;
    }
}

/* Kept first, and then sent on. */
static void send_on(struct world *w) {
    for (int i = 0; i < SLOTS; i++) {
        ipcheap_record record;
        enum fate *fate = &w->told->fate[receive_b(w, &record)];
        *fate = GIVING;
        EXPECT_EQ(ipcheap_keep(w->heap, &record), 0);
        EXPECT_EQ(ipcheap_try_send(w->c_out, &record), 0);
        *fate = FORWARDED;
    }
}

static void close_producer(struct world *w) { ipcheap_endpoint_release(w->a_out); }

static void hold_some(struct world *w) {
    claim_b(w);
    for (int i = 0; i < SLOTS - 1; i++) receive_b(w, &w->mine[i]);
}

static void close_consumer(struct world *w) {
    for (int i = 0; i < SLOTS - 1; i++) w->told->fate[i] = GIVING;
    EXPECT_EQ(ipcheap_endpoint_close(w->b_in), 0);
    for (int i = 0; i < SLOTS - 1; i++) w->told->fate[i] = GIVEN;
    for (int i = 0; i < SLOTS - 1; i++) give_back(w, &w->mine[i]);
}

static void join(struct world *w) {
    w->heap = attach(w->fd);
    w->told->attached = 1;
    w->mine[0] = make(w, 100, 0);
}

static void own_everything(struct world *w) {
    fill_a(w);
    hold_some(w);
    w->mine[10] = make(w, 100, 0);
    w->mine[11] = make(w, 30000, 0);
}

static void leave(struct world *w) {
    for (int i = 0; i < SLOTS - 1; i++) w->told->fate[i] = GIVING;
    ipcheap_release(w->heap);
    for (int i = 0; i < SLOTS - 1; i++) w->told->fate[i] = GIVEN;
}

static void leave_with_nothing(struct world *w) {
    w->mine[0] = make(w, 100, 0);
    w->mine[1] = make(w, 30000, 0);
    for (int i = 0; i < 2; i++) give_back(w, &w->mine[i]);
    ipcheap_release(w->heap);
}

static void wait_in_vain(struct world *w) {
    ipcheap_record record;
    receive_and_free(w);
    EXPECT_EQ(ipcheap_receive(w->b_in, &record, 100000), IPCHEAP_TIMED_OUT);
}

static void wait_for_many_in_vain(struct world *w) {
    ipcheap_waitable items[] = {{.endpoint = w->b_in}, {.endpoint = w->b_in}};
    receive_and_free(w);
    EXPECT_EQ(ipcheap_wait_any(items, 2, 100000), 0);
}

/* Bells -------------------------------------------------------------------------------- */

static void bell_comes_and_goes(struct world *w) {
    EXPECT(ipcheap_endpoint_descriptor(w->b_in) >= 0);
    receive_and_free(w);
    EXPECT_EQ(ipcheap_wait(w->b_in, 100000), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_endpoint_close(w->b_in), 0);
}

static void listen_a_by_bell(struct world *w) {
    listen_a(w);
    w->bell = ipcheap_endpoint_descriptor(w->a_in);
    EXPECT(w->bell > 0);
}

static bool bell_rings(const struct world *w) {
    struct pollfd one = {.fd = w->bell, .events = POLLIN};
    return poll(&one, 1, 0) == 1;
}

static void arm_bell(struct world *w) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(w->a_in, &record), IPCHEAP_WOULD_BLOCK);
    EXPECT(!bell_rings(w));
}

/* Locks in a static segment -------------------------------------------------------------- */

static ipcheap_channel lock_segment(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    int fresh = ipcheap_add_static_segment(w->heap, &key, 64, &channel);
    EXPECT(fresh >= 0);
    if (fresh) EXPECT_EQ(ipcheap_static_ready(w->heap, &channel, 1), 0);
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
        EXPECT_EQ(ipcheap_lock_acquire(w->heap, lock, -1), 0);
        w->told->progress = 1;
        EXPECT_EQ(ipcheap_lock_release(w->heap, lock), 0);
        w->told->progress = 0;
    }
}

static uint64_t lock_after(struct world *w) {
    ipcheap_channel channel = lock_segment(w);
    void *lock = ipcheap_static_data(w->heap, &channel);
    int got = ipcheap_lock_acquire(w->heap, lock, 1000000000);
    EXPECT_EQ(got, w->told->progress ? IPCHEAP_OWNER_DIED : 0);
    EXPECT_EQ(ipcheap_lock_release(w->heap, lock), 0);
    EXPECT_EQ(ipcheap_lock_acquire(w->heap, lock, 1000000000), 0);
    EXPECT_EQ(ipcheap_lock_release(w->heap, lock), 0);
    remove_id(w, X, 0);
    return PAGE;
}

static const struct scenario scenarios[] = {
    {"small", MIB, listen_a, NULL, NULL, small_come_and_go, NULL},
    {"large slabs", 16 * MIB, listen_a, NULL, NULL, large_slabs_come_and_go, NULL},
    {"extents", MIB, listen_a, NULL, NULL, extents_come_and_go, NULL},
    {"adopt", MIB, adopt_before, NULL, NULL, adopt, adopted},
    {"collect", MIB, listen_a, all_sent_and_freed, empty_a_keeping, collect_all, NULL},
    {"remote free", MIB, deserted, claim_b, NULL, keep_and_free, NULL},
    {"free where deserted", MIB, deserted, claim_b, NULL, receive_and_free, NULL},
    {"reclaim", MIB, hoard, NULL, NULL, take_everything, NULL},
    {"trim", MIB, listen_a, use_much, NULL, trim, NULL},
    {"first channel", MIB, NULL, NULL, NULL, add_first, empty_x},
    {"channels", MIB, listen_a, NULL, NULL, add_and_remove, added_and_removed},
    {"second chunk", MIB, before_second_chunk, NULL, NULL, add_and_remove, many_removed},
    {"second table", MIB, before_second_table, NULL, NULL, add_and_remove, many_removed},
    {"remove", MIB, pending_x_closed, NULL, NULL, remove_x, empty_x},
    {"remove by force", MIB, pending_x, NULL, NULL, remove_x, empty_x},
    {"first static", MIB, NULL, NULL, NULL, add_static, static_added},
    {"static", MIB, listen_a, NULL, NULL, add_and_remove_static, static_added},
    {"claim", MIB, unclaimed, NULL, NULL, claim_both, NULL},
    {"claim from the dead", MIB, somebody_died, NULL, NULL, claim_both, NULL},
    {"recover", MIB, somebody_died, NULL, NULL, recover_somebody, NULL},
    {"send", MIB, listen_a, claim_a, NULL, send_again, NULL},
    {"send over garbage", MIB, listen_a, fill_a, empty_a, send_again, NULL},
    {"receive and free", MIB, all_channels, claim_b, NULL, receive_and_free, NULL},
    {"keep", MIB, all_channels, claim_b, NULL, keep_and_free, NULL},
    {"forward", MIB, all_channels, claim_all, NULL, forward, NULL},
    {"forward backwards", MIB, all_channels_backwards, claim_all, NULL, forward, NULL},
    {"keep and send on", MIB, all_channels, claim_all, NULL, send_on, NULL},
    {"close a producer", MIB, listen_a, fill_a, empty_a, close_producer, NULL},
    {"close a consumer", MIB, all_channels, hold_some, NULL, close_consumer, NULL},
    {"join", MIB, listen_a, NULL, NULL, join, NULL},
    {"leave", MIB, all_channels, own_everything, NULL, leave, NULL},
    {"leave with nothing", MIB, listen_a, NULL, NULL, leave_with_nothing, NULL},
    {"wait", MIB, all_channels, claim_b, NULL, wait_in_vain, NULL},
    {"wait for many", MIB, all_channels, claim_b, NULL, wait_for_many_in_vain, NULL},
    {"bell", MIB, all_channels, claim_b, NULL, bell_comes_and_goes, NULL},
    {"ring a bell", MIB, listen_a_by_bell, claim_a, arm_bell, send_again, NULL},
    {"lock", MIB, lock_before, NULL, NULL, lock_twice, lock_after},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* The survivor --------------------------------------------------------------------------- */

static const uint64_t own_bytes[OWN] = {100, 1000, 5000, 40000};

/* Waits a moment for the lock only: the dead are found when the time is up. */
static int recover_now(ipcheap_heap *heap, ipcheap_recovery *report) {
    ipcheap_set_lock_timeout(heap, 1000000);
    int error = ipcheap_recover(heap, report);
    ipcheap_set_lock_timeout(heap, 10000000000);
    return error;
}

static uint64_t drain_a(struct world *w) {
    uint64_t bytes = 0, limit = w->told->sending;
    ipcheap_record records[SLOTS];
    int count = 0;
    while (count < SLOTS && ipcheap_try_receive(w->a_in, &records[count]) == 0) {
        expect_filled(&records[count], w->a_received++);
        bytes += room_of(w, records[count++].nbytes);
    }
    EXPECT(w->a_received == w->told->sent || w->a_received == limit);
    for (int i = 0; i < count; i++) give_back(w, &records[i]);
    return bytes;
}

/* What comes again on B, or on C for the first time: each record on one of them or on none. */
static uint64_t drain_b_and_c(struct world *w) {
    uint64_t bytes = 0, number, last = 0;
    bool seen_b[MOST] = {false}, seen_c[MOST] = {false};
    ipcheap_record record;
    w->b_in = claim(w->heap, &w->b, IPCHEAP_CONSUMER);
    while (ipcheap_try_receive(w->b_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_b[number]);
        last = number;
        seen_b[number] = true;
        bytes += room_of(w, record.nbytes);
        give_back(w, &record);
    }
    last = 0;
    while (w->c_in && ipcheap_try_receive(w->c_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_c[number]);
        last = number;
        seen_c[number] = true;
        bytes += room_of(w, record.nbytes);
        give_back(w, &record);
    }
    for (uint64_t i = 0; i < w->b_sent; i++) {
        enum fate fate = w->told->fate[i];
        EXPECT(!seen_b[i] || !seen_c[i]);
        if (fate == UNTOUCHED) EXPECT(seen_b[i]);
        if (fate == GIVEN) EXPECT(!seen_b[i] && !seen_c[i]);
        if (fate == FORWARDING) EXPECT(seen_b[i] || seen_c[i]);
        if (fate == FORWARDED) EXPECT(seen_c[i]);
    }
    ipcheap_endpoint_release(w->b_in);
    return bytes;
}

/* The channel goes on, with the survivor on both sides. */
static void use_channel(struct world *w, uint64_t id, ipcheap_endpoint *out, ipcheap_endpoint *in) {
    ipcheap_channel channel = record_channel(w->heap, id, SLOTS);
    if (!out) out = claim(w->heap, &channel, IPCHEAP_PRODUCER);
    if (!in) in = claim(w->heap, &channel, IPCHEAP_CONSUMER);
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

static void accept_all(struct world *w, const struct scenario *s) {
    expect_sound(w->heap);
    uint64_t in_use = statistics(w->heap).in_use, bytes = 0;
    EXPECT_EQ(statistics(w->heap).participants, 1);
    expect_sound(w->heap);
    for (int i = 0; i < OWN; i++) bytes += room_of(w, own_bytes[i]);
    if (w->a_in) bytes += drain_a(w);
    if (w->b.shape) bytes += drain_b_and_c(w);
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
    /* Of the directory one table is left, and chunks. */
    uint64_t pages = get(&w->heap->header->zones[SYSTEM_ZONE].used), chunks = 0;
    for (uint64_t i = 0; i < DIRECTORY_CHUNKS; i++)
        if (get(&w->heap->header->chunks[i])) chunks += (UINT64_C(16) << i);
    EXPECT_EQ(pages, chunks + ((UINT64_C(4) << (get(&w->heap->header->table) >> 56)) >> PAGE_SHIFT));
    expect_sound(w->heap);
}

static void meet(struct world *w, int end, int times) {
    char byte = 0;
    for (int i = 0; i < times; i++) {
        EXPECT_EQ(write(w->meet[end], &byte, 1), 1);
        EXPECT_EQ(read(w->meet[end], &byte, 1), 1);
    }
}

static void be_victim(struct world *w, const struct scenario *s, long k) {
    alarm(20);
    if (s->act != join) {
        w->heap = attach(w->fd);
        w->told->attached = 1;
    }
    if (s->prepare) s->prepare(w);
    meet(w, 1, 2);
    arm(w->told, k, 0);
    s->act(w);
    ipcheap_step_hook = NULL;
    w->told->done = 1;
    _exit(0);
}

static void be_second_victim(struct world *w, struct told *told, long j, int times) {
    alarm(20);
    ipcheap_heap *heap = attach(w->fd);
    arm(told, j, times);
    ipcheap_recovery report;
    EXPECT_EQ(recover_now(heap, &report), 0);
    ipcheap_step_hook = NULL;
    told->done = 1;
    _exit(0);
}

static void expect_end(pid_t pid, const struct told *told) {
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (told->done)
        EXPECT_EQ(status, 0);
    else
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* One run in a process of its own: a victim killed at step k, a second one at step j, or none. */
static void survive(const struct scenario *s, struct told told[2], long k, long j, int times) {
    struct world w = {.told = told};
    alarm(30);
    w.fd = new_segment(s->capacity);
    w.heap = attach(w.fd);
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, w.meet), 0);
    for (int i = 0; i < OWN; i++) w.own[i] = make(&w, own_bytes[i], (uint64_t)i);
    if (s->before) s->before(&w);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) be_victim(&w, s, k);
    close(w.meet[1]);
    meet(&w, 0, 1);
    if (s->meanwhile) s->meanwhile(&w);
    meet(&w, 0, 1);
    expect_end(pid, told);
    if (w.bell) EXPECT(bell_rings(&w)); /* for a record, or for the death */
    if (j) {
        pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0) be_second_victim(&w, told + 1, j, times);
        expect_end(pid, told + 1);
    }
    ipcheap_recovery report;
    EXPECT_EQ(recover_now(w.heap, &report), 0);
    EXPECT(report.participants <= 3);
    accept_all(&w, s);
    ipcheap_release(w.heap);
    _exit(0);
}

/* The driver ----------------------------------------------------------------------------- */

static long crashes, failures;

/* False once the victim in question got to the end. */
static bool run(const struct scenario *s, struct told told[2], long k, long j, int times) {
    memset(told, 0, 2 * sizeof *told);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) survive(s, told, k, j, times);
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (status) {
        failures++;
        fprintf(stderr, "FAILED: '%s' at step %ld (%s:%d)", s->name, k,
                told[0].file ? told[0].file : "end", told[0].line);
        if (j)
            fprintf(stderr, ", recovery at step %ld (%s:%d)", j,
                    told[1].file ? told[1].file : "end", told[1].line);
        fprintf(stderr, ", status %x\n", (unsigned)status);
    }
    bool died = !told[j ? 1 : 0].done;
    /* Neither killed nor at the end: what comes before does not work. */
    if (status && died && !told[j ? 1 : 0].file) return false;
    crashes += died;
    return died;
}

/* Every step; then some of them with every line of recovery. */
static void run_scenario(const struct scenario *s, struct told *told, long samples, int times) {
    long steps = 1;
    while (run(s, told, steps, 0, 0)) steps++;
    for (long sample = 0; sample <= samples && samples; sample++) {
        long k = 1 + (steps - 1) * sample / samples, j = 1;
        while (run(s, told, k, j, times)) j++;
    }
}

int main(int count, char **arguments) {
    struct told *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(told != MAP_FAILED);
    const char *samples = getenv("IPCHEAP_CRASH_SAMPLES"), *times = getenv("IPCHEAP_CRASH_TIMES");
    const char *only = count > 1 ? arguments[1] : NULL;
    for (int i = 0; i < SCENARIOS; i++) {
        const struct scenario *s = &scenarios[i];
        if (only && strcmp(only, s->name)) continue;
        if (count > 2)
            run(s, told, atol(arguments[2]), count > 3 ? atol(arguments[3]) : 0,
                times ? atoi(times) : 1);
        else
            run_scenario(s, told, samples ? atol(samples) : 3, times ? atoi(times) : 1);
    }
    if (failures) {
        printf("%ld failures at %ld crash points\n", failures, crashes);
        return 1;
    }
    printf("%ld crash points in %d scenarios, all recovered\n", crashes, only ? 1 : SCENARIOS);
    return 0;
}

#endif
