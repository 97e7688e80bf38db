/* check.c - every invariant of the segment, in sentences. */

#include "observe/check.h"

#include <stdarg.h>
#include <stdio.h>

#include "segment/lock.h"

void fault(struct check *c, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    c->faults++;
    if (c->say) c->say(c->context, text);
}

bool may_hold(ipcheap_heap *heap, uint64_t holder) {
    const struct participant_slot *record = participant_record(heap, holder);
    return record && get(&record->word) == slot_word(tag_generation(holder), SLOT_LIVE);
}

bool may_own(ipcheap_heap *heap, uint64_t tag) {
    const struct participant_slot *record = participant_record(heap, tag);
    if (!record) return false;
    uint64_t word = get_acquire(&record->word); /* pairs with slot_fill() */
    uint32_t generation = tag_generation(tag), latest = (uint32_t)(word >> 8);
    return word == slot_word(latest, SLOT_LIVE) && (int32_t)(generation - latest) <= 0 &&
           (int32_t)(generation - get(&record->first)) >= 0;
}

bool run_is(ipcheap_heap *heap, uint64_t offset, enum page_kind kind, uint64_t tag,
            uint64_t bytes) {
    const struct geometry *g = &heap->geometry;
    uint64_t page = (offset - g->data_at) >> PAGE_SHIFT;
    if (offset < g->data_at || offset % PAGE || page >= g->total_pages) return false;
    if (!segment_meta_committed(heap, &heap->pages[page], sizeof(struct page))) return false;
    uint64_t word = get(&heap->pages[page].word);
    return word_state(word) == PAGE_USED && word_kind(word) == kind &&
           word_length(word) == round_up(bytes, PAGE) >> PAGE_SHIFT &&
           get(&heap->pages[page].tag) == tag;
}

/* Checks that the header still agrees with what this process found when it attached. */
static void check_header(struct check *c) {
    const struct header *header = c->heap->header;
    if (get(&header->magic) != MAGIC || get(&header->format) != FORMAT ||
        get(&header->layout) != layout_hash() ||
        get(&header->capacity) != c->heap->geometry.capacity)
        fault(c, "the header is not what it was");
}

int ipcheap_check(ipcheap_heap *heap, void (*say)(void *context, const char *text), void *context) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    struct check c = {heap, say, context, 0};
    check_header(&c);
    check_memory(&c);
    check_channels(&c);
    heap_unlock(me);
    return c.faults;
}
