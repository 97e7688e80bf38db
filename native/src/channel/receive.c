/* receive.c - receiving records, and copies. */

#include "channel/bell.h"
#include "channel/record.h"
#include "heap/deferred.h"
#include "segment/lock.h"

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

#define BURST 16 /* slots: four lines */

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
