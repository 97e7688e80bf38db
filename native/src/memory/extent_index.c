#include "memory/extent_index.h"

static int bin_of(uint64_t pages) {
    if (pages <= 16) return (int)pages - 1;
    int log = 63 - __builtin_clzll(pages);
    int bin = 16 + (log - 4) * 4 + (int)(pages >> (log - 2) & 3);
    return bin < BINS ? bin : BINS - 1;
}

/* Returns the page that a link names; NULL for no link and for garbage. */
static struct page *node(ipcheap_heap *heap, uint32_t link) {
    if (link == 0 || link > heap->geometry.total_pages) return NULL;
    struct page *page = &heap->pages[link - 1];
    return LIKELY(segment_meta_committed(heap, page, sizeof *page)) ? page : NULL;
}

/* Merges two heaps and returns the new root, which is the lower address. */
static uint32_t meld(ipcheap_heap *heap, uint32_t a, uint32_t b) {
    if (a > b) return meld(heap, b, a);
    struct page *root = node(heap, a), *child = node(heap, b);
    if (!root) return child ? b : 0;
    if (!child || a == b) return a;
    uint32_t first = get(&root->child);
    struct page *sibling = node(heap, first);
    put(&child->next, first);
    if (sibling) put(&sibling->previous, b);
    put(&child->previous, a);
    put(&root->child, b);
    put(&root->next, 0);
    put(&root->previous, 0);
    return a;
}

/* Returns the page of `link` if it can be a child of `parent` that `from` leads to, or NULL. */
static struct page *sibling_of(ipcheap_heap *heap, uint32_t link, uint32_t from, uint32_t parent) {
    struct page *page = link > parent ? node(heap, link) : NULL;
    return page && get(&page->previous) == from ? page : NULL;
}

/* Merges a list of siblings into one heap: in pairs from the left, then all from the right. */
static uint32_t meld_siblings(ipcheap_heap *heap, uint32_t parent, uint32_t list, bool *sound) {
    uint32_t pairs = 0, from = parent;
    for (uint64_t bound = heap->geometry.total_pages; bound && list; bound--) {
        struct page *one = sibling_of(heap, list, from, parent);
        uint32_t a = list, b = one ? get(&one->next) : 0;
        struct page *two = b ? sibling_of(heap, b, a, parent) : NULL;
        if (!one || (b && !two)) *sound = false;
        if (!one) break;
        list = two ? get(&two->next) : 0;
        from = b;
        uint32_t pair = meld(heap, a, two ? b : 0);
        struct page *top = node(heap, pair);
        if (!top) break;
        put(&top->next, pairs);
        pairs = pair;
    }
    uint32_t root = 0;
    for (uint64_t bound = heap->geometry.total_pages; bound; bound--) {
        struct page *pair = node(heap, pairs);
        if (!pair) break;
        uint32_t next = get(&pair->next);
        put(&pair->next, 0);
        put(&pair->previous, 0);
        root = meld(heap, root, pairs);
        pairs = next;
    }
    return root;
}

static void set_root(struct zone *zone, int bin, uint32_t root) {
    shared64 *bits = &zone->bin_bits[bin / 64];
    uint64_t bit = UINT64_C(1) << (bin & 63), word = get(bits);
    put(&zone->bins[bin], root);
    if (root != 0 && !(word & bit)) put(bits, word | bit);
    if (root == 0 && (word & bit)) put(bits, word & ~bit);
}

void index_prefetch(ipcheap_heap *heap, int z, uint64_t pages) {
    struct zone *zone = &heap->header->zones[z];
    prefetch_to_write(zone->bin_bits);
    prefetch_to_write(&zone->bins[pages ? bin_of(pages) : 0]);
    prefetch_to_write(&zone->used);
}

void index_clear(ipcheap_heap *heap, int z) {
    struct zone *zone = &heap->header->zones[z];
    for (int word = 0; word < BINS / 64; word++) put(&zone->bin_bits[word], 0);
    for (int bin = 0; bin < BINS; bin++) put(&zone->bins[bin], 0);
}

void index_insert(ipcheap_heap *heap, int z, uint64_t first, uint64_t length) {
    struct zone *zone = &heap->header->zones[z];
    int bin = bin_of(length);
    struct page *page = &heap->pages[first];
    put(&page->child, 0);
    put(&page->next, 0);
    put(&page->previous, 0);
    set_root(zone, bin, meld(heap, get(&zone->bins[bin]), (uint32_t)first + 1));
}

bool index_remove(ipcheap_heap *heap, int z, uint64_t first, uint64_t length) {
    struct zone *zone = &heap->header->zones[z];
    int bin = bin_of(length);
    struct page *page = &heap->pages[first];
    bool sound = true;
    uint32_t link = (uint32_t)first + 1, root = get(&zone->bins[bin]);
    uint32_t rest = meld_siblings(heap, link, get(&page->child), &sound);
    if (root == link) {
        set_root(zone, bin, rest);
        return sound;
    }
    uint32_t previous = get(&page->previous), next = get(&page->next);
    struct page *before = node(heap, previous), *after = node(heap, next);
    bool eldest = before && get(&before->child) == link;
    if (!before || (!eldest && get(&before->next) != link)) return false;
    if (next && (!after || get(&after->previous) != link)) return false;
    put(eldest ? &before->child : &before->next, next);
    if (after) put(&after->previous, previous);
    set_root(zone, bin, meld(heap, root, rest));
    return sound;
}

/* Returns the next bin after `bin` that is not empty; BINS if there is none. */
static int next_bin(struct zone *zone, int bin) {
    for (int from = bin + 1; from < BINS; from = (from / 64 + 1) * 64) {
        uint64_t bits = get(&zone->bin_bits[from / 64]) >> (from & 63);
        if (bits) return from + __builtin_ctzll(bits);
    }
    return BINS;
}

bool index_candidate(ipcheap_heap *heap, int z, uint64_t pages, int *bin, uint64_t *first) {
    struct zone *zone = &heap->header->zones[z];
    *bin = next_bin(zone, *bin < 0 ? bin_of(pages) - 1 : *bin);
    if (*bin >= BINS) return false;
    uint32_t root = get(&zone->bins[*bin]);
    *first = node(heap, root) ? root - 1 : UINT64_MAX;
    return true;
}

/* Follows the siblings back to their parent; returns 0 if the links do not lead there. */
static uint32_t parent_of(ipcheap_heap *heap, uint32_t at, uint64_t *steps) {
    for (; *steps; --*steps) {
        struct page *page = node(heap, at);
        uint32_t previous = page ? get(&page->previous) : 0;
        struct page *before = node(heap, previous);
        if (!before) return 0;
        if (get(&before->child) == at) return previous;
        at = previous;
    }
    return 0;
}

/* Counts a heap without a stack: to the first child, or to the next sibling, or up and on. */
static uint64_t count_bin(ipcheap_heap *heap, int bin, uint32_t root, uint64_t steps) {
    uint64_t count = 0;
    uint32_t at = root;
    for (; steps; steps--) {
        struct page *page = node(heap, at);
        if (!page) return UINT64_MAX;
        count++;
        uint64_t word = get(&page->word);
        if (word_state(word) != PAGE_FREE || bin_of(word_length(word)) != bin) return UINT64_MAX;
        uint32_t child = get(&page->child);
        if (child) {
            if (!sibling_of(heap, child, at, at)) return UINT64_MAX;
            at = child;
            continue;
        }
        uint32_t next = at == root ? 0 : get(&page->next);
        while (!next && at != root) {
            at = parent_of(heap, at, &steps);
            page = node(heap, at);
            if (!page) return UINT64_MAX;
            next = at == root ? 0 : get(&page->next);
        }
        if (at == root) return count;
        if (!sibling_of(heap, next, at, 0)) return UINT64_MAX;
        at = next;
    }
    return UINT64_MAX;
}

uint64_t index_count(ipcheap_heap *heap, int z) {
    struct zone *zone = &heap->header->zones[z];
    uint64_t count = 0;
    for (int bin = 0; bin < BINS; bin++) {
        uint32_t root = get(&zone->bins[bin]);
        bool marked = get(&zone->bin_bits[bin / 64]) >> (bin & 63) & 1;
        if (marked != (root != 0)) return UINT64_MAX;
        uint64_t here = root ? count_bin(heap, bin, root, 4 * heap->geometry.total_pages) : 0;
        if (here == UINT64_MAX) return UINT64_MAX;
        count += here;
    }
    return count;
}
