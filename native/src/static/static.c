/* static.c - named segments: created once, initialised once, mapped by every process. */

#include "static/static.h"

#include <string.h>

#include "channel/directory.h"
#include "memory/block.h"
#include "segment/lock.h"

/*
 * Returns 1 if the caller is to initialise the segment, 0 if that is done, and WOULD_BLOCK if a
 * living participant is doing so. Under the lock.
 */
static int take_initialisation(struct participant *me, const ipcheap_channel *handle, bool fresh) {
    struct channel *channel = channel_at(me->heap, handle->index);
    uint64_t bytes = handle->shape, memory = channel_part(me->heap, handle->index, 0, bytes);
    if (!memory) return IPCHEAP_CORRUPT;
    uint64_t ready = get(&channel->ready);
    if (ready == STATIC_READY) return 0;
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
    error = directory_add(me, key, IPCHEAP_STATIC_SEGMENT, nbytes, handle, &added);
    if (error == IPCHEAP_HEAP_FULL || error == IPCHEAP_MEMORY_FULL) {
        error = heap_reclaim(me, error == IPCHEAP_MEMORY_FULL);
        if (!error) error = directory_add(me, key, IPCHEAP_STATIC_SEGMENT, nbytes, handle, &added);
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

static uint64_t bytes_of(uint64_t shape) { return shape; }

/* Leaves the segment to its next adder to initialise, if the dead participant was doing so. */
static void static_recover(const struct recovery *r, uint32_t index, int pass) {
    struct channel *channel = channel_at(r->heap, index);
    if (pass != RECOVER_WRITERS || !owned_by_dead(r, get(&channel->ready))) return;
    put_release(&channel->ready, 0);
    directory_notify(r->heap);
}

const struct kind static_kind = {
    .zone = DATA_ZONE,
    .pages = KIND_STATIC,
    .made_with_channel = true,
    .bytes = bytes_of,
    .recover = static_recover,
};
