#include "endpoint/endpoint.h"

#include <stdlib.h>

#include "endpoint/bell.h"
#include "endpoint/park.h"
#include "memory/trim.h"
#include "record/ring.h"
#include "segment/lock.h"

#define FEW_SPINS 100 /* a microsecond or two */

/* Adding and removing channels ------------------------------------------------------------ */

static int enter_heap(ipcheap_heap *heap, struct participant **me) {
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    return participant_current(heap, me);
}

int ipcheap_add_record_channel(ipcheap_heap *heap, const ipcheap_key *key, uint64_t capacity,
                               ipcheap_channel *handle) {
    struct participant *me;
    int error = enter_heap(heap, &me);
    if (error) return error;
    if (capacity > MOST_SLOTS) return IPCHEAP_BAD_VALUE;
    uint64_t slots = 1;
    while (slots < capacity) slots *= 2;
    error = heap_lock(me);
    if (error) return error;
    bool added;
    error = directory_add(me, key, IPCHEAP_RECORD_CHANNEL, capacity ? slots : 0, handle, &added);
    heap_unlock(me);
    return error;
}

/* Under the lock: is a side held by someone alive? Recovers him if he is dead. */
static bool side_taken(struct participant *me, struct channel *channel, int side) {
    uint64_t holder = get_acquire(&channel->seats[side].holder);
    /* One who never was cannot be recovered, nor will he ever close. */
    if (recover_if_dead(me, holder) == IPCHEAP_CORRUPT)
        side_end(me->heap, channel, side, SIDE_DIED);
    return side_state(get(&channel->seats[side].holder)) == SIDE_OPEN;
}

/*
 * Under the lock, after CHANNEL_GONE: frees what the consumer has not received. He stores his
 * position and then looks at the flag, so after a membarrier either the position has gone
 * beyond a record or he does not take it. The producer must be outside. Where that cannot
 * be known, what is pending is freed when the last side closes.
 */
static void drain_pending(struct participant *me, uint32_t index) {
    ipcheap_heap *heap = me->heap;
    struct channel *channel = channel_at(heap, index);
    if (get(&heap->header->fences)) return;
    if (!os_membarrier()) return;
    uint64_t holder = get_acquire(&channel->seats[IPCHEAP_PRODUCER].holder);
    bool other = side_state(holder) == SIDE_OPEN && holder != me->tag;
    if (other && !participant_settled(heap, tag_slot(holder))) return;
    ring_drain(me, index, get_acquire(&channel->sides[IPCHEAP_CONSUMER].position));
}

int ipcheap_remove_channel(ipcheap_heap *heap, const ipcheap_key *key, int force) {
    struct participant *me;
    int error = enter_heap(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    ipcheap_channel handle;
    struct channel *channel;
    error = ipcheap_find_channel(heap, key, &handle);
    if (!error) error = channel_of(heap, &handle, &channel);
    if (!error) {
        bool taken = side_taken(me, channel, 0) | side_taken(me, channel, 1);
        if (taken && !force) {
            error = IPCHEAP_CHANNEL_BUSY;
        } else {
            directory_remove(me, handle.index);
            put_or(&channel->flags, CHANNEL_GONE);
            full_fence(); /* pairs with park() */
            unpark(heap, channel, 0, NULL);
            unpark(heap, channel, 1, NULL);
            drain_pending(me, handle.index);
            channel_drop_if_done(me, handle.index);
        }
    }
    heap_unlock(me);
    extents_settle(me);
    return error;
}

/* Claiming --------------------------------------------------------------------------------- */

static void take_position(ipcheap_endpoint *e) {
    uint64_t sent = ring_sent(e->heap, e->index);
    if (e->side == IPCHEAP_PRODUCER) {
        e->position = sent;
        ring_collect(e->me, e->index);
    } else {
        e->position = ring_oldest(e->heap, e->index, sent);
        e->doubtful = sent;
    }
    put(&e->channel->sides[e->side].position, e->position);
}

/* Under the lock. */
static int claim(ipcheap_endpoint *e, uint64_t slots) {
    struct channel *channel = e->channel;
    if (side_taken(e->me, channel, e->side)) return IPCHEAP_CHANNEL_BUSY;
    if (get(&channel->shape) != slots || get(&channel->flags) & CHANNEL_POISONED)
        return IPCHEAP_CORRUPT;
    if (get(&channel->parts[0]) == 0) {
        int error = channel_make_memory(e->me, e->index, slots * sizeof(struct ring_slot));
        if (error) return error;
    }
    struct ring ring;
    if (!ring_of(e->heap, e->index, &ring)) return IPCHEAP_CORRUPT;
    if (!ring_valid(&ring, ring_sent(e->heap, e->index))) return IPCHEAP_CORRUPT;
    e->slots = ring.slots;
    e->mask = ring.count - 1;
    e->shift = ring.shift;
    take_position(e);
    put(&channel->seats[e->side].parked, AWAKE);
    if (e->side == IPCHEAP_PRODUCER)
        put_and(&channel->flags, ~(uint32_t)(CHANNEL_DESERTED | CHANNEL_REVOKED));
    put_release(&channel->seats[e->side].holder, e->me->tag); /* commit: SIDE_OPEN is TAG_OWN */
    full_fence(); /* pairs with park(): for wait_peer */
    /* Who was here before us may have taken the other's word, and been killed before he rang. */
    if (!unpark(e->heap, channel, !e->side, NULL)) bell_ring(e->heap, channel, !e->side, NULL);
    directory_notify(e->heap);
    return 0;
}

int ipcheap_claim(ipcheap_heap *heap, const ipcheap_channel *handle, int side,
                  ipcheap_endpoint **result) {
    struct participant *me;
    int error = enter_heap(heap, &me);
    if (error) return error;
    if (side != IPCHEAP_PRODUCER && side != IPCHEAP_CONSUMER) return IPCHEAP_BAD_VALUE;
    ipcheap_endpoint *e = os_allocate_zeroed(1, sizeof *e);
    if (!e) return IPCHEAP_NO_MEMORY;
    error = heap_lock(me);
    if (error) {
        free(e);
        return error;
    }
    e->heap = heap;
    e->me = me;
    e->index = handle->index;
    e->side = side;
    error = channel_of(heap, handle, &e->channel);
    if (!error && get(&e->channel->kind) != IPCHEAP_RECORD_CHANNEL) error = IPCHEAP_CHANNEL_TYPE;
    if (!error) error = claim(e, handle->shape);
    heap_unlock(me);
    if (error) {
        free(e);
        return error;
    }
    pthread_mutex_lock(&heap->mutex);
    e->next = me->endpoints;
    me->endpoints = e;
    pthread_mutex_unlock(&heap->mutex);
    if (heap->closed) { /* meanwhile; who closed it may not have seen this one */
        ipcheap_endpoint_release(e);
        return IPCHEAP_HEAP_CLOSED;
    }
    *result = e;
    return 0;
}

int ipcheap_side_holder(ipcheap_heap *heap, const ipcheap_channel *handle, int side,
                        ipcheap_holder *holder) {
    struct channel *channel;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    uint64_t word = get_acquire(&channel->seats[side].holder);
    if (side_state(word) != SIDE_OPEN) return 0;
    participant_describe(heap, tag_slot(word), holder);
    return 1;
}

/* Closing ---------------------------------------------------------------------------------- */

/* What a closing consumer holds becomes its participant's own and is not delivered again. */
static void keep_held(ipcheap_endpoint *e, struct participant *me) {
    uint64_t first = e->position > e->mask ? e->position - e->mask - 1 : 0;
    for (uint64_t p = first; p < e->position; p++) {
        struct ring_slot *slot = slot_of(e, p);
        uint64_t word = get_acquire(&slot->word);
        struct place place;
        if (!slot_is_readable(e, p, word) || !place_find(e->heap, ring_offset(word), &place) ||
            !place_is(&place, my_sent_tag(e, p)))
            continue;
        put(place.tag, my_tag(e->me));
        put_release(&slot->word, ring_word(lap_of(e, p) + 1, SLOT_EMPTY, 0));
        participant_holds(me, e->me, 1);
    }
}

static void unlink_endpoint(ipcheap_endpoint *e) {
    pthread_mutex_lock(&e->heap->mutex);
    struct ipcheap_endpoint **link = &e->me->endpoints;
    while (*link && *link != e) link = &(*link)->next;
    if (*link) *link = e->next;
    pthread_mutex_unlock(&e->heap->mutex);
}

/* `me` is the caller: its own thread, one that drops it, or one that closes the heap. */
static int close_side(ipcheap_endpoint *e, struct participant *me) {
    struct channel *channel = e->channel;
    pthread_mutex_lock(&e->heap->mutex); /* another thread may be freeing what we hold */
    if (e->side == IPCHEAP_CONSUMER) keep_held(e, me);
    e->closed = true;
    pthread_mutex_unlock(&e->heap->mutex);
    bell_remove(e);
    bell_close(e);
    bool removed = get(&channel->flags) & CHANNEL_GONE;
    if (e->side == IPCHEAP_PRODUCER || removed) {
        int error = heap_lock(me);
        if (error && error != IPCHEAP_WOULD_SLEEP && error != IPCHEAP_HEAP_BUSY) return error;
        side_end(e->heap, channel, e->side, SIDE_CLOSED);
        if (error) return 0; /* garbage waits for the next producer or for recovery */
        if (e->side == IPCHEAP_PRODUCER) ring_collect(me, e->index);
        channel_drop_if_done(me, e->index);
        heap_unlock(me);
    } else {
        side_end(e->heap, channel, e->side, SIDE_CLOSED);
        /* Removed meanwhile, by somebody who saw us open and left the rest to us? */
        if (get(&channel->flags) & CHANNEL_GONE && heap_lock(me) == 0) {
            channel_drop_if_done(me, e->index);
            heap_unlock(me);
        }
    }
    return 0;
}

static int finish_closing(ipcheap_endpoint *e, struct participant *me) {
    int error = close_side(e, me);
    unlink_endpoint(e);
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
    /* Asked before: once we are outside, whoever closes the heap may close the endpoint, too. */
    int error = e->heap->closed ? IPCHEAP_HEAP_CLOSED : 0;
    if (!(atomic_fetch_and(&e->use, ~ENDPOINT_INSIDE) & ENDPOINT_CLOSING)) return error;
    error = closed_error(e);
    finish_closing(e, e->me);
    return error;
}

/* Makes the caller the one who closes it; false when that is somebody else. */
static bool start_closing(ipcheap_endpoint *e) {
    int use = atomic_fetch_or(&e->use, ENDPOINT_CLOSING);
    if (use & ENDPOINT_CLOSING) return false;
    if (!(use & ENDPOINT_INSIDE)) return true;
    unpark(e->heap, e->channel, e->side, NULL); /* it looks at `use` again: pairs with park() */
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

void ipcheap_endpoint_release(ipcheap_endpoint *e) {
    int error = ipcheap_endpoint_close(e);
    if (error && !endpoint_is_closing(e))
        unlink_endpoint(e);
    else
        while (!(e->use & ENDPOINT_CLOSED)) os_nap(MILLISECOND / 10); /* by another thread */
    bell_close(e);
    free(e);
}

int endpoint_refuse(const ipcheap_endpoint *e) {
    if (e->me->abandoned) return IPCHEAP_WRONG_PROCESS;
    if (e->heap->closed) return IPCHEAP_HEAP_CLOSED;
    return e->closed ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_WRONG_THREAD;
}

/* Waiting ---------------------------------------------------------------------------------- */

static enum side_state peer_state(const ipcheap_endpoint *e) {
    return side_state(get_acquire(&e->channel->seats[!e->side].holder)); /* pairs with side_end() */
}

int endpoint_poison(ipcheap_endpoint *e) {
    /* Who removes the channel frees what lies in it: that looks broken, and is only gone. */
    if (get_acquire(&e->channel->flags) & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
    put_or(&e->channel->flags, CHANNEL_POISONED);
    full_fence(); /* pairs with park() */
    unpark(e->heap, e->channel, 0, NULL);
    unpark(e->heap, e->channel, 1, NULL);
    return IPCHEAP_CORRUPT;
}

/* Does the endpoint's next slot say what nobody would have written? */
static bool is_broken(const ipcheap_endpoint *e, uint64_t word) {
    return e->position >= e->doubtful && !slot_word_possible(word, lap_of(e, e->position));
}

/* Removed or broken: it will never go on. */
static bool is_over(const ipcheap_endpoint *e) {
    return get(&e->channel->flags) & (CHANNEL_GONE | CHANNEL_POISONED);
}

bool endpoint_ready(const ipcheap_endpoint *e) {
    if (endpoint_can_go_on(e)) return true;
    enum side_state peer = peer_state(e);
    if (peer == SIDE_CLOSED || peer == SIDE_DIED || is_over(e)) return true;
    return is_broken(e, get_acquire(&slot_of(e, e->position)->word)); /* to be told so */
}

static bool peer_is_open(const ipcheap_endpoint *e) {
    return peer_state(e) == SIDE_OPEN || is_over(e);
}

uint64_t endpoint_held(const ipcheap_endpoint *e) {
    uint64_t held = 0, first = e->position > e->mask ? e->position - e->mask - 1 : 0;
    for (uint64_t p = first; p < e->position; p++)
        held += slot_is_readable(e, p, get_acquire(&slot_of(e, p)->word));
    return held;
}

int endpoint_end(ipcheap_endpoint *e, uint64_t word) {
    uint32_t flags = get(&e->channel->flags);
    if (flags & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
    if (UNLIKELY(flags & CHANNEL_POISONED)) return IPCHEAP_CORRUPT;
    if (UNLIKELY(is_broken(e, word))) return endpoint_poison(e);
    enum side_state peer = peer_state(e);
    /* Who polls never parks, so he has to look after a silent peer now and then himself. */
    if (peer == SIDE_OPEN && UNLIKELY(++e->idle % LOOK_AFTER_TRIES == 0)) {
        uint64_t holder = get_acquire(&e->channel->seats[!e->side].holder);
        if (recover_if_dead(e->me, holder) == IPCHEAP_CORRUPT) return IPCHEAP_CORRUPT;
        peer = peer_state(e);
    }
    if (peer == SIDE_CLOSED || peer == SIDE_DIED) {
        /* The slot first, then the state: whatever was sent before the end comes before it. */
        if (endpoint_can_go_on(e)) return 0;
        /* He may have closed because the channel was removed meanwhile. */
        if (get(&e->channel->flags) & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
        return peer == SIDE_CLOSED ? IPCHEAP_CHANNEL_CLOSED : IPCHEAP_PEER_DIED;
    }
    bool held = e->side == IPCHEAP_CONSUMER && ring_state(word) == SLOT_FULL;
    return UNLIKELY(held && endpoint_held(e) == e->mask + 1) ? IPCHEAP_RING_HELD
                                                             : IPCHEAP_WOULD_BLOCK;
}

static int sleep_and_learn(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *),
                           int64_t timeout_ns, int64_t begin) {
    int64_t fell_asleep = os_now();
    int error = park(e, ready, timeout_ns);
    int64_t woke = os_now();
    endpoint_learn(e, error ? SECOND : woke - fell_asleep);
    if (ready == endpoint_ready) endpoint_expect(e, error ? SECOND : woke - begin);
    return error;
}

static int wait_inside(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *),
                       int64_t timeout_ns) {
    int error = endpoint_check(e);
    if (error) return error;
    if (timeout_ns == 0) return ready(e) ? 0 : IPCHEAP_TIMED_OUT;
    bool dozing = ready == endpoint_ready && e->doze;
    if (ready == endpoint_ready && !dozing && endpoint_spin(e)) return 0;
    error = ipcheap_endpoint_enter(e);
    if (error) return error;
    int64_t begin = os_now(), deadline = os_deadline(timeout_ns);
    error = dozing ? endpoint_doze(e, timeout_ns, begin) : IPCHEAP_WOULD_BLOCK;
    if (error == IPCHEAP_WOULD_BLOCK)
        error = sleep_and_learn(e, ready, os_remaining(deadline), begin);
    bell_settle(e);
    int closed = ipcheap_endpoint_leave(e);
    return closed ? closed : error;
}

int ipcheap_endpoint_descriptor(ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    return error ? error : bell_descriptor(e);
}

int ipcheap_wait(ipcheap_endpoint *e, int64_t timeout_ns) {
    return wait_inside(e, endpoint_ready, timeout_ns);
}

int ipcheap_spin(ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    if (error) return error;
    for (int i = 0; i < FEW_SPINS && !e->doze; i++) {
        if (endpoint_has_some(e)) return 0;
        os_pause();
    }
    return endpoint_ready(e) ? 0 : IPCHEAP_TIMED_OUT;
}

int ipcheap_wait_peer(ipcheap_endpoint *e, int64_t timeout_ns) {
    int error = endpoint_check(e);
    if (!error) recover_if_dead(e->me, get_acquire(&e->channel->seats[!e->side].holder));
    if (!error) error = wait_inside(e, peer_is_open, timeout_ns);
    if (error || !is_over(e)) return error;
    return get(&e->channel->flags) & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
}

/* Looking ---------------------------------------------------------------------------------- */

int ipcheap_endpoint_describe(ipcheap_endpoint *e, ipcheap_endpoint_statistics *statistics) {
    const struct side *side = &e->channel->sides[e->side];
    *statistics = (ipcheap_endpoint_statistics){
        .capacity = e->mask + 1,
        .sent = get(&e->channel->sides[IPCHEAP_PRODUCER].position),
        .received = get(&e->channel->sides[IPCHEAP_CONSUMER].position),
        .parks = get(&side->parks),
        .wakes = get(&side->wakes),
        .held = e->side == IPCHEAP_CONSUMER && !e->closed ? endpoint_held(e) : 0,
    };
    return 0;
}

/* What a former consumer had received and freed out of order lies in between. */
static int64_t freed_already(const ipcheap_endpoint *e, uint64_t received) {
    int64_t count = 0;
    for (uint64_t p = received; p < e->doubtful; p++)
        count += !slot_is_readable(e, p, get_acquire(&slot_of(e, p)->word));
    return count;
}

int64_t ipcheap_pending(ipcheap_endpoint *e) {
    uint64_t sent = get(&e->channel->sides[IPCHEAP_PRODUCER].position);
    uint64_t received = get(&e->channel->sides[IPCHEAP_CONSUMER].position);
    int64_t pending = sent > received ? (int64_t)(sent - received) : 0;
    return UNLIKELY(received < e->doubtful) ? pending - freed_already(e, received) : pending;
}
