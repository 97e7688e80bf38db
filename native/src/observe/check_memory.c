/* check_memory.c - every page of both zones has one owner. */

#include "memory/extent.h"
#include "memory/slab.h"
#include "observe/check.h"
#include "segment/commit.h"

typedef unsigned long long number;

/* Blocks and records --------------------------------------------------------------------- */

/* True if somebody without the heap lock has just freed a run: anybody may free it for good. */
static bool is_deferred(const struct page *run) {
    return word_kind(get(&run->word)) == KIND_FREE_PENDING;
}

/*
 * Checks that a block has an owner. `slab`: where its bit may say that it is free; or NULL, and it is
 * a run of its own.
 */
static void check_tag(struct check *c, const shared64 *where, uint64_t offset, uint64_t nbytes,
                      const struct slab *slab, uint32_t index, const struct page *run) {
    ipcheap_heap *heap = c->heap;
    for (int look = 0; look < LOOKS; look++) {
        if (slab && block_is_remote_free(slab, index)) return;
        uint64_t tag = get_acquire(where); /* pairs with fill_slot(), collect(), deferred_add() */
        bool right = (tag == TAG_FREE && (slab || is_deferred(run))) ||
                     (tag_kind(tag) == TAG_OWN && may_own(heap, tag)) ||
                     channel_accounts_for(heap, tag, offset);
        if (right) return;
        /* A tag that changes has an owner. Pairs with fill_slot() and collect(). */
        if (get_acquire(where) != tag) look = -1;
        if (look == LOOKS - 1)
            fault(c, "%llu bytes at offset %llu belong to nobody (tag %llx)", (number)nbytes,
                  (number)offset, (number)tag);
        os_pause();
    }
}

static void check_committed(struct check *c, uint64_t first, uint64_t length) {
    if (committed_pages(c->heap, first, length) != length)
        fault(c, "%llu bytes in use at offset %llu have not all got memory",
              (number)(length << PAGE_SHIFT), (number)page_offset(c->heap, first));
}

/* Slabs ---------------------------------------------------------------------------------- */

/* True if the pages that begin a slab's further granules lead to its head. */
static bool slab_has_parts(const ipcheap_heap *heap, const struct extent_walk *walk) {
    uint64_t step = UINT64_C(1) << (heap->geometry.slab_shift - PAGE_SHIFT);
    for (uint64_t part = walk->first + step; part < walk->next; part += step) {
        const struct page *page = &heap->pages[part];
        if (!segment_meta_committed(heap, page, sizeof *page)) return false;
        if (word_state(get(&page->word)) != PAGE_PART) return false;
    }
    return true;
}

static void check_slab(struct check *c, const struct extent_walk *walk) {
    ipcheap_heap *heap = c->heap;
    uint32_t granule = granule_of_page(heap, walk->first), size_class;
    if (!slab_valid(heap, walk->first, &size_class) || !slab_has_parts(heap, walk)) {
        fault(c, "the run at offset %llu is no slab, or has not the shape of its size class",
              (number)page_offset(heap, walk->first));
        return;
    }
    struct slab *slab = slab_at(heap, granule);
    uint32_t blocks = slab_blocks(heap, size_class);
    uint64_t owner = get(&slab->owner);
    if (owner && !may_hold(heap, slab_owner_tag(owner)))
        fault(c, "slab %u is owned by nobody (owner %llx)", granule, (number)owner);
    uint64_t bytes = size_class_bytes(size_class);
    for (uint32_t i = 0; i < blocks; i++)
        check_tag(c, &slab->tags[i], page_offset(heap, walk->first) + i * bytes, bytes, slab, i,
                  NULL);
    for (uint32_t i = blocks; i < REMOTE_WORDS * 64; i++)
        if (block_is_remote_free(slab, i))
            fault(c, "slab %u has block %u freed, and has only %u", granule, i, blocks);
    check_committed(c, walk->first, walk->length);
}

/* Checks that the lists of orphans have every slab without an owner once, and nothing else. */
static void check_orphans(struct check *c, uint64_t orphans) {
    ipcheap_heap *heap = c->heap;
    uint64_t listed = 0;
    for (uint32_t class = 0; class < CLASSES; class++) {
        uint32_t link = get(&heap->header->orphans[class]);
        for (; link && listed <= orphans; listed++) {
            uint64_t granule = link - 1, page = page_of_granule(heap, granule);
            uint32_t found;
            if (granule >= heap->geometry.granules || !slab_valid(heap, page, &found) ||
                found != class || get(&slab_at(heap, granule)->owner) != 0) {
                fault(c, "the list of slabs without an owner, of class %u, leads astray", class);
                return;
            }
            link = get(&slab_at(heap, granule)->next_orphan);
        }
    }
    if (listed != orphans)
        fault(c, "%llu slabs have no owner, and %llu are listed", (number)orphans, (number)listed);
}

/* Runs ----------------------------------------------------------------------------------- */

/* Checks that the directory or the channel that a run belongs to points to it. */
static void check_owned_run(struct check *c, const struct extent_walk *walk, uint64_t tag) {
    ipcheap_heap *heap = c->heap;
    uint64_t offset = page_offset(heap, walk->first);
    uint32_t index = tag_channel(tag);
    if (index == NO_CHANNEL) {
        uint64_t table = get(&heap->header->table) & ((UINT64_C(1) << 56) - 1);
        bool known = table == offset;
        for (int i = 0; i < DIRECTORY_CHUNKS; i++) known |= get(&heap->header->chunks[i]) == offset;
        if (!known)
            fault(c, "the directory does not know of its memory at offset %llu", (number)offset);
    } else {
        if (!channel_leads_to(heap, tag, offset))
            fault(c, "channel %u does not know of its memory at offset %llu", index,
                  (number)offset);
    }
    check_committed(c, walk->first, walk->length);
}

static void check_run(struct check *c, const struct extent_walk *walk) {
    ipcheap_heap *heap = c->heap;
    struct page *page = &heap->pages[walk->first];
    uint64_t tag = get(&page->tag), offset = page_offset(heap, walk->first);
    switch (walk->kind) {
    case KIND_SLAB:
        check_slab(c, walk);
        break;
    case KIND_FREE_PENDING:
        if (tag == TAG_FREE) break; /* deferred: anybody may free it */
        /* fall through */
    case KIND_RECORD:
        check_tag(c, &page->tag, offset, walk->length << PAGE_SHIFT, NULL, 0, page);
        /* Its owner may be waiting for the memory; a record that was sent has it. */
        if (tag_kind(tag) == TAG_SENT) check_committed(c, walk->first, walk->length);
        break;
    case KIND_STATIC:
    case KIND_STREAM:
    case KIND_SYSTEM:
        check_owned_run(c, walk, tag);
        break;
    default:
        fault(c, "the run at offset %llu is of no known kind", (number)offset);
    }
}

/* Checks the last page of a run, on which merging relies: it has the length if the run is free. */
static void check_tail(struct check *c, const struct extent_walk *walk) {
    if (walk->length == 1) return;
    const struct page *last = &c->heap->pages[walk->next - 1];
    /* A page without memory counts as 0: it is no tail. */
    bool there = segment_meta_committed(c->heap, last, sizeof *last);
    uint64_t word = there ? get(&last->word) : 0;
    bool right = walk->state == PAGE_FREE
                     ? word == page_word(PAGE_TAIL, KIND_NONE, walk->length)
                     : word_state(word) != PAGE_TAIL && word_state(word) != PAGE_FREE;
    if (!right)
        fault(c, "the run of %llu pages at page %llu has not the end it should have",
              (number)walk->length, (number)walk->first);
}

static uint64_t check_zone(struct check *c, int zone) {
    ipcheap_heap *heap = c->heap;
    uint64_t used = 0, orphans = 0, last_free_end = UINT64_MAX;
    struct extent_walk walk = extent_walk_of(heap, zone);
    while (extent_step(heap, &walk)) {
        check_tail(c, &walk);
        if (walk.state == PAGE_FREE) {
            if (last_free_end == walk.first)
                fault(c, "two free runs touch at page %llu", (number)walk.first);
            last_free_end = walk.next;
            continue;
        }
        used += walk.length;
        check_run(c, &walk);
        uint32_t size_class;
        if (walk.kind == KIND_SLAB && slab_valid(heap, walk.first, &size_class))
            orphans += get(&slab_at(heap, granule_of_page(heap, walk.first))->owner) == 0;
    }
    uint64_t counted = get(&heap->header->zones[zone].used);
    if (walk.broken)
        fault(c, "the runs of zone %d do not add up: page %llu is no head", zone,
              (number)walk.first);
    else if (used != counted)
        fault(c, "zone %d counts %llu used pages and has %llu", zone, (number)counted,
              (number)used);
    return orphans;
}

void check_memory(struct check *c) {
    uint64_t orphans = 0;
    for (int zone = 0; zone < ZONES; zone++) orphans += check_zone(c, zone);
    check_orphans(c, orphans);
    if (!extents_index_valid(c->heap)) fault(c, "the index of free runs does not match them");
}
