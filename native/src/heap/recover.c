#include "heap/recover.h"

#include "channel/directory.h"
#include "channel/removal.h"
#include "memory/block.h"
#include "memory/extent.h"
#include "memory/trim.h"
#include "segment/lock.h"

/* Channels ------------------------------------------------------------------------------- */

/* All writing sides before any reading side: a record may have to go back to where it came from. */
static void recover_channels(const struct recovery *r, int pass) {
    uint32_t entries = directory_entries(r->heap);
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(r->heap, index);
        if (!channel) return;
        enum channel_state state = (enum channel_state)(get(&channel->state) >> 62);
        if (state == CHANNEL_FREE) continue;
        const struct kind *kind = kind_of(r->heap, channel);
        if (kind) kind->recover(r, index, pass);
        channel_drop_if_done(r->me, index);
    }
}

/* Memory --------------------------------------------------------------------------------- */

static void recover_slab(const struct recovery *r, uint32_t granule) {
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
    for (int pass = 0; pass < RECOVERY_PASSES; pass++) recover_channels(&r, pass);
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
    extents_trim_if_due(me);
    return error ? error : undone;
}
