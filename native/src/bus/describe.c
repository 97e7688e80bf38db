/* describe.c - what a bus and its listeners are doing. */

#include "bus/reclaim.h"
#include "segment/lock.h"

static int view_of(ipcheap_heap *heap, const ipcheap_channel *handle, struct bus *bus) {
    struct channel *channel;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    if (handle->kind != IPCHEAP_BUS) return IPCHEAP_CHANNEL_TYPE;
    if (bus_view(heap, handle->index, bus)) return 0;
    if (!get(&channel->parts[0])) return IPCHEAP_WOULD_BLOCK; /* not used yet */
    /* It may have been made just now. */
    return bus_view(heap, handle->index, bus) ? 0 : IPCHEAP_CORRUPT;
}

int ipcheap_bus_describe(ipcheap_heap *heap, const ipcheap_channel *handle,
                         ipcheap_bus_statistics *s) {
    struct bus bus;
    struct participant *me;
    struct listener_walk walk = {0};
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = view_of(heap, handle, &bus);
    *s = (ipcheap_bus_statistics){
        .capacity = UINT64_C(1) << (shape_log(handle->shape) & 31),
        .history = shape_history(handle->shape),
    };
    if (error) return error == IPCHEAP_WOULD_BLOCK ? 0 : error;
    error = bus_enter(me, &bus, handle->incarnation);
    if (error) return error;
    uint64_t end = bus_end(&bus), from = end;
    while (listener_step(&bus, &walk)) {
        if (!listener_is_open(walk.listener)) continue;
        from = least(from, get_acquire(&walk.listener->side.position)); /* with move_past() */
        s->listeners++;
    }
    from = greatest(from, get(&bus.root->floor));
    s->posted = end;
    s->waiting = end > from ? end - from : 0;
    s->passed = get(&bus.root->passes);
    bus_leave(me);
    return 0;
}

static void listener_fill(struct bus *bus, uint32_t number, struct bus_listener *l,
                          ipcheap_listener_info *info) {
    uint64_t holder = get_acquire(&l->seat.holder);   /* pairs with listener_take() */
    uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() and skip_lost() */
    uint64_t floor = get(&bus->root->floor), joined = get(&l->side.bus.joined);
    uint64_t end = bus_end(bus), position = greatest(cursor, floor),
             from = greatest(cursor, joined);
    bool closed = get(&l->flags) & LISTENER_CLOSED;
    struct held_walk walk = held_walk_of(l);
    *info = (ipcheap_listener_info){
        .joined = joined,
        .pending = !closed && end > position ? end - position : 0,
        .lost = get(&l->side.bus.lost) + (floor > from ? floor - from : 0), /* not noticed yet */
        .lossy = listener_is_lossy(bus, l),
        .closed = closed,
        .state = get(&l->seat.parked),
    };
    while (held_step(bus, number, l, &walk)) info->held += hold_uses(walk.hold);
    participant_describe(bus->heap, tag_slot(holder), &info->holder);
    info->holder.alive = listener_is_alive(bus, l);
}

int ipcheap_next_listener(ipcheap_heap *heap, const ipcheap_channel *handle, uint32_t *cursor,
                          ipcheap_listener_info *info) {
    struct bus bus;
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    error = view_of(heap, handle, &bus);
    struct listener_walk walk = {.next = *cursor};
    bool found = !error && listener_step(&bus, &walk);
    if (found) listener_fill(&bus, walk.number, walk.listener, info);
    *cursor = walk.next;
    heap_unlock(me);
    return error && error != IPCHEAP_WOULD_BLOCK ? error : found;
}
