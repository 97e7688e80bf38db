/* store.c - stores as channels: adding, claiming, closing, readiness. */

#include <stdlib.h>

#include "channel/side.h"
#include "endpoint/bell.h"
#include "memory/block.h"
#include "segment/lock.h"
#include "store/changes.h"
#include "store/collect.h"
#include "store/next.h"
#include "store/recover.h"
#include "store/wait.h"

#define SHAPE_OF_STORES 1

/* Adding ------------------------------------------------------------------------------------------ */

static const struct store_wanted usual = {.depth = 1, .garbage = 1 << 20, .hold = 1024};

static int wanted_of(const ipcheap_store_options *options, struct store_wanted *wanted) {
    uint32_t given = options->given;
    *wanted = usual;
    if (given & ~(uint32_t)IPCHEAP_GIVEN_ALL) return IPCHEAP_BAD_VALUE;
    if (given & IPCHEAP_GIVEN_FLAGS) wanted->flags = options->flags;
    if (given & IPCHEAP_GIVEN_DEPTH) wanted->depth = options->depth;
    if (given & IPCHEAP_GIVEN_TTL) wanted->ttl = (uint64_t)options->ttl_ns;
    if (given & IPCHEAP_GIVEN_MAX_CHUNKS) wanted->max_chunks = options->max_chunks;
    if (given & IPCHEAP_GIVEN_MAX_BYTES) wanted->max_bytes = options->max_bytes;
    if (given & IPCHEAP_GIVEN_GARBAGE) wanted->garbage = options->garbage;
    if (given & IPCHEAP_GIVEN_HOLD) wanted->hold = options->hold;
    bool right = !(wanted->flags & ~(uint32_t)IPCHEAP_EVICT) && wanted->depth >= 1 &&
                 (int64_t)wanted->ttl >= 0 && wanted->hold >= 1 && wanted->hold <= MOST_HOLDS;
    return right ? 0 : IPCHEAP_BAD_VALUE;
}

/* True if an existing store is as wanted in all that was given. */
static bool is_same(const struct store_root *root, const struct store_wanted *wanted,
                    uint32_t given) {
    return (!(given & IPCHEAP_GIVEN_FLAGS) || get(&root->flags) == wanted->flags) &&
           (!(given & IPCHEAP_GIVEN_DEPTH) || get(&root->depth) == wanted->depth) &&
           (!(given & IPCHEAP_GIVEN_TTL) || get(&root->ttl) == wanted->ttl) &&
           (!(given & IPCHEAP_GIVEN_MAX_CHUNKS) || get(&root->max_chunks) == wanted->max_chunks) &&
           (!(given & IPCHEAP_GIVEN_MAX_BYTES) || get(&root->max_bytes) == wanted->max_bytes) &&
           (!(given & IPCHEAP_GIVEN_GARBAGE) || get(&root->garbage) == wanted->garbage) &&
           (!(given & IPCHEAP_GIVEN_HOLD) || get(&root->hold) == wanted->hold);
}

static int add(struct participant *me, const ipcheap_key *key, const struct store_wanted *wanted,
               ipcheap_channel *handle, bool *added) {
    uint64_t shape = wanted ? SHAPE_OF_STORES : 0;
    int error = directory_add(me, key, IPCHEAP_STORE, shape, wanted, handle, added);
    if (error != IPCHEAP_HEAP_FULL && error != IPCHEAP_MEMORY_FULL) return error;
    error = heap_reclaim(me, error == IPCHEAP_MEMORY_FULL);
    return error ? error : directory_add(me, key, IPCHEAP_STORE, shape, wanted, handle, added);
}

int ipcheap_add_store(ipcheap_heap *heap, const ipcheap_key *key,
                      const ipcheap_store_options *options, ipcheap_channel *handle) {
    struct participant *me;
    struct store_wanted wanted;
    bool added = false;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error && options) error = wanted_of(options, &wanted);
    if (!error) error = heap_lock(me);
    if (error) return error;
    error = add(me, key, options ? &wanted : NULL, handle, &added);
    if (!error && options && !added) {
        const struct store_root *root = store_root_of(heap, handle->index);
        if (!root) error = IPCHEAP_CORRUPT;
        if (root && !is_same(root, &wanted, options->given)) error = IPCHEAP_CHANNEL_TYPE;
    }
    heap_unlock(me);
    return error;
}

int ipcheap_store_options_of(ipcheap_heap *heap, const ipcheap_channel *handle,
                             ipcheap_store_options *options) {
    struct channel *channel;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    if (handle->kind != IPCHEAP_STORE) return IPCHEAP_CHANNEL_TYPE;
    const struct store_root *root = store_root_of(heap, handle->index);
    if (!root) return IPCHEAP_CORRUPT;
    *options = (ipcheap_store_options){
        .given = IPCHEAP_GIVEN_ALL,
        .flags = get(&root->flags),
        .depth = get(&root->depth),
        .ttl_ns = (int64_t)get(&root->ttl),
        .max_chunks = get(&root->max_chunks),
        .max_bytes = get(&root->max_bytes),
        .garbage = get(&root->garbage),
        .hold = get(&root->hold),
    };
    return 0;
}

/* Memory ------------------------------------------------------------------------------------------ */

static void collect_deserted(struct participant *me, uint32_t index) {
    struct store s;
    if (store_view(me->heap, index, &s)) collect_alone(me, &s);
}

/* Seats ------------------------------------------------------------------------------------------- */

static bool occupied(struct participant *me, uint32_t index) {
    struct store s;
    if (!store_view(me->heap, index, &s)) return false;
    readers_recover(me, &s);
    uint32_t readers = readers_used(&s);
    for (uint32_t i = 0; i < readers; i++) {
        const struct store_reader *entry = store_reader_at(&s, i);
        if (entry && !get(&entry->closed) && entry_is_alive(&s, entry)) return true;
    }
    return false;
}

static bool lingers(struct participant *me, uint32_t index) {
    struct store s;
    return store_view(me->heap, index, &s) && entries_tidy(&s);
}

static void wake_all(ipcheap_heap *heap, uint32_t index) {
    struct store s;
    if (store_view(heap, index, &s)) bells_tell_all(&s);
}

static int find_seat(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    uint32_t flags = get(&endpoint->channel->flags);
    if (is_store_writer(e)) return 0;
    if (flags & CHANNEL_POISONED || !store_view(endpoint->heap, endpoint->index, &e->store))
        return IPCHEAP_CORRUPT;
    uint32_t number;
    int error = entry_take(endpoint->me, &e->store, &number);
    if (error) return error;
    e->holds = holds_make(endpoint->me, &e->store, number);
    if (!e->holds) return IPCHEAP_NO_MEMORY;
    if (!e->holds->entry || !e->holds->words) return IPCHEAP_CORRUPT;
    endpoint->seat = &e->holds->entry->seat;
    endpoint->own = &e->holds->entry->side;
    return 1;
}

static void leave_seat(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    /* Not by the entry: if its last chunk was released meanwhile, it may be another reader's. */
    if (!e->holds->lingers) entry_free(&e->store, e->holds->number, SIDE_CLOSED);
    directory_notify(endpoint->heap);
}

/* Endpoints --------------------------------------------------------------------------------------- */

static int take_side(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    if (!is_store_writer(e)) return 0;
    if (!store_view(endpoint->heap, endpoint->index, &e->store)) return IPCHEAP_CORRUPT;
    int error = lists_build(&e->store, &e->lists);
    if (error) return error;
    collect_completed(&e->store);
    put_and(&endpoint->channel->flags, ~(uint32_t)(CHANNEL_DESERTED | CHANNEL_REVOKED));
    return 0;
}

static void keep_held(ipcheap_endpoint *endpoint, struct participant *me) {
    struct store_endpoint *e = store_endpoint(endpoint);
    if (is_store_writer(e)) {
        changes_undo(e, me, 0);
        changes_end(e);
        ipcheap_store_endpoint_describe(endpoint, &e->last);
        return;
    }
    uint32_t held = holds_out(e->holds);
    ipcheap_store_endpoint_describe(endpoint, &e->last);
    e->holds->closed = true;
    if (!held) return;
    e->holds->lingers = true;
    put(&e->holds->entry->closed, 1);
    participant_holds(me, e->base.me, (int)held);
}

static void release(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    lists_drop(&e->lists);
    free(e->changes);
    free(e->index);
    free(e->backlog);
    if (!e->holds) return;
    pthread_mutex_lock(&endpoint->heap->mutex); /* another thread may be releasing a chunk */
    bool held = holds_out(e->holds) > 0;
    e->holds->orphaned = held;
    if (!held) holds_drop(e->holds);
    pthread_mutex_unlock(&endpoint->heap->mutex);
}

static bool can_go_on(const ipcheap_endpoint *endpoint) {
    const struct store_endpoint *e = (const struct store_endpoint *)endpoint;
    if (is_store_writer(e)) return true;
    if (e->waits_for_key) return false;
    return e->noticed > e->position ? store_head(&e->store) > e->noticed : next_is_there(e);
}

static bool ready(const ipcheap_endpoint *endpoint) {
    if (can_go_on(endpoint)) return true;
    enum side_state peer = peer_state(endpoint);
    return peer == SIDE_CLOSED || peer == SIDE_DIED || endpoint_is_over(endpoint);
}

/* A reader that sleeps on its seat asks wakers to look there, after `parked` says so. */
static void before_waiting(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    if (is_store_writer(e) || get(&endpoint->seat->parked) == AWAKE) return;
    bell_poll(&e->store.root->bell);
    sleeper_fence(endpoint->heap); /* pairs with bell_fence() */
}

static bool has_peer(const ipcheap_endpoint *endpoint) {
    const struct store_endpoint *e = (const struct store_endpoint *)endpoint;
    if (!is_store_writer(e)) return peer_state(endpoint) == SIDE_OPEN;
    struct store s = e->store;
    uint32_t readers = readers_used(&s);
    for (uint32_t i = 0; i < readers; i++) {
        const struct store_reader *entry = store_reader_at(&s, i);
        if (entry && !get(&entry->closed) && entry_is_alive(&s, entry)) return true;
    }
    return false;
}

const struct kind store_kind = {
    .zone = SYSTEM_ZONE,
    .pages = KIND_SYSTEM,
    .made_with_channel = true,
    .make = store_make,
    .has_part = store_has_part,
    .holds = store_claims,
    .collect = collect_deserted,
    .reclaim = store_reclaim,
    .withdraw = store_withdraw,
    .drain = store_drain,
    .recover = store_recover,
    .awaits = store_awaits,
    .occupied = occupied,
    .lingers = lingers,
    .wake_all = wake_all,
    .endpoint_bytes = sizeof(struct store_endpoint),
    .find_seat = find_seat,
    .leave_seat = leave_seat,
    .take_side = take_side,
    .keep_held = keep_held,
    .can_go_on = can_go_on,
    .has_some = can_go_on,
    .ready = ready,
    .before_waiting = before_waiting,
    .sleep = store_park,
    .has_peer = has_peer,
    .release = release,
};
