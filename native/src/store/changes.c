#include "store/changes.h"

#include <stdlib.h>

#include "channel/side.h"
#include "memory/block.h"
#include "memory/slab_local.h"
#include "segment/lock.h"
#include "store/collect.h"

#define ENOUGH_FREE 8     /* one in so many slots, after a collection */
#define FEW_FREE 64       /* and so many at least, if there is memory */
#define KEPT_CHANGES 1024 /* room that is kept from one transaction to the next */

/* Entering ----------------------------------------------------------------------------------- */

/* Another participant has collected, so the lists are out of date. */
static int rebuild_lists(struct store_endpoint *e) {
    struct participant *me = e->base.me;
    int error = heap_lock(me);
    if (error) return error;
    struct lists lists;
    error = lists_build(&e->store, &lists);
    if (!error) {
        lists_drop(&e->lists);
        e->lists = lists;
        collect_completed(&e->store);
        put_and(&e->base.channel->flags, ~(uint32_t)CHANNEL_REVOKED);
    }
    heap_unlock(me);
    return error == IPCHEAP_CORRUPT ? channel_poison(e->base.heap, e->base.channel) : error;
}

int store_stopped(struct store_endpoint *e, uint32_t flags) {
    if (flags & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
    return flags & CHANNEL_POISONED ? IPCHEAP_CORRUPT : rebuild_lists(e);
}

/* Slots -------------------------------------------------------------------------------------- */

static int grow(struct store_endpoint *e) {
    struct participant *me = e->base.me;
    struct store old = e->store;
    uint64_t piece;
    if (old.pieces == STORE_PIECES) return IPCHEAP_HEAP_FULL;
    int error = heap_lock(me);
    if (error) return error;
    uint32_t slots = slots_of_pieces(old.pieces + 1);
    error = lists_reserve(&e->lists, slots);
    if (!error) error = store_prepare_piece(me, &e->store, &piece);
    if (!error) {
        store_publish_piece(&e->store, piece);
        lists_extend(&e->lists, slots);
        bell_fence(&old);
        bells_of_cells(&old); /* their sleepers look into the new table from now on */
    }
    heap_unlock(me);
    return error;
}

/*
 * Enters the store with a free slot. If a collection frees only few, the tables grow as well: otherwise
 * every few puts would collect.
 */
static int enter_with_slot(struct store_endpoint *e) {
    for (;;) {
        int error = store_enter(e);
        if (UNLIKELY(error)) return error;
        struct lists *l = &e->lists;
        if (LIKELY(l->free_count)) return 0;
        if (l->dead_count) collect(e->base.me, &e->store, l, store_spare_bytes(&e->store));
        uint64_t enough = greatest(l->slots / ENOUGH_FREE, FEW_FREE);
        bool grows = !e->cramped && l->free_count + l->spare_count < enough;
        if (!l->free_count) spare_drop(e->base.me, &e->store, l);
        if (l->free_count && !grows) return 0;
        participant_leave(e->base.me);
        error = grow(e);
        e->cramped = error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL;
        if (error && !(e->cramped && l->free_count)) return error;
    }
}

void slot_give_back(struct store_endpoint *e, uint32_t slot) {
    e->lists.notes[slot] = (struct note){.state = NOTE_FREE};
    e->lists.free[e->lists.free_count++] = slot;
}

/* The index ---------------------------------------------------------------------------------- */

static bool is_keyed(const struct store_endpoint *e, const struct change *change) {
    return get(&chunk_slot(&e->store, change->slot)->hash) != 0;
}

/* Returns the place of a key in the index. */
static uint32_t *index_place(struct store_endpoint *e, const struct chunk_key *key) {
    for (uint64_t i = key->hash;; i++) {
        uint32_t *place = &e->index[i & e->index_mask];
        if (!*place || slot_has_key(chunk_slot(&e->store, e->changes[*place - 1].slot), key))
            return place;
    }
}

/* Enters a change as the last one of its key. */
static void index_add(struct store_endpoint *e, uint32_t at) {
    struct chunk_key key;
    if (!is_keyed(e, &e->changes[at])) return;
    key_in_slot(chunk_slot(&e->store, e->changes[at].slot), &key);
    uint32_t *place = index_place(e, &key);
    if (*place) e->changes[*place - 1].superseded = true;
    *place = at + 1;
}

static void index_rebuild(struct store_endpoint *e) {
    for (uint64_t i = 0; e->index && i <= e->index_mask; i++) e->index[i] = 0;
    for (uint32_t i = 0; i < e->change_count; i++) e->changes[i].superseded = false;
    for (uint32_t i = 0; e->index && i < e->change_count; i++) index_add(e, i);
}

uint32_t change_find(struct store_endpoint *e, const struct chunk_key *key) {
    return e->change_count && e->index ? *index_place(e, key) : 0;
}

/* Makes room for one more change. The index has at least twice as many places. */
static int changes_reserve(struct store_endpoint *e) {
    if (e->change_count < e->change_room) return 0;
    uint32_t room = e->change_room ? 2 * e->change_room : 8;
    struct change *changes = os_reallocate(e->changes, room * sizeof *changes);
    if (!changes) return IPCHEAP_NO_MEMORY;
    e->changes = changes;
    uint32_t *index = os_allocate_zeroed(2 * room, sizeof *index);
    if (!index) return IPCHEAP_NO_MEMORY;
    free(e->index);
    e->index = index;
    e->index_mask = 2 * room - 1;
    e->change_room = room;
    index_rebuild(e);
    return 0;
}

/* Changes ------------------------------------------------------------------------------------ */

static void slot_fill(struct store_slot *slot, const struct chunk_key *key,
                      const struct parcel *parcel) {
    put(&slot->offset, parcel->offset);
    put(&slot->size, parcel->size);
    put(&slot->hash, key->hash);
    put(&slot->form, key->form);
    put(&slot->died, parcel->from);
    for (uint32_t i = 0; i < key->words; i++) put(&slot->key[i], key->word[i]);
    put_release(&slot->word, chunk_word(CHUNK_PREPARED, 0)); /* after all that explains it */
}

int change_add(struct store_endpoint *e, const struct chunk_key *key, const struct parcel *parcel,
               int64_t ttl) {
    int error = changes_reserve(e);
    if (!error) error = enter_with_slot(e);
    if (UNLIKELY(error)) return error;
    struct lists *l = &e->lists;
    uint32_t slot = l->free[--l->free_count];
    slot_fill(chunk_slot(&e->store, slot), key, parcel);
    if (parcel->tag) put_release(parcel->tag, tag_of_chunk(&e->store, slot));
    l->notes[slot] = (struct note){
        .state = NOTE_PENDING,
        .bytes = size_bytes(parcel->size),
        .offset = parcel->offset,
        .room = parcel->slab ? (uint8_t)(parcel->slab->size_class + 1) : 0,
        .deletion = parcel->offset == 0,
        .keyed = key->hash != 0,
    };
    participant_leave(e->base.me);
    parcel_sent(e->base.me, parcel);
    e->changes[e->change_count] = (struct change){
        .slot = slot,
        .ttl = ttl,
        .record = parcel->record,
        .owner = parcel->owner,
        .from = parcel->from,
    };
    if (e->many) index_add(e, e->change_count);
    e->change_count++;
    return 0;
}

/* The record is the caller's as before, or its own if its consumer has closed meanwhile. */
static void give_back(struct store_endpoint *e, struct participant *me, struct change *change) {
    ipcheap_record *record = change->record;
    struct participant *owner = change->owner;
    struct place place;
    uint64_t tag = change->from;
    if (!place_find(e->base.heap, record->offset, &place) ||
        !place_is(&place, tag_of_chunk(&e->store, change->slot)))
        return;
    if (!owner && !record_lender(record)) {
        owner = e->base.me;
        tag = my_tag(owner);
        record->consumer = NULL;
    }
    put_release(place.tag, tag); /* pairs with place_is() */
    if (owner) participant_holds(me, owner, 1);
}

void change_drop(struct store_endpoint *e, struct participant *me, struct change *change) {
    struct lists *l = &e->lists;
    struct store_slot *slot = chunk_slot(&e->store, change->slot);
    if (change->record) {
        give_back(e, me, change);
    } else if (!free_chunk(me, &e->store, change->slot)) {
        /* An extent that cannot be freed now: later. */
        put_release(&slot->word, chunk_word(CHUNK_LEAVING, 0));
        l->notes[change->slot].state = NOTE_DEAD;
        l->dead[l->dead_count++] = change->slot;
        return;
    }
    put_release(&slot->word, chunk_word(CHUNK_FREE, 0));
    slot_give_back(e, change->slot);
}

void changes_undo(struct store_endpoint *e, struct participant *me, uint32_t from) {
    while (e->change_count > from) change_drop(e, me, &e->changes[--e->change_count]);
    if (e->many) index_rebuild(e);
}

void changes_begin(struct store_endpoint *e) {
    e->many = true;
    index_rebuild(e);
}

void changes_end(struct store_endpoint *e) {
    e->change_count = 0;
    e->many = e->in_transaction = false;
    if (e->change_room <= KEPT_CHANGES) return;
    free(e->changes);
    free(e->index);
    e->changes = NULL;
    e->index = NULL;
    e->change_room = 0;
}
