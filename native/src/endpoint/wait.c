#include "endpoint/wait.h"

#include "endpoint/bell.h"
#include "endpoint/park.h"
#include "endpoint/patience.h"

int endpoint_why_not(ipcheap_endpoint *e) {
    uint32_t flags = get(&e->channel->flags);
    if (flags & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
    if (UNLIKELY(flags & CHANNEL_POISONED)) return IPCHEAP_CORRUPT;
    enum side_state peer = peer_state(e);
    /*
     * A poller never parks, so from time to time it looks itself whether a silent peer is alive. It does
     * not look for a core dump, for which files would have to be opened.
     */
    if (peer == SIDE_OPEN && UNLIKELY(++e->idle % LOOK_AFTER_TRIES == 0)) {
        uint64_t holder = get_acquire(&e->peer->holder); /* pairs with claim() */
        bool gone = participant_unlocked(e->heap, tag_slot(holder));
        if (gone && recover_if_dead(e->me, holder) == IPCHEAP_CORRUPT) return IPCHEAP_CORRUPT;
        peer = peer_state(e);
    }
    if (peer == SIDE_CLOSED || peer == SIDE_DIED) {
        /* Once more after the peer's end: what it did before comes first. */
        if (e->kind->can_go_on(e)) return 0;
        /* The peer may have closed because the channel was removed meanwhile. */
        if (get(&e->channel->flags) & CHANNEL_GONE) return IPCHEAP_ENDPOINT_CLOSED;
        return peer == SIDE_CLOSED ? IPCHEAP_CHANNEL_CLOSED : IPCHEAP_PEER_DIED;
    }
    return IPCHEAP_WOULD_BLOCK;
}

static bool peer_is_open(const ipcheap_endpoint *e) {
    bool there = e->kind->has_peer ? e->kind->has_peer(e) : peer_state(e) == SIDE_OPEN;
    return there || endpoint_is_over(e);
}

static int sleep_and_learn(ipcheap_endpoint *e, int64_t deadline, int64_t begin) {
    int64_t fell_asleep = os_now();
    int error = e->kind->sleep ? e->kind->sleep(e, deadline) : park(e, e->kind->ready, deadline);
    int64_t woke = os_now();
    endpoint_learn(e, error ? SECOND : woke - fell_asleep);
    endpoint_expect(e, error ? SECOND : woke - begin);
    return error;
}

int endpoint_wait(ipcheap_endpoint *e, int64_t deadline) {
    int error = endpoint_check(e);
    if (error) return error;
    e->kind->before_waiting(e);
    if (deadline == 0) return endpoint_ready(e) ? 0 : IPCHEAP_TIMED_OUT;
    bool dozing = e->patience.doze != 0;
    if (!dozing && endpoint_spin(e)) return 0;
    error = ipcheap_endpoint_enter(e);
    if (error) return error;
    int64_t begin = os_now();
    error = dozing ? endpoint_doze(e, deadline, begin) : IPCHEAP_WOULD_BLOCK;
    if (error == IPCHEAP_WOULD_BLOCK) error = sleep_and_learn(e, deadline, begin);
    bell_settle(e);
    int closed = ipcheap_endpoint_leave(e);
    return closed ? closed : error;
}

int ipcheap_wait(ipcheap_endpoint *e, int64_t timeout_ns) {
    return endpoint_wait(e, os_deadline(timeout_ns));
}

/* Waiting for a peer may take any time, so nothing is learnt from it, and no time is spun away. */
static int wait_for_peer(ipcheap_endpoint *e, int64_t deadline) {
    int error = ipcheap_endpoint_enter(e);
    if (error) return error;
    error = park(e, peer_is_open, deadline);
    bell_settle(e);
    int closed = ipcheap_endpoint_leave(e);
    return closed ? closed : error;
}

int ipcheap_wait_peer(ipcheap_endpoint *e, int64_t timeout_ns) {
    int64_t deadline = os_deadline(timeout_ns);
    int error = endpoint_check(e);
    if (error) return error;
    recover_if_dead(e->me, get_acquire(&e->peer->holder)); /* pairs with claim() */
    if (!peer_is_open(e)) error = deadline ? wait_for_peer(e, deadline) : IPCHEAP_TIMED_OUT;
    if (error || !endpoint_is_over(e)) return error;
    return get(&e->channel->flags) & CHANNEL_GONE ? IPCHEAP_ENDPOINT_CLOSED : IPCHEAP_CORRUPT;
}
