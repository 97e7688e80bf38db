#include "corrupt.h"

#include <pthread.h>

#include "corrupt_image.h"
#include "segment/handle.h"
#include "testing.h"

void corrupt_prepare(void) { images_prepare(); }

/* Reading a case -------------------------------------------------------------------------- */

static uint8_t byte_at(const unsigned char *bytes, size_t size, size_t at) {
    return at < size ? bytes[at] : 0;
}

static struct edit edit_at(const unsigned char *bytes, size_t size, size_t at) {
    uint8_t region = byte_at(bytes, size, at);
    struct edit e = {.region = region, .how = byte_at(bytes, size, at + 1)};
    if (region & 1 && byte_at(bytes, size, 3) & 4) {
        e.at = AT_STORE;
        e.region = region / 2;
    }
    if (region & 1 && byte_at(bytes, size, 3) & 8) {
        e.at = AT_BUS;
        e.region = region / 2;
    }
    for (size_t i = 0; i < 2; i++)
        e.where |= (uint16_t)(byte_at(bytes, size, at + 2 + i) << (8 * i));
    for (size_t i = 0; i < 8; i++) e.value |= (uint64_t)byte_at(bytes, size, at + 4 + i) << (8 * i);
    return e;
}

size_t corrupt_random(uint64_t seed, unsigned char bytes[CASE_MOST]) {
    uint64_t state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int i = 0; i < 8; i++) next_random(&state);
    size_t edits = 1 + next_random(&state) % (next_random(&state) % 4 ? 6 : 64);
    size_t size = CASE_HEADER + edits * CASE_EDIT;
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(next_random(&state) >> 24);
    bytes[3] = (next_random(&state) % 8 == 0) | (seed & 1) << 1 | (seed % 4 == 3 ? 4 : 0) |
               (seed % 4 == 1 ? 8 : 0);
    bytes[2] = (unsigned char)(next_random(&state) % 3 ? bytes[2] % (edits + 1) : edits);
    return size;
}

/* Users at work ------------------------------------------------------------------------------ */

enum { OPERATIONS = 1000, ENDS = 12, HELD = 32 };

/* A participant that does what the generator chooses. */
struct user {
    ipcheap_heap *heap;
    ipcheap_endpoint *ends[ENDS];
    int sides[ENDS];
    ipcheap_record held[HELD];
    int count;
    ipcheap_endpoint *flows[4];           /* of two streams: two writers, two readers */
    ipcheap_endpoint *stores[2 * STORES]; /* writers, then readers */
    ipcheap_chunk chunks[HELD];
    ipcheap_record lent[4]; /* to a store's transaction, perhaps */
    ipcheap_endpoint *ears[2 * BUSES];
    ipcheap_record messages[HELD]; /* of them */
};

struct play {
    const struct copy *copy;
    uint64_t random, more; /* `more`: of the further kinds of operations */
    bool besides, stores, buses;
    struct user users[2];
    struct user *touching; /* the user whose turn it is */
    struct corrupt_result result;
};

static uint64_t draw(struct play *p, uint64_t below) { return next_random(&p->random) % below; }

static void note(struct play *p, int64_t code) {
    p->result.operations++;
    p->result.succeeded += code >= 0;
    p->result.corrupt += code == IPCHEAP_CORRUPT;
}

/*
 * May the user touch this byte? If there is no memory behind it and the file system is full, that
 * raises a signal which the library cannot prevent: a bit, or an offset, lied about the record.
 */
static bool backed(const struct play *p, const void *byte) {
    return has_memory(p->copy->fd, offset_of(p->touching->heap, byte));
}

/* Reads a record's first and last byte, as its receiver would. */
static void look(const struct play *p, const ipcheap_record *record) {
    volatile unsigned char sum = 0;
    if (!record->nbytes) return;
    const unsigned char *first = record->data, *last = first + record->nbytes - 1;
    if (backed(p, first)) sum = *first;
    if (backed(p, last)) sum = *last;
    (void)sum;
}

static void hold(struct play *p, struct user *u, const ipcheap_record *record) {
    look(p, record);
    if (u->count < HELD)
        u->held[u->count++] = *record;
    else
        ipcheap_free(u->heap,
                     &(ipcheap_record){record->data, record->nbytes, record->offset,
                                       record->position, record->consumer, record->form, 0});
}

static void drop(struct user *u, int i) { u->held[i] = u->held[--u->count]; }

static int64_t do_allocate(struct play *p, struct user *u) {
    static const uint64_t sizes[] = {0,    1,    64,   100,  500,   1000,
                                     3000, 4096, 5000, 9000, 40000, 300000};
    uint64_t nbytes = sizes[draw(p, draw(p, 8) ? 8 : sizeof sizes / sizeof *sizes)];
    if (draw(p, 300) == 0) nbytes = p->copy->image->geometry.capacity - draw(p, 3) * 4096;
    ipcheap_record record;
    int error = ipcheap_allocate(u->heap, nbytes, &record);
    if (error) return error;
    for (uint64_t at = 0; at < nbytes && at < 5 * PAGE; at += PAGE / 4) {
        unsigned char *byte = (unsigned char *)record.data + at;
        if (backed(p, byte)) *byte = 0x5A;
    }
    hold(p, u, &record);
    return 0;
}

static int64_t do_free(struct play *p, struct user *u) {
    if (!u->count) return 0;
    int i = (int)draw(p, (uint64_t)u->count);
    ipcheap_record record = u->held[i];
    int error = ipcheap_free(u->heap, &record);
    drop(u, i);
    return error;
}

static int64_t do_keep(struct play *p, struct user *u) {
    if (!u->count) return 0;
    return ipcheap_keep(u->heap, &u->held[draw(p, (uint64_t)u->count)]);
}

static ipcheap_key key_of(struct play *p) {
    ipcheap_key key;
    uint64_t pick = draw(p, 10);
    if (pick < 6)
        ipcheap_key_int(&key, draw(p, RECORD_CHANNELS));
    else if (pick < 8)
        ipcheap_key_int(&key, 100 + draw(p, 200));
    else if (pick < 9)
        ipcheap_key_int(&key, 500 + draw(p, 8));
    else
        ipcheap_key_text(&key, "removed", 7);
    return key;
}

/* A consumer is released only after what came from it has left all transactions. */
static void end_transactions(struct user *u, const ipcheap_endpoint *consumer) {
    for (int r = 0; r < 4; r++) {
        if (!u->lent[r].data || u->lent[r].consumer != consumer) continue;
        for (int s = 0; s < STORES; s++)
            if (u->stores[s]) ipcheap_store_abort(u->stores[s]);
        u->lent[r].data = NULL;
    }
}

static void drop_end(struct user *u, int i) {
    end_transactions(u, u->ends[i]);
    for (int r = 0; r < u->count;)
        if (u->held[r].consumer == u->ends[i])
            drop(u, r);
        else
            r++;
    ipcheap_endpoint_release(u->ends[i]);
    u->ends[i] = NULL;
}

static int64_t do_claim(struct play *p, struct user *u) {
    ipcheap_key key = key_of(p);
    ipcheap_channel channel;
    int i = (int)draw(p, ENDS), side = (int)draw(p, 2);
    if (u->ends[i]) drop_end(u, i);
    int error = draw(p, 4) ? ipcheap_find_channel(u->heap, &key, &channel)
                           : ipcheap_add_record_channel(u->heap, &key, 0, &channel);
    if (error) return error;
    error = ipcheap_claim(u->heap, &channel, side, &u->ends[i]);
    if (error) {
        ipcheap_holder holder;
        u->ends[i] = NULL;
        ipcheap_side_holder(u->heap, &channel, side, &holder);
    } else {
        u->sides[i] = side;
    }
    return error;
}

static int pick_end(struct play *p, struct user *u, int side) {
    int first = (int)draw(p, ENDS);
    for (int k = 0; k < ENDS; k++) {
        int i = (first + k) % ENDS;
        if (u->ends[i] && u->sides[i] == side) return i;
    }
    return -1;
}

static int64_t do_send(struct play *p, struct user *u) {
    int i = pick_end(p, u, IPCHEAP_PRODUCER);
    if (i < 0) return do_claim(p, u);
    if (!u->count) return do_allocate(p, u);
    int r = (int)draw(p, (uint64_t)u->count), error;
    if (draw(p, 20) == 0)
        error = ipcheap_send(u->ends[i], &u->held[r], 10000);
    else
        error = ipcheap_try_send(u->ends[i], &u->held[r]);
    if (!error) drop(u, r);
    return error;
}

static int64_t do_receive(struct play *p, struct user *u) {
    int i = pick_end(p, u, IPCHEAP_CONSUMER);
    if (i < 0) return do_claim(p, u);
    ipcheap_record records[4];
    if (draw(p, 10) == 0) {
        int64_t got = ipcheap_try_receive_many(u->ends[i], records, 4);
        for (int64_t k = 0; k < got; k++) hold(p, u, &records[k]);
        return got;
    }
    int error = draw(p, 20) == 0 ? ipcheap_receive(u->ends[i], records, 10000)
                                 : ipcheap_try_receive(u->ends[i], records);
    if (!error) hold(p, u, records);
    return error;
}

static int64_t do_end(struct play *p, struct user *u) {
    int i = (int)draw(p, ENDS);
    ipcheap_endpoint_statistics s;
    if (!u->ends[i]) return 0;
    switch (draw(p, 5)) {
    case 0:
        return ipcheap_endpoint_describe(u->ends[i], &s);
    case 1:
        return ipcheap_pending(u->ends[i]);
    case 2:
        return ipcheap_wait(u->ends[i], 10000);
    case 3:
        return ipcheap_wait_peer(u->ends[i], 10000);
    default:
        drop_end(u, i);
        return 0;
    }
}

static int64_t do_directory(struct play *p, struct user *u) {
    ipcheap_key key = key_of(p);
    ipcheap_channel channel;
    switch (draw(p, 6)) {
    case 0:
        return ipcheap_remove_channel(u->heap, &key, (int)draw(p, 2));
    case 1: {
        uint32_t cursor = 0;
        int n = 0;
        ipcheap_counts counts;
        for (; ipcheap_next_channel(u->heap, &cursor, &key, &channel) == 1; n++)
            ipcheap_channel_counts(u->heap, &channel, &counts); /* of whatever kind it says it is */
        return n;
    }
    case 2:
        return ipcheap_wait_directory(u->heap, ipcheap_directory_version(u->heap), 10000);
    default:
        return ipcheap_add_record_channel(u->heap, &key, UINT64_C(1) << draw(p, 6), &channel);
    }
}

static int64_t do_static(struct play *p, struct user *u) {
    ipcheap_key key = key_of(p);
    ipcheap_channel channel;
    int error = ipcheap_add_static_segment(u->heap, &key, draw(p, 2) ? 0 : 64, &channel);
    if (error < 0) return error;
    unsigned char *data = ipcheap_static_data(u->heap, &channel);
    bool holds = draw(p, 2) && ipcheap_static_hold(u->heap, &channel, (void **)&data) == 0;
    bool usable = data && channel.shape && backed(p, data) && backed(p, data + channel.shape - 1);
    if (usable) {
        data[0] ^= 1;
        data[channel.shape - 1] ^= 1;
    }
    if (usable && channel.shape >= 64) {
        uint32_t generation;
        ipcheap_lock_acquire(u->heap, data, 10000);
        ipcheap_lock_release(u->heap, data);
        ipcheap_event_wait(u->heap, data, 10000);
        ipcheap_barrier_arrive(data, 2, &generation);
        ipcheap_barrier_reset(data);
    }
    /* Some uses last until the user leaves. */
    if (holds && draw(p, 4)) ipcheap_static_release(u->heap, &channel);
    return error == 1 ? ipcheap_static_ready(u->heap, &channel, (int)draw(p, 2)) : 0;
}

static int64_t do_heap(struct play *p, struct user *u) {
    ipcheap_statistics statistics;
    ipcheap_recovery recovery;
    ipcheap_heap_info info;
    ipcheap_holder holder;
    switch (draw(p, 12)) {
    case 0:
        return ipcheap_check(u->heap, NULL, NULL);
    case 1:
        return ipcheap_heap_statistics(u->heap, &statistics);
    case 2:
        return ipcheap_recover(u->heap, &recovery);
    case 3:
        return ipcheap_trim(u->heap, draw(p, 2) * MIB / 2);
    case 4:
        return ipcheap_heap_describe(u->heap, &info);
    case 5:
        return ipcheap_inspect(p->copy->fd, -1, &info);
    default:
        return ipcheap_lock_holder(u->heap, &holder);
    }
}

/* Further operations ------------------------------------------------------------------------ */

static int64_t more_arrays(struct play *p, struct user *u, uint64_t pick) {
    uint64_t rows = 1 + pick % 9;
    const uint64_t shape[] = {rows, 200};
    ipcheap_array array = {.itemsize = 4, .dimensions = 2, .shape = shape, .type = "<f4"};
    ipcheap_description description;
    ipcheap_record record;
    if (memory_is_short()) return 0; /* it writes where a bit may lie */
    size_t length = (size_t)ipcheap_describe_array(&array, &description);
    int error = ipcheap_allocate_array(u->heap, &description, length, &record);
    if (!error) hold(p, u, &record);
    return error;
}

static int64_t more_headers(const struct play *p, const struct user *u) {
    int64_t worst = 0;
    for (int i = 0; i < u->count; i++) {
        ipcheap_record record = u->held[i];
        ipcheap_description description;
        ipcheap_array array;
        unsigned char *header = (unsigned char *)record.data + round_up(record.nbytes, BLOCK_ALIGN);
        record.form = IPCHEAP_ARRAY; /* whatever the slot said */
        if (!backed(p, header) || !backed(p, header + 4 * sizeof description)) continue;
        int64_t length = ipcheap_array_of(u->heap, &record, &description, &array);
        if (length < 0) worst = length;
    }
    return worst;
}

static int64_t more_waiting(const struct user *u, int64_t timeout_ns) {
    ipcheap_waitable items[ENDS] = {0};
    size_t count = 0;
    for (int i = 0; i < ENDS; i++)
        if (u->ends[i]) items[count++].endpoint = u->ends[i];
    return ipcheap_wait_any(items, count, timeout_ns);
}

static int64_t more_participants(const struct user *u) {
    ipcheap_holder holder;
    uint32_t cursor = 0;
    int64_t n = 0;
    while (ipcheap_next_participant(u->heap, &cursor, &holder) == 1) n++;
    return n;
}

static int64_t claim_flow(const struct user *u, ipcheap_endpoint **flow, uint64_t which) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_key_int(&key, 600 + which % 2);
    int error = ipcheap_find_channel(u->heap, &key, &channel);
    return error ? error : ipcheap_claim(u->heap, &channel, (int)(which / 2), flow);
}

/* Takes a window and uses its memory, if touching that cannot raise SIGBUS. */
static int64_t use_window(ipcheap_endpoint *flow, uint64_t pick) {
    ipcheap_window window;
    int error = ipcheap_window_open(flow, 1, 1 + pick % 300, pick % 2 ? 60 : 0, &window);
    if (error) return error;
    EXPECT(window.items <= 300 && window.overlap <= 60);
    volatile unsigned char *byte = window.data;
    if (window.items && !memory_is_short()) (void)byte[(window.overlap + window.items) * 12 - 1];
    return ipcheap_window_close(flow, pick % (window.items + 1));
}

static int64_t more_streams(struct user *u, uint64_t pick) {
    static char items[800 * 12];
    ipcheap_stream_statistics statistics;
    uint64_t which = pick % 4, how = pick / 4 % 10, rest = pick / 40;
    ipcheap_endpoint **flow = &u->flows[which];
    if (memory_is_short()) return 0;
    if (!*flow) return claim_flow(u, flow, which);
    switch (how) {
    case 0:
        return ipcheap_stream_reset(*flow);
    case 1:
        return ipcheap_stream_want(*flow, 1 + rest % 350);
    case 2:
        return ipcheap_stream_wait(*flow, 1 + rest % 350, 10000);
    case 3:
        return ipcheap_endpoint_close(*flow);
    case 4:
        return ipcheap_stream_describe(*flow, &statistics);
    case 5:
        return which < 2 ? 0 : ipcheap_stream_history(*flow, items, rest % 61);
    case 6:
    case 7:
        return use_window(*flow, rest);
    default:
        return which < 2 ? ipcheap_stream_write(*flow, items, rest % 800)
                         : ipcheap_stream_read(*flow, items, 1, 1 + rest % 700);
    }
}

/* Stores ------------------------------------------------------------------------------------ */

static int64_t claim_store(const struct user *u, ipcheap_endpoint **end, uint64_t which) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_key_int(&key, FIRST_STORE + which % STORES);
    int error = ipcheap_find_channel(u->heap, &key, &channel);
    return error ? error : ipcheap_claim(u->heap, &channel, (int)(which / STORES), end);
}

static int64_t hold_chunk(const struct play *p, struct user *u, ipcheap_chunk *chunk,
                          uint64_t pick) {
    volatile unsigned char sum = 0;
    const unsigned char *bytes = chunk->data;
    ipcheap_chunk_info info;
    if (!bytes) return 0;
    if (chunk->nbytes && backed(p, bytes)) sum = bytes[0];
    if (chunk->nbytes && backed(p, bytes + chunk->nbytes - 1)) sum = bytes[chunk->nbytes - 1];
    (void)sum;
    ipcheap_chunk_describe(chunk, &info);
    ipcheap_chunk *place = &u->chunks[pick % HELD];
    if (place->data) ipcheap_chunk_release(place);
    *place = *chunk;
    return 1;
}

/* Puts a record, whose handle stays in its place until a transaction has ended. */
static int64_t lend_record(struct play *p, struct user *u, ipcheap_endpoint *writer,
                           const ipcheap_store_key *key, uint64_t pick) {
    ipcheap_record *lent = &u->lent[pick % 4];
    if (!u->count || lent->data) return 0;
    *lent = u->held[0];
    drop(u, 0);
    int error = ipcheap_store_put_record(writer, key, lent, 0, NULL);
    if (error) {
        hold(p, u, lent);
        lent->data = NULL;
    }
    return error;
}

static int64_t write_store(struct play *p, struct user *u, ipcheap_endpoint *writer,
                           uint64_t pick) {
    static const char bytes[50000];
    ipcheap_store_key keys[3];
    ipcheap_store_item items[3];
    for (uint64_t i = 0; i < 3; i++) {
        ipcheap_store_key_int(&keys[i], (pick >> 8) * (i + 1) % 23);
        items[i] = (ipcheap_store_item){&keys[i], bytes, 100 * i};
    }
    switch (pick % 10) {
    case 0:
        return ipcheap_store_delete(writer, keys, NULL);
    case 1:
        return ipcheap_store_put_many(writer, items, 3, 1000, NULL);
    case 2:
        return ipcheap_store_begin(writer);
    case 3:
        return pick & 16 ? ipcheap_store_commit(writer, NULL) : ipcheap_store_abort(writer);
    case 4:
        return ipcheap_store_collect(writer);
    case 5:
        return lend_record(p, u, writer, keys, pick >> 16);
    case 6:
        return ipcheap_store_put(writer, NULL, bytes, 50000, 0, NULL);
    default:
        return ipcheap_store_put(writer, keys, bytes, pick >> 16 & 511, pick & 16 ? 1 : 0, NULL);
    }
}

static int64_t read_store(struct play *p, struct user *u, ipcheap_endpoint *reader, uint64_t pick) {
    ipcheap_store_key keys[3];
    ipcheap_chunk chunks[4] = {0};
    ipcheap_store_entry entries[16];
    int64_t got;
    for (uint64_t i = 0; i < 3; i++) ipcheap_store_key_int(&keys[i], (pick >> 8) * (i + 1) % 17);
    switch (pick % 10) {
    case 0:
        got = ipcheap_store_get_many(reader, keys, 3, chunks);
        break;
    case 1:
        got = ipcheap_store_history(reader, keys, chunks, 4);
        break;
    case 2:
        return ipcheap_store_keys(reader, entries, 16);
    case 3:
        return ipcheap_store_seek(reader, pick >> 16 & 63, NULL);
    case 4:
        got = ipcheap_store_wait_for(reader, keys, pick >> 16 & 63, 10000, chunks);
        break;
    case 5:
        return pick & 16 ? ipcheap_wait(reader, 10000) : ipcheap_endpoint_descriptor(reader);
    case 6:
    case 7:
        got = ipcheap_store_next(reader, chunks);
        break;
    default:
        got = ipcheap_store_get(reader, keys, 0, chunks);
    }
    for (uint64_t i = 0; i < 4 && got >= 0; i++) hold_chunk(p, u, &chunks[i], pick / 64 + i);
    return got;
}

static int64_t look_at_store(const struct user *u, uint64_t pick) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_store_statistics statistics;
    ipcheap_store_reader_info info;
    ipcheap_store_hold holds[8];
    uint32_t cursor = 0;
    int64_t found = 0;
    ipcheap_key_int(&key, FIRST_STORE + pick % STORES);
    int error = ipcheap_find_channel(u->heap, &key, &channel);
    if (error) return error;
    switch (pick / STORES % 4) {
    case 0:
        return ipcheap_store_describe(u->heap, &channel, &statistics);
    case 1:
        return ipcheap_store_blocker(u->heap, &channel, &info);
    case 2:
        return pick >> 8 & 63 ? ipcheap_store_holds(u->heap, &channel, pick >> 16 & 3, holds, 8)
                              : ipcheap_remove_channel(u->heap, &key, pick >> 16 & 1);
    default:
        while ((error = ipcheap_store_next_reader(u->heap, &channel, &cursor, &info)) == 1) found++;
        return error ? error : found;
    }
}

static int64_t use_store(struct play *p, struct user *u) {
    uint64_t pick = next_random(&p->more) >> 4, which = pick % (2 * STORES);
    ipcheap_endpoint **end = &u->stores[which];
    if (memory_is_short()) return 0; /* it writes where a bit may lie */
    pick /= 2 * STORES;
    if (!*end) return claim_store(u, end, which);
    if (pick % 16 == 0) return look_at_store(u, pick / 16);
    if (pick % 64 == 1) return ipcheap_endpoint_close(*end);
    if (pick % 64 == 2) {
        ipcheap_endpoint_release(*end);
        *end = NULL;
        return 0;
    }
    if (pick % 16 == 3) return ipcheap_chunk_release(&u->chunks[pick / 16 % HELD]);
    return which < STORES ? write_store(p, u, *end, pick / 64) : read_store(p, u, *end, pick / 64);
}

/* Buses ------------------------------------------------------------------------------------- */

static int find_bus(const struct user *u, uint64_t which, ipcheap_channel *bus) {
    ipcheap_key key;
    ipcheap_key_int(&key, FIRST_BUS + which % BUSES);
    return ipcheap_find_channel(u->heap, &key, bus);
}

static void forget(struct user *u, ipcheap_record *message) {
    if (message->data) ipcheap_free(u->heap, message);
    message->data = NULL;
}

/* Before an endpoint goes, what it lent. */
static void drop_ear(struct user *u, uint64_t which) {
    for (int i = 0; i < HELD; i++)
        if (u->messages[i].data && u->messages[i].consumer == u->ears[which])
            forget(u, &u->messages[i]);
    ipcheap_endpoint_release(u->ears[which]);
    u->ears[which] = NULL;
}

static int64_t post_something(struct user *u, const ipcheap_channel *bus, uint64_t pick) {
    static const char bytes[50000];
    ipcheap_broadcast_report report;
    uint64_t nbytes = pick / 8 % 12 ? pick / 96 % 600 : sizeof bytes;
    switch (pick % 8) {
    case 0:
        return ipcheap_broadcast_bytes(u->heap, bus, bytes, nbytes, 20000, 0, &report);
    case 1:
        return ipcheap_post(u->heap, bus, bytes, nbytes, 10000, NULL);
    case 2:
    case 3: {
        if (!u->count) return 0;
        int r = (int)(pick / 8 % (uint64_t)u->count);
        int error = ipcheap_try_post_record(u->heap, bus, &u->held[r], NULL);
        if (!error) drop(u, r);
        return error;
    }
    case 4:
        return ipcheap_drain(u->heap, bus, 10000, &report);
    default:
        return ipcheap_try_post(u->heap, bus, bytes, nbytes, NULL);
    }
}

/* Does something with a message that is held. */
static int64_t use_message(struct play *p, struct user *u, ipcheap_record *message,
                           const ipcheap_channel *bus, uint64_t pick) {
    ipcheap_holder sender;
    int error;
    if (!message->data) return 0;
    look(p, message);
    switch (pick % 8) {
    case 0:
        return ipcheap_keep(u->heap, message);
    case 1:
        return ipcheap_message_sender(u->heap, message, &sender);
    case 2:
        error = ipcheap_try_post_record(u->heap, bus, message, NULL);
        break;
    case 3: {
        int i = pick_end(p, u, IPCHEAP_PRODUCER);
        error = i < 0 ? IPCHEAP_WOULD_BLOCK : ipcheap_try_send(u->ends[i], message);
        break;
    }
    default:
        error = ipcheap_free(u->heap, message);
    }
    if (!error) message->data = NULL;
    return error;
}

static int take_bytes(void *context, const ipcheap_bytes *records, size_t count) {
    (void)context;
    (void)records;
    return count > 3 ? -77 : 0;
}

static int64_t hear_something(struct play *p, struct user *u, ipcheap_endpoint *ear,
                              uint64_t pick) {
    uint64_t nbytes;
    uint32_t form;
    ipcheap_listener_statistics statistics;
    ipcheap_record *place = &u->messages[pick / 16 % HELD];
    switch (pick % 16) {
    case 0:
        return ipcheap_peek(ear, &nbytes, &form);
    case 1:
        return ipcheap_try_receive_copies(ear, take_bytes, NULL, 4);
    case 2:
        return ipcheap_listener_describe(ear, &statistics);
    case 3:
        return ipcheap_pending(ear);
    case 4:
        return pick & 16 ? ipcheap_wait(ear, 10000) : ipcheap_endpoint_descriptor(ear);
    case 5:
        return pick / 64 % 4 ? 0 : ipcheap_endpoint_close(ear);
    default:
        forget(u, place);
        int error = ipcheap_try_receive(ear, place);
        if (error)
            place->data = NULL;
        else
            look(p, place);
        return error;
    }
}

static int64_t look_at_bus(const struct user *u, const ipcheap_channel *bus, uint64_t pick) {
    ipcheap_bus_statistics statistics;
    ipcheap_listener_info info;
    ipcheap_holder holder;
    ipcheap_key key;
    uint32_t cursor = 0;
    int64_t error, found = 0;
    switch (pick % 5) {
    case 0:
        return ipcheap_bus_describe(u->heap, bus, &statistics);
    case 1:
        return ipcheap_bus_blocker(u->heap, bus, 1, &holder);
    case 2:
        return ipcheap_wait_room(u->heap, bus, 10000);
    case 3:
        ipcheap_key_int(&key, FIRST_BUS + pick / 5 % BUSES);
        return pick / 16 % 16 ? 0 : ipcheap_remove_channel(u->heap, &key, pick >> 8 & 1);
    default:
        while ((error = ipcheap_next_listener(u->heap, bus, &cursor, &info)) == 1) found++;
        return error ? error : found;
    }
}

static int64_t use_bus(struct play *p, struct user *u) {
    uint64_t pick = next_random(&p->more) >> 4, which = pick % (2 * BUSES);
    ipcheap_endpoint **ear = &u->ears[which];
    ipcheap_channel bus;
    if (memory_is_short()) return 0; /* it writes where a bit may lie */
    pick /= 2 * BUSES;
    int error = find_bus(u, which, &bus);
    if (error) return error;
    if (!*ear && pick % 8 == 0) {
        ipcheap_listen_options options = {pick / 8 % 3, pick / 32 % 2 ? IPCHEAP_LOSSY : 0};
        error = ipcheap_listen(u->heap, &bus, &options, ear);
        if (error) *ear = NULL;
        return error;
    }
    if (pick % 64 == 1 && *ear) drop_ear(u, which);
    if (pick % 16 == 2) return look_at_bus(u, &bus, pick / 16);
    if (pick % 4 == 3) return use_message(p, u, &u->messages[pick / 4 % HELD], &bus, pick / 256);
    if (pick % 2 || !*ear) return post_something(u, &bus, pick / 2);
    return hear_something(p, u, *ear, pick / 2);
}

/* Has its own generator, so that the other operations are the same with it and without it. */
static int64_t operate_besides(struct play *p, struct user *u) {
    uint64_t pick = next_random(&p->more), nbytes;
    uint32_t form;
    ipcheap_endpoint *end = u->ends[pick / 8 % ENDS];
    switch (pick % 8) {
    case 6:
    case 7:
        return more_streams(u, pick / 8);
    case 0:
    case 1:
        return more_arrays(p, u, pick / 8);
    case 2:
        return more_headers(p, u);
    case 3:
        return more_waiting(u, pick / 8 % 4 ? 0 : 10000);
    case 4:
        return more_participants(u);
    default:
        if (end && pick / 8 / ENDS % 2) return ipcheap_peek(end, &nbytes, &form);
        return end ? ipcheap_endpoint_descriptor(end) : 0;
    }
}

/* Users ------------------------------------------------------------------------------------- */

static void user_leave(struct user *u) {
    if (!u->heap) return;
    ipcheap_close(u->heap);
    for (int i = 0; i < ENDS; i++)
        if (u->ends[i]) ipcheap_endpoint_release(u->ends[i]);
    for (int i = 0; i < 4; i++)
        if (u->flows[i]) ipcheap_endpoint_release(u->flows[i]);
    for (int i = 0; i < 2 * STORES; i++)
        if (u->stores[i]) ipcheap_endpoint_release(u->stores[i]);
    for (int i = 0; i < HELD; i++) {
        if (u->chunks[i].data) ipcheap_chunk_release(&u->chunks[i]);
        if (i % 2) forget(u, &u->messages[i]);
    }
    for (uint64_t i = 0; i < 2 * BUSES; i++)
        if (u->ears[i]) drop_ear(u, i);
    ipcheap_release(u->heap);
    *u = (struct user){0};
}

static int user_join(struct play *p, struct user *u) {
    int error = ipcheap_attach(p->copy->fd, -1, &u->heap);
    if (error) {
        u->heap = NULL;
        return error;
    }
    /* How long to wait, each time, for a lock whose word names a living participant. */
    ipcheap_set_lock_timeout(u->heap, 100000);
    p->result.attached++;
    return 0;
}

static void operate(struct play *p, struct user *u) {
    uint64_t what = draw(p, 100);
    int64_t code;
    p->touching = u;
    if (!u->heap)
        code = what < 90 ? 0 : user_join(p, u);
    else if (what < 24)
        code = do_allocate(p, u);
    else if (what < 42)
        code = do_free(p, u);
    else if (what < 46)
        code = do_keep(p, u);
    else if (what < 64)
        code = do_send(p, u);
    else if (what < 82)
        code = do_receive(p, u);
    else if (what < 87)
        code = do_claim(p, u);
    else if (what < 91)
        code = do_end(p, u);
    else if (what < 95)
        code = do_directory(p, u);
    else if (what < 97)
        code = do_static(p, u);
    else
        code = do_heap(p, u);
    note(p, code);
    if (p->besides && u->heap && next_random(&p->more) % 4 == 0) note(p, operate_besides(p, u));
    if (p->stores && u->heap && next_random(&p->more) % 2 == 0) note(p, use_store(p, u));
    if (p->buses && u->heap && next_random(&p->more) % 2 == 0) note(p, use_bus(p, u));
    if (draw(p, 500) == 0) user_leave(u);
}

/* A peer that scribbles at any moment, repeatedly. */
struct scribbler {
    const struct copy *copy;
    const unsigned char *bytes;
    size_t size, first, end;
    _Atomic bool done;
};

static void *scribble(void *argument) {
    struct scribbler *s = argument;
    for (size_t i = s->first; !s->done; i = i + 1 < s->end ? i + 1 : s->first) {
        struct edit e = edit_at(s->bytes, s->size, CASE_HEADER + i * CASE_EDIT);
        spoil(s->copy, &e);
        for (int k = 0; k < 500 && !s->done; k++) os_pause();
    }
    return NULL;
}

/* Attach, recover, check, statistics, and then a thousand operations with edits between. */
static void play(struct play *p, const unsigned char *bytes, size_t size) {
    size_t edits = size > CASE_HEADER ? (size - CASE_HEADER + CASE_EDIT - 1) / CASE_EDIT : 0;
    size_t before = byte_at(bytes, size, 2), next = 0;
    for (; next < edits && next < before; next++) {
        struct edit e = edit_at(bytes, size, CASE_HEADER + next * CASE_EDIT);
        spoil(p->copy, &e);
    }
    size_t rest = edits - next, step = OPERATIONS / (rest + 1);
    for (int i = 0; i < 2; i++) note(p, user_join(p, &p->users[i]));
    if (p->users[0].heap) {
        ipcheap_recovery recovery;
        ipcheap_statistics statistics;
        note(p, ipcheap_recover(p->users[0].heap, &recovery));
        note(p, ipcheap_check(p->users[0].heap, NULL, NULL));
        note(p, ipcheap_heap_statistics(p->users[0].heap, &statistics));
    }
    struct scribbler s = {p->copy, bytes, size, next, edits, false};
    pthread_t thread;
    bool beside = byte_at(bytes, size, 3) & 1 && rest;
    if (beside) EXPECT_EQ(pthread_create(&thread, NULL, scribble, &s), 0);
    for (size_t i = 0; i < OPERATIONS; i++) {
        if (!beside && next < edits && i % (step ? step : 1) == 0) {
            struct edit e = edit_at(bytes, size, CASE_HEADER + next++ * CASE_EDIT);
            spoil(p->copy, &e);
        }
        operate(p, &p->users[draw(p, 4) == 0]);
    }
    s.done = true;
    if (beside) EXPECT_EQ(pthread_join(thread, NULL), 0);
    for (int i = 0; i < 2; i++) user_leave(&p->users[i]);
}

struct call {
    struct play play;
    const unsigned char *bytes;
    size_t size;
};

static void *call_play(void *argument) {
    struct call *call = argument;
    play(&call->play, call->bytes, call->size);
    return NULL;
}
struct corrupt_result corrupt_run(const unsigned char *bytes, size_t size) {
    if (size > CASE_MOST) size = CASE_MOST;
    struct copy copy = copy_open(byte_at(bytes, size, 0), byte_at(bytes, size, 1));
    uint64_t seed = UINT64_C(0x1234567);
    for (size_t i = 0; i < 4; i++) seed = seed * 257 + byte_at(bytes, size, 4 + i);
    struct call call = {{.copy = &copy, .random = seed}, bytes, size};
    for (int i = 0; i < 4; i++) next_random(&call.play.random);
    call.play.more = ~seed;
    call.play.besides = byte_at(bytes, size, 3) & 2;
    call.play.stores = byte_at(bytes, size, 3) & 4;
    call.play.buses = byte_at(bytes, size, 3) & 8;
    /* Runs in a new thread, so that the library's state of a thread ends with the case. */
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, call_play, &call), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    copy_close(&copy);
    return call.play.result;
}
