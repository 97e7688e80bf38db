/* send.c - sending records, and copies. */

#include "endpoint/bell.h"
#include "endpoint/parcel.h"
#include "endpoint/wait.h"
#include "memory/participant_memory.h"
#include "record/record.h"
#include "segment/lock.h"

/* Frees the block that the consumer released into the next slot, if its tag says so. */
static void collect_slot(struct record_endpoint *e, uint64_t word) {
    uint64_t offset = ring_offset(word), tag = my_sent_tag(e, e->position - e->mask - 1);
    struct place place;
    if (LIKELY(slab_free_sent(e->base.me, offset, tag))) return;
    /* A consumer that follows the protocol frees extents itself. */
    if (!place_find(e->base.heap, offset, &place) || !place.in_slab) return;
    if (place_is(&place, tag)) slab_free(e->base.me, &place.block);
}

/* Waits for a participant that collects this ring's garbage: it does so under the lock. */
static int wait_for_collector(struct record_endpoint *e) {
    int error = heap_lock(e->base.me);
    if (error) return error;
    put_and(&e->base.channel->flags, ~(uint32_t)CHANNEL_REVOKED);
    heap_unlock(e->base.me);
    return 0;
}

/* Keeps others from collecting the ring's garbage until participant_leave(). */
static int enter_ring(struct record_endpoint *e) {
    for (;;) {
        participant_enter(e->base.me);
        uint32_t flags = get(&e->base.channel->flags);
        if (LIKELY(!(flags & (CHANNEL_REVOKED | CHANNEL_GONE | CHANNEL_POISONED)))) return 0;
        participant_leave(e->base.me);
        if (flags & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
        if (flags & CHANNEL_POISONED) return IPCHEAP_CORRUPT;
        int error = wait_for_collector(e);
        if (error) return error;
    }
}

/* What is received by another kind's endpoint; asked only if there is room, as it may be given back then. */
static int judge_foreign(struct record_endpoint *e, ipcheap_record *record, struct parcel *parcel) {
    int error = record_can_go_on(e) ? 0 : why_not(e, get(&slot_of(e, e->position)->word));
    return error ? error : parcel_judge(e->base.me, record, parcel);
}

/*
 * Finds out whether a record may be sent, and fills in the parcel: its tag, and its owner or the slot of
 * the consumer that received it.
 */
static int judge(struct record_endpoint *e, ipcheap_record *record, struct parcel *parcel,
                 struct ring_slot **held) {
    struct place place;
    *held = NULL;
    if (UNLIKELY(is_foreign(record))) return judge_foreign(e, record, parcel);
    parcel->owner = e->base.me;
    if (UNLIKELY(record->data != at_offset(e->base.heap, record->offset))) return IPCHEAP_RECORD;
    if (LIKELY(!consumer_is_open(record))) {
        parcel->tag = slab_my_tag(e->base.me, record->offset, &parcel->slab);
        if (LIKELY(parcel->tag && tag_owner(get(parcel->tag)) == e->base.me->tag)) return 0;
    }
    if (!place_find(e->base.heap, record->offset, &place)) return IPCHEAP_RECORD;
    parcel->tag = place.tag;
    parcel->slab = NULL;
    if (consumer_is_open(record)) {
        struct record_endpoint *consumer = record_endpoint(record->consumer);
        if (consumer->base.me->abandoned) return participant_refuses(consumer->base.me);
        *held = slot_held(record);
        if (*held) {
            parcel->owner = NULL;
            bool right = get(place.tag) == my_sent_tag(consumer, record->position);
            return right ? 0 : record_poison(consumer);
        }
        if (!may_be_detached(record)) return IPCHEAP_RECORD;
    }
    parcel->owner = block_owner(e->base.heap, &place);
    if (UNLIKELY(!parcel->owner)) return nobody_here_owns(e->base.heap, record->offset);
    /* As in free_owned(). */
    if (parcel->owner != e->base.me) parcel->owner->attention |= ATTENTION_HELPED;
    return 0;
}

/* Takes what was sent off its owner's account. */
static void account_for(const struct record_endpoint *e, const struct parcel *parcel) {
    struct local_slab *s = parcel->slab;
    if (LIKELY(s != NULL)) slab_let_go(s, (uint64_t)(parcel->tag - s->shared->tags));
    participant_holds(e->base.me, parcel->owner, -1);
}

/*
 * Notes whether the next slot is writable, and what came back in it. From then on only the producer
 * or a collector of garbage changes that slot: what came back is ours while its tag says so.
 * Inside enter_ring().
 */
static void look_at_slot(struct record_endpoint *e) {
    uint64_t word = get_acquire(&slot_of(e, e->position)->word); /* pairs with slot_leave() */
    e->writable = slot_is_writable(e, e->position, word);
    e->released = e->writable && ring_state(word) == SLOT_RELEASED ? word : 0;
}

/* Frees what look_at_slot() found. Inside enter_ring(). */
static void free_released(struct record_endpoint *e) {
    if (e->released) collect_slot(e, e->released);
    e->released = 0;
}

/* Publishes a record in the next slot. Inside enter_slot(). */
static void fill_slot(struct record_endpoint *e, const ipcheap_record *record, shared64 *tag) {
    struct side *side = &e->base.channel->sides[IPCHEAP_PRODUCER];
    struct ring_slot *slot = slot_of(e, e->position);
    put(&side->record.from, get(tag));
    put(&side->record.intent, record->offset);
    put_release(tag, my_sent_tag(e, e->position)); /* after the intent that explains it */
    /* Adjacent stores: a consumer that polls this line should lose it only once. */
    put(&slot->size, ring_size(record->nbytes, record->form));
    /* Release: pairs with find_record() and group_find(). Publishes what the user wrote. */
    put_release(&slot->word, ring_word(lap_of(e, e->position), SLOT_FULL, record->offset));
    put(&side->record.intent, 0);
    e->position++;
    put_release(&side->position, e->position); /* after the slot; pairs with ring_sent() */
}

/* Enters the ring with a writable, empty next slot; or returns why there is none. */
static int enter_slot(struct record_endpoint *e) {
    for (;;) {
        int error = enter_ring(e);
        if (UNLIKELY(error)) return error;
        if (UNLIKELY(!e->writable)) look_at_slot(e);
        if (LIKELY(e->writable)) {
            free_released(e);
            return 0;
        }
        participant_leave(e->base.me);
        error = why_not(e, get(&slot_of(e, e->position)->word));
        if (error) return error;
    }
}

/* Sends one record without waking the consumer. */
static int send_one(struct record_endpoint *e, ipcheap_record *record) {
    struct parcel parcel;
    struct ring_slot *held;
    int error = judge(e, record, &parcel, &held);
    if (UNLIKELY(error)) return error;
    error = enter_slot(e);
    if (UNLIKELY(error)) return error;
    fill_slot(e, record, parcel.tag);
    /* Prepares the next send while the consumer works on this record. */
    look_at_slot(e);
    free_released(e);
    participant_leave(e->base.me);
    if (LIKELY(parcel.owner != NULL))
        account_for(e, &parcel);
    else if (LIKELY(held != NULL))
        slot_let_go(record_endpoint(record->consumer), held, record->position, SLOT_EMPTY, 0);
    else
        record->consumer->kind->taken(record);
    record->consumer = NULL;
    return 0;
}

/* Sends a copy of a record that others need as well, and frees the caller's. */
static int send_shared(struct record_endpoint *e, ipcheap_record *record) {
    ipcheap_record copy;
    int error = parcel_copy(e->base.me, record, &copy);
    if (!error && (error = send_one(e, &copy))) block_drop(e->base.me, copy.offset);
    return error ? error : parcel_release(e->base.me, record);
}

/* Sends one record, which another thread's consumer may hold: see for_another(). */
static int send_any(struct record_endpoint *e, ipcheap_record *record) {
    bool alone = !consumer_is_open(record) || !is_anothers(record);
    if (LIKELY(alone && !is_foreign(record))) return send_one(e, record);
    pthread_mutex_lock(&e->base.heap->mutex);
    int error = send_one(e, record);
    pthread_mutex_unlock(&e->base.heap->mutex);
    return error == PARCEL_SHARED ? send_shared(e, record) : error;
}

static int sender_check(const struct record_endpoint *e) {
    int error = endpoint_check(&e->base);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->base.role == role_of(IPCHEAP_RECORD_CHANNEL, IPCHEAP_PRODUCER))
               ? 0
               : IPCHEAP_BAD_VALUE;
}

int ipcheap_try_send(ipcheap_endpoint *endpoint, ipcheap_record *record) {
    struct record_endpoint *e = record_endpoint(endpoint);
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    do error = send_any(e, record);
    while (UNLIKELY(e->base.bell != NULL) && error == IPCHEAP_WOULD_BLOCK && bell_settle(&e->base));
    if (LIKELY(!error)) {
        endpoint_notify(&e->base);
        bell_settle(&e->base);
    }
    return error;
}

int64_t ipcheap_try_send_many(ipcheap_endpoint *endpoint, ipcheap_record *records, size_t count) {
    struct record_endpoint *e = record_endpoint(endpoint);
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < count) {
        error = send_any(e, &records[done]);
        done += !error;
    }
    if (done) endpoint_notify(&e->base);
    bell_settle(&e->base);
    if (done || error == IPCHEAP_WOULD_BLOCK) return (int64_t)done;
    return error;
}

int ipcheap_send(ipcheap_endpoint *e, ipcheap_record *record, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        int error = ipcheap_try_send(e, record);
        if (LIKELY(error != IPCHEAP_WOULD_BLOCK)) return error;
        error = endpoint_wait(e, deadline);
        if (error) return error;
    }
}

/* Sending copies ---------------------------------------------------------------------------- */

#define BURST 16 /* slots: four lines */

/* Returns the tag of the block that came back in a slot; NULL if the copy does not fit it. */
static shared64 *tag_to_reuse(const struct record_endpoint *e, uint64_t position, uint64_t word,
                              uint64_t nbytes) {
    if (UNLIKELY(ring_state(word) != SLOT_RELEASED)) return NULL;
    if (UNLIKELY(!slot_is_writable(e, position, word))) return NULL;
    shared64 *tag = slab_my_tag_for(e->base.me, ring_offset(word), nbytes);
    if (UNLIKELY(!tag || get(tag) != my_sent_tag(e, position - e->mask - 1))) return NULL;
    return tag;
}

/* Copies into the block that came back in a slot; false if it does not fit. In enter_ring(). */
static bool refill_slot(struct record_endpoint *e, uint64_t position, uint64_t word,
                        const ipcheap_bytes *copied) {
    struct ring_slot *slot = slot_of(e, position);
    shared64 *tag = tag_to_reuse(e, position, word, copied->nbytes);
    if (UNLIKELY(!tag)) return false;
    memory_copy(e->base.me, at_offset(e->base.heap, ring_offset(word)), copied->data,
                (size_t)copied->nbytes);
    /* The block is garbage until the slot is FULL, by either tag: see ring_collect(). */
    put(tag, my_sent_tag(e, position));
    uint64_t size = ring_size(copied->nbytes, IPCHEAP_PLAIN);
    if (UNLIKELY(get(&slot->size) != size)) put(&slot->size, size);
    return true;
}

/*
 * Sends copies in the blocks that came back in the next slots; returns how many. The slots become
 * FULL together, so that the consumer, which polls the first, fetches their line after that. Inside
 * enter_ring(), with a block in the next slot.
 */
static size_t refill_slots(struct record_endpoint *e, const ipcheap_bytes *copied, size_t count) {
    uint64_t words[BURST], most = least(least(count, BURST), e->mask + 1), n = 0;
    words[0] = e->released;
    while (refill_slot(e, e->position + n, words[n], &copied[n])) {
        if (++n == most) break;
        words[n] = get_acquire(&slot_of(e, e->position + n)->word); /* with slot_leave() */
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t position = e->position + i;
        /* Release: pairs with find_record() and group_find(). Publishes the copy. */
        put_release(&slot_of(e, position)->word,
                    ring_word(lap_of(e, position), SLOT_FULL, ring_offset(words[i])));
    }
    if (UNLIKELY(!n)) return 0;
    e->position += n;
    /* Release: pairs with ring_sent(). A position is never seen before its slots. */
    put_release(&e->base.channel->sides[IPCHEAP_PRODUCER].position, e->position);
    /* Prepares the next send while the consumer works on these. */
    look_at_slot(e);
    if (e->released) prefetch_to_write(at_offset(e->base.heap, ring_offset(e->released)));
    return n;
}

/* Sends a copy in a new block, as none that fits came back in the next slot. */
static int send_new(struct record_endpoint *e, const ipcheap_bytes *copied) {
    ipcheap_record record;
    struct parcel parcel;
    struct ring_slot *held;
    int error = deferred_reserve(e->base.me, 1);
    if (!error) error = ipcheap_allocate(e->base.heap, copied->nbytes, &record);
    if (error) return error;
    memory_copy(e->base.me, record.data, copied->data, (size_t)copied->nbytes);
    error = judge(e, &record, &parcel, &held);
    if (!error) error = enter_slot(e);
    if (error) {
        block_drop(e->base.me, record.offset);
        return error;
    }
    fill_slot(e, &record, parcel.tag);
    look_at_slot(e);
    participant_leave(e->base.me);
    account_for(e, &parcel);
    return 0;
}

/* Sends the next copies, after `done` others: returns how many, at least one, or an error. */
static int64_t send_copies(struct record_endpoint *e, const ipcheap_bytes *copied, size_t count,
                           size_t done) {
    for (;;) {
        size_t went = 0;
        int error = enter_ring(e);
        if (UNLIKELY(error)) return error;
        if (UNLIKELY(!e->writable)) look_at_slot(e);
        if (LIKELY(e->released)) went = refill_slots(e, copied, count);
        participant_leave(e->base.me);
        if (LIKELY(went)) return (int64_t)went;
        if (e->writable) {
            /* Allocating may have to wait for memory. */
            if (done && may_sleep()) endpoint_notify(&e->base);
            error = send_new(e, copied);
            return error ? error : 1;
        }
        error = why_not(e, get(&slot_of(e, e->position)->word));
        if (error) return error;
    }
}

int64_t ipcheap_try_send_copies(ipcheap_endpoint *endpoint, const ipcheap_bytes *copied,
                                size_t count) {
    struct record_endpoint *e = record_endpoint(endpoint);
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    int64_t went = 0;
    while (done < count && (went = send_copies(e, &copied[done], count - done, done)) > 0)
        done += (size_t)went;
    if (done) endpoint_notify(&e->base);
    bell_settle(&e->base);
    return done || went == IPCHEAP_WOULD_BLOCK ? (int64_t)done : went;
}
