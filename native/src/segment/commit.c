#include "segment/commit.h"

#include "segment/lock.h"

#define PIECE LARGE_PAGE /* what one fallocate() takes */
#define QUICK 64         /* pages that may be committed where sleeping is not allowed */

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
    if (os_commit(heap->fd, offset, PAGE)) return;
    if (!os_make_large(at_offset(heap, offset))) heap->large_pages_from = now + SECOND;
}

int commit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    uint64_t missing = count - committed_pages(heap, first, count);
    if (LIKELY(missing == 0)) return 0;
    if (missing > QUICK && !may_sleep()) return IPCHEAP_WOULD_SLEEP;
    for (uint64_t page = first, pages; page < first + count; page += pages) {
        pages = least(PIECE - page % PIECE, first + count - page);
        uint64_t have = committed_pages(heap, page, pages);
        if (have == pages) continue;
        if (!heap->sysv) {
            if (pages == PIECE && have <= PIECE / 2) ask_for_large(heap, page);
            int error = os_commit(heap->fd, page_offset(heap, page), pages << PAGE_SHIFT);
            if (error) return error;
        }
        change_bits(heap, page, pages, true);
    }
    return 0;
}

int commit_pages_again(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    for (uint64_t done = 0; done < count && !heap->sysv; done += PIECE) {
        uint64_t bytes = least(PIECE, count - done) << PAGE_SHIFT;
        int error = os_commit(heap->fd, page_offset(heap, first + done), bytes);
        if (error) return error;
    }
    return 0;
}

uint64_t uncommit_pages(ipcheap_heap *heap, uint64_t first, uint64_t count) {
    uint64_t had = change_bits(heap, first, count, false);
    uint64_t offset = page_offset(heap, first);
    if (heap->sysv)
        os_forget(at_offset(heap, offset), count << PAGE_SHIFT);
    else
        os_punch(heap->fd, offset, count << PAGE_SHIFT);
    return had;
}

void recount_committed(ipcheap_heap *heap) {
    uint64_t pages = heap->geometry.zone_pages[DATA_ZONE];
    put(&heap->header->committed, committed_pages(heap, 0, pages));
}
