#include "channel/directory.h"

#include <string.h>

#include "base/timing.h"
#include "channel/kind.h"
#include "memory/extent.h"

#define FIRST_TABLE_LOG 10
#define TOMBSTONE UINT32_MAX
#define KEY_WORDS 7

static_assert(sizeof(ipcheap_key) <= KEY_WORDS * 8, "a key fits into its words");

/* Keys ----------------------------------------------------------------------------------- */

struct key_words {
    uint64_t word[KEY_WORDS];
    uint64_t hash;
};

static struct key_words words_of(const ipcheap_key *key) {
    struct key_words words = {{0}, 0};
    unsigned char bytes[KEY_WORDS * 8] = {key->kind, key->length};
    size_t length = key->length <= IPCHEAP_KEY_MAX ? key->length : IPCHEAP_KEY_MAX;
    memcpy(bytes + 2, key->bytes, length);
    memcpy(words.word, bytes, sizeof bytes);
    uint64_t hash = UINT64_C(0x9E3779B97F4A7C15);
    for (int i = 0; i < KEY_WORDS; i++) {
        hash = (hash ^ words.word[i]) * UINT64_C(0xBF58476D1CE4E5B9);
        hash ^= hash >> 29;
    }
    words.hash = hash;
    return words;
}

int ipcheap_key_int(ipcheap_key *key, uint64_t value) {
    if (value >> 63) return IPCHEAP_BAD_VALUE;
    *key = (ipcheap_key){.kind = IPCHEAP_KEY_INT, .length = sizeof value};
    memcpy(key->bytes, &value, sizeof value);
    return 0;
}

int ipcheap_key_text(ipcheap_key *key, const char *text, size_t length) {
    if (length < 1 || length > IPCHEAP_KEY_MAX) return IPCHEAP_BAD_VALUE;
    *key = (ipcheap_key){.kind = IPCHEAP_KEY_TEXT, .length = (uint8_t)length};
    memcpy(key->bytes, text, length);
    return 0;
}

/* Descriptors ---------------------------------------------------------------------------- */

static enum channel_state state_of(const struct channel *channel) {
    return (enum channel_state)(get_acquire(&channel->state) >> 62); /* with directory_add() */
}

static uint64_t chunk_bytes(uint32_t chunk) {
    return ((uint64_t)FIRST_CHUNK << chunk) * sizeof(struct channel);
}

static uint32_t chunk_of(uint32_t index, uint32_t *within) {
    uint32_t scaled = index / FIRST_CHUNK + 1;
    uint32_t chunk = 31 - (uint32_t)__builtin_clz(scaled);
    *within = index - FIRST_CHUNK * ((1u << chunk) - 1);
    return chunk;
}

/* Finds a chunk and remembers it: a chunk never moves, whatever becomes of its root. */
static struct channel *chunk_find(ipcheap_heap *heap, uint32_t chunk) {
    uint64_t offset = get_acquire(&heap->header->chunks[chunk]); /* with chunk_make() */
    if (!extent_is(heap, offset, chunk_bytes(chunk), KIND_SYSTEM, part_tag(NO_CHANNEL, chunk)))
        return NULL;
    struct channel *first = at_offset(heap, offset);
    heap->chunks[chunk] = first;
    return first;
}

struct channel *channel_at(ipcheap_heap *heap, uint32_t index) {
    if (index >= MAX_CHANNELS) return NULL;
    uint32_t within, chunk = chunk_of(index, &within);
    struct channel *first = heap->chunks[chunk];
    if (UNLIKELY(!first)) first = chunk_find(heap, chunk);
    return first ? first + within : NULL;
}

uint32_t channel_index(const ipcheap_heap *heap, const struct channel *channel) {
    for (uint32_t chunk = 0; chunk < DIRECTORY_CHUNKS; chunk++) {
        const struct channel *first = heap->chunks[chunk];
        if (!first || channel < first || channel >= first + (FIRST_CHUNK << chunk)) continue;
        return FIRST_CHUNK * ((1u << chunk) - 1) + (uint32_t)(channel - first);
    }
    return NO_CHANNEL;
}

uint32_t directory_entries(ipcheap_heap *heap) {
    uint32_t room = 0;
    for (uint32_t chunk = 0; chunk < DIRECTORY_CHUNKS && channel_at(heap, room); chunk++)
        room += (uint32_t)FIRST_CHUNK << chunk;
    return (uint32_t)least(get(&heap->header->entries), room);
}

/* True for a part that is not the kind's: the table of a channel's users. */
static bool is_of_users(const struct kind *kind, uint32_t part) {
    return kind->has_users && part == USERS_PART;
}

static enum page_kind pages_of_part(const struct kind *kind, uint32_t part) {
    return is_of_users(kind, part) ? KIND_SYSTEM : kind->pages;
}

uint64_t channel_part(ipcheap_heap *heap, uint32_t index, uint32_t part, uint64_t bytes) {
    struct channel *channel = channel_at(heap, index);
    if (!channel) return 0;
    uint64_t offset = get_acquire(&channel->parts[part]); /* with channel_make_part() */
    const struct kind *kind = kind_of(heap, channel);
    if (!kind) return 0;
    enum page_kind pages = pages_of_part(kind, part);
    return extent_is(heap, offset, bytes, pages, part_tag(index, part)) ? offset : 0;
}

int channel_of(ipcheap_heap *heap, const ipcheap_channel *handle, struct channel **channel) {
    *channel = channel_at(heap, handle->index);
    if (!*channel || state_of(*channel) != CHANNEL_LIVE) return IPCHEAP_CHANNEL_NOT_FOUND;
    return get(&(*channel)->incarnation) == handle->incarnation ? 0 : IPCHEAP_CHANNEL_NOT_FOUND;
}

static bool key_matches(const struct channel *channel, const struct key_words *words) {
    if (get(&channel->hash) != words->hash) return false;
    for (int i = 0; i < KEY_WORDS; i++)
        if (get(&channel->key[i]) != words->word[i]) return false;
    return true;
}

/* Returns the key in a descriptor. */
static struct key_words words_in(const struct channel *channel) {
    struct key_words words = {.hash = get(&channel->hash)};
    for (int i = 0; i < KEY_WORDS; i++) words.word[i] = get(&channel->key[i]);
    return words;
}

void channel_key(const struct channel *channel, ipcheap_key *key) {
    struct key_words words = words_in(channel);
    unsigned char bytes[sizeof words.word];
    memcpy(bytes, words.word, sizeof bytes);
    *key = (ipcheap_key){.kind = bytes[0], .length = bytes[1]};
    if (key->length > IPCHEAP_KEY_MAX) key->length = IPCHEAP_KEY_MAX;
    memcpy(key->bytes, bytes + 2, key->length);
}

static void handle_fill(const struct channel *channel, uint32_t index, ipcheap_channel *handle) {
    handle->index = index;
    handle->incarnation = get(&channel->incarnation);
    handle->kind = get(&channel->kind);
    handle->shape = get(&channel->shape);
}

/* The table ------------------------------------------------------------------------------ */

struct table {
    shared32 *cells;
    uint64_t mask;
};

static bool table_of(ipcheap_heap *heap, struct table *table) {
    uint64_t word = get_acquire(&heap->header->table); /* with table_publish() */
    uint64_t log = word >> 56, offset = word & ((UINT64_C(1) << 56) - 1);
    if (log < FIRST_TABLE_LOG || log > 40) return false;
    uint64_t tag = part_tag(NO_CHANNEL, DIRECTORY_TABLE);
    if (!extent_is(heap, offset, UINT64_C(4) << log, KIND_SYSTEM, tag)) return false;
    *table = (struct table){at_offset(heap, offset), (UINT64_C(1) << log) - 1};
    return true;
}

/* Returns the cell of a key, or NULL. Trusts a cell only if the descriptor has the key. */
static shared32 *table_find(ipcheap_heap *heap, const struct key_words *words, uint32_t *index) {
    struct table table;
    if (!table_of(heap, &table)) return NULL;
    for (uint64_t i = 0; i <= table.mask; i++) {
        shared32 *cell = &table.cells[(words->hash + i) & table.mask];
        uint32_t value = get_acquire(cell); /* with table_insert() */
        if (value == 0) return NULL;
        if (value == TOMBSTONE) continue;
        struct channel *channel = channel_at(heap, value - 1);
        if (channel && state_of(channel) == CHANNEL_LIVE && key_matches(channel, words)) {
            *index = value - 1;
            return cell;
        }
    }
    return NULL;
}

static bool table_insert(const struct table *table, uint64_t hash, uint32_t index) {
    for (uint64_t i = 0; i <= table->mask; i++) {
        shared32 *cell = &table->cells[(hash + i) & table->mask];
        uint32_t value = get(cell);
        if (value != 0 && value != TOMBSTONE) continue;
        put_release(cell, index + 1); /* pairs with table_find() */
        return true;
    }
    return false;
}

static void table_publish(ipcheap_heap *heap, uint64_t log, uint64_t page) {
    put(&heap->header->tombstones, 0);
    put_release(&heap->header->table, log << 56 | page_offset(heap, page)); /* with table_of() */
}

/*
 * Zeroes system memory. It may have been a table that a look-up, which takes no lock, is still
 * reading. The reader validates whatever it finds, so any value will do, but the stores must be
 * atomic.
 */
static void zero(void *start, uint64_t bytes) {
    shared64 *words = start;
    for (uint64_t i = 0; i < bytes / sizeof *words; i++)
        atomic_store_explicit(&words[i], 0, memory_order_relaxed);
}

/*
 * Allocates a run that is all zero. All of its memory is requested, because this process writes to
 * it: if a bit said wrongly that a page has memory, that would raise SIGBUS. Under the lock.
 */
static int zeroes_make(struct participant *me, int zone, uint64_t bytes, enum page_kind kind,
                       uint64_t tag, uint64_t *page) {
    ipcheap_heap *heap = me->heap;
    uint64_t pages = round_up(bytes, PAGE) >> PAGE_SHIFT;
    int error = extent_allocate_anew(me, zone, pages, kind, tag, page);
    if (error) return error;
    void *start = at_offset(heap, page_offset(heap, *page));
    if (zone == SYSTEM_ZONE)
        zero(start, pages << PAGE_SHIFT);
    else
        memset(start, 0, pages << PAGE_SHIFT);
    return 0;
}

/* Makes a table of 2^log cells with all LIVE channels in it. Under the lock. */
static int table_make(struct participant *me, uint64_t log) {
    ipcheap_heap *heap = me->heap;
    uint64_t bytes = UINT64_C(4) << log, page;
    int error = zeroes_make(me, SYSTEM_ZONE, bytes, KIND_SYSTEM,
                            part_tag(NO_CHANNEL, DIRECTORY_TABLE), &page);
    if (error) return error;
    uint64_t old = get(&heap->header->table) & ((UINT64_C(1) << 56) - 1);
    struct table table = {at_offset(heap, page_offset(heap, page)), (UINT64_C(1) << log) - 1};
    uint32_t entries = directory_entries(heap);
    for (uint32_t i = 0; i < entries; i++) {
        struct channel *channel = channel_at(heap, i);
        if (channel && state_of(channel) == CHANNEL_LIVE)
            table_insert(&table, get(&channel->hash), i);
    }
    table_publish(heap, log, page);
    directory_notify(heap); /* before the old one is reused: look-ups start anew */
    if (extent_is(heap, old, 1, KIND_SYSTEM, part_tag(NO_CHANNEL, DIRECTORY_TABLE)))
        extent_free(me, (old - heap->geometry.data_at) >> PAGE_SHIFT);
    return 0;
}

static uint32_t count_living(ipcheap_heap *heap) {
    uint32_t entries = directory_entries(heap), living = 0;
    for (uint32_t i = 0; i < entries; i++) {
        struct channel *channel = channel_at(heap, i);
        living += channel && state_of(channel) == CHANNEL_LIVE;
    }
    return living;
}

/* Makes room for one more channel, with a quarter of the cells empty. Under the lock. */
static int table_reserve(struct participant *me) {
    struct header *header = me->heap->header;
    struct table table;
    bool there = table_of(me->heap, &table);
    uint64_t cells = there ? table.mask + 1 : 0, dead = get(&header->tombstones);
    uint64_t live = (uint64_t)get(&header->channels) + 1;
    if (dead <= cells && (live + dead) * 4 <= cells * 3) return 0;
    /* The count may be wrong, so it is taken anew before a table is made by it. */
    live = count_living(me->heap) + 1;
    put(&header->channels, (uint32_t)live - 1);
    uint64_t log = FIRST_TABLE_LOG;
    while (live * 2 > UINT64_C(1) << log) log++;
    return table_make(me, log);
}

/* Adding and removing -------------------------------------------------------------------- */

static int chunk_make(struct participant *me, uint32_t chunk) {
    ipcheap_heap *heap = me->heap;
    uint64_t page, tag = part_tag(NO_CHANNEL, chunk);
    int error = zeroes_make(me, SYSTEM_ZONE, chunk_bytes(chunk), KIND_SYSTEM, tag, &page);
    if (error) return error;
    put_release(&heap->header->chunks[chunk], page_offset(heap, page)); /* with chunk_find() */
    return 0;
}

static void entry_begin(struct participant *me, struct channel *channel) {
    put(&channel->state, (uint64_t)CHANNEL_MAKING << 62 | (me->tag & ~(TAG_OWN << 62)));
}

/* Takes a descriptor that was never used; skips those in use that `entries` does not count. */
static int entry_new(struct participant *me, uint32_t *index) {
    struct header *header = me->heap->header;
    uint32_t next = directory_entries(me->heap), within;
    for (;; next++) {
        if (next >= MAX_CHANNELS || next >= NO_CHANNEL) return IPCHEAP_HEAP_FULL;
        struct channel *channel = channel_at(me->heap, next);
        if (!channel) {
            uint32_t chunk = chunk_of(next, &within);
            if (get(&header->chunks[chunk]) != 0) return IPCHEAP_CORRUPT;
            int error = chunk_make(me, chunk);
            if (error) return error;
            channel = channel_at(me->heap, next);
        }
        if (!channel) return IPCHEAP_CORRUPT;
        if (state_of(channel) != CHANNEL_FREE) continue;
        put(&header->entries, next + 1);
        entry_begin(me, channel);
        *index = next;
        return 0;
    }
}

static int entry_take(struct participant *me, uint32_t *index) {
    struct header *header = me->heap->header;
    uint32_t link = get(&header->free_entry);
    if (link == 0) return entry_new(me, index);
    struct channel *channel = channel_at(me->heap, link - 1);
    if (!channel || state_of(channel) != CHANNEL_FREE) { /* the list is corrupt: drop it */
        put(&header->free_entry, 0);
        return entry_new(me, index);
    }
    entry_begin(me, channel);
    put(&header->free_entry, get(&channel->next_free));
    *index = link - 1;
    return 0;
}

static void entry_fill(struct channel *channel, const struct key_words *words, uint32_t kind,
                       uint64_t shape) {
    put(&channel->incarnation, get(&channel->incarnation) + 1);
    put(&channel->kind, kind);
    put(&channel->shape, shape);
    for (int part = 0; part < PARTS; part++) put(&channel->parts[part], 0);
    put(&channel->ready, 0);
    put(&channel->flags, CHANNEL_DESERTED);
    put(&channel->journeys, 0);
    put(&channel->hash, words->hash);
    for (int i = 0; i < KEY_WORDS; i++) put(&channel->key[i], words->word[i]);
    for (int side = 0; side < 2; side++) {
        put(&channel->seats[side].holder, 0);
        put(&channel->seats[side].parked, AWAKE);
        put(&channel->seats[side].bell.inode, 0);
        put(&channel->sides[side].position, 0);
        put(&channel->sides[side].parks, 0);
        put(&channel->sides[side].wakes, 0);
        put(&channel->sides[side].since, 0);
        for (int i = 0; i < MARKS; i++) put(&channel->sides[side].marks[i], 0);
        for (int i = 0; i < 4; i++) put(&channel->sides[side].of_kind[i], 0);
    }
    for (int i = 0; i < 8; i++) put(&channel->of_kind[i], 0);
}

static void entry_free(ipcheap_heap *heap, uint32_t index) {
    struct channel *channel = channel_at(heap, index);
    put(&channel->next_free, get(&heap->header->free_entry));
    put_release(&channel->state, (uint64_t)CHANNEL_FREE << 62);
    put(&heap->header->free_entry, index + 1);
}

int directory_add(struct participant *me, const ipcheap_key *key, uint32_t kind, uint64_t shape,
                  const void *details, ipcheap_channel *handle, bool *added) {
    ipcheap_heap *heap = me->heap;
    struct key_words words = words_of(key);
    uint32_t index;
    *added = false;
    if (table_find(heap, &words, &index)) {
        handle_fill(channel_at(heap, index), index, handle);
        bool same = handle->kind == kind && (shape == 0 || handle->shape == shape);
        return same ? 0 : IPCHEAP_CHANNEL_TYPE;
    }
    if (shape == 0) return IPCHEAP_CHANNEL_NOT_FOUND;
    int error = table_reserve(me);
    if (!error) error = entry_take(me, &index);
    if (error) return error;
    struct channel *channel = channel_at(heap, index);
    entry_fill(channel, &words, kind, shape);
    const struct kind *answers = kind_numbered(heap, kind);
    if (answers->made_with_channel) {
        error = answers->make(me, index, shape, details);
        if (error) {
            entry_free(heap, index);
            return error;
        }
    }
    put_release(&channel->state, (uint64_t)CHANNEL_LIVE << 62); /* commit; with state_of() */
    struct table table;
    if (UNLIKELY(!table_of(heap, &table) || !table_insert(&table, words.hash, index)))
        table_make(me, FIRST_TABLE_LOG);
    put(&heap->header->channels, get(&heap->header->channels) + 1);
    handle_fill(channel, index, handle);
    directory_notify(heap);
    *added = true;
    return 0;
}

int channel_make_area(struct participant *me, uint32_t index, uint32_t part, uint64_t bytes,
                      uint64_t *offset) {
    ipcheap_heap *heap = me->heap;
    const struct kind *kind = kind_of(heap, channel_at(heap, index));
    uint64_t page;
    if (!kind) return IPCHEAP_CORRUPT;
    int zone = is_of_users(kind, part) ? SYSTEM_ZONE : kind->zone;
    enum page_kind pages = pages_of_part(kind, part);
    int error = zeroes_make(me, zone, bytes, pages, part_tag(index, part), &page);
    if (!error) *offset = page_offset(heap, page);
    return error;
}

int channel_make_part(struct participant *me, uint32_t index, uint32_t part, uint64_t bytes) {
    uint64_t offset;
    int error = channel_make_area(me, index, part, bytes, &offset);
    if (error) return error;
    struct channel *channel = channel_at(me->heap, index);
    put_release(&channel->parts[part], offset); /* pairs with channel_part() */
    return 0;
}

bool channel_area_is(ipcheap_heap *heap, uint32_t index, uint32_t part, uint64_t offset,
                     uint64_t bytes) {
    const struct channel *channel = channel_at(heap, index);
    const struct kind *kind = channel ? kind_of(heap, channel) : NULL;
    return kind && extent_is(heap, offset, bytes, kind->pages, part_tag(index, part));
}

void channel_free_area(struct participant *me, uint64_t offset) {
    extent_free(me, (offset - me->heap->geometry.data_at) >> PAGE_SHIFT);
}

void directory_remove(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    struct key_words words = words_in(channel);
    uint32_t found;
    shared32 *cell = table_find(heap, &words, &found);
    put_release(&channel->state, (uint64_t)CHANNEL_REMOVED << 62); /* commit */
    if (cell && found == index) {
        put(cell, TOMBSTONE);
        put(&heap->header->tombstones, get(&heap->header->tombstones) + 1);
    }
    put(&heap->header->channels, get(&heap->header->channels) - 1);
    directory_notify(heap);
}

void directory_drop(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    for (uint32_t part = 0; part < PARTS; part++) {
        uint64_t memory = channel_part(heap, index, part, 1);
        put(&channel->parts[part], 0);
        if (memory) extent_free(me, (memory - heap->geometry.data_at) >> PAGE_SHIFT);
    }
    entry_free(heap, index);
}

/* True if the directory or the channel that a run belongs to still points to it. */
static bool run_is_referenced(ipcheap_heap *heap, uint64_t page) {
    uint64_t tag = get(&heap->pages[page].tag), offset = page_offset(heap, page);
    uint32_t index = tag_channel(tag);
    if (index != NO_CHANNEL) {
        struct channel *channel = channel_at(heap, index);
        if (!channel || state_of(channel) == CHANNEL_FREE) return false;
        uint64_t part = tag_position(tag);
        if (part < PARTS) return get(&channel->parts[part]) == offset;
        const struct kind *kind = kind_of(heap, channel);
        return kind && kind->has_part && kind->has_part(heap, index, part, offset);
    }
    uint64_t position = tag_position(tag);
    if (position == DIRECTORY_TABLE)
        return (get(&heap->header->table) & ((UINT64_C(1) << 56) - 1)) == offset;
    return position < DIRECTORY_CHUNKS && get(&heap->header->chunks[position]) == offset;
}

/* Frees such runs in batches, because freeing moves the heads that a walk stands on. */
static void free_unreferenced(struct participant *me, int zone) {
    ipcheap_heap *heap = me->heap;
    uint64_t lost[64];
    size_t count;
    do {
        count = 0;
        struct extent_walk walk = extent_walk_of(heap, zone);
        while (count < sizeof lost / sizeof *lost && extent_step(heap, &walk)) {
            bool ours = walk.kind == KIND_SYSTEM || walk.kind == KIND_STATIC ||
                        walk.kind == KIND_STREAM;
            if (walk.state == PAGE_USED && ours && !run_is_referenced(heap, walk.first))
                lost[count++] = walk.first;
        }
        for (size_t i = 0; i < count; i++)
            if (extent_free(me, lost[i])) return;
    } while (count == sizeof lost / sizeof *lost);
}

/* Inserts LIVE channels that the table lacks: one at most, for which there is always room. */
static void reinsert_missing(ipcheap_heap *heap) {
    struct table table;
    uint32_t entries = directory_entries(heap), index;
    for (uint32_t i = 0; i < entries && table_of(heap, &table); i++) {
        struct channel *channel = channel_at(heap, i);
        if (!channel) break;
        if (state_of(channel) != CHANNEL_LIVE) continue;
        struct key_words words = words_in(channel);
        if (!table_find(heap, &words, &index)) table_insert(&table, words.hash, i);
    }
}

/*
 * Restores roots of published chunks that do not lead to them any more, by the tags of the runs.
 * A chunk that was being made when its maker died has no root yet, and no entries.
 */
static void restore_roots(ipcheap_heap *heap) {
    struct header *header = heap->header;
    uint32_t entries = get(&header->entries);
    struct extent_walk walk = extent_walk_of(heap, SYSTEM_ZONE);
    while (extent_step(heap, &walk)) {
        if (walk.state != PAGE_USED || walk.kind != KIND_SYSTEM) continue;
        uint64_t tag = get(&heap->pages[walk.first].tag), chunk = tag_position(tag);
        if (tag_channel(tag) != NO_CHANNEL || chunk >= DIRECTORY_CHUNKS) continue;
        uint64_t root = get(&header->chunks[chunk]), here = page_offset(heap, walk.first);
        uint64_t bytes = chunk_bytes((uint32_t)chunk);
        if (root == here || extent_is(heap, root, bytes, KIND_SYSTEM, tag)) continue;
        bool published = root != 0 || entries > FIRST_CHUNK * ((UINT64_C(1) << chunk) - 1);
        if (published && extent_is(heap, here, bytes, KIND_SYSTEM, tag))
            put_release(&header->chunks[chunk], here); /* with chunk_find() */
    }
}

bool directory_valid(ipcheap_heap *heap) {
    struct header *header = heap->header;
    struct table table;
    uint64_t entries = get(&header->entries);
    for (uint32_t chunk = 0; chunk < DIRECTORY_CHUNKS; chunk++) {
        bool used = entries > FIRST_CHUNK * ((UINT64_C(1) << chunk) - 1);
        uint64_t root = get(&header->chunks[chunk]), tag = part_tag(NO_CHANNEL, chunk);
        if ((used || root) && !extent_is(heap, root, chunk_bytes(chunk), KIND_SYSTEM, tag))
            return false;
    }
    if (get(&header->table) != 0 && !table_of(heap, &table)) return false;
    return get(&header->channels) == count_living(heap);
}

void directory_rebuild(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    struct header *header = heap->header;
    struct table table;
    restore_roots(heap);
    uint32_t entries = directory_entries(heap);
    put(&header->free_entry, 0);
    for (uint32_t i = 0; i < entries; i++) {
        struct channel *channel = channel_at(heap, i);
        if (!channel) break;
        enum channel_state state = state_of(channel);
        for (int part = 0; part < PARTS && state == CHANNEL_MAKING; part++)
            put(&channel->parts[part], 0);
        if (state == CHANNEL_FREE || state == CHANNEL_MAKING) entry_free(heap, i);
    }
    put(&header->channels, count_living(heap));
    for (int zone = 0; zone < ZONES; zone++) free_unreferenced(me, zone);
    if (get(&header->table) != 0 && !table_of(heap, &table)) {
        put(&header->table, 0);
        table_reserve(me);
    }
    reinsert_missing(heap);
    directory_notify(heap);
}

/* Looking -------------------------------------------------------------------------------- */

void directory_notify(ipcheap_heap *heap) {
    put_add(&heap->header->directory_version, 1);
    full_fence(); /* pairs with ipcheap_wait_directory() */
    if (get(&heap->header->directory_waiters)) {
        put(&heap->header->directory_waiters, 0);
        os_futex_wake(&heap->header->directory_version, INT32_MAX);
    }
}

uint32_t ipcheap_directory_version(ipcheap_heap *heap) {
    return get_acquire(&heap->header->directory_version); /* pairs with directory_notify() */
}

int ipcheap_wait_directory(ipcheap_heap *heap, uint32_t seen, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    while (ipcheap_directory_version(heap) == seen) {
        int64_t left = os_remaining(deadline);
        if (left == 0) return IPCHEAP_TIMED_OUT;
        put(&heap->header->directory_waiters, 1);
        full_fence(); /* pairs with directory_notify() */
        int64_t span = (int64_t)least((uint64_t)left, LOOK_AGAIN);
        int error = os_futex_wait(&heap->header->directory_version, seen, span);
        if (error == IPCHEAP_INTERRUPTED) return error;
    }
    return 0;
}

int ipcheap_find_channel(ipcheap_heap *heap, const ipcheap_key *key, ipcheap_channel *handle) {
    struct key_words words = words_of(key);
    for (int tries = 0; tries < 1000; tries++) {
        uint32_t version = ipcheap_directory_version(heap), index;
        if (table_find(heap, &words, &index)) {
            handle_fill(channel_at(heap, index), index, handle);
            return 0;
        }
        full_fence();
        if (get(&heap->header->directory_version) == version) break;
    }
    return IPCHEAP_CHANNEL_NOT_FOUND;
}

int ipcheap_next_channel(ipcheap_heap *heap, uint32_t *cursor, ipcheap_key *key,
                         ipcheap_channel *handle) {
    while (*cursor < directory_entries(heap)) {
        uint32_t index = (*cursor)++;
        struct channel *channel = channel_at(heap, index);
        if (!channel) return 0;
        if (state_of(channel) != CHANNEL_LIVE) continue;
        channel_key(channel, key);
        handle_fill(channel, index, handle);
        return 1;
    }
    return 0;
}
