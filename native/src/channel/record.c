/* record.c - allocating, sending, receiving and freeing: the calls that have to be fast. */

#include "channel/endpoint.h"

#include <string.h>

#include "channel/bell.h"
#include "channel/park.h"
#include "heap/deferred.h"
#include "heap/slab_local.h"
#include "heap/trim.h"
#include "segment/lock.h"

static ipcheap_record owned_record(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    return (ipcheap_record){at_offset(heap, offset), nbytes, offset, 0, NULL, IPCHEAP_PLAIN};
}

int ipcheap_allocate(ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record) {
    struct participant *me;
    uint64_t offset;
    if (UNLIKELY(heap->closed)) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (UNLIKELY(error)) return error;
    uint32_t size_class = size_class_of(nbytes);
    uint64_t block = LIKELY(size_class < heap->geometry.classes) ? slab_take(me, size_class) : 0;
    if (LIKELY(block)) {
        me->held++;
        *record = owned_record(heap, block, nbytes);
        return 0;
    }
    error = block_allocate(me, nbytes, &offset);
    if (!error) *record = owned_record(heap, offset, nbytes);
    return error;
}

/* The slot that a received record still occupies; NULL when it does not any more. */
static struct ring_slot *slot_held(const ipcheap_record *record) {
    const ipcheap_endpoint *e = record->consumer;
    struct ring_slot *slot = slot_of(e, record->position);
    uint64_t full = ring_word(lap_of(e, record->position), SLOT_FULL, record->offset);
    return get(&slot->word) == full ? slot : NULL;
}

static void slot_let_go(ipcheap_endpoint *e, struct ring_slot *slot, uint64_t position,
                        enum slot_state state, uint64_t offset) {
    /* Release: pairs with the producer's acquire of the slot. Our reads are over. */
    put_release(&slot->word, ring_word(lap_of(e, position) + 1, state, offset));
    endpoint_notify(e);
}

/* Will nobody collect what is released? */
static bool is_deserted(const ipcheap_endpoint *e) {
    return get(&e->channel->flags) & (CHANNEL_DESERTED | CHANNEL_GONE);
}

/* Is the record a block that its producer can be left to free? */
static bool producer_collects(const ipcheap_endpoint *e, const ipcheap_record *record) {
    if (is_deserted(e)) return false;
    /* Extents start with a page. */
    return record->offset % PAGE || slab_covers(e->heap, record->offset);
}

static int nobody_here_owns(ipcheap_heap *heap, uint64_t offset) {
    struct place place;
    if (!place_find(heap, offset, &place)) return IPCHEAP_RECORD;
    uint64_t tag = get(place.tag);
    for (struct participant *p = heap->members; p; p = p->next_of_heap)
        if (p->abandoned && p->tag == tag) return IPCHEAP_WRONG_PROCESS;
    return IPCHEAP_RECORD;
}

static int free_owned(struct participant *me, uint64_t offset) {
    if (LIKELY(slab_free_held(me, offset))) {
        me->held--;
        return 0;
    }
    struct place place;
    struct participant *owner = NULL;
    if (LIKELY(place_find(me->heap, offset, &place))) owner = block_owner(me->heap, &place);
    if (UNLIKELY(!owner)) return nobody_here_owns(me->heap, offset);
    int error = pay_attention(me);
    if (UNLIKELY(error)) return error;
    /* Before he can think that he holds it still. */
    if (owner != me) owner->attention |= ATTENTION_HELPED;
    error = block_free(me, &place);
    if (LIKELY(!error)) participant_holds(me, owner, -1);
    return error;
}

/* A received record becomes its receiver's own. */
static int take_out(struct participant *me, ipcheap_record *record, struct ring_slot *slot) {
    struct place place;
    uint64_t tag = my_sent_tag(record->consumer, record->position);
    if (!place_find(me->heap, record->offset, &place) || get(place.tag) != tag)
        return endpoint_poison(record->consumer); /* somebody else's, whatever the slot says */
    put(place.tag, me->tag); /* from here on the slot's claim does not count */
    slot_let_go(record->consumer, slot, record->position, SLOT_EMPTY, 0);
    participant_holds(me, me, 1);
    record->consumer = NULL;
    return 0;
}

static bool consumer_is_open(const ipcheap_record *record) {
    return record->consumer && !record->consumer->closed;
}

/* 1 when the record is freed; 0 when it has become its receiver's own. */
static int free_received(ipcheap_heap *heap, ipcheap_record *record) {
    struct participant *me;
    ipcheap_endpoint *e = record->consumer;
    struct ring_slot *slot = slot_held(record);
    if (UNLIKELY(!slot)) return IPCHEAP_RECORD;
    if (LIKELY(producer_collects(e, record))) {
        slot_let_go(e, slot, record->position, SLOT_RELEASED, record->offset);
        return 1;
    }
    int error = participant_current(heap, &me);
    return error ? error : take_out(me, record, slot);
}

static int keep_received(ipcheap_heap *heap, ipcheap_record *record) {
    struct participant *me;
    struct ring_slot *slot = slot_held(record);
    if (!slot) return IPCHEAP_RECORD;
    int error = participant_current(heap, &me);
    return error ? error : take_out(me, record, slot);
}

/*
 * The same for a record that another thread's consumer has received. Were that one closed just
 * now, it would keep what it holds; the mutex is what it does so under. 0 when it is closed.
 */
static int for_another(ipcheap_heap *heap, ipcheap_record *record,
                       int (*act)(ipcheap_heap *, ipcheap_record *)) {
    struct participant *me;
    int result = participant_current(heap, &me); /* not under the mutex: it takes the process's */
    if (result) return result;
    pthread_mutex_lock(&heap->mutex);
    if (consumer_is_open(record)) result = act(heap, record);
    pthread_mutex_unlock(&heap->mutex);
    return result;
}

static bool is_anothers(const ipcheap_record *record) {
    return record->consumer->me->thread != thread_marker();
}

int ipcheap_free(ipcheap_heap *heap, ipcheap_record *record) {
    struct participant *me;
    int error = 0;
    if (UNLIKELY(record->data != at_offset(heap, record->offset))) return IPCHEAP_RECORD;
    if (LIKELY(consumer_is_open(record))) {
        if (UNLIKELY(record->consumer->me->abandoned)) return IPCHEAP_WRONG_PROCESS;
        int freed = UNLIKELY(is_anothers(record)) ? for_another(heap, record, free_received)
                                                  : free_received(heap, record);
        if (LIKELY(freed)) return freed < 0 ? freed : 0;
    }
    if (record->consumer && record->consumer->me->abandoned) return IPCHEAP_WRONG_PROCESS;
    error = participant_current(heap, &me);
    return error ? error : free_owned(me, record->offset);
}

int ipcheap_keep(ipcheap_heap *heap, ipcheap_record *record) {
    if (!consumer_is_open(record)) {
        struct place place;
        bool ours = place_find(heap, record->offset, &place) && block_owner(heap, &place);
        if (ours) record->consumer = NULL;
        return ours ? 0 : nobody_here_owns(heap, record->offset);
    }
    if (record->consumer->me->abandoned) return IPCHEAP_WRONG_PROCESS;
    if (!is_anothers(record)) return keep_received(heap, record);
    int error = for_another(heap, record, keep_received);
    if (!error) record->consumer = NULL; /* or its consumer, closing, has kept it */
    return error;
}

/* Sending ----------------------------------------------------------------------------------- */

/* The block that the consumer released into this slot comes home. */
static void collect_slot(ipcheap_endpoint *e, uint64_t word) {
    uint64_t offset = ring_offset(word), tag = my_sent_tag(e, e->position - e->mask - 1);
    struct place place;
    if (LIKELY(slab_free_sent(e->me, offset, tag))) return;
    if (place_find(e->heap, offset, &place) && place_is(&place, tag)) block_free(e->me, &place);
}

/* Somebody collects garbage under the lock; when we have it, he is done. */
static int wait_for_collector(ipcheap_endpoint *e) {
    int error = heap_lock(e->me);
    if (error) return error;
    put_and(&e->channel->flags, ~(uint32_t)CHANNEL_REVOKED);
    heap_unlock(e->me);
    return 0;
}

static int enter_ring(ipcheap_endpoint *e) {
    for (;;) {
        participant_enter(e->me);
        uint32_t flags = get(&e->channel->flags);
        if (LIKELY(!(flags & (CHANNEL_REVOKED | CHANNEL_GONE | CHANNEL_POISONED)))) return 0;
        participant_leave(e->me);
        if (flags & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
        if (flags & CHANNEL_POISONED) return IPCHEAP_CORRUPT;
        int error = wait_for_collector(e);
        if (error) return error;
    }
}

/* What is being sent: its tag, and whose it is: an owner here, or the consumer in whose slot. */
struct parcel {
    shared64 *tag;
    struct participant *owner;
    struct local_slab *slab; /* the owner's, if that is the sender */
    struct ring_slot *held;
};

static int judge(ipcheap_endpoint *e, const ipcheap_record *record, struct parcel *parcel) {
    struct place place;
    *parcel = (struct parcel){.owner = e->me};
    if (UNLIKELY(record->data != at_offset(e->heap, record->offset))) return IPCHEAP_RECORD;
    if (LIKELY(!consumer_is_open(record))) {
        parcel->tag = slab_my_tag(e->me, record->offset, &parcel->slab);
        if (LIKELY(parcel->tag && get(parcel->tag) == e->me->tag)) return 0;
    }
    if (!place_find(e->heap, record->offset, &place)) return IPCHEAP_RECORD;
    parcel->tag = place.tag;
    parcel->slab = NULL;
    if (consumer_is_open(record)) {
        if (record->consumer->me->abandoned) return IPCHEAP_WRONG_PROCESS;
        parcel->owner = NULL;
        parcel->held = slot_held(record);
        if (!parcel->held) return IPCHEAP_RECORD;
        bool right = get(place.tag) == my_sent_tag(record->consumer, record->position);
        return right ? 0 : endpoint_poison(record->consumer);
    }
    parcel->owner = block_owner(e->heap, &place);
    if (UNLIKELY(!parcel->owner)) return nobody_here_owns(e->heap, record->offset);
    if (parcel->owner != e->me) parcel->owner->attention |= ATTENTION_HELPED; /* free_owned() */
    return 0;
}

/* Its owner had it until now. */
static void account_for(const ipcheap_endpoint *e, const struct parcel *parcel) {
    struct local_slab *s = parcel->slab;
    if (LIKELY(s != NULL)) slab_let_go(s, (uint64_t)(parcel->tag - s->shared->tags));
    participant_holds(e->me, parcel->owner, -1);
}

/*
 * Inside enter_ring(): is the next slot writable, and what came back in it? Nobody but us makes it
 * anything else then, except who collects garbage: what came back is ours while its tag says so.
 */
static void look_at_slot(ipcheap_endpoint *e) {
    uint64_t word = get_acquire(&slot_of(e, e->position)->word); /* pairs with slot_let_go() */
    e->writable = slot_is_writable(e, e->position, word);
    e->released = e->writable && ring_state(word) == SLOT_RELEASED ? word : 0;
}

/* Inside enter_ring(). */
static void free_released(ipcheap_endpoint *e) {
    if (e->released) collect_slot(e, e->released);
    e->released = 0;
}

/* Inside enter_slot(). */
static void fill_slot(ipcheap_endpoint *e, const ipcheap_record *record, shared64 *tag) {
    struct side *side = &e->channel->sides[IPCHEAP_PRODUCER];
    struct ring_slot *slot = slot_of(e, e->position);
    put(&side->from, get(tag));
    put(&side->intent, record->offset);
    put_release(tag, my_sent_tag(e, e->position)); /* after the intent that explains it */
    /* These two last and together: a consumer that polls the line should lose it only once. */
    put(&slot->size, ring_size(record->nbytes, record->form));
    /* Release: pairs with the consumer's acquire; what the user wrote goes with it. */
    put_release(&slot->word, ring_word(lap_of(e, e->position), SLOT_FULL, record->offset));
    put(&side->intent, 0);
    e->position++;
    put_release(&side->position, e->position); /* pairs with ring_sent(): after the slot */
}

/* Enters the ring with a writable slot and nothing in it, or says why there is none. */
static int enter_slot(ipcheap_endpoint *e) {
    for (;;) {
        int error = enter_ring(e);
        if (UNLIKELY(error)) return error;
        if (UNLIKELY(!e->writable)) look_at_slot(e);
        if (LIKELY(e->writable)) {
            free_released(e);
            return 0;
        }
        participant_leave(e->me);
        error = endpoint_end(e, get(&slot_of(e, e->position)->word));
        if (error) return error;
    }
}

/* One record, without telling the consumer. */
static int send_one(ipcheap_endpoint *e, ipcheap_record *record) {
    struct parcel parcel;
    int error = judge(e, record, &parcel);
    if (UNLIKELY(error)) return error;
    error = enter_slot(e);
    if (UNLIKELY(error)) return error;
    fill_slot(e, record, parcel.tag);
    /* For the next one, while the consumer has this one to look at. */
    look_at_slot(e);
    free_released(e);
    participant_leave(e->me);
    if (LIKELY(parcel.owner != NULL))
        account_for(e, &parcel);
    else
        slot_let_go(record->consumer, parcel.held, record->position, SLOT_EMPTY, 0);
    record->consumer = NULL;
    return 0;
}

/* What another thread's consumer holds may be forwarded, too: see for_another(). */
static int send_any(ipcheap_endpoint *e, ipcheap_record *record) {
    if (LIKELY(!consumer_is_open(record) || !is_anothers(record))) return send_one(e, record);
    pthread_mutex_lock(&e->heap->mutex);
    int error = send_one(e, record);
    pthread_mutex_unlock(&e->heap->mutex);
    return error;
}

static int sender_check(const ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->side == IPCHEAP_PRODUCER) ? 0 : IPCHEAP_BAD_VALUE;
}

int ipcheap_try_send(ipcheap_endpoint *e, ipcheap_record *record) {
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    do error = send_any(e, record);
    while (UNLIKELY(e->bell != NULL) && error == IPCHEAP_WOULD_BLOCK && bell_settle(e));
    if (LIKELY(!error)) {
        endpoint_notify(e);
        bell_settle(e);
    }
    return error;
}

int64_t ipcheap_try_send_many(ipcheap_endpoint *e, ipcheap_record *records, size_t count) {
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < count) {
        error = send_any(e, &records[done]);
        done += !error;
    }
    if (done) endpoint_notify(e);
    bell_settle(e);
    if (done || error == IPCHEAP_WOULD_BLOCK) return (int64_t)done;
    return error;
}

int ipcheap_send(ipcheap_endpoint *e, ipcheap_record *record, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        int error = ipcheap_try_send(e, record);
        if (LIKELY(error != IPCHEAP_WOULD_BLOCK)) return error;
        int64_t left = os_remaining(deadline);
        error = ipcheap_wait(e, left);
        if (error) return error;
    }
}

/* Sending copies ---------------------------------------------------------------------------- */

#define BURST 16 /* slots: four lines */

static void copy(void *to, const ipcheap_bytes *copied) {
    if (LIKELY(copied->nbytes)) memcpy(to, copied->data, copied->nbytes);
}

/* The tag of the block that came back in a slot, if a copy of so many bytes fits it. */
static shared64 *tag_to_reuse(const ipcheap_endpoint *e, uint64_t position, uint64_t word,
                              uint64_t nbytes) {
    if (UNLIKELY(ring_state(word) != SLOT_RELEASED)) return NULL;
    if (UNLIKELY(!slot_is_writable(e, position, word))) return NULL;
    shared64 *tag = slab_my_tag_for(e->me, ring_offset(word), nbytes);
    if (UNLIKELY(!tag || get(tag) != my_sent_tag(e, position - e->mask - 1))) return NULL;
    return tag;
}

/* Inside enter_ring(). Copies into the block that came back in a slot; false if it does not fit. */
static bool refill_slot(ipcheap_endpoint *e, uint64_t position, uint64_t word,
                        const ipcheap_bytes *copied) {
    struct ring_slot *slot = slot_of(e, position);
    shared64 *tag = tag_to_reuse(e, position, word, copied->nbytes);
    if (UNLIKELY(!tag)) return false;
    copy(at_offset(e->heap, ring_offset(word)), copied);
    /* Until the slot is FULL it is garbage, by its old tag or this: see ring_collect(). */
    put(tag, my_sent_tag(e, position));
    uint64_t size = ring_size(copied->nbytes, IPCHEAP_PLAIN);
    if (UNLIKELY(get(&slot->size) != size)) put(&slot->size, size);
    return true;
}

/*
 * Inside enter_ring(), with something released in the next slot. Returns how many were sent. Their
 * slots become FULL together: the consumer, who polls the first, fetches the line after that.
 */
static size_t refill_slots(ipcheap_endpoint *e, const ipcheap_bytes *copied, size_t count) {
    uint64_t words[BURST], most = least(least(count, BURST), e->mask + 1), n = 0;
    words[0] = e->released;
    while (refill_slot(e, e->position + n, words[n], &copied[n])) {
        if (++n == most) break;
        words[n] = get_acquire(&slot_of(e, e->position + n)->word); /* with slot_let_go() */
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t position = e->position + i;
        /* Release: pairs with the consumer's acquire; the copy goes with it. */
        put_release(&slot_of(e, position)->word,
                    ring_word(lap_of(e, position), SLOT_FULL, ring_offset(words[i])));
    }
    if (UNLIKELY(!n)) return 0;
    e->position += n;
    /* Release: pairs with ring_sent(), so that no slot is seen later than its position. */
    put_release(&e->channel->sides[IPCHEAP_PRODUCER].position, e->position);
    /* For the next one, while the consumer has these to look at. */
    look_at_slot(e);
    if (e->released) prefetch_to_write(at_offset(e->heap, ring_offset(e->released)));
    return n;
}

/* Nothing that fits came back in the slot: a block of its own. */
static int send_new(ipcheap_endpoint *e, const ipcheap_bytes *copied) {
    ipcheap_record record;
    struct parcel parcel;
    int error = deferred_reserve(e->me, 1);
    if (!error) error = ipcheap_allocate(e->heap, copied->nbytes, &record);
    if (error) return error;
    copy(record.data, copied);
    error = judge(e, &record, &parcel);
    if (!error) error = enter_slot(e);
    if (error) {
        block_drop(e->me, record.offset);
        return error;
    }
    fill_slot(e, &record, parcel.tag);
    look_at_slot(e);
    participant_leave(e->me);
    account_for(e, &parcel);
    return 0;
}

/* The next ones, after `done` others; returns how many, one at least, or an error. */
static int64_t send_copies(ipcheap_endpoint *e, const ipcheap_bytes *copied, size_t count,
                           size_t done) {
    for (;;) {
        size_t went = 0;
        int error = enter_ring(e);
        if (UNLIKELY(error)) return error;
        if (UNLIKELY(!e->writable)) look_at_slot(e);
        if (LIKELY(e->released)) went = refill_slots(e, copied, count);
        participant_leave(e->me);
        if (LIKELY(went)) return (int64_t)went;
        if (e->writable) {
            if (done && may_sleep()) endpoint_notify(e); /* this one may have to wait for memory */
            error = send_new(e, copied);
            return error ? error : 1;
        }
        error = endpoint_end(e, get(&slot_of(e, e->position)->word));
        if (error) return error;
    }
}

int64_t ipcheap_try_send_copies(ipcheap_endpoint *e, const ipcheap_bytes *copied, size_t count) {
    int error = sender_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    int64_t went = 0;
    while (done < count && (went = send_copies(e, &copied[done], count - done, done)) > 0)
        done += (size_t)went;
    if (done) endpoint_notify(e);
    bell_settle(e);
    return done || went == IPCHEAP_WOULD_BLOCK ? (int64_t)done : went;
}

/* Receiving --------------------------------------------------------------------------------- */

/*
 * Positions that a former consumer had received: he may have released them out of order, or
 * been killed between taking a record out and letting its slot go. True when it is ours.
 */
static bool settle_doubtful(ipcheap_endpoint *e, struct ring_slot *slot, uint64_t word) {
    struct place place;
    if (!slot_is_readable(e, e->position, word)) return false;
    if (place_find(e->heap, ring_offset(word), &place) &&
        get(place.tag) == my_sent_tag(e, e->position))
        return true;
    slot_let_go(e, slot, e->position, SLOT_EMPTY, 0);
    return false;
}

bool __attribute__((noinline)) extent_fits(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    struct place place;
    return place_find(heap, offset, &place) && nbytes <= place_bytes(heap, &place);
}

/* The word of the next slot, which holds a record; or why there is none. */
static inline int find_record(ipcheap_endpoint *e, uint64_t *found) {
    struct ring_slot *slot = slot_of(e, e->position);
    uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() */
    while (UNLIKELY(e->position < e->doubtful) && !settle_doubtful(e, slot, word)) {
        slot = slot_of(e, ++e->position);
        word = get_acquire(&slot->word);
    }
    if (UNLIKELY(!slot_is_readable(e, e->position, word))) {
        expect_block(e, word);
        int error = endpoint_end(e, word);
        if (error) return error;
        word = get_acquire(&slot->word);
        if (!slot_is_readable(e, e->position, word)) return IPCHEAP_WOULD_BLOCK;
    }
    *found = word;
    return 0;
}

static int receive_one(ipcheap_endpoint *e, ipcheap_record *record) {
    uint64_t word;
    int error = find_record(e, &word);
    if (UNLIKELY(error)) return error;
    uint64_t offset = ring_offset(word), size = get(&slot_of(e, e->position)->size);
    uint64_t nbytes = size_bytes(size);
    if (UNLIKELY(!record_fits(e->heap, offset, nbytes))) return endpoint_poison(e);
    __builtin_prefetch(at_offset(e->heap, offset)); /* the user will look at it next */
    /* Who removes the channel frees what lies from this position on; see drain_pending(). */
    shared64 *position = &e->channel->sides[IPCHEAP_CONSUMER].position;
    put(position, e->position + 1);
    compiler_fence();
    uint32_t flags = get(&e->channel->flags);
    if (UNLIKELY(flags & (CHANNEL_GONE | CHANNEL_POISONED))) {
        put(position, e->position);
        return flags & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
    }
    void *data = at_offset(e->heap, offset);
    *record = (ipcheap_record){data, nbytes, offset, e->position, e, size_form(size)};
    e->position++;
    e->idle = 0;
    return 0;
}

static int receiver_check(const ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->side == IPCHEAP_CONSUMER) ? 0 : IPCHEAP_BAD_VALUE;
}

int ipcheap_try_receive(ipcheap_endpoint *e, ipcheap_record *record) {
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    do error = receive_one(e, record);
    while (UNLIKELY(e->bell != NULL) && bell_settle(e) && error == IPCHEAP_WOULD_BLOCK);
    return error;
}

int ipcheap_peek(ipcheap_endpoint *e, uint64_t *nbytes, uint32_t *form) {
    uint64_t word;
    int error = receiver_check(e);
    if (!error) error = find_record(e, &word);
    if (error) return error;
    uint64_t size = get(&slot_of(e, e->position)->size);
    if (!record_fits(e->heap, ring_offset(word), size_bytes(size))) return endpoint_poison(e);
    *nbytes = size_bytes(size);
    *form = size_form(size);
    return 0;
}

int64_t ipcheap_try_receive_many(ipcheap_endpoint *e, ipcheap_record *records, size_t limit) {
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < limit) {
        error = receive_one(e, &records[done]);
        done += !error;
    }
    bell_settle(e);
    if (done || error == IPCHEAP_WOULD_BLOCK) return (int64_t)done;
    return error;
}

/* The producer does not collect it, or no more: the receiver's own, and freed with the next. */
static int receive_extent(ipcheap_endpoint *e, ipcheap_record *record) {
    int error = take_out(e->me, record, slot_of(e, record->position));
    if (!error) block_drop(e->me, record->offset);
    return error;
}

/* One record that somebody copies out of its slot, which it leaves at once. */
static int receive_copy(ipcheap_endpoint *e, ipcheap_taker *take, void *context) {
    ipcheap_record record;
    int error = receive_one(e, &record);
    if (UNLIKELY(error)) return error;
    bool collects = producer_collects(e, &record);
    /* Where its end is not as simple as that, it may take the lock. */
    if (UNLIKELY(!collects)) error = may_sleep() ? deferred_reserve(e->me, 1) : IPCHEAP_WOULD_SLEEP;
    if (LIKELY(!error)) error = take(context, record.data, record.nbytes);
    if (UNLIKELY(error)) {
        e->position--;
        put(&e->channel->sides[IPCHEAP_CONSUMER].position, e->position);
        return error < 0 ? error : IPCHEAP_BAD_VALUE;
    }
    if (UNLIKELY(!collects || is_deserted(e))) return receive_extent(e, &record);
    /* Release: pairs with the producer's acquire of the slot. Our reads are over. */
    put_release(&slot_of(e, record.position)->word,
                ring_word(lap_of(e, record.position) + 1, SLOT_RELEASED, record.offset));
    return 0;
}

int64_t ipcheap_try_receive_copies(ipcheap_endpoint *e, ipcheap_taker *take, void *context,
                                   size_t limit) {
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < limit) {
        error = receive_copy(e, take, context);
        done += !error;
        if (!error && done % BURST == 0) endpoint_notify(e);
    }
    if (done) endpoint_notify(e);
    bell_settle(e);
    if (done || error == IPCHEAP_WOULD_BLOCK) return (int64_t)done;
    return error;
}

int ipcheap_receive(ipcheap_endpoint *e, ipcheap_record *record, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        int error = ipcheap_try_receive(e, record);
        if (LIKELY(error != IPCHEAP_WOULD_BLOCK)) return error;
        error = ipcheap_wait(e, os_remaining(deadline));
        if (error) return error;
    }
}
