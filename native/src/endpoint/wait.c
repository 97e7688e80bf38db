/* wait.c - one blocking wait: spin, doze, park. */

#include "endpoint/bell.h"
#include "endpoint/park.h"
#include "endpoint/patience.h"

static bool peer_is_open(const ipcheap_endpoint *e) {
    return peer_state(e) == SIDE_OPEN || endpoint_is_over(e);
}

static int sleep_and_learn(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *),
                           int64_t timeout_ns, int64_t begin) {
    int64_t fell_asleep = os_now();
    int error = park(e, ready, timeout_ns);
    int64_t woke = os_now();
    endpoint_learn(e, error ? SECOND : woke - fell_asleep);
    if (ready == e->kind->ready) endpoint_expect(e, error ? SECOND : woke - begin);
    return error;
}

static int wait_inside(ipcheap_endpoint *e, bool (*ready)(const ipcheap_endpoint *),
                       int64_t timeout_ns) {
    int error = endpoint_check(e);
    if (error) return error;
    if (ready == e->kind->ready) e->kind->before_waiting(e);
    if (timeout_ns == 0) return ready(e) ? 0 : IPCHEAP_TIMED_OUT;
    bool dozing = ready == e->kind->ready && e->patience.doze;
    if (ready == e->kind->ready && !dozing && endpoint_spin(e)) return 0;
    error = ipcheap_endpoint_enter(e);
    if (error) return error;
    int64_t begin = os_now(), deadline = os_deadline(timeout_ns);
    error = dozing ? endpoint_doze(e, timeout_ns, begin) : IPCHEAP_WOULD_BLOCK;
    if (error == IPCHEAP_WOULD_BLOCK)
        error = sleep_and_learn(e, ready, os_remaining(deadline), begin);
    bell_settle(e);
    int closed = ipcheap_endpoint_leave(e);
    return closed ? closed : error;
}

int ipcheap_wait(ipcheap_endpoint *e, int64_t timeout_ns) {
    return wait_inside(e, e->kind->ready, timeout_ns);
}

int ipcheap_wait_peer(ipcheap_endpoint *e, int64_t timeout_ns) {
    int error = endpoint_check(e);
    if (!error) recover_if_dead(e->me, get_acquire(&e->peer->holder));
    if (!error) error = wait_inside(e, peer_is_open, timeout_ns);
    if (error || !endpoint_is_over(e)) return error;
    return get(&e->channel->flags) & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
}
