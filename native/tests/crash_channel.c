/* crash_channel.c - a death while claiming, sending, receiving, waiting, closing, leaving. */
#include "crash.h"

static void unclaimed(struct world *w) {
    w->a = add_channel(w, A, SLOTS);
    w->b = add_channel(w, B, SLOTS);
}

static void claim_all(struct world *w) {
    claim_a(w);
    claim_b(w);
    w->c_out = claim_side(w, &w->c, IPCHEAP_PRODUCER);
}

static void claim_both(struct world *w) {
    claim_a(w);
    claim_b(w);
}

static struct told *told_by_the_dead;

static void die_with_all(ipcheap_heap *heap) {
    struct world w = {.heap = heap, .told = told_by_the_dead};
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
    told_by_the_dead = w->told;
    pid_t pid = run_peer(w->fd, die_with_all);
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Returns CHANNEL_BUSY if no participant is found dead, as when the kernel cannot tell. */
static int recover_one(ipcheap_heap *heap) {
    ipcheap_recovery report;
    int error = ipcheap_recover(heap, &report);
    if (error) return error;
    return report.participants ? (int)report.participants : IPCHEAP_CHANNEL_BUSY;
}

static void recover_somebody(struct world *w) { EXPECT_EQ(CALL(recover_one(w->heap)), 1); }

/* Receives everything on A; frees it through the ring. */
static void empty_a(struct world *w) {
    ipcheap_record record;
    while (ipcheap_try_receive(w->a_in, &record) == 0) {
        expect_filled(&record, w->a_received++);
        give_back(w, &record);
    }
}

static void send_again(struct world *w) {
    for (int i = 0; i < SLOTS; i++) send_a(w);
}

/* Sends a batch; one in four records has another size. */
static void send_copies(struct world *w) {
    static unsigned char bytes[SLOTS][20000];
    ipcheap_bytes copied[SLOTS];
    for (uint64_t i = 0; i < SLOTS; i++) {
        uint64_t number = w->told->sent + i;
        uint64_t nbytes = number % SLOTS == 2 ? 20000 : 100 + number;
        ipcheap_record as = {.data = bytes[i], .nbytes = nbytes};
        fill(&as, number);
        copied[i] = (ipcheap_bytes){as.data, as.nbytes};
    }
    w->told->sending = w->told->sent + SLOTS;
    for (int64_t went, done = 0; done < SLOTS; done += went) { /* all of them, unless one fails */
        went = CALL(ipcheap_try_send_copies(w->a_out, copied + done, (size_t)(SLOTS - done)));
        EXPECT(went > 0 && went <= SLOTS - done);
    }
    w->told->sent += SLOTS;
}

static void fill_a_with_copies(struct world *w) {
    claim_a(w);
    send_copies(w);
}

static int take_copies(void *context, const ipcheap_bytes *records, size_t count) {
    struct world *w = context;
    for (size_t i = 0; i < count; i++) {
        ipcheap_record as = {.data = (void *)(uintptr_t)records[i].data,
                             .nbytes = records[i].nbytes};
        uint64_t number;
        memcpy(&number, as.data, sizeof number);
        expect_filled(&as, number);
        w->told->fate[number] = GIVING;
    }
    return w->told->progress++ == 1 ? -77 : 0; /* rejects the second group once */
}

static void read_copies(struct world *w) {
    EXPECT_EQ(CALL(ipcheap_try_receive_copies(w->b_in, take_copies, w, SLOTS)), 1);
    w->told->fate[0] = GIVEN;
    for (int64_t got, done = 1; done < SLOTS; done += got) {
        got = CALL(ipcheap_try_receive_copies(w->b_in, take_copies, w, SLOTS));
        EXPECT(got > 0 && got <= SLOTS - done);
    }
    for (int i = 1; i < SLOTS; i++) w->told->fate[i] = GIVEN;
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
        EXPECT_EQ(CALL(ipcheap_keep(w->heap, &records[i])), 0);
        *fate = GIVEN;
    }
    for (int i = SLOTS - 1; i >= 0; i--) give_back(w, &records[i]);
}

static ipcheap_heap *other_handle;

static void claim_b_and_attach_again(struct world *w) {
    claim_b(w);
    other_handle = attach(w->fd);
}

/* Passes received records to another handle of this process, and frees them there. */
static void adopt_and_free(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        numbers[i] = receive_b(w, &records[i]);
        enum fate *fate = &w->told->fate[numbers[i]];
        *fate = GIVING;
        EXPECT_EQ(CALL(ipcheap_adopt(other_handle, w->heap, &records[i])), 0);
        *fate = GIVEN;
    }
    for (int i = SLOTS - 1; i >= 0; i--)
        EXPECT_EQ(CALL(ipcheap_free(other_handle, &records[i])), 0);
    ipcheap_release(other_handle);
}

static void close_b(struct world *w) {
    ipcheap_endpoint_release(w->b_out);
    w->b_out = NULL;
}

static void deserted(struct world *w) {
    all_channels(w);
    close_b(w);
}

/* The channel that is forwarded to has a lower index than the one that is forwarded from. */
static void all_channels_backwards(struct world *w) {
    w->c = add_channel(w, C, SLOTS);
    w->c_in = claim_side(w, &w->c, IPCHEAP_CONSUMER);
    listen_a(w);
    send_b_full(w);
}

static void forward(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) numbers[i] = receive_b(w, &records[i]);
    for (int i = 0; i < SLOTS; i++) {
        enum fate *fate = &w->told->fate[numbers[i]];
        *fate = FORWARDING;
        EXPECT_EQ(CALL(ipcheap_try_send(w->c_out, &records[i])), 0);
        *fate = FORWARDED;
    }
}

/* Keeps each record first, and then forwards it. */
static void send_on(struct world *w) {
    for (int i = 0; i < SLOTS; i++) {
        ipcheap_record record;
        enum fate *fate = &w->told->fate[receive_b(w, &record)];
        *fate = GIVING;
        EXPECT_EQ(CALL(ipcheap_keep(w->heap, &record)), 0);
        EXPECT_EQ(CALL(ipcheap_try_send(w->c_out, &record)), 0);
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
    EXPECT_EQ(CALL(ipcheap_endpoint_close(w->b_in)), 0);
    for (int i = 0; i < SLOTS - 1; i++) w->told->fate[i] = GIVEN;
    for (int i = 0; i < SLOTS - 1; i++) give_back(w, &w->mine[i]);
}

/* To ask for one more detaches the first, in whose slot that would stand. */
static void hold_all(struct world *w) {
    ipcheap_record more;
    for (int i = 0; i < SLOTS; i++) receive_b(w, &w->mine[i]);
    w->told->fate[0] = GIVING;
    EXPECT_EQ(CALL(ipcheap_try_receive(w->b_in, &more)), IPCHEAP_WOULD_BLOCK);
    w->told->fate[0] = GIVEN;
    for (int i = 0; i < SLOTS; i++) w->told->fate[i] = GIVING;
    EXPECT_EQ(CALL(ipcheap_endpoint_close(w->b_in)), 0);
    for (int i = 0; i < SLOTS; i++) w->told->fate[i] = GIVEN;
    for (int i = 0; i < SLOTS; i++) give_back(w, &w->mine[i]);
}

static void join(struct world *w) {
    EXPECT_EQ(CALL(ipcheap_attach(w->fd, -1, &w->heap)), 0);
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

static void wait_without_success(struct world *w) {
    ipcheap_record record;
    receive_and_free(w);
    EXPECT_EQ(CALL(ipcheap_receive(w->b_in, &record, 100000)), IPCHEAP_TIMED_OUT);
}

static void wait_for_many_without_success(struct world *w) {
    ipcheap_waitable items[] = {{.endpoint = w->b_in}, {.endpoint = w->b_in}};
    receive_and_free(w);
    EXPECT_EQ(CALL(ipcheap_wait_any(items, 2, 100000)), 0);
}

/* Bells -------------------------------------------------------------------------------- */

static void bell_comes_and_goes(struct world *w) {
    EXPECT(CALL(ipcheap_endpoint_descriptor(w->b_in)) >= 0);
    receive_and_free(w);
    EXPECT_EQ(CALL(ipcheap_wait(w->b_in, 100000)), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(CALL(ipcheap_endpoint_close(w->b_in)), 0);
}

static void listen_a_by_bell(struct world *w) {
    listen_a(w);
    w->bell = ipcheap_endpoint_descriptor(w->a_in);
    EXPECT(w->bell > 0);
}

static void arm_bell(struct world *w) {
    ipcheap_record record;
    EXPECT_EQ(CALL(ipcheap_try_receive(w->a_in, &record)), IPCHEAP_WOULD_BLOCK);
    EXPECT(!bell_rings(w));
}

const struct scenario channel_scenarios[] = {
    {"remote free", MIB, .before = deserted, .prepare = claim_b, .act = keep_and_free},
    {"free where deserted", MIB, .before = deserted, .prepare = claim_b, .act = receive_and_free},
    {"claim", MIB, .before = unclaimed, .act = claim_both},
    {"claim from the dead", MIB, .before = somebody_died, .act = claim_both},
    {"recover", MIB, .before = somebody_died, .act = recover_somebody},
    {"send", MIB, .before = listen_a, .prepare = claim_a, .act = send_again},
    {"send over garbage", MIB, .before = listen_a, .prepare = fill_a, .meanwhile = empty_a,
     .act = send_again},
    {"send copies", MIB, .before = listen_a, .prepare = claim_a, .act = send_copies},
    {"send copies over garbage", MIB, .before = listen_a, .prepare = fill_a_with_copies,
     .meanwhile = empty_a, .act = send_copies},
    {"read copies", MIB, .before = all_channels, .prepare = claim_b, .act = read_copies},
    {"receive and free", MIB, .before = all_channels, .prepare = claim_b, .act = receive_and_free},
    {"keep", MIB, .before = all_channels, .prepare = claim_b, .act = keep_and_free},
    {"adopt", MIB, .before = all_channels, .prepare = claim_b_and_attach_again,
     .act = adopt_and_free},
    {"forward", MIB, .before = all_channels, .prepare = claim_all, .act = forward},
    {"forward backwards", MIB, .before = all_channels_backwards, .prepare = claim_all,
     .act = forward},
    {"keep and send on", MIB, .before = all_channels, .prepare = claim_all, .act = send_on},
    {"close a producer", MIB, .before = listen_a, .prepare = fill_a, .meanwhile = empty_a,
     .act = close_producer},
    {"close a consumer", MIB, .before = all_channels, .prepare = hold_some, .act = close_consumer},
    {"hold a whole ring", MIB, .before = all_channels, .prepare = claim_b, .act = hold_all},
    {"join", MIB, .before = listen_a, .act = join, .joins = true},
    {"leave", MIB, .before = all_channels, .prepare = own_everything, .act = leave, .leaves = true},
    {"leave with nothing", MIB, .before = listen_a, .act = leave_with_nothing, .leaves = true},
    {"wait", MIB, .before = all_channels, .prepare = claim_b, .act = wait_without_success},
    {"wait for many", MIB, .before = all_channels, .prepare = claim_b,
     .act = wait_for_many_without_success},
    {"bell", MIB, .before = all_channels, .prepare = claim_b, .act = bell_comes_and_goes},
    {"ring a bell", MIB, .before = listen_a_by_bell, .prepare = claim_a, .meanwhile = arm_bell,
     .act = send_again},
    {0},
};
