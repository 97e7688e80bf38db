#include "store/next.h"

#include <stdlib.h>

#include "channel/side.h"
#include "endpoint/bell.h"

static uint64_t log_at(const struct store *s, uint64_t version) {
    return get_acquire(&s->log[version & s->log_mask]); /* pairs with log_put() */
}

/* How far an entry is ahead of a version; both count modulo 2^32. */
static int32_t ahead(uint64_t entry, uint64_t version) {
    return (int32_t)((uint32_t)(entry >> 32) - (uint32_t)version);
}

bool next_is_there(const struct store_endpoint *e) {
    const struct store *s = &e->holds->store;
    if (e->backlog_count || e->position < e->scanned) return true;
    /* What has not been looked at since the tables grew is found by its version. */
    if (get(&s->root->pieces) != s->pieces) return store_head(s) > e->position;
    if (ahead(log_at(s, e->position + 1), e->position + 1) >= 0) return true;
    uint64_t head = store_head(s);
    return head > e->position && head - e->position > s->log_mask;
}

static void move_to(struct store_endpoint *e, uint64_t position, bool given) {
    struct store_reader *entry = e->holds->entry;
    uint64_t passed = position - e->position - given;
    e->position = position;
    put(&entry->side.position, position);
    if (given) put(&entry->given, get(&entry->given) + 1);
    if (passed) put(&entry->skipped, get(&entry->skipped) + passed);
}

/* The reader was overtaken ----------------------------------------------------------------------- */

static int newest_first(const void *a, const void *b) {
    uint64_t x = ((const struct found *)a)->version, y = ((const struct found *)b)->version;
    return x > y ? -1 : x < y;
}

static int backlog_add(struct store_endpoint *e, uint64_t version, uint32_t slot) {
    if (e->backlog_count == e->backlog_room) {
        uint32_t room = e->backlog_room ? 2 * e->backlog_room : 64;
        struct found *backlog = os_reallocate(e->backlog, room * sizeof *backlog);
        if (!backlog) return IPCHEAP_NO_MEMORY;
        e->backlog = backlog;
        e->backlog_room = room;
    }
    e->backlog[e->backlog_count++] = (struct found){version, slot};
    return 0;
}

/*
 * Finds all live versions after the position, up to head. Head comes before the pieces: the slots of all
 * those versions are in pieces that were published before it.
 */
static int scan(struct store_endpoint *e) {
    const struct store *s = &e->holds->store;
    uint64_t head = store_head(s);
    int error = reader_follow(e);
    if (error) return error;
    e->backlog_count = 0;
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        uint64_t word = get(&chunk_slot(s, slot)->word), version = chunk_version(word);
        if (chunk_state(word) != CHUNK_LIVE || version <= e->position || version > head) continue;
        error = backlog_add(e, version, slot);
        if (error) return error;
    }
    if (e->backlog_count) qsort(e->backlog, e->backlog_count, sizeof *e->backlog, newest_first);
    e->scanned = head;
    return 0;
}

/* The next version ------------------------------------------------------------------------------- */

enum { NOTHING = 0, CANDIDATE = 1 };

/* Finds the next version that may be live: CANDIDATE, NOTHING or an error. */
static int find_next(struct store_endpoint *e, struct found *found) {
    const struct store *s = &e->holds->store;
    for (;;) {
        if (e->backlog_count) {
            *found = e->backlog[--e->backlog_count];
            return CANDIDATE;
        }
        if (e->position < e->scanned) move_to(e, e->scanned, false);
        int error = reader_follow(e);
        if (error) return error;
        uint64_t version = e->position + 1, entry = log_at(s, version);
        int32_t by = ahead(entry, version);
        uint64_t head = by < 0 ? store_head(s) : 0;
        if (by < 0 && (head < version || head - e->position <= s->log_mask)) return NOTHING;
        if (by != 0) {
            error = scan(e);
            /* An entry is written after head. */
            if (!error && e->scanned <= e->position)
                error = channel_poison(e->base.heap, e->base.channel);
            if (error) return error;
            continue;
        }
        uint32_t slot = (uint32_t)entry;
        if (slot && slot <= s->slots) {
            *found = (struct found){version, slot - 1};
            return CANDIDATE;
        }
        move_to(e, version, false);
    }
}

/* Gives the next live chunk: 0, WOULD_BLOCK for none, or an error. */
static int next_now(struct store_endpoint *e, ipcheap_chunk *chunk) {
    struct ipcheap_holds *h = e->holds;
    uint32_t word = hold_free(h);
    struct found next = {0};
    int found;
    if (!word) return IPCHEAP_HOLDS;
    while ((found = find_next(e, &next)) == CANDIDATE) {
        uint64_t live = chunk_word(CHUNK_LIVE, next.version);
        bool ours = hold_slot(h, word, next.slot) == live && !reader_is_over(e, next.slot);
        if (ours) {
            found = reader_chunk(e, next.slot, live, word, chunk);
            if (found) break;
            hold_keep(h);
            move_to(e, next.version, true);
            return 0;
        }
        move_to(e, next.version, false);
    }
    unhold(h, word);
    return found == NOTHING ? IPCHEAP_WOULD_BLOCK : found;
}

/* The same, and says why there is none. */
static int next_or_why(struct store_endpoint *e, ipcheap_chunk *chunk) {
    for (;;) {
        int error = next_now(e, chunk);
        if (error != IPCHEAP_WOULD_BLOCK) return error;
        error = endpoint_why_not(&e->base);
        if (error) return error;
    }
}

int ipcheap_store_next(ipcheap_endpoint *endpoint, ipcheap_chunk *chunk) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = reader_check(e);
    chunk->data = NULL;
    if (UNLIKELY(error)) return error;
    do error = next_or_why(e, chunk);
    while (UNLIKELY(endpoint->bell != NULL) && bell_settle(endpoint) &&
           error == IPCHEAP_WOULD_BLOCK);
    if (!error) endpoint->idle = 0;
    return error;
}

uint64_t ipcheap_store_position(const ipcheap_endpoint *endpoint) {
    return ((const struct store_endpoint *)endpoint)->position;
}

int ipcheap_store_notice(ipcheap_endpoint *endpoint, uint64_t version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = reader_check(e);
    if (error) return error;
    e->noticed = version;
    bell_settle(endpoint);
    return 0;
}

int ipcheap_store_seek(ipcheap_endpoint *endpoint, uint64_t version, uint64_t *position) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = reader_check(e);
    if (error) return error;
    e->backlog_count = 0;
    e->scanned = 0;
    e->position = least(version, store_head(&e->holds->store));
    put(&e->holds->entry->side.position, e->position);
    if (position) *position = e->position;
    bell_settle(endpoint);
    return 0;
}
