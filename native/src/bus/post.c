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
    uint32_t incarnation;
    struct bus bus;
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

int poster_find(ipcheap_heap *heap, const ipcheap_channel *handle, struct poster *p) {
    if (UNLIKELY(heap->closed)) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &p->me);
    if (UNLIKELY(error)) return error;
    p->incarnation = handle->incarnation;
    p->errand = NULL;
    if (LIKELY(last.serial == heap->serial && last.bus.index == handle->index &&
               last.incarnation == handle->incarnation && handle->kind == IPCHEAP_BUS)) {
        p->bus = last.bus;
        return 0;
    }
    error = find_anew(p, handle);
    if (error) return error;
    last.serial = heap->serial;
    last.incarnation = handle->incarnation;
    last.bus = p->bus;
    return 0;
}

/* Letters -------------------------------------------------------------------------------------- */

static void envelope_fill(const struct poster *p, struct envelope *envelope, uint64_t payload,
                          uint64_t size) {
    const struct participant_slot *record = p->me->record;
    put(&envelope->payload, payload);
    put(&envelope->size, size);
    put(&envelope->sender, p->me->tag);
    put(&envelope->pid, get(&record->pid));
    put(&envelope->tid, get(&record->tid));
    put(&envelope->namespace, get(&record->namespace));
}

/* Allocates a block of the caller's, and finds its envelope. */
static int take_block(struct poster *p, uint64_t nbytes, struct letter *letter,
                      struct envelope **envelope) {
    struct participant *me = p->me;
    struct message *m = &letter->message;
    uint32_t size_class = size_class_of(nbytes);
    m->position = UINT64_MAX;
    int error = deferred_reserve(me, 1);
    if (UNLIKELY(error)) return error;
    m->block = LIKELY(size_class < me->heap->geometry.classes) ? slab_take(me, size_class) : 0;
    if (LIKELY(m->block))
        me->held++;
    else
        error = block_allocate(me, nbytes, &m->block);
    if (UNLIKELY(error)) return error;
    struct place place;
    letter->tag = slab_my_tag(me, m->block, &letter->slab);
    if (LIKELY(letter->tag)) {
        uint64_t end = m->apart ? m->block : m->block + letter->slab->bytes - sizeof **envelope;
        *envelope = at_offset(me->heap, end);
        return 0;
    }
    *envelope = message_envelope(me->heap, m, &place);
    letter->slab = NULL;
    letter->tag = place.tag;
    /* A heap of 16 TiB has blocks that no part number reaches. */
    bool numbered = tag_position(payload_tag(&p->bus, m->block)) >= PART_OF_ENVELOPE;
    if (*envelope && (numbered || !m->apart)) return 0;
    block_drop(me, m->block);
    return *envelope ? IPCHEAP_HEAP_FULL : IPCHEAP_CORRUPT;
}

void letter_drop(struct poster *p, struct letter *letter) {
    block_drop(p->me, letter->message.block);
}

int letter_copy(struct poster *p, const void *data, uint64_t nbytes, struct letter *letter) {
    struct envelope *envelope;
    if (UNLIKELY(nbytes >> SIZE_BITS)) return IPCHEAP_BAD_VALUE;
    letter->message.apart = false;
    letter->parcel.record = NULL;
    letter->from = 0;
    uint64_t whole = round_up(greatest(nbytes, 1), BLOCK_ALIGN) + sizeof *envelope;
    int error = take_block(p, whole, letter, &envelope);
    if (UNLIKELY(error)) return error;
    uint64_t block = letter->message.block;
    memory_copy(p->me, at_offset(p->me->heap, block), data, (size_t)nbytes);
    envelope_fill(p, envelope, block, ring_size(nbytes, IPCHEAP_PLAIN));
    return 0;
}

int letter_enclose(struct poster *p, ipcheap_record *record, struct letter *letter) {
    struct envelope *envelope;
    letter->message.apart = true;
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
        bool own = participant_owns(p->me, get_acquire(&l->seat.holder)); /* listener_take() */
        uint64_t rank = own ? 0 : cursor + 1;
        if (rank >= least_rank) continue;
        least_rank = rank;
        p->blocker = walk.number;
    }
    return least_rank == UINT64_MAX;
}

/* Returns how far the floor may be raised for a post at q; less than `need` if it may not. */
static uint64_t floor_for(struct bus *bus, uint64_t q, uint64_t need) {
    struct survey s = bus_survey(bus);
    /* The message at q itself is still to be received, even if nobody listens yet. */
    uint64_t most = least(bus_history_from(bus, q + 1), q), all = least(survey_all(&s), most);
    if (all >= need) return all;
    if (s.counted < need) return 0;
    /* Some lose messages: one that was passed no more than it must, lossy ones few at a time. */
    if (s.passed < need) return need;
    return least(least(least(s.counted, s.passed), most), need + (bus->mask + 1) / 8);
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
    uint64_t q = bus_end(bus), above = q - get_acquire(&root->floor); /* with floor_raise() */
    if (UNLIKELY(above >
                 bus->mask + 1)) /* others have posted a whole log meanwhile, or q is none */
        return (int64_t)above < 0 ? 0 : channel_poison(bus->heap, bus->channel);
    if (UNLIKELY(!room_at(p, q))) return IPCHEAP_WOULD_BLOCK;
    shared64 *slot = bus_slot(bus, q);
    uint64_t seen = get_acquire(slot); /* pairs with the swap below */
    struct message *m = &letter->message;
    /* It was q's turn at a time when the floor was not beyond it: slot_laps_past() is right then. */
    if (UNLIKELY(get_acquire(&root->floor) > q)) return 0; /* pairs with floor_raise() */
    if (UNLIKELY(slot_laps_past(bus, q, seen) >= 0)) {
        if (m->position == q) return channel_poison(bus->heap, bus->channel); /* it is for ever */
        m->position = q;
        return 0;
    }
    if (UNLIKELY(q > bus->mask && get_acquire(&root->swept) < q - bus->mask)) { /* bus_sweep() */
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
    uint64_t word = ring_word(
        bus_lap(bus, q), m->apart ? (enum slot_state)MESSAGE_APART : (enum slot_state)MESSAGE_WHOLE,
        m->block);
    /* Posted; pairs with move_past(), and publishes what the user wrote. */
    if (LIKELY(put_if(slot, &seen, word))) {
        put_release(&root->head, q + 1); /* pairs with bus_end() */
        return 1;
    }
    put_release(letter->tag, my_tag(p->me)); /* pairs with place_is() */
    return 0;
}

/* After a post: what it pushes out of the history, or what nobody listens to, is not needed any more. */
static void tidy_after(struct poster *p, uint64_t q) {
    struct bus *bus = &p->bus;
    if (UNLIKELY(!bus_has_listeners(bus))) {
        bus_tidy(p->me, bus);
    } else if (UNLIKELY(bus->history && q >= bus->history)) {
        uint64_t leaves = q - bus->history,
                 word = get_acquire(bus_slot(bus, leaves)); /* post_once() */
        if (slot_laps_past(bus, leaves, word) != 0) return;
        struct message m = slot_says(leaves, word);
        if (get(&bus->root->floor) <= leaves) extent_let_go(p->me, bus, &m);
    }
}

int letter_post(struct poster *p, struct letter *letter) {
    const struct errand *errand = p->errand;
    int posted, error = bus_enter(p->me, &p->bus, p->incarnation);
    if (UNLIKELY(error)) return error;
    posted = UNLIKELY(errand != NULL) ? errand->before(p) : 0;
    while (LIKELY(posted == 0)) posted = post_once(p, letter);
    if (LIKELY(posted > 0)) {
        if (UNLIKELY(errand != NULL)) errand->after(p, letter->message.position);
        bus_tell(&p->bus);
        letter_sent(p, letter);
        put(&p->me->record->intent, 0);
        tidy_after(p, letter->message.position);
    } else {
        payload_return(letter);
        put(&p->me->record->intent, 0);
    }
    bus_leave(p->me);
    return posted > 0 ? 0 : posted;
}

bool recover_soon(struct participant *me, uint64_t holder) {
    ipcheap_heap *heap = me->heap;
    if (side_state(holder) != SIDE_OPEN) return false;
    if (participant_alive(heap, tag_slot(holder), tag_generation(holder))) return false;
    uint32_t lock = get(&heap->header->lock);
    bool taken = lock && lock != me->lock_word && lock_owner_alive(heap, lock);
    return !taken && recover_if_dead(me, holder) == 0;
}

int bus_check_room(struct poster *p) {
    for (;;) {
        int error = bus_enter(p->me, &p->bus, p->incarnation);
        if (error) return error;
        bool room = bus_has_room(p);
        const struct bus_listener *l = room ? NULL : listener_at(&p->bus, p->blocker);
        uint64_t holder = l ? get_acquire(&l->seat.holder) : 0; /* with listener_take() */
        bus_leave(p->me);
        if (room) return 0;
        if (!recover_soon(p->me, holder)) return IPCHEAP_WOULD_BLOCK;
    }
}

int post_bytes(struct poster *p, const void *data, uint64_t nbytes, uint64_t *position) {
    struct letter letter;
    int error = nbytes < PAGE ? 0 : bus_check_room(p); /* before a long copy */
    if (LIKELY(!error)) error = letter_copy(p, data, nbytes, &letter);
    if (UNLIKELY(error)) return error;
    error = letter_post(p, &letter);
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
    error = letter_post(p, &letter);
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
    return error ? error : parcel_release(p->me, record);
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
    struct poster p;
    int error = poster_find(heap, handle, &p);
    if (UNLIKELY(error)) return error;
    do error = post_bytes(&p, data, nbytes, position);
    while (UNLIKELY(error == IPCHEAP_WOULD_BLOCK) && bus_check_room(&p) == 0);
    return error;
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
