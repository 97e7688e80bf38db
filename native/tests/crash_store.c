/*
 * crash_store.c - what is done to a store before and until a death, and what a survivor finds.
 */
#include "crash_store.h"

#include "memory/block.h"
#include "store/tables.h"

const struct script *script;
ipcheap_chunk kept[HELD];
static uint64_t forwarded[FACTS]; /* by version: the number of the record that it was, plus 1 */

/* The model ---------------------------------------------------------------------------------- */

static void drop(struct model *m, int at) {
    m->count--;
    for (; at < m->count; at++) m->facts[at] = m->facts[at + 1];
}

static int newest_of(const struct model *m, uint64_t key) {
    int at = m->count - 1;
    while (at >= 0 && m->facts[at].key != key) at--;
    return at;
}

static void drop_key(struct model *m, uint64_t key) {
    for (int at; (at = newest_of(m, key)) >= 0;) drop(m, at);
}

static void put_fact(struct model *m, uint64_t key, uint64_t version, bool ends) {
    uint64_t same = 0;
    EXPECT(m->count < FACTS);
    m->facts[m->count++] = (struct fact){key, version, ends};
    for (int at = m->count - 1; key && at >= 0; at--)
        if (m->facts[at].key == key && ++same > m->depth) drop(m, at);
    while (m->most && (uint64_t)m->count > m->most) drop(m, 0);
}

static void end_facts(struct model *m) {
    for (int at = 0; at < m->count; at++) {
        if (!m->facts[at].ends) continue;
        if (m->facts[at].key && newest_of(m, m->facts[at].key) == at)
            drop_key(m, m->facts[at].key);
        else
            drop(m, at);
        at = -1;
    }
}

/* What the parts of a step do: of each key the last one counts, and each takes a version. */
static void do_parts(struct model *m, const struct part *parts) {
    for (int i = 0; i < 5 && parts[i].what; i++) {
        bool counts = true;
        uint64_t key = parts[i].key;
        for (int j = i + 1; j < 5 && parts[j].what; j++) counts &= !key || parts[j].key != key;
        if (parts[i].what == ERASE && i == 0 && newest_of(m, key) < 0) continue;
        m->head++;
        if (!counts && forwarded[m->head]) m->dropped |= UINT64_C(1) << (forwarded[m->head] - 1);
        if (!counts) continue;
        if (parts[i].what == ERASE)
            drop_key(m, key);
        else
            put_fact(m, key, m->head, parts[i].what == SOON_OVER);
    }
}

static void do_step(struct model *m, const struct step *step) {
    if (step->act == WAIT) end_facts(m);
    if (step->act == FORWARD)
        for (int i = 0; i < 5 && step->parts[i].what; i++)
            forwarded[m->head + 1 + (uint64_t)i] = ++m->forwards;
    if (step->act == ONE || step->act == TOGETHER || step->act == TRANSACTION ||
        step->act == RECORD || step->act == FORWARD)
        do_parts(m, step->parts);
    if (step->act != MANY_KEYS) return;
    for (uint64_t key = step->parts[0].key; key < step->parts[1].key; key++)
        put_fact(m, key, ++m->head, false);
}

struct model model_after(int steps) {
    struct model m = {.depth = greatest(script->options.depth, 1),
                      .most = script->options.max_chunks};
    for (int i = 0; i < steps; i++) do_step(&m, &script->steps[i]);
    return m;
}

/* Acting ------------------------------------------------------------------------------------- */

uint64_t bytes_of_version(uint64_t version) {
    return version % 4 == 3 ? 40000 + version : 64 + version;
}

ipcheap_store_key store_key(uint64_t value) {
    ipcheap_store_key key;
    EXPECT_EQ(ipcheap_store_key_int(&key, value), 0);
    return key;
}

/* The bytes of a version; each call has its own. */
static const void *bytes(uint64_t version) {
    static unsigned char buffers[8][41000];
    static int turn;
    ipcheap_record as = {.data = buffers[turn++ % 8], .nbytes = bytes_of_version(version)};
    fill(&as, version);
    return as.data;
}

void do_put(ipcheap_endpoint *writer, const struct part *part, uint64_t version) {
    ipcheap_store_key key = store_key(part->key);
    uint64_t got = 0;
    EXPECT_EQ(CALL(ipcheap_store_put(writer, part->key ? &key : NULL, bytes(version),
                                     bytes_of_version(version), part->what == SOON_OVER ? SOON : 0,
                                     &got)),
              0);
    EXPECT_EQ(got, version);
}

static void do_erase(ipcheap_endpoint *writer, const struct part *part, bool there) {
    ipcheap_store_key key = store_key(part->key);
    EXPECT_EQ(CALL(ipcheap_store_delete(writer, &key, NULL)), there);
}

static void do_together(ipcheap_endpoint *writer, const struct part *parts, uint64_t head) {
    ipcheap_store_item items[5];
    ipcheap_store_key keys[5];
    size_t count = 0;
    uint64_t version;
    for (; count < 5 && parts[count].what; count++) {
        keys[count] = store_key(parts[count].key);
        items[count] = (ipcheap_store_item){&keys[count], bytes(head + 1 + count),
                                            bytes_of_version(head + 1 + count)};
    }
    EXPECT_EQ(CALL(ipcheap_store_put_many(writer, items, count, 0, &version)), 0);
    EXPECT_EQ(version, head + count);
}

static void do_transaction(ipcheap_endpoint *writer, const struct step *step, uint64_t head) {
    EXPECT_EQ(CALL(ipcheap_store_begin(writer)), 0);
    for (int i = 0; i < 5 && step->parts[i].what; i++) {
        if (step->parts[i].what == ERASE)
            do_erase(writer, &step->parts[i], true);
        else
            do_put(writer, &step->parts[i], head + 1 + (uint64_t)i);
    }
    if (step->act == ABORTED)
        EXPECT_EQ(CALL(ipcheap_store_abort(writer)), 0);
    else
        EXPECT_EQ(CALL(ipcheap_store_commit(writer, NULL)), 0);
}

static void do_record(struct world *w, ipcheap_endpoint *writer, const struct part *part,
                      uint64_t version) {
    ipcheap_store_key key = store_key(part->key);
    ipcheap_record record = make(w, bytes_of_version(version), version);
    EXPECT_EQ(CALL(ipcheap_store_put_record(writer, &key, &record, 0, NULL)), 0);
    EXPECT(!record.data);
}

static void do_forward(struct world *w, ipcheap_endpoint *writer, const struct step *step,
                       uint64_t first) {
    static ipcheap_record records[SLOTS];
    if (!w->b_in) claim_b(w);
    for (uint64_t i = 0; i < SLOTS && !first; i++)
        if (!records[i].data) EXPECT_EQ(receive_b(w, &records[i]), i);
    EXPECT_EQ(CALL(ipcheap_store_begin(writer)), 0);
    for (uint64_t i = 0; i < 5 && step->parts[i].what; i++) {
        ipcheap_store_key key = store_key(step->parts[i].key);
        w->told->fate[first + i] = GIVING;
        EXPECT_EQ(CALL(ipcheap_store_put_record(writer, &key, &records[first + i], 0, NULL)), 0);
    }
    if (step->act == FORWARD)
        EXPECT_EQ(CALL(ipcheap_store_commit(writer, NULL)), 0);
    else
        EXPECT_EQ(CALL(ipcheap_store_abort(writer)), 0);
}

/* Moves the clock of this process on. */
void pass(struct world *w, int64_t ns) { w->heap->boot_offset -= ns; }

static void act(struct world *w, ipcheap_endpoint *writer, const struct model *m,
                const struct step *step) {
    switch (step->act) {
    case ONE:
        if (step->parts[0].what == ERASE)
            do_erase(writer, &step->parts[0], newest_of(m, step->parts[0].key) >= 0);
        else
            do_put(writer, &step->parts[0], m->head + 1);
        break;
    case TOGETHER:
        do_together(writer, step->parts, m->head);
        break;
    case TRANSACTION:
    case ABORTED:
        do_transaction(writer, step, m->head);
        break;
    case WAIT:
        pass(w, LATER);
        break;
    case RECORD:
        do_record(w, writer, &step->parts[0], m->head + 1);
        break;
    case FORWARD:
    case FORWARD_ABORTED:
        do_forward(w, writer, step, m->forwards);
        break;
    case MANY_KEYS:
        for (uint64_t key = step->parts[0].key; key < step->parts[1].key; key++) {
            struct part part = {PUT, key};
            do_put(writer, &part, m->head + 1 + key - step->parts[0].key);
        }
        break;
    default:
        EXPECT(CALL(ipcheap_store_collect(writer)) >= 0);
    }
}

void act_all(struct world *w, ipcheap_endpoint *writer, int to) {
    while (w->told->progress < to && script->steps[w->told->progress].act) {
        struct model m = model_after(w->told->progress);
        act(w, writer, &m, &script->steps[w->told->progress]);
        w->told->progress++;
    }
}

/* The store ---------------------------------------------------------------------------------- */

ipcheap_channel the_store(struct world *w) {
    ipcheap_key key = key_of(X);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_store(w->heap, &key, &script->options, &channel)), 0);
    return channel;
}

ipcheap_endpoint *side_of_x(struct world *w, int side) {
    ipcheap_channel channel;
    EXPECT(find_id(w, X, &channel));
    return claim_side(w, &channel, side);
}

static ipcheap_store_statistics described(struct world *w) {
    ipcheap_channel channel;
    ipcheap_store_statistics s;
    EXPECT(find_id(w, X, &channel));
    EXPECT_EQ(ipcheap_store_describe(w->heap, &channel, &s), 0);
    return s;
}

/* The survivor adds the store, takes its steps, and stays the writer. */
void begin_as_writer(struct world *w, const struct script *s) {
    script = s;
    the_store(w);
    w->x_out = side_of_x(w, IPCHEAP_WRITER);
    act_all(w, w->x_out, s->before);
}

/* The same, as a reader that holds the newest chunks of some keys. */
void begin_as_reader(struct world *w, const struct script *s) {
    begin_as_writer(w, s);
    w->x_in = side_of_x(w, IPCHEAP_READER);
    for (uint64_t key = 1; key <= HELD; key++) {
        ipcheap_store_key of = store_key(key);
        EXPECT(ipcheap_store_get(w->x_in, &of, 0, &kept[key - 1]) >= 0);
    }
    ipcheap_endpoint_release(w->x_out);
    w->x_out = NULL;
}

/* What blocks and extents the store has, by its tags. */
uint64_t room_of_store(struct world *w) {
    ipcheap_channel channel;
    struct store s;
    uint64_t room = 0;
    if (!find_id(w, X, &channel)) return 0;
    EXPECT(store_view(w->heap, channel.index, &s));
    for (uint32_t at = 0; at < s.slots; at++) {
        const struct store_slot *slot = chunk_slot(&s, at);
        struct place place;
        if (chunk_state(get(&slot->word)) == CHUNK_FREE || !get(&slot->offset)) continue;
        if (!place_find(w->heap, get(&slot->offset), &place)) continue;
        if (place_is(&place, tag_of_chunk(&s, at))) room += place_bytes(w->heap, &place);
    }
    return room;
}

/* The survivor finds what it should ------------------------------------------------------------- */

void expect_chunk(const ipcheap_chunk *chunk, uint64_t version) {
    ipcheap_record as = {.data = (void *)(uintptr_t)chunk->data, .nbytes = chunk->nbytes};
    EXPECT_EQ(chunk->version, version);
    if (forwarded[version % FACTS]) {
        expect_filled(&as, forwarded[version % FACTS] - 1);
        return;
    }
    EXPECT_EQ(chunk->nbytes, bytes_of_version(version));
    expect_filled(&as, version);
}

void release_chunk(ipcheap_chunk *chunk) { EXPECT_EQ(CALL(ipcheap_chunk_release(chunk)), 0); }

static void expect_key(ipcheap_endpoint *reader, const struct model *m, uint64_t key) {
    ipcheap_store_key of = store_key(key);
    ipcheap_chunk chunk, chunks[8];
    int at = newest_of(m, key);
    EXPECT_EQ(ipcheap_store_get(reader, &of, 0, &chunk), at >= 0);
    if (at >= 0) {
        expect_chunk(&chunk, m->facts[at].version);
        release_chunk(&chunk);
    }
    int64_t count = ipcheap_store_history(reader, &of, chunks, 8);
    EXPECT(count >= 0);
    while (count-- > 0) {
        EXPECT(at >= 0);
        expect_chunk(&chunks[count], m->facts[at].version);
        release_chunk(&chunks[count]);
        for (at--; at >= 0 && m->facts[at].key != key;) at--;
    }
    EXPECT(at < 0);
}

/* A reader gets all live chunks after a position, in order. */
static void expect_followed(ipcheap_endpoint *reader, const struct model *m) {
    ipcheap_chunk chunk;
    uint64_t from = ipcheap_store_position(reader);
    for (int at = 0; at < m->count; at++) {
        if (m->facts[at].version <= from) continue;
        EXPECT_EQ(ipcheap_store_next(reader, &chunk), 0);
        expect_chunk(&chunk, m->facts[at].version);
        release_chunk(&chunk);
    }
}

static void expect_state(struct world *w, ipcheap_endpoint *reader, const struct model *m) {
    EXPECT_EQ(ipcheap_store_version(reader), m->head);
    uint64_t keys = 0;
    for (int at = 0; at < m->count; at++)
        keys += m->facts[at].key && newest_of(m, m->facts[at].key) == at;
    for (uint64_t key = 1; key <= KEYS; key++) expect_key(reader, m, key);
    for (int at = 0; at < m->count; at++)
        if (m->facts[at].key > KEYS) expect_key(reader, m, m->facts[at].key);
    ipcheap_store_statistics s = described(w);
    EXPECT_EQ(s.chunks, m->count);
    EXPECT_EQ(s.keys, keys);
    EXPECT_EQ(s.version, m->head);
    ipcheap_store_entry entries[FACTS];
    EXPECT_EQ(ipcheap_store_keys(reader, entries, FACTS), keys);
}

/* The states that the victim may have left. */
static struct model state_found(struct world *w, uint64_t head) {
    int done = w->told->progress;
    struct model m = model_after(done), next = model_after(done + 1);
    if (script->steps[done].act == MANY_KEYS && head > m.head && head < next.head) {
        for (uint64_t key = script->steps[done].parts[0].key; m.head < head; key++)
            put_fact(&m, key, ++m.head, false);
        return m;
    }
    EXPECT(head == m.head || head == next.head);
    if (head == next.head) m = next;
    /* The oldest chunk may have made way before the commit, or more of them for lack of memory. */
    int chunks = m.most ? (int)described(w).chunks : m.count;
    EXPECT(memory_fails || chunks >= m.count - 1);
    while (m.count > chunks) drop(&m, 0);
    return m;
}

static void release_kept(void) {
    struct model m = model_after(script->before);
    for (uint64_t key = 1; key <= HELD; key++) {
        int at = newest_of(&m, key);
        if (!kept[key - 1].data) continue;
        expect_chunk(&kept[key - 1], m.facts[at].version);
        release_chunk(&kept[key - 1]);
    }
}

/* The store goes on: some more puts and deletions, until nothing is left. */
static void go_on(struct world *w, ipcheap_endpoint *writer, ipcheap_endpoint *reader,
                  struct model *m) {
    for (int round = 0; round < 3; round++)
        for (uint64_t key = 0; key <= KEYS; key++) {
            struct part part = {PUT, key};
            do_put(writer, &part, m->head + 1);
            put_fact(m, key, ++m->head, false);
        }
    expect_state(w, reader, m);
    EXPECT(ipcheap_store_collect(writer) >= 0);
    EXPECT_EQ(described(w).dead, 0);
    expect_sound(w->heap);
    for (int at = 0; at < m->count; at++) {
        ipcheap_store_key key = store_key(m->facts[at].key);
        if (m->facts[at].key) EXPECT(ipcheap_store_delete(writer, &key, NULL) >= 0);
    }
    EXPECT_EQ(described(w).keys, 0);
}

/*
 * A record that was forwarded is in the store, or was redelivered on B. One that did not count is freed
 * after the commit, or redelivered.
 */
static void expect_forwarded(struct world *w, const struct model *m) {
    for (uint64_t i = 0; i < w->b_sent; i++)
        if (!(m->dropped >> i & 1)) EXPECT_EQ(w->b_redelivered >> i & 1, i >= m->forwards);
}

/* Takes whichever sides it does not have, uses the store and removes it. */
void use_store(struct world *w) {
    ipcheap_endpoint *writer = w->x_out ? w->x_out : side_of_x(w, IPCHEAP_WRITER);
    ipcheap_endpoint *fresh = side_of_x(w, IPCHEAP_READER);
    struct model m = state_found(w, ipcheap_store_version(fresh));
    expect_forwarded(w, &m);
    if (!script->waits) expect_state(w, fresh, &m);
    end_facts(&m);
    pass(w, FEW_ACTS * LATER);
    EXPECT(ipcheap_store_collect(writer) >= 0);
    expect_state(w, fresh, &m);
    expect_followed(fresh, &m);
    EXPECT_EQ(described(w).readers, w->x_in ? 2 : 1);
    if (w->x_in) {
        EXPECT(described(w).dead <= HELD);
        expect_followed(w->x_in, &m);
        release_kept();
    }
    EXPECT(ipcheap_store_collect(writer) >= 0);
    EXPECT_EQ(described(w).dead, 0);
    ipcheap_chunk chunk;
    EXPECT_EQ(ipcheap_store_next(fresh, &chunk), IPCHEAP_WOULD_BLOCK);
    go_on(w, writer, fresh, &m);
    ipcheap_endpoint_release(writer);
    ipcheap_endpoint_release(fresh);
    if (w->x_in) ipcheap_endpoint_release(w->x_in);
    expect_sound(w->heap);
    remove_id(w, X, 0);
}

uint64_t store_after(struct world *w) {
    uint64_t room = room_of_store(w);
    use_store(w);
    return room;
}
