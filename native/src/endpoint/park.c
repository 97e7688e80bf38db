#include "endpoint/park.h"

#include "base/timing.h"
#include "channel/side.h"
#include "endpoint/bell.h"

int look_after_peer(ipcheap_endpoint *e) {
    int error = recover_if_dead(e->me, get_acquire(&e->peer->holder)); /* with claim() */
    return error == IPCHEAP_HEAP_BUSY ? 0 : error;
}

int park(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *), int64_t deadline) {
    if (ready(e)) return 0;
    shared32 *word = &e->seat->parked;
    bell_disarm(e);
    struct side *side = own_side(e);
    for (;;) {
        endpoint_want(e);
        put(word, PARKED_HERE);
        sleeper_fence(e->heap); /* pairs with endpoint_notify() */
        int result = 0;
        int64_t left = os_remaining(deadline);
        if (!ready(e) && !endpoint_is_closing(e) && left > 0) {
            /* Here, because a new holder of the other side must find the way free or wake us. */
            e->kind->before_waiting(e);
            int64_t span = sleep_begin(e, left);
            result = os_futex_wait(word, PARKED_HERE, span);
        }
        side_wakes(side);
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

int64_t sleep_begin(ipcheap_endpoint *e, int64_t left) {
    struct side *side = own_side(e);
    put(&side->parks, get(&side->parks) + 1);
    side_sleeps(e->heap, side);
    participant_note_core(e->me);
    return (int64_t)least((uint64_t)left, LOOK_AFTER_PEER);
}

int sleep_once(ipcheap_endpoint *e, const shared32 *word, uint32_t seen, int64_t left) {
    struct awaited words[2] = {{word, seen}, {&e->seat->parked, PARKED_HERE}};
    int64_t span = sleep_begin(e, left);
    int result = os_futex_wait_any(words, 2, span);
    side_wakes(own_side(e));
    return result;
}
