#include "segment/lock.h"

#include "base/timing.h"
#include "segment/clock.h"
#include "segment/participant.h"
#include "segment/sleep.h"

static const int spins_before_sleep = 200;

static _Thread_local int must_not_sleep __attribute__((tls_model("initial-exec")));

void ipcheap_allow_sleep(int allow) { must_not_sleep = !allow; }

bool may_sleep(void) { return !must_not_sleep; }

static _Thread_local int64_t limit __attribute__((tls_model("initial-exec"))) = INT64_MAX;

int64_t ipcheap_clock(void) { return os_now(); }

void ipcheap_limit_lock(int64_t timeout_ns) {
    int64_t grace =
        LOOK_AFTER_OWNER; /* a dead owner is noticed, and one that is just awake is done */
    if (timeout_ns > INT64_MAX - grace) timeout_ns = -1;
    limit = os_deadline(timeout_ns < 0 ? -1 : timeout_ns + grace);
}

static int sleep_on(ipcheap_heap *heap, uint32_t seen, int64_t span) {
    switch (heap->sem_kind) {
    case IPCHEAP_SEM_POSIX:
        return os_semaphore_wait(heap->semaphore, span);
    case IPCHEAP_SEM_SYSV:
        return os_sysv_wait(heap->sem_id, span);
    default:
        return os_futex_wait(&heap->header->lock, seen, span);
    }
}

static void wake_one(ipcheap_heap *heap) {
    switch (heap->sem_kind) {
    case IPCHEAP_SEM_POSIX:
        os_semaphore_post(heap->semaphore);
        break;
    case IPCHEAP_SEM_SYSV:
        os_sysv_post(heap->sem_id);
        break;
    default:
        os_futex_wake(&heap->header->lock, 1);
    }
}

/* The slot's word has the full generation, the lock word only its low bits. */
bool lock_owner_alive(ipcheap_heap *heap, uint32_t word) {
    uint32_t slot = (word & 0x1FFF) - 1;
    uint32_t generation;
    if (!participant_latest(heap, slot, &generation)) return false;
    if (lock_word_of(slot, generation) != (word & ~LOCK_WAITERS)) return false;
    return participant_alive(heap, slot, generation);
}

void lock_owner_describe(ipcheap_heap *heap, uint32_t word, ipcheap_holder *holder) {
    participant_describe(heap, (word & 0x1FFF) - 1, holder);
    holder->alive = lock_owner_alive(heap, word);
}

static bool try_lock(ipcheap_heap *heap, uint32_t mine) {
    uint32_t free = 0;
    return put_if(&heap->header->lock, &free, mine);
}

/* True if nobody will release the lock: its owner is dead, or it is ours, and we do not hold it. */
static bool lock_is_lost(const struct participant *me, uint32_t word) {
    return (word & ~LOCK_WAITERS) == me->lock_word || !lock_owner_alive(me->heap, word);
}

/* Waits until the lock is ours; sets *robbed if a dead owner may have left the indices broken. */
static int lock_slowly(struct participant *me, bool *robbed) {
    ipcheap_heap *heap = me->heap;
    shared32 *lock = &heap->header->lock;
    int64_t deadline = os_deadline(heap->lock_timeout);
    if (limit < deadline) deadline = limit;
    int64_t look_at = os_deadline(LOOK_AFTER_OWNER);
    for (;;) {
        uint32_t seen = get(lock);
        /* After a sleep we cannot know whether others still sleep, so the flag stays. */
        if (seen == 0) {
            if (put_if(lock, &seen, me->lock_word | LOCK_WAITERS)) return 0;
            continue;
        }
        if (!(seen & LOCK_WAITERS)) {
            if (!put_if(lock, &seen, seen | LOCK_WAITERS)) continue;
            seen |= LOCK_WAITERS;
        }
        int64_t left = os_remaining(deadline);
        int64_t span = (int64_t)least((uint64_t)left, (uint64_t)LOOK_AFTER_OWNER);
        int result = sleep_on(heap, seen, span);
        if (result == IPCHEAP_SYSTEM) os_nap(MILLISECOND); /* the semaphore was removed */
        seen = get(lock);
        /* By the clock as well: a semaphore with too high a count lets nobody sleep. */
        bool look = seen != 0 && (result != 0 || os_remaining(look_at) == 0);
        if (look) look_at = os_deadline(LOOK_AFTER_OWNER);
        if (look && lock_is_lost(me, seen)) {
            if (!put_if(lock, &seen, me->lock_word | LOCK_WAITERS)) continue;
            *robbed = true;
            return 0;
        }
        if (seen != 0 && os_remaining(deadline) == 0) return IPCHEAP_HEAP_BUSY;
    }
}

int heap_lock(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    if (me->lock_depth++) return 0;
    clock_tick(heap);
    for (int i = 0; i < spins_before_sleep; i++) {
        if (LIKELY(try_lock(heap, me->lock_word))) return 0; /* pairs with heap_unlock() */
        while (++i < spins_before_sleep && get(&heap->header->lock) != 0) os_pause();
    }
    bool robbed = false;
    int error = may_sleep() ? lock_slowly(me, &robbed) : IPCHEAP_WOULD_SLEEP;
    if (error) {
        me->lock_depth--;
        return error;
    }
    /* What cannot be rebuilt is reported to the calls that need it: the lock itself is sound. */
    if (robbed) heap->hooks->rebuild(me);
    return 0;
}

int heap_lock_soon(struct participant *me) {
    int64_t before = limit, soon = os_deadline(LOOK_AFTER_OWNER);
    if (soon < limit) limit = soon;
    int error = heap_lock(me);
    limit = before;
    return error;
}

bool heap_try_lock(struct participant *me) {
    if (!me->lock_depth && !try_lock(me->heap, me->lock_word)) return false;
    me->lock_depth++;
    return true;
}

void heap_unlock(struct participant *me) {
    if (--me->lock_depth) return;
    /* Release: pairs with the acquires of try_lock() and lock_slowly(). */
    if (put_exchange(&me->heap->header->lock, 0) & LOCK_WAITERS) wake_one(me->heap);
}

int ipcheap_lock_holder(ipcheap_heap *heap, ipcheap_holder *holder) {
    uint32_t word = get(&heap->header->lock);
    if (word == 0) return 0;
    lock_owner_describe(heap, word, holder);
    return 1;
}
