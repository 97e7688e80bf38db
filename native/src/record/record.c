/* record.c - allocating records, freeing and keeping them. */

#include "record/record.h"

#include "endpoint/parcel.h"
#include "memory/trim.h"
#include "segment/file.h"

static ipcheap_record owned_record(ipcheap_heap *heap, uint64_t offset, uint64_t nbytes) {
    return (ipcheap_record){at_offset(heap, offset), nbytes, offset, 0, NULL, IPCHEAP_PLAIN, 0};
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

static int free_owned(struct participant *me, uint64_t offset) {
    if (LIKELY(slab_free_held(me, offset))) {
        me->held--;
        return 0;
    }
    struct place place;
    struct participant *owner = NULL;
    if (LIKELY(place_find(me->heap, offset, &place))) owner = block_owner(me->heap, &place);
    if (UNLIKELY(!owner)) return nobody_here_owns(me->heap, offset);
    int error = trim_retry(me);
    if (UNLIKELY(error)) return error;
    /* Before its owner could rely on its private account of what it holds. */
    if (owner != me) owner->attention |= ATTENTION_HELPED;
    error = block_free(me, &place);
    if (LIKELY(!error)) participant_holds(me, owner, -1);
    return error;
}

int take_out(struct participant *me, struct record_endpoint *e, uint64_t position,
             uint64_t offset) {
    struct place place;
    /* With another tag the block is not this slot's, whatever the slot says. */
    if (!place_find(me->heap, offset, &place) || get(place.tag) != my_sent_tag(e, position))
        return record_poison(e);
    put(place.tag, my_tag(me)); /* from here on the slot's claim on it does not count */
    slot_let_go(e, slot_of(e, position), position, SLOT_EMPTY, 0);
    participant_holds(me, me, 1);
    return 0;
}

bool may_be_detached(const ipcheap_record *record) {
    const struct record_endpoint *e = record_endpoint(record->consumer);
    const struct side *side = own_side(&e->base);
    return get(&side->record.detached) && get(&side->position) - record->position > e->mask;
}

/* Detaches a record. Under the heap's mutex, because another thread may be freeing it. */
static void detach(struct record_endpoint *e, uint64_t position) {
    uint64_t word = get_acquire(&slot_of(e, position)->word); /* pairs with slot_leave() */
    if (!slot_is_readable(e, position, word)) return;
    shared64 *detached = &own_side(&e->base)->record.detached;
    put(detached, get(detached) + 1);                     /* before may_be_detached() is asked */
    take_out(e->base.me, e, position, ring_offset(word)); /* an error has poisoned the channel */
}

void __attribute__((noinline)) make_way(struct record_endpoint *e) {
    if (e->position <= e->mask) return;
    uint64_t behind = e->position - e->mask - 1;
    uint64_t word = get_acquire(&slot_of(e, behind)->word); /* pairs with slot_leave() */
    if (!slot_is_readable(e, behind, word)) return;
    pthread_mutex_lock(&e->base.heap->mutex);
    detach(e, behind);
    pthread_mutex_unlock(&e->base.heap->mutex);
}

/* Makes a received record the caller's own, whether its slot holds it or it was detached. */
static int own_received(ipcheap_heap *heap, ipcheap_record *record) {
    struct participant *me;
    struct place place;
    int error = participant_current(heap, &me);
    if (error) return error;
    if (slot_held(record)) {
        struct record_endpoint *e = record_endpoint(record->consumer);
        error = take_out(me, e, record->position, record->offset);
    } else {
        bool ours = may_be_detached(record) && place_find(heap, record->offset, &place) &&
                    block_owner(heap, &place);
        error = ours ? 0 : IPCHEAP_RECORD;
    }
    if (!error) record->consumer = NULL;
    return error;
}

/* Returns 1 if it has freed the record, 0 if it has made the record the caller's own. */
static int free_received(ipcheap_heap *heap, ipcheap_record *record) {
    struct record_endpoint *e = record_endpoint(record->consumer);
    struct ring_slot *slot = slot_held(record);
    if (LIKELY(slot && producer_collects(e, record))) {
        slot_let_go(e, slot, record->position, SLOT_RELEASED, record->offset);
        return 1;
    }
    return own_received(heap, record);
}

/*
 * Returns what act() does for a record that another thread's consumer received; 0 if that consumer
 * is closed. The mutex keeps the consumer open meanwhile: closing takes it to keep what is held.
 */
static int for_another(ipcheap_heap *heap, ipcheap_record *record,
                       int (*act)(ipcheap_heap *, ipcheap_record *)) {
    struct participant *me;
    int result = participant_current(heap, &me); /* before the mutex: it takes the process mutex */
    if (result) return result;
    pthread_mutex_lock(&heap->mutex);
    if (consumer_is_open(record)) result = act(heap, record);
    pthread_mutex_unlock(&heap->mutex);
    return result;
}

static int free_record(ipcheap_heap *heap, ipcheap_record *record) {
    struct participant *me;
    int error = 0;
    if (UNLIKELY(record->data != at_offset(heap, record->offset))) return IPCHEAP_RECORD;
    if (UNLIKELY(is_foreign(record))) return record->consumer->kind->receiving->free(heap, record);
    if (LIKELY(consumer_is_open(record))) {
        if (UNLIKELY(record->consumer->me->abandoned))
            return participant_refuses(record->consumer->me);
        int freed = UNLIKELY(is_anothers(record)) ? for_another(heap, record, free_received)
                                                  : free_received(heap, record);
        if (LIKELY(freed)) return freed < 0 ? freed : 0;
    }
    if (record->consumer && record->consumer->me->abandoned)
        return participant_refuses(record->consumer->me);
    error = participant_current(heap, &me);
    return error ? error : free_owned(me, record->offset);
}

int ipcheap_free(ipcheap_heap *heap, ipcheap_record *record) {
    int error = free_record(heap, record);
    /* A ring later nothing but this tells the handle from that of a detached record. */
    if (LIKELY(!error)) record->data = NULL;
    return error;
}

int ipcheap_keep(ipcheap_heap *heap, ipcheap_record *record) {
    if (UNLIKELY(record->data != at_offset(heap, record->offset))) return IPCHEAP_RECORD;
    if (UNLIKELY(is_foreign(record))) return record->consumer->kind->receiving->keep(heap, record);
    if (!consumer_is_open(record)) {
        struct place place;
        bool ours = place_find(heap, record->offset, &place) && block_owner(heap, &place);
        if (ours) record->consumer = NULL;
        return ours ? 0 : nobody_here_owns(heap, record->offset);
    }
    if (record->consumer->me->abandoned) return participant_refuses(record->consumer->me);
    if (!is_anothers(record)) return own_received(heap, record);
    int error = for_another(heap, record, own_received);
    if (!error) record->consumer = NULL; /* if its consumer was closing, that has kept it */
    return error;
}

int ipcheap_same(const ipcheap_heap *heap, const ipcheap_heap *other) {
    return heap == other || file_is_same(heap, other);
}

/* Makes a copy of what others may hold as well, and frees the caller's. */
static int adopt_copy(struct participant *me, ipcheap_heap *from, ipcheap_record *record) {
    ipcheap_record copy;
    int error = parcel_copy(me, record, &copy);
    if (error) return error;
    error = ipcheap_free(from, record);
    if (error)
        block_drop(me, copy.offset);
    else
        *record = copy;
    return error;
}

int ipcheap_adopt(ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record) {
    struct participant *me, *there;
    struct place place;
    if (heap == from) return 0;
    if (!file_is_same(heap, from)) return IPCHEAP_RECORD;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = participant_current(from, &there);
    if (!error && is_foreign(record)) return adopt_copy(me, from, record);
    if (!error) error = ipcheap_keep(from, record);
    if (error) return error;
    struct participant *owner = place_find(from, record->offset, &place) ? block_owner(from, &place)
                                                                         : NULL;
    if (!owner) return nobody_here_owns(from, record->offset);
    owner->attention |= ATTENTION_HELPED; /* as in free_owned() */
    put(place.tag, my_tag(me));           /* from here on the other participant's claim is over */
    participant_holds(there, owner, -1);
    participant_holds(me, me, 1);
    record->data = at_offset(heap, record->offset);
    return 0;
}

/* Handing on ------------------------------------------------------------------------------- */

int record_lends(const ipcheap_record *record, uint64_t *tag) {
    const struct record_endpoint *e = record_endpoint(record->consumer);
    if (e->base.me->abandoned) return participant_refuses(e->base.me);
    if (!slot_held(record)) return may_be_detached(record) ? 0 : IPCHEAP_RECORD;
    *tag = my_sent_tag(e, record->position);
    return 1;
}

void record_taken(ipcheap_record *record) {
    struct record_endpoint *e = record_endpoint(record->consumer);
    struct ring_slot *slot = slot_held(record);
    if (slot) slot_let_go(e, slot, record->position, SLOT_EMPTY, 0);
    record->consumer = NULL;
}
