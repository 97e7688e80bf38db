#include "store/collect.h"

#include "memory/block.h"
#include "memory/slab_local.h"
#include "segment/clock.h"

/* How long after a membarrier was refused every reader has seen header->fences. */
#define FENCES_SEEN (10 * MILLISECOND)

/* Seconds after which the holder of a dead chunk may be dead itself. */
#define LONG_HELD 1

/* Orders this thread's stores before its loads, and the same in all readers; false: not yet. */
static bool fence_readers(struct store *s) {
    if (os_membarrier()) return true;
    put(&s->heap->header->fences, 1);
    full_fence();
    uint64_t now = (uint64_t)clock_now(s->heap), since = get(&s->root->fences_since);
    if (!since) put(&s->root->fences_since, now);
    return since && now - since > (uint64_t)FENCES_SEEN;
}

bool free_chunk(struct participant *me, struct store *s, uint32_t slot) {
    struct store_slot *shared = chunk_slot(s, slot);
    uint64_t offset = get(&shared->offset), tag = tag_of_chunk(s, slot);
    struct place place;
    /* The block first: if the collector is killed in between, its tag no longer names this slot. */
    if (offset && !slab_free_sent(me, offset, tag) && place_find(s->heap, offset, &place) &&
        place_is(&place, tag)) {
        int error = block_free(me, &place);
        if (error == IPCHEAP_WOULD_SLEEP || error == IPCHEAP_NO_MEMORY) return false;
    }
    put_release(&shared->word, chunk_word(CHUNK_FREE, 0)); /* pairs with hold_slot() */
    return true;
}

/* The deletions that are the newest of their keys: the cells go, and then they are dead, too. */
static void deletions_end(struct store *s, struct lists *l, int64_t now) {
    uint32_t count = l->deletion_count;
    l->deletion_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = l->deletions[i];
        const struct note *note = &l->notes[slot];
        if (note->state == NOTE_LIVE && note->deletion && !note->newer) key_gone(s, l, slot, now);
    }
}

/* Notes which dead slots readers hold. */
static void look_at_holds(struct store *s, struct lists *l) {
    struct hold_walk walk = {0};
    l->held = 0;
    l->held_bytes = 0;
    l->stale = false;
    while (hold_step(s, &walk)) {
        uint32_t slot = held_slot(walk.hold) - 1;
        if (slot >= l->slots) continue;
        struct note *note = &l->notes[slot];
        if (note->seen == l->collection) continue;
        note->seen = l->collection;
        if (note->state != NOTE_DEAD) continue;
        l->stale |= hold_age(s->heap, walk.hold) > LONG_HELD;
        l->held++;
        l->held_bytes += note->bytes;
    }
}

/* Frees a slot that nobody holds, with its block; false if that cannot be now. */
static bool slot_free(struct participant *me, struct store *s, struct lists *l, uint32_t slot) {
    if (!free_chunk(me, s, slot)) return false;
    l->notes[slot].state = NOTE_FREE;
    l->free[l->free_count++] = slot;
    return true;
}

void spare_drop(struct participant *me, struct store *s, struct lists *l) {
    if (!l->spare_count) return;
    uint32_t slot = spare_take(l, (uint32_t)__builtin_ctzll(l->spare_rooms));
    if (slot_free(me, s, l, slot)) return;
    l->notes[slot].state = NOTE_DEAD;
    l->dead[l->dead_count++] = slot;
    l->dead_bytes += l->notes[slot].bytes;
}

uint64_t collect(struct participant *me, struct store *s, struct lists *l, uint64_t spared) {
    int64_t now = clock_now(s->heap);
    clock_tick(s->heap); /* holds are stamped with it */
    expire(s, l, now);
    store_turn(s);
    put(&s->root->collections, get(&s->root->collections) + 1);
    deletions_end(s, l, now);
    l->died = 0;
    uint64_t freed = l->spare_bytes;
    for (uint32_t spares = l->spare_count; spares; spares--) spare_drop(me, s, l);
    if (!l->dead_count) return freed;
    for (uint32_t i = 0; i < l->dead_count; i++) {
        struct store_slot *shared = chunk_slot(s, l->dead[i]);
        uint64_t word = chunk_word(CHUNK_LEAVING, l->notes[l->dead[i]].version);
        if (get(&shared->word) != word) put_release(&shared->word, word); /* with hold_slot() */
    }
    if (!fence_readers(s)) return freed;
    l->collection++;
    look_at_holds(s, l);
    uint32_t kept = 0, count = l->dead_count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = l->dead[i];
        struct note *note = &l->notes[slot];
        bool held = note->seen == l->collection;
        if (!held && note->room && spared && l->spare_bytes + note->bytes <= spared) {
            l->dead_bytes -= note->bytes;
            spare_add(l, slot);
        } else if (!held && slot_free(me, s, l, slot)) {
            l->dead_bytes -= note->bytes;
            freed += note->bytes;
        } else {
            l->dead[kept++] = slot;
        }
    }
    l->dead_count = kept;
    return freed;
}

uint64_t collect_alone(struct participant *me, struct store *s) {
    struct lists lists;
    uint64_t before = get(&s->root->collector);
    put(&s->root->collector, me->tag);
    if (lists_build(s, &lists)) {
        put(&s->root->collector, before);
        return 0;
    }
    uint64_t freed = collect(me, s, &lists, 0);
    lists_drop(&lists);
    put_release(&s->root->collector, 0); /* pairs with is_quiet() */
    return freed;
}

void collect_completed(struct store *s) {
    if (get(&s->root->collector)) put(&s->root->collector, 0);
}

/* True if there may be something to collect: a slot that is dead, expired or a deletion. */
static bool has_garbage(struct store *s) {
    uint64_t now = (uint64_t)clock_now(s->heap);
    for (uint32_t i = 0; i < s->slots; i++) {
        const struct store_slot *slot = chunk_slot(s, i);
        uint64_t state = chunk_state(get(&slot->word)), expires = get(&slot->expires);
        if (state == CHUNK_DEAD || state == CHUNK_LEAVING) return true;
        if (state == CHUNK_LIVE && (!get(&slot->offset) || (expires && expires <= now)))
            return true;
    }
    return false;
}

void store_reclaim(struct participant *me, uint32_t index) {
    struct store s;
    if (!store_view(me->heap, index, &s) || !has_garbage(&s)) return;
    /* Pairs with claim(). */
    uint64_t holder = get_acquire(&s.channel->seats[IPCHEAP_WRITER].holder);
    if (side_state(holder) != SIDE_OPEN) {
        collect_alone(me, &s);
        return;
    }
    /*
     * The flag stays: it says that the writer's lists are out of date. The writer itself allocates
     * outside, and rebuilds its lists afterwards like any other.
     */
    uint32_t was = put_or(&s.channel->flags, CHANNEL_REVOKED);
    bool other = holder != me->tag;
    if (!other || (os_membarrier() && !get(&s.heap->header->fences) &&
                   participant_settled(s.heap, tag_slot(holder))))
        collect_alone(me, &s);
    else if (!(was & CHANNEL_REVOKED))
        put_and(&s.channel->flags, ~(uint32_t)CHANNEL_REVOKED);
}
