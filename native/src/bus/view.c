/* view.c - looking at a bus, making its memory, being inside. */

#include "bus/bus.h"

#include "channel/side.h"
#include "ipcheap/ipcheap.h"

static uint64_t root_bytes(uint32_t log) {
    return sizeof(struct bus_root) + (sizeof(shared64) << log);
}

bool bus_view(ipcheap_heap *heap, uint32_t index, struct bus *bus) {
    struct channel *channel = channel_at(heap, index);
    if (!channel || get(&channel->kind) != IPCHEAP_BUS) return false;
    uint64_t shape = get(&channel->shape);
    uint32_t log = shape_log(shape);
    if (log > BUS_CAPACITY_LOG || shape_history(shape) > UINT64_C(1) << log) return false;
    uint64_t memory = channel_part(heap, index, 0, root_bytes(log));
    if (!memory) return false;
    *bus = (struct bus){
        .heap = heap,
        .channel = channel,
        .root = at_offset(heap, memory),
        .index = index,
        .shift = log,
        .mask = (UINT64_C(1) << log) - 1,
        .history = shape_history(shape),
        .patience = shape_patience(shape),
    };
    return true;
}

int bus_view_made(struct participant *me, uint32_t index, struct bus *bus) {
    if (bus_view(me->heap, index, bus)) return 0;
    struct channel *channel = channel_at(me->heap, index);
    uint32_t log = shape_log(get(&channel->shape));
    if (log > BUS_CAPACITY_LOG || get(&channel->parts[0])) return IPCHEAP_CORRUPT;
    int error = channel_make_part(me, index, 0, root_bytes(log));
    if (error) return error;
    return bus_view(me->heap, index, bus) ? 0 : IPCHEAP_CORRUPT;
}

struct envelope *message_envelope(ipcheap_heap *heap, const struct message *m,
                                  struct place *place) {
    struct place found;
    if (!place) place = &found;
    if (!place_find(heap, m->block, place)) return NULL;
    uint64_t bytes = place_bytes(heap, place);
    if (bytes < sizeof(struct envelope)) return NULL;
    uint64_t at = m->apart ? m->block : m->block + bytes - sizeof(struct envelope);
    return at_offset(heap, at);
}

#ifdef __SANITIZE_THREAD__
__attribute__((no_sanitize("thread"))) /* it is nothing to it who writes there: see bus.h */
#endif
uint64_t payload_glance(const struct envelope *envelope) {
    return get(&envelope->payload);
}

int bus_enter(struct participant *me, const struct bus *bus, uint32_t incarnation) {
    bus_stay(me, bus);
    if (UNLIKELY(get(&bus->heap->header->fences))) full_fence();
    const struct channel *channel = bus->channel;
    uint32_t flags = get(&channel->flags);
    bool there = get(&channel->state) >> 62 == CHANNEL_LIVE &&
                 get(&channel->incarnation) == incarnation && !(flags & CHANNEL_GONE);
    if (LIKELY(there && !(flags & CHANNEL_POISONED))) return 0;
    bus_leave(me);
    return there ? IPCHEAP_CORRUPT : IPCHEAP_CHANNEL_NOT_FOUND;
}

bool bus_is_occupied(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    if (!os_membarrier() && !get(&heap->header->fences)) {
        put(&heap->header->fences, 1);
        return true; /* a later look will do, when all have seen that */
    }
    full_fence(); /* after the flag of the removed bus */
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = slot_at(heap, slot);
        uint64_t inside = get_acquire(&record->bus); /* pairs with bus_leave() */
        if ((uint32_t)inside == index + 1 && record != me->record) return true;
    }
    return false;
}
