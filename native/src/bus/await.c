#include "bus/await.h"

#include "base/timing.h"

/* How long this thread looks before it sleeps, as learnt. */
static _Thread_local uint32_t spins __attribute__((tls_model("initial-exec")));
static _Thread_local uint32_t sleeps __attribute__((tls_model("initial-exec")));

bool writer_spin(struct poster *p, const struct waiting *w) {
    struct bus_listener *l = listener_at(&p->bus, w->number);
    if (l && participant_shares_core(p->me, listener_holder(l))) return w->over(w->context);
    uint32_t most = spins < FEWEST_SPINS ? FEWEST_SPINS : spins;
    if (++sleeps % PROBE_EVERY == 0) most = MOST_SPINS;
    bool company = get(&p->me->heap->members_here) > 1;
    if (company) most = (uint32_t)least(most, SPINS_IN_COMPANY);
    for (uint32_t i = 0; i < most; i++) {
        if (w->over(w->context)) {
            spins = (uint32_t)least(MOST_SPINS, spins + 4 * (uint64_t)i + 16);
            return true;
        }
        os_pause();
    }
    spins -= spins / 4;
    return false;
}

int writer_sleep(struct poster *p, const struct waiting *w, int64_t deadline, int64_t *nap) {
    int error = bus_enter(p->me, &p->bus, p->incarnation);
    if (error) return error;
    struct bus_listener *l = listener_at(&p->bus, w->number);
    if (!l) {
        bus_leave(p->me);
        return IPCHEAP_CORRUPT;
    }
    uint64_t holder = get_acquire(&l->seat.holder); /* pairs with listener_take() */
    uint32_t seen = listener_expect(&p->bus, l, w->what);
    bool over = w->over(w->context);
    bus_leave(p->me); /* while it sleeps, the memory may go */
    if (over) return 0;
    int64_t left = os_remaining(deadline);
    if (left == 0) return IPCHEAP_TIMED_OUT;
    if (w->cancelled && *w->cancelled) return IPCHEAP_INTERRUPTED;
    participant_note_core(p->me);
    int64_t span = (int64_t)least((uint64_t)left, (uint64_t)*nap);
    int result = os_futex_wait(&l->turns, seen, span);
    if (result == IPCHEAP_INTERRUPTED) return result;
    if (result == IPCHEAP_TIMED_OUT) {
        *nap = (int64_t)least(2 * (uint64_t)*nap, LONGEST_NAP);
        recover_if_dead_soon(p->me, holder); /* without the lock, the next waiter does it */
    }
    return 0;
}
