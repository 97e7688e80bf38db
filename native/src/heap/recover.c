#include "heap/recover.h"

#include "endpoint/bell.h"
#include "memory/extent.h"
#include "memory/trim.h"
#include "record/ring.h"
#include "segment/lock.h"

struct recovery {
    struct participant *me;
    ipcheap_heap *heap;
    uint32_t slot, generation;
    ipcheap_recovery *report;
    const ipcheap_recovery_witness *witness;
};

/* Does a tag or a holder name the dead one, or an earlier occupant of his slot? */
static bool names_dead(const struct recovery *r, uint64_t word) {
    if (tag_slot(word) != r->slot) return false;
    return (int32_t)(tag_generation(word) - r->generation) <= 0;
}

static bool owned_by_dead(const struct recovery *r, uint64_t tag) {
    return tag_kind(tag) == TAG_OWN && names_dead(r, tag);
}

/* Rings ---------------------------------------------------------------------------------- */

/* Nobody living is on that side. */
static bool side_is_dead(const struct recovery *r, uint64_t holder) {
    if (side_state(holder) != SIDE_OPEN) return false;
    return names_dead(r, holder) ||
           !participant_alive(r->heap, tag_slot(holder), tag_generation(holder));
}

/*
 * Was the record in this slot being forwarded by somebody who died before he had filled the
 * other ring's slot? His process held both, so he is dead, too, recovered already or not.
 */
static bool is_half_forwarded(const struct recovery *r, uint64_t tag, uint64_t offset,
                              uint64_t here) {
    struct ring ring;
    uint32_t index = tag_channel(tag);
    if (tag_kind(tag) != TAG_SENT || !ring_of(r->heap, index, &ring)) return false;
    struct channel *channel = channel_at(r->heap, index);
    const struct side *side = &channel->sides[IPCHEAP_PRODUCER];
    return side_is_dead(r, get(&channel->seats[IPCHEAP_PRODUCER].holder)) &&
           get(&side->record.intent) == offset && get(&side->record.from) == here &&
           tag == sent_tag(index, ring_sent(r->heap, index));
}

static void recover_producer(struct recovery *r, uint32_t index, struct channel *channel) {
    struct side *side = &channel->sides[IPCHEAP_PRODUCER];
    uint64_t sent = ring_sent(r->heap, index), intent = get(&side->record.intent);
    uint64_t from = get(&side->record.from);
    struct place place;
    /*
     * Tagged as sent, but its slot was never filled: `send` had not returned. It goes back to
     * the slot that it was to be forwarded from; if it was the dead one's own, it is freed.
     */
    if (intent && place_find(r->heap, intent, &place) && place_is(&place, sent_tag(index, sent))) {
        if (tag_kind(from) == TAG_SENT && ring_holds(r->heap, from, intent)) {
            put_release(place.tag, from);
        } else {
            r->report->blocks++;
            r->report->bytes += place_bytes(r->heap, &place);
            block_free(r->me, &place);
        }
    }
    put(&side->position, sent);
    put(&side->record.intent, 0);
    ring_collect(r->me, index);
}

static void recover_consumer(struct recovery *r, uint32_t index, struct channel *channel) {
    struct ring ring;
    if (!ring_of(r->heap, index, &ring)) return;
    struct side *side = &channel->sides[IPCHEAP_CONSUMER];
    uint64_t sent = ring_sent(r->heap, index), received = get(&side->position), again = 0;
    for (uint64_t p = sent > ring.count ? sent - ring.count : 0; p < sent; p++) {
        struct ring_slot *slot = &ring.slots[p & (ring.count - 1)];
        uint64_t word = get_acquire(&slot->word), lap = (p >> ring.shift) & LAP_MASK;
        if (ring_state(word) != SLOT_FULL || ring_lap(word) != lap) continue;
        struct place place;
        uint64_t offset = ring_offset(word), tag = sent_tag(index, p);
        bool found = place_find(r->heap, offset, &place);
        if (found && is_half_forwarded(r, get(place.tag), offset, tag)) put(place.tag, tag);
        bool here = found && get(place.tag) == tag;
        if (!here) /* kept or forwarded, and the slot not yet let go */
            put_release(&slot->word, ring_word(lap + 1, SLOT_EMPTY, 0));
        else if (p < received)
            again++;
    }
    r->report->redelivered += again;
    if (again && r->witness) {
        ipcheap_key key;
        channel_key(channel, &key);
        r->witness->redelivered(r->witness->context, &key, again);
    }
    put(&side->position, ring_oldest(r->heap, index, sent));
}

static void recover_channel(struct recovery *r, uint32_t index, struct channel *channel,
                            int side) {
    uint64_t ready = get(&channel->ready);
    if (owned_by_dead(r, ready)) {
        put_release(&channel->ready, 0); /* the next adder initialises it */
        directory_notify(r->heap);
    }
    uint64_t holder = get(&channel->seats[side].holder);
    if (side_state(holder) != SIDE_OPEN || !names_dead(r, holder)) return;
    if (side == IPCHEAP_PRODUCER)
        recover_producer(r, index, channel);
    else
        recover_consumer(r, index, channel);
    put(&channel->seats[side].parked, AWAKE);
    bell_recover(r->heap, channel, side);
    /* The dead one may have taken the other's word and not rung; before the commit, for us. */
    bell_ring(r->heap, channel, !side, NULL);
    r->report->endpoints++;
    side_end(r->heap, channel, side, SIDE_DIED);
}

/* All producers before any consumer: a record may have to go back to where it came from. */
static void recover_channels(struct recovery *r, int side) {
    uint32_t entries = directory_entries(r->heap);
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(r->heap, index);
        if (!channel) return;
        enum channel_state state = (enum channel_state)(get(&channel->state) >> 62);
        if (state == CHANNEL_FREE) continue;
        recover_channel(r, index, channel, side);
        channel_drop_if_done(r->me, index);
    }
}

/* Memory --------------------------------------------------------------------------------- */

static void recover_slab(struct recovery *r, uint32_t granule) {
    uint32_t size_class;
    if (!slab_valid(r->heap, page_of_granule(r->heap, granule), &size_class)) return;
    struct slab *slab = slab_at(r->heap, granule);
    uint32_t blocks = slab_blocks(r->heap, size_class);
    for (uint32_t i = 0; i < blocks; i++) {
        /* The bit first: its owner may collect just now what one who died before us freed. */
        if (block_is_remote_free(slab, i) || !owned_by_dead(r, get_acquire(&slab->tags[i])))
            continue;
        /* Idempotent; pairs with collect(). */
        put_or(&slab->remote[i / 64], UINT64_C(1) << (i & 63));
        r->report->blocks++;
        r->report->bytes += size_class_bytes(size_class);
    }
    uint64_t owner = get(&slab->owner);
    if (owner && names_dead(r, slab_owner_tag(owner))) slab_orphan(r->heap, granule);
}

/* Extents are freed in batches, because freeing moves the heads that a walk stands on. */
static void recover_memory(struct recovery *r) {
    uint64_t dead[64];
    size_t count;
    do {
        count = 0;
        struct extent_walk walk = extent_walk_of(r->heap, DATA_ZONE);
        while (count < sizeof dead / sizeof *dead && extent_step(r->heap, &walk)) {
            if (walk.state != PAGE_USED) continue;
            bool ours = walk.kind == KIND_RECORD || walk.kind == KIND_TRIM;
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
}

/* Participants --------------------------------------------------------------------------- */

/* Before his slot is given to somebody else; the one who came after him is not he. */
static void name_dead(const struct recovery *r) {
    ipcheap_holder who = {0};
    uint64_t live = slot_word(r->generation, SLOT_LIVE);
    if (get_acquire(&slot_at(r->heap, r->slot)->word) == live)
        participant_describe(r->heap, r->slot, &who);
    who.alive = who.ours = 0;
    r->witness->died(r->witness->context, &who);
}

static int recover_one(struct participant *me, uint32_t slot, uint32_t generation,
                       ipcheap_recovery *report, const ipcheap_recovery_witness *witness) {
    struct recovery r = {me, me->heap, slot, generation, report, witness};
    if (witness) name_dead(&r);
    recover_channels(&r, IPCHEAP_PRODUCER);
    recover_channels(&r, IPCHEAP_CONSUMER);
    recover_memory(&r);
    report->participants++;
    put(&me->heap->header->recoveries, get(&me->heap->header->recoveries) + 1);
    /* Last of all the slot; unless somebody has moved in already. */
    uint64_t live = slot_word(generation, SLOT_LIVE);
    put_if(&slot_at(me->heap, slot)->word, &live, slot_word(generation, SLOT_FREE));
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
        uint64_t word = get_acquire(&slot_at(heap, slot)->word);
        if ((word & 0xFF) == SLOT_FREE || participant_alive(heap, slot, generation)) continue;
        if (!participant_absent(heap, slot)) continue; /* his slot is spoilt, he is not dead */
        /* Who leaves says so before he lets go of his byte: then he was not dead, only leaving. */
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
    /* First what recovery itself goes by, if need be: whoever dies in here leaves more to do. */
    if (!extents_index_valid(heap) || !directory_valid(heap)) heap->hooks->rebuild(me);
    int undone = recover_every(me, report, witness);
    /* Whatever else is only an index may as well be right again. */
    error = extents_rebuild(heap);
    slabs_rebuild(heap);
    directory_rebuild(me);
    heap_unlock(me);
    extents_settle(me);
    return error ? error : undone;
}
