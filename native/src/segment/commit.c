#include "segment/commit.h"

#include "segment/file.h"

#include "segment/lock.h"

#define PIECE LARGE_PAGE /* what one fallocate() takes */
#define QUICK 64         /* pages that may be committed where sleeping is not allowed: quick() */

static shared64 *bits_of(const ipcheap_heap *heap) {
    return at_offset(heap, heap->geometry.committed_at);
}

/* Returns the bits of word `w` that belong to [first, first + count). */
static uint64_t word_mask(uint64_t w, uint64_t first, uint64_t count) {
    uint64_t low = w * 64, from = greatest(first, low), to = least(first + count, low + 64);
    uint64_t width = to - from;
    uint64_t ones = width == 64 ? ~UINT64_C(0) : (UINT64_C(1) << width) - 1;
    return ones << (from - low);
}

uint64_t committed_pages(const ipcheap_heap *heap, uint64_t first, uint64_t count) {
    const shared64 *bits = bits_of(heap);
    uint64_t sum = 0;
    for (uint64_t w = first / 64; w * 64 < first + count; w++)
        sum += (uint64_t)__builtin_popcountll(get(&bits[w]) & word_mask(w, first, count));
    return sum;
}

/* Sets or clears the bits of a range; returns how many changed. */
static uint64_t change_bits(ipcheap_heap *heap, uint64_t first, uint64_t count, bool on) {
    shared64 *bits = bits_of(heap);
    uint64_t changed = 0;
    for (uint64_t w = first / 64; w * 64 < first + count; w++) {
        uint64_t mask = word_mask(w, first, count);
        uint64_t before = on ? put_or(&bits[w], mask) : put_and(&bits[w], ~mask);
        changed += (uint64_t)__builtin_popcountll((on ? ~before : before) & mask);
    }
    if (first < heap->geometry.zone_first[SYSTEM_ZONE] && changed)
        put_add(&heap->header->committed, on ? changed : 0 - changed);
    return changed;
}

/*
 * Asks the kernel for a large page, most of which has no memory yet. After a refusal the kernel is
 * left alone for a second.
 */
static void ask_for_large(ipcheap_heap *heap, uint64_t page) {
    int64_t now = os_now();
    if (now < heap->large_pages_from) return;
    uint64_t offset = page_offset(heap, page);
    int file = file_descriptor(heap);
    if (file < 0 || os_commit(file, offset, PAGE)) return;
    if (!os_make_large(at_offset(heap, offset))) heap->large_pages_from = now + SECOND;
}

/* Returns how many pages may be committed where sleeping is not allowed: none on a disk. */
static uint64_t quick(const ipcheap_heap *heap) { return heap->backing.touch ? 0 : QUICK; }

/* Units of memory: pages, except on hugetlbfs. They begin at multiples of their size in the file. */

static uint64_t unit_from(const ipcheap_heap *heap, uint64_t page) {
    uint64_t offset = page_offset(heap, page);
    return page + ((round_up(offset, heap->backing.unit) - offset) >> PAGE_SHIFT);
}

uint64_t pages_of_unit(const ipcheap_heap *heap) { return heap->backing.unit >> PAGE_SHIFT; }

uint64_t whole_units(const ipcheap_heap *heap, uint64_t *first, uint64_t count) {
    uint64_t begin = unit_from(heap, *first), end = *first + count;
    uint64_t pages = begin < end ? (end - begin) & ~(pages_of_unit(heap) - 1) : 0;
    *first = begin;
    return pages;
}

struct span {
    uint64_t first, end;
};

/* Returns the pages of the units that a range lies in, as far as they belong to its zone. */
static struct span units_around(const ipcheap_heap *heap, uint64_t first, uint64_t count) {
    const struct geometry *g = &heap->geometry;
    int zone = first < g->zone_first[SYSTEM_ZONE] ? DATA_ZONE : SYSTEM_ZONE;
    uint64_t low = g->zone_first[zone], high = low + g->zone_pages[zone];
    uint64_t to_low = page_offset(heap, first) % heap->backing.unit >> PAGE_SHIFT;
    struct span span = {first - least(to_low, first - low), unit_from(heap, first + count)};
    span.end = least(span.end, high);
    return span;
}

/* `anew`: also those pages that have memory, as their bits say. */
static int give_memory(ipcheap_heap *heap, uint64_t first, uint64_t count, bool anew) {
    uint64_t missing = count - committed_pages(heap, first, count);
    if (LIKELY(missing == 0 && !anew)) return 0;
    if (missing > quick(heap) && !may_sleep()) return IPCHEAP_WOULD_SLEEP;
    struct span span = units_around(heap, first, count);
    for (uint64_t page = span.first, pages; page < span.end; page += pages) {
        pages = least(PIECE - page % PIECE, span.end - page);
        uint64_t have = committed_pages(heap, page, pages);
        if (have == pages && !anew) continue;
        if (!heap->sysv) {
            if (pages == PIECE && have <= PIECE / 2) ask_for_large(heap, page);
            int error = segment_commit(heap, page_offset(heap, page), pages << PAGE_SHIFT);
            if (error) return error;
        }
        change_bits(heap, page, pages, true);
    }
    return 0;
}

int commit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    return give_memory(heap, first, count, false);
}

int commit_pages_anew(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    return give_memory(heap, first, count, true);
}

uint64_t uncommit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    count = whole_units(heap, &first, count);
    if (count == 0) return 0;
    uint64_t had = change_bits(heap, first, count, false);
    uint64_t offset = page_offset(heap, first);
    int file = heap->sysv ? -1 : file_descriptor(heap);
    if (file < 0) /* System V, or a file that cannot be opened again: through the mapping */
        os_forget(at_offset(heap, offset), count << PAGE_SHIFT);
    else
        os_punch(file, offset, count << PAGE_SHIFT);
    return had;
}

void recount_committed(ipcheap_heap *heap) {
    uint64_t pages = heap->geometry.zone_pages[DATA_ZONE];
    put(&heap->header->committed, committed_pages(heap, 0, pages));
}
