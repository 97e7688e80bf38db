/* observer.c - opening a heap to look at it, and what a look finds outside its channels. */

#include "observe/observer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/coredump.h"

#define SENTENCES 64 /* further ones are only counted */
#define LOCK_WAITERS_BIT UINT32_C(0x80000000)

/* Private memory ------------------------------------------------------------------------------ */

void *look_allocate(ipcheap_observer *o, size_t count, size_t bytes) {
    void *memory = os_allocate_zeroed(count ? count : 1, bytes);
    if (!memory) o->short_of_memory = true;
    return memory;
}

void *grow(ipcheap_observer *o, struct growing *list, size_t bytes) {
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        void *items = os_reallocate(list->items, room * bytes);
        if (!items) {
            o->short_of_memory = true;
            return NULL;
        }
        list->items = items;
        list->room = room;
    }
    void *item = (unsigned char *)list->items + list->count++ * bytes;
    memset(item, 0, bytes);
    return item;
}

void say(ipcheap_observer *o, const char *format, ...) {
    if (o->heap.sentences++ >= SENTENCES) return;
    ipcheap_seen_text *text = grow(o, &o->sentences, sizeof *text);
    if (!text) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text->text, sizeof text->text, format, arguments);
    va_end(arguments);
}

/* Reading -------------------------------------------------------------------------------------- */

#define PORTION (UINT64_C(1) << 26) /* what one system call reads */

void look_at(ipcheap_observer *o, uint64_t offset, void *to, uint64_t bytes) {
    unsigned char *at = to;
    uint64_t there = offset < o->bytes ? least(bytes, o->bytes - offset) : 0;
    if (o->base) {
        memcpy(at, o->base + offset, there);
    } else {
        for (uint64_t done = 0; done < there;) {
            size_t portion = (size_t)least(there - done, PORTION);
            int got = os_file_read(o->fd, offset + done, at + done, portion);
            if (got <= 0) there = done; /* it was truncated, or its disk fails */
            if (got > 0) done += (uint64_t)got;
        }
    }
    if (there == bytes) return;
    memset(at + there, 0, bytes - there);
    if (!o->missing)
        say(o, "the heap is shorter than its header says: what is missing counts as 0");
    o->missing = true;
}

bool look_at_table(ipcheap_observer *o, uint64_t offset, void *to, uint64_t bytes) {
    if (bytes > o->budget) {
        if (!o->cut_short)
            say(o, "the channels have more memory than the heap: the rest was not read");
        o->cut_short = true;
        return false;
    }
    o->budget -= bytes;
    look_at(o, offset, to, bytes);
    return true;
}

struct page page_now(ipcheap_observer *o, uint64_t page) {
    struct page descriptor;
    look_at(o, o->geometry.pages_at + page * sizeof descriptor, &descriptor, sizeof descriptor);
    return descriptor;
}

bool area_is(ipcheap_observer *o, uint64_t offset, uint64_t bytes, enum page_kind kind,
             uint64_t tag) {
    const struct geometry *g = &o->geometry;
    uint64_t page = (offset - g->data_at) >> PAGE_SHIFT;
    if (offset < g->data_at || offset % PAGE || page >= g->total_pages) return false;
    struct page head = page_now(o, page);
    uint64_t word = get(&head.word), length = word_length(word);
    uint64_t end = page < g->zone_pages[DATA_ZONE] ? g->zone_pages[DATA_ZONE] : g->total_pages;
    return word_state(word) == PAGE_USED && word_kind(word) == kind && get(&head.tag) == tag &&
           length <= end - page && bytes <= length << PAGE_SHIFT;
}

/* Opening -------------------------------------------------------------------------------------- */

/* Reads the header and works out the geometry; NOT_FORMATTED or FORMAT_MISMATCH without one. */
static int header_look(ipcheap_observer *o) {
    look_at(o, 0, &o->header, sizeof o->header);
    const struct header *header = &o->header;
    uint64_t magic = get(&header->magic);
    if (magic == 0) return IPCHEAP_NOT_FORMATTED;
    if (magic != MAGIC || get(&header->format) != FORMAT || get(&header->layout) != layout_hash())
        return IPCHEAP_FORMAT_MISMATCH;
    return geometry_of(get(&header->capacity), &o->geometry) ? 0 : IPCHEAP_FORMAT_MISMATCH;
}

static int open_segment(ipcheap_observer *o, int shmid) {
    int64_t bytes = shmid >= 0 ? os_sysv_bytes(shmid) : os_file_bytes(o->fd);
    if (bytes < 0) return (int)bytes;
    o->bytes = (uint64_t)bytes;
    if (shmid >= 0) {
        /* No process can take pages away from it, so it may be mapped. */
        int error = os_map_sysv(shmid, true, &o->base);
        if (error) return error;
    }
    if (o->bytes < sizeof o->header)
        return o->bytes ? IPCHEAP_FORMAT_MISMATCH : IPCHEAP_NOT_FORMATTED;
    int error = header_look(o);
    if (error) return error;
    o->bytes = least(o->bytes, o->geometry.bytes);
    o->is_copy = get(&o->header.inode) != os_file_inode(o->fd);
    o->boot_offset = os_boot_clock_offset();
    return 0;
}

int ipcheap_observe(int fd, int shmid, ipcheap_observer **result) {
    ipcheap_observer *o = os_allocate_zeroed(1, sizeof *o);
    if (!o) return IPCHEAP_NO_MEMORY;
    o->fd = fd;
    int error = open_segment(o, shmid);
    if (error) {
        ipcheap_observer_close(o);
        return error;
    }
    *result = o;
    return 0;
}

static void forget(ipcheap_observer *o) {
    struct growing *lists[] = {&o->participants, &o->channels, &o->parties, &o->holdings,
                               &o->sentences};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) lists[i]->count = 0;
    forget_channels(o);
    o->missing = o->cut_short = o->short_of_memory = false;
    o->window.count = 0;
    o->not_dumped = 0;
    o->heap = (ipcheap_seen_heap){0};
    memset(o->reread, 0, sizeof o->reread);
}

void ipcheap_observer_close(ipcheap_observer *o) {
    if (!o) return;
    forget(o);
    free(o->participants.items);
    free(o->channels.items);
    free(o->parties.items);
    free(o->holdings.items);
    free(o->sentences.items);
    free(o->cells);
    free(o->slots);
    free(o->window.pages);
    if (o->base) os_unmap_sysv(o->base);
    free(o);
}

/* Participants --------------------------------------------------------------------------------- */

static uint64_t latest_key(const struct participant_slot *record, uint32_t slot) {
    return own_tag(slot, (uint32_t)(get(&record->word) >> 8));
}

static uint64_t owner_in(const ipcheap_observer *o, uint64_t tag) {
    uint32_t slot = tag_slot(tag), generation = tag_generation(tag);
    const struct participant_slot *record = &o->slots[slot];
    uint64_t word = get(&record->word);
    uint32_t latest = (uint32_t)(word >> 8);
    bool there = (word & 0xFF) != SLOT_FREE;
    /* Another thread of its process may continue an ended one: then its tags are still in use. */
    bool its = (int32_t)(generation - latest) <= 0 &&
               (int32_t)(generation - get(&record->first)) >= 0;
    return there && its ? latest_key(record, slot) : 0;
}

static void slot_look(ipcheap_observer *o, uint32_t slot) {
    struct participant_slot *record = &o->slots[slot];
    look_at(o, o->geometry.participants_at + slot * sizeof *record, record, sizeof *record);
}

static void participant_look(ipcheap_observer *o, uint32_t slot);

uint64_t key_of_owner(ipcheap_observer *o, uint64_t tag) {
    uint32_t slot = tag_slot(tag);
    uint64_t key = owner_in(o, tag);
    if (key || o->reread[slot]) return key;
    o->reread[slot] = true; /* it may have joined since: once a slot, so that this ends */
    uint64_t before = get(&o->slots[slot].word);
    slot_look(o, slot);
    if (get(&o->slots[slot].word) == before) return 0;
    o->heap.again++;
    participant_look(o, slot);
    return owner_in(o, tag);
}

uint64_t key_of_seat(ipcheap_observer *o, uint64_t holder) {
    return side_state(holder) == SIDE_OPEN ? key_of_owner(o, holder) : 0;
}

/* Returns whether the occupant of a slot is alive. A copy of a heap does not say. */
static uint32_t state_of(ipcheap_observer *o, uint32_t slot,
                         const struct participant_slot *record) {
    if (o->is_copy) return IPCHEAP_SEEN_UNKNOWN;
    int locked = os_byte_locked(o->fd, slot);
    if (locked < 0) return IPCHEAP_SEEN_UNKNOWN;
    if (locked == 0) return IPCHEAP_SEEN_DEAD;
    uint64_t here = os_process_namespace();
    uint32_t pid = get(&record->pid);
    /* Many participants may be threads of one process. */
    if (!here || get(&record->namespace) != here || pid == o->not_dumped) return IPCHEAP_SEEN_ALIVE;
    if (process_is_dumped(pid)) return IPCHEAP_SEEN_DEAD;
    o->not_dumped = pid;
    return IPCHEAP_SEEN_ALIVE;
}

/* Adds the occupant of a slot to those that were seen, unless there is none. */
static void participant_look(ipcheap_observer *o, uint32_t slot) {
    const struct participant_slot *record = &o->slots[slot];
    if ((get(&record->word) & 0xFF) != SLOT_LIVE) return;
    ipcheap_seen_participant *seen = grow(o, &o->participants, sizeof *seen);
    if (!seen) return;
    uint64_t here = os_process_namespace(), there = get(&record->namespace);
    seen->key = latest_key(record, slot);
    seen->pid = get(&record->pid);
    seen->tid = get(&record->tid);
    seen->since_ns = get(&record->since);
    seen->state = state_of(o, slot, record);
    seen->elsewhere = here && there && here != there;
    uint64_t label[LABEL_WORDS];
    for (int i = 0; i < LABEL_WORDS; i++) label[i] = get(&record->label[i]);
    static_assert(sizeof seen->name > sizeof label, "with a zero at its end");
    memcpy(seen->name, label, sizeof label);
}

/* True if a page of the participants' table has memory. */
static bool has_slots(ipcheap_observer *o, uint32_t slot) {
    const struct geometry *g = &o->geometry;
    uint64_t at = g->participants_at + slot * sizeof(struct participant_slot), word;
    if (o->base) return slot < get(&o->header.slots_used); /* any other would get memory now */
    uint64_t page = (at - g->always) >> PAGE_SHIFT;
    look_at(o, g->metabits_at + page / 64 * sizeof word, &word, sizeof word);
    return word >> (page & 63) & 1;
}

static void participants_look(ipcheap_observer *o) {
    enum { TOGETHER = PAGE / sizeof(struct participant_slot) };
    memset(o->slots, 0, PARTICIPANTS * sizeof *o->slots);
    for (uint32_t first = 0; first < PARTICIPANTS; first += TOGETHER) {
        if (!has_slots(o, first)) continue;
        uint64_t at = o->geometry.participants_at + first * sizeof *o->slots;
        look_at(o, at, &o->slots[first], PAGE);
    }
    for (uint32_t slot = 0; slot < PARTICIPANTS; slot++) participant_look(o, slot);
}

/* The whole ----------------------------------------------------------------------------------- */

/* The slot's word has the full generation, the lock word only its low bits. */
static void lock_look(ipcheap_observer *o) {
    uint32_t word = get(&o->header.lock), slot = (word & 0x1FFF) - 1;
    o->heap.locked = word != 0;
    o->heap.contended = (word & LOCK_WAITERS_BIT) != 0;
    if (!word || slot >= PARTICIPANTS) return;
    const struct participant_slot *record = &o->slots[slot];
    uint64_t occupant = get(&record->word);
    bool same = ((occupant >> 8 ^ word >> 13) & 0x3FFFF) == 0;
    if ((occupant & 0xFF) == SLOT_FREE || !same) return;
    o->heap.lock_holder = latest_key(record, slot);
}

static uint64_t committed_look(ipcheap_observer *o) {
    const struct geometry *g = &o->geometry;
    uint64_t words[512], pages = g->zone_pages[DATA_ZONE], sum = 0, all = (pages + 63) / 64;
    for (uint64_t w = 0; w < all; w += 512) {
        uint64_t count = least(512, all - w);
        look_at(o, g->committed_at + w * 8, words, count * 8);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t left = pages - (w + i) * 64;
            uint64_t mask = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
            sum += (uint64_t)__builtin_popcountll(words[i] & mask);
        }
    }
    return sum << PAGE_SHIFT;
}

static void heap_look(ipcheap_observer *o) {
    ipcheap_seen_heap *heap = &o->heap;
    uint64_t capacity = o->geometry.capacity;
    look_at(o, 0, &o->header, sizeof o->header);
    const struct header *header = &o->header;
    if (get(&header->magic) != MAGIC || get(&header->capacity) != capacity)
        say(o, "the header is not what it was");
    heap->capacity = capacity;
    heap->identity = get(&header->identity);
    heap->created_ns = get(&header->created);
    heap->recoveries = get(&header->recoveries);
    heap->shm_kind = get(&header->shm_kind);
    heap->sem_kind = get(&header->sem_kind);
    heap->is_copy = o->is_copy;
    heap->system = get(&header->zones[SYSTEM_ZONE].used) << PAGE_SHIFT;
    heap->committed = committed_look(o);
}

int ipcheap_observer_look(ipcheap_observer *o, uint32_t what) {
    forget(o);
    if (!o->slots) o->slots = os_allocate_zeroed(PARTICIPANTS, sizeof *o->slots);
    if (!o->slots) return IPCHEAP_NO_MEMORY;
    o->began = os_now();
    o->budget = 2 * (o->geometry.zone_pages[SYSTEM_ZONE] << PAGE_SHIFT);
    o->heap.taken_ns = os_wall_clock();
    heap_look(o);
    participants_look(o);
    lock_look(o);
    look_at_channels(o);
    if (what & IPCHEAP_LOOK_MEMORY && !o->short_of_memory) take_census(o);
    o->heap.took_ns = os_now() - o->began;
    return o->short_of_memory ? IPCHEAP_NO_MEMORY : 0;
}

/* What was found ------------------------------------------------------------------------------ */

void ipcheap_observer_heap(const ipcheap_observer *o, ipcheap_seen_heap *heap) { *heap = o->heap; }

static int next(const struct growing *list, uint64_t *cursor, void *to, size_t bytes) {
    if (*cursor >= list->count) return 0;
    memcpy(to, (const unsigned char *)list->items + (*cursor)++ * bytes, bytes);
    return 1;
}

int ipcheap_observer_next_participant(const ipcheap_observer *o, uint64_t *cursor,
                                      ipcheap_seen_participant *participant) {
    return next(&o->participants, cursor, participant, sizeof *participant);
}

int ipcheap_observer_next_channel(const ipcheap_observer *o, uint64_t *cursor,
                                  ipcheap_seen_channel *channel) {
    return next(&o->channels, cursor, channel, sizeof *channel);
}

int ipcheap_observer_next_party(const ipcheap_observer *o, uint64_t *cursor,
                                ipcheap_seen_party *party) {
    return next(&o->parties, cursor, party, sizeof *party);
}

int ipcheap_observer_next_holding(const ipcheap_observer *o, uint64_t *cursor,
                                  ipcheap_seen_holding *holding) {
    return next(&o->holdings, cursor, holding, sizeof *holding);
}

int ipcheap_observer_next_text(const ipcheap_observer *o, uint64_t *cursor,
                               ipcheap_seen_text *text) {
    return next(&o->sentences, cursor, text, sizeof *text);
}
