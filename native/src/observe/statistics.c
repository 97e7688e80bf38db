/* statistics.c - what a heap holds, counted from the truth: heads, tags and slots. */

#include "channel/directory.h"
#include "channel/kind.h"
#include "memory/deferred.h"
#include "memory/extent.h"
#include "memory/slab.h"
#include "memory/trim.h"
#include "segment/commit.h"
#include "segment/lock.h"

/* True if a block with this tag has an owner, false if it is garbage that waits in a channel. */
static bool in_use(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    if (tag_kind(tag) == TAG_OWN) return true;
    const struct channel *channel = channel_at(heap, tag_channel(tag));
    const struct kind *kind = channel ? kind_of(heap, channel) : NULL;
    return kind && kind->holds && kind->holds(heap, tag, offset);
}

static void count_slab(ipcheap_heap *heap, uint64_t page, ipcheap_statistics *s) {
    uint32_t size_class;
    if (!slab_valid(heap, page, &size_class)) return;
    struct slab *slab = slab_at(heap, granule_of_page(heap, page));
    uint32_t blocks = slab_blocks(heap, size_class);
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t tag = get_acquire(&slab->tags[i]); /* pairs with fill_slot() and collect() */
        uint64_t offset = page_offset(heap, page) + (uint64_t)i * size_class_bytes(size_class);
        if (tag == TAG_FREE || block_is_remote_free(slab, i) || !in_use(heap, tag, offset))
            continue;
        s->records++;
        s->in_use += size_class_bytes(size_class);
    }
    s->slabs++;
}

static void count_data(ipcheap_heap *heap, ipcheap_statistics *s) {
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk)) {
        if (walk.state != PAGE_USED) continue;
        if (walk.kind == KIND_SLAB) count_slab(heap, walk.first, s);
        if (walk.kind != KIND_RECORD && walk.kind != KIND_STATIC && walk.kind != KIND_STREAM)
            continue;
        s->extents++;
        s->in_use += walk.length << PAGE_SHIFT;
        s->records += walk.kind == KIND_RECORD;
    }
}

int ipcheap_heap_statistics(ipcheap_heap *heap, ipcheap_statistics *s) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (error) return error;
    slabs_release_empty(me); /* otherwise the empty slabs that we keep would count as used */
    error = heap_lock(me);
    if (error) return error;
    deferred_free_all(me);
    slabs_release_orphans(me);
    heap_unlock(me);
    extents_trim_if_due(me);
    error = heap_lock(me);
    if (error) return error;
    *s = (ipcheap_statistics){
        .capacity = heap->geometry.capacity,
        .committed = committed_pages(heap, 0, heap->geometry.zone_pages[DATA_ZONE]) << PAGE_SHIFT,
        .largest_free = extents_longest(heap) << PAGE_SHIFT,
        .channels = get(&heap->header->channels),
        .recoveries = get(&heap->header->recoveries),
    };
    count_data(heap, s);
    uint32_t living, dead;
    participants_count(heap, &living, &dead);
    s->participants = living;
    heap_unlock(me);
    return 0;
}
