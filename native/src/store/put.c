/* put.c - the writer's calls: putting, deleting, transactions. */

#include "endpoint/bell.h"
#include "memory/block.h"
#include "memory/deferred.h"
#include "memory/slab_local.h"
#include "segment/clock.h"
#include "store/commit.h"

static void undo(struct store_endpoint *e, uint32_t from) {
    pthread_mutex_lock(&e->base.heap->mutex); /* a consumer may be closing */
    changes_undo(e, e->base.me, from);
    pthread_mutex_unlock(&e->base.heap->mutex);
}

/* Commits what has been added, or undoes it. */
static int finish(struct store_endpoint *e, uint64_t *version) {
    uint64_t last;
    int error = commit(e, &last);
    if (UNLIKELY(error == IPCHEAP_WOULD_SLEEP && e->in_transaction))
        return error; /* called again */
    if (UNLIKELY(error)) undo(e, 0);
    changes_end(e);
    if (!error && version) *version = last;
    return error;
}

/* The version that the change added last is going to have. */
static uint64_t version_of_last(const struct store_endpoint *e) {
    return get(&e->store.root->head) + e->change_count;
}

/* In a transaction, notes the version of the change that was added last; otherwise commits it. */
static int commit_or_wait(struct store_endpoint *e, uint64_t *version) {
    if (!e->in_transaction) return finish(e, version);
    if (version) *version = version_of_last(e);
    return 0;
}

/* Allocates a block of the writer's own. */
static int take_block(struct participant *me, uint64_t nbytes, uint64_t *offset) {
    uint32_t size_class = size_class_of(nbytes);
    *offset = LIKELY(size_class < me->heap->geometry.classes) ? slab_take(me, size_class) : 0;
    if (UNLIKELY(!*offset)) return block_allocate(me, nbytes, offset);
    me->held++;
    return 0;
}

/*
 * After an error of the heap's: lets the oldest chunks make way for so many bytes if that may help and the
 * store says so. Returns 0 to try again, or the error.
 */
static int make_way(struct store_endpoint *e, uint64_t bytes, int error) {
    if (error != IPCHEAP_HEAP_FULL && error != IPCHEAP_MEMORY_FULL) return error;
    if (!e->store.evicts) return error;
    int gone = evict_bytes(e, bytes);
    return gone > 0 ? 0 : gone < 0 ? gone : error;
}

static bool never_fits(struct store_endpoint *e, uint64_t nbytes) {
    if (!e->store.max_bytes || nbytes <= e->store.max_bytes) return false;
    e->limits_met = IPCHEAP_GIVEN_MAX_BYTES;
    return true;
}

/* Allocates, and lets the oldest chunks make way if the store says so. */
static int allocate(struct store_endpoint *e, uint64_t nbytes, uint64_t *offset) {
    ipcheap_heap *heap = e->base.heap;
    if (nbytes > heap->geometry.zone_pages[DATA_ZONE] << PAGE_SHIFT) return IPCHEAP_HEAP_FULL;
    if (never_fits(e, nbytes)) return IPCHEAP_STORE_FULL;
    for (;;) {
        int error = take_block(e->base.me, nbytes, offset);
        if (LIKELY(!error)) return 0;
        error = make_way(e, nbytes, error);
        if (error) return error;
    }
}

/* The same for a change, which may need more slots. */
static int add(struct store_endpoint *e, const struct chunk_key *key, const struct parcel *parcel,
               int64_t ttl) {
    for (;;) {
        int error = change_add(e, key, parcel, ttl);
        if (LIKELY(!error)) return 0;
        error = make_way(e, 0, error);
        if (error) return error;
    }
}

/* Adds a change that is a block which was allocated for it. */
static int add_own(struct store_endpoint *e, const struct chunk_key *key, ipcheap_record *record,
                   int64_t ttl) {
    struct parcel parcel;
    int error = parcel_judge(e->base.me, record, &parcel);
    if (UNLIKELY(error)) return error;
    parcel.record = NULL;
    parcel.from = 0;
    return add(e, key, &parcel, ttl);
}

/* Adds a copy of a record that others need as well, and frees the caller's. */
static int add_shared(struct store_endpoint *e, const struct chunk_key *key, ipcheap_record *record,
                      int64_t ttl) {
    ipcheap_record copy;
    int error = parcel_copy(e->base.me, record, &copy);
    if (error) return error;
    error = add_own(e, key, &copy, ttl);
    if (error) block_drop(e->base.me, copy.offset);
    if (!error) parcel_copied(e->base.me, record);
    return error;
}

/* Adds a change that is a copy of bytes. */
static int add_copy(struct store_endpoint *e, const struct chunk_key *key, const void *data,
                    uint64_t nbytes, int64_t ttl) {
    struct participant *me = e->base.me;
    ipcheap_heap *heap = e->base.heap;
    uint64_t offset;
    if (UNLIKELY(nbytes >> SIZE_BITS)) return IPCHEAP_BAD_VALUE;
    int error = deferred_reserve(me, 1);
    if (!error) error = allocate(e, nbytes, &offset);
    if (UNLIKELY(error)) return error;
    ipcheap_record record = {.data = at_offset(heap, offset), .nbytes = nbytes, .offset = offset};
    memory_copy(me, record.data, data, (size_t)nbytes);
    error = add_own(e, key, &record, ttl);
    if (UNLIKELY(error)) block_drop(me, offset);
    return error;
}

int ipcheap_store_put(ipcheap_endpoint *endpoint, const ipcheap_store_key *from, const void *data,
                      uint64_t nbytes, int64_t ttl_ns, uint64_t *version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    uint64_t last;
    int error = store_check(e, IPCHEAP_WRITER);
    if (LIKELY(!error)) error = key_take(from, &key);
    if (UNLIKELY(error)) return error;
    if (LIKELY(!e->in_transaction)) {
        int done = commit_spare(e, &key, data, nbytes, ttl_ns, &last);
        if (LIKELY(done > 0) && version) *version = last;
        if (LIKELY(done)) return done > 0 ? 0 : done;
    }
    error = add_copy(e, &key, data, nbytes, ttl_ns);
    return UNLIKELY(error) ? error : commit_or_wait(e, version);
}

int ipcheap_store_put_record(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                             ipcheap_record *record, int64_t ttl_ns, uint64_t *version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    struct parcel parcel;
    int error = store_check(e, IPCHEAP_WRITER);
    if (!error) error = key_take(from, &key);
    if (!error && never_fits(e, record->nbytes)) error = IPCHEAP_STORE_FULL;
    if (error) return error;
    pthread_mutex_lock(&endpoint->heap->mutex); /* a consumer may be closing */
    error = parcel_judge(endpoint->me, record, &parcel);
    bool shared = error == PARCEL_SHARED;
    if (!error) error = add(e, &key, &parcel, ttl_ns);
    pthread_mutex_unlock(&endpoint->heap->mutex);
    if (shared) error = add_shared(e, &key, record, ttl_ns);
    return error ? error : commit_or_wait(e, version);
}

int ipcheap_store_put_many(ipcheap_endpoint *endpoint, const ipcheap_store_item *items,
                           size_t count, int64_t ttl_ns, uint64_t *version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    if (error) return error;
    uint32_t before = e->change_count;
    if (!e->in_transaction) changes_begin(e);
    for (size_t i = 0; i < count && !error; i++) {
        struct chunk_key key;
        error = key_take(items[i].key, &key);
        if (!error) error = add_copy(e, &key, items[i].data, items[i].nbytes, ttl_ns);
    }
    if (error) {
        undo(e, before);
        if (!e->in_transaction) changes_end(e);
        return error;
    }
    if (count) return commit_or_wait(e, version);
    if (!e->in_transaction) changes_end(e);
    if (version) *version = version_of_last(e);
    return 0;
}

/* True if the key has a chunk, as of the transaction if one is open. */
static int exists(struct store_endpoint *e, const struct chunk_key *key) {
    uint32_t slot, change = e->many ? change_find(e, key) : 0;
    if (change) return !e->lists.notes[e->changes[change - 1].slot].deletion;
    int error = store_enter(e);
    if (error) return error;
    expire(&e->store, &e->lists, clock_now(e->base.heap));
    int found = cell_find(&e->store, key, &slot) && !e->lists.notes[slot].deletion;
    participant_leave(e->base.me);
    return found;
}

int ipcheap_store_delete(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                         uint64_t *version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    struct chunk_key key;
    struct parcel nothing = {0};
    int error = store_check(e, IPCHEAP_WRITER);
    if (!error) error = key_take(from, &key);
    if (!error && !key.hash) error = IPCHEAP_BAD_VALUE;
    int found = error ? error : exists(e, &key);
    if (found <= 0) return found;
    error = add(e, &key, &nothing, 0);
    if (!error) error = commit_or_wait(e, version);
    return error ? error : 1;
}

int ipcheap_store_begin(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    if (error) return error;
    if (e->in_transaction) return IPCHEAP_TRANSACTION;
    changes_begin(e);
    e->in_transaction = true;
    return 0;
}

int ipcheap_store_commit(ipcheap_endpoint *endpoint, uint64_t *version) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    if (error) return error;
    if (!e->in_transaction) return IPCHEAP_TRANSACTION;
    if (e->change_count) return finish(e, version);
    changes_end(e);
    if (version) *version = version_of_last(e);
    return 0;
}

int ipcheap_store_abort(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    if (error) return error;
    if (!e->in_transaction) return IPCHEAP_TRANSACTION;
    undo(e, 0);
    changes_end(e);
    return 0;
}

int ipcheap_store_evict(ipcheap_endpoint *endpoint, uint64_t nbytes) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    if (error) return error;
    return e->store.evicts ? evict_bytes(e, nbytes) : 0;
}

uint32_t ipcheap_store_limits_met(const ipcheap_endpoint *endpoint) {
    const struct store_endpoint *e = (const struct store_endpoint *)endpoint;
    return is_store_writer(e) ? e->limits_met : 0;
}

int64_t ipcheap_store_collect(ipcheap_endpoint *endpoint) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int error = store_check(e, IPCHEAP_WRITER);
    return error ? error : collect_now(e, 0);
}
