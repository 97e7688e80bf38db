#include "memory/participant_memory.h"

#include <stdlib.h>

#include "memory/slab.h"

struct participant_memory *memory_of(struct participant *me) {
    if (UNLIKELY(!me->memory)) me->memory = os_allocate_zeroed(1, sizeof *me->memory);
    return me->memory;
}

void memory_leave(struct participant *me) {
    if (!me->memory) return;
    slabs_abandon(me);
    deferred_settle(me);
    if (!me->memory->slabs.granules && !me->memory->deferred.count) memory_forget(me);
}

void memory_forget(struct participant *me) {
    if (!me->memory) return;
    slabs_forget(me);
    free(me->memory->deferred.pages);
    free(me->memory);
    me->memory = NULL;
}
