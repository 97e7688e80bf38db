#include "store/reader.h"

#include <stdlib.h>
#include <string.h>

#include "channel/side.h"
#include "segment/clock.h"

enum { ABSENT = 0, FOUND = 1, AGAIN = 2 };
#define SAME_LOOKS 3 /* looks that go wrong in the same way before the store counts as corrupt */
#define MOST_LOOKS 100000  /* looks that go wrong at all */
#define MOST_ATTEMPTS 1000 /* of calls that want one moment */

int reader_check(struct store_endpoint *e) {
    int error = store_check(e, IPCHEAP_READER);
    if (UNLIKELY(error)) return error;
    uint32_t flags = get(&e->base.channel->flags);
    if (LIKELY(!(flags & (CHANNEL_GONE | CHANNEL_POISONED)))) return 0;
    return flags & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
}

/* Looking up --------------------------------------------------------------------------------- */

/* One look for a key: what it found, and where it went wrong. */
struct look {
    uint32_t slot;
    uint64_t word;      /* of the slot */
    uint64_t cell_word; /* what led there */
    bool back;          /* by way of `older` */
};

/* What a look that went wrong saw; the same again and again is no coincidence. */
struct doubt {
    uint64_t cell_word, word, epoch;
    int same, all;
};

/* Counts a look that went wrong: 0 to look again, or CORRUPT. */
static int doubt_add(struct store_endpoint *e, struct doubt *doubt, const struct look *look,
                     uint64_t epoch) {
    bool same = doubt->cell_word == look->cell_word && doubt->word == look->word &&
                doubt->epoch == epoch;
    doubt->cell_word = look->cell_word;
    doubt->word = look->word;
    doubt->epoch = epoch;
    doubt->same = same ? doubt->same + 1 : 0;
    if (doubt->same >= SAME_LOOKS) return channel_poison(e->base.heap, e->base.channel);
    os_pause();
    return ++doubt->all < MOST_LOOKS ? 0 : IPCHEAP_CORRUPT;
}

/* Follows what was published since; CORRUPT if that is impossible. */
static inline int follow_pieces(struct store_endpoint *e) {
    struct store *s = &e->holds->store;
    /* Pairs with store_publish_piece(). */
    if (LIKELY(get_acquire(&s->root->pieces) == s->pieces)) return 0;
    return store_refresh(s) ? 0 : channel_poison(e->base.heap, e->base.channel);
}

/* Finds the slot to which a key's cell leads, and holds it. */
static inline int find_cell(struct ipcheap_holds *h, const struct chunk_key *key, uint32_t word,
                            struct look *look) {
    const struct store *s = &h->store;
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        const struct store_cell *cell = &s->cells[(key->hash + i) & s->cell_mask];
        uint64_t cell_word = get_acquire(&cell->word); /* pairs with cell_put() */
        if (cell_word == 0) return ABSENT;
        if (cell_word >> 32 != hash_in_cell(key->hash) || !(uint32_t)cell_word) continue;
        look->cell_word = cell_word;
        look->slot = (uint32_t)cell_word - 1;
        look->word = 0;
        if (UNLIKELY(look->slot >= s->slots)) return AGAIN;
        look->word = hold_slot(h, word, look->slot);
        const struct store_slot *slot = chunk_slot(s, look->slot);
        if (UNLIKELY(!look->word)) {
            look->word = get(&slot->word);
            return AGAIN;
        }
        if (LIKELY(slot_has_key(slot, key))) return FOUND;
        /* The slot has been reused since, or is that of another key with the same half of a hash. */
        if (hash_in_cell(get(&slot->hash)) != cell_word >> 32) return AGAIN;
    }
    return ABSENT;
}

static inline uint32_t older_of(const struct store_slot *slot) {
    return get_acquire(&slot->older); /* pairs with middle_gone() */
}

/* Goes back to the newest chunk whose version is at most `head`. */
static int go_back(struct ipcheap_holds *h, const struct chunk_key *key, uint32_t word,
                   uint64_t head, struct look *look) {
    const struct store *s = &h->store;
    look->back = true;
    while (chunk_version(look->word) > head) {
        uint64_t version = chunk_version(look->word);
        uint32_t older = older_of(chunk_slot(s, look->slot));
        if (!older) return ABSENT;
        if (older > s->slots) return AGAIN;
        look->slot = older - 1;
        look->word = hold_slot(h, word, look->slot);
        if (!look->word || chunk_version(look->word) >= version) return AGAIN;
        if (!slot_has_key(chunk_slot(s, look->slot), key)) return AGAIN;
    }
    return FOUND;
}

/* True if a chunk is none any more, or a deletion. */
static inline bool is_over(const struct store *s, const struct store_slot *slot) {
    uint64_t expires = get(&slot->expires);
    if (UNLIKELY(get(&slot->offset) == 0)) return true;
    return UNLIKELY(expires) && expires <= (uint64_t)clock_now(s->heap);
}

/* Describes what a word holds; CORRUPT, and poisons, if it cannot be in the heap. */
static inline int slot_show(struct store_endpoint *e, const struct store_slot *slot,
                            uint64_t slot_word, uint32_t word, ipcheap_chunk *chunk) {
    ipcheap_heap *heap = e->base.heap;
    const struct geometry *g = &heap->geometry;
    uint64_t offset = get(&slot->offset), size = get(&slot->size), nbytes = size_bytes(size);
    uint64_t into = offset - g->data_at, all = g->zone_pages[DATA_ZONE] << PAGE_SHIFT;
    if (UNLIKELY(into >= all || nbytes > all - into)) return channel_poison(heap, e->base.channel);
    *chunk = (ipcheap_chunk){
        .data = at_offset(heap, offset),
        .nbytes = nbytes,
        .version = chunk_version(slot_word),
        .offset = offset,
        .form = size_form(size),
        .place = word,
        .holds = e->holds,
    };
    return 0;
}

static int chunk_fill(struct store_endpoint *e, const struct look *look, uint32_t word,
                      ipcheap_chunk *chunk) {
    return slot_show(e, chunk_slot(&e->holds->store, look->slot), look->word, word, chunk);
}

int reader_chunk(struct store_endpoint *e, uint32_t slot, uint64_t slot_word, uint32_t word,
                 ipcheap_chunk *chunk) {
    return slot_show(e, chunk_slot(&e->holds->store, slot), slot_word, word, chunk);
}

bool reader_is_over(const struct store_endpoint *e, uint32_t slot) {
    return is_over(&e->holds->store, chunk_slot(&e->holds->store, slot));
}

int reader_follow(struct store_endpoint *e) { return follow_pieces(e); }

/*
 * Does what find_newest() does, if the first look finds the key and nothing intervenes; NULL if it has
 * to be done there, and the word may name anything then.
 */
static inline const struct store_slot *find_at_once(struct ipcheap_holds *h,
                                                    const struct chunk_key *key, uint32_t word,
                                                    uint64_t *slot_word) {
    const struct store *s = &h->store;
    uint64_t head = store_head(s);
    /* Pairs with store_publish_piece(). */
    if (UNLIKELY(get_acquire(&s->root->pieces) != s->pieces)) return NULL;
    const struct store_cell *cell = &s->cells[key->hash & s->cell_mask];
    uint64_t cell_word = get_acquire(&cell->word); /* pairs with cell_put() */
    uint32_t at = (uint32_t)cell_word - 1;
    if (UNLIKELY(cell_word >> 32 != hash_in_cell(key->hash) || at >= s->slots)) return NULL;
    const struct store_slot *slot = chunk_slot(s, at);
    *slot_word = hold_at(h, word, at, slot);
    if (UNLIKELY(!*slot_word || chunk_version(*slot_word) > head)) return NULL;
    return LIKELY(slot_has_key(slot, key)) ? slot : NULL;
}

/* Finds the newest chunk of a key, and holds it in that word: FOUND, ABSENT or an error. */
static __attribute__((noinline)) int find_newest(struct store_endpoint *e,
                                                 const struct chunk_key *key, uint32_t word,
                                                 struct look *look) {
    struct ipcheap_holds *h = e->holds;
    struct doubt doubt = {0};
    for (;;) {
        uint64_t epoch = store_epoch(&h->store), head = store_head(&h->store);
        int found = follow_pieces(e);
        if (UNLIKELY(found)) return found;
        look->back = false;
        found = find_cell(h, key, word, look);
        /*
         * By that head, even if the chunk has been committed meanwhile: a version that was undone is
         * given again, in another slot, and would look committed by a later head.
         */
        if (LIKELY(found == FOUND) && UNLIKELY(chunk_version(look->word) > head))
            found = go_back(h, key, word, head, look);
        bool cut = look->back && store_epoch(&h->store) != epoch;
        if (LIKELY(found != AGAIN && !cut)) return found;
        e->again++;
        int error = found == AGAIN ? doubt_add(e, &doubt, look, epoch) : 0;
        if (error) return error;
    }
}

/* Gets the newest chunk of a key, in that word: FOUND, ABSENT or an error, and it holds nothing. */
static inline int get_in(struct store_endpoint *e, const struct chunk_key *key, uint64_t newer_than,
                         uint32_t word, ipcheap_chunk *chunk) {
    struct ipcheap_holds *h = e->holds;
    uint64_t slot_word;
    int found = FOUND;
    const struct store_slot *slot = find_at_once(h, key, word, &slot_word);
    if (UNLIKELY(!slot)) {
        struct look look;
        found = find_newest(e, key, word, &look);
        slot = chunk_slot(&h->store, found == FOUND ? look.slot : 0);
        slot_word = look.word;
    }
    if (LIKELY(found == FOUND) && LIKELY(chunk_version(slot_word) > newer_than) &&
        !is_over(&h->store, slot)) {
        found = slot_show(e, slot, slot_word, word, chunk);
        if (LIKELY(!found)) return FOUND;
    }
    unhold(h, word);
    chunk->data = NULL;
    return found < 0 ? found : ABSENT;
}

int reader_get(struct store_endpoint *e, const struct chunk_key *key, uint64_t newer_than,
               ipcheap_chunk *chunk) {
    struct ipcheap_holds *h = e->holds;
    uint32_t word = hold_free(h);
    chunk->data = NULL;
    if (UNLIKELY(!word)) return IPCHEAP_HOLDS;
    int found = get_in(e, key, newer_than, word, chunk);
    if (LIKELY(found == FOUND)) hold_keep(h);
    return found;
}

static inline int key_check(const ipcheap_store_key *from, struct chunk_key *key) {
    int error = key_take(from, key);
    return error || key->hash ? error : IPCHEAP_BAD_VALUE;
}

int ipcheap_store_get(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                      uint64_t newer_than, ipcheap_chunk *chunk) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    int error = reader_check(e);
    if (LIKELY(!error)) error = key_check(from, &key);
    return UNLIKELY(error) ? error : reader_get(e, &key, newer_than, chunk);
}

int ipcheap_store_peek(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                       ipcheap_chunk *chunk) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    int error = reader_check(e);
    if (LIKELY(!error)) error = key_check(from, &key);
    if (UNLIKELY(error)) return error;
    int found = get_in(e, &key, 0, 0, chunk);
    e->holds->peeked = found == FOUND;
    return found;
}

int ipcheap_store_contains(ipcheap_endpoint *endpoint, const ipcheap_store_key *from) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    struct look look;
    int error = reader_check(e);
    if (!error) error = key_check(from, &key);
    if (error) return error;
    int found = find_newest(e, &key, 0, &look);
    if (found == FOUND && is_over(&e->holds->store, chunk_slot(&e->holds->store, look.slot)))
        found = ABSENT;
    unhold(e->holds, 0);
    return found;
}

struct store_cell *reader_cell(struct store_endpoint *e, const struct chunk_key *key) {
    struct look look;
    struct store *s = &e->holds->store;
    if (follow_pieces(e)) return NULL;
    int found = find_cell(e->holds, key, 0, &look);
    unhold(e->holds, 0);
    if (found != FOUND) return NULL;
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        struct store_cell *cell = &s->cells[(key->hash + i) & s->cell_mask];
        if (get(&cell->word) == look.cell_word) return cell;
    }
    return NULL;
}

/* Several as of one moment ----------------------------------------------------------------------- */

static void release_all(struct ipcheap_holds *h, ipcheap_chunk *chunks, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (!chunks[i].data) continue;
        unhold(h, chunks[i].place);
        hold_return(h, chunks[i].place);
        chunks[i].data = NULL;
    }
}

/*
 * Gets one of several keys, as of that head: FOUND, ABSENT, AGAIN or an error. Without a free word it looks
 * with word 0: a key that is not there needs none.
 */
static int get_at(struct store_endpoint *e, const struct chunk_key *key, uint64_t head,
                  ipcheap_chunk *chunk, struct look *look) {
    struct ipcheap_holds *h = e->holds;
    uint32_t word = hold_free(h);
    look->back = false;
    int found = find_cell(h, key, word, look);
    if (found == FOUND && chunk_version(look->word) > head)
        found = go_back(h, key, word, head, look);
    if (found == FOUND && !is_over(&h->store, chunk_slot(&h->store, look->slot))) {
        int error = word ? chunk_fill(e, look, word, chunk) : IPCHEAP_HOLDS;
        if (!error) {
            hold_keep(h);
            return FOUND;
        }
        found = error;
    } else if (found == FOUND) {
        found = ABSENT;
    }
    unhold(h, word);
    return found;
}

/* One attempt: how many, AGAIN as a negative number that is no error of the library's, or an error. */
#define OVERTAKEN INT64_MIN

static int64_t get_all(struct store_endpoint *e, const ipcheap_store_key *keys, size_t count,
                       ipcheap_chunk *chunks, struct doubt *doubt) {
    struct store *s = &e->holds->store;
    uint64_t epoch = store_epoch(s), head = store_head(s);
    int64_t there = 0;
    bool unsure = false;
    int error = follow_pieces(e);
    for (size_t i = 0; i < count && !error; i++) {
        struct chunk_key key;
        struct look look;
        chunks[i].data = NULL;
        error = key_check(&keys[i], &key);
        if (error) break;
        int found = get_at(e, &key, head, &chunks[i], &look);
        unsure |= found == ABSENT || look.back;
        there += found == FOUND;
        if (found == AGAIN) {
            error = doubt_add(e, doubt, &look, epoch);
            release_all(e->holds, chunks, i);
            return error ? error : OVERTAKEN;
        }
        if (found < 0) error = found;
        if (error) release_all(e->holds, chunks, i);
    }
    if (error) return error;
    if (!unsure || store_epoch(s) == epoch) return there;
    release_all(e->holds, chunks, count);
    return OVERTAKEN;
}

int64_t ipcheap_store_get_many(ipcheap_endpoint *endpoint, const ipcheap_store_key *keys,
                               size_t count, ipcheap_chunk *chunks) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct doubt doubt = {0};
    int error = reader_check(e);
    if (error) return error;
    if (count && !hold_free(e->holds)) return IPCHEAP_HOLDS;
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        int64_t there = get_all(e, keys, count, chunks, &doubt);
        if (there != OVERTAKEN) return there;
    }
    return IPCHEAP_TIMED_OUT;
}

/* Adds the chunks that a held one leads to, newest first; returns how many there are then. */
static int64_t follow_older(struct store_endpoint *e, const struct chunk_key *key,
                            const struct look *from, ipcheap_chunk *chunks, int64_t count,
                            size_t room) {
    struct ipcheap_holds *h = e->holds;
    const struct store *s = &h->store;
    struct look look = *from;
    for (uint64_t depth = 1; depth < s->depth && (size_t)count < room; depth++) {
        uint64_t version = chunk_version(look.word);
        uint32_t older = older_of(chunk_slot(s, look.slot)), word = hold_free(h);
        if (!older || older > s->slots) break;
        if (!word) return IPCHEAP_HOLDS;
        look.slot = older - 1;
        look.word = hold_slot(h, word, look.slot);
        const struct store_slot *slot = chunk_slot(s, look.slot);
        bool ours = look.word && chunk_version(look.word) < version && slot_has_key(slot, key) &&
                    get(&slot->offset) != 0;
        bool live = ours && chunk_state(look.word) == CHUNK_LIVE && !is_over(s, slot);
        int error = live ? chunk_fill(e, &look, word, &chunks[count]) : 0;
        if (live && !error) {
            hold_keep(h);
            count++;
            continue;
        }
        /* What has expired in between stays held until the next one is, so the word is used again. */
        if (error || !ours) {
            unhold(h, word);
            if (error) return error;
            break;
        }
    }
    return count;
}

static int64_t history_once(struct store_endpoint *e, const struct chunk_key *key,
                            ipcheap_chunk *chunks, size_t room, struct doubt *doubt) {
    struct ipcheap_holds *h = e->holds;
    struct look look, again;
    uint64_t epoch = store_epoch(&h->store), head = store_head(&h->store);
    int error = follow_pieces(e);
    if (error) return error;
    int found = get_at(e, key, head, &chunks[0], &look);
    if (found == AGAIN) {
        error = doubt_add(e, doubt, &look, epoch);
        return error ? error : OVERTAKEN;
    }
    if (found < 0 || (found == ABSENT && !look.back)) return found;
    int64_t count = found == FOUND ? follow_older(e, key, &look, chunks, 1, room) : 0;
    uint32_t word = hold_free(h);
    /*
     * The same cell, and nothing cut meanwhile: no chunk of this key has come or gone. If the cell led to
     * a pending one, it must be pending still: its commit ends the oldest.
     */
    bool same = find_cell(h, key, 0, &again) == FOUND && again.cell_word == look.cell_word &&
                (!look.back || store_head(&h->store) == head);
    unhold(h, 0);
    if (word) unhold(h, word); /* of an expired one that was the last */
    if (count >= 0 && same && store_epoch(&h->store) == epoch) return count;
    release_all(h, chunks, count >= 0 ? (size_t)count : room);
    return count < 0 ? count : OVERTAKEN;
}

int64_t ipcheap_store_history(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                              ipcheap_chunk *chunks, size_t room) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    struct doubt doubt = {0};
    int error = reader_check(e);
    if (!error) error = key_check(from, &key);
    if (error || !room) return error;
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        for (size_t i = 0; i < room; i++) chunks[i].data = NULL;
        int64_t count = history_once(e, &key, chunks, room, &doubt);
        if (count == OVERTAKEN) continue;
        for (int64_t i = 0; i < count / 2; i++) {
            ipcheap_chunk chunk = chunks[i];
            chunks[i] = chunks[count - 1 - i];
            chunks[count - 1 - i] = chunk;
        }
        return count;
    }
    return IPCHEAP_TIMED_OUT;
}

/* All keys --------------------------------------------------------------------------------------- */

static int by_version(const void *a, const void *b) {
    uint64_t x = ((const ipcheap_store_entry *)a)->version;
    uint64_t y = ((const ipcheap_store_entry *)b)->version;
    return x < y ? -1 : x > y;
}

static int by_key_newest_first(const void *a, const void *b) {
    const ipcheap_store_key *x = &((const ipcheap_store_entry *)a)->key;
    const ipcheap_store_key *y = &((const ipcheap_store_entry *)b)->key;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    int order = memcmp(x->bytes, y->bytes, x->length);
    return order ? order : by_version(b, a);
}

/*
 * Describes the key to whose chunk a cell leads: FOUND, ABSENT if the key is gone, AGAIN if other pieces
 * have been published, so that this cell says nothing any more; or an error.
 */
static int look_at_cell(struct store_endpoint *e, const struct store_cell *cell, uint32_t pieces,
                        ipcheap_store_entry *entry) {
    struct ipcheap_holds *h = e->holds;
    struct doubt doubt = {0};
    for (;;) {
        uint64_t epoch = store_epoch(&h->store);
        struct look look = {.cell_word = get_acquire(&cell->word)}; /* pairs with cell_put() */
        uint32_t at = (uint32_t)look.cell_word;
        if (!at) return ABSENT;
        int error = follow_pieces(e);
        if (error) return error;
        if (h->store.pieces != pieces) return AGAIN;
        if (at <= h->store.slots) {
            const struct store_slot *slot = chunk_slot(&h->store, at - 1);
            bool held = hold_slot(h, 0, at - 1) != 0;
            if (held && hash_in_cell(get(&slot->hash)) == look.cell_word >> 32) {
                struct chunk_key key;
                key_in_slot(slot, &key);
                key_show(slot, &entry->key);
                int found = find_newest(e, &key, 0, &look);
                if (found != FOUND) return found;
                entry->version = chunk_version(look.word);
                return is_over(&h->store, chunk_slot(&h->store, look.slot)) ? ABSENT : FOUND;
            }
            look.word = get(&slot->word);
        }
        error = doubt_add(e, &doubt, &look, epoch);
        if (error) return error;
    }
}

/* Keeps the newest entry of each key; returns how many there are. */
static int64_t keep_newest(ipcheap_store_entry *entries, int64_t count) {
    int64_t kept = 1;
    qsort(entries, (size_t)count, sizeof *entries, by_key_newest_first);
    for (int64_t i = 1; i < count; i++) {
        const ipcheap_store_key *key = &entries[i].key, *last = &entries[kept - 1].key;
        bool same = key->kind == last->kind && key->length == last->length &&
                    memcmp(key->bytes, last->bytes, key->length) == 0;
        if (!same) entries[kept++] = entries[i];
    }
    return kept;
}

/*
 * Goes through all cells: a key that is there throughout keeps its cell. OVERTAKEN if the table was
 * replaced meanwhile.
 */
static int64_t keys_once(struct store_endpoint *e, ipcheap_store_entry *entries, size_t room) {
    int error = follow_pieces(e);
    if (error) return error;
    const struct store s = e->holds->store;
    uint64_t epoch = store_epoch(&s);
    int64_t count = 0;
    for (uint64_t i = 0; i <= s.cell_mask; i++) {
        ipcheap_store_entry entry;
        int there = look_at_cell(e, &s.cells[i], s.pieces, &entry);
        if (there == AGAIN) return OVERTAKEN;
        if (there < 0) return there;
        if (there == ABSENT) continue;
        if ((size_t)count < room) entries[count] = entry;
        count++;
    }
    if (!count || (size_t)count > room) return count;
    /* A key that was deleted and put again meanwhile may have been found in two cells. */
    if (store_epoch(&s) != epoch) count = keep_newest(entries, count);
    qsort(entries, (size_t)count, sizeof *entries, by_version);
    return count;
}

int64_t ipcheap_store_keys(ipcheap_endpoint *endpoint, ipcheap_store_entry *entries, size_t room) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = reader_check(e);
    if (error) return error;
    int64_t count;
    do count = keys_once(e, entries, room);
    while (count == OVERTAKEN); /* as often as the tables double */
    unhold(e->holds, 0);
    return count;
}

uint64_t ipcheap_store_version(const ipcheap_endpoint *endpoint) {
    return store_head(&((const struct store_endpoint *)endpoint)->store);
}
