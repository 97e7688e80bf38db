/*
 * sync.c - events, barriers and locks in 64 bytes of a static segment.
 *
 *   event    word 0: 0 clear, 1 set, 2 clear with waiters
 *   barrier  word 0: broken 1 | the last round was broken 1 | unused 14 | arrived 16
 *            word 1: generation; both change in one 8-byte store
 *   lock     word 0: waiters 1 | generation 18 | slot + 1 in 13, like the heap lock
 */

#include "static/sync.h"

#include "base/timing.h"
#include "segment/lock.h"
#include "segment/membership.h"

/* Returns the time that is left, but no more than a waiter may sleep without looking around. */
static int64_t slice(int64_t deadline, int64_t most) {
    return (int64_t)least((uint64_t)os_remaining(deadline), (uint64_t)most);
}

/* Words ---------------------------------------------------------------------------------- */

static bool word_is(const void *word, uint64_t expected, uint32_t width) {
    if (width == 4) /* pairs with the user's store */
        return get_acquire((const shared32 *)word) == (uint32_t)expected;
    return get_acquire((const shared64 *)word) == expected; /* pairs with the user's store */
}

int ipcheap_word_wait(ipcheap_heap *heap, const void *word, uint64_t expected, uint32_t width,
                      int64_t timeout_ns) {
    (void)heap;
    if (width != 4 && width != 8) return IPCHEAP_BAD_VALUE;
    int64_t deadline = os_deadline(timeout_ns);
    while (word_is(word, expected, width)) {
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
        /* The kernel compares 32 bits: the lower half of a wide word, which comes first. */
        int error = os_futex_wait(word, (uint32_t)expected, slice(deadline, LOOK_AGAIN));
        if (error == IPCHEAP_INTERRUPTED) return error;
    }
    return 0;
}

int ipcheap_word_wake(const void *word, int count) {
    return count > 0 ? os_futex_wake(word, count) : 0; /* the kernel takes 0 for 1 */
}

/* Events --------------------------------------------------------------------------------- */

int ipcheap_event_set(void *event) {
    if (put_exchange((shared32 *)event, 1) == 2) os_futex_wake(event, INT32_MAX);
    return 0;
}

int ipcheap_event_clear(void *event) {
    uint32_t set = 1;
    put_if((shared32 *)event, &set, 0);
    return 0;
}

int ipcheap_event_is_set(const void *event) {
    return get_acquire((const shared32 *)event) == 1; /* pairs with ipcheap_event_set() */
}

void event_expect(void *event) {
    uint32_t clear = 0;
    put_if((shared32 *)event, &clear, 2);
}

int ipcheap_event_wait(ipcheap_heap *heap, void *event, int64_t timeout_ns) {
    (void)heap;
    shared32 *word = event;
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        uint32_t seen = get_acquire(word); /* pairs with ipcheap_event_set() */
        if (seen == 1) return 0;
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
        if (seen == 0 && !put_if(word, &seen, 2)) continue;
        int error = os_futex_wait(word, 2, slice(deadline, LOOK_AGAIN));
        if (error == IPCHEAP_INTERRUPTED) return error;
    }
}

/* Barriers ------------------------------------------------------------------------------- */

#define BARRIER_BROKEN UINT64_C(0x80000000)
#define BARRIER_LAST_BROKEN UINT64_C(0x40000000)
#define BARRIER_ARRIVED UINT64_C(0xFFFF)

static uint32_t generation_of(uint64_t state) { return (uint32_t)(state >> 32); }

static shared32 *generation_word(void *barrier) { return (shared32 *)barrier + 1; }

/* Returns the word that begins the next round with these flags and ends this round's waits. */
static uint64_t next_round(uint64_t state, uint64_t flags) {
    return (uint64_t)(generation_of(state) + 1) << 32 | flags;
}

int ipcheap_barrier_arrive(void *barrier, uint32_t parties, uint32_t *generation) {
    shared64 *word = barrier;
    if (parties < 1 || parties > BARRIER_ARRIVED) return IPCHEAP_BAD_VALUE;
    uint64_t seen = get_acquire(word); /* pairs with barrier_break(), and with itself */
    for (;;) {
        if (seen & BARRIER_BROKEN) return IPCHEAP_BROKEN;
        uint64_t arrived = seen & BARRIER_ARRIVED;
        bool last = arrived + 1 >= parties;
        *generation = generation_of(seen);
        if (!put_if(word, &seen, last ? next_round(seen, 0) : seen + 1)) continue;
        if (last) os_futex_wake(generation_word(barrier), INT32_MAX);
        return (int)arrived;
    }
}

int ipcheap_barrier_wait(ipcheap_heap *heap, void *barrier, uint32_t generation,
                         int64_t timeout_ns) {
    (void)heap;
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        /* Pairs with ipcheap_barrier_arrive() and barrier_break(). */
        uint64_t state = get_acquire((shared64 *)barrier);
        if (generation_of(state) == generation + 1)
            return state & BARRIER_LAST_BROKEN ? IPCHEAP_BROKEN : 0;
        if (generation_of(state) != generation) return 0;
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
        int error = os_futex_wait(generation_word(barrier), generation,
                                  slice(deadline, LOOK_AGAIN));
        if (error == IPCHEAP_INTERRUPTED) return error;
    }
}

/* Ends a round that cannot be completed: all waits in it return BROKEN. */
static int barrier_break(void *barrier, uint64_t broken) {
    shared64 *word = barrier;
    uint64_t seen = get_acquire(word), next; /* pairs with ipcheap_barrier_arrive() */
    do {
        bool waiting = (seen & BARRIER_ARRIVED) != 0;
        next = waiting ? next_round(seen, broken | BARRIER_LAST_BROKEN)
                       : (seen & ~BARRIER_BROKEN) | broken;
    } while (!put_if(word, &seen, next));
    os_futex_wake(generation_word(barrier), INT32_MAX);
    return 0;
}

int ipcheap_barrier_reset(void *barrier) { return barrier_break(barrier, 0); }

int ipcheap_barrier_abort(void *barrier) { return barrier_break(barrier, BARRIER_BROKEN); }

int ipcheap_barrier_waiting(const void *barrier) {
    /* Pairs with ipcheap_barrier_arrive(). */
    return (int)(get_acquire((const shared64 *)barrier) & BARRIER_ARRIVED);
}

int ipcheap_barrier_broken(const void *barrier) {
    /* Pairs with barrier_break(). */
    return (get_acquire((const shared64 *)barrier) & BARRIER_BROKEN) != 0;
}

/* Locks ---------------------------------------------------------------------------------- */

int ipcheap_lock_acquire(ipcheap_heap *heap, void *lock, int64_t timeout_ns) {
    shared32 *word = lock;
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (error) return error;
    int64_t deadline = os_deadline(timeout_ns);
    uint32_t waiters = 0; /* after a sleep it stays set: others may still sleep */
    for (;;) {
        uint32_t seen = get(word);
        if (seen == 0) {
            if (put_if(word, &seen, me->lock_word | waiters)) return 0;
            continue;
        }
        if (!lock_owner_alive(heap, seen)) {
            if (put_if(word, &seen, me->lock_word | LOCK_WAITERS)) return IPCHEAP_OWNER_DIED;
            continue;
        }
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
        if (!(seen & LOCK_WAITERS) && !put_if(word, &seen, seen | LOCK_WAITERS)) continue;
        waiters = LOCK_WAITERS;
        error = os_futex_wait(word, seen | LOCK_WAITERS, slice(deadline, LOOK_AFTER_OWNER));
        if (error == IPCHEAP_INTERRUPTED) return error;
    }
}

int ipcheap_lock_release(ipcheap_heap *heap, void *lock) {
    shared32 *word = lock;
    struct participant *me;
    int error = participant_current(heap, &me);
    if (error) return error;
    if ((get(word) & ~LOCK_WAITERS) != me->lock_word) return IPCHEAP_WRONG_THREAD;
    if (put_exchange(word, 0) & LOCK_WAITERS) os_futex_wake(word, 1);
    return 0;
}

int ipcheap_lock_owner(ipcheap_heap *heap, const void *lock, ipcheap_holder *holder) {
    uint32_t word = get((const shared32 *)lock);
    if (word == 0) return 0;
    lock_owner_describe(heap, word, holder);
    return 1;
}
