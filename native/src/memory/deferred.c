#include "memory/deferred.h"

#include <stdlib.h>

#include "memory/extent.h"

int deferred_reserve(struct participant *me, size_t count) {
    if (LIKELY(me->deferred_room - me->deferred_count >= count)) return 0;
    size_t room = 2 * me->deferred_room + count;
    uint64_t *list = os_reallocate(me->deferred, room * sizeof *list);
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

bool deferred_extent_free(struct participant *me, uint64_t page) {
    bool now = freed(me, page);
    if (!now) deferred_add(me, page);
    return now;
}

void deferred_settle(struct participant *me) {
    bool go_on = true;
    while (go_on && me->deferred_count) {
        /* Off the list first: freeing one may trim, and what is trimmed be added. */
        uint64_t page = me->deferred[--me->deferred_count];
        go_on = freed(me, page);
        if (!go_on) deferred_add(me, page);
    }
}
