#include "corrupt_image.h"

#include <fcntl.h>

#include "bus/listeners.h"
#include "record/ring.h"
#include "store/tables.h"
#include "testing.h"

/* Building ------------------------------------------------------------------------------- */

enum { WORKERS = 4 };

static struct image images[IMAGES];
static const char *folder; /* a tmpfs to fill up */
static const uint64_t capacities[IMAGES] = {2 * MIB, 24 * MIB};

struct worker {
    ipcheap_heap *heap;
    ipcheap_record records[48];
    ipcheap_endpoint *ends[24];
    ipcheap_chunk chunks[32];
    ipcheap_record messages[128];
    ipcheap_broadcast *broadcast;
    int count, end_count, chunk_count, message_count;
};

static ipcheap_endpoint *take_side(struct worker *w, const ipcheap_channel *channel, int side) {
    return w->ends[w->end_count++] = claim(w->heap, channel, side);
}

static void allocate(struct worker *w, uint64_t nbytes) {
    ipcheap_record *record = &w->records[w->count];
    if (ipcheap_allocate(w->heap, nbytes, record) == 0) w->count++;
}

static void send_some(struct worker *w, ipcheap_endpoint *out, int count, uint64_t nbytes) {
    for (int i = 0; i < count; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(w->heap, nbytes, &record), 0);
        if (ipcheap_try_send(out, &record)) ipcheap_free(w->heap, &record);
    }
}

/* Receives records, holds the last one, and frees the others. */
static void receive_some(struct worker *w, ipcheap_endpoint *in, int count) {
    for (int i = 0; i < count; i++) {
        ipcheap_record record;
        if (ipcheap_try_receive(in, &record)) break;
        if (i + 1 < count) EXPECT_EQ(ipcheap_free(w->heap, &record), 0);
    }
}

static void populate_channels(struct worker w[WORKERS]) {
    for (uint64_t id = 0; id < RECORD_CHANNELS; id++) {
        struct worker *from = &w[id % 3], *to = &w[(id + 1) % WORKERS];
        uint64_t slots = UINT64_C(1) << (id % 6);
        ipcheap_channel channel = record_channel(from->heap, id, slots);
        ipcheap_endpoint *out = take_side(from, &channel, IPCHEAP_PRODUCER);
        ipcheap_endpoint *in = take_side(to, &channel, IPCHEAP_CONSUMER);
        for (int round = 0; round < 5; round++) {
            send_some(from, out, 1 + (int)id, round == 3 ? 9000 : 100 + 200 * id);
            receive_some(to, in, (int)id);
        }
        send_some(from, out, (int)slots, 64);
        if (id % 4 == 3) ipcheap_endpoint_close(out);
        if (id % 4 == 2) ipcheap_endpoint_close(in);
    }
}

/* Two streams, with items unread and a backlog; one of them overwrites. */
static void populate_streams(struct worker w[WORKERS]) {
    for (uint64_t id = 600; id < 602; id++) {
        ipcheap_stream_shape shape = {.capacity = 700,
                                      .backlog = 60,
                                      .flags = id % 2 ? IPCHEAP_OVERWRITE : 0,
                                      .item = {.itemsize = 12, .type = "|V12"}};
        ipcheap_key key;
        ipcheap_channel channel;
        char items[200 * 12] = {0};
        ipcheap_key_int(&key, id);
        EXPECT_EQ(ipcheap_add_stream(w[0].heap, &key, &shape, &channel), 0);
        ipcheap_endpoint *out = take_side(&w[0], &channel, IPCHEAP_WRITER);
        ipcheap_endpoint *in = take_side(&w[1], &channel, IPCHEAP_READER);
        for (int round = 0; round < 7; round++) {
            EXPECT_EQ(ipcheap_stream_write(out, items, 200), 200);
            if (round < 5) EXPECT(ipcheap_stream_read(in, items, 1, 200) > 0);
        }
    }
}

/* A store with depth, one that evicts, and one without a writer; readers that hold and follow. */
static void populate_stores(struct worker w[WORKERS]) {
    for (uint64_t i = 0; i < STORES; i++) {
        ipcheap_store_options options = {.given = IPCHEAP_GIVEN_DEPTH | IPCHEAP_GIVEN_HOLD |
                                                  IPCHEAP_GIVEN_MAX_CHUNKS | IPCHEAP_GIVEN_FLAGS,
                                         .depth = 1 + i,
                                         .hold = 8,
                                         .max_chunks = i == 1 ? 12 : 0,
                                         .flags = i == 1 ? IPCHEAP_EVICT : 0};
        ipcheap_key key;
        ipcheap_channel channel;
        static const char bytes[40000];
        ipcheap_key_int(&key, FIRST_STORE + i);
        EXPECT_EQ(ipcheap_add_store(w[0].heap, &key, &options, &channel), 0);
        ipcheap_endpoint *writer = take_side(&w[0], &channel, IPCHEAP_WRITER);
        ipcheap_endpoint *readers[2] = {take_side(&w[1], &channel, IPCHEAP_READER),
                                        take_side(&w[2], &channel, IPCHEAP_READER)};
        for (uint64_t n = 0; n < 40; n++) {
            ipcheap_store_key of;
            struct worker *holder = &w[1 + n % 2];
            ipcheap_store_key_int(&of, n * n % 17);
            uint64_t nbytes = n == 39 ? sizeof bytes : 30 + n % 9 * 30;
            EXPECT_EQ(ipcheap_store_put(writer, n % 5 ? &of : NULL, bytes, nbytes, 0, NULL), 0);
            if (n % 6 == 5)
                EXPECT_EQ(
                    ipcheap_store_next(readers[n % 2], &holder->chunks[holder->chunk_count++]), 0);
            if (n % 13 == 12) EXPECT(ipcheap_store_delete(writer, &of, NULL) >= 0);
        }
        if (i == 2) ipcheap_endpoint_close(writer);
    }
}

static void listen_as(struct worker *w, const ipcheap_channel *bus, uint64_t history,
                      uint32_t flags) {
    ipcheap_listen_options options = {history, flags};
    EXPECT_EQ(ipcheap_listen(w->heap, bus, &options, &w->ends[w->end_count++]), 0);
}

/* Receives some messages, and holds all but every third, or none. */
static void hear_some(struct worker *w, int count, bool holds) {
    ipcheap_endpoint *in = w->ends[w->end_count - 1];
    for (int i = 0; i < count; i++) {
        ipcheap_record *message = &w->messages[w->message_count];
        int error = ipcheap_try_receive(in, message);
        if (error == IPCHEAP_WOULD_BLOCK) return;
        if (error == IPCHEAP_MESSAGES_LOST) continue;
        EXPECT_EQ(error, 0);
        if (i % 5 == 4) EXPECT_EQ(ipcheap_keep(w->heap, message), 0);
        if (!holds || i % 3 == 2)
            EXPECT_EQ(ipcheap_free(w->heap, message), 0);
        else
            w->message_count++;
    }
}

static void post_some(struct worker *w, const ipcheap_channel *bus, int count, bool large) {
    static const char bytes[40000];
    for (int i = 0; i < count; i++) {
        ipcheap_record record;
        uint64_t nbytes = large && i == 3 ? sizeof bytes : 30 + 90 * (uint64_t)(i % 5);
        if (i % 2 == 0) {
            EXPECT_EQ(ipcheap_post(w->heap, bus, bytes, nbytes, 100000000, NULL), 0);
            continue;
        }
        EXPECT_EQ(ipcheap_allocate(w->heap, nbytes, &record), 0);
        EXPECT_EQ(ipcheap_post_record(w->heap, bus, &record, 100000000, NULL), 0);
    }
}

/*
 * A bus with a listener that holds more than its record has words for; one with a history, a broadcast and
 * a closed listener that holds; and one that passes listeners, with a lossy one.
 */
static void populate_buses(struct worker w[WORKERS]) {
    for (uint64_t i = 0; i < BUSES; i++) {
        ipcheap_bus_options options = {.given = IPCHEAP_BUS_ALL,
                                       .capacity = UINT64_C(16) >> (i == 2),
                                       .history = i == 1 ? 6 : 0,
                                       .patience_ns = i == 2 ? 1000000 : -1};
        ipcheap_key key;
        ipcheap_channel bus;
        ipcheap_key_int(&key, FIRST_BUS + i);
        EXPECT_EQ(ipcheap_add_bus(w[0].heap, &key, &options, &bus), 0);
        listen_as(&w[1], &bus, 0, 0);
        listen_as(&w[2], &bus, 0, i == 2 ? IPCHEAP_LOSSY : 0);
        listen_as(&w[3], &bus, 0, 0);
        for (int round = i ? 11 : 0; round < 14; round++) {
            post_some(&w[round % 3], &bus, 8, round == 11);
            for (int k = 1; k < 4; k++)
                hear_some(&w[k], round < 13 ? 8 : 4 + k, k == 3 || round == 11);
        }
        post_some(&w[0], &bus, 3, false);
        if (i != 1) continue;
        EXPECT_EQ(ipcheap_endpoint_close(w[2].ends[w[2].end_count - 1]), 0);
        EXPECT_EQ(ipcheap_broadcast_begin(w[0].heap, &bus, &w[0].broadcast), 0);
        EXPECT_EQ(ipcheap_try_broadcast(w[0].broadcast, "turn", 4, -1), 0);
    }
}

static void populate_directory(struct worker *w) {
    ipcheap_key key;
    ipcheap_channel channel;
    for (uint64_t id = 100; id < 240; id++) record_channel(w->heap, id, 4);
    for (uint64_t id = 100; id < 240; id += 9) {
        ipcheap_key_int(&key, id);
        EXPECT_EQ(ipcheap_remove_channel(w->heap, &key, 0), 0);
    }
    for (uint64_t id = 500; id < 504; id++) {
        ipcheap_key_int(&key, id);
        EXPECT_EQ(ipcheap_add_static_segment(w->heap, &key, 100 + 5000 * (id % 2), &channel), 1);
        if (id < 503) EXPECT_EQ(ipcheap_static_ready(w->heap, &channel, 1), 0);
    }
    ipcheap_key_text(&key, "removed", 7);
    EXPECT_EQ(ipcheap_add_record_channel(w->heap, &key, 8, &channel), 0);
    ipcheap_endpoint *out = take_side(w, &channel, IPCHEAP_PRODUCER);
    send_some(w, out, 5, 128);
    EXPECT_EQ(ipcheap_remove_channel(w->heap, &key, 1), 0); /* stays until `out` is closed */
}

static void populate_memory(struct worker w[WORKERS]) {
    for (int i = 0; i < 24; i++)
        for (int k = 0; k < 3; k++)
            allocate(&w[k], (uint64_t)(i % 3 ? 64 << (i % 6) : 4096 * (1 + i % 5)));
    for (int k = 0; k < 3; k++)
        for (int i = k; i < w[k].count; i += 3) {
            EXPECT_EQ(ipcheap_free(w[k].heap, &w[k].records[i]), 0);
            w[k].records[i] = w[k].records[--w[k].count];
        }
    /* One worker leaves while its records are in use: its slabs become orphans. */
    for (int i = 0; i < 20; i++) allocate(&w[3], 64 + 64 * (unsigned)i);
    for (int i = 0; i < 20; i += 2) EXPECT_EQ(ipcheap_free(w[3].heap, &w[3].records[i]), 0);
}

static void note_bus(struct image *image, ipcheap_heap *heap, uint64_t i) {
    ipcheap_key key;
    ipcheap_channel channel;
    struct bus bus;
    ipcheap_key_int(&key, FIRST_BUS + i);
    EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
    EXPECT(bus_view(heap, channel.index, &bus));
    image->buses[i].index = channel.index;
    image->buses[i].root = offset_of(heap, bus.root);
    image->buses[i].slots = offset_of(heap, bus_slot(&bus, 0));
    image->buses[i].log = bus.mask + 1;
    struct bus_listener *many = listener_at(&bus, 2);
    image->buses[i].listeners = offset_of(heap, listener_at(&bus, 0));
    image->buses[i].more = i ? image->buses[i].listeners : get(&many->more[0]);
    image->buses[i].last = bus_end(&bus);
    EXPECT(image->buses[i].more);
    for (uint64_t k = 0; k < MESSAGES; k++) {
        uint64_t position = image->buses[i].last - 1 - k % (bus.mask + 1);
        struct message m = slot_says(position, get(bus_slot(&bus, position)));
        struct place place;
        const struct envelope *envelope = message_envelope(heap, &m, &place);
        EXPECT(envelope);
        image->buses[i].envelopes[k] = offset_of(heap, envelope);
        image->buses[i].tags[k] = offset_of(heap, place.tag);
    }
}

/* Copies what the file holds, and notes where things are. */
static void snapshot(struct image *image, int fd, ipcheap_heap *heap) {
    const struct geometry *g = &heap->geometry;
    image->geometry = *g;
    image->bytes = g->bytes;
    off_t at = 0;
    while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
        EXPECT(image->count < sizeof image->pages / sizeof *image->pages);
        unsigned char *data = malloc(PAGE);
        EXPECT_EQ(pread(fd, data, PAGE, at), PAGE);
        image->pages[image->count].offset = (uint64_t)at;
        image->pages[image->count++].data = data;
        at += (off_t)PAGE;
    }
    const struct header *header = heap->header;
    image->chunk = get(&header->chunks[0]);
    image->table = get(&header->table) & ((UINT64_C(1) << 56) - 1);
    image->table_cells = UINT64_C(1) << (get(&header->table) >> 56);
    image->slots_used = get(&header->slots_used);
    for (uint32_t s = 0; s < image->slots_used && s < 64; s++)
        image->generation[s] = (uint32_t)(get(&slot_at(heap, s)->word) >> 8);
    for (uint32_t i = 0; i < RECORD_CHANNELS; i++) {
        struct ring ring;
        EXPECT(ring_of(heap, i, &ring));
        image->rings[i] = offset_of(heap, ring.slots);
        image->slots[i] = ring.count;
    }
    for (uint64_t i = 0; i < STORES; i++) {
        ipcheap_key key;
        ipcheap_channel channel;
        struct store store;
        ipcheap_key_int(&key, FIRST_STORE + i);
        EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
        EXPECT(store_view(heap, channel.index, &store));
        image->stores[i].root = offset_of(heap, store.root);
        image->stores[i].slots = offset_of(heap, chunk_slot(&store, 0));
        image->stores[i].cells = offset_of(heap, store.cells);
        image->stores[i].log = offset_of(heap, store.log);
        image->stores[i].readers = offset_of(heap, store_reader_at(&store, 0));
        image->stores[i].holds = offset_of(heap, store_holds_at(&store, 0));
    }
    for (uint64_t i = 0; i < BUSES; i++) note_bus(image, heap, i);
    for (int zone = 0; zone < ZONES; zone++) {
        uint64_t end = g->zone_first[zone] + g->zone_pages[zone];
        for (uint64_t page = g->zone_first[zone]; page < end;) {
            uint64_t word = get(&heap->pages[page].word);
            bool slab = word_state(word) == PAGE_USED && word_kind(word) == KIND_SLAB;
            if (image->run_count < RUNS) image->runs[image->run_count++] = page;
            if (slab && image->slab_count < RUNS)
                image->slabs[image->slab_count++] = granule_of_page(heap, page);
            page += word_length(word);
        }
    }
    EXPECT(image->slab_count > 4 && image->run_count > 16);
}

void images_prepare(void) {
    folder = getenv("IPCHEAP_CORRUPT_FOLDER");
    for (int kind = 0; kind < IMAGES; kind++) {
        int fd = new_segment(capacities[kind]);
        struct worker *w = calloc(WORKERS, sizeof *w);
        for (int i = 0; i < WORKERS; i++) w[i].heap = attach(fd);
        populate_channels(w);
        populate_streams(w);
        populate_stores(w);
        populate_buses(w);
        populate_directory(&w[0]);
        populate_memory(w);
        expect_sound(w[0].heap);
        ipcheap_close(w[3].heap);
        snapshot(&images[kind], fd, w[0].heap);
        for (int i = 0; i < WORKERS; i++) {
            while (w[i].chunk_count)
                EXPECT_EQ(ipcheap_chunk_release(&w[i].chunks[--w[i].chunk_count]), 0);
            while (w[i].message_count)
                ipcheap_free(w[i].heap, &w[i].messages[--w[i].message_count]);
            ipcheap_broadcast_end(w[i].broadcast);
            while (w[i].end_count) ipcheap_endpoint_release(w[i].ends[--w[i].end_count]);
            ipcheap_release(w[i].heap);
        }
        free(w);
        close(fd);
    }
}

/* Corrupting -------------------------------------------------------------------------------- */

/* The target of an edit: a field, or any word, of one of `count` structures. */
enum region {
    ANYWHERE,
    ANY_META,
    HEADER,
    LOCK,
    ROOTS,
    LISTS,
    BINS_OF_ZONE,
    COMMITTED,
    META_COMMITTED,
    PARTICIPANT,
    HEAD,
    LINKS,
    TAIL,
    SLAB,
    REMOTE,
    TAGS,
    CHANNEL,
    SEATS,
    SIDES,
    TABLE,
    RING,
    RING_WORD,
    REGIONS
};
enum store_region {
    STORE_ROOT,
    STORE_SLOT,
    STORE_SLOT_WORD,
    STORE_CELL,
    STORE_LOG,
    STORE_READER,
    STORE_HOLD,
    STORE_REGIONS
};

enum bus_region {
    BUS_ROOT,
    BUS_SLOT,
    BUS_LISTENER,
    BUS_HOLD,
    BUS_MORE,
    BUS_ENVELOPE,
    BUS_TAG,
    BUS_UNDER_WAY,
    BUS_REGIONS
};

static uint64_t target_in_bus(const struct image *image, const struct edit *e) {
    uint64_t which = e->where % BUSES, n = e->where / BUSES;
    uint64_t listener = image->buses[which].listeners + n % 3 * sizeof(struct bus_listener);
    switch (e->region % BUS_REGIONS) {
    case BUS_SLOT:
        return image->buses[which].slots + n % (2 * image->buses[which].log) * 4;
    case BUS_LISTENER:
        return listener + n / 3 % (offsetof(struct bus_listener, holds) / 4) * 4;
    case BUS_HOLD:
        return listener + offsetof(struct bus_listener, holds) + n / 3 % NEAR_HOLDS * 8;
    case BUS_MORE:
        return image->buses[which].more + n % 32 * 4;
    case BUS_ENVELOPE:
        return image->buses[which].envelopes[n % MESSAGES] + n / MESSAGES % 16 * 4;
    case BUS_TAG:
        return image->buses[which].tags[n % MESSAGES] + n / MESSAGES % 2 * 4;
    case BUS_UNDER_WAY:
        return image->geometry.participants_at + n % 8 * sizeof(struct participant_slot) +
               offsetof(struct participant_slot, bus) + n / 8 % 8 * 4;
    default:
        return image->buses[which].root + n % (sizeof(struct bus_root) / 4) * 4;
    }
}

static uint64_t target_in_store(const struct image *image, const struct edit *e) {
    uint64_t which = e->where % STORES, n = e->where / STORES;
    switch (e->region % STORE_REGIONS) {
    case STORE_SLOT:
        return image->stores[which].slots + n % (FIRST_PIECE * sizeof(struct store_slot) / 4) * 4;
    case STORE_SLOT_WORD:
        return image->stores[which].slots + n % FIRST_PIECE * sizeof(struct store_slot);
    case STORE_CELL:
        return image->stores[which].cells + n % (CELLS_OF_PIECE * 4) * 4;
    case STORE_LOG:
        return image->stores[which].log + n % (LOG_OF_PIECE * 2) * 4;
    case STORE_READER:
        return image->stores[which].readers + n % (2 * sizeof(struct store_reader) / 4) * 4;
    case STORE_HOLD:
        return image->stores[which].holds + n % 18 * 4;
    default:
        return image->stores[which].root + n % (sizeof(struct store_root) / 4) * 4;
    }
}

/* A multiple of four inside the segment. */
static uint64_t target(const struct image *image, const struct edit *e) {
    const struct geometry *g = &image->geometry;
    if (e->at == AT_STORE) return target_in_store(image, e);
    if (e->at == AT_BUS) return target_in_bus(image, e);
    uint64_t n = e->where, page = image->runs[n % image->run_count], more = n / 64;
    uint64_t slab = g->slabs_at + image->slabs[n % image->slab_count] * g->slab_stride;
    uint64_t ring = n % RECORD_CHANNELS;
    uint64_t descriptor = image->chunk + n % 24 * sizeof(struct channel);
    uint64_t page_at = g->pages_at + page * sizeof(struct page);
#define AT(type, field) offsetof(struct type, field)
    switch (e->region % REGIONS) {
    case ANY_META:
        return image->pages[n % image->count].offset + e->value % PAGE / 4 * 4;
    case HEADER:
        return n * 4 % sizeof(struct header);
    case LOCK:
        return AT(header, lock);
    case ROOTS:
        return AT(header, directory_version) + n % 64 * 4;
    case LISTS:
        return AT(header, orphans) + n % CLASSES * 4;
    case BINS_OF_ZONE:
        return AT(header, zones) + n * 4 % (ZONES * sizeof(struct zone));
    case COMMITTED:
        return g->committed_at + n * 4 % 64;
    case META_COMMITTED:
        return g->metabits_at + n * 4 % 512;
    case PARTICIPANT:
        return g->participants_at + n % 8 * sizeof(struct participant_slot) + more % 64 * 4;
    case HEAD:
        return page_at + more % 2 * 8;
    case LINKS:
        return page_at + AT(page, child) + more % 3 * 4;
    case TAIL:
        return page_at > g->pages_at ? page_at - sizeof(struct page) : page_at;
    case SLAB:
        return slab + more % 4 * 4;
    case REMOTE:
        return slab + AT(slab, remote) + more % 16 * 8;
    case TAGS:
        return slab + AT(slab, tags) + more % 64 * 8;
    case CHANNEL:
        return descriptor + more % 128 * 4;
    case SEATS:
        return descriptor + AT(channel, seats) + more % 16 * 4;
    case SIDES:
        return descriptor + AT(channel, sides) + more % 2 * sizeof(struct side) + more / 2 % 16 * 8;
    case TABLE:
        return image->table + n % image->table_cells * 4;
    case RING:
        return image->rings[ring] + n / RECORD_CHANNELS % (image->slots[ring] * 4) * 4;
    case RING_WORD:
        return image->rings[ring] + n / RECORD_CHANNELS % image->slots[ring] * 16;
    default:
        return e->value % image->bytes / 4 * 4;
    }
#undef AT
}

/* Words of slots and holds, tags, positions, and what a participant has under way. */
static uint64_t plausible_in_bus(const struct image *image, const struct edit *e, uint64_t small,
                                 uint64_t n) {
    uint64_t which = n % BUSES, position = image->buses[which].last + small % 9 - 5;
    uint64_t k = n / BUSES % MESSAGES, block = image->buses[which].envelopes[k] & ~UINT64_C(63);
    switch (e->value / 4 % 7) {
    case 0:
        return ring_word(position / image->buses[which].log, (enum slot_state)(n >> 8 & 3), block);
    case 1:
        return (n >> 8 & 3) << 62 | (n >> 10 & 1) << 61 | (position & HOLD_POSITION_MASK) << 40 |
               block >> 6;
    case 2:
        return sent_tag(image->buses[which].index, position);
    case 3:
        return part_tag(image->buses[which].index,
                        PART_OF_ENVELOPE + (block - image->geometry.data_at) / BLOCK_ALIGN);
    case 4:
        return position;
    case 5:
        return (n >> 8 & 7) << 32 | (image->buses[which].index + 1);
    default:
        return block;
    }
}

/* A value for a word that is nearly right. */
static uint64_t plausible(const struct image *image, const struct edit *e, uint64_t at) {
    const struct geometry *g = &image->geometry;
    uint64_t n = e->value >> 8, small = n >> 40;
    uint32_t slot = (uint32_t)(n >> 4) % (image->slots_used + 1);
    uint32_t generation = image->generation[slot % 64] + (uint32_t)(n >> 8) % 3 - 1;
    uint64_t page = image->runs[(n >> 4) % image->run_count];
    uint64_t own = own_tag(slot, generation);
    if (e->at == AT_BUS && e->value % 4 == 0) return plausible_in_bus(image, e, small, n);
    if (e->at == AT_STORE && e->value % 4 == 0) { /* states, versions and links of a store */
        if (n & 1) return chunk_word((enum chunk_state)(small % 6), (n >> 1) % 48);
        return (n & 2 ? small % 48 << 32 : n << 32) | (n >> 2) % 70;
    }
    switch (e->value % 24) {
    case 0:
        return 0;
    case 1:
        return ~UINT64_C(0);
    case 2:
        return small;
    case 3:
        return UINT64_C(1) << (n & 63);
    case 4:
        return page;
    case 5:
        return page + 1;
    case 6:
        return g->total_pages + small % 3 - 1;
    case 7:
        return g->zone_pages[DATA_ZONE] + small % 3 - 1;
    case 8:
        return g->data_at + (page << PAGE_SHIFT);
    case 9:
        return g->data_at + (n & 0xFFFFFF) / 64 * 64;
    case 10:
        return g->bytes - small % 4 * PAGE;
    case 11:
        return at;
    case 12:
        return (at - g->pages_at) / sizeof(struct page) + 1; /* a link to itself */
    case 13:
        return own;
    case 14:
        return own | UINT64_C(3) << 62;
    case 15:
        return (n & 64 ? part_tag : sent_tag)((uint32_t)small % 16, n & 63);
    case 16:
        return slab_owner_word(own, (uint32_t)small % 32);
    case 17:
        return slot_word(generation, (enum participant_state)(small & 1));
    case 18:
        return (generation & 0x3FFFF) << 13 | (slot + 1) | UINT64_C(0x80000000) * (small & 1);
    case 19:
        return page_word((enum page_state)(small % 6), (enum page_kind)(small / 6 % 7), n & 0xFFF);
    case 20:
        return page_word((enum page_state)(1 + small % 2), (enum page_kind)(small / 6 % 7),
                         g->total_pages - page);
    case 21:
        return ring_word(n & 7, (enum slot_state)(small & 3), g->data_at + (page << PAGE_SHIFT));
    case 22:
        return (10 + small % 40) << 56 | (g->data_at + (page << PAGE_SHIFT));
    default:
        return small << 62 | (own & ~(UINT64_C(3) << 62));
    }
}

bool memory_is_short(void) { return folder != NULL; }

bool has_memory(int fd, uint64_t at) {
    return !folder || lseek(fd, (off_t)at, SEEK_DATA) == (off_t)at;
}

void spoil(const struct copy *copy, const struct edit *e) {
    const struct image *image = copy->image;
    unsigned char *base = copy->base;
    uint64_t at = target(image, e);
    if (at + 8 > image->bytes) return;
    if (!has_memory(copy->fd, at)) return;
    bool wide = at % 8 == 0 && e->how & 8;
    shared32 *half = (shared32 *)(base + at);
    shared64 *word = (shared64 *)(base + (at & ~UINT64_C(7)));
    switch (e->how % 8) {
    case 0:
        atomic_fetch_xor(half, UINT32_C(1) << (e->value >> 56 & 31));
        break;
    case 1:
        atomic_store(word, e->value);
        break;
    case 2:
        atomic_fetch_add(half, (uint32_t)(e->value & 15) - 7);
        break;
    case 3: { /* the value of another place of the same kind */
        struct edit other = *e;
        other.where = (uint16_t)(e->value >> 16);
        uint64_t from = target(image, &other);
        if (from + 8 <= image->bytes && has_memory(copy->fd, from))
            atomic_store(half, atomic_load((shared32 *)(base + from)));
        break;
    }
    default:
        if (wide || e->how % 8 > 5)
            atomic_store(word, plausible(image, e, at));
        else
            atomic_store(half, (uint32_t)plausible(image, e, at));
    }
}

/* Copying ---------------------------------------------------------------------------------- */

/* Takes all the room that the tmpfs has left, so that touching a hole raises SIGBUS. */
static int fill_up(void) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    for (off_t at = 0, step = (off_t)MIB; step >= (off_t)PAGE;)
        if (fallocate(fd, 0, at, step) == 0)
            at += step;
        else
            step /= 2;
    return fd;
}

struct copy copy_open(unsigned kind, uint8_t living) {
    struct copy copy = {.image = &images[kind % IMAGES], .ballast = -1};
    const struct image *image = copy.image;
    copy.fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
                     : memfd_create("ipcheap-corrupt", MFD_CLOEXEC);
    EXPECT(copy.fd >= 0);
    EXPECT_EQ(ftruncate(copy.fd, (off_t)image->bytes), 0);
    for (uint64_t i = 0; i < image->count; i++)
        EXPECT_EQ(pwrite(copy.fd, image->pages[i].data, PAGE, (off_t)image->pages[i].offset), PAGE);
    EXPECT_EQ(os_map(copy.fd, image->bytes, &copy.base), 0);
    if (folder) copy.ballast = fill_up();
    EXPECT_EQ(descriptor_reopen(copy.fd, &copy.life), 0); /* not the users' */
    for (uint32_t slot = 0; slot < 8; slot++)
        if (living >> slot & 1) EXPECT_EQ(os_byte_lock(copy.life.fd, slot), 0);
    return copy;
}

void copy_close(struct copy *copy) {
    os_unmap(copy->base, copy->image->bytes);
    descriptor_close(&copy->life);
    os_close(copy->ballast);
    os_close(copy->fd);
}
