#include "memory/deferred.h"

#include <stdlib.h>

#include "memory/extent.h"
#include "memory/participant_memory.h"
#include "segment/lock.h"

int deferred_reserve(struct participant *me, size_t count) {
    struct participant_memory *memory = memory_of(me);
    if (!memory) return IPCHEAP_NO_MEMORY;
    struct deferred *d = &memory->deferred;
    if (LIKELY(d->room - d->count >= count)) return 0;
    size_t room = 2 * d->room + count;
    uint64_t *pages = os_reallocate(d->pages, room * sizeof *pages);
    if (!pages) return IPCHEAP_NO_MEMORY;
    d->pages = pages;
    d->room = room;
    return 0;
}

void deferred_add(struct participant *me, uint64_t page) {
    struct page *head = &me->heap->pages[page];
    put(&head->word, page_word(PAGE_USED, KIND_FREE_PENDING, word_length(get(&head->word))));
    put_release(&head->tag,
                TAG_FREE); /* from here on anybody's to free; pairs with is_deferred() */
    struct deferred *d = &me->memory->deferred;
    d->pages[d->count++] = page;
}

static bool is_deferred(ipcheap_heap *heap, uint64_t page) {
    uint64_t word = get(&heap->pages[page].word);
    return word_state(word) == PAGE_USED && word_kind(word) == KIND_FREE_PENDING &&
           get_acquire(&heap->pages[page].tag) == TAG_FREE; /* pairs with deferred_add() */
}

bool deferred_extent_free(struct participant *me, uint64_t page) {
    int error = extent_free(me, page);
    /* CORRUPT is final: there is no such extent any more. */
    if (error == 0 || error == IPCHEAP_CORRUPT) return true;
    deferred_add(me, page);
    return false;
}

void deferred_retry(struct participant *me) {
    struct deferred *d = me->memory ? &me->memory->deferred : NULL;
    if (LIKELY(!d || !d->count) || heap_lock(me)) return;
    while (d->count) {
        uint64_t page = d->pages[--d->count];
        /* Otherwise another participant has freed it, and it may be in use again. */
        if (is_deferred(me->heap, page)) extent_free(me, page);
    }
    heap_unlock(me);
}

void deferred_free_all(struct participant *me) {
    uint64_t found[64];
    size_t count;
    do {
        count = 0;
        for (int zone = 0; zone < ZONES; zone++) {
            struct extent_walk walk = extent_walk_of(me->heap, zone);
            while (count < sizeof found / sizeof *found && extent_step(me->heap, &walk))
                if (is_deferred(me->heap, walk.first)) found[count++] = walk.first;
        }
        for (size_t i = 0; i < count; i++)
            if (extent_free(me, found[i])) return;
    } while (count == sizeof found / sizeof *found);
}
