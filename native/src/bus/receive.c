#include "bus/receive.h"

#include <stdlib.h>

#include "bus/holds.h"
#include "bus/reclaim.h"
#include "bus/wake.h"
#include "channel/removal.h"
#include "channel/side.h"
#include "endpoint/bell.h"
#include "endpoint/wait.h"
#include "segment/lock.h"

/* Receiving ------------------------------------------------------------------------------------ */

bool listener_can_go_on(const ipcheap_endpoint *endpoint) {
    const struct listener *e = (const struct listener *)endpoint;
    uint64_t word = get_acquire(bus_slot(&e->bus, e->position)); /* pairs with post_once() */
    return slot_laps_past(&e->bus, e->position, word) >= 0 ||
           get(&e->bus.root->floor) > e->position || e->lost_news;
}

/* Goes on where the floor is: writers have gone on without it. Returns how many messages are lost. */
static uint64_t skip_lost(struct listener *e) {
    struct side *side = own_side(&e->base);
    uint64_t from = e->position,
             to = get_acquire(&e->bus.root->floor); /* pairs with floor_raise() */
    /* What was there before it was registered is a history, of which it gets what there is. */
    if (!e->received) from = greatest(from, least(get(&side->bus.joined), to));
    if (to > from) {
        e->lost += to - from;
        put(&side->bus.lost, e->lost);
        put(&side->bus.lost_from, from);
        put(&side->bus.lost_to, to);
    }
    e->position = to;
    put_release(&side->position, to); /* after the loss; pairs with debt_now() */
    listener_tell(&e->bus, e->shared, WAITS_FOR_ROOM | WAITS_FOR_RELEASE);
    return to > from ? to - from : 0;
}

/*
 * Finds the next message, and holds it with a word: 0, or why there is none. The cursor has not moved
 * past it.
 */
static int hold_next(struct listener *e, uint32_t number, struct message *m) {
    for (;;) {
        if (UNLIKELY(e->lost_news != 0)) return IPCHEAP_MESSAGES_LOST;
        uint64_t word = get_acquire(bus_slot(&e->bus, e->position)); /* pairs with post_once() */
        int64_t past = slot_laps_past(&e->bus, e->position, word);
        if (past < 0 && LIKELY(get(&e->bus.root->floor) <= e->position))
            return endpoint_why_not(&e->base);
        if (LIKELY(past == 0)) {
            shared64 *hold = hold_at(e, number);
            int error = hold_reserve(e->base.me); /* what is held now may have to be given back */
            if (UNLIKELY(error)) return error;
            *m = slot_says(e->position, word);
            put(hold, hold_of(HOLD_HELD, m));
            compiler_fence(); /* pairs with the membarrier in bus_settle() */
            if (UNLIKELY(get(&e->bus.heap->header->fences))) full_fence();
            if (LIKELY(get(&e->bus.root->floor) <= m->position)) return 0;
            /* It is lost; and whoever let go of it may have left it to this hold. */
            hold_end(e->base.me, &e->bus, hold, m);
        }
        if (endpoint_is_over(&e->base)) return endpoint_why_not(&e->base);
        uint64_t lost = skip_lost(e);
        if (!e->lossy) e->lost_news += lost;
    }
}

/* Returns what a call returns to its caller, who is told of what was lost. */
static int64_t told(struct listener *e, int64_t result) {
    if (LIKELY(result != IPCHEAP_MESSAGES_LOST)) return result;
    e->lost_last = e->lost_news;
    e->lost_news = 0;
    return result;
}

void ipcheap_listener_tell_again(ipcheap_endpoint *endpoint) {
    if (endpoint->role >> 1 != IPCHEAP_BUS) return;
    struct listener *e = listener_of(endpoint);
    e->lost_news += e->lost_last;
}

/* Moves past a message that is held, or returns why the bus has come to its end. */
static int move_past(struct listener *e, const struct message *m) {
    struct side *side = own_side(&e->base);
    uint32_t flags = get(&e->base.channel->flags);
    if (UNLIKELY(flags & (CHANNEL_GONE | CHANNEL_POISONED)))
        return flags & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
    e->position = m->position + 1;
    put_release(&side->position, e->position); /* after the hold; pairs with bus_survey() */
    e->received++;
    e->base.idle = 0;
    listener_tell(&e->bus, e->shared, WAITS_FOR_ROOM);
    return 0;
}

/* Fills in the handle of a message that is held; CORRUPT if there cannot be one. */
static int describe(struct listener *e, const struct message *m, ipcheap_record *record) {
    struct place place;
    ipcheap_heap *heap = e->base.heap;
    const struct envelope *envelope = message_envelope(heap, m, &place);
    if (UNLIKELY(!envelope)) return channel_poison(heap, e->base.channel);
    uint64_t offset = m->block, size = get(&envelope->size);
    uint64_t room = place_bytes(heap, &place) - sizeof *envelope;
    if (UNLIKELY(m->apart)) {
        offset = get(&envelope->payload);
        bool there = place_find(heap, offset, &place) &&
                     get(place.tag) == payload_tag(&e->bus, m->block);
        if (!there) return channel_poison(heap, e->base.channel);
        room = place_bytes(heap, &place);
    }
    if (UNLIKELY(size_bytes(size) > room)) return channel_poison(heap, e->base.channel);
    *record = (ipcheap_record){
        .data = at_offset(heap, offset),
        .nbytes = size_bytes(size),
        .offset = offset,
        .position = m->position,
        .consumer = &e->base,
        .form = size_form(size),
    };
    return 0;
}

/* Receives the next message with a hold word of its own. */
static int receive_one(struct listener *e, ipcheap_record *record) {
    struct message m;
    uint32_t word;
    int error = UNLIKELY(!listener_can_go_on(&e->base)) ? endpoint_why_not(&e->base) : 0;
    if (error) return error;
    error = word_take(e, &word);
    if (UNLIKELY(error)) return error;
    error = hold_next(e, word, &m);
    if (LIKELY(!error)) {
        error = describe(e, &m, record);
        if (LIKELY(!error)) error = move_past(e, &m);
        if (LIKELY(!error)) {
            record->place = word;
            __builtin_prefetch(record->data); /* the user will look at it next */
            return 0;
        }
        hold_end(e->base.me, &e->bus, hold_at(e, word), &m);
    }
    word_return(e, word, true);
    return error;
}

static int try_receive(ipcheap_endpoint *endpoint, ipcheap_record *record) {
    struct listener *e = listener_of(endpoint);
    int error = listener_check(endpoint);
    if (UNLIKELY(error)) return error;
    do error = receive_one(e, record);
    while (UNLIKELY(endpoint->bell != NULL) && bell_settle(endpoint) &&
           error == IPCHEAP_WOULD_BLOCK);
    return (int)told(e, error);
}

static int64_t receive_many(ipcheap_endpoint *endpoint, ipcheap_record *records, size_t limit) {
    struct listener *e = listener_of(endpoint);
    int error = listener_check(endpoint);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    while (!error && done < limit) {
        error = receive_one(e, &records[done]);
        done += !error;
    }
    bell_settle(endpoint);
    return done || error == IPCHEAP_WOULD_BLOCK ? (int64_t)done : told(e, error);
}

/* Looks at the next message as receiving it would, and gives it back. */
static int peek(ipcheap_endpoint *endpoint, uint64_t *nbytes, uint32_t *form) {
    struct listener *e = listener_of(endpoint);
    ipcheap_record record;
    struct message m;
    uint32_t word;
    int error = listener_check(endpoint);
    if (!error && !listener_can_go_on(endpoint)) error = endpoint_why_not(endpoint);
    if (!error) error = word_take(e, &word);
    if (error) return error;
    error = hold_next(e, word, &m);
    if (!error) {
        error = describe(e, &m, &record);
        hold_end(endpoint->me, &e->bus, hold_at(e, word), &m);
    }
    word_return(e, word, true);
    if (error) return (int)told(e, error);
    *nbytes = record.nbytes;
    *form = record.form;
    return 0;
}

/* Receives a copy of one message: 1, or why not, and it is still the next. */
static int64_t receive_copy(struct listener *e, uint32_t word, ipcheap_taker *take, void *context) {
    ipcheap_record record;
    struct message m;
    int error = hold_next(e, word, &m);
    if (UNLIKELY(error)) return error;
    error = describe(e, &m, &record);
    ipcheap_bytes bytes = {record.data, record.nbytes};
    if (LIKELY(!error)) error = take(context, &bytes, 1);
    if (error > 0) error = IPCHEAP_BAD_VALUE;
    if (LIKELY(!error)) error = move_past(e, &m);
    hold_end(e->base.me, &e->bus, hold_at(e, word), &m);
    return error ? error : 1;
}

static int64_t receive_copies(ipcheap_endpoint *endpoint, ipcheap_taker *take, void *context,
                              size_t limit) {
    struct listener *e = listener_of(endpoint);
    uint32_t word;
    int error = listener_check(endpoint);
    if (UNLIKELY(error)) return error;
    error = word_take(e, &word);
    if (UNLIKELY(error)) return error;
    size_t done = 0;
    int64_t got = 1;
    while (done < limit && (got = receive_copy(e, word, take, context)) > 0) {
        done++;
        listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE);
    }
    word_return(e, word, true);
    bell_settle(endpoint);
    return done || got == IPCHEAP_WOULD_BLOCK ? (int64_t)done : told(e, got);
}

/* Returns how many messages are there for it. */
static uint64_t count_pending(const struct listener *e) {
    uint64_t from = greatest(get(&e->shared->side.position), get(&e->bus.root->floor));
    uint64_t end = bus_end(&e->bus);
    return end > from ? end - from : 0;
}

static int64_t pending(ipcheap_endpoint *endpoint) {
    const struct listener *e = listener_of(endpoint);
    if (endpoint->closed || endpoint_is_over(endpoint)) return 0;
    return (int64_t)count_pending(e);
}

int ipcheap_listener_describe(ipcheap_endpoint *endpoint, ipcheap_listener_statistics *statistics) {
    struct listener *e = listener_of(endpoint);
    if (endpoint->role >> 1 != IPCHEAP_BUS) return IPCHEAP_BAD_VALUE;
    if (endpoint->closed) {
        *statistics = e->last;
        return 0;
    }
    uint64_t held = 0;
    struct held_walk walk = held_walk_of(e->shared);
    while (held_step(&e->bus, e->number, e->shared, &walk)) held += hold_uses(walk.hold);
    *statistics = (ipcheap_listener_statistics){
        .received = e->received,
        .lost = e->lost,
        .held = held,
        .pending = (uint64_t)pending(endpoint),
        .parks = get(&e->shared->side.parks),
    };
    return 0;
}

uint64_t ipcheap_listener_lost(const ipcheap_endpoint *endpoint) {
    return endpoint->role >> 1 == IPCHEAP_BUS ? ((const struct listener *)endpoint)->lost_last : 0;
}

/* What was received ---------------------------------------------------------------------------- */

/* Finds the hold of a message: NULL if that was freed. */
static shared64 *held_by(const ipcheap_record *record, struct message *m) {
    const struct listener *e = (const struct listener *)record->consumer;
    shared64 *hold = hold_at(e, record->place);
    uint64_t word = hold ? get(hold) : 0;
    *m = (struct message){record->position, (word & OFFSET_UNITS) << 6, word >> 61 & 1};
    bool same = hold_uses(word) &&
                ((word >> 40) & HOLD_POSITION_MASK) == (record->position & HOLD_POSITION_MASK);
    return same && (m->apart || m->block == record->offset) ? hold : NULL;
}

/* True if the caller is the listener's own thread, and no other may be closing it. */
static bool is_own(const ipcheap_endpoint *e) {
    return e->me->thread == thread_marker() && !endpoint_is_closing(e) && !e->closed;
}

/* Frees what is left of a closed listener, if that was its last message. */
static void clean_up(struct participant *me, uint32_t index) {
    struct bus bus;
    if (!heap_try_lock(me)) return; /* somebody else does it later */
    /* As it is now: somebody else may have done it already, and all of it may be gone. */
    if (bus_view(me->heap, index, &bus)) listeners_tidy(&bus);
    channel_drop_if_done(me, index);
    heap_unlock(me);
}

/* Frees an endpoint that was released while it held messages. */
static void listener_destroy(struct listener *e) {
    free(e->free);
    free(e->returned);
    free(e);
}

static int free_elsewhere(struct participant *me, struct listener *e, ipcheap_record *record) {
    struct bus bus = e->bus;
    struct message m;
    pthread_mutex_lock(&bus.heap->mutex);
    shared64 *hold = held_by(record, &m);
    int error = hold ? hold_end(me, &bus, hold, &m) : IPCHEAP_RECORD;
    bool closed =
        e->base.closed; /* then all is acknowledged, and its record may be another's now */
    if (!error) {
        if (!closed) listener_tell(&bus, e->shared, WAITS_FOR_RELEASE);
        word_return(e, record->place, false);
        if (closed) participant_holds(me, e->base.me, -1);
        if (e->orphaned && !listener_holds(e)) listener_destroy(e);
    }
    pthread_mutex_unlock(&bus.heap->mutex);
    if (!error && closed) clean_up(me, bus.index);
    return error;
}

static int free_message(ipcheap_heap *heap, ipcheap_record *record) {
    struct listener *e = listener_of(record->consumer);
    if (UNLIKELY(e->base.me->abandoned)) return participant_refuses(e->base.me);
    if (UNLIKELY(!is_own(&e->base))) {
        struct participant *me;
        int error = participant_current(heap, &me);
        return error ? error : free_elsewhere(me, e, record);
    }
    struct message m;
    shared64 *hold = held_by(record, &m);
    if (UNLIKELY(!hold)) return IPCHEAP_RECORD;
    int error = hold_end(e->base.me, &e->bus, hold, &m);
    if (UNLIKELY(error)) return error;
    listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE);
    word_return(e, record->place, true);
    return 0;
}

static int keep_message(ipcheap_heap *heap, ipcheap_record *record) {
    struct listener *e = listener_of(record->consumer);
    if (e->base.me->abandoned) return participant_refuses(e->base.me);
    struct message m;
    pthread_mutex_lock(&heap->mutex); /* another thread may be closing the listener */
    shared64 *hold = held_by(record, &m);
    if (hold) {
        put_release(hold, hold_of(HOLD_KEPT, &m)); /* pairs with held_step() */
        listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE);
    }
    pthread_mutex_unlock(&heap->mutex);
    return hold ? 0 : IPCHEAP_RECORD;
}

int ipcheap_message_sender(ipcheap_heap *heap, const ipcheap_record *record,
                           ipcheap_holder *sender) {
    struct message m;
    *sender = (ipcheap_holder){0};
    if (!record->data || !record->consumer || record->consumer->role >> 1 != IPCHEAP_BUS)
        return IPCHEAP_RECORD;
    if (record->consumer->me->abandoned) return participant_refuses(record->consumer->me);
    if (!held_by(record, &m)) return IPCHEAP_RECORD;
    const struct envelope *envelope = message_envelope(heap, &m, NULL);
    if (!envelope) return IPCHEAP_CORRUPT;
    uint64_t tag = get(&envelope->sender);
    uint32_t latest, slot = tag_slot(tag), generation = tag_generation(tag);
    if (participant_latest(heap, slot, &latest) && latest == generation)
        participant_describe(heap, slot, sender);
    uint64_t here = os_process_namespace(), there = get(&envelope->namespace);
    sender->pid = get(&envelope->pid);
    sender->tid = get(&envelope->tid);
    sender->elsewhere = here && there && here != there;
    return 0;
}

/* Handing on ----------------------------------------------------------------------------------- */

int message_lends(const ipcheap_record *record, uint64_t *tag) {
    struct listener *e = listener_of(record->consumer);
    struct bus *bus = &e->bus;
    struct message m;
    if (e->base.me->abandoned) return participant_refuses(e->base.me);
    struct participant *me;
    int error = participant_current(e->base.heap, &me);
    if (!error) error = hold_reserve(me); /* for message_taken() */
    if (error) return error;
    shared64 *hold = held_by(record, &m);
    if (!hold) return IPCHEAP_RECORD;
    *tag = m.apart ? payload_tag(bus, m.block) : message_tag(bus, m.position);
    /* Nobody can receive it any more, and nobody else holds it: so it will stay. */
    uint64_t end = bus_end(bus);
    struct survey s = bus_survey(bus);
    uint64_t most = least(least(survey_all(&s), end), bus_history_from(bus, end));
    if (most <= m.position) return 2;
    floor_raise(bus, most);
    bus_settle(bus);
    return message_is_held(bus, &m, hold) ? 2 : 1;
}

void message_taken(ipcheap_record *record) {
    struct listener *e = listener_of(record->consumer);
    struct message m;
    shared64 *hold = held_by(record, &m);
    if (!hold) return;
    bool own = is_own(&e->base), closed = e->base.closed;
    struct participant *me = e->base.me;
    if (!own && participant_current(e->base.heap, &me)) me = e->base.me;
    /* The payload went elsewhere: what is left of the message is the envelope of one that was apart. */
    if (m.apart) {
        bus_stay(me, &e->bus);
        message_let_go(me, &e->bus, &m);
        bus_leave(me);
    }
    put_release(hold, 0);                                              /* pairs with held_step() */
    if (!closed) listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE); /* as in free_elsewhere() */
    word_return(e, record->place, own);
    if (closed) participant_holds(me, e->base.me, -1);
    uint32_t index = e->bus.index;
    if (e->orphaned && !listener_holds(e)) listener_destroy(e);
    if (closed) clean_up(me, index);
}

const struct receiving listener_receiving = {
    .receive = try_receive,
    .receive_many = receive_many,
    .peek = peek,
    .receive_copies = receive_copies,
    .pending = pending,
    .free = free_message,
    .keep = keep_message,
};
