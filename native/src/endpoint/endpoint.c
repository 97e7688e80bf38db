#include "endpoint/endpoint.h"

#include <stdlib.h>

#include "base/timing.h"
#include "channel/removal.h"
#include "channel/side.h"
#include "endpoint/bell.h"
#include "endpoint/patience.h"
#include "segment/lock.h"

/* Claiming --------------------------------------------------------------------------------- */

/* Under the lock: gives the endpoint its side, or says why not: CHANNEL_BUSY, CORRUPT, no memory. */
static int claim(ipcheap_endpoint *e, uint64_t shape) {
    struct channel *channel = e->channel;
    int found = e->kind->find_seat ? e->kind->find_seat(e) : 0;
    if (found < 0) return found;
    if (!found && side_taken(e->me, channel, e->side)) return IPCHEAP_CHANNEL_BUSY;
    if (get(&channel->shape) != shape || get(&channel->flags) & CHANNEL_POISONED)
        return IPCHEAP_CORRUPT;
    int error = 0;
    if (get(&channel->parts[0]) == 0) error = e->kind->make(e->me, e->index, shape, NULL);
    if (!error) error = e->kind->take_side(e);
    if (error) return error;
    e->found = side_state(get(&e->seat->holder));
    e->ends_as = SIDE_CLOSED;
    put(&e->seat->parked, AWAKE);
    put_release(&e->seat->holder, e->me->tag); /* commit: SIDE_OPEN is TAG_OWN */
    full_fence();                              /* pairs with sleeper_fence(): for wait_peer */
    /* The holder before may have taken the other's word, and been killed before it rang. */
    if (!unpark(e->heap, e->peer, NULL)) bell_ring(e->heap, e->peer, NULL);
    if (e->kind->wake_all && e->side == IPCHEAP_WRITER) e->kind->wake_all(e->heap, e->index);
    directory_notify(e->heap);
    return 0;
}

/* Under the lock: makes it an endpoint of that channel, and claims its side. */
static int claim_in(ipcheap_endpoint *e, const ipcheap_channel *handle) {
    int error = channel_of(e->heap, handle, &e->channel);
    if (error) return error;
    if (get(&e->channel->kind) != handle->kind) return IPCHEAP_CORRUPT;
    e->seat = &e->channel->seats[e->side];
    e->peer = &e->channel->seats[!e->side];
    e->own = &e->channel->sides[e->side];
    return claim(e, handle->shape);
}

int ipcheap_claim(ipcheap_heap *heap, const ipcheap_channel *handle, int side,
                  ipcheap_endpoint **result) {
    return endpoint_claim(heap, handle, side, NULL, result);
}

int endpoint_claim(ipcheap_heap *heap, const ipcheap_channel *handle, int side, const void *wanted,
                   ipcheap_endpoint **result) {
    struct participant *me;
    struct channel *channel;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error && side != IPCHEAP_PRODUCER && side != IPCHEAP_CONSUMER) error = IPCHEAP_BAD_VALUE;
    if (!error) error = channel_of(heap, handle, &channel);
    if (error) return error;
    const struct kind *kind = kind_numbered(heap, handle->kind);
    if (!kind || !kind->endpoint_bytes) return IPCHEAP_CHANNEL_TYPE;
    ipcheap_endpoint *e = os_allocate_zeroed(1, kind->endpoint_bytes);
    if (!e) return IPCHEAP_NO_MEMORY;
    e->heap = heap;
    e->me = me;
    e->kind = kind;
    e->index = handle->index;
    e->side = side;
    e->role = role_of(handle->kind, side);
    patience_begin(&e->patience);
    if (kind->configure) error = kind->configure(e, wanted);
    if (!error) error = heap_lock(me);
    if (!error) {
        error = claim_in(e, handle);
        heap_unlock(me);
    }
    if (error) {
        if (kind->release) kind->release(e);
        free(e);
        return error;
    }
    pthread_mutex_lock(&heap->mutex);
    e->next = me->endpoints;
    me->endpoints = e;
    pthread_mutex_unlock(&heap->mutex);
    if (heap->closed) { /* meanwhile; the thread that closed it may not have seen this one */
        ipcheap_endpoint_release(e);
        return IPCHEAP_HEAP_CLOSED;
    }
    *result = e;
    return 0;
}

/* Closing ---------------------------------------------------------------------------------- */

static void unlink_endpoint(ipcheap_endpoint *e) {
    pthread_mutex_lock(&e->heap->mutex);
    struct ipcheap_endpoint **link = &e->me->endpoints;
    while (*link && *link != e) link = &(*link)->next;
    if (*link) *link = e->next;
    pthread_mutex_unlock(&e->heap->mutex);
}

/*
 * Frees what the writing side leaves, and the channel if it was removed and this was the last side.
 * Without the lock garbage waits for the next writer, or for recovery.
 */
static int end_side(ipcheap_endpoint *e, struct participant *me) {
    bool collects = e->side == IPCHEAP_PRODUCER && e->kind->collect;
    bool lock = collects || get(&e->channel->flags) & CHANNEL_GONE;
    int error = lock ? heap_lock(me) : 0;
    if (error && error != IPCHEAP_WOULD_SLEEP && error != IPCHEAP_HEAP_BUSY) return error;
    if (e->seat == &e->channel->seats[e->side])
        side_end(e->heap, e->channel, e->side, e->ends_as);
    else
        e->kind->leave_seat(e);
    if (error) return 0;
    /* Removed meanwhile, by a process that saw us open and left the rest to us? */
    if (!lock && get(&e->channel->flags) & CHANNEL_GONE) lock = heap_lock(me) == 0;
    if (!lock) return 0;
    if (collects) e->kind->collect(me, e->index);
    channel_drop_if_done(me, e->index);
    heap_unlock(me);
    return 0;
}

/* `me` is the caller: its own thread, one that drops it, or one that closes the heap. */
static int close_side(ipcheap_endpoint *e, struct participant *me) {
    pthread_mutex_lock(&e->heap->mutex); /* another thread may be freeing what we hold */
    e->kind->keep_held(e, me);
    e->closed = true;
    pthread_mutex_unlock(&e->heap->mutex);
    bell_remove(e);
    bell_close(e);
    return end_side(e, me);
}

static int finish_closing(ipcheap_endpoint *e, struct participant *me) {
    int error = close_side(e, me);
    unlink_endpoint(e);
    atomic_fetch_sub(&e->heap->closing, 1);
    atomic_fetch_or(&e->use, ENDPOINT_CLOSED); /* our last look at it: it may be freed now */
    return error;
}

static int closed_error(const ipcheap_endpoint *e) {
    return e->heap->closed ? IPCHEAP_HEAP_CLOSED : IPCHEAP_ENDPOINT_CLOSED;
}

int ipcheap_endpoint_enter(ipcheap_endpoint *e) {
    int out = 0, error = endpoint_check(e);
    if (error) return error;
    if (e->heap->closed) return IPCHEAP_HEAP_CLOSED;
    if (!e->depth && !atomic_compare_exchange_strong(&e->use, &out, ENDPOINT_INSIDE))
        return closed_error(e);
    e->depth++;
    return 0;
}

int ipcheap_endpoint_leave(ipcheap_endpoint *e) {
    if (--e->depth) return 0;
    /* Read first: once this thread is outside, a thread that closes the heap may close the endpoint. */
    int error = e->heap->closed ? IPCHEAP_HEAP_CLOSED : 0;
    if (!(atomic_fetch_and(&e->use, ~ENDPOINT_INSIDE) & ENDPOINT_CLOSING)) return error;
    error = closed_error(e);
    finish_closing(e, e->me);
    return error;
}

/* Makes the caller the one that closes it; false if another thread does. */
static bool start_closing(ipcheap_endpoint *e) {
    atomic_fetch_add(&e->heap->closing, 1); /* before anybody can have closed it */
    int use = atomic_fetch_or(&e->use, ENDPOINT_CLOSING);
    if (use & ENDPOINT_CLOSING) {
        atomic_fetch_sub(&e->heap->closing, 1);
        return false;
    }
    if (!(use & ENDPOINT_INSIDE)) return true;
    unpark(e->heap, e->seat, NULL); /* it looks at `use` again: pairs with park() */
    if (e->kind->rouse) e->kind->rouse(e);
    return false;
}

static int close_endpoint(ipcheap_endpoint *e, struct participant *me) {
    if (e->me->abandoned) {
        e->closed = true;
        e->use = ENDPOINT_CLOSING | ENDPOINT_CLOSED;
        return 0;
    }
    return start_closing(e) ? finish_closing(e, me) : 0;
}

int ipcheap_endpoint_close(ipcheap_endpoint *e) {
    struct participant *me = e->me;
    if (endpoint_is_closing(e)) return 0;
    if (me->abandoned || me->thread == thread_marker()) return close_endpoint(e, me);
    int error = participant_current(e->heap, &me);
    return error ? error : close_endpoint(e, me);
}

/* Under the list's mutex, so that it is not freed meanwhile: one that the caller closes. */
static ipcheap_endpoint *next_to_close(struct participant *owner) {
    pthread_mutex_lock(&owner->heap->mutex);
    ipcheap_endpoint *e = owner->endpoints;
    while (e && !start_closing(e)) e = e->next;
    pthread_mutex_unlock(&owner->heap->mutex);
    return e;
}

void endpoints_close(struct participant *owner, struct participant *me) {
    ipcheap_endpoint *e;
    while ((e = next_to_close(owner))) finish_closing(e, me);
}

int ipcheap_wait_closed(ipcheap_heap *heap, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    while (heap->closing) {
        if (!os_remaining(deadline)) return IPCHEAP_TIMED_OUT;
        os_nap(CLOSING_NAP);
    }
    return 0;
}

void ipcheap_endpoint_release(ipcheap_endpoint *e) {
    int error = ipcheap_endpoint_close(e);
    if (error && !endpoint_is_closing(e))
        unlink_endpoint(e);
    else
        while (!(e->use & ENDPOINT_CLOSED)) os_nap(CLOSING_NAP); /* by another thread */
    bell_close(e);
    if (e->kind->outlives && e->kind->outlives(e)) return;
    if (e->kind->release) e->kind->release(e);
    free(e);
}
