#include "store/commit.h"

#include "channel/side.h"
#include "memory/participant_memory.h"
#include "segment/clock.h"
#include "segment/lock.h"
#include "store/collect.h"

#define FEW_DEAD 128 /* chunks that have died before a put collects */

static void count(shared64 *where, uint64_t more) {
    if (more) put(where, get(where) + more);
}

/* Room --------------------------------------------------------------------------------------- */

/* What the store would have after the commit, and what is new of it. */
struct plan {
    uint64_t chunks, bytes, new_chunks, new_bytes;
};

/* Finds what a change follows; false if the cell leads to what is not the newest of its key. */
static bool find_newest(struct store_endpoint *e, struct change *change) {
    struct chunk_key key;
    uint32_t newest;
    change->cell = NULL;
    change->newest = 0;
    if (!e->lists.notes[change->slot].keyed) return true;
    key_in_slot(chunk_slot(&e->store, change->slot), &key);
    change->cell = cell_find(&e->store, &key, &newest);
    if (!change->cell) return true;
    change->newest = newest + 1;
    return is_newest(&e->lists, newest);
}

/* Counts what the store would have after a change. */
static void plan_add(const struct store_endpoint *e, const struct change *change,
                     struct plan *plan) {
    const struct lists *l = &e->lists;
    const struct note *note = &l->notes[change->slot];
    const struct note *before = change->newest ? &l->notes[change->newest - 1] : NULL;
    if (!note->deletion) {
        plan->chunks++;
        plan->bytes += note->bytes;
        plan->new_chunks++;
        plan->new_bytes += note->bytes;
        if (!before || before->deletion || before->count < e->store.depth) return;
        plan->chunks--;
        plan->bytes -= l->notes[before->oldest - 1].bytes;
        return;
    }
    for (uint32_t link = change->newest; link; link = l->notes[link - 1].older) {
        if (l->notes[link - 1].deletion) return;
        plan->chunks--;
        plan->bytes -= l->notes[link - 1].bytes;
    }
}

/* Finds what each change follows, and counts; false if the store is corrupt. */
static bool plan_make(struct store_endpoint *e, struct plan *plan) {
    *plan = (struct plan){.chunks = e->lists.live_chunks, .bytes = e->lists.live_bytes};
    for (uint32_t i = 0; i < e->change_count; i++) {
        struct change *change = &e->changes[i];
        if (change->superseded) continue;
        if (!find_newest(e, change)) return false;
        plan_add(e, change, plan);
    }
    return true;
}

static uint64_t excess(uint64_t is, uint64_t most) { return most && is > most ? is - most : 0; }

/* Takes the oldest chunks away, until so many, and so many bytes, are. False if there were none. */
static bool evict(struct store_endpoint *e, uint64_t chunks, uint64_t bytes, int64_t now) {
    struct lists *l = &e->lists;
    uint64_t gone = 0, before = l->live_bytes;
    while (l->first && (gone < chunks || before - l->live_bytes < bytes))
        gone += chunk_gone(&e->store, l, l->first - 1, now);
    count(&e->store.root->evicted, gone);
    return gone > 0;
}

/* Makes the commit fit the limits of the store, and finds what each change follows. */
static int make_room(struct store_endpoint *e, int64_t now) {
    const struct store *s = &e->store;
    struct plan plan;
    for (;;) {
        if (!plan_make(e, &plan)) return channel_poison(e->base.heap, e->base.channel);
        uint64_t chunks = excess(plan.chunks, s->max_chunks);
        uint64_t bytes = excess(plan.bytes, s->max_bytes);
        if (!chunks && !bytes) return 0;
        bool never = excess(plan.new_chunks, s->max_chunks) || excess(plan.new_bytes, s->max_bytes);
        if (!never && s->evicts && evict(e, chunks, bytes, now)) continue;
        e->limits_met = (chunks ? IPCHEAP_GIVEN_MAX_CHUNKS : 0) |
                        (bytes ? IPCHEAP_GIVEN_MAX_BYTES : 0);
        return IPCHEAP_STORE_FULL;
    }
}

/* Committing --------------------------------------------------------------------------------- */

/* True for a change without effect: another one of its key counts, or there is nothing to delete. */
static bool is_idle(const struct store_endpoint *e, const struct change *change) {
    const struct lists *l = &e->lists;
    if (change->superseded) return true;
    if (!l->notes[change->slot].deletion) return false;
    return !change->newest || l->notes[change->newest - 1].deletion;
}

/* Fills in what is known only now, and makes the slot LIVE: pending. */
static void make_pending(struct store_endpoint *e, const struct change *change, uint64_t version,
                         int64_t now) {
    struct store_slot *slot = chunk_slot(&e->store, change->slot);
    int64_t ttl = change->ttl ? change->ttl : e->store.ttl, expires = 0;
    if (ttl > 0 && __builtin_add_overflow(now, ttl, &expires)) expires = 0;
    put(&slot->older, change->newest);
    put(&slot->time, (uint64_t)now);
    put(&slot->expires, (uint64_t)expires);
    e->lists.notes[change->slot].version = version;
    /* Release: pairs with hold_slot(). */
    put_release(&slot->word, chunk_word(CHUNK_LIVE, version));
    if (expires) expiry_add(&e->lists, (uint64_t)expires, change->slot, version);
}

static void enter_cell(struct store_endpoint *e, struct change *change) {
    uint64_t hash = get(&chunk_slot(&e->store, change->slot)->hash);
    if (!change->cell) change->cell = cell_for(&e->store, hash);
    if (change->cell)
        cell_put(change->cell, hash, change->slot);
    else
        channel_poison(e->base.heap, e->base.channel); /* a sound table has room */
}

static void log_put(const struct store *s, uint64_t version, uint32_t slot) {
    put_release(&s->log[version & s->log_mask], version << 32 | slot); /* with log_at() */
}

/* Makes what a change replaces or deletes DEAD. */
static void end_replaced(struct store_endpoint *e, const struct change *change, int64_t now) {
    struct store *s = &e->store;
    struct lists *l = &e->lists;
    struct note *note = &l->notes[change->slot];
    uint64_t gone = 0;
    lists_commit(l, change->slot, change->newest);
    if (note->deletion) {
        for (; note->oldest != change->slot + 1; gone++) tail_gone(s, l, change->slot, now);
        note->older = 0;
        count(&s->root->deleted, gone);
    } else if (change->newest && l->notes[change->newest - 1].deletion) {
        note->older = 0;
        bury(s, l, change->newest - 1, now);
    } else {
        for (; note->count > s->depth && note->oldest != change->slot + 1; gone++)
            tail_gone(s, l, change->slot, now);
        count(&s->root->replaced, gone);
    }
}

/* Notes which changes have no effect; their versions have no slot. */
static void mark_idle(struct store_endpoint *e) {
    for (uint32_t i = 0; i < e->change_count; i++)
        e->changes[i].superseded = is_idle(e, &e->changes[i]);
}

/* Ends a change's record, after the commit: it has another owner, or nobody wants it any more. */
static void end_change(struct store_endpoint *e, struct change *change) {
    ipcheap_record *record = change->record;
    change->record = NULL;
    if (change->superseded) change_drop(e, e->base.me, change);
    if (!record) return;
    ipcheap_endpoint *lender = change->owner ? NULL : record_lender(record);
    if (lender) lender->kind->taken(record);
    record->consumer = NULL;
    record->data = NULL;
}

static void end_changes(struct store_endpoint *e) {
    bool lent = false;
    for (uint32_t i = 0; i < e->change_count; i++)
        lent |= e->changes[i].record && !e->changes[i].owner;
    if (lent) pthread_mutex_lock(&e->base.heap->mutex); /* a consumer may be closing */
    for (uint32_t i = 0; i < e->change_count; i++) end_change(e, &e->changes[i]);
    if (lent) pthread_mutex_unlock(&e->base.heap->mutex);
}

/* The commit itself. Inside, with room. */
static uint64_t commit_inside(struct store_endpoint *e, int64_t now) {
    struct store *s = &e->store;
    uint64_t head = get(&s->root->head);
    for (uint32_t i = 0; i < e->change_count; i++)
        if (!e->changes[i].superseded) make_pending(e, &e->changes[i], head + 1 + i, now);
    for (uint32_t i = 0; i < e->change_count; i++) {
        struct change *change = &e->changes[i];
        if (!change->superseded && e->lists.notes[change->slot].keyed) enter_cell(e, change);
    }
    head += e->change_count;
    put_release(&s->root->head, head); /* COMMITTED; pairs with store_head() */
    for (uint32_t i = 0; i < e->change_count; i++) {
        const struct change *change = &e->changes[i];
        bool chunk = !change->superseded && !e->lists.notes[change->slot].deletion;
        log_put(s, head - e->change_count + 1 + i, chunk ? change->slot + 1 : 0);
    }
    for (uint32_t i = 0; i < e->change_count; i++)
        if (!e->changes[i].superseded) end_replaced(e, &e->changes[i], now);
    return head;
}

static void wake_readers(struct store_endpoint *e) {
    struct store *s = &e->store;
    bell_fence(s);
    bell_tell(s, &s->root->bell);
    for (uint32_t i = 0; i < e->change_count; i++) {
        const struct change *change = &e->changes[i];
        if (!change->superseded && change->cell) bell_tell(s, &change->cell->bell);
    }
}

/* Collecting --------------------------------------------------------------------------------- */

/* Looks from time to time whether those that hold dead chunks for long are alive. */
static void look_after_readers(struct store_endpoint *e, int64_t now) {
    if (LIKELY(!e->lists.stale) || now - e->looked < SECOND) return;
    e->looked = now;
    if (!heap_try_lock(e->base.me)) return;
    readers_recover(e->base.me, &e->store);
    heap_unlock(e->base.me);
}

static bool is_due(const struct store_endpoint *e) {
    const struct lists *l = &e->lists;
    if (l->dead_bytes - l->held_bytes + l->spare_bytes > e->store.garbage) return true;
    return l->died >= FEW_DEAD && l->died >= l->held;
}

int64_t collect_now(struct store_endpoint *e, uint64_t spared) {
    int error = store_enter(e);
    if (error) return error;
    uint64_t freed = collect(e->base.me, &e->store, &e->lists, spared);
    participant_leave(e->base.me);
    look_after_readers(e, clock_now(e->base.heap));
    return (int64_t)freed;
}

int evict_bytes(struct store_endpoint *e, uint64_t bytes) {
    int error = store_enter(e);
    if (error) return error;
    bool gone = evict(e, 1, bytes, clock_now(e->base.heap));
    if (gone) collect(e->base.me, &e->store, &e->lists, 0);
    participant_leave(e->base.me);
    return gone;
}

/* Committing a spare -------------------------------------------------------------------------- */

/* What a put of one chunk follows: the newest of its key, plus 1, and its cell. */
struct before {
    uint32_t newest;
    struct store_cell *cell;
};

/* Finds it; false if the usual way has to deal with it. */
static inline bool find_before(struct store_endpoint *e, const struct chunk_key *key,
                               struct before *before) {
    uint32_t newest;
    before->newest = 0;
    before->cell = NULL;
    if (UNLIKELY(!key->hash)) return true;
    before->cell = cell_look(&e->store, key, &newest);
    if (UNLIKELY(!before->cell)) return false;
    before->newest = newest + 1;
    return is_newest(&e->lists, newest) && !e->lists.notes[newest].deletion;
}

/* True if one more chunk is within the limits of the store. */
static bool fits(const struct store_endpoint *e, uint64_t nbytes, const struct before *before) {
    const struct lists *l = &e->lists;
    const struct store *s = &e->store;
    uint64_t chunks = l->live_chunks + 1, bytes = l->live_bytes + nbytes;
    if (before->newest && l->notes[before->newest - 1].count >= s->depth) {
        chunks--;
        bytes -= l->notes[l->notes[before->newest - 1].oldest - 1].bytes;
    }
    return !excess(chunks, s->max_chunks) && !excess(bytes, s->max_bytes);
}

/* Fills a spare, which is pending then. */
static inline void fill_spare(struct store_slot *slot, uint64_t offset, uint64_t nbytes,
                              const struct chunk_key *key, uint32_t older, int64_t now,
                              uint64_t expires, uint64_t version) {
    put(&slot->offset, offset);
    put(&slot->size, size_word(nbytes, IPCHEAP_PLAIN));
    put(&slot->expires, expires);
    put(&slot->time, (uint64_t)now);
    put(&slot->hash, key->hash);
    put(&slot->older, older);
    put(&slot->form, key->form);
    for (uint32_t i = 0; i < key->words; i++) put(&slot->key[i], key->word[i]);
    put(&slot->died, 0); /* it came from nowhere */
    /* Release: pairs with hold_slot(). */
    put_release(&slot->word, chunk_word(CHUNK_LIVE, version));
}

/* Makes what a chunk replaces DEAD. */
static inline uint64_t end_before(struct store *s, struct lists *l, uint32_t slot, uint32_t newest,
                                  int64_t now) {
    struct note *note = &l->notes[slot];
    uint64_t gone = 0;
    if (LIKELY(newest && s->depth == 1)) {
        note->state = NOTE_LIVE;
        note->newer = note->older = 0;
        note->oldest = slot + 1;
        note->count = 1;
        age_add(l, slot);
        bury(s, l, newest - 1, now);
        return 1;
    }
    lists_commit(l, slot, newest);
    for (; note->count > s->depth && note->oldest != slot + 1; gone++) tail_gone(s, l, slot, now);
    return gone;
}

/* Fetches what the next put will write. */
static inline void fetch_next(const struct store_endpoint *e, uint32_t size_class) {
    const struct lists *l = &e->lists;
    uint32_t next = l->spares[size_class];
    if (UNLIKELY(!next)) return;
    const struct note *note = &l->notes[next - 1];
    const struct store_slot *slot = chunk_slot(&e->store, next - 1);
    prefetch_to_write(slot);
    prefetch_to_write(&slot->key[2]);
    prefetch_to_write(at_offset(e->base.heap, note->offset));
    if (note->after) prefetch_to_write(&l->notes[note->after - 1]);
}

/* What commit_inside() does, for a chunk in a spare that follows a chunk of its key, or none. */
static inline uint64_t commit_spare_inside(struct store_endpoint *e, uint32_t slot,
                                           const struct chunk_key *key, uint64_t nbytes,
                                           const struct before *before, int64_t now, int64_t ttl) {
    struct store *s = &e->store;
    struct lists *l = &e->lists;
    struct note *note = &l->notes[slot];
    uint64_t version = get(&s->root->head) + 1;
    int64_t expires = 0;
    if (UNLIKELY(ttl > 0) && __builtin_add_overflow(now, ttl, &expires)) expires = 0;
    fill_spare(chunk_slot(s, slot), note->offset, nbytes, key, before->newest, now,
               (uint64_t)expires, version);
    if (LIKELY(before->cell != NULL)) cell_put(before->cell, key->hash, slot);
    put_release(&s->root->head, version); /* COMMITTED; pairs with store_head() */
    log_put(s, version, slot + 1);
    note->version = version;
    note->bytes = nbytes;
    note->deletion = false;
    note->keyed = key->hash != 0;
    if (UNLIKELY(expires)) expiry_add(l, (uint64_t)expires, slot, version);
    count(&s->root->replaced, end_before(s, l, slot, before->newest, now));
    return version;
}

/* Finds what is needed to put in a spare. Inside. */
static inline bool spare_suits(struct store_endpoint *e, const struct chunk_key *key,
                               uint64_t nbytes, uint32_t size_class, struct before *before) {
    const struct store *s = &e->store;
    if (UNLIKELY(!e->lists.spares[size_class] || !find_before(e, key, before))) return false;
    return LIKELY(!(s->max_chunks | s->max_bytes)) || fits(e, nbytes, before);
}

int commit_spare(struct store_endpoint *e, const struct chunk_key *key, const void *data,
                 uint64_t nbytes, int64_t ttl, uint64_t *version) {
    struct store *s = &e->store;
    struct lists *l = &e->lists;
    struct before before;
    uint32_t size_class = size_class_of(nbytes);
    if (UNLIKELY(size_class >= CLASSES || !l->spares[size_class])) return 0;
    if (!ttl) ttl = s->ttl;
    int error = store_enter(e);
    if (UNLIKELY(error)) return error;
    bool exact = ttl > 0 || l->expiry_count;
    int64_t now = LIKELY(!exact) ? clock_lately(s->heap, &e->read) : clock_now(s->heap);
    if (UNLIKELY(exact)) {
        expire(s, l, now);
        error = expiries_reserve(l, 1);
    }
    /* The lists may have been built anew as the store was entered. */
    if (UNLIKELY(error || !spare_suits(e, key, nbytes, size_class, &before))) {
        participant_leave(e->base.me);
        return 0;
    }
    uint32_t slot = spare_take(l, size_class);
    memory_copy(e->base.me, at_offset(s->heap, l->notes[slot].offset), data, (size_t)nbytes);
    *version = commit_spare_inside(e, slot, key, nbytes, &before, now, ttl);
    participant_leave(e->base.me);
    e->committed++;
    bell_fence(s);
    bell_tell(s, &s->root->bell);
    if (LIKELY(before.cell != NULL)) bell_tell(s, &before.cell->bell);
    if (UNLIKELY(is_due(e))) collect_now(e, store_spare_bytes(s));
    fetch_next(e, size_class);
    return 1;
}

/* Committing changes --------------------------------------------------------------------------- */

int commit(struct store_endpoint *e, uint64_t *version) {
    int error = store_enter(e);
    if (UNLIKELY(error)) return error;
    int64_t now = clock_now(e->base.heap);
    expire(&e->store, &e->lists, now);
    error = expiries_reserve(&e->lists, e->change_count);
    if (LIKELY(!error)) error = make_room(e, now);
    if (UNLIKELY(error)) {
        participant_leave(e->base.me);
        return error;
    }
    mark_idle(e);
    *version = commit_inside(e, now);
    participant_leave(e->base.me);
    end_changes(e);
    e->committed += e->change_count;
    wake_readers(e);
    if (UNLIKELY(is_due(e))) collect_now(e, store_spare_bytes(&e->store));
    return 0;
}
