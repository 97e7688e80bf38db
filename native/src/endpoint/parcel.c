#include "endpoint/parcel.h"

#include "memory/block.h"
#include "memory/deferred.h"
#include "memory/participant_memory.h"

/* A record that its holder owns outright. */
static int judge_owned(struct participant *me, const ipcheap_record *record,
                       struct parcel *parcel) {
    struct place place;
    parcel->owner = me;
    parcel->tag = slab_my_tag(me, record->offset, &parcel->slab);
    if (LIKELY(parcel->tag && tag_owner(get(parcel->tag)) == me->tag)) return 0;
    parcel->slab = NULL;
    if (!place_find(me->heap, record->offset, &place)) return IPCHEAP_RECORD;
    parcel->tag = place.tag;
    parcel->owner = block_owner(me->heap, &place);
    if (!parcel->owner) return nobody_here_owns(me->heap, record->offset);
    /* Before its owner could rely on its private account of what it holds. */
    if (parcel->owner != me) parcel->owner->attention |= ATTENTION_HELPED;
    return 0;
}

static int judge_received(struct participant *me, const ipcheap_record *record,
                          struct parcel *parcel) {
    const struct kind *kind = record->consumer->kind;
    struct place place;
    uint64_t from;
    int lent = kind->lends ? kind->lends(record, &from) : IPCHEAP_RECORD;
    if (lent == 2) return PARCEL_SHARED;
    if (lent <= 0) return lent ? lent : judge_owned(me, record, parcel);
    if (!place_find(me->heap, record->offset, &place) || get(place.tag) != from)
        return IPCHEAP_RECORD;
    parcel->tag = place.tag;
    return 0;
}

int parcel_judge(struct participant *me, ipcheap_record *record, struct parcel *parcel) {
    if (record->data != at_offset(me->heap, record->offset)) return IPCHEAP_RECORD;
    *parcel = (struct parcel){
        .offset = record->offset,
        .size = ring_size(record->nbytes, record->form),
        .record = record,
    };
    int error = record_lender(record) ? judge_received(me, record, parcel)
                                      : judge_owned(me, record, parcel);
    if (!error) parcel->from = get(parcel->tag);
    return error;
}

int parcel_copy(struct participant *me, const ipcheap_record *record, ipcheap_record *copy) {
    struct place place;
    uint64_t offset, bytes = record->nbytes;
    if (!place_find(me->heap, record->offset, &place)) return IPCHEAP_RECORD;
    /* The description of an array stands behind it. */
    if (record->form == IPCHEAP_ARRAY) bytes = place_bytes(me->heap, &place);
    int error = deferred_reserve(me, 3); /* for the copy, and for parcel_release() */
    if (!error) error = block_allocate(me, bytes, &offset);
    if (error) return error;
    *copy = (ipcheap_record){
        .data = at_offset(me->heap, offset),
        .nbytes = record->nbytes,
        .offset = offset,
        .form = record->form,
    };
    memory_copy(me, copy->data, record->data, (size_t)bytes);
    return 0;
}

int parcel_release(struct participant *me, ipcheap_record *record) {
    int error = record->consumer->kind->receiving->free(me->heap, record);
    record->consumer = NULL;
    record->data = NULL;
    return error;
}

void parcel_sent(struct participant *me, const struct parcel *parcel) {
    struct local_slab *s = parcel->slab;
    if (s) slab_let_go(s, (uint64_t)(parcel->tag - s->shared->tags));
    if (parcel->owner) participant_holds(me, parcel->owner, -1);
}

void parcel_gone(const struct parcel *parcel) {
    ipcheap_record *record = parcel->record;
    if (!record) return;
    ipcheap_endpoint *lender = parcel->owner ? NULL : record_lender(record);
    if (lender) lender->kind->taken(record);
    record->consumer = NULL;
    record->data = NULL;
}
