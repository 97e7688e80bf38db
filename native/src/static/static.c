/* static.c - named segments: created once, initialised once, mapped by every process. */

#include "static/static.h"

#include <string.h>

#include "channel/directory.h"
#include "channel/hold.h"
#include "memory/block.h"
#include "segment/lock.h"

/*
 * Returns 1 if the caller is to initialise the segment, 0 if that is done, WOULD_BLOCK if another
 * living participant is doing so, and CHANNEL_BUSY if the caller itself is. Under the lock.
 */
static int take_initialisation(struct participant *me, const ipcheap_channel *handle, bool fresh) {
    struct channel *channel = channel_at(me->heap, handle->index);
    uint64_t bytes = handle->shape, memory = channel_part(me->heap, handle->index, 0, bytes);
    if (!memory) return IPCHEAP_CORRUPT;
    uint64_t ready = get(&channel->ready);
    if (ready == STATIC_READY) return 0;
    if (ready == me->tag) return IPCHEAP_CHANNEL_BUSY;
    if (tag_kind(ready) == TAG_OWN) { /* the initialiser, in the form of a holder: SIDE_OPEN */
        bool never = recover_if_dead(me, ready) == IPCHEAP_CORRUPT;
        if (!never && get(&channel->ready) != 0) return IPCHEAP_WOULD_BLOCK;
    }
    put(&channel->ready, me->tag);
    /* Nothing is left of what a dead or failed initialiser had written. */
    if (!fresh) memset(at_offset(me->heap, memory), 0, bytes);
    return 1;
}

int ipcheap_add_static_segment(ipcheap_heap *heap, const ipcheap_key *key, uint64_t nbytes,
                               ipcheap_channel *handle) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    bool added;
    error = directory_add(me, key, IPCHEAP_STATIC_SEGMENT, nbytes, NULL, handle, &added);
    if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL) {
        error = heap_reclaim(me, error == IPCHEAP_MEMORY_FULL);
        if (!error)
            error = directory_add(me, key, IPCHEAP_STATIC_SEGMENT, nbytes, NULL, handle, &added);
    }
    if (!error) error = take_initialisation(me, handle, added);
    heap_unlock(me);
    return error;
}

int ipcheap_static_ready(ipcheap_heap *heap, const ipcheap_channel *handle, int succeeded) {
    struct participant *me;
    struct channel *channel;
    int error = participant_current(heap, &me);
    if (!error) error = channel_of(heap, handle, &channel);
    if (error) return error;
    if (get(&channel->ready) != me->tag) return IPCHEAP_WRONG_THREAD;
    /* Release: pairs with ipcheap_static_data(). Publishes what the initialiser wrote. */
    put_release(&channel->ready, succeeded ? STATIC_READY : 0);
    directory_notify(heap);
    return 0;
}

void *ipcheap_static_data(ipcheap_heap *heap, const ipcheap_channel *handle) {
    struct channel *channel;
    if (channel_of(heap, handle, &channel)) return NULL;
    if (get(&channel->kind) != IPCHEAP_STATIC_SEGMENT) return NULL;
    if (get_acquire(&channel->ready) != STATIC_READY) { /* pairs with ipcheap_static_ready() */
        struct participant *me; /* the initialiser itself may use it before it is ready */
        if (participant_current(heap, &me) || get(&channel->ready) != me->tag) return NULL;
    }
    uint64_t offset = channel_part(heap, handle->index, 0, handle->shape);
    return offset ? at_offset(heap, offset) : NULL;
}

int ipcheap_static_hold(ipcheap_heap *heap, const ipcheap_channel *handle, void **data) {
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = ipcheap_static_data(heap, handle) ? 0 : IPCHEAP_CHANNEL_NOT_FOUND;
    if (!error) error = hold_take(heap, handle);
    if (error) return error;
    uint64_t offset = channel_part(heap, handle->index, 0, handle->shape);
    if (offset) {
        *data = at_offset(heap, offset);
        return 0;
    }
    hold_release(heap, handle);
    return IPCHEAP_CORRUPT;
}

int ipcheap_static_release(ipcheap_heap *heap, const ipcheap_channel *handle) {
    hold_release(heap, handle);
    return 0;
}

int ipcheap_static_removed(ipcheap_heap *heap, const ipcheap_channel *handle) {
    struct channel *channel;
    return channel_of(heap, handle, &channel) != 0;
}

int ipcheap_static_initialiser(ipcheap_heap *heap, const ipcheap_channel *handle,
                               ipcheap_holder *holder) {
    struct channel *channel;
    if (channel_of(heap, handle, &channel)) return 0;
    uint64_t ready = get(&channel->ready);
    if (tag_kind(ready) != TAG_OWN) return 0;
    participant_describe(heap, tag_slot(ready), holder);
    return 1;
}

static int make(struct participant *me, uint32_t index, uint64_t nbytes, const void *details) {
    (void)details;
    return channel_make_part(me, index, 0, nbytes);
}

/* Leaves the segment to its next adder to initialise, if the dead participant was doing so. */
static void static_recover(const struct recovery *r, uint32_t index, int pass) {
    struct channel *channel = channel_at(r->heap, index);
    uint64_t ready = get(&channel->ready);
    if (pass != RECOVER_WRITERS || tag_kind(ready) != TAG_OWN || !names_dead(r, ready)) return;
    put_release(&channel->ready, 0);
    directory_notify(r->heap);
}

const struct kind static_kind = {
    .zone = DATA_ZONE,
    .pages = KIND_STATIC,
    .made_with_channel = true,
    .has_users = true,
    .make = make,
    .recover = static_recover,
};
