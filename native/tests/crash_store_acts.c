/*
 * crash_store_acts.c - a death while adding, claiming, putting, forwarding, deleting, in transactions,
 * while expiring, evicting, collecting, growing, reading, waiting and closing.
 */
#include "crash_store.h"

#include "store/bells.h"

/* Adding ------------------------------------------------------------------------------------- */

static const struct script empty = {.options = {.given = IPCHEAP_GIVEN_HOLD, .hold = 7}};

static void no_store(struct world *w) {
    (void)w;
    script = &empty;
}

static void add_and_remove_store(struct world *w) {
    the_store(w);
    ipcheap_endpoint *writer = side_of_x(w, IPCHEAP_WRITER);
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    ipcheap_endpoint *second = side_of_x(w, IPCHEAP_READER);
    ipcheap_endpoint_release(reader);
    ipcheap_endpoint_release(writer);
    ipcheap_endpoint_release(second);
    w->told->progress = 1;
    remove_id(w, X, 0);
    w->told->progress = 2;
}

static uint64_t store_added(struct world *w) {
    ipcheap_channel channel;
    bool there = find_id(w, X, &channel);
    if (w->told->progress == 2) EXPECT(!there);
    w->told->progress = 0;
    the_store(w);
    return store_after(w);
}

/* Writing ------------------------------------------------------------------------------------ */

/* Claims the writer's side, does what is left of the script, and closes. */
static void claim_and_act(struct world *w) {
    ipcheap_endpoint *writer = w->x_out ? w->x_out : side_of_x(w, IPCHEAP_WRITER);
    act_all(w, writer, FEW_ACTS);
    ipcheap_endpoint_release(writer);
    if (w->b_in) ipcheap_endpoint_release(w->b_in);
}

#define ONE_PUT(key)       \
    {                      \
        ONE, {             \
            { PUT, (key) } \
        }                  \
    }
#define ONE_ERASE(key)       \
    {                        \
        ONE, {               \
            { ERASE, (key) } \
        }                    \
    }

static const struct script single = {
    .options = {.given = IPCHEAP_GIVEN_HOLD, .hold = 7},
    .before = 4,
    .steps = {ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(0),
              ONE_PUT(3),
              ONE_PUT(1),
              ONE_PUT(4),
              ONE_PUT(0),
              ONE_PUT(2),
              ONE_PUT(1),
              {COLLECT, {{0}}},
              ONE_PUT(4)},
};
static void single_puts(struct world *w) { begin_as_reader(w, &single); }

/* Each third version is an extent; as one dies, a put collects and makes spares of what else has died. */
static const struct script sparing = {
    .options = {.given = IPCHEAP_GIVEN_GARBAGE, .garbage = 400},
    .before = 5,
    .steps = {ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(3),
              ONE_PUT(1),
              ONE_PUT(0),
              ONE_PUT(3),
              ONE_PUT(3),
              ONE_PUT(3),
              ONE_PUT(1),
              ONE_ERASE(1),
              ONE_PUT(2),
              ONE_PUT(1),
              {TRANSACTION, {{PUT, 2}, {PUT, 3}}},
              ONE_PUT(2)},
};
static void puts_in_spares(struct world *w) { begin_as_reader(w, &sparing); }

static const struct script erasing = {
    .options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 2},
    .before = 6,
    .steps = {ONE_PUT(1),
              ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(3),
              ONE_PUT(3),
              ONE_PUT(1),
              ONE_ERASE(1),
              ONE_ERASE(5),
              ONE_ERASE(3),
              ONE_PUT(3),
              {COLLECT, {{0}}},
              ONE_PUT(1),
              ONE_ERASE(2),
              ONE_ERASE(2)},
};
static void erasures(struct world *w) { begin_as_reader(w, &erasing); }

static const struct script deep = {
    .options = {.given = IPCHEAP_GIVEN_DEPTH | IPCHEAP_GIVEN_GARBAGE, .depth = 3},
    .before = 5,
    .steps = {ONE_PUT(1), ONE_PUT(2), ONE_PUT(1), ONE_PUT(3), ONE_PUT(1), ONE_PUT(1), ONE_PUT(1),
              ONE_PUT(0), ONE_PUT(1), ONE_PUT(2)},
};
static void deep_keys(struct world *w) { begin_as_reader(w, &deep); }

static const struct script several = {
    .options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 2},
    .before = 2,
    .steps = {{TOGETHER, {{PUT, 1}, {PUT, 2}, {PUT, 3}}},
              ONE_PUT(1),
              {TOGETHER, {{PUT, 2}, {PUT, 1}, {PUT, 4}, {PUT, 2}}},
              {TRANSACTION, {{PUT, 1}, {PUT, 0}, {ERASE, 2}, {PUT, 1}, {PUT, 5}}},
              {ABORTED, {{PUT, 3}, {PUT, 0}, {ERASE, 1}, {PUT, 2}}},
              {TRANSACTION, {{PUT, 2}, {ERASE, 2}, {SOON_OVER, 3}}},
              ONE_PUT(2)},
};
static void transactions(struct world *w) { begin_as_reader(w, &several); }

static const struct script expiring = {
    .options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 3},
    .waits = true,
    .before = 4,
    .steps = {ONE_PUT(1),
              {ONE, {{SOON_OVER, 1}}},
              ONE_PUT(1),
              {ONE, {{SOON_OVER, 2}}},
              {ONE, {{SOON_OVER, 3}}},
              {ONE, {{SOON_OVER, 0}}},
              ONE_PUT(3),
              {WAIT, {{0}}},
              ONE_PUT(4),
              {ONE, {{SOON_OVER, 4}}},
              {WAIT, {{0}}},
              {COLLECT, {{0}}},
              ONE_PUT(2)},
};
static void expiries(struct world *w) { begin_as_reader(w, &expiring); }

static const struct script evicting = {
    .options = {.given = IPCHEAP_GIVEN_FLAGS | IPCHEAP_GIVEN_MAX_CHUNKS,
                .flags = IPCHEAP_EVICT,
                .max_chunks = 3},
    .before = 3,
    .steps = {ONE_PUT(1), ONE_PUT(2), ONE_PUT(3), ONE_PUT(1), ONE_PUT(4), ONE_PUT(0), ONE_PUT(0),
              ONE_PUT(2)},
};
static void evictions(struct world *w) { begin_as_reader(w, &evicting); }

static const struct script growing = {
    .before = 2,
    .steps = {ONE_PUT(1),
              {MANY_KEYS, {{PUT, 1000}, {PUT, 1060}}},
              {MANY_KEYS, {{PUT, 1060}, {PUT, 1066}}},
              ONE_PUT(1)},
};
static void growth(struct world *w) { begin_as_reader(w, &growing); }

static const struct script forwarding = {
    .before = 3,
    .steps = {ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(3),
              {RECORD, {{PUT, 1}}},
              {FORWARD_ABORTED, {{PUT, 1}}},
              {FORWARD, {{PUT, 1}}},
              {FORWARD_ABORTED, {{PUT, 2}, {PUT, 1}}},
              {FORWARD, {{PUT, 2}, {PUT, 3}, {PUT, 2}}},
              {RECORD, {{PUT, 2}}}},
};
static void forwards(struct world *w) {
    send_b_full(w);
    begin_as_reader(w, &forwarding);
}

/* Sleepers and pollers ------------------------------------------------------------------------ */

/* The survivor waits in every way at the same time. */
static void single_puts_to_waiters(struct world *w) {
    begin_as_reader(w, &single);
    EXPECT_EQ(ipcheap_store_seek(w->x_in, 100, NULL), 0);
    w->bell = (int)CALL(ipcheap_endpoint_descriptor(w->x_in));
    EXPECT(w->bell >= 0);
    ipcheap_channel channel;
    struct store s;
    EXPECT(find_id(w, X, &channel) && store_view(w->heap, channel.index, &s));
    bell_arm(&s.root->bell);
    put(&s.root->keyed, 1);
    for (uint64_t i = 0; i <= s.cell_mask; i++)
        if (get(&s.cells[i].word)) bell_arm(&s.cells[i].bell);
}

/* Reading ------------------------------------------------------------------------------------ */

static const struct script reading = {
    .options = {.given = IPCHEAP_GIVEN_DEPTH | IPCHEAP_GIVEN_HOLD, .depth = 2, .hold = 6},
    .before = 4,
    .steps = {ONE_PUT(1), ONE_PUT(2), ONE_PUT(3), ONE_PUT(1), ONE_PUT(2), ONE_PUT(1), ONE_PUT(1),
              ONE_PUT(3), ONE_PUT(3), ONE_PUT(0)},
};

static void written_store(struct world *w) { begin_as_writer(w, &reading); }

static void get_some(ipcheap_endpoint *reader) {
    for (uint64_t key = 1; key <= HELD; key++) {
        ipcheap_store_key of = store_key(key);
        EXPECT_EQ(CALL(ipcheap_store_get(reader, &of, 0, &kept[key - 1])), 1);
    }
}

static void hold_some(struct world *w) {
    w->x_in = side_of_x(w, IPCHEAP_READER);
    get_some(w->x_in);
}

/* The survivor kills what the victim holds, and more. */
static void write_on(struct world *w) { act_all(w, w->x_out, FEW_ACTS); }

static void expect_held(const ipcheap_chunk *chunk) {
    EXPECT(chunk->nbytes == bytes_of_version(chunk->version));
    expect_chunk(chunk, chunk->version);
}

static void read_in_every_way(ipcheap_endpoint *reader) {
    ipcheap_store_key keys[3] = {store_key(1), store_key(5), store_key(3)};
    ipcheap_chunk chunks[8];
    ipcheap_store_entry entries[8];
    EXPECT_EQ(CALL(ipcheap_store_contains(reader, &keys[1])), 0);
    EXPECT_EQ(CALL(ipcheap_store_get_many(reader, keys, 3, chunks)), 2);
    expect_held(&chunks[0]);
    expect_held(&chunks[2]);
    EXPECT(!chunks[1].data);
    release_chunk(&chunks[2]);
    release_chunk(&chunks[0]);
    EXPECT_EQ(CALL(ipcheap_store_history(reader, &keys[0], chunks, 8)), 2);
    expect_held(&chunks[0]);
    release_chunk(&chunks[0]);
    release_chunk(&chunks[1]);
    EXPECT_EQ(CALL(ipcheap_store_keys(reader, entries, 8)), 3);
    for (int i = 0; i < 3; i++) EXPECT_EQ(CALL(ipcheap_store_next(reader, &chunks[i])), 0);
    EXPECT_EQ(ipcheap_store_next(reader, &chunks[3]), IPCHEAP_HOLDS);
    release_chunk(&chunks[1]);
    EXPECT_EQ(CALL(ipcheap_store_seek(reader, 0, NULL)), 0);
    EXPECT_EQ(CALL(ipcheap_store_next(reader, &chunks[1])), 0);
    for (int i = 0; i < 3; i++) {
        expect_held(&chunks[i]);
        release_chunk(&chunks[i]);
    }
}

static void wait_in_every_way(ipcheap_endpoint *reader) {
    ipcheap_store_key here = store_key(1), absent = store_key(5);
    ipcheap_chunk chunk;
    EXPECT_EQ(CALL(ipcheap_store_seek(reader, UINT64_MAX, NULL)), 0);
    EXPECT_EQ(CALL(ipcheap_store_wait_for(reader, &here, 100, 100000, &chunk)), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(CALL(ipcheap_store_wait_for(reader, &absent, 0, 100000, &chunk)), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(CALL(ipcheap_wait(reader, 100000)), IPCHEAP_TIMED_OUT);
    EXPECT(CALL(ipcheap_endpoint_descriptor(reader)) >= 0);
    EXPECT_EQ(CALL(ipcheap_wait(reader, 100000)), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_store_next(reader, &chunk), IPCHEAP_WOULD_BLOCK);
}

static void read_and_close(struct world *w) {
    ipcheap_endpoint *reader = w->x_in;
    read_in_every_way(reader);
    wait_in_every_way(reader);
    release_chunk(&kept[1]);
    ipcheap_chunk first = kept[0], last = kept[2];
    w->x_in = side_of_x(w, IPCHEAP_READER);
    get_some(w->x_in);
    release_chunk(&kept[2]);
    ipcheap_endpoint_release(reader);
    release_chunk(&first);
    release_chunk(&last);
}

/* The victim's last chunks go after its reader. */
static void release_and_close(struct world *w) {
    ipcheap_endpoint *reader = w->x_in;
    for (int i = 0; i < HELD; i++) expect_held(&kept[i]);
    release_chunk(&kept[1]);
    ipcheap_endpoint_release(reader);
    release_chunk(&kept[0]);
    release_chunk(&kept[2]);
}

/* Other participants collect ----------------------------------------------------------------- */

static void write_on_and_leave(struct world *w) {
    write_on(w);
    ipcheap_endpoint_release(w->x_out);
    w->x_out = NULL;
}

static void write_on_and_remove(struct world *w) {
    write_on_and_leave(w);
    remove_id(w, X, 1);
}

static uint64_t store_removed(struct world *w) {
    ipcheap_channel channel;
    EXPECT(!find_id(w, X, &channel));
    return 0;
}

static const struct script littered = {
    .options = {.given = IPCHEAP_GIVEN_GARBAGE, .garbage = UINT64_C(1) << 40},
    .before = 9,
    .waits = true,
    .steps = {ONE_PUT(1),
              ONE_PUT(2),
              ONE_PUT(1),
              ONE_PUT(3),
              ONE_PUT(1),
              ONE_PUT(4),
              ONE_ERASE(4),
              ONE_PUT(2),
              {ONE, {{SOON_OVER, 5}}}},
};

static void littered_store(struct world *w) {
    struct part part = {PUT, 6};
    begin_as_writer(w, &littered);
    EXPECT_EQ(ipcheap_store_begin(w->x_out), 0);
    do_put(w->x_out, &part, model_after(littered.before).head + 1);
}

static void trim_it(struct world *w) {
    pass(w, LATER);
    EXPECT(CALL(ipcheap_trim(w->heap, 0)) >= 0);
}

static uint64_t littered_after(struct world *w) {
    uint64_t room = room_of_store(w);
    EXPECT_EQ(ipcheap_store_abort(w->x_out), 0);
    use_store(w);
    return room;
}

static void leave_and_remove(struct world *w) {
    ipcheap_endpoint *reader = side_of_x(w, IPCHEAP_READER);
    get_some(reader);
    remove_id(w, X, 1);
    w->told->progress = FEW_ACTS;
    for (int i = 0; i < HELD; i++) release_chunk(&kept[i]);
    ipcheap_endpoint_release(reader);
}

static uint64_t perhaps_removed(struct world *w) {
    ipcheap_channel channel;
    uint64_t room = room_of_store(w);
    if (w->told->progress == FEW_ACTS) EXPECT(!find_id(w, X, &channel));
    if (find_id(w, X, &channel)) use_store(w);
    return room;
}

static void deserted_store(struct world *w) {
    begin_as_writer(w, &single);
    ipcheap_endpoint_release(w->x_out);
    w->x_out = NULL;
}

#define AREA(name_, before_, act_, verify_) \
    {name_, 2 * MIB, .before = before_, .act = act_, .verify = verify_}
#define HOLDING(name_, meanwhile_, act_, verify_) \
    {name_,                                       \
     2 * MIB,                                     \
     .before = written_store,                     \
     .prepare = hold_some,                        \
     .meanwhile = meanwhile_,                     \
     .act = act_,                                 \
     .verify = verify_}

const struct scenario store_scenarios[] = {
    AREA("add a store", no_store, add_and_remove_store, store_added),
    AREA("put", single_puts, claim_and_act, store_after),
    AREA("put in spares", puts_in_spares, claim_and_act, store_after),
    AREA("delete", erasures, claim_and_act, store_after),
    AREA("put deeply", deep_keys, claim_and_act, store_after),
    AREA("put together", transactions, claim_and_act, store_after),
    AREA("put records", forwards, claim_and_act, store_after),
    {0},
};

const struct scenario upkeep_scenarios[] = {
    AREA("expire", expiries, claim_and_act, store_after),
    AREA("evict", evictions, claim_and_act, store_after),
    AREA("grow", growth, claim_and_act, store_after),
    AREA("put to waiters", single_puts_to_waiters, claim_and_act, store_after),
    HOLDING("get", write_on, read_and_close, store_after),
    HOLDING("release", write_on, release_and_close, store_after),
    HOLDING("release without a writer", write_on_and_leave, release_and_close, store_after),
    HOLDING("release what is removed", write_on_and_remove, release_and_close, store_removed),
    AREA("collect for another", littered_store, trim_it, littered_after),
    AREA("remove a store", deserted_store, leave_and_remove, perhaps_removed),
    {0},
};
