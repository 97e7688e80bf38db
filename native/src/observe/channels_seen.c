/* channels_seen.c - what a look finds of channels: descriptors, record channels, streams. */

#include <stdlib.h>
#include <string.h>

#include "observe/observer.h"

typedef unsigned long long number;

#define MOST_SLOTS_SEEN (UINT64_C(1) << 24)
#define TRIES 3 /* how often a ring whose slots contradict each other is read */

/* Records -------------------------------------------------------------------------------------- */

/* What the slots of a ring say, as they were read. */
struct slots_seen {
    uint64_t pending, held, pending_bytes, held_bytes;
    uint64_t sizes, sized; /* sum and count of the sizes of the last records */
    int64_t latest;        /* the latest position that any slot was sent with; -1: none */
    uint64_t wrong, at;    /* how many slots cannot be as they are, and one of them */
    enum slot_state next;  /* of the slot that the next record needs */
    bool next_received;
};

/* The position that a slot was sent with last, by the lap nearest to that of `near`. */
static int64_t position_in(const struct seen_ring *ring, uint64_t word, uint64_t i, uint64_t near) {
    uint64_t lap = near >> ring->shift, apart = (ring_lap(word) - lap) & LAP_MASK;
    lap += apart <= LAP_MASK / 2 ? apart : apart - LAP_MASK - 1;
    if (ring_state(word) != SLOT_FULL) lap--;
    return (int64_t)(lap * ring->count + i); /* a corrupt hint may wrap around */
}

/* Completes the producer's hint from the slots: it may be a ring behind. */
static uint64_t sent_in(const struct seen_ring *ring, uint64_t hint) {
    uint64_t sent = hint;
    while (sent - hint < ring->count) {
        uint64_t i = sent & (ring->count - 1);
        if (position_in(ring, ring->words[i], i, sent) != (int64_t)sent) break;
        sent++;
    }
    return sent;
}

static void count_slots(const struct seen_ring *ring, const uint64_t *sizes, uint64_t sent,
                        uint64_t received, struct slots_seen *s) {
    int64_t oldest = (int64_t)(sent - ring->count);
    *s = (struct slots_seen){.latest = -1};
    for (uint64_t i = 0; i < ring->count; i++) {
        uint64_t word = ring->words[i];
        int64_t position = position_in(ring, word, i, sent);
        if (position < oldest || position >= (int64_t)sent || ring_state(word) > SLOT_RELEASED) {
            s->wrong++;
            s->at = i;
        }
        if (position > s->latest) s->latest = position;
        if (position < 0) continue;
        s->sizes += size_bytes(sizes[i]);
        s->sized++;
        if (i == (sent & (ring->count - 1))) {
            s->next = ring_state(word);
            s->next_received = (uint64_t)position < received;
        }
        if (ring_state(word) != SLOT_FULL) continue;
        bool held = (uint64_t)position < received;
        s->held += held;
        s->pending += !held;
        *(held ? &s->held_bytes : &s->pending_bytes) += size_bytes(sizes[i]);
    }
}

/* Reads the slots; false if the channel's tables are too large to be true. */
static bool ring_look(ipcheap_observer *o, struct seen_ring *ring, uint64_t *sizes) {
    struct ring_slot slots[1024];
    for (uint64_t first = 0; first < ring->count; first += 1024) {
        uint64_t count = least(1024, ring->count - first);
        if (!look_at_table(o, ring->offset + first * sizeof *slots, slots, count * sizeof *slots))
            return false;
        for (uint64_t i = 0; i < count; i++) {
            ring->words[first + i] = get(&slots[i].word);
            sizes[first + i] = get(&slots[i].size);
        }
    }
    return true;
}

/* Reads where the two sides are. */
static void sides_look(ipcheap_observer *o, uint64_t descriptor, uint64_t *sent,
                       uint64_t *received) {
    struct side sides[2];
    look_at(o, descriptor + offsetof(struct channel, sides), sides, sizeof sides);
    *sent = get(&sides[IPCHEAP_PRODUCER].position);
    *received = get(&sides[IPCHEAP_CONSUMER].position);
}

static void records_tell(ipcheap_seen_channel *seen, const struct slots_seen *s, uint64_t sent,
                         uint64_t received, bool moving) {
    seen->pending = s->pending;
    seen->held = s->held;
    seen->pending_bytes = s->pending_bytes;
    seen->held_bytes = s->held_bytes;
    seen->nbytes = s->pending_bytes + s->held_bytes;
    seen->sent = sent;
    seen->received = sent > s->pending ? sent - s->pending : 0;
    if (moving) seen->received = least(sent, greatest(seen->received, received));
    seen->mean_nbytes = s->sized ? s->sizes / s->sized : 0;
    bool full = s->next == SLOT_FULL && sent >= seen->capacity;
    seen->full = full ? s->next_received ? IPCHEAP_FULL_HELD : IPCHEAP_FULL_PENDING : 0;
    seen->sides[IPCHEAP_PRODUCER].waiting &= full;
    seen->sides[IPCHEAP_CONSUMER].waiting &= s->pending == 0;
}

static void look_at_records(ipcheap_observer *o, uint32_t index, const struct channel *copy,
                            uint64_t descriptor, ipcheap_seen_channel *seen) {
    struct seen_ring *ring = &o->inside[index].ring;
    uint64_t slots = get(&copy->shape), memory = get(&copy->parts[0]);
    uint64_t bytes = slots * sizeof(struct ring_slot);
    seen->capacity = slots;
    bool possible = slots && !(slots & (slots - 1)) && slots <= MOST_SLOTS_SEEN;
    if (possible && !memory) { /* no side was claimed yet */
        seen->sides[IPCHEAP_PRODUCER].waiting = 0;
        return;
    }
    if (!possible || !area_is(o, memory, bytes, KIND_SYSTEM, part_tag(index, 0))) {
        say(o, "channel %u is corrupt: it has no slots of its own", index);
        return;
    }
    *ring = (struct seen_ring){
        .offset = memory, .count = slots, .shift = (uint32_t)__builtin_ctzll(slots)};
    ring->words = look_allocate(o, slots, sizeof *ring->words);
    uint64_t *sizes = look_allocate(o, slots, sizeof *sizes);
    struct slots_seen s = {0};
    uint64_t sent = 0, received = 0, before = 0;
    bool moving = false, readable = ring->words && sizes;
    for (int tries = 0; readable && tries < TRIES; tries++) {
        uint64_t after, received_after;
        sides_look(o, descriptor, &before, &received);
        readable = ring_look(o, ring, sizes);
        if (!readable) break;
        sides_look(o, descriptor, &after, &received_after);
        moving = after != before || received_after != received;
        sent = sent_in(ring, before);
        count_slots(ring, sizes, sent, received, &s);
        if (!s.wrong) break;
        if (tries < TRIES - 1) o->heap.again++;
    }
    free(sizes);
    if (!readable) return;
    if (s.wrong && moving && s.latest >= 0) sent = greatest(sent, (uint64_t)s.latest + 1);
    if (s.wrong && !moving)
        say(o, "channel %u is corrupt: slot %llu and %llu others violate its protocol", index,
            (number)s.at, (number)s.wrong - 1);
    ring->received = received;
    records_tell(seen, &s, sent, received, moving);
}

/* Streams -------------------------------------------------------------------------------------- */

static void look_at_stream(ipcheap_observer *o, uint32_t index, const struct channel *copy,
                           uint64_t descriptor, ipcheap_seen_channel *seen) {
    struct stream_head head;
    uint64_t memory = get(&copy->parts[0]);
    if (!area_is(o, memory, sizeof head, KIND_STREAM, part_tag(index, 0))) {
        say(o, "stream %u is corrupt: it has no memory of its own", index);
        return;
    }
    look_at(o, memory, &head, sizeof head);
    uint64_t written, read, itemsize = get(&head.itemsize);
    sides_look(o, descriptor, &written, &read);
    /* The writer's position was read first, and the reader may have passed it since. */
    read = least(greatest(read, get(&copy->stream.cut)), written);
    uint64_t unread = written - read, capacity = get(&head.capacity);
    bool overwrites = get(&head.flags) & IPCHEAP_OVERWRITE;
    if (unread > capacity && !overwrites)
        say(o, "stream %u is corrupt: it has more unread items than room", index);
    unread = least(unread, capacity);
    seen->capacity = capacity;
    seen->sent = written;
    seen->received = read;
    seen->pending = unread;
    seen->room = overwrites ? capacity : capacity - unread;
    seen->mean_nbytes = itemsize;
    if (__builtin_mul_overflow(unread, itemsize, &seen->nbytes)) seen->nbytes = 0;
    seen->pending_bytes = seen->nbytes;
    /* Each waits until the other is beyond a position. */
    seen->sides[IPCHEAP_WRITER].waiting &= get(&copy->stream.wanted[IPCHEAP_WRITER]) > read;
    seen->sides[IPCHEAP_READER].waiting &= get(&copy->stream.wanted[IPCHEAP_READER]) > written;
    if (seen->sides[IPCHEAP_WRITER].waiting) seen->full = IPCHEAP_FULL_PENDING;
}

/* Descriptors ----------------------------------------------------------------------------------- */

static void key_tell(const struct channel *copy, ipcheap_key *key) {
    unsigned char bytes[sizeof copy->key];
    uint64_t words[sizeof copy->key / 8];
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) words[i] = get(&copy->key[i]);
    memcpy(bytes, words, sizeof bytes);
    *key = (ipcheap_key){.kind = bytes[0], .length = bytes[1]};
    if (key->length > IPCHEAP_KEY_MAX) key->length = IPCHEAP_KEY_MAX;
    memcpy(key->bytes, bytes + 2, key->length);
}

static void side_tell(ipcheap_observer *o, const struct channel *copy, int side,
                      ipcheap_seen_side *seen) {
    uint64_t holder = get(&copy->seats[side].holder);
    seen->state = side_state(holder);
    seen->holder = key_of_seat(o, holder);
    seen->waiting = seen->state == SIDE_OPEN && get(&copy->seats[side].parked) != AWAKE;
    seen->parks = get(&copy->sides[side].parks);
    seen->wakes = get(&copy->sides[side].wakes);
}

static void look_at_channel(ipcheap_observer *o, uint32_t index, const struct channel *copy,
                            uint64_t descriptor) {
    ipcheap_seen_channel *seen = &o->seen[index];
    enum channel_state state = (enum channel_state)(get(&copy->state) >> 62);
    if (state != CHANNEL_LIVE && state != CHANNEL_REMOVED) return;
    o->inside[index].there = true;
    key_tell(copy, &seen->key);
    seen->index = index;
    seen->kind = get(&copy->kind);
    seen->removed = state == CHANNEL_REMOVED;
    seen->poisoned = (get(&copy->flags) & CHANNEL_POISONED) != 0;
    seen->traced = (get(&copy->flags) & CHANNEL_TRACED) != 0;
    for (int side = 0; side < 2; side++) side_tell(o, copy, side, &seen->sides[side]);
    switch (seen->kind) {
    case IPCHEAP_RECORD_CHANNEL:
        look_at_records(o, index, copy, descriptor, seen);
        break;
    case IPCHEAP_STATIC_SEGMENT:
        seen->capacity = seen->nbytes = get(&copy->shape);
        break;
    case IPCHEAP_STREAM:
        look_at_stream(o, index, copy, descriptor, seen);
        break;
    case IPCHEAP_STORE:
        look_at_store(o, index, copy);
        break;
    case IPCHEAP_BUS:
        look_at_bus(o, index, copy);
        break;
    default:
        say(o, "channel %u is corrupt: it is of no kind (%u)", index, seen->kind);
    }
}

/* Reads one chunk of the directory; false if it has none, or not its own. */
static bool look_at_chunk(ipcheap_observer *o, uint32_t chunk, uint32_t first, uint32_t count) {
    uint64_t offset = get(&o->header.chunks[chunk]);
    uint64_t bytes = ((uint64_t)FIRST_CHUNK << chunk) * sizeof(struct channel);
    if (!area_is(o, offset, bytes, KIND_SYSTEM, part_tag(NO_CHANNEL, chunk))) {
        say(o, "the directory is corrupt: channels from %u on cannot be found", first);
        return false;
    }
    for (uint32_t i = 0; i < count; i += 8) {
        struct channel copies[8];
        uint32_t some = (uint32_t)least(8, count - i);
        uint64_t at = offset + i * sizeof *copies;
        if (!look_at_table(o, at, copies, some * sizeof *copies)) return false;
        for (uint32_t j = 0; j < some; j++)
            look_at_channel(o, first + i + j, &copies[j], at + j * sizeof *copies);
    }
    return true;
}

void look_at_channels(ipcheap_observer *o) {
    uint64_t most = least(MAX_CHANNELS, (o->geometry.zone_pages[SYSTEM_ZONE] << PAGE_SHIFT) /
                                            sizeof(struct channel));
    o->entries = (uint32_t)least(get(&o->header.entries), most);
    o->inside = look_allocate(o, o->entries, sizeof *o->inside);
    o->seen = look_allocate(o, o->entries, sizeof *o->seen);
    if (!o->inside || !o->seen) return;
    uint32_t first = 0;
    for (uint32_t chunk = 0; chunk < DIRECTORY_CHUNKS && first < o->entries; chunk++) {
        uint32_t count = (uint32_t)least((uint64_t)FIRST_CHUNK << chunk, o->entries - first);
        if (!look_at_chunk(o, chunk, first, count)) break;
        first += count;
    }
    for (uint32_t i = 0; i < o->entries; i++) {
        if (!o->inside[i].there) continue;
        ipcheap_seen_channel *channel = grow(o, &o->channels, sizeof *channel);
        if (channel) *channel = o->seen[i];
    }
}

void forget_channels(ipcheap_observer *o) {
    for (uint32_t i = 0; o->inside && i < o->entries; i++) {
        free(o->inside[i].ring.words);
        free(o->inside[i].chunks);
        free(o->inside[i].log);
        free(o->inside[i].holds);
    }
    free(o->inside);
    free(o->seen);
    o->inside = NULL;
    o->seen = NULL;
    o->entries = 0;
}
