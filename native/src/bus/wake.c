#include "bus/wake.h"

#include <limits.h>

#include "bus/broadcast.h"
#include "channel/side.h"
#include "endpoint/bell.h"
#include "endpoint/park.h"

/* Wakes those that wait by a descriptor, or for several things; false if one could not be told. */
static bool wake_polled(struct bus *bus) {
    uint32_t used = listeners_used(bus);
    bool all = true;
    for (uint32_t i = 0; i * 64 < used; i++) {
        uint64_t bits = get_acquire(&bus->root->polled[i]); /* with listener_before_waiting() */
        for (; bits; bits &= bits - 1) {
            struct bus_listener *l = listener_at(bus, i * 64 + (uint32_t)__builtin_ctzll(bits));
            if (l) all &= seat_rouse(bus->heap, &l->seat);
        }
    }
    return all;
}

/* In one pass: a listener that arms after `seen` looks once more, and finds what was posted; its flag stays. */
void bus_wake_sleepers(struct bus *bus) {
    shared32 *sleepers = &bus->root->sleepers, *wake = &bus->root->wake;
    uint32_t seen = get_acquire(sleepers); /* pairs with arm() */
    uint32_t told = seen & (SLEEPERS_HERE | SLEEPERS_OTHERS);
    if (LIKELY(!told)) return;
    if (told & SLEEPERS_HERE) {
        put_add(wake, 1);
        os_futex_wake(wake, INT_MAX);
    }
    /* Otherwise the next writer tries again. */
    if (told & SLEEPERS_OTHERS && !wake_polled(bus)) told &= ~SLEEPERS_OTHERS;
    put_if(sleepers, &seen, seen & ~told);
}

void bus_wake_all(struct bus *bus) {
    put_add(&bus->root->wake, 1);
    os_futex_wake(&bus->root->wake, INT_MAX);
    wake_polled(bus);
    put_add(&bus->root->turn_wake, 1);
    os_futex_wake(&bus->root->turn_wake, INT_MAX);
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        unpark(bus->heap, &walk.listener->seat, NULL);
        listener_wake_writers(walk.listener);
    }
}

uint32_t listener_expect(const struct bus *bus, struct bus_listener *l, uint32_t what) {
    uint32_t seen = get_acquire(&l->turns); /* pairs with listener_wake_writers() */
    put_or(&l->waiters, what);
    if (!os_membarrier()) put(&bus->heap->header->fences, 1);
    full_fence();
    return seen;
}

/* Asks writers to wake this one; locked, so that one of the two sees what the other has stored. */
static void arm(struct bus *bus, uint32_t how) {
    uint32_t seen = get(&bus->root->sleepers);
    while (!put_if(&bus->root->sleepers, &seen, (seen + SLEEPERS_ARMING) | how)) {}
    full_fence();
}

void listener_before_waiting(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    /* The next broadcast comes when all have released the last one: a nap would set its pace. */
    if (last_broadcast(e->bus.root) == e->position) endpoint->patience.doze = 0;
    if (get(&endpoint->seat->parked) == AWAKE) return;
    uint64_t bit = UINT64_C(1) << (e->number & 63);
    shared64 *polled = &e->bus.root->polled[e->number / 64];
    if (!(get(polled) & bit)) put_or(polled, bit); /* it stays: looking at one awake is a load */
    arm(&e->bus, SLEEPERS_OTHERS);
}

/* Each listener sleeps as one of these; another thread that closes it wakes few others with it. */
static uint32_t sleeps_as(const struct listener *e) { return UINT32_C(1) << (e->number % 32); }

static int sleep_here(struct listener *e, uint32_t seen, int64_t left) {
    int64_t span = sleep_begin(&e->base, left);
    /* Not beside the seat: to sleep on two words takes half as long again as waking up does. */
    int result = os_futex_wait_as(&e->bus.root->wake, seen, sleeps_as(e), span);
    side_wakes(own_side(&e->base));
    return result;
}

void listener_rouse(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    put_add(&e->bus.root->wake, 1);
    os_futex_wake_as(&e->bus.root->wake, sleeps_as(e));
}

int listener_park(ipcheap_endpoint *endpoint, int64_t deadline) {
    struct listener *e = listener_of(endpoint);
    const struct kind *kind = endpoint->kind;
    if (kind->ready(endpoint)) return 0;
    shared32 *word = &endpoint->seat->parked;
    bell_disarm(endpoint);
    for (;;) {
        uint32_t seen = get_acquire(&e->bus.root->wake); /* pairs with bus_wake_sleepers() */
        put(word, PARKED_HERE);
        arm(&e->bus, SLEEPERS_HERE);
        int64_t left = os_remaining(deadline);
        int result = 0;
        if (!kind->ready(endpoint) && !endpoint_is_closing(endpoint) && left > 0)
            result = sleep_here(e, seen, left);
        put(word, AWAKE);
        if (kind->ready(endpoint)) return 0;
        if (endpoint_is_closing(endpoint)) return IPCHEAP_ENDPOINT_CLOSED;
        if (result == IPCHEAP_INTERRUPTED) return result;
        if (os_remaining(deadline) == 0) return kind->ready(endpoint) ? 0 : IPCHEAP_TIMED_OUT;
    }
}
