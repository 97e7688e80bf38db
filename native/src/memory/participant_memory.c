#include "memory/participant_memory.h"

#include <stdlib.h>

#include "memory/slab.h"

struct participant_memory *memory_of(struct participant *me) {
    if (LIKELY(me->memory != NULL)) return me->memory;
    struct participant_memory *memory = os_allocate_zeroed(1, sizeof *memory);
    if (!memory) return NULL;
    rotation_begin(&memory->rotation);
    for (int order = 0; order < 2; order++) copies_begin(&memory->copies[order]);
    me->memory = memory;
    memory_show_ways(me);
    return memory;
}

void memory_show_ways(struct participant *me) {
    const struct participant_memory *memory = me->memory;
    uint32_t order = trial_usual(&memory->rotation.trial);
    uint32_t ways = memory->copies[order].past | (order == IN_TURN ? WAYS_IN_TURN : 0);
    if (UNLIKELY(get(&me->record->ways) != ways)) put(&me->record->ways, ways);
}

void memory_copy_long(struct participant *me, void *to, const void *from, size_t nbytes) {
    struct participant_memory *memory = memory_of(me);
    if (UNLIKELY(!memory)) {
        memcpy(to, from, nbytes);
        return;
    }
    copy_long(&memory->copies[memory->rotation.trial.way], to, from, nbytes);
    memory_show_ways(me);
}

void ipcheap_copy(ipcheap_heap *heap, void *to, const void *from, size_t nbytes) {
    struct participant *me = NULL;
    if (nbytes >= SHORT_COPY && !heap->closed) me = participant_here(heap);
    if (me)
        memory_copy_long(me, to, from, nbytes);
    else if (nbytes)
        memcpy(to, from, nbytes);
}

void memory_leave(struct participant *me) {
    if (!me->memory) return;
    slabs_abandon(me);
    deferred_retry(me);
    if (!me->memory->slabs.granules) memory_forget(me); /* anybody frees what is still deferred */
}

void memory_forget(struct participant *me) {
    if (!me->memory) return;
    slabs_forget(me);
    free(me->memory->deferred.pages);
    free(me->memory);
    me->memory = NULL;
}
