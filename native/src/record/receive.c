/* receive.c - receiving records, and copies. */

#include "endpoint/bell.h"
#include "endpoint/wait.h"
#include "memory/deferred.h"
#include "record/record.h"
#include "segment/lock.h"

/*
 * True if the record at the next position is the consumer's to receive. A former consumer had
 * received that position. It may have released it out of order, or have been killed between taking
 * the record out and giving its slot back, which is done here.
 */
static bool settle_doubtful(struct record_endpoint *e, struct ring_slot *slot, uint64_t word) {
    struct place place;
    if (!slot_is_readable(e, e->position, word)) return false;
    if (place_find(e->base.heap, ring_offset(word), &place) &&
        get(place.tag) == my_sent_tag(e, e->position))
        return true;
    slot_let_go(e, slot, e->position, SLOT_EMPTY, 0);
    return false;
}

/* Finds the next slot with a record; returns 0 and its word, or why there is none. */
static inline int find_record(struct record_endpoint *e, uint64_t *found) {
    struct ring_slot *slot = slot_of(e, e->position);
    uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() */
    while (UNLIKELY(e->position < e->doubtful) && !settle_doubtful(e, slot, word)) {
        slot = slot_of(e, ++e->position);
        word = get_acquire(&slot->word); /* with fill_slot() */
    }
    if (UNLIKELY(!slot_is_readable(e, e->position, word))) {
        expect_block(e, word);
        int error = why_not(e, word);
        if (error) return error;
        word = get_acquire(&slot->word); /* with fill_slot() */
        if (!slot_is_readable(e, e->position, word)) return IPCHEAP_WOULD_BLOCK;
    }
    *found = word;
    return 0;
}

static void move_to(struct record_endpoint *e, uint64_t position) {
    /* Removing the channel frees everything from this position on: drain_pending(). */
    put(&e->base.channel->sides[IPCHEAP_CONSUMER].position, position);
    e->position = position;
}

/* Moves past what has been found, or returns why the channel has come to its end. */
static int move_on(struct record_endpoint *e, uint64_t count) {
    move_to(e, e->position + count);
    compiler_fence();
    uint32_t flags = get(&e->base.channel->flags);
    if (UNLIKELY(flags & (CHANNEL_GONE | CHANNEL_POISONED))) {
        move_to(e, e->position - count);
        return flags & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
    }
    e->base.idle = 0;
    return 0;
}

static int receive_one(struct record_endpoint *e, ipcheap_record *record) {
    uint64_t word;
    int error = find_record(e, &word);
    if (UNLIKELY(error)) return error;
    uint64_t offset = ring_offset(word), size = get(&slot_of(e, e->position)->size);
    uint64_t nbytes = size_bytes(size);
    if (UNLIKELY(!record_fits(e->base.heap, offset, nbytes))) return record_poison(e);
    __builtin_prefetch(at_offset(e->base.heap, offset)); /* the user will look at it next */
    error = move_on(e, 1);
    if (UNLIKELY(error)) return error;
    void *data = at_offset(e->base.heap, offset);
    *record = (ipcheap_record){data, nbytes, offset, e->position - 1, &e->base, size_form(size), 0};
    return 0;
}

static int receiver_check(const struct record_endpoint *e) {
    int error = endpoint_check(&e->base);
    if (UNLIKELY(error)) return error;
    return LIKELY(e->base.role == role_of(IPCHEAP_RECORD_CHANNEL, IPCHEAP_CONSUMER))
               ? 0
               : IPCHEAP_BAD_VALUE;
}

int ipcheap_try_receive(ipcheap_endpoint *endpoint, ipcheap_record *record) {
    struct record_endpoint *e = record_endpoint(endpoint);
    if (UNLIKELY(endpoint->kind->receiving != NULL))
        return endpoint->kind->receiving->receive(endpoint, record);
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    do error = receive_one(e, record);
    while (UNLIKELY(e->base.bell != NULL) && bell_settle(&e->base) && error == IPCHEAP_WOULD_BLOCK);
    if (error == IPCHEAP_WOULD_BLOCK) make_way(e);
    return error;
}

int ipcheap_peek(ipcheap_endpoint *endpoint, uint64_t *nbytes, uint32_t *form) {
    struct record_endpoint *e = record_endpoint(endpoint);
    uint64_t word;
    if (UNLIKELY(endpoint->kind->receiving != NULL))
        return endpoint->kind->receiving->peek(endpoint, nbytes, form);
    int error = receiver_check(e);
    if (!error) error = find_record(e, &word);
    if (error == IPCHEAP_WOULD_BLOCK) make_way(e);
    if (error) return error;
    uint64_t size = get(&slot_of(e, e->position)->size);
    if (!record_fits(e->base.heap, ring_offset(word), size_bytes(size))) return record_poison(e);
    *nbytes = size_bytes(size);
    *form = size_form(size);
    return 0;
}

int64_t ipcheap_try_receive_many(ipcheap_endpoint *endpoint, ipcheap_record *records,
                                 size_t limit) {
    struct record_endpoint *e = record_endpoint(endpoint);
    if (UNLIKELY(endpoint->kind->receiving != NULL))
        return endpoint->kind->receiving->receive_many(endpoint, records, limit);
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < limit) {
        error = receive_one(e, &records[done]);
        done += !error;
    }
    bell_settle(&e->base);
    if (!done && error == IPCHEAP_WOULD_BLOCK) make_way(e);
    if (done || error == IPCHEAP_WOULD_BLOCK) return (int64_t)done;
    return error;
}

int ipcheap_receive(ipcheap_endpoint *e, ipcheap_record *record, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        int error = ipcheap_try_receive(e, record);
        if (LIKELY(error != IPCHEAP_WOULD_BLOCK)) return error;
        error = endpoint_wait(e, deadline);
        if (error) return error;
    }
}

/* Receiving copies -------------------------------------------------------------------------- */

enum { GROUP = 64, GROUP_BYTES = 64 << 10 }; /* at most; a single record may be longer */

/* Records that are copied out of their slots, which are then given back together. */
struct group {
    ipcheap_bytes records[GROUP];
    size_t count;
};

/* Adds what a slot holds; false if it does not fit, or the producer cannot be left to free it. */
static bool group_add(struct record_endpoint *e, struct group *group, uint64_t word,
                      uint64_t *nbytes) {
    const struct ring_slot *slot = slot_of(e, e->position + group->count);
    ipcheap_record record = {.offset = ring_offset(word), .nbytes = size_bytes(get(&slot->size))};
    if (UNLIKELY(!record_fits(e->base.heap, record.offset, record.nbytes))) return false;
    if (UNLIKELY(!producer_collects(e, &record))) return false;
    *nbytes += record.nbytes;
    if (UNLIKELY(group->count && *nbytes > GROUP_BYTES)) return false;
    void *data = at_offset(e->base.heap, record.offset);
    __builtin_prefetch(data);
    group->records[group->count++] = (ipcheap_bytes){data, record.nbytes};
    return true;
}

static int group_find(struct record_endpoint *e, struct group *group, size_t limit) {
    uint64_t word, nbytes = 0, most = least(least(limit, GROUP), e->mask + 1);
    group->count = 0;
    int error = find_record(e, &word);
    if (UNLIKELY(error)) return error;
    while (group_add(e, group, word, &nbytes) && group->count < most) {
        uint64_t position = e->position + group->count;
        word = get_acquire(&slot_of(e, position)->word); /* pairs with fill_slot() */
        if (!slot_is_readable(e, position, word) || UNLIKELY(position < e->doubtful)) break;
    }
    return 0;
}

/* Frees a received record that the producer does not collect. */
static int receive_extent(struct record_endpoint *e, ipcheap_record *record) {
    int error = take_out(e->base.me, e, record->position, record->offset);
    if (error) return error;
    block_drop(e->base.me, record->offset);
    return 0;
}

/* Passes records to the taker: 0, or its error. */
static int show(ipcheap_taker *take, void *context, const ipcheap_bytes *records, size_t count) {
    int error = take(context, records, count);
    return error <= 0 ? error : IPCHEAP_BAD_VALUE;
}

/* Receives a copy of one record that has to be freed here. */
static int64_t receive_alone(struct record_endpoint *e, ipcheap_taker *take, void *context) {
    ipcheap_record record;
    int error = receive_one(e, &record);
    if (error) return error;
    /* Freeing may take the lock. */
    error = may_sleep() ? deferred_reserve(e->base.me, 1) : IPCHEAP_WOULD_SLEEP;
    ipcheap_bytes bytes = {record.data, record.nbytes};
    if (!error) error = show(take, context, &bytes, 1);
    if (error) {
        move_to(e, record.position);
        return error;
    }
    error = receive_extent(e, &record);
    return error ? error : 1;
}

/* Gives the group's slots back; the caller has moved past them. */
static int group_end(struct record_endpoint *e, const struct group *group) {
    uint64_t first = e->position - group->count;
    bool deserted = is_deserted(e);
    for (size_t i = 0; i < group->count; i++) {
        uint64_t position = first + i, offset = offset_of(e->base.heap, group->records[i].data);
        if (UNLIKELY(deserted)) {
            ipcheap_record record = {.offset = offset, .position = position, .consumer = &e->base};
            int error = receive_extent(e, &record);
            if (error) return error;
            continue;
        }
        slot_leave(e, slot_of(e, position), position, SLOT_RELEASED, offset);
    }
    return 0;
}

/* Receives copies of the next group: returns how many, WOULD_BLOCK for none, or an error. */
static int64_t receive_group(struct record_endpoint *e, ipcheap_taker *take, void *context,
                             size_t limit) {
    struct group group;
    int error = group_find(e, &group, limit);
    if (UNLIKELY(error)) return error;
    if (UNLIKELY(!group.count)) return receive_alone(e, take, context);
    error = move_on(e, group.count);
    if (UNLIKELY(error)) return error;
    error = show(take, context, group.records, group.count);
    if (UNLIKELY(error)) {
        move_to(e, e->position - group.count);
        return error;
    }
    error = group_end(e, &group);
    return error ? error : (int64_t)group.count;
}

int64_t ipcheap_try_receive_copies(ipcheap_endpoint *endpoint, ipcheap_taker *take, void *context,
                                   size_t limit) {
    struct record_endpoint *e = record_endpoint(endpoint);
    if (UNLIKELY(endpoint->kind->receiving != NULL))
        return endpoint->kind->receiving->receive_copies(endpoint, take, context, limit);
    int error = receiver_check(e);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    int64_t got = 0;
    while (done < limit && (got = receive_group(e, take, context, limit - done)) > 0) {
        done += (size_t)got;
        endpoint_notify(&e->base);
    }
    bell_settle(&e->base);
    if (!done && got == IPCHEAP_WOULD_BLOCK) make_way(e);
    return done || got == IPCHEAP_WOULD_BLOCK ? (int64_t)done : got;
}
