/*
 * crash_bus_acts.c - a death while adding, posting, forwarding, receiving, releasing, keeping, passing,
 * broadcasting, listening, waiting, recovering, reclaiming, closing and removing.
 */
#include "crash_bus.h"

#include "base/timing.h"
#include "bus/broadcast.h"

#define SHAPE(history_, patience_)                                               \
    {.given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_HISTORY | IPCHEAP_BUS_PATIENCE, \
     .capacity = PLACES,                                                         \
     .history = (history_),                                                      \
     .patience_ns = (patience_)}
static const ipcheap_bus_options plain = SHAPE(0, -1), remembering = SHAPE(6, -1),
                                 patient = SHAPE(0, 20 * MILLISECOND);
static const ipcheap_bus_options long_one = {
    .given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_HISTORY, .capacity = 128, .history = 128};

/* The victim has slabs already: how those are made is the memory's own matter. */
static void warm(struct world *w) {
    ipcheap_record records[6];
    for (uint64_t i = 0; i < 6; i++) records[i] = make(w, 60 + 64 * i, i);
    for (int i = 0; i < 6; i++) give_back(w, &records[i]);
}

/* Adding ------------------------------------------------------------------------------------- */

static void no_bus(struct world *w) {
    (void)w;
    x = (struct known){.history = remembering.history};
    y = (struct known){0};
}

static void add_and_remove_bus(struct world *w) {
    ipcheap_record message;
    x.channel = add_the_bus(w, X, &remembering);
    post_copy(w);
    ipcheap_endpoint *first = listen_to(w, &x.channel, 1, 0);
    ipcheap_endpoint *second = listen_to(w, &x.channel, 0, IPCHEAP_LOSSY);
    post_own(w);
    EXPECT_EQ(CALL(ipcheap_try_receive(first, &message)), 0);
    give_back(w, &message);
    ipcheap_endpoint_release(first);
    ipcheap_endpoint_release(second);
    w->told->progress = 1;
    remove_id(w, X, 0);
    w->told->progress = 2;
}

static uint64_t bus_added(struct world *w) {
    bool there = find_id(w, X, &x.channel);
    if (w->told->progress == 2) EXPECT(!there);
    uint64_t room = there ? room_of_bus(w, &x) : 0;
    if (there && w->told->progress == 0) { /* otherwise it was perhaps half removed */
        use_bus(w);
        return room;
    }
    w->told->posting = w->told->posted = 0;
    if (there) remove_id(w, X, 1);
    no_bus(w);
    x.channel = add_the_bus(w, X, &remembering);
    use_bus(w);
    return room;
}

/* Posting ------------------------------------------------------------------------------------ */

static void post_some(struct world *w, int count) {
    for (int i = 0; i < count; i++) i % 3 ? post_copy(w) : post_own(w);
}

/* The survivor has received all but the last two, and holds two, one of which it keeps. */
static void listened_to(struct world *w) {
    no_bus(w);
    begin_bus(w, &plain, 0);
    post_some(w, 6);
    hold_one(w, &x);
    hold_one(w, &x);
    EXPECT_EQ(ipcheap_keep(w->heap, &x.held[1]), 0);
    ipcheap_record message;
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(ipcheap_try_receive(x.in, &message), 0);
        EXPECT_EQ(ipcheap_free(w->heap, &message), 0);
        x.heard++;
    }
}

static void post_copies(struct world *w) {
    for (int i = 0; i < 6; i++) post_copy(w);
}

static void post_records(struct world *w) {
    for (int i = 0; i < 6; i++) post_own(w);
}

/* The log is full; what does not fit is not posted, and a record stays the victim's. */
static void post_without_room(struct world *w) {
    post_copies(w);
    ipcheap_record record = make(w, 50000, 3);
    EXPECT_EQ(CALL(ipcheap_try_post_record(w->heap, &x.channel, &record, NULL)),
              IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(CALL(ipcheap_try_post(w->heap, &x.channel, "", 0, NULL)), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(CALL(ipcheap_post(w->heap, &x.channel, "", 0, 2 * MILLISECOND, NULL)),
              IPCHEAP_TIMED_OUT);
    expect_filled(&record, 3);
    give_back(w, &record);
}

/* The survivor sleeps in every way at the same time. */
static void waited_for(struct world *w) {
    listened_to(w);
    hear(w, &x);
    w->bell = (int)CALL(ipcheap_endpoint_descriptor(x.in));
    EXPECT(w->bell > 0);
}

static void fall_asleep(struct world *w) {
    ipcheap_record message;
    struct bus bus;
    EXPECT_EQ(ipcheap_try_receive(x.in, &message), IPCHEAP_WOULD_BLOCK);
    EXPECT(!bell_rings(w));
    EXPECT(bus_view(w->heap, x.channel.index, &bus));
    put_or(&bus.root->sleepers, SLEEPERS_HERE);
}

/* Nobody listens: only the history keeps messages. */
static void remembered(struct world *w) {
    no_bus(w);
    begin_bus(w, &remembering, 0);
    post_some(w, 3);
    hear(w, &x);
    ipcheap_endpoint_release(x.in);
    x.in = NULL;
}

static void post_and_look_back(struct world *w) {
    ipcheap_record message;
    post_some(w, 7);
    ipcheap_endpoint *late = listen_to(w, &x.channel, 4, 0);
    for (uint64_t position = 6; position < 10; position++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(late, &message)), 0);
        EXPECT_EQ(message.position, position);
        expect_text(&message, w->told->text[position]);
        give_back(w, &message);
    }
    post_some(w, 3);
    ipcheap_endpoint_release(late);
}

/* The survivor does not receive, and writers go on without it. */
static void lossy(struct world *w) {
    no_bus(w);
    begin_bus(w, &plain, IPCHEAP_LOSSY);
    post_some(w, PLACES);
    hold_one(w, &x);
}

static void post_over_the_end(struct world *w) { post_some(w, PLACES + 2); }

static uint64_t bus_after_loss(struct world *w) {
    uint64_t posted = w->told->posted, room = bus_after(w);
    EXPECT(x.lost <= (posted > PLACES ? posted - PLACES + PLACES / 8 + 1 : 0));
    return room;
}

static void too_slow(struct world *w) {
    no_bus(w);
    begin_bus(w, &patient, 0);
    post_some(w, PLACES);
    hold_one(w, &x);
    post_some(w, 1);
}

static void lose_patience(struct world *w) {
    EXPECT_EQ(CALL(ipcheap_try_post(w->heap, &x.channel, "", 0, NULL)), IPCHEAP_WOULD_BLOCK);
    w->heap->boot_offset -= SECOND;
    post_some(w, PLACES);
}

/* Only as many are lost as making room took. */
static uint64_t bus_after_passing(struct world *w) {
    uint64_t posting = w->told->posting, room = bus_after(w);
    EXPECT(x.lost <= posting - PLACES);
    return room;
}

/* Handing on --------------------------------------------------------------------------------- */

static void ring_before(struct world *w) {
    send_b_full(w);
    listened_to(w);
}

static void bus_before(struct world *w) {
    listened_to(w);
    send_b_full(w);
}

static void claim_warm(struct world *w) {
    warm(w);
    claim_b(w);
}

static void forward_from_ring(struct world *w) {
    ipcheap_record records[SLOTS];
    uint64_t numbers[SLOTS];
    for (int i = 0; i < SLOTS; i++) numbers[i] = receive_b(w, &records[i]);
    for (int i = 0; i < SLOTS; i++) {
        posting(w, numbers[i]);
        w->told->fate[numbers[i]] = GIVING;
        EXPECT_EQ(CALL(ipcheap_try_post_record(w->heap, &x.channel, &records[i], NULL)), 0);
        EXPECT(!records[i].data);
        posted(w);
    }
}

static ipcheap_endpoint *ear; /* the victim's */

/* On Y only the victim listens. */
static void two_buses(struct world *w) {
    listened_to(w);
    begin_y(w, false);
}

static void two_buses_backwards(struct world *w) {
    no_bus(w);
    begin_y(w, false);
    struct known before = y;
    listened_to(w);
    y = before;
}

static void shared_buses(struct world *w) {
    listened_to(w);
    begin_y(w, true);
}

static void listen_to_y(struct world *w) {
    warm(w);
    ear = listen_to(w, &y.channel, 0, 0);
}

static void tell_y(struct world *w) {
    post_y(w, 6);
    if (!y.in) return;
    hold_one(w, &y);
    hold_one(w, &y);
}

static void forward_from_bus(struct world *w) {
    ipcheap_record messages[6];
    for (uint64_t i = 0; i < 6; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &messages[i])), 0);
        expect_text(&messages[i], FROM_Y + i);
    }
    const int order[6] = {1, 0, 5, 3, 2, 4};
    for (int i = 0; i < 6; i++) {
        ipcheap_record *message = &messages[order[i]];
        if (i == 4) EXPECT_EQ(CALL(ipcheap_keep(w->heap, message)), 0);
        posting(w, (uint64_t)(FROM_Y + order[i]));
        EXPECT_EQ(CALL(ipcheap_try_post_record(w->heap, &x.channel, message, NULL)), 0);
        EXPECT(!message->data);
        posted(w);
    }
}

/* The listener has closed; what it held goes on, or to another handle of this process. */
static void forward_after_closing(struct world *w) {
    ipcheap_record messages[6];
    for (uint64_t i = 0; i < 6; i++) EXPECT_EQ(CALL(ipcheap_try_receive(ear, &messages[i])), 0);
    EXPECT_EQ(CALL(ipcheap_endpoint_close(ear)), 0);
    for (int i = 0; i < 6; i += 2) {
        posting(w, (uint64_t)(FROM_Y + i));
        EXPECT_EQ(CALL(ipcheap_try_post_record(w->heap, &x.channel, &messages[i], NULL)), 0);
        posted(w);
        give_back(w, &messages[i + 1]);
    }
    ipcheap_endpoint_release(ear);
}

static ipcheap_heap *other_handle;

static void listen_and_attach_again(struct world *w) {
    listen_to_y(w);
    other_handle = attach(w->fd);
}

static void adopt_messages(struct world *w) {
    ipcheap_record messages[3];
    for (uint64_t i = 0; i < 3; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &messages[i])), 0);
        EXPECT_EQ(CALL(ipcheap_adopt(other_handle, w->heap, &messages[i])), 0);
        expect_text(&messages[i], FROM_Y + i);
    }
    for (int i = 0; i < 3; i++) EXPECT_EQ(CALL(ipcheap_free(other_handle, &messages[i])), 0);
    ipcheap_release(other_handle);
}

static void bus_and_ring(struct world *w) {
    two_buses(w);
    ipcheap_channel ring = add_channel(w, R, PLACES);
    w->x_in = claim_side(w, &ring, IPCHEAP_CONSUMER);
}

static void listen_and_claim(struct world *w) {
    ipcheap_channel ring;
    EXPECT(find_id(w, R, &ring));
    w->x_out = claim_side(w, &ring, IPCHEAP_PRODUCER);
    listen_to_y(w);
}

static void forward_to_ring(struct world *w) {
    ipcheap_record messages[6];
    for (uint64_t i = 0; i < 6; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &messages[i])), 0);
        expect_text(&messages[i], FROM_Y + i);
    }
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(CALL(ipcheap_try_send(w->x_out, &messages[i])), 0);
        w->told->progress++;
    }
}

static uint64_t ring_after(struct world *w) {
    uint64_t room = 0, count = 0;
    ipcheap_record record;
    struct place place;
    while (ipcheap_try_receive(w->x_in, &record) == 0) {
        expect_text(&record, FROM_Y + count++);
        EXPECT(place_find(w->heap, record.offset, &place));
        room += place_bytes(w->heap, &place);
        give_back(w, &record);
    }
    EXPECT(count == (uint64_t)w->told->progress || count == (uint64_t)w->told->progress + 1);
    ipcheap_endpoint_release(w->x_in);
    remove_id(w, R, 0);
    return room + bus_after(w);
}

/* Receiving ---------------------------------------------------------------------------------- */

static void told_before(struct world *w) {
    no_bus(w);
    begin_bus(w, &remembering, 0);
    post_some(w, 6);
    hold_one(w, &x);
    hold_one(w, &x);
}

static ipcheap_record in_hand[HOLDABLE];

/* The victim holds what the history had. */
static void hold_history(struct world *w) {
    ear = listen_to(w, &x.channel, 6, 0);
    for (uint64_t i = 0; i < 6; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &in_hand[i])), 0);
        EXPECT_EQ(in_hand[i].position, i);
    }
}

static void listen_only(struct world *w) { ear = listen_to(w, &x.channel, 6, 0); }

/* The victim's first ones are below the floor, and it has more to receive. */
static void tell_more(struct world *w) {
    hear(w, &x);
    post_some(w, PLACES);
    hear(w, &x);
    while (x.held_count) give_back(w, &x.held[--x.held_count]);
}

static void release_in_hand(struct world *w) {
    const int order[6] = {3, 0, 1, 5, 4, 2};
    for (uint64_t i = 0; i < 6; i++) expect_text(&in_hand[i], w->told->text[i]);
    for (int i = 0; i < 6; i++) give_back(w, &in_hand[order[i]]);
}

static int take_copies(void *context, const ipcheap_bytes *records, size_t count) {
    (void)records;
    (void)count;
    return *(int *)context == 1 ? -77 : 0;
}

static void receive_in_every_way(struct world *w) {
    uint64_t nbytes;
    uint32_t form;
    int refuses = 1, takes = 0;
    EXPECT_EQ(CALL(ipcheap_peek(ear, &nbytes, &form)), 0);
    EXPECT_EQ(nbytes, bytes_of_text(w->told->text[0]));
    EXPECT_EQ(ipcheap_try_receive_copies(ear, take_copies, &refuses, 4), -77);
    for (int64_t got, done = 0; done < 3; done += got) { /* all of them, unless a call fails */
        got = CALL(ipcheap_try_receive_copies(ear, take_copies, &takes, (size_t)(3 - done)));
        EXPECT(got > 0 && got <= 3 - done);
    }
    for (uint64_t i = 3; i < 6; i++) {
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &in_hand[i])), 0);
        EXPECT_EQ(in_hand[i].position, i);
        expect_text(&in_hand[i], w->told->text[i]);
    }
    EXPECT_EQ(ipcheap_try_receive(ear, &in_hand[0]), IPCHEAP_WOULD_BLOCK);
    for (int i = 5; i >= 3; i--) give_back(w, &in_hand[i]);
}

static void keep_in_hand(struct world *w) {
    for (int i = 0; i < 6; i += 2) EXPECT_EQ(CALL(ipcheap_keep(w->heap, &in_hand[i])), 0);
    for (int i = 0; i < 6; i++) give_back(w, &in_hand[i]);
}

/* What it holds is released after it has closed, and what it had to receive is nobody's. */
static void close_holding(struct world *w) {
    EXPECT_EQ(CALL(ipcheap_keep(w->heap, &in_hand[4])), 0);
    EXPECT_EQ(CALL(ipcheap_endpoint_close(ear)), 0);
    for (int i = 1; i < 6; i++) give_back(w, &in_hand[i]);
    ipcheap_endpoint_release(ear);
    give_back(w, &in_hand[0]);
}

static void close_unheard(struct world *w) {
    (void)w;
    ipcheap_endpoint_release(ear);
}

static void leave_holding(struct world *w) { ipcheap_release(w->heap); }

/* More messages than a record has hold words. */
static void long_log(struct world *w) {
    no_bus(w);
    begin_bus(w, &long_one, 0);
    for (int i = 0; i < NEAR_HOLDS + 4; i++) {
        uint64_t number = OWN_TEXT + 2 * (uint64_t)i % 4;
        ipcheap_record as = {.data = (unsigned char[300]){0}, .nbytes = bytes_of_text(number)};
        fill(&as, number);
        posting(w, number);
        EXPECT_EQ(ipcheap_try_post(w->heap, &x.channel, as.data, as.nbytes, NULL), 0);
        posted(w);
    }
    hear(w, &x);
}

static void hold_almost_all(struct world *w) {
    ear = listen_to(w, &x.channel, NEAR_HOLDS + 4, 0);
    for (int i = 0; i < NEAR_HOLDS - 1; i++)
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &in_hand[i])), 0);
}

static void hold_more(struct world *w) {
    int count = NEAR_HOLDS - 1;
    for (; count < NEAR_HOLDS + 4; count++)
        EXPECT_EQ(CALL(ipcheap_try_receive(ear, &in_hand[count])), 0);
    for (int i = NEAR_HOLDS - 2; i < count; i++) give_back(w, &in_hand[i]);
}

static void wait_without_messages(struct world *w) {
    ipcheap_record message;
    (void)w;
    EXPECT_EQ(CALL(ipcheap_receive(ear, &message, 100000)), IPCHEAP_TIMED_OUT);
    EXPECT(CALL(ipcheap_endpoint_descriptor(ear)) >= 0);
    EXPECT_EQ(ipcheap_try_receive(ear, &message), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(CALL(ipcheap_wait(ear, 100000)), IPCHEAP_TIMED_OUT);
    ipcheap_waitable items[] = {{.endpoint = ear}, {.endpoint = ear}};
    EXPECT_EQ(CALL(ipcheap_wait_any(items, 2, 100000)), 0);
    ipcheap_endpoint_release(ear);
}

static void listen_anew(struct world *w) {
    warm(w);
    ear = listen_to(w, &x.channel, 0, 0);
}

/* The survivor waits for the victim to release, and to make room. */
static void expect_something(struct world *w) {
    struct bus bus;
    tell_more(w);
    EXPECT(bus_view(w->heap, x.channel.index, &bus));
    struct listener_walk walk = {0};
    while (listener_step(&bus, &walk))
        put(&walk.listener->waiters, WAITS_FOR_RELEASE | WAITS_FOR_ROOM);
}

/* Listening ---------------------------------------------------------------------------------- */

/* The next listeners need a group of records of their own. */
static ipcheap_endpoint *crowd[FIRST_LISTENERS];

static void crowded(struct world *w) {
    told_before(w);
    for (uint32_t i = 2; i < FIRST_LISTENERS; i++) crowd[i] = listen_to(w, &x.channel, 0, 0);
}

static void listen_and_close(struct world *w) {
    ipcheap_endpoint *ears[3];
    ears[0] = listen_to(w, &x.channel, 6, 0);
    ears[1] = listen_to(w, &x.channel, 2, IPCHEAP_LOSSY);
    ears[2] = listen_to(w, &x.channel, 0, 0);
    post_some(w, 2);
    for (int i = 0; i < 3; i++) ipcheap_endpoint_release(ears[i]);
}

static uint64_t bus_after_crowd(struct world *w) {
    for (uint32_t i = 2; i < FIRST_LISTENERS; i++) {
        struct known one = {.channel = x.channel, .in = crowd[i], .heard = 6};
        hear(w, &one);
        EXPECT(one.heard >= w->told->posted && one.heard <= w->told->posting);
        ipcheap_endpoint_release(one.in);
    }
    return bus_after(w);
}

/* Broadcasting ------------------------------------------------------------------------------- */

static void broadcast_one(struct world *w, int64_t timeout_ns, int expected, uint64_t slow) {
    ipcheap_broadcast_report report;
    unsigned char bytes[400];
    uint64_t number = OWN_TEXT + w->told->posted % 2 * 2;
    ipcheap_record as = {.data = bytes, .nbytes = bytes_of_text(number)};
    fill(&as, number);
    if (!expected) posting(w, number);
    EXPECT_EQ(CALL(ipcheap_broadcast_bytes(w->heap, &x.channel, bytes, as.nbytes, timeout_ns,
                                           timeout_ns == 0, &report)),
              expected);
    if (expected) EXPECT_EQ(report.position, UINT64_MAX);
    if (!expected) posted(w);
    EXPECT_EQ(report.listeners, report.released + report.gone + report.slow);
    /* One whose death cannot be known counts as alive. */
    EXPECT(report.slow == slow || (memory_fails && report.slow <= slow + report.gone + 1));
}

static void broadcast_record(struct world *w) {
    ipcheap_broadcast *b = NULL;
    ipcheap_broadcast_report report;
    uint64_t number = OWN_TEXT + w->told->posted;
    ipcheap_record record = make(w, bytes_of_text(number), number);
    EXPECT_EQ(CALL(ipcheap_broadcast_begin(w->heap, &x.channel, &b)), 0);
    posting(w, number);
    EXPECT_EQ(CALL(ipcheap_try_broadcast_record(b, &record, MILLISECOND)), 0);
    posted(w);
    EXPECT_EQ(CALL(ipcheap_await_releases(b, MILLISECOND)), IPCHEAP_TIMED_OUT);
    ipcheap_broadcast_describe(b, &report);
    EXPECT_EQ(report.slow, 1);
    ipcheap_broadcast_end(b);
}

/* The survivor does not release; at the end there is no room. */
static void broadcast_some(struct world *w) {
    ipcheap_broadcast_report report;
    broadcast_one(w, 0, 0, 1);
    broadcast_record(w);
    broadcast_record(w);
    broadcast_one(w, MILLISECOND, 0, 1);
    EXPECT_EQ(CALL(ipcheap_drain(w->heap, &x.channel, MILLISECOND, &report)), 0);
    EXPECT_EQ(report.slow, 1);
    broadcast_one(w, 0, 0, 1);
    broadcast_one(w, 0, 0, 1);
    broadcast_one(w, MILLISECOND, IPCHEAP_TIMED_OUT, 0);
}

static ipcheap_broadcast *mine; /* the survivor's */

static void broadcast_begun(struct world *w) {
    uint64_t number = OWN_TEXT + 6;
    EXPECT_EQ(ipcheap_broadcast_begin(w->heap, &x.channel, &mine), 0);
    ipcheap_record record = make(w, bytes_of_text(number), number);
    posting(w, number);
    EXPECT_EQ(ipcheap_try_broadcast_record(mine, &record, -1), 0);
    posted(w);
}

static void expect_report(uint64_t listeners) {
    ipcheap_broadcast_report report;
    EXPECT_EQ(ipcheap_await_releases(mine, 0), 0);
    ipcheap_broadcast_describe(mine, &report);
    EXPECT_EQ(report.slow, 0);
    EXPECT_EQ(report.listeners, listeners);
    EXPECT_EQ(report.released + report.gone, listeners);
    ipcheap_broadcast_end(mine);
}

static void hear_broadcast(struct world *w) {
    ipcheap_record message;
    EXPECT_EQ(CALL(ipcheap_try_receive(ear, &message)), 0);
    expect_text(&message, w->told->text[message.position]);
    give_back(w, &message);
}

static uint64_t bus_after_broadcast(struct world *w) {
    expect_report(1);
    return bus_after(w);
}

/* The victim's listener owes a release all the time: the turn stays the survivor's. */
static void broadcast_out_of_turn(struct world *w) {
    broadcast_one(w, 0, IPCHEAP_CHANNEL_BUSY, 0);
    broadcast_one(w, 2 * MILLISECOND, IPCHEAP_TIMED_OUT, 0);
    ipcheap_holder holder;
    EXPECT_EQ(CALL(ipcheap_bus_blocker(w->heap, &x.channel, 1, &holder)), 2);
    hear_broadcast(w);
    broadcast_one(w, 0, 0, 1); /* to the survivor */
}

/* After a death ------------------------------------------------------------------------------ */

static struct told *told_by_the_dead;

static void die_with_all(ipcheap_heap *heap) {
    struct world w = {.heap = heap, .told = told_by_the_dead};
    ipcheap_broadcast *b = NULL;
    ipcheap_record messages[6];
    for (int i = 0; i < 2; i++) {
        ear = listen_to(&w, &x.channel, 6, 0);
        for (int k = 0; k < 3; k++) EXPECT_EQ(ipcheap_try_receive(ear, &messages[3 * i + k]), 0);
    }
    EXPECT_EQ(ipcheap_endpoint_close(ear), 0);
    EXPECT_EQ(ipcheap_keep(heap, &messages[1]), 0);
    EXPECT_EQ(ipcheap_broadcast_begin(heap, &x.channel, &b), 0);
    uint64_t number = OWN_TEXT + w.told->posted;
    ipcheap_record record = make(&w, bytes_of_text(number), number);
    posting(&w, number);
    EXPECT_EQ(ipcheap_try_broadcast_record(b, &record, -1), 0);
    posted(&w);
    raise(SIGKILL);
}

static void somebody_died(struct world *w) {
    told_before(w);
    told_by_the_dead = w->told;
    int status;
    EXPECT_EQ(waitpid(run_peer(w->fd, die_with_all), &status, 0) > 0, 1);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The dead listener has the log full behind it. */
static void dead_in_the_way(struct world *w) {
    somebody_died(w);
    post_some(w, 1);
    hear(w, &x);
    for (int i = 0; i < 3; i++) post_copy(w);
    hear(w, &x);
}

static int recover_one(ipcheap_heap *heap) {
    ipcheap_recovery report;
    int error = ipcheap_recover(heap, &report);
    if (error) return error;
    return report.participants ? (int)report.participants : IPCHEAP_CHANNEL_BUSY;
}

static void recover_somebody(struct world *w) { EXPECT_EQ(CALL(recover_one(w->heap)), 1); }

/* Returns CHANNEL_BUSY if the dead listener is in the way, as when the kernel cannot tell that it is. */
static int post_past_one(struct world *w) {
    int error = ipcheap_wait_room(w->heap, &x.channel, 0);
    return error == IPCHEAP_TIMED_OUT ? IPCHEAP_CHANNEL_BUSY : error;
}

static void post_past_the_dead(struct world *w) {
    EXPECT_EQ(CALL(post_past_one(w)), 0);
    post_some(w, 4);
}

static void turn_of_the_dead(struct world *w) { broadcast_one(w, 0, 0, 1); /* one is gone */ }

/* Reclaiming and removing -------------------------------------------------------------------- */

static void trim_it(struct world *w) { EXPECT(CALL(ipcheap_trim(w->heap, 0)) >= 0); }

static void littered(struct world *w) {
    no_bus(w);
    begin_bus(w, &plain, IPCHEAP_LOSSY);
    post_some(w, PLACES + 3);
    hold_one(w, &x);
}

static uint64_t bus_after_giving_up(struct world *w) {
    uint64_t room = bus_after(w);
    EXPECT(x.lost <= w->told->posted);
    return room;
}

/* Both hold messages, and both still have some to receive. */
static void remove_bus(struct world *w) {
    remove_id(w, X, 1);
    w->told->progress = 1;
    for (int i = 0; i < 6; i++) {
        expect_text(&in_hand[i], w->told->text[i]);
        give_back(w, &in_hand[i]);
    }
    ipcheap_endpoint_release(ear);
    w->told->progress = 2;
}

static void tell_some(struct world *w) { post_some(w, 3); }

static uint64_t bus_removed(struct world *w) {
    ipcheap_channel channel;
    ipcheap_record message;
    bool there = find_id(w, X, &channel);
    if (w->told->progress) EXPECT(!there);
    if (there) return bus_after(w);
    uint64_t room = room_of_bus(w, &x);
    EXPECT_EQ(ipcheap_try_receive(x.in, &message), IPCHEAP_ENDPOINT_CLOSED);
    EXPECT_EQ(ipcheap_try_post(w->heap, &x.channel, "", 0, NULL), IPCHEAP_CHANNEL_NOT_FOUND);
    ipcheap_endpoint_release(x.in);
    expect_sound(w->heap);
    while (x.held_count) {
        ipcheap_record *held = &x.held[--x.held_count];
        expect_text(held, w->told->text[held->position]);
        give_back(w, held);
    }
    return room;
}

#define ACT(name_, before_, act_, verify_) \
    {name_, 2 * MIB, .before = before_, .prepare = warm, .act = act_, .verify = verify_}
#define LISTENING(name_, before_, prepare_, meanwhile_, act_, verify_) \
    {                                                                  \
        name_,                                                         \
        2 * MIB,                                                       \
        .before = before_,                                             \
        .prepare = prepare_,                                           \
        .meanwhile = meanwhile_,                                       \
        .act = act_,                                                   \
        .verify = verify_}

const struct scenario bus_scenarios[] = {
    ACT("add a bus", no_bus, add_and_remove_bus, bus_added),
    ACT("post", listened_to, post_copies, bus_after),
    ACT("post records", listened_to, post_records, bus_after),
    ACT("post without room", listened_to, post_without_room, bus_after),
    LISTENING("post to waiters", waited_for, warm, fall_asleep, post_copies, bus_after),
    ACT("post for a history", remembered, post_and_look_back, bus_after),
    ACT("post to a lossy one", lossy, post_over_the_end, bus_after_loss),
    ACT("pass", too_slow, lose_patience, bus_after_passing),
    LISTENING("post what came on a ring", ring_before, claim_warm, NULL, forward_from_ring,
              bus_after),
    LISTENING("post what came on a later ring", bus_before, claim_warm, NULL, forward_from_ring,
              bus_after),
    LISTENING("post what came on a bus", two_buses, listen_to_y, tell_y, forward_from_bus,
              bus_after),
    LISTENING("post what came on an earlier bus", two_buses_backwards, listen_to_y, tell_y,
              forward_from_bus, bus_after),
    LISTENING("post what others hold", shared_buses, listen_to_y, tell_y, forward_from_bus,
              bus_after),
    LISTENING("post what a closed one held", two_buses, listen_to_y, tell_y, forward_after_closing,
              bus_after),
    LISTENING("adopt messages", two_buses, listen_and_attach_again, tell_y, adopt_messages,
              bus_after),
    LISTENING("send what came on a bus", bus_and_ring, listen_and_claim, tell_y, forward_to_ring,
              ring_after),
    ACT("broadcast", listened_to, broadcast_some, bus_after),
    ACT("reclaim a bus", littered, trim_it, bus_after_giving_up),
    {0},
};

const struct scenario listener_scenarios[] = {
    LISTENING("receive messages", told_before, listen_only, NULL, receive_in_every_way, bus_after),
    LISTENING("release messages", told_before, hold_history, NULL, release_in_hand, bus_after),
    LISTENING("release the last of messages", told_before, hold_history, tell_more, release_in_hand,
              bus_after),
    LISTENING("release what is waited for", told_before, hold_history, expect_something,
              release_in_hand, bus_after),
    LISTENING("keep messages", told_before, hold_history, tell_more, keep_in_hand, bus_after),
    LISTENING("hold many messages", long_log, hold_almost_all, NULL, hold_more, bus_after),
    LISTENING("close with messages", told_before, hold_history, tell_more, close_holding,
              bus_after),
    LISTENING("close unheard", told_before, listen_only, NULL, close_unheard, bus_after),
    {"leave with messages", 2 * MIB, .before = told_before, .prepare = hold_history,
     .meanwhile = tell_more, .act = leave_holding, .verify = bus_after, .leaves = true},
    LISTENING("wait for messages", told_before, listen_anew, NULL, wait_without_messages,
              bus_after),
    ACT("listen", crowded, listen_and_close, bus_after_crowd),
    LISTENING("hear a broadcast", listened_to, listen_anew, broadcast_begun, hear_broadcast,
              bus_after_broadcast),
    LISTENING("broadcast out of turn", listened_to, listen_anew, broadcast_begun,
              broadcast_out_of_turn, bus_after_broadcast),
    ACT("recover a bus", somebody_died, recover_somebody, bus_after),
    ACT("post past the dead", dead_in_the_way, post_past_the_dead, bus_after),
    ACT("take the turn of the dead", somebody_died, turn_of_the_dead, bus_after),
    LISTENING("remove a bus", told_before, hold_history, tell_some, remove_bus, bus_removed),
    {0},
};
