#include "endpoint/patience.h"

#include <stdlib.h>

#include "base/timing.h"
struct choice spin_choice = {.name = "IPCHEAP_SPIN", .words = "learn|never|longest"};
struct choice doze_choice = {.name = "IPCHEAP_DOZE", .words = "learn|never"};
enum { SPIN_NEVER = 1, SPIN_LONGEST = 2, DOZE_NEVER = 1 };

void patience_begin(struct patience *p) {
    *p = (struct patience){.spinning = os_choice(&spin_choice), .dozing = os_choice(&doze_choice)};
}

/* Do other threads of this process use the heap? They compete for the cores with both sides. */
static bool has_company(const ipcheap_heap *heap) { return get(&heap->members_here) > 1; }

/* Are both sides confined to the same core? Then the other one cannot go on while this one spins. */
static bool shares_its_core(const ipcheap_endpoint *e) {
    if (LIKELY(get(&e->me->record->core) == 0)) return false;
    if (e->kind->open_to_all) return e->heard && participant_shares_core(e->me, e->heard);
    uint64_t peer = get_acquire(&e->peer->holder); /* with claim() */
    return !participant_record(e->heap, peer) || participant_shares_core(e->me, peer);
}

/* Returns how often to look before sleeping, this time. */
static uint32_t spins_now(ipcheap_endpoint *e) {
    struct patience *p = &e->patience;
    if (shares_its_core(e) || p->spinning == SPIN_NEVER) return 0;
    if (p->spinning == SPIN_LONGEST) return MOST_SPINS;
    if (p->spins < FEWEST_SPINS) p->spins = FEWEST_SPINS;
    bool probe = p->short_sleeps % PROBE_EVERY == PROBE_EVERY - 1;
    uint32_t most = probe ? MOST_SPINS : p->spins;
    if (probe) p->short_sleeps++;
    return has_company(e->heap) ? (uint32_t)least(most, SPINS_IN_COMPANY) : most;
}

bool endpoint_spin(ipcheap_endpoint *e) {
    uint32_t most = spins_now(e);
    for (uint32_t i = 0; i < most; i++) {
        /* Only for work: a look at more would notice it later. */
        if (e->kind->has_some(e)) {
            e->patience.spins = (uint32_t)least(MOST_SPINS,
                                                e->patience.spins + 4 * (uint64_t)i + 16);
            return true;
        }
        os_pause();
    }
    return most && e->kind->can_go_on(e);
}

int endpoint_doze(ipcheap_endpoint *e, int64_t deadline, int64_t begin) {
    if (e->kind->can_go_on(e)) return 0;
    if ((deadline - begin) / 2 < e->patience.doze) return IPCHEAP_WOULD_BLOCK;
    /* They influence how long a wait takes, and the other side may wait for all of them. */
    if (has_company(e->heap)) return IPCHEAP_WOULD_BLOCK;
    int error = os_doze(e->patience.doze);
    if (error) {
        e->patience.doze = 0; /* look at all that may end the wait next time */
        return error;
    }
    bool early = e->kind->can_go_on(e);
    if (!early && !endpoint_spin(e)) return IPCHEAP_WOULD_BLOCK;
    endpoint_expect(e, early ? 0 : os_now() - begin);
    return 0;
}

static void less_steady(ipcheap_endpoint *e, uint32_t by) {
    e->patience.steady = e->patience.steady > by ? e->patience.steady - by : 0;
}

/* Counts how many waits were about as long as usual, less two for each that was not. */
static void compare_with_usual(ipcheap_endpoint *e, int64_t waited) {
    int64_t change = waited - e->patience.usual;
    e->patience.usual = e->patience.usual ? e->patience.usual + change / 4 : waited;
    if (llabs(change) > e->patience.usual / 4)
        less_steady(e, 2);
    else if (e->patience.steady < 4 * STEADY)
        e->patience.steady++;
}

/*
 * Returns how much of a wait to sleep through: half of it, because the next one may be shorter. Once
 * waits are steady, all except an eighth and the time that waking up takes, which is spent spinning.
 */
static int64_t part_of(const ipcheap_endpoint *e, int64_t waited) {
    if (waited > LONGEST_WAIT) return 0;
    if (e->patience.steady < STEADY) return waited / 2 - SHORTEST_DOZE;
    int64_t usual = waited < e->patience.usual ? waited : e->patience.usual;
    return usual - usual / 8 - 2 * SHORTEST_DOZE;
}

/* Shrinks fast and grows slowly: irregular waiters stop dozing. */
void endpoint_expect(ipcheap_endpoint *e, int64_t waited) {
    if (e->patience.dozing == DOZE_NEVER) return;
    int64_t doze = e->patience.doze + e->patience.doze / 4 + SHORTEST_DOZE / 2;
    if (waited) {
        compare_with_usual(e, waited);
        int64_t most = part_of(e, waited);
        if (most < doze) doze = most > e->patience.doze / 2 ? most : e->patience.doze / 2;
    } else {
        less_steady(e, STEADY);
        doze = e->patience.steady ? e->patience.doze - e->patience.doze / 8
                                  : e->patience.doze / 2; /* a single late wake-up is tolerable */
    }
    e->patience.doze = doze < SHORTEST_DOZE / 2 ? 0 : doze;
}

void endpoint_learn(ipcheap_endpoint *e, int64_t slept) {
    if (slept < SHORT_SLEEP) e->patience.short_sleeps++;
    e->patience.spins -= e->patience.spins / 4; /* longer after success, shorter after none */
}

int ipcheap_spin(ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    if (error) return error;
    int most = e->patience.doze || shares_its_core(e) ? 0 : FEW_SPINS;
    for (int i = 0; i < most; i++) {
        if (e->kind->has_some(e)) return 0;
        os_pause();
    }
    return endpoint_ready(e) ? 0 : IPCHEAP_TIMED_OUT;
}
