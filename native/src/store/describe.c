/* describe.c - what a store and its readers hold, counted from slots and hold words. */

#include <stdlib.h>

#include "segment/clock.h"
#include "segment/lock.h"
#include "store/endpoint.h"

/* Finds the store that a handle names, and takes the lock. */
static int begin(ipcheap_heap *heap, const ipcheap_channel *handle, struct participant **me,
                 struct store *s) {
    struct channel *channel;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, me);
    if (!error) error = channel_of(heap, handle, &channel);
    if (!error && handle->kind != IPCHEAP_STORE) error = IPCHEAP_CHANNEL_TYPE;
    if (!error) error = heap_lock(*me);
    if (error) return error;
    error = channel_of(heap, handle, &channel);
    if (!error && !store_view(heap, handle->index, s)) error = IPCHEAP_CORRUPT;
    if (error) heap_unlock(*me);
    return error;
}

/* A committed chunk, and what it is as of now. */
struct chunk_state_now {
    enum { NO_CHUNK, IS_LIVE, IS_DEAD } is;
    uint64_t bytes, word;
};

static struct chunk_state_now look_at(struct store *s, uint32_t at, uint64_t head, uint64_t now) {
    const struct store_slot *slot = chunk_slot(s, at);
    struct chunk_state_now found = {.word = get_acquire(&slot->word)}; /* pairs with bury() */
    enum chunk_state state = chunk_state(found.word);
    uint64_t expires = get(&slot->expires);
    if (get(&slot->offset) == 0) return found;
    found.bytes = size_bytes(get(&slot->size));
    if (state == CHUNK_DEAD || state == CHUNK_LEAVING) found.is = IS_DEAD;
    if (state == CHUNK_LIVE && chunk_version(found.word) <= head)
        found.is = expires && expires <= now ? IS_DEAD : IS_LIVE;
    return found;
}

/*
 * Returns the slot that a cell leads to, plus 1, or what that is about to replace if it is pending; 0 if
 * there is none. Versions become smaller on the way: the writer may reuse slots meanwhile.
 */
static uint32_t committed(const struct store *s, uint32_t slot, uint64_t head) {
    for (uint64_t before = UINT64_MAX; slot && slot <= s->slots;) {
        const struct store_slot *shared = chunk_slot(s, slot - 1);
        uint64_t version = chunk_version(
            get_acquire(&shared->word)); /* pairs with make_pending() */
        if (version <= head) return slot;
        if (version >= before) return 0;
        before = version;
        slot = get(&shared->older);
    }
    return 0;
}

static void count_chunks(struct store *s, ipcheap_store_statistics *statistics) {
    uint64_t head = store_head(s), now = (uint64_t)clock_now(s->heap);
    for (uint32_t slot = 0; slot < s->slots; slot++) {
        struct chunk_state_now found = look_at(s, slot, head, now);
        if (found.is == IS_LIVE) {
            statistics->chunks++;
            statistics->bytes += found.bytes;
        } else if (found.is == IS_DEAD) {
            statistics->dead++;
            statistics->dead_bytes += found.bytes;
        }
    }
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        uint32_t slot = committed(s, (uint32_t)get(&s->cells[i].word), head);
        if (slot) statistics->keys += look_at(s, slot - 1, head, now).is == IS_LIVE;
    }
}

/* Counts the dead chunks that readers hold, each of them once. */
static int count_held(struct store *s, ipcheap_store_statistics *statistics) {
    uint64_t head = store_head(s), now = (uint64_t)clock_now(s->heap);
    struct hold_walk walk = {0};
    bool *seen = os_allocate_zeroed(s->slots, sizeof *seen);
    if (!seen) return IPCHEAP_NO_MEMORY;
    while (hold_step(s, &walk)) {
        uint32_t slot = held_slot(walk.hold) - 1;
        if (slot >= s->slots || seen[slot]) continue;
        seen[slot] = true;
        struct chunk_state_now found = look_at(s, slot, head, now);
        if (found.is != IS_DEAD) continue;
        statistics->held++;
        statistics->held_bytes += found.bytes;
    }
    free(seen);
    return 0;
}

/* True for a reader, and for a closed one that still holds chunks. */
static bool is_reader(struct store *s, uint32_t number) {
    const struct store_reader *entry = store_reader_at(s, number);
    if (!entry || side_state(get_acquire(&entry->seat.holder)) != SIDE_OPEN) /* with claim() */
        return false;
    return !get(&entry->closed) || !entry_holds_nothing(s, number);
}

int ipcheap_store_describe(ipcheap_heap *heap, const ipcheap_channel *handle,
                           ipcheap_store_statistics *statistics) {
    struct participant *me;
    struct store s;
    int error = begin(heap, handle, &me, &s);
    if (error) return error;
    *statistics = (ipcheap_store_statistics){
        .version = store_head(&s),
        .replaced = get(&s.root->replaced),
        .expired = get(&s.root->expired),
        .evicted = get(&s.root->evicted),
        .deleted = get(&s.root->deleted),
        .collections = get(&s.root->collections),
        .slots = s.slots,
    };
    count_chunks(&s, statistics);
    error = count_held(&s, statistics);
    uint32_t readers = readers_used(&s);
    for (uint32_t i = 0; i < readers; i++)
        statistics->readers += is_reader(&s, i) && !get(&store_reader_at(&s, i)->closed);
    heap_unlock(me);
    return error;
}

/* Readers ----------------------------------------------------------------------------------------- */

/* Fills in what one reader is, and holds. */
static void reader_fill(struct store *s, uint32_t number, ipcheap_store_reader_info *info) {
    struct store_reader *entry = store_reader_at(s, number);
    uint64_t head = store_head(s), now = (uint64_t)clock_now(s->heap);
    *info = (ipcheap_store_reader_info){
        .number = number,
        .closed = get(&entry->closed),
        .state = get(&entry->seat.parked),
        .since_ns = get(&entry->since),
        .position = get(&entry->side.position),
    };
    info->behind = head > info->position ? head - info->position : 0;
    participant_describe(s->heap, tag_slot(get(&entry->seat.holder)), &info->holder);
    const shared64 *words = store_holds_at(s, number);
    uint64_t used = least(get(&entry->used), (uint64_t)s->hold + 1);
    for (uint64_t i = 1; words && i < used; i++) {
        uint64_t hold = get(&words[i]);
        uint32_t slot = held_slot(hold) - 1;
        if (!hold || slot >= s->slots) continue;
        struct chunk_state_now found = look_at(s, slot, head, now);
        info->held++;
        info->held_bytes += found.bytes;
        info->dead += found.is == IS_DEAD;
        if (found.is == IS_DEAD) info->dead_bytes += found.bytes;
        info->oldest_ns = greatest(info->oldest_ns, hold_age(s->heap, hold) * (uint64_t)SECOND);
    }
}

int ipcheap_store_next_reader(ipcheap_heap *heap, const ipcheap_channel *handle, uint32_t *cursor,
                              ipcheap_store_reader_info *info) {
    struct participant *me;
    struct store s;
    int found = 0, error = begin(heap, handle, &me, &s);
    if (error) return error;
    uint32_t readers = readers_used(&s);
    while (!found && *cursor < readers) {
        uint32_t number = (*cursor)++;
        found = is_reader(&s, number);
        if (found) reader_fill(&s, number, info);
    }
    heap_unlock(me);
    return found;
}

int ipcheap_store_blocker(ipcheap_heap *heap, const ipcheap_channel *handle,
                          ipcheap_store_reader_info *info) {
    struct participant *me;
    struct store s;
    int error = begin(heap, handle, &me, &s);
    if (error) return error;
    *info = (ipcheap_store_reader_info){0};
    uint32_t readers = readers_used(&s);
    for (uint32_t i = 0; i < readers; i++) {
        ipcheap_store_reader_info found;
        if (!is_reader(&s, i)) continue;
        reader_fill(&s, i, &found);
        if (found.dead && (!info->dead || found.dead_bytes > info->dead_bytes)) *info = found;
    }
    heap_unlock(me);
    return info->dead > 0;
}

int64_t ipcheap_store_holds(ipcheap_heap *heap, const ipcheap_channel *handle, uint32_t number,
                            ipcheap_store_hold *holds, size_t room) {
    struct participant *me;
    struct store s;
    int64_t count = 0;
    int error = begin(heap, handle, &me, &s);
    if (error) return error;
    uint64_t head = store_head(&s), now = (uint64_t)clock_now(heap);
    const shared64 *words = number < readers_used(&s) ? store_holds_at(&s, number) : NULL;
    uint64_t used = words ? least(get(&store_reader_at(&s, number)->used), (uint64_t)s.hold + 1)
                          : 0;
    for (uint64_t i = 1; i < used; i++) {
        uint64_t hold = get(&words[i]);
        uint32_t slot = held_slot(hold) - 1;
        if (!hold || slot >= s.slots) continue;
        struct chunk_state_now found = look_at(&s, slot, head, now);
        if ((size_t)count < room) {
            holds[count] = (ipcheap_store_hold){
                .version = chunk_version(found.word),
                .nbytes = found.bytes,
                .since_ns = hold_age(heap, hold) * (uint64_t)SECOND,
                .live = found.is == IS_LIVE,
            };
            key_show(chunk_slot(&s, slot), &holds[count].key);
        }
        count++;
    }
    heap_unlock(me);
    return count;
}

int ipcheap_store_endpoint_describe(ipcheap_endpoint *endpoint,
                                    ipcheap_store_endpoint_statistics *statistics) {
    const struct store_endpoint *e = store_endpoint(endpoint);
    if (endpoint->role >> 1 != IPCHEAP_STORE) return IPCHEAP_BAD_VALUE;
    *statistics = e->last;
    if (endpoint->closed) return 0; /* its seat may be another's */
    statistics->parks = get(&endpoint->own->parks);
    if (is_store_writer(e)) {
        statistics->given = e->committed;
        return 0;
    }
    statistics->given = get(&e->holds->entry->given);
    statistics->skipped = get(&e->holds->entry->skipped);
    statistics->held = holds_count(e->holds);
    return 0;
}
