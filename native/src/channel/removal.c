#include "channel/removal.h"

#include "channel/directory.h"
#include "channel/side.h"
#include "channel/users.h"
#include "channel/wake.h"
#include "memory/trim.h"
#include "segment/lock.h"

void channel_drop_if_done(struct participant *me, uint32_t index) {
    struct channel *channel = channel_at(me->heap, index);
    if (!channel || get(&channel->state) >> 62 != CHANNEL_REMOVED) return;
    for (int side = 0; side < 2; side++)
        if (side_state(get(&channel->seats[side].holder)) == SIDE_OPEN) return;
    if (users_any(me->heap, index)) return;
    const struct kind *kind = kind_of(me->heap, channel);
    if (kind && kind->lingers && kind->lingers(me, index)) return;
    if (kind && kind->drain) kind->drain(me, index);
    directory_drop(me, index);
}

void channel_end(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    if (!channel || get(&channel->state) >> 62 != CHANNEL_REMOVED) return;
    const struct kind *kind = kind_of(heap, channel);
    put_or(&channel->flags, CHANNEL_GONE);
    full_fence(); /* pairs with sleeper_fence() */
    unpark(heap, &channel->seats[0], NULL);
    unpark(heap, &channel->seats[1], NULL);
    if (kind && kind->wake_all) kind->wake_all(heap, index);
    if (kind && kind->withdraw) kind->withdraw(me, index);
    channel_drop_if_done(me, index);
}

/* Removes a channel, whether or not a side is open. Under the lock. */
static void remove_channel(struct participant *me, uint32_t index) {
    directory_remove(me, index);
    channel_end(me, index);
}

int ipcheap_remove_channel(ipcheap_heap *heap, const ipcheap_key *key, int force) {
    struct participant *me;
    int error = heap->closed ? IPCHEAP_HEAP_CLOSED : participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    ipcheap_channel handle;
    struct channel *channel;
    error = ipcheap_find_channel(heap, key, &handle);
    if (!error) error = channel_of(heap, &handle, &channel);
    if (!error) {
        const struct kind *kind = kind_of(heap, channel);
        bool taken = side_taken(me, channel, 0) | side_taken(me, channel, 1);
        if (kind && kind->occupied) taken |= kind->occupied(me, handle.index);
        if ((taken || users_elsewhere(heap, handle.index)) && !force)
            error = IPCHEAP_CHANNEL_BUSY;
        else
            remove_channel(me, handle.index);
    }
    heap_unlock(me);
    extents_trim_if_due(me);
    return error;
}
