#include "bus/broadcast.h"

#include <stdlib.h>

#include "base/timing.h"
#include "bus/await.h"
#include "bus/reclaim.h"
#include "channel/side.h"
#include "memory/deferred.h"
#include "segment/clock.h"
#include "segment/lock.h"
#include "segment/sleep.h"

/* Debts ---------------------------------------------------------------------------------------- */

/* True if a listener holds what is below `end`, from `from` on, and has not acknowledged it. */
static bool has_unreleased(struct bus *bus, uint32_t number, struct bus_listener *l, uint64_t from,
                           uint64_t end) {
    struct held_walk walk = held_walk_of(l);
    struct message m;
    while (held_step(bus, number, l, &walk)) {
        if (hold_state(walk.hold) != HOLD_HELD) continue;
        /* A hold has the last bits of its position; its block's tag has all. */
        uint64_t after = ((walk.hold >> 40) - from) & HOLD_POSITION_MASK;
        if (end - from <= HOLD_POSITION_MASK && after >= end - from) continue;
        bool known = hold_message(bus, walk.hold, &m);
        /* Otherwise it is being released or handed on. */
        if (known ? m.position >= from && m.position < end : get(walk.at) == walk.hold) return true;
    }
    return false;
}

/* What a listener has lost so far, and the last of it. */
struct loss {
    uint64_t count, from, to;
};

/* Reads it in one piece; false while the listener is writing it. Pairs with skip_lost(). */
static bool loss_read(const struct bus_side *side, struct loss *loss) {
    loss->from = get_acquire(&side->lost_from); /* with skip_lost() */
    loss->to = get_acquire(&side->lost_to);     /* with skip_lost() */
    loss->count = get_acquire(&side->lost);     /* with skip_lost() */
    return loss->from != LOSING &&
           get_acquire(&side->lost_from) == loss->from; /* with skip_lost() */
}

/* True if it lost something of what is waited for since the message was posted. */
static bool lost_it(const struct owed *owed, const struct loss *loss, uint64_t from, uint64_t end) {
    if (loss->count == owed->lost) return false;
    if (loss->from < end && loss->to > from) return true;
    /* Only the last loss is on record. One before that may have been of what is waited for. */
    return loss->count - owed->lost != loss->to - loss->from;
}

/* How it is with a listener now; [from, end) is what it owes. */
static enum debt debt_now(struct bus *bus, const struct owed *owed, uint64_t from, uint64_t end) {
    struct bus_listener *l = listener_at(bus, owed->number);
    /* Pairs with listener_free() and listener_take(). */
    if (!l || get_acquire(&l->seat.holder) != owed->holder) return GONE;
    if (get_acquire(&l->side.bus.joined) != owed->joined) return GONE; /* with listener_take() */
    if (get(&l->flags) & LISTENER_CLOSED) return GONE;
    uint64_t cursor = get_acquire(&l->side.position); /* pairs with move_past() and skip_lost() */
    if (cursor < end) return get(&l->passed) == cursor + 1 ? SLOW : OWED;
    struct loss loss;
    if (!loss_read(&l->side.bus, &loss)) return OWED;
    if (lost_it(owed, &loss, from, end)) return SLOW;
    return has_unreleased(bus, owed->number, l, from, end) ? OWED : RELEASED;
}

static uint64_t first_owed(const struct ipcheap_broadcast *b, const struct owed *owed) {
    return b->drains ? 0 : greatest(b->position, owed->joined);
}

/* True if a listener is dead, and not recovered yet, perhaps because the heap lock is taken. */
static bool is_dead(const struct poster *p, const struct owed *owed) {
    return !participant_alive(p->bus.heap, tag_slot(owed->holder), tag_generation(owed->holder));
}

static bool is_settled(struct ipcheap_broadcast *b, struct owed *owed) {
    if (owed->debt == OWED)
        owed->debt = debt_now(&b->poster.bus, owed, first_owed(b, owed), b->end);
    /* It may have been passed because it is dead. */
    if (UNLIKELY(owed->debt == SLOW) && is_dead(&b->poster, owed)) owed->debt = GONE;
    return owed->debt != OWED;
}

/* Makes room for all listeners that there are, so that noting them after the post cannot fail. */
static int owed_reserve(struct ipcheap_broadcast *b) {
    size_t room = 2 * (listeners_used(&b->poster.bus) + (size_t)FIRST_LISTENERS);
    if (b->room >= room) return 0;
    struct owed *more = os_reallocate(b->owed, room * sizeof *more);
    if (!more) return IPCHEAP_NO_MEMORY;
    b->owed = more;
    b->room = room;
    return 0;
}

/* True for a listener to which what was posted up to `end` is owed. */
static bool is_owed(const struct bus *bus, const struct bus_listener *l, uint64_t end) {
    uint64_t joined = get_acquire(&l->side.bus.joined); /* pairs with listener_take() */
    return listener_is_open(l) && !listener_is_lossy(bus, l) && joined < end;
}

/* True if a listener was noted already; they are noted in the order of their numbers. */
static bool is_noted(const struct ipcheap_broadcast *b, size_t count, size_t *at,
                     const struct owed *owed) {
    while (*at < count && b->owed[*at].number < owed->number) ++*at;
    return *at < count && b->owed[*at].number == owed->number &&
           b->owed[*at].holder == owed->holder && b->owed[*at].joined == owed->joined;
}

/*
 * Notes to whom what is below `end` is owed, beside those that are noted. It is called before the post,
 * for one that releases and closes immediately, and after it, for one that has come meanwhile.
 */
static void broadcast_owe(struct ipcheap_broadcast *b, uint64_t end) {
    struct bus *bus = &b->poster.bus;
    struct listener_walk walk = {0};
    size_t noted = b->count, at = 0;
    while (listener_step(bus, &walk) && b->count < b->room) {
        const struct bus_listener *l = walk.listener;
        uint64_t holder = get_acquire(&l->seat.holder); /* pairs with listener_take() */
        if (!is_owed(bus, l, end)) continue;
        if (participant_owns(b->poster.me, holder)) continue; /* it could not release it now */
        struct owed owed = {
            .number = walk.number,
            .debt = OWED,
            .holder = holder,
            .joined = get(&l->side.bus.joined),
            .lost = get(&l->side.bus.lost),
        };
        if (!is_noted(b, noted, &at, &owed)) b->owed[b->count++] = owed;
    }
}

/* The turn ------------------------------------------------------------------------------------- */

static uint64_t turn_holder(uint64_t turn) { return tag_owner(turn); }

/* True if everybody has released the message of the turn, of those that one can know to owe it. */
static bool is_released(struct bus *bus, uint64_t turn, uint64_t position) {
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        struct bus_listener *l = walk.listener;
        uint64_t holder = get_acquire(&l->seat.holder); /* pairs with listener_take() */
        if (!is_owed(bus, l, position + 1)) continue;
        if (tag_slot(holder) == tag_slot(turn)) continue; /* its caller's own */
        struct owed owed = {.number = walk.number,
                            .holder = holder,
                            .joined = get(&l->side.bus.joined),
                            .lost = get(&l->side.bus.lost)};
        enum debt debt = debt_now(bus, &owed, position, position + 1);
        bool lives = debt != OWED ||
                     participant_alive(bus->heap, tag_slot(holder), tag_generation(holder));
        if (debt == OWED && lives) return false;
    }
    return true;
}

/* True if a turn is over, although its holder has not given it back. */
static bool turn_is_over(struct bus *bus, uint64_t turn) {
    ipcheap_heap *heap = bus->heap;
    uint64_t holder = turn_holder(turn), count = turn_count(turn);
    if (!participant_alive(heap, tag_slot(holder), tag_generation(holder))) return true;
    /* Pair with turn_take() and turn_note(). */
    uint64_t until = get_acquire(&bus->root->turn_until);
    uint64_t message = get_acquire(&bus->root->turn_message); /* with turn_note() */
    /* They are of this turn if they have its count, and the word is still the same. */
    if (get_acquire(&bus->root->turn) != turn) return false; /* pairs with turn_end() */
    uint64_t now = (uint64_t)(clock_now(heap) / MILLISECOND);
    if ((until & TURN_COUNT) == count && now >= turn_end_time(until)) return true;
    if ((message & TURN_COUNT) != count) return false; /* not posted yet */
    return is_released(bus, turn, (message >> TURN_COUNT_BITS) - 1);
}

static void turn_notify(struct bus *bus) {
    if (!put_exchange(&bus->root->turn_waiters, 0)) return;
    put_add(&bus->root->turn_wake, 1);
    os_futex_wake(&bus->root->turn_wake, INT32_MAX);
}

/* Returns the word of a new turn; its count is another one than the last message's. */
static uint64_t turn_of(const struct participant *me, uint64_t other) {
    static _Thread_local uint64_t turns __attribute__((tls_model("initial-exec")));
    if (!turns) turns = (uint64_t)tag_slot(me->tag) << 8; /* rarely like another's */
    if ((++turns & TURN_COUNT) == other) turns++;
    return me->tag | (turns & TURN_COUNT) << STAMP_SHIFT;
}

/*
 * Takes the turn, if nobody has it any more. Inside. Its end is stored before it is taken, so that a
 * participant that is stopped in here has a turn that ends, and confirmed afterwards, which makes it another
 * word: one that was stopped in here before cannot replace it.
 */
static bool turn_take(struct ipcheap_broadcast *b) {
    struct bus_root *root = b->poster.bus.root;
    uint64_t until = get_acquire(&root->turn_until); /* with turn_take(); before the turn */
    uint64_t seen = get_acquire(&root->turn);        /* pairs with turn_end() */
    if (seen && !turn_is_over(&b->poster.bus, seen)) return false;
    uint64_t mine = turn_of(b->poster.me, get(&root->turn_message) & TURN_COUNT);
    if (!put_if(&root->turn_until, &until, turn_end_word(mine, b->until, false))) return false;
    if (!put_if(&root->turn, &seen, mine)) return false;
    b->turn = mine;
    until = get_acquire(&root->turn_until);    /* with turn_take() */
    while (get_acquire(&root->turn) == mine && /* with turn_end(): it may be over by now */
           !put_if(&root->turn_until, &until, turn_end_word(mine, b->until, true))) {}
    return true;
}

static void turn_end(struct ipcheap_broadcast *b) {
    struct bus *bus = &b->poster.bus;
    uint64_t seen = b->turn;
    struct participant *me;
    b->turn = 0;
    if (!seen || bus->heap->closed || participant_current(bus->heap, &me)) return;
    /* A forked child has a copy of its parent's broadcast. */
    const struct participant *holder = bus->heap->by_slot[tag_slot(seen)];
    if (!holder || !participant_owns(holder, turn_holder(seen))) return;
    if (bus_enter(me, bus, b->poster.incarnation)) return;
    if (put_if(&bus->root->turn, &seen, 0)) turn_notify(bus);
    bus_leave(me);
}

/* Posting -------------------------------------------------------------------------------------- */

int ipcheap_broadcast_begin(ipcheap_heap *heap, const ipcheap_channel *channel,
                            ipcheap_broadcast **result) {
    struct poster poster;
    int error = poster_find(heap, channel, &poster);
    if (error) return error;
    ipcheap_broadcast *b = os_allocate_zeroed(1, sizeof *b);
    if (!b) return IPCHEAP_NO_MEMORY;
    b->poster = poster;
    b->channel = *channel;
    b->position = UINT64_MAX;
    *result = b;
    return 0;
}

static struct ipcheap_broadcast *broadcast_of(struct poster *p) {
    return (struct ipcheap_broadcast *)(void *)p;
}
static_assert(offsetof(struct ipcheap_broadcast, poster) == 0,
              "a broadcast begins with its poster");

/* Before the post: 0 if the turn is ours; room was there just now. */
static int turn_for_post(struct poster *p) {
    struct ipcheap_broadcast *b = broadcast_of(p);
    if (!bus_has_room(p) || !turn_take(b)) return IPCHEAP_WOULD_BLOCK;
    b->count = 0;
    broadcast_owe(b, bus_end(&p->bus) + 1);
    return 0;
}

/* After the post: says which message the turn is about. */
static void turn_note(struct poster *p, uint64_t position) {
    struct ipcheap_broadcast *b = broadcast_of(p);
    b->position = position;
    b->end = position + 1;
    /* Otherwise its time was up before the post, and it was taken. */
    if (get(&p->bus.root->turn) == b->turn) /* Release: pairs with turn_is_over(). */
        put_release(&p->bus.root->turn_message, turn_word(b->turn, position + 1));
    broadcast_owe(b, b->end);
}

static const struct errand broadcast_errand = {turn_for_post, turn_note};

/* Before a letter is made that could not be posted: 0, WOULD_BLOCK or an error. */
static int turn_seems_free(struct ipcheap_broadcast *b) {
    struct poster *p = &b->poster;
    int error = bus_enter(p->me, &p->bus, p->incarnation);
    if (error) return error;
    uint64_t turn = get_acquire(&p->bus.root->turn); /* pairs with turn_end() */
    bool ours = bus_has_room(p) && (!turn || turn_is_over(&p->bus, turn));
    bus_leave(p->me);
    return ours ? 0 : IPCHEAP_WOULD_BLOCK;
}

/* Returns in ms of the heap's clock when a turn ends that may last so long from now on. */
static uint64_t turn_until(const ipcheap_heap *heap, int64_t timeout_ns) {
    int64_t until;
    if (timeout_ns < 0 || __builtin_add_overflow(clock_now(heap), timeout_ns, &until))
        return TURN_MOST;
    return ((uint64_t)until + MILLISECOND - 1) / MILLISECOND;
}

static int try_broadcast(ipcheap_broadcast *b, const void *data, uint64_t nbytes,
                         ipcheap_record *record, int64_t timeout_ns) {
    struct poster *p = &b->poster;
    int error = participant_current(p->bus.heap, &p->me);
    if (!error) error = owed_reserve(b);
    if (!error) error = turn_seems_free(b);
    if (error) return error;
    b->until = turn_until(p->bus.heap, timeout_ns);
    p->errand = &broadcast_errand;
    error = record ? post_record(p, record, NULL) : post_bytes(p, data, nbytes, NULL);
    if (error) turn_end(b);
    return error;
}

int ipcheap_try_broadcast(ipcheap_broadcast *b, const void *data, uint64_t nbytes,
                          int64_t timeout_ns) {
    return try_broadcast(b, data, nbytes, NULL, timeout_ns);
}

int ipcheap_try_broadcast_record(ipcheap_broadcast *b, ipcheap_record *record, int64_t timeout_ns) {
    return try_broadcast(b, NULL, 0, record, timeout_ns);
}

int ipcheap_drain_begin(ipcheap_broadcast *b) {
    struct poster *p = &b->poster;
    int error = participant_current(p->bus.heap, &p->me);
    if (!error) error = owed_reserve(b);
    if (!error) error = bus_enter(p->me, &p->bus, p->incarnation);
    if (error) return error;
    b->drains = true;
    b->end = bus_end(&p->bus);
    b->position = b->end ? b->end - 1 : UINT64_MAX;
    broadcast_owe(b, b->end);
    bus_leave(p->me);
    return 0;
}

/* Waiting -------------------------------------------------------------------------------------- */

/* True if nothing but a listener of the calling thread, which is in the way, can make room. */
static bool is_own_fault(struct poster *p) {
    const struct bus_listener *l = listener_at(&p->bus, p->blocker);
    return p->bus.patience == PATIENCE_UNLIMITED && l &&
           participant_owns(p->me, get_acquire(&l->seat.holder)); /* with listener_take() */
}

int ipcheap_own_listener(ipcheap_heap *heap, const ipcheap_channel *channel) {
    struct poster p;
    int error = poster_find(heap, channel, &p);
    if (!error) error = bus_check_room(&p);
    return error == IPCHEAP_WOULD_BLOCK ? is_own_fault(&p) ? IPCHEAP_OWN_LISTENER : 0 : error;
}

static bool there_is_room(void *context) { return bus_has_room(context); }

/* Sleeps once for room: 0 to look again. */
static int sleep_for_room(struct poster *p, int64_t deadline, bool indefinitely, int64_t *nap,
                          const _Atomic bool *cancelled) {
    if (indefinitely && is_own_fault(p)) return IPCHEAP_OWN_LISTENER;
    struct waiting w = {p->blocker, WAITS_FOR_ROOM, there_is_room, p, cancelled};
    return writer_sleep(p, &w, deadline, nap);
}

int ipcheap_wait_room(ipcheap_heap *heap, const ipcheap_channel *channel, int64_t timeout_ns) {
    struct poster p;
    int64_t deadline = os_deadline(timeout_ns), nap = FIRST_NAP;
    int error = poster_find(heap, channel, &p);
    if (error) return error;
    struct waiting w = {0, WAITS_FOR_ROOM, there_is_room, &p, NULL};
    error = bus_enter(p.me, &p.bus, p.incarnation);
    if (error) return error;
    bool room = timeout_ns ? writer_spin(&p, &w) : bus_has_room(&p);
    bus_leave(p.me);
    while (!room && !error) {
        error = bus_check_room(&p);
        room = error == 0;
        if (error == IPCHEAP_WOULD_BLOCK)
            error = sleep_for_room(&p, deadline, timeout_ns < 0, &nap, NULL);
    }
    return error;
}

/* Sleeps once for the turn: 0 to look again. */
static int sleep_for_turn(struct poster *p, int64_t deadline, int64_t *nap,
                          const _Atomic bool *cancelled) {
    struct bus_root *root = p->bus.root;
    int error = bus_enter(p->me, &p->bus, p->incarnation);
    if (error) return error;
    uint32_t seen = get_acquire(&root->turn_wake); /* pairs with turn_notify() */
    put_exchange(&root->turn_waiters, 1);
    uint64_t turn = get_acquire(&root->turn); /* pairs with turn_end() */
    bool over = !turn || turn_is_over(&p->bus, turn);
    bus_leave(p->me);
    if (over) return 0;
    int64_t left = os_remaining(deadline);
    if (left == 0) return IPCHEAP_TIMED_OUT;
    if (*cancelled) return IPCHEAP_INTERRUPTED;
    int64_t span = (int64_t)least((uint64_t)left, (uint64_t)*nap);
    int result = os_futex_wait(&root->turn_wake, seen, span);
    if (result == IPCHEAP_TIMED_OUT) *nap = (int64_t)least(2 * (uint64_t)*nap, LONGEST_NAP);
    return result == IPCHEAP_INTERRUPTED ? result : 0;
}

int ipcheap_wait_turn(ipcheap_broadcast *b, int64_t timeout_ns) {
    struct poster p = b->poster;
    int64_t deadline = os_deadline(timeout_ns), nap = FIRST_NAP;
    if (p.bus.heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(p.bus.heap, &p.me); /* it may be another thread that waits */
    while (!error) {
        int room = bus_check_room(&p);
        if (room && room != IPCHEAP_WOULD_BLOCK) return room;
        error = bus_enter(p.me, &p.bus, p.incarnation);
        if (error) return error;
        uint64_t turn = get_acquire(&p.bus.root->turn); /* pairs with turn_end() */
        bool ours = !turn || turn_is_over(&p.bus, turn);
        bus_leave(p.me);
        if (!room && ours) return 0;
        error = room ? sleep_for_room(&p, deadline, timeout_ns < 0, &nap, &b->cancelled)
                     : sleep_for_turn(&p, deadline, &nap, &b->cancelled);
    }
    return error;
}

/* A listener that is waited for. */
struct awaited_listener {
    struct ipcheap_broadcast *b;
    struct owed *owed;
};

static bool has_released(void *context) {
    struct awaited_listener *a = context;
    return is_settled(a->b, a->owed);
}

/* Looks once: true if the listener owes nothing any more. */
static bool await_look(struct poster *p, struct awaited_listener *a, int *error) {
    *error = bus_enter(p->me, &p->bus, p->incarnation);
    if (*error) return false;
    bool over = has_released(a);
    bus_leave(p->me);
    return over;
}

/* Waits for one listener: 0, TIMED_OUT if it still owes a release, or why not. */
static int await_one(struct ipcheap_broadcast *b, struct poster *p, struct owed *owed,
                     int64_t deadline) {
    struct awaited_listener context = {b, owed};
    struct waiting w = {owed->number, WAITS_FOR_RELEASE, has_released, &context, &b->cancelled};
    int64_t nap = FIRST_NAP;
    int error;
    if (await_look(p, &context, &error)) return 0;
    if (error) return error;
    if (os_remaining(deadline)) {
        error = bus_enter(p->me, &p->bus, p->incarnation);
        if (error) return error;
        bool over = writer_spin(p, &w);
        bus_leave(p->me);
        if (over) return 0;
    }
    for (;;) {
        error = os_remaining(deadline) ? writer_sleep(p, &w, deadline, &nap) : IPCHEAP_TIMED_OUT;
        if (owed->debt != OWED) return 0;
        /* What woke it up comes first: whether it is alive takes system calls. */
        if (!error && await_look(p, &context, &error)) return 0;
        if (is_dead(p, owed)) owed->debt = GONE;
        if (owed->debt != OWED) return 0;
        if (error) return error;
    }
}

/* Looks at all a last time: those behind the one that was waited for may be done. True if one is not. */
static bool any_owes(struct ipcheap_broadcast *b) {
    bool any = false;
    for (size_t i = 0; i < b->count; i++) {
        struct owed *owed = &b->owed[i];
        if (is_settled(b, owed)) continue;
        bool lives = participant_alive(b->poster.bus.heap, tag_slot(owed->holder),
                                       tag_generation(owed->holder));
        if (!lives) owed->debt = GONE;
        any |= lives;
    }
    return any;
}

int ipcheap_await_releases(ipcheap_broadcast *b, int64_t timeout_ns) {
    struct poster p = b->poster;
    int64_t deadline = os_deadline(timeout_ns);
    if (p.bus.heap->closed) return IPCHEAP_HEAP_CLOSED;
    /* It may be another thread that waits. */
    int error = participant_current(p.bus.heap, &p.me);
    for (size_t i = 0; i < b->count && !error; i++)
        if (b->owed[i].debt == OWED) error = await_one(b, &p, &b->owed[i], deadline);
    if (error && error != IPCHEAP_TIMED_OUT) return error;
    bool late = error;
    error = bus_enter(p.me, &p.bus, p.incarnation);
    if (error) return error;
    late = late && any_owes(b);
    bus_leave(p.me);
    return late ? IPCHEAP_TIMED_OUT : 0;
}

void ipcheap_broadcast_cancel(ipcheap_broadcast *b) { b->cancelled = true; }

void ipcheap_broadcast_describe(const ipcheap_broadcast *b, ipcheap_broadcast_report *report) {
    *report = (ipcheap_broadcast_report){.position = b->position, .listeners = b->count};
    for (size_t i = 0; i < b->count; i++) {
        enum debt debt = b->owed[i].debt;
        report->released += debt == RELEASED;
        report->gone += debt == GONE;
        report->slow += debt == SLOW || debt == OWED;
    }
}

int ipcheap_next_slow(const ipcheap_broadcast *b, uint64_t *cursor, ipcheap_holder *holder) {
    while (*cursor < b->count) {
        const struct owed *owed = &b->owed[(*cursor)++];
        if (owed->debt != SLOW && owed->debt != OWED) continue;
        participant_describe(b->poster.bus.heap, tag_slot(owed->holder), holder);
        return 1;
    }
    return 0;
}

void ipcheap_broadcast_end(ipcheap_broadcast *b) {
    if (!b) return;
    if (b->turn) turn_end(b);
    free(b->owed);
    free(b);
}

/* In one call ---------------------------------------------------------------------------------- */

/* Takes the phases before the post: 0, or why it was not posted. */
static int post_in_turn(ipcheap_broadcast *b, const void *data, uint64_t nbytes, int64_t deadline,
                        bool nowait) {
    bool forever = deadline == INT64_MAX;
    for (;;) {
        int64_t left = forever ? -1 : os_remaining(deadline);
        ipcheap_limit_lock(left);
        int error = ipcheap_try_broadcast(b, data, nbytes, left);
        ipcheap_limit_lock(-1);
        if (error != IPCHEAP_WOULD_BLOCK) return error;
        if (nowait) return IPCHEAP_CHANNEL_BUSY;
        error = ipcheap_wait_turn(b, left);
        if (error) return error;
    }
}

int ipcheap_broadcast_bytes(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data,
                            uint64_t nbytes, int64_t timeout_ns, int nowait,
                            ipcheap_broadcast_report *report) {
    ipcheap_broadcast *b;
    int64_t deadline = os_deadline(timeout_ns);
    *report = (ipcheap_broadcast_report){.position = UINT64_MAX};
    int error = ipcheap_broadcast_begin(heap, bus, &b);
    if (error) return error;
    error = post_in_turn(b, data, nbytes, deadline, nowait != 0);
    if (!error) {
        int64_t left = deadline == INT64_MAX ? -1 : os_remaining(deadline);
        error = ipcheap_await_releases(b, left);
        if (error == IPCHEAP_TIMED_OUT) error = 0;
    }
    ipcheap_broadcast_describe(b, report);
    ipcheap_broadcast_end(b);
    return error;
}

int ipcheap_drain(ipcheap_heap *heap, const ipcheap_channel *bus, int64_t timeout_ns,
                  ipcheap_broadcast_report *report) {
    ipcheap_broadcast *b;
    *report = (ipcheap_broadcast_report){.position = UINT64_MAX};
    int error = ipcheap_broadcast_begin(heap, bus, &b);
    if (error) return error;
    error = ipcheap_drain_begin(b);
    if (!error) error = ipcheap_await_releases(b, timeout_ns);
    if (error == IPCHEAP_TIMED_OUT) error = 0;
    ipcheap_broadcast_describe(b, report);
    ipcheap_broadcast_end(b);
    return error;
}

int ipcheap_bus_blocker(ipcheap_heap *heap, const ipcheap_channel *bus, int broadcast,
                        ipcheap_holder *holder) {
    struct poster p;
    int result = 0, error = poster_find(heap, bus, &p);
    if (!error) error = bus_enter(p.me, &p.bus, p.incarnation);
    if (error) return error;
    if (!bus_has_room(&p)) {
        const struct bus_listener *l = listener_at(&p.bus, p.blocker);
        if (l) participant_describe(heap, tag_slot(get(&l->seat.holder)), holder);
        result = l != NULL;
    } else if (broadcast) {
        uint64_t turn = get_acquire(&p.bus.root->turn); /* pairs with turn_end() */
        if (turn && !turn_is_over(&p.bus, turn)) {
            participant_describe(heap, tag_slot(turn), holder);
            result = 2;
        }
    }
    bus_leave(p.me);
    return result;
}

/* Posting, and waiting for room. */
int ipcheap_post(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data, uint64_t nbytes,
                 int64_t timeout_ns, uint64_t *position) {
    int64_t deadline = os_deadline(timeout_ns);
    for (int64_t left = timeout_ns;; left = timeout_ns < 0 ? -1 : os_remaining(deadline)) {
        ipcheap_limit_lock(left);
        int error = ipcheap_try_post(heap, bus, data, nbytes, position);
        ipcheap_limit_lock(-1);
        if (LIKELY(error != IPCHEAP_WOULD_BLOCK)) return error;
        error = ipcheap_wait_room(heap, bus, timeout_ns < 0 ? -1 : os_remaining(deadline));
        if (error) return error;
    }
}

int ipcheap_post_record(ipcheap_heap *heap, const ipcheap_channel *bus, ipcheap_record *record,
                        int64_t timeout_ns, uint64_t *position) {
    int64_t deadline = os_deadline(timeout_ns);
    for (int64_t left = timeout_ns;; left = timeout_ns < 0 ? -1 : os_remaining(deadline)) {
        ipcheap_limit_lock(left);
        int error = ipcheap_try_post_record(heap, bus, record, position);
        ipcheap_limit_lock(-1);
        if (error != IPCHEAP_WOULD_BLOCK) return error;
        error = ipcheap_wait_room(heap, bus, timeout_ns < 0 ? -1 : os_remaining(deadline));
        if (error) return error;
    }
}
