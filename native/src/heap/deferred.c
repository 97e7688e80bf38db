#include "heap/deferred.h"

#include <stdlib.h>

#include "heap/extent.h"

int deferred_reserve(struct participant *me, size_t count) {
    if (LIKELY(me->deferred_room - me->deferred_count >= count)) return 0;
    size_t room = 2 * me->deferred_room + count;
    uint64_t *list = realloc(me->deferred, room * sizeof *list);
    if (!list) return IPCHEAP_NO_MEMORY;
    me->deferred = list;
    me->deferred_room = room;
    return 0;
}

void deferred_add(struct participant *me, uint64_t page) {
    me->deferred[me->deferred_count++] = page;
}

/* CORRUPT is final: there is no such extent any more. */
static bool freed(struct participant *me, uint64_t page) {
    int error = extent_free(me, page);
    return error == 0 || error == IPCHEAP_CORRUPT;
}

void deferred_extent_free(struct participant *me, uint64_t page) {
    if (!freed(me, page)) deferred_add(me, page);
}

void deferred_settle(struct participant *me) {
    while (me->deferred_count && freed(me, me->deferred[me->deferred_count - 1]))
        me->deferred_count--;
}
