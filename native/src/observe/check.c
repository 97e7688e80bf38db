/* check.c - every invariant of the segment, in sentences. */

#include <stdarg.h>
#include <stdio.h>

#include "channel/endpoint.h"
#include "heap/extent.h"
#include "segment/commit.h"
#include "segment/lock.h"

struct check {
    ipcheap_heap *heap;
    void (*say)(void *context, const char *text);
    void *context;
    int faults;
};

static void __attribute__((format(printf, 2, 3))) fault(struct check *c, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    c->faults++;
    if (c->say) c->say(c->context, text);
}

/* The living, and the dead who await recovery: both may own things. */
static bool may_own(ipcheap_heap *heap, uint64_t tag) {
    uint32_t slot = tag_slot(tag);
    if (slot >= get(&heap->header->slots_used)) return false;
    return get(&slot_at(heap, slot)->word) == slot_word(tag_generation(tag), SLOT_LIVE);
}

/* Sent, waiting in the ring to be used again, or just being sent. */
static bool ring_accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct ring ring;
    uint32_t index = tag_channel(tag);
    if (!ring_of(heap, index, &ring)) return false;
    uint64_t position = tag_position(tag);
    uint64_t word = get_acquire(&ring.slots[position & (ring.count - 1)].word);
    uint64_t lap = (position >> ring.shift) & LAP_MASK;
    return word == ring_word(lap, SLOT_FULL, offset) ||
           word == ring_word(lap + 1, SLOT_RELEASED, offset) ||
           get(&channel_at(heap, index)->sides[IPCHEAP_PRODUCER].intent) == offset;
}

/* Participants go on while we look, so a fault counts only if the tag stands still. */
static void check_tag(struct check *c, const shared64 *where, uint64_t offset, uint64_t nbytes) {
    ipcheap_heap *heap = c->heap;
    for (int tries = 0; tries < 3; tries++) {
        uint64_t tag = get_acquire(where);
        bool right = tag == TAG_FREE || (tag_kind(tag) == TAG_OWN && may_own(heap, tag)) ||
                     (tag_kind(tag) == TAG_SENT && ring_accounts_for(heap, tag, offset));
        if (right) return;
        if (tries == 2 && get_acquire(where) == tag)
            fault(c, "%llu bytes at offset %llu belong to nobody (tag %llx)",
                  (unsigned long long)nbytes, (unsigned long long)offset, (unsigned long long)tag);
        os_pause();
    }
}

static void check_slab(struct check *c, uint64_t page, uint64_t length) {
    ipcheap_heap *heap = c->heap;
    uint32_t granule = granule_of_page(heap, page);
    struct slab *slab = slab_at(heap, granule);
    uint32_t size_class = get(&slab->size_class), blocks = slab_blocks(heap, size_class);
    uint64_t owner = get(&slab->owner);
    if (blocks == 0 || (uint64_t)blocks * size_class_bytes(size_class) > length << PAGE_SHIFT) {
        fault(c, "slab %u has the impossible size class %u", granule, size_class);
        return;
    }
    if (owner && !may_own(heap, slab_owner_tag(owner)))
        fault(c, "slab %u is owned by nobody (owner %llx)", granule, (unsigned long long)owner);
    for (uint32_t i = 0; i < blocks; i++) {
        uint64_t offset = page_offset(heap, page) + (uint64_t)i * size_class_bytes(size_class);
        if (!block_is_remote_free(slab, i))
            check_tag(c, &slab->tags[i], offset, size_class_bytes(size_class));
    }
}

static void check_run(struct check *c, const struct extent_walk *walk) {
    ipcheap_heap *heap = c->heap;
    uint64_t tag = get(&heap->pages[walk->first].tag), offset = page_offset(heap, walk->first);
    switch (walk->kind) {
    case KIND_SLAB:
        check_slab(c, walk->first, walk->length);
        break;
    case KIND_RECORD:
    case KIND_TRIM:
        check_tag(c, &heap->pages[walk->first].tag, offset, walk->length << PAGE_SHIFT);
        break;
    case KIND_STATIC:
    case KIND_SYSTEM: {
        uint32_t index = tag_channel(tag);
        struct channel *channel = index == NO_CHANNEL ? NULL : channel_at(heap, index);
        if (index != NO_CHANNEL && (!channel || get(&channel->memory) != offset))
            fault(c, "memory of channel %u at offset %llu is not its own", index,
                  (unsigned long long)offset);
        break;
    }
    default:
        fault(c, "the run at offset %llu is of no known kind", (unsigned long long)offset);
    }
}

static void check_zone(struct check *c, int zone) {
    ipcheap_heap *heap = c->heap;
    uint64_t used = 0, last_free_end = UINT64_MAX;
    struct extent_walk walk = extent_walk_of(heap, zone);
    while (extent_step(heap, &walk)) {
        if (walk.state == PAGE_FREE) {
            if (last_free_end == walk.first)
                fault(c, "two free runs touch at page %llu", (unsigned long long)walk.first);
            last_free_end = walk.next;
            continue;
        }
        used += walk.length;
        check_run(c, &walk);
    }
    if (walk.broken)
        fault(c, "the runs of zone %d do not add up: page %llu is no head", zone,
              (unsigned long long)walk.first);
    else if (used != get(&heap->header->zones[zone].used))
        fault(c, "zone %d counts %llu used pages and has %llu", zone,
              (unsigned long long)get(&heap->header->zones[zone].used), (unsigned long long)used);
}

static void check_directory(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint32_t cursor = 0, living = 0;
    ipcheap_key key;
    ipcheap_channel handle, found;
    while (ipcheap_next_channel(heap, &cursor, &key, &handle) == 1) {
        living++;
        if (ipcheap_find_channel(heap, &key, &found) || found.index != handle.index)
            fault(c, "channel %u cannot be found by its id", handle.index);
    }
    if (living != get(&heap->header->channels))
        fault(c, "the directory counts %u channels and has %u", get(&heap->header->channels),
              living);
}

int ipcheap_check(ipcheap_heap *heap, void (*say)(void *context, const char *text),
                  void *context) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    struct check c = {heap, say, context, 0};
    for (int zone = 0; zone < ZONES; zone++) check_zone(&c, zone);
    if (!extents_index_valid(heap)) fault(&c, "the index of free runs does not match them");
    check_directory(&c);
    heap_unlock(me);
    return c.faults;
}
