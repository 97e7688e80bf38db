/*
 * census.c - which holder has what, by the tags of the data zone.
 *
 *   OWN(participant)          owned
 *   SENT(channel, position)   held by the consumer, or pending; otherwise idle: garbage, or on its way
 *   SENT(bus, position)       pending while a listener has not received it, static while only the
 *                             history keeps it, held by the first listener that has not released it
 *   PART(store, slot)         held by the first reader of a dead chunk, otherwise static
 *   PART(bus, envelope)       what its envelope is
 *   static segments, streams  static
 *
 * The heads of runs move while they are walked. A walk that lands on no head reads again from the
 * last good one, and in the end from the beginning, a bounded number of times.
 */
#include <string.h>

#include "observe/observer.h"

typedef unsigned long long number;

#define RETRIES 50      /* in one place ... */
#define ALL_RETRIES 500 /* ... and in a walk */
#define WINDOW 2048     /* descriptors read together, where a hole costs nothing */
#define NO_HOW UINT32_MAX

/* What a block or extent is, and whose. */
struct finding {
    uint32_t how, form; /* NO_HOW: it is idle */
    uint64_t holder;
    uint32_t channel; /* index + 1; 0: none */
};

static const struct finding idle = {.how = NO_HOW};

/* Holdings ------------------------------------------------------------------------------------- */

static size_t hash_of(const struct finding *f) {
    uint64_t hash = f->holder ^ (uint64_t)f->channel << 32 ^ (uint64_t)f->how << 60;
    hash *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(hash >> 24);
}

static bool rehash(ipcheap_observer *o) {
    size_t cells = o->cells ? 2 * (o->cell_mask + 1) : 256;
    uint32_t *table = os_reallocate(o->cells, cells * sizeof *table);
    if (!table) {
        o->short_of_memory = true;
        return false;
    }
    o->cells = table;
    o->cell_mask = cells - 1;
    memset(table, 0, cells * sizeof *table);
    const ipcheap_seen_holding *all = o->holdings.items;
    for (size_t i = 0; i < o->holdings.count; i++) {
        struct finding f = {all[i].how, 0, all[i].holder, all[i].channel + 1};
        if (!all[i].has_channel) f.channel = 0;
        size_t at = hash_of(&f) & o->cell_mask;
        while (table[at]) at = (at + 1) & o->cell_mask;
        table[at] = (uint32_t)i + 1;
    }
    return true;
}

static ipcheap_seen_holding *holding_of(ipcheap_observer *o, const struct finding *f) {
    bool crowded = !o->cells || o->holdings.count * 2 > o->cell_mask;
    if (crowded && !rehash(o)) return NULL;
    ipcheap_seen_holding *holding;
    size_t at = hash_of(f) & o->cell_mask;
    for (; o->cells[at]; at = (at + 1) & o->cell_mask) {
        holding = (ipcheap_seen_holding *)o->holdings.items + o->cells[at] - 1;
        uint32_t channel = holding->has_channel ? holding->channel + 1 : 0;
        if (holding->how == f->how && holding->holder == f->holder && channel == f->channel)
            return holding;
    }
    holding = grow(o, &o->holdings, sizeof *holding);
    if (!holding) return NULL;
    o->cells[at] = (uint32_t)o->holdings.count;
    holding->how = f->how;
    holding->holder = f->holder;
    holding->has_channel = f->channel != 0;
    holding->channel = f->channel ? f->channel - 1 : 0;
    holding->form = f->form;
    return holding;
}

static void add(ipcheap_observer *o, const struct finding *f, uint64_t bytes, bool is_record) {
    ipcheap_seen_heap *heap = &o->heap;
    if (f->how == NO_HOW) {
        heap->idle += bytes;
        return;
    }
    *(f->how == IPCHEAP_OWNED     ? &heap->owned
      : f->how == IPCHEAP_HELD    ? &heap->held
      : f->how == IPCHEAP_PENDING ? &heap->pending
                                  : &heap->fixed) += bytes;
    heap->records += is_record;
    ipcheap_seen_holding *holding = holding_of(o, f);
    if (!holding) return;
    holding->records += is_record;
    holding->nbytes += bytes;
    if (holding->form != f->form) holding->form = IPCHEAP_FORM_MIXED;
}

/* Tags ----------------------------------------------------------------------------------------- */

/* What a record channel's slot says of the block that it was sent with. */
static struct finding sent_record(ipcheap_observer *o, uint32_t index, uint64_t tag,
                                  uint64_t offset) {
    const struct seen_ring *ring = &o->inside[index].ring;
    const ipcheap_seen_channel *channel = &o->seen[index];
    if (!ring->count) return idle;
    uint64_t position = tag_position(tag), at = position & (ring->count - 1);
    uint64_t lap = (position >> ring->shift) & LAP_MASK, word = ring->words[at];
    struct ring_slot slot;
    uint64_t place = ring->offset + at * sizeof slot;
    if (ring_state(word) != SLOT_FULL && ring_lap(word) == ((lap + 1) & LAP_MASK)) return idle;
    look_at(o, place, &slot, sizeof slot); /* for its form, and it may have been filled since */
    if (get(&slot.word) != word) o->heap.again++;
    word = get(&slot.word);
    if (word != ring_word(lap, SLOT_FULL, offset)) return idle;
    struct finding f = {.form = size_form(get(&slot.size)), .channel = index + 1};
    bool held = ((ring->received - 1 - position) & POSITION_MASK) < ring->count;
    f.how = held ? IPCHEAP_HELD : IPCHEAP_PENDING;
    f.holder = channel->sides[IPCHEAP_CONSUMER].holder;
    return f;
}

/* Returns the first listener that holds a message, as a party + 1; 0: none does. */
static uint32_t holder_of_message(const struct seen_inside *bus, uint64_t position,
                                  uint64_t block) {
    size_t low = 0, high = bus->hold_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bus->holds[middle].block < block)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < bus->hold_count && bus->holds[low].block == block; low++)
        if (bus->holds[low].position == (position & HOLD_POSITION_MASK))
            return bus->holds[low].party + 1;
    return 0;
}

/* True if a participant is posting the block, or freeing it; *by is its key. */
static bool is_under_way(ipcheap_observer *o, uint64_t block, uint64_t *by) {
    for (uint32_t slot = 0; slot < PARTICIPANTS; slot++) {
        const struct participant_slot *record = &o->slots[slot];
        if (!get(&record->bus)) continue;
        bool intends = (get(&record->intent) & OFFSET_UNITS) << 6 == block;
        if (!intends && get(&record->letting) != block) continue;
        *by = own_tag(slot, (uint32_t)(get(&record->word) >> 8));
        return true;
    }
    return false;
}

static uint64_t key_of_party(const ipcheap_observer *o, uint32_t party) {
    const ipcheap_seen_party *all = o->parties.items;
    return party ? all[party - 1].holder : 0;
}

static struct finding posted(ipcheap_observer *o, uint32_t index, uint64_t tag, uint64_t block) {
    const struct seen_inside *bus = &o->inside[index];
    struct finding f = {.form = IPCHEAP_FORM_UNKNOWN, .channel = index + 1};
    if (!bus->log_count) return idle;
    uint64_t position = bus->end - ((bus->end - tag_position(tag)) & POSITION_MASK);
    uint64_t word = bus->log[position & (bus->log_count - 1)];
    bool stands = (uint32_t)ring_state(word) != MESSAGE_NEVER && ring_offset(word) == block &&
                  ring_lap(word) == ((position >> bus->log_shift) & LAP_MASK);
    uint32_t reader = holder_of_message(bus, position, block);
    if (stands && position >= bus->next_from) {
        f.how = IPCHEAP_PENDING;
        f.holder = key_of_party(o, bus->slowest);
    } else if (stands && position >= bus->history_from) {
        f.how = IPCHEAP_STATIC;
    } else if (reader) {
        f.how = IPCHEAP_HELD;
        f.holder = key_of_party(o, reader);
    } else if (is_under_way(o, block, &f.holder)) {
        f.how = IPCHEAP_OWNED;
    } else {
        return idle;
    }
    return f;
}

static struct finding chunk(const ipcheap_observer *o, uint32_t index, uint64_t part,
                            uint64_t offset) {
    const struct seen_inside *store = &o->inside[index];
    if (part < PART_OF_CHUNK || part - PART_OF_CHUNK >= store->chunk_count) return idle;
    const struct seen_chunk *c = &store->chunks[part - PART_OF_CHUNK];
    if (!c->used || c->offset != offset) return idle;
    bool held = c->dead && c->reader;
    return (struct finding){
        .how = held ? IPCHEAP_HELD : IPCHEAP_STATIC,
        .form = c->form,
        .holder = held ? key_of_party(o, c->reader) : 0,
        .channel = index + 1,
    };
}

static struct finding owned(ipcheap_observer *o, uint64_t tag) {
    return (struct finding){
        .how = IPCHEAP_OWNED, .form = IPCHEAP_FORM_UNKNOWN, .holder = key_of_owner(o, tag)};
}

/* Finds the tag of the block that begins at an offset, and how long it is; false if there is none. */
static bool block_at(ipcheap_observer *o, uint64_t offset, uint64_t *tag, uint64_t *bytes) {
    const struct geometry *g = &o->geometry;
    uint64_t page = (offset - g->data_at) >> PAGE_SHIFT, head = page;
    if (offset < g->data_at || page >= g->zone_pages[DATA_ZONE]) return false;
    struct page found = page_now(o, page);
    uint64_t word = get(&found.word);
    if (word_state(word) == PAGE_USED && word_kind(word) == KIND_RECORD) {
        *tag = get(&found.tag);
        *bytes = word_length(word) << PAGE_SHIFT;
        return offset % PAGE == 0;
    }
    head = page & ~((UINT64_C(1) << (g->slab_shift - PAGE_SHIFT)) - 1);
    found = page_now(o, head);
    if (word_state(get(&found.word)) == PAGE_PART && g->large_slab_shift)
        head = page & ~((UINT64_C(1) << (g->large_slab_shift - PAGE_SHIFT)) - 1);
    found = page_now(o, head);
    word = get(&found.word);
    if (word_state(word) != PAGE_USED || word_kind(word) != KIND_SLAB) return false;
    struct slab slab;
    uint64_t at = g->slabs_at + (head >> (g->slab_shift - PAGE_SHIFT)) * g->slab_stride;
    look_at(o, at, &slab, sizeof slab);
    uint32_t size_class = get(&slab.size_class);
    if (size_class >= g->classes) return false;
    uint64_t into = offset - g->data_at - (head << PAGE_SHIFT);
    uint64_t block = into / size_class_bytes(size_class);
    if (into % size_class_bytes(size_class) || block >= MAX_BLOCKS) return false;
    *bytes = size_class_bytes(size_class);
    look_at(o, at + sizeof slab + block * sizeof *tag, tag, sizeof *tag);
    return true;
}

/* The payload of a message that is apart is what its envelope is. */
static struct finding payload(ipcheap_observer *o, uint32_t index, uint64_t part, uint64_t offset) {
    struct envelope envelope;
    uint64_t tag, bytes, by;
    if (part < PART_OF_ENVELOPE) return idle;
    uint64_t at = o->geometry.data_at + (part - PART_OF_ENVELOPE) * BLOCK_ALIGN;
    if (at >= o->geometry.bytes || !block_at(o, at, &tag, &bytes)) return idle;
    look_at(o, at, &envelope, sizeof envelope);
    if (get(&envelope.payload) != offset) return idle;
    if (tag_kind(tag) == TAG_OWN && is_under_way(o, at, &by)) return owned(o, tag);
    if (tag_kind(tag) != TAG_SENT || tag_channel(tag) != index) return idle;
    struct finding f = posted(o, index, tag, at);
    f.form = f.how == NO_HOW ? 0 : size_form(get(&envelope.size));
    return f;
}

static struct finding find(ipcheap_observer *o, uint64_t tag, uint64_t offset) {
    uint32_t index = tag_channel(tag);
    uint64_t part = tag_position(tag);
    if (tag_kind(tag) == TAG_OWN) return owned(o, tag);
    if (tag_kind(tag) == TAG_FREE || index >= o->entries || !o->inside[index].there) return idle;
    uint32_t kind = o->seen[index].kind;
    if (tag_kind(tag) == TAG_SENT) {
        if (kind == IPCHEAP_RECORD_CHANNEL) return sent_record(o, index, tag, offset);
        return kind == IPCHEAP_BUS ? posted(o, index, tag, offset) : idle;
    }
    if (kind == IPCHEAP_STORE) return chunk(o, index, part, offset);
    return kind == IPCHEAP_BUS ? payload(o, index, part, offset) : idle;
}

/* Runs ----------------------------------------------------------------------------------------- */

struct runs {
    uint64_t next;  /* where the next run begins */
    uint64_t after; /* what is below was counted */
    uint64_t last;  /* the last good head; UINT64_MAX: none */
    uint32_t tries, all_tries;
};

/* Returns a descriptor of the window, after reading another one if it is not there. */
static const struct page *descriptor(ipcheap_observer *o, uint64_t page) {
    struct seen_window *w = &o->window;
    if (w->count && page - w->first < w->count) return &w->pages[page - w->first];
    /* In System V memory, only the page of a head is known to have memory. */
    uint64_t length = o->base ? PAGE / sizeof(struct page) : WINDOW;
    if (!w->pages) w->pages = look_allocate(o, WINDOW, sizeof *w->pages);
    if (!w->pages) return NULL;
    w->first = page / length * length;
    w->count = least(length, o->geometry.total_pages - w->first);
    look_at(o, o->geometry.pages_at + w->first * sizeof(struct page), w->pages,
            w->count * sizeof(struct page));
    return &w->pages[page - w->first];
}

static void slab_count(ipcheap_observer *o, uint64_t first, uint64_t length) {
    const struct geometry *g = &o->geometry;
    struct {
        struct slab slab;
        uint64_t tags[MAX_BLOCKS];
    } copy;
    uint64_t granule = first >> (g->slab_shift - PAGE_SHIFT), used = 0;
    uint64_t at = g->slabs_at + granule * g->slab_stride;
    look_at(o, at, &copy.slab, sizeof copy.slab);
    uint32_t size_class = get(&copy.slab.size_class);
    uint64_t bytes = size_class < g->classes ? size_class_bytes(size_class) : 0;
    uint64_t blocks = bytes ? (length << PAGE_SHIFT) / bytes : 0;
    bool aligned = (granule << (g->slab_shift - PAGE_SHIFT)) == first;
    if (!aligned || !blocks || blocks > MAX_BLOCKS) {
        struct page again = page_now(o, first);
        uint64_t word = page_word(PAGE_USED, KIND_SLAB, length);
        o->heap.again++;
        if (get(&again.word) == word)
            say(o, "the slab at page %llu is corrupt: its size is not possible", (number)first);
        o->heap.idle += length << PAGE_SHIFT;
        return;
    }
    o->heap.slabs++;
    look_at(o, at + sizeof copy.slab, copy.tags, blocks * sizeof *copy.tags);
    for (uint64_t i = 0; i < blocks; i++) {
        if (copy.tags[i] == TAG_FREE) continue;
        if (get(&copy.slab.remote[i / 64]) >> (i & 63) & 1) continue; /* freed, not collected */
        uint64_t offset = g->data_at + (first << PAGE_SHIFT) + i * bytes;
        struct finding f = find(o, copy.tags[i], offset);
        if (f.how == NO_HOW) continue;
        add(o, &f, bytes, true);
        used += bytes;
    }
    o->heap.idle += (length << PAGE_SHIFT) - used;
}

static void run_count(ipcheap_observer *o, uint64_t first, uint64_t word, uint64_t tag) {
    uint64_t length = word_length(word), bytes = length << PAGE_SHIFT;
    struct finding f;
    if (word_state(word) == PAGE_FREE) {
        o->heap.free += bytes;
        o->heap.largest_free = greatest(o->heap.largest_free, bytes);
        return;
    }
    switch (word_kind(word)) {
    case KIND_SLAB:
        slab_count(o, first, length);
        break;
    case KIND_RECORD:
        o->heap.extents++;
        f = find(o, tag, o->geometry.data_at + (first << PAGE_SHIFT));
        add(o, &f, bytes, true);
        break;
    case KIND_STATIC:
    case KIND_STREAM:
        o->heap.extents++;
        f = (struct finding){.how = IPCHEAP_STATIC, .form = IPCHEAP_FORM_UNKNOWN};
        if (tag_kind(tag) == TAG_PART && tag_channel(tag) < o->entries &&
            o->inside[tag_channel(tag)].there)
            f.channel = tag_channel(tag) + 1;
        add(o, &f, bytes, false);
        break;
    default:
        o->heap.idle += bytes; /* a future slab, or about to be free */
    }
}

/* Goes back where the walk can go on from; false if it has done so too often. */
static bool go_back(ipcheap_observer *o, struct runs *r) {
    o->heap.again++;
    o->window.count = 0;
    if (++r->tries > RETRIES || ++r->all_tries > ALL_RETRIES) return false;
    /* The last head is none any more if its run became part of the one before. */
    r->next = r->tries % 2 && r->last != UINT64_MAX ? r->last : 0;
    r->last = UINT64_MAX;
    return true;
}

void take_census(ipcheap_observer *o) {
    struct runs r = {.last = UINT64_MAX};
    uint64_t end = o->geometry.zone_pages[DATA_ZONE];
    if (o->cells) memset(o->cells, 0, (o->cell_mask + 1) * sizeof *o->cells);
    while (r.next < end && !o->short_of_memory) {
        const struct page *head = descriptor(o, r.next);
        if (!head) return;
        uint64_t word = get(&head->word), tag = get(&head->tag), length = word_length(word);
        enum page_state state = word_state(word);
        bool good = (state == PAGE_FREE || state == PAGE_USED) && length >= 1 &&
                    length <= end - r.next;
        if (!good && !go_back(o, &r)) {
            say(o, "the memory is corrupt: what begins at page %llu, or before, cannot be read",
                (number)r.after);
            o->heap.unread = (end - r.after) << PAGE_SHIFT;
            return;
        }
        if (!good) continue;
        /* What a walk that went back has counted already is passed over. */
        if (r.next >= r.after) {
            run_count(o, r.next, word, tag);
            r.tries = 0;
        } else if (r.next + length > r.after && state == PAGE_FREE) {
            o->heap.free += (r.next + length - r.after) << PAGE_SHIFT;
            o->heap.largest_free = greatest(o->heap.largest_free, length << PAGE_SHIFT);
            r.tries = 0;
        }
        r.last = r.next;
        r.next += length;
        r.after = greatest(r.after, r.next);
    }
}
