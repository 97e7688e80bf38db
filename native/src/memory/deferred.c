#include "memory/deferred.h"

#include <stdlib.h>

#include "memory/extent.h"
#include "memory/participant_memory.h"

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
    struct deferred *d = &me->memory->deferred;
    d->pages[d->count++] = page;
}

/* Returns false if another try may succeed. CORRUPT is final: there is no such extent any more. */
static bool freed(struct participant *me, uint64_t page) {
    int error = extent_free(me, page);
    return error == 0 || error == IPCHEAP_CORRUPT;
}

bool deferred_extent_free(struct participant *me, uint64_t page) {
    bool now = freed(me, page);
    if (!now) deferred_add(me, page);
    return now;
}

void deferred_retry(struct participant *me) {
    bool go_on = me->memory != NULL;
    while (go_on && me->memory->deferred.count) {
        /* Off the list first: freeing may trim, and trimming may add to the list. */
        struct deferred *d = &me->memory->deferred;
        uint64_t page = d->pages[--d->count];
        go_on = freed(me, page);
        if (!go_on) deferred_add(me, page);
    }
}
