#include "heap/recover.h"

#include "channel/directory.h"
#include "channel/removal.h"
#include "channel/side.h"
#include "memory/block.h"
#include "memory/deferred.h"
#include "memory/extent.h"
#include "memory/trim.h"
#include "segment/lock.h"

/* Channels ------------------------------------------------------------------------------- */

/*
 * Ends the dead participant's sides that the channel's kind has not ended, because the word that
 * says the kind is corrupt: the other side would wait indefinitely.
 */
static void end_sides(const struct recovery *r, struct channel *channel) {
    for (int side = 0; side < 2; side++)
        if (side_is_of_dead(r, channel, side)) side_recover(r, channel, side);
}

/* Recovers the writing sides of all channels, or the reading ones: see RECOVER_WRITERS. */
static void recover_channels(const struct recovery *r, int pass) {
    uint32_t entries = directory_entries(r->heap);
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(r->heap, index);
        if (!channel) return;
        enum channel_state state = (enum channel_state)(get(&channel->state) >> 62);
        if (state == CHANNEL_FREE) continue;
        const struct kind *kind = kind_of(r->heap, channel);
        if (kind) kind->recover(r, index, pass);
        if (pass == RECOVER_READERS) end_sides(r, channel);
        if (pass == RECOVER_READERS) channel_end(r->me, index);
        channel_drop_if_done(r->me, index);
    }
}

/* Frees removed channels whose last user was alive, but could not have the heap lock. */
static void drop_removed(struct participant *me) {
    uint32_t entries = directory_entries(me->heap);
    for (uint32_t index = 0; index < entries; index++) channel_drop_if_done(me, index);
}

/* Memory --------------------------------------------------------------------------------- */

/* Frees the dead participant's blocks in a slab, and orphans the slab if it owned that. */
static void recover_slab(const struct recovery *r, uint32_t granule) {
    uint32_t size_class;
    if (!slab_valid(r->heap, page_of_granule(r->heap, granule), &size_class)) return;
    struct slab *slab = slab_at(r->heap, granule);
    uint32_t blocks = slab_blocks(r->heap, size_class);
    for (uint32_t i = 0; i < blocks; i++) {
        /* The bit first: a block that is freed already may be collected by its owner just now. */
        if (block_is_remote_free(slab, i)) continue;
        if (!owned_by_dead(r, get_acquire(&slab->tags[i]))) continue; /* pairs with collect() */
        /* May be repeated; pairs with collect(). */
        put_or(&slab->remote[i / 64], UINT64_C(1) << (i & 63));
        r->report->blocks++;
        r->report->bytes += size_class_bytes(size_class);
    }
    uint64_t owner = get(&slab->owner);
    if (owner && names_dead(r, slab_owner_tag(owner))) slab_orphan(r->heap, granule);
}

/* Frees the dead participant's memory; in batches, because freeing moves the heads of a walk. */
static void recover_memory(const struct recovery *r) {
    uint64_t dead[64];
    size_t count;
    do {
        count = 0;
        struct extent_walk walk = extent_walk_of(r->heap, DATA_ZONE);
        while (count < sizeof dead / sizeof *dead && extent_step(r->heap, &walk)) {
            if (walk.state != PAGE_USED) continue;
            bool ours = walk.kind == KIND_RECORD || walk.kind == KIND_FREE_PENDING;
            if (ours && owned_by_dead(r, get(&r->heap->pages[walk.first].tag)))
                dead[count++] = walk.first;
            else if (walk.kind == KIND_SLAB)
                recover_slab(r, granule_of_page(r->heap, walk.first));
        }
        for (size_t i = 0; i < count; i++) {
            r->report->blocks++;
            r->report->bytes += word_length(get(&r->heap->pages[dead[i]].word)) << PAGE_SHIFT;
            if (extent_free(r->me, dead[i])) return;
        }
    } while (count == sizeof dead / sizeof *dead);
    deferred_free_all(r->me);
}

/* Participants --------------------------------------------------------------------------- */

/*
 * Describes the dead participant to the witness, if the slot is still its own: a later occupant of
 * the slot is a different participant.
 */
static void name_dead(const struct recovery *r) {
    ipcheap_holder who = {0};
    uint64_t live = slot_word(r->generation, SLOT_LIVE);
    if (get_acquire(&slot_at(r->heap, r->slot)->word) == live) /* pairs with slot_fill() */
        participant_describe(r->heap, r->slot, &who);
    who.alive = who.ours = 0;
    r->witness->died(r->witness->context, &who);
}

static int recover_one(struct participant *me, uint32_t slot, uint32_t generation,
                       ipcheap_recovery *report, const ipcheap_recovery_witness *witness) {
    struct recovery r = {me, me->heap, slot, generation, report, witness, false, 0};
    struct participant_slot *record = slot_at(me->heap, slot);
    /* A keeper is no participant that anybody knows of: its process's threads are. */
    uint64_t keeper = slot_word(generation, SLOT_KEEPER);
    bool counts = get_acquire(&record->word) != keeper; /* pairs with slot_fill() */
    uint32_t latest;
    /* A thread that has ended is dead to a lock or segment that it held, and its records are not. */
    if (participant_latest(me->heap, slot, &latest) && latest != generation) {
        r.continued = participant_alive(me->heap, slot, latest);
        r.first = slot == me->slot ? me->first : participant_first(me->heap, slot);
    }
    if (witness && counts) name_dead(&r);
    for (int pass = 0; pass < RECOVERY_PASSES; pass++) recover_channels(&r, pass);
    recover_memory(&r);
    report->participants += counts;
    if (counts) put(&me->heap->header->recoveries, get(&me->heap->header->recoveries) + 1);
    /* The slot comes last, unless it has a new occupant already. */
    uint64_t live = counts ? slot_word(generation, SLOT_LIVE) : keeper;
    put_if(&record->word, &live, slot_word(generation, SLOT_FREE));
    return 0;
}

int recover_participant(struct participant *me, uint32_t slot, uint32_t generation,
                        ipcheap_recovery *report) {
    return recover_one(me, slot, generation, report, NULL);
}

static int recover_every(struct participant *me, ipcheap_recovery *report,
                         const ipcheap_recovery_witness *witness) {
    ipcheap_heap *heap = me->heap;
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        uint32_t generation;
        if (!participant_latest(heap, slot, &generation)) continue;
        uint64_t word = get_acquire(&slot_at(heap, slot)->word); /* pairs with slot_fill() */
        if ((word & 0xFF) == SLOT_FREE || participant_alive(heap, slot, generation)) continue;
        if (!participant_absent(heap, slot)) continue; /* the word is corrupt, its process alive */
        /* A leaver frees its word before its byte: pairs with participant_retire(). */
        if (get_acquire(&slot_at(heap, slot)->word) != word) continue;
        int error = recover_one(me, slot, generation, report, witness);
        if (error) return error;
    }
    return 0;
}

int recover_all(struct participant *me, ipcheap_recovery *report) {
    return recover_every(me, report, NULL);
}

int ipcheap_recover(ipcheap_heap *heap, ipcheap_recovery *report) {
    return ipcheap_recover_witnessed(heap, report, NULL);
}

int ipcheap_recover_witnessed(ipcheap_heap *heap, ipcheap_recovery *report,
                              const ipcheap_recovery_witness *witness) {
    *report = (ipcheap_recovery){0};
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    /* The indices that recovery itself uses come first, if they are broken. */
    if (!extents_index_valid(heap) || !directory_valid(heap)) heap->hooks->rebuild(me);
    int undone = recover_every(me, report, witness);
    drop_removed(me);
    /* Rebuilds the other indices, too: the public header promises it. */
    error = extents_rebuild(heap);
    slabs_rebuild(heap);
    directory_rebuild(me);
    heap_unlock(me);
    extents_trim_if_due(me);
    return error ? error : undone;
}
