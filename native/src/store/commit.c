#include "store/commit.h"

#include "channel/side.h"
#include "segment/clock.h"
#include "segment/lock.h"
#include "store/collect.h"

#define FEW_DEAD 64 /* chunks that have died before a put collects */

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
        if (never || !s->evicts || !evict(e, chunks, bytes, now)) return IPCHEAP_STORE_FULL;
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
    ipcheap_endpoint *consumer = change->owner ? NULL : record->consumer;
    if (consumer && !consumer->closed) consumer->kind->taken(record);
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
    if (l->dead_bytes - l->held_bytes > e->store.garbage) return true;
    return l->died >= FEW_DEAD && l->died >= l->held;
}

int64_t collect_now(struct store_endpoint *e) {
    int error = store_enter(e);
    if (error) return error;
    uint64_t freed = collect(e->base.me, &e->store, &e->lists);
    participant_leave(e->base.me);
    look_after_readers(e, clock_now(e->base.heap));
    return (int64_t)freed;
}

int evict_bytes(struct store_endpoint *e, uint64_t bytes) {
    int error = store_enter(e);
    if (error) return error;
    bool gone = evict(e, 1, bytes, clock_now(e->base.heap));
    if (gone) collect(e->base.me, &e->store, &e->lists);
    participant_leave(e->base.me);
    return gone;
}

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
    if (UNLIKELY(is_due(e))) collect_now(e);
    return 0;
}
