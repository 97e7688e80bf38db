#include "channel/park.h"

#include "channel/recover.h"

#define MOST_SPINS 2000 /* about 20 us */
#define FEWEST_SPINS 20
static const int64_t look_again_after = SECOND / 2;

bool unpark(struct channel *channel, int side) {
    if (put_exchange(&channel->parked[side], 0) == 0) return false;
    os_futex_wake(&channel->parked[side], 1);
    return true;
}

bool endpoint_spin(ipcheap_endpoint *e) {
    if (e->heap->cores < 2) return false;
    if (e->spins < FEWEST_SPINS) e->spins = FEWEST_SPINS;
    for (uint32_t i = 0; i < e->spins; i++) {
        /* Only the slot: whatever else we looked at would make us see it later. */
        if (endpoint_can_go_on(e)) {
            e->spins = (uint32_t)least(MOST_SPINS, e->spins + 4 * (uint64_t)i + 16);
            return true;
        }
        os_pause();
    }
    e->spins -= e->spins / 4; /* longer after success, shorter after none */
    return false;
}

int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t timeout_ns) {
    if (ready(e)) return 0;
    if (timeout_ns == 0) return IPCHEAP_TIMED_OUT;
    int64_t deadline = os_deadline(timeout_ns);
    shared32 *word = &e->channel->parked[e->side];
    shared64 *parks = &e->channel->sides[e->side].parks;
    for (;;) {
        put(word, 1);
        os_membarrier(); /* pairs with endpoint_notify() */
        full_fence();
        int result = 0;
        int64_t left = os_remaining(deadline);
        if (!ready(e) && !e->closing && left > 0) {
            put(parks, get(parks) + 1);
            int64_t span = (int64_t)least((uint64_t)left, (uint64_t)look_again_after);
            result = os_futex_wait(word, 1, span);
        }
        put(word, 0);
        if (ready(e)) return 0;
        if (e->closing) return IPCHEAP_ENDPOINT_CLOSED;
        if (result == IPCHEAP_INTERRUPTED) return result;
        if (result == IPCHEAP_TIMED_OUT) {
            int error = recover_if_dead(e->me, get_acquire(&e->channel->holder[!e->side]));
            if (error && error != IPCHEAP_HEAP_BUSY) return error;
        }
        if (os_remaining(deadline) == 0) return ready(e) ? 0 : IPCHEAP_TIMED_OUT;
    }
}
