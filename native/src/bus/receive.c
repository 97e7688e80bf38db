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

/* The first of what it has lost if writers have gone on without it, up to `to`. */
static uint64_t first_lost(const struct listener *e, uint64_t to) {
    /* What was there before it was registered is a history, of which it gets what there is. */
    uint64_t joined = e->received ? 0 : get(&e->shared->side.bus.joined);
    return greatest(e->position, least(joined, to));
}

/* Goes on where the floor is: writers have gone on without it. Returns how many messages are lost. */
static uint64_t skip_lost(struct listener *e, uint64_t to) {
    struct side *side = own_side(&e->base);
    uint64_t from = first_lost(e, to);
    if (to > from) {
        e->lost += to - from;
        /* In one piece for loss_read(), and before the position. */
        put_exchange(&side->bus.lost_from, LOSING);
        put_release(&side->bus.lost_to, to);
        put_release(&side->bus.lost, e->lost);
        put_release(&side->bus.lost_from, from);
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
static inline int hold_next(struct listener *e, uint32_t number, struct message *m) {
    for (;;) {
        if (UNLIKELY(e->lost_news != 0)) return IPCHEAP_MESSAGES_LOST;
        uint64_t word = get_acquire(bus_slot(&e->bus, e->position)); /* pairs with post_once() */
        int64_t past = slot_laps_past(&e->bus, e->position, word);
        if (past < 0 && LIKELY(get(&e->bus.root->floor) <= e->position))
            return endpoint_why_not(&e->base);
        if (LIKELY(past == 0)) {
            shared64 *hold = word_at(e, number);
            *m = slot_says(e->position, word);
            put(hold, hold_of(HOLD_HELD, m));
            compiler_fence(); /* pairs with the membarrier in bus_settle() */
            if (UNLIKELY(get(&e->bus.heap->header->fences))) full_fence();
            if (LIKELY(get(&e->bus.root->floor) <= m->position)) return 0;
            /* It is lost; and its reclaimer may have left it to this hold. */
            int error = hold_end(e->base.me, &e->bus, hold, m);
            if (error) return error;
        }
        if (endpoint_is_over(&e->base)) return endpoint_why_not(&e->base);
        uint64_t floor = get_acquire(&e->bus.root->floor); /* pairs with floor_raise() */
        /* Nobody takes a slot, or goes on without a listener, before the floor says so. */
        if (floor <= e->position || floor > bus_end(&e->bus))
            return channel_poison(e->base.heap, e->base.channel);
        uint64_t lost = skip_lost(e, floor);
        if (!e->lossy) e->lost_news += lost;
    }
}

/* Returns what a call returns; if that is MESSAGES_LOST, it has been told. */
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
static inline int move_past(struct listener *e, const struct message *m) {
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

/* Remembers the slab that a block is in. */
static void memo_note(struct listener *e, const struct place *place) {
    const ipcheap_heap *heap = e->base.heap;
    e->memo.bytes = 0;
    if (!place->in_slab) return;
    uint64_t page = page_of_granule(heap, place->block.granule);
    e->memo.first = page_offset(heap, page);
    e->memo.page = &heap->pages[page];
    e->memo.slab = place->block.slab;
    e->memo.word = get(&heap->pages[page].word);
    e->memo.size_class = get(&place->block.slab->size_class);
    e->memo.block_bytes = place->block.bytes;
    e->memo.reciprocal = (UINT64_C(1) << 32) / (place->block.bytes / BLOCK_ALIGN) + 1;
    if (word_state(e->memo.word) != PAGE_USED || word_kind(e->memo.word) != KIND_SLAB) return;
    if (e->memo.size_class != size_class_of(place->block.bytes)) return;
    /* What is left over at the end of a slab is no block. */
    e->memo.bytes = (uint64_t)slab_blocks(heap, e->memo.size_class) * place->block.bytes;
}

/* True if there is a block of that slab, which has not become another one. The message is held. */
static inline bool memo_has(const struct listener *e, uint64_t block) {
    uint64_t into = block - e->memo.first;
    if (UNLIKELY(into >= e->memo.bytes)) return false;
    uint64_t index = into / BLOCK_ALIGN * e->memo.reciprocal >> 32;
    return LIKELY(index * e->memo.block_bytes == into && get(&e->memo.page->word) == e->memo.word &&
                  get(&e->memo.slab->size_class) == e->memo.size_class);
}

static inline void record_fill(struct listener *e, const struct message *m, uint64_t offset,
                               uint64_t size, ipcheap_record *record) {
    record->data = at_offset(e->base.heap, offset);
    record->nbytes = size_bytes(size);
    record->offset = offset;
    record->position = m->position;
    record->consumer = &e->base;
    record->form = size_form(size);
}

/* Does what describe() does for any message. */
static int __attribute__((noinline)) describe_any(struct listener *e, const struct message *m,
                                                  ipcheap_record *record) {
    struct place place;
    ipcheap_heap *heap = e->base.heap;
    const struct envelope *envelope = message_envelope(heap, m, &place);
    if (!envelope) return channel_poison(heap, e->base.channel);
    uint64_t offset = m->block, size = get(&envelope->size);
    uint64_t room = place_bytes(heap, &place) - sizeof *envelope;
    if (m->apart) {
        offset = get(&envelope->payload);
        bool there = place_find(heap, offset, &place) &&
                     get(place.tag) == payload_tag(&e->bus, m->block);
        if (!there) return channel_poison(heap, e->base.channel);
        room = place_bytes(heap, &place);
    } else {
        memo_note(e, &place);
    }
    if (size_bytes(size) > room) return channel_poison(heap, e->base.channel);
    e->base.heard = get(&envelope->sender);
    record_fill(e, m, offset, size, record);
    return 0;
}

/* Fills in the handle of a message that is held; CORRUPT if there cannot be one. */
static inline int describe(struct listener *e, const struct message *m, ipcheap_record *record) {
    if (UNLIKELY(m->apart || !memo_has(e, m->block))) return describe_any(e, m, record);
    uint64_t room = e->memo.block_bytes - sizeof(struct envelope);
    const struct envelope *envelope = at_offset(e->base.heap, m->block + room);
    uint64_t size = get(&envelope->size);
    if (UNLIKELY(size_bytes(size) > room)) return channel_poison(e->base.heap, e->base.channel);
    e->base.heard = get(&envelope->sender);
    record_fill(e, m, m->block, size, record);
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
        hold_end(e->base.me, &e->bus, word_at(e, word), &m);
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
        hold_end(endpoint->me, &e->bus, word_at(e, word), &m);
    }
    word_return(e, word, true);
    if (error) return (int)told(e, error);
    *nbytes = record.nbytes;
    *form = record.form;
    return 0;
}

enum { GROUP = 64, GROUP_BYTES = 64 << 10 }; /* at most; a single message may be longer */

/* Messages that are copied out while they are held, and released together. */
struct group {
    struct message messages[GROUP];
    ipcheap_bytes bytes[GROUP];
    uint32_t words[GROUP];
    size_t count, room;
    bool stuck; /* a word still holds: its message could not be given up */
};

/* Holds the message behind those of the group if it is there, and fits; false otherwise. */
static bool group_add(struct listener *e, struct group *g, uint64_t *nbytes) {
    uint64_t position = e->position + g->count;
    uint64_t word = get_acquire(bus_slot(&e->bus, position)); /* pairs with post_once() */
    if (slot_laps_past(&e->bus, position, word) != 0) return false;
    struct message *m = &g->messages[g->count];
    shared64 *hold = word_at(e, g->words[g->count]);
    ipcheap_record record;
    *m = slot_says(position, word);
    put(hold, hold_of(HOLD_HELD, m));
    compiler_fence(); /* pairs with the membarrier in bus_settle() */
    if (UNLIKELY(get(&e->bus.heap->header->fences))) full_fence();
    bool there = get(&e->bus.root->floor) <= position && !describe(e, m, &record);
    *nbytes += there ? record.nbytes : 0;
    if (there && *nbytes <= GROUP_BYTES) {
        g->bytes[g->count++] = (ipcheap_bytes){record.data, record.nbytes};
        return true;
    }
    hold_end(e->base.me, &e->bus, hold, m); /* the next call will see what it is */
    return false;
}

/* Holds the next messages: 0, or why there is none. */
static int group_find(struct listener *e, struct group *g) {
    ipcheap_record record;
    g->count = 0;
    int error = hold_next(e, g->words[0], &g->messages[0]);
    if (UNLIKELY(error)) return error;
    error = describe(e, &g->messages[0], &record);
    if (UNLIKELY(error)) {
        hold_end(e->base.me, &e->bus, word_at(e, g->words[0]), &g->messages[0]);
        return error;
    }
    g->bytes[g->count++] = (ipcheap_bytes){record.data, record.nbytes};
    uint64_t nbytes = record.nbytes;
    while (g->count < g->room && nbytes < GROUP_BYTES && group_add(e, g, &nbytes)) {}
    return 0;
}

/* Receives copies of a group: how many, or why none, and they are still the next. */
static int64_t receive_group(struct listener *e, struct group *g, ipcheap_taker *take,
                             void *context) {
    int error = group_find(e, g);
    if (UNLIKELY(error)) return error;
    error = take(context, g->bytes, g->count);
    if (error > 0) error = IPCHEAP_BAD_VALUE;
    if (LIKELY(!error)) error = move_past(e, &g->messages[g->count - 1]);
    if (LIKELY(!error)) e->received += g->count - 1;
    for (size_t i = 0; i < g->count; i++) {
        shared64 *hold = word_at(e, g->words[i]);
        g->stuck |= hold_end(e->base.me, &e->bus, hold, &g->messages[i]) != 0;
    }
    if (UNLIKELY(error)) return error;
    listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE);
    return (int64_t)g->count;
}

static int64_t receive_copies(ipcheap_endpoint *endpoint, ipcheap_taker *take, void *context,
                              size_t limit) {
    struct listener *e = listener_of(endpoint);
    struct group g;
    int error = listener_check(endpoint);
    if (UNLIKELY(error)) return error;
    if (UNLIKELY(!listener_can_go_on(endpoint))) {
        bell_settle(endpoint);
        error = endpoint_why_not(endpoint);
        return error == IPCHEAP_WOULD_BLOCK ? 0 : error;
    }
    size_t done = 0;
    int64_t got = 1;
    for (g.room = 0; g.room < least(limit, GROUP) && !error; g.room += !error)
        error = word_take(e, &g.words[g.room]);
    size_t words = g.room;
    if (!words) return error;
    for (g.stuck = false; done < limit && got > 0 && !g.stuck;) {
        g.room = least(words, limit - done);
        got = receive_group(e, &g, take, context);
        if (got > 0) done += (size_t)got;
    }
    while (words) word_return(e, g.words[--words], true);
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

/* What it has lost in all, also what the next receive is going to notice. */
static uint64_t count_lost(const struct listener *e) {
    uint64_t to = get(&e->bus.root->floor), from = first_lost(e, to);
    return e->lost + (to > from && !endpoint_is_over(&e->base) ? to - from : 0);
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
        .lost = count_lost(e),
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
    shared64 *hold = word_at(e, record->place);
    uint64_t word = hold ? get(hold) : 0;
    *m = (struct message){record->position, (word & OFFSET_UNITS) << 6, word >> 61 & 1};
    bool same = hold_uses(word) &&
                ((word >> 40) & HOLD_POSITION_MASK) == (record->position & HOLD_POSITION_MASK);
    return same && (m->apart || m->block == record->offset) ? hold : NULL;
}

/* True if the caller is the listener's own thread, and no other may be closing it. */
static bool is_own(const ipcheap_endpoint *e) {
    /* A thread that closes the heap closes it soon: ipcheap_endpoint_enter() has refused then. */
    return e->me->thread == thread_marker() && !e->heap->closed && !endpoint_is_closing(e) &&
           !e->closed;
}

/* Frees what is left of a closed listener, if that was its last message. Not under the mutex. */
static void clean_up(struct participant *me, uint32_t index, uint32_t incarnation) {
    struct bus bus;
    if (!heap_try_lock(me)) return; /* somebody else does it later */
    const struct channel *channel = channel_at(me->heap, index);
    bool same = channel && get(&channel->incarnation) == incarnation &&
                get(&channel->state) >> 62 != CHANNEL_FREE;
    if (same && bus_view(me->heap, index, &bus)) listeners_tidy(&bus);
    if (same) channel_drop_if_done(me, index);
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
    uint32_t incarnation = e->incarnation;
    uint64_t before = bus_stay(me, &bus); /* without the hold, its memory may go */
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
    bus_return(me, before);
    if (!error && closed) clean_up(me, bus.index, incarnation);
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
    sender->pid = (uint32_t)get(&envelope->ids);
    sender->tid = (uint32_t)(get(&envelope->ids) >> 32);
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
    struct survey s = bus_survey(bus, UINT64_MAX);
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
    uint64_t before = bus_stay(me, &e->bus); /* without the hold, its memory may go */
    /* The payload went elsewhere: what is left of the message is the envelope of one that was apart. */
    if (m.apart) message_let_go(me, &e->bus, &m);
    put_release(hold, 0);                                              /* pairs with held_step() */
    if (!closed) listener_tell(&e->bus, e->shared, WAITS_FOR_RELEASE); /* as in free_elsewhere() */
    word_return(e, record->place, own);
    if (closed) participant_holds(me, e->base.me, -1);
    uint32_t index = e->bus.index, incarnation = e->incarnation;
    if (e->orphaned && !listener_holds(e)) listener_destroy(e);
    bus_return(me, before);
    if (closed) clean_up(me, index, incarnation);
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
