#include "endpoint/park.h"

#include <stdlib.h>

#include "endpoint/bell.h"
#include "record/ring.h"

#define MOST_SPINS 2000 /* 20 to 50 us: about what it costs to be woken */
#define FEWEST_SPINS 20
#define SPINS_IN_COMPANY 60
/*
 * A sleep this short was not much more than falling asleep and waking, on both sides: the
 * longest spin might have been enough. Two that answer each other at once and both sleep would
 * go on so for ever, for neither is back within the other's short spin: so now and then spin
 * as if it had succeeded before.
 */
#define SHORT_SLEEP (MILLISECOND / 5)
#define PROBE_EVERY 32
#define SHORTEST_DOZE (MILLISECOND / 100) /* what a timer is good for */
#define STEADY 4                          /* waits that have been much the same */
#define LONGEST_WAIT (MILLISECOND / 3)    /* to doze in: longer ones are slept through */

static void knock(ipcheap_heap *heap, uint64_t holder) {
    struct participant_slot *record = participant_record(heap, holder);
    if (!record) return; /* nobody's: who sleeps looks by himself after a while */
    put_add(&record->knock, 1);
    os_futex_wake(&record->knock, 1);
}

bool unpark(ipcheap_heap *heap, struct channel *channel, int side, struct bell_pull *pull) {
    if (get(&channel->seats[side].parked) == AWAKE) return false;
    switch ((enum parked_state)put_exchange(&channel->seats[side].parked, AWAKE)) {
    case AWAKE: return false;
    case PARKED_BELL: bell_ring(heap, channel, side, pull); break;
    case PARKED_AMONG: knock(heap, get_acquire(&channel->seats[side].holder)); break;
    default: os_futex_wake(&channel->seats[side].parked, 1); /* PARKED_HERE, or what nobody wrote */
    }
    return true;
}

bool wake_peer(ipcheap_endpoint *e) {
    /* Records are freed by any thread, but what is kept open is the owner's. */
    bool own = e->me->thread == thread_marker();
    return unpark(e->heap, e->channel, !e->side, own ? &e->pull : NULL);
}

/* Other threads of this process use the heap: they, and the other side, want the cores, too. */
static bool has_company(const ipcheap_heap *heap) {
    return get(&heap->members_here) > 1;
}

/* Is the other side confined to the one core that we are? Then it cannot go on while we spin. */
static bool shares_its_core(const ipcheap_endpoint *e) {
    uint32_t core = get(&e->me->record->core);
    if (LIKELY(core == 0)) return false;
    struct participant_slot *peer =
        participant_record(e->heap, get_acquire(&e->channel->seats[!e->side].holder));
    return !peer || get(&peer->core) == core;
}

bool endpoint_spin(ipcheap_endpoint *e) {
    if (shares_its_core(e)) return false;
    if (e->spins < FEWEST_SPINS) e->spins = FEWEST_SPINS;
    bool probe = e->short_sleeps % PROBE_EVERY == PROBE_EVERY - 1;
    uint32_t most = probe ? MOST_SPINS : e->spins;
    if (probe) e->short_sleeps++;
    if (has_company(e->heap)) most = (uint32_t)least(most, SPINS_IN_COMPANY);
    for (uint32_t i = 0; i < most; i++) {
        /* Only the slot: whatever else we looked at would make us see it later. */
        if (endpoint_has_some(e)) {
            e->spins = (uint32_t)least(MOST_SPINS, e->spins + 4 * (uint64_t)i + 16);
            return true;
        }
        os_pause();
    }
    return endpoint_can_go_on(e);
}

int endpoint_doze(ipcheap_endpoint *e, int64_t timeout_ns, int64_t begin) {
    if (endpoint_can_go_on(e)) return 0;
    if (timeout_ns >= 0 && timeout_ns / 2 < e->doze) return IPCHEAP_WOULD_BLOCK;
    /* How long a wait takes depends on them, too, and the other side may wait for us all. */
    if (has_company(e->heap)) return IPCHEAP_WOULD_BLOCK;
    int error = os_doze(e->doze);
    if (error) {
        e->doze = 0; /* next time look at everything, not at the slot alone */
        return error;
    }
    bool early = endpoint_can_go_on(e);
    if (!early && !endpoint_spin(e)) return IPCHEAP_WOULD_BLOCK;
    endpoint_expect(e, early ? 0 : os_now() - begin);
    return 0;
}

static void less_steady(ipcheap_endpoint *e, uint32_t by) {
    e->steady = e->steady > by ? e->steady - by : 0;
}

/* Is this wait about as long as the last ones? Two in three have to be. */
static void compare_with_usual(ipcheap_endpoint *e, int64_t waited) {
    int64_t change = waited - e->usual;
    e->usual = e->usual ? e->usual + change / 4 : waited;
    if (llabs(change) > e->usual / 4)
        less_steady(e, 2);
    else if (e->steady < 4 * STEADY)
        e->steady++;
}

/*
 * How much of a wait to sleep through: half of it, for the next may be shorter; when they are much
 * the same, an eighth and what it takes to wake up are left to spin in.
 */
static int64_t part_of(const ipcheap_endpoint *e, int64_t waited) {
    if (waited > LONGEST_WAIT) return 0;
    if (e->steady < STEADY) return waited / 2 - SHORTEST_DOZE;
    int64_t usual = waited < e->usual ? waited : e->usual;
    return usual - usual / 8 - 2 * SHORTEST_DOZE;
}

/* Quickly less and slowly more, so that who waits now so, now so, does not doze. */
void endpoint_expect(ipcheap_endpoint *e, int64_t waited) {
    int64_t doze = e->doze + e->doze / 4 + SHORTEST_DOZE / 2;
    if (waited) {
        compare_with_usual(e, waited);
        int64_t most = part_of(e, waited);
        if (most < doze) doze = most > e->doze / 2 ? most : e->doze / 2;
    } else {
        less_steady(e, STEADY);
        doze = e->steady ? e->doze - e->doze / 8 : e->doze / 2; /* one late look is no matter */
    }
    e->doze = doze < SHORTEST_DOZE / 2 ? 0 : doze;
}

void endpoint_learn(ipcheap_endpoint *e, int64_t slept) {
    if (slept < SHORT_SLEEP) e->short_sleeps++;
    e->spins -= e->spins / 4; /* longer after success, shorter after none */
}

int look_after_peer(ipcheap_endpoint *e) {
    int error = recover_if_dead(e->me, get_acquire(&e->channel->seats[!e->side].holder));
    return error == IPCHEAP_HEAP_BUSY ? 0 : error;
}

int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t timeout_ns) {
    if (ready(e)) return 0;
    int64_t deadline = os_deadline(timeout_ns);
    shared32 *word = &e->channel->seats[e->side].parked;
    bell_disarm(e);
    shared64 *parks = &e->channel->sides[e->side].parks;
    for (;;) {
        put(word, PARKED_HERE);
        sleeper_fence(e->heap); /* pairs with endpoint_notify() */
        int result = 0;
        int64_t left = os_remaining(deadline);
        if (!ready(e) && !endpoint_is_closing(e) && left > 0) {
            put(parks, get(parks) + 1);
            put(&e->me->record->core, os_only_core()); /* it may have been confined meanwhile */
            int64_t span = (int64_t)least((uint64_t)left, LOOK_AFTER_PEER);
            result = os_futex_wait(word, PARKED_HERE, span);
        }
        put(word, AWAKE);
        if (ready(e)) return 0;
        if (endpoint_is_closing(e)) return IPCHEAP_ENDPOINT_CLOSED;
        if (result == IPCHEAP_INTERRUPTED) return result;
        if (result == IPCHEAP_TIMED_OUT) {
            int error = look_after_peer(e);
            if (error) return error;
        }
        if (os_remaining(deadline) == 0) return ready(e) ? 0 : IPCHEAP_TIMED_OUT;
    }
}
