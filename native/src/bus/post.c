/* post.c - posting copies and records, and making room for them. */

#include "bus/post.h"

#include "base/timing.h"
#include "bus/reclaim.h"
#include "channel/side.h"
#include "memory/deferred.h"
#include "memory/participant_memory.h"
#include "segment/clock.h"
#include "segment/lock.h"

/* Finding the bus ------------------------------------------------------------------------------ */

/* The bus that this thread has posted to last. A handle's serial number is never used again. */
static _Thread_local struct {
    uint64_t serial;
    struct poster poster;
} last __attribute__((tls_model("initial-exec")));

static int find_anew(struct poster *p, const ipcheap_channel *handle) {
    struct channel *channel;
    int error = channel_of(p->me->heap, handle, &channel);
    if (error) return error;
    if (handle->kind != IPCHEAP_BUS) return IPCHEAP_CHANNEL_TYPE;
    if (get(&channel->flags) & CHANNEL_POISONED) return IPCHEAP_CORRUPT;
    if (bus_view(p->me->heap, handle->index, &p->bus)) return 0;
    error = heap_lock(p->me);
    if (error) return error;
    error = channel_of(p->me->heap, handle, &channel);
    if (!error) error = bus_view_made(p->me, handle->index, &p->bus);
    heap_unlock(p->me);
    return error;
}

int poster_here(ipcheap_heap *heap, const ipcheap_channel *handle, struct poster **result) {
    struct poster *p = *result = &last.poster;
    if (LIKELY(last.serial == heap->serial && p->bus.index == handle->index &&
               p->incarnation == handle->incarnation && handle->kind == IPCHEAP_BUS &&
               !heap->closed))
        return 0;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    last.serial = 0;
    int error = participant_current(heap, &p->me);
    if (!error) error = find_anew(p, handle);
    if (error) return error;
    const struct participant_slot *record = p->me->record;
    p->incarnation = handle->incarnation;
    p->ids = (uint64_t)get(&record->tid) << 32 | get(&record->pid);
    p->namespace = get(&record->namespace);
    last.serial = heap->serial;
    return 0;
}

int poster_find(ipcheap_heap *heap, const ipcheap_channel *handle, struct poster *poster) {
    struct poster *here;
    int error = poster_here(heap, handle, &here);
    if (!error) *poster = *here;
    return error;
}

/* Letters -------------------------------------------------------------------------------------- */

static inline void envelope_fill(const struct poster *p, struct envelope *envelope,
                                 uint64_t payload, uint64_t size) {
    put(&envelope->payload, payload);
    put(&envelope->size, size);
    put(&envelope->sender, p->me->tag);
    put(&envelope->ids, p->ids);
    put(&envelope->namespace, p->namespace);
}

/* Allocates where no current slab has a block. */
static int __attribute__((noinline)) take_elsewhere(struct poster *p, uint64_t nbytes,
                                                    struct letter *letter,
                                                    struct envelope **envelope) {
    struct participant *me = p->me;
    struct message *m = &letter->message;
    struct place place;
    int error = deferred_reserve(me, 1); /* for letter_drop() */
    if (!error) error = block_allocate(me, nbytes, &m->block);
    if (error) return error;
    letter->tag = slab_my_tag(me, m->block, &letter->slab);
    *envelope = message_envelope(me->heap, m, &place);
    if (!letter->tag) letter->tag = place.tag;
    /* A heap of 16 TiB has blocks that no part number reaches. */
    bool numbered = tag_position(payload_tag(&p->bus, m->block)) >= PART_OF_ENVELOPE;
    if (*envelope && (numbered || !m->apart)) return 0;
    block_drop(me, m->block);
    return *envelope ? IPCHEAP_HEAP_FULL : IPCHEAP_CORRUPT;
}

/* Allocates a block of the caller's, and finds its envelope. */
static inline int take_block(struct poster *p, uint64_t nbytes, struct letter *letter,
                             struct envelope **envelope) {
    struct participant *me = p->me;
    struct message *m = &letter->message;
    uint32_t size_class = size_class_of(nbytes);
    m->block = LIKELY(size_class < me->heap->geometry.classes) ? slab_take(me, size_class) : 0;
    if (UNLIKELY(!m->block)) return take_elsewhere(p, nbytes, letter, envelope);
    me->held++;
    /* As slab_take() has just left it. */
    const struct slab_cache *cache = &me->memory->slabs;
    letter->slab = cache->last_slab;
    letter->tag = &letter->slab->shared->tags[cache->last_index];
    uint64_t at = m->apart ? m->block : m->block + letter->slab->bytes - sizeof **envelope;
    *envelope = at_offset(me->heap, at);
    return 0;
}

void letter_drop(struct poster *p, struct letter *letter) {
    block_drop(p->me, letter->message.block);
}

int letter_copy(struct poster *p, const void *data, uint64_t nbytes, struct letter *letter) {
    struct envelope *envelope;
    if (UNLIKELY(nbytes >> SIZE_BITS)) return IPCHEAP_BAD_VALUE;
    letter->message = (struct message){.position = UINT64_MAX};
    letter->parcel.record = NULL;
    letter->from = 0;
    uint64_t whole = round_up(greatest(nbytes, 1), BLOCK_ALIGN) + sizeof *envelope;
    int error = take_block(p, whole, letter, &envelope);
    if (UNLIKELY(error)) return error;
    uint64_t block = letter->message.block;
    memory_copy(p->me, at_offset(p->me->heap, block), data, (size_t)nbytes);
    envelope_fill(p, envelope, block, size_word(nbytes, IPCHEAP_PLAIN));
    letter->large = UNLIKELY(block % PAGE == 0) && offset_is_extent(p->me->heap, block);
    return 0;
}

int letter_enclose(struct poster *p, ipcheap_record *record, struct letter *letter) {
    struct envelope *envelope;
    letter->message = (struct message){.position = UINT64_MAX, .apart = true};
    letter->from = 0;
    int error = take_block(p, sizeof *envelope, letter, &envelope);
    if (error) return error;
    /* Afterwards: allocating forgets slabs that others have taken, and the parcel's may be one. */
    error = parcel_judge(p->me, record, &letter->parcel);
    if (error) {
        letter_drop(p, letter);
        return error;
    }
    envelope_fill(p, envelope, letter->parcel.offset, letter->parcel.size);
    letter->large = offset_is_extent(p->me->heap, letter->parcel.offset);
    return 0;
}

/* Gives a payload its tag back. */
static void payload_return(struct letter *letter) {
    if (!letter->from) return;
    put_release(letter->parcel.tag, letter->from); /* pairs with place_is() */
    letter->from = 0;
}

/* Notes that the caller does not hold the blocks any more, before it frees others of the same slab. */
static void letter_sent(struct poster *p, struct letter *letter) {
    if (letter->slab)
        slab_let_go(letter->slab, (uint64_t)(letter->tag - letter->slab->shared->tags));
    p->me->held--;
    if (letter->message.apart) parcel_sent(p->me, &letter->parcel);
}

void letter_gone(struct letter *letter) {
    if (letter->message.apart) parcel_gone(&letter->parcel);
}

/* Room ----------------------------------------------------------------------------------------- */

/* A word of `stalled`: the last bits of the cursor 22 | boot-time ms 42. It is void for others. */
static uint64_t stalled_word(uint64_t cursor, uint64_t ms) {
    return (cursor & LAP_MASK) << 42 | (ms & ((UINT64_C(1) << 42) - 1));
}

/*
 * True if writers go on without a listener that is in the way: it has been so for longer than the bus's
 * patience. Notes since when.
 */
static bool is_passed(const struct bus *bus, struct bus_listener *l, uint64_t cursor) {
    if (get(&l->passed) == cursor + 1) return true;
    if (bus->patience == PATIENCE_UNLIMITED) return false;
    uint64_t now = stalled_word(cursor, (uint64_t)(clock_now(bus->heap) / MILLISECOND));
    uint64_t since = get(&l->stalled);
    if (since >> 42 != now >> 42 || since == 0 || since > now) {
        put_if(&l->stalled, &since, now);
        return false;
    }
    if (now - since <= bus->patience) return false; /* both are rounded down */
    if (put_exchange(&l->passed, cursor + 1) != cursor + 1) put_add(&bus->root->passes, 1);
    return true;
}

/*
 * Passes those that are below a position and may be passed; false if another one is in the way. Of several
 * the blocker is one of the caller's own, which only the caller could move, or the one that is most behind.
 */
static bool pass_all(struct poster *p, uint64_t need) {
    struct bus *bus = &p->bus;
    struct listener_walk walk = {0};
    uint64_t least_rank = UINT64_MAX;
    while (listener_step(bus, &walk)) {
        struct bus_listener *l = walk.listener;
        uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() */
        if (cursor >= need || get(&l->flags) & LISTENER_CLOSED || listener_is_lossy(bus, l))
            continue;
        if (is_passed(bus, l, cursor)) continue;
        bool own = participant_owns(p->me, get_acquire(&l->seat.holder)); /* with listener_take() */
        uint64_t rank = own ? 0 : cursor + 1;
        if (rank >= least_rank) continue;
        least_rank = rank;
        p->blocker = walk.number;
    }
    return least_rank == UINT64_MAX;
}

/* Returns how far the floor may be raised for a post at q; less than `need` if it may not. */
static uint64_t floor_for(struct bus *bus, uint64_t q, uint64_t need) {
    uint64_t more = need + (bus->mask + 1) / 8;
    struct survey s = bus_survey(bus, more);
    /* The history as it is now, unless its oldest message stands in the place of the post. */
    uint64_t most = greatest(bus_history_from(bus, q), need), all = least(survey_all(&s), most);
    if (all >= need) return all;
    if (s.counted < need) return 0;
    /* Some lose messages: one that was passed no more than it must, lossy ones few at a time. */
    if (s.passed < need) return need;
    return least(least(least(s.counted, s.passed), most), more);
}

/* Makes room at position q; false if the blocker that is noted then is in the way. */
static bool make_room(struct poster *p, uint64_t q) {
    struct bus *bus = &p->bus;
    uint64_t need = q - bus->mask, to = floor_for(bus, q, need);
    if (to < need) {
        if (!pass_all(p, need)) return false;
        to = need;
    }
    floor_raise(bus, to);
    return true;
}

static inline bool room_at(struct poster *p, uint64_t q) {
    const struct bus *bus = &p->bus;
    return LIKELY(q <= bus->mask || get(&bus->root->floor) > q - bus->mask - 1) || make_room(p, q);
}

bool bus_has_room(struct poster *p) { return room_at(p, bus_end(&p->bus)); }

/* Posting -------------------------------------------------------------------------------------- */

/* Tries to post at the first free position: 1, 0 if another writer was faster, or an error. Inside. */
static int post_once(struct poster *p, struct letter *letter) {
    struct bus *bus = &p->bus;
    struct bus_root *root = bus->root;
    struct participant_slot *record = p->me->record;
    uint64_t q;
    if (UNLIKELY(!bus_find_end(bus, &q))) return channel_poison(bus->heap, bus->channel);
    if (UNLIKELY(!room_at(p, q))) return IPCHEAP_WOULD_BLOCK;
    shared64 *slot = bus_slot(bus, q);
    uint64_t seen = get_acquire(slot); /* pairs with post_once() */
    struct message *m = &letter->message;
    /* It was q's turn at a time when the floor was not beyond it: slot_laps_past() is right then. */
    if (UNLIKELY(get_acquire(&root->floor) > q)) return 0; /* pairs with floor_raise() */
    if (UNLIKELY(slot_laps_past(bus, q, seen) >= 0)) {
        if (m->position == q) return channel_poison(bus->heap, bus->channel); /* it stays so */
        m->position = q;
        return 0;
    }
    /* Pairs with bus_sweep(). */
    if (UNLIKELY(q > bus->mask && get_acquire(&root->swept) < q - bus->mask)) {
        int error = bus_sweep(p->me, bus);
        if (error) return error;
    }
    m->position = q;
    put(&record->intent, hold_of(HOLD_HELD, m));
    if (m->apart && !letter->from) {
        letter->from = letter->parcel.from;
        put(&record->from, letter->from);
        put_release(letter->parcel.tag, payload_tag(bus, m->block)); /* after what explains it */
    }
    put_release(letter->tag, message_tag(bus, q)); /* after the intent; pairs with place_is() */
    enum message_kind kind = LIKELY(!m->apart) ? MESSAGE_WHOLE
                             : letter->large   ? MESSAGE_LARGE
                                               : MESSAGE_APART;
    uint64_t word = ring_word(bus_lap(bus, q), (enum slot_state)kind, m->block);
    /* Posted; pairs with move_past(), and publishes what the user wrote. */
    if (LIKELY(put_if(slot, &seen, word))) {
        put_release(&root->head, q + 1); /* pairs with bus_end() */
        return 1;
    }
    put_release(letter->tag, my_tag(p->me)); /* pairs with place_is() */
    return 0;
}

/* After a post: what it pushes out of the history, or what nobody is going to receive, goes. */
static void __attribute__((noinline)) tidy_slowly(struct poster *p, const struct letter *letter) {
    struct bus *bus = &p->bus;
    const struct message *m = &letter->message;
    bool large = letter->large;
    if (!bus_has_listeners(bus)) {
        bus_tidy(p->me, bus);
        return;
    }
    struct message leaves = *m;
    if (bus->history) {
        if (m->position < bus->history) return;
        leaves.position -= bus->history;
        uint64_t word = get_acquire(bus_slot(bus, leaves.position)); /* pairs with post_once() */
        if (slot_laps_past(bus, leaves.position, word) != 0) return;
        leaves = slot_says(leaves.position, word);
        /* Not by its envelope: another participant may be freeing that. */
        large = slot_message(word) == MESSAGE_LARGE ||
                (!leaves.apart && offset_is_extent(bus->heap, leaves.block));
    }
    if (large && get(&bus->root->floor) <= leaves.position) extent_let_go(p->me, bus, &leaves);
}

static inline void tidy_after(struct poster *p, const struct letter *letter) {
    const struct bus *bus = &p->bus;
    if (UNLIKELY(letter->large || bus->history || !get(&bus->root->active[0])))
        tidy_slowly(p, letter);
}

int letter_post(struct poster *p, struct letter *letter) {
    int posted;
    do posted = post_once(p, letter);
    while (UNLIKELY(posted == 0));
    if (LIKELY(posted > 0)) {
        put(&p->me->record->intent, 0);
        letter_sent(p, letter);
        tidy_after(p, letter);
        return 0;
    }
    payload_return(letter);
    put(&p->me->record->intent, 0);
    return posted;
}

/* Does the same from outside, and wakes listeners. */
static int post_and_tell(struct poster *p, struct letter *letter) {
    int error = bus_enter(p->me, &p->bus, p->incarnation);
    if (UNLIKELY(error)) return error;
    const struct errand *errand = p->errand;
    if (UNLIKELY(errand != NULL)) error = errand->before(p);
    if (LIKELY(!error)) error = letter_post(p, letter);
    if (UNLIKELY(errand != NULL) && !error) errand->after(p, letter->message.position);
    if (LIKELY(!error)) bus_tell(&p->bus);
    bus_leave(p->me);
    return error;
}

/* Passes a blocker whose holder is dead, and which nobody can recover now. */
static bool pass_dead(struct poster *p, uint64_t holder) {
    if (bus_enter(p->me, &p->bus, p->incarnation)) return false;
    struct bus_listener *l = listener_at(&p->bus, p->blocker);
    uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() */
    bool same = listener_holder(l) == holder;
    if (same) put(&l->passed, cursor + 1);
    bus_leave(p->me);
    return same;
}

/* Ends the registration of a blocker that is dead, or that never was; false if it is still in the way. */
static bool end_blocker(struct poster *p, uint64_t holder) {
    bool ended = false;
    /* Somebody may be stopped who has the lock. */
    if (heap_lock_soon(p->me)) return pass_dead(p, holder);
    if (bus_enter(p->me, &p->bus, p->incarnation) == 0) {
        listeners_recover(p->me, &p->bus);
        const struct bus_listener *l = listener_at(&p->bus, p->blocker);
        ended = !l || !listener_is_open(l);
        bus_leave(p->me);
    }
    heap_unlock(p->me);
    return ended;
}

int bus_check_room(struct poster *p) {
    for (;;) {
        int error = bus_enter(p->me, &p->bus, p->incarnation);
        if (error) return error;
        bool room = bus_has_room(p);
        const struct bus_listener *l = room ? NULL : listener_at(&p->bus, p->blocker);
        uint64_t holder = l ? listener_holder(l) : 0;
        bus_leave(p->me);
        if (room) return 0;
        bool dead = !participant_alive(p->me->heap, tag_slot(holder), tag_generation(holder));
        if (!l || !dead || !end_blocker(p, holder)) return IPCHEAP_WOULD_BLOCK;
    }
}

int post_bytes(struct poster *p, const void *data, uint64_t nbytes, uint64_t *position) {
    struct letter letter;
    int error = nbytes < PAGE ? 0 : bus_check_room(p); /* before a long copy */
    if (LIKELY(!error)) error = letter_copy(p, data, nbytes, &letter);
    if (UNLIKELY(error)) return error;
    error = post_and_tell(p, &letter);
    if (UNLIKELY(error)) {
        letter_drop(p, &letter);
        return error;
    }
    if (position) *position = letter.message.position;
    return 0;
}

/* Posts a record, whose lender cannot close meanwhile. Under the heap's mutex. */
static int post_enclosed(struct poster *p, ipcheap_record *record, uint64_t *position) {
    struct letter letter;
    int error = letter_enclose(p, record, &letter);
    if (error) return error;
    error = post_and_tell(p, &letter);
    if (error) {
        letter_drop(p, &letter);
        return error;
    }
    letter_gone(&letter);
    if (position) *position = letter.message.position;
    return 0;
}

/* Posts a copy of a record that others need as well, and frees the caller's. */
static int post_shared(struct poster *p, ipcheap_record *record, uint64_t *position) {
    ipcheap_record copy;
    int error = bus_check_room(p);
    if (!error) error = parcel_copy(p->me, record, &copy);
    if (error) return error;
    error = post_enclosed(p, &copy, position);
    if (error) block_drop(p->me, copy.offset);
    if (!error) parcel_copied(p->me, record);
    return error;
}

int post_record(struct poster *p, ipcheap_record *record, uint64_t *position) {
    ipcheap_heap *heap = p->me->heap;
    /* A sender that allocates under the mutex would keep a closing endpoint waiting, not others. */
    pthread_mutex_lock(&heap->mutex);
    int error = post_enclosed(p, record, position);
    pthread_mutex_unlock(&heap->mutex);
    return error == PARCEL_SHARED ? post_shared(p, record, position) : error;
}

int ipcheap_try_post(ipcheap_heap *heap, const ipcheap_channel *handle, const void *data,
                     uint64_t nbytes, uint64_t *position) {
    struct poster *p;
    int error = poster_here(heap, handle, &p);
    if (UNLIKELY(error)) return error;
    do error = post_bytes(p, data, nbytes, position);
    while (UNLIKELY(error == IPCHEAP_WOULD_BLOCK) && bus_check_room(p) == 0);
    return error;
}

int64_t ipcheap_try_post_many(ipcheap_heap *heap, const ipcheap_channel *handle,
                              const ipcheap_bytes *copied, size_t count) {
    struct poster *p;
    struct letter letter;
    size_t done = 0;
    int error = poster_here(heap, handle, &p);
    while (!error && done < count) {
        error = letter_copy(p, copied[done].data, copied[done].nbytes, &letter);
        if (UNLIKELY(error)) break;
        error = bus_enter(p->me, &p->bus, p->incarnation);
        if (LIKELY(!error)) {
            error = letter_post(p, &letter);
            bus_leave(p->me);
        }
        if (LIKELY(!error))
            done++;
        else
            letter_drop(p, &letter);
    }
    if (done &&
        bus_enter(p->me, &p->bus, p->incarnation) == 0) { /* unless it is removed meanwhile */
        bus_tell(&p->bus);
        bus_leave(p->me);
    }
    return done || error == IPCHEAP_WOULD_BLOCK ? (int64_t)done : error;
}

int ipcheap_try_post_record(ipcheap_heap *heap, const ipcheap_channel *handle,
                            ipcheap_record *record, uint64_t *position) {
    struct poster p;
    int error = poster_find(heap, handle, &p);
    if (error) return error;
    do error = post_record(&p, record, position);
    while (error == IPCHEAP_WOULD_BLOCK && bus_check_room(&p) == 0);
    return error;
}
