/*
 * wait_any.c - sleeping until one of many endpoints, events or cells has something to do.
 *
 * However many endpoints there are, all of a participant's wake it through one word: `knock` in
 * its slot, as parked = PARKED_AMONG says. Events and cells have words of their own, and each
 * further heap has another `knock`. The kernel can wait on several words. Words beyond its limit,
 * or beyond the first if it can wait on one word only, are polled between short sleeps.
 */

#include "base/timing.h"
#include "channel/side.h"
#include "endpoint/bell.h"
#include "endpoint/park.h"
#include "static/sync.h"

#define GLANCES 16 /* how often to look before sleeping */

struct gathering {
    ipcheap_waitable *items;
    size_t count, ready;
    struct awaited words[FUTEX_WORDS];
    size_t used;
    bool crowded; /* there were more */
};

static bool cell_differs(const ipcheap_waitable *item) {
    if (item->width == 4) /* pairs with the user's store */
        return get_acquire((const shared32 *)item->word) != (uint32_t)item->expected;
    return get_acquire((const shared64 *)item->word) != item->expected; /* with the user's store */
}

static bool is_ready(const ipcheap_waitable *item) {
    if (item->endpoint) return endpoint_ready(item->endpoint);
    return item->width ? cell_differs(item) : ipcheap_event_is_set(item->word);
}

static size_t look(struct gathering *g) {
    g->ready = 0;
    for (size_t i = 0; i < g->count; i++) {
        g->items[i].ready = is_ready(&g->items[i]);
        g->ready += g->items[i].ready != 0;
    }
    return g->ready;
}

static void await(struct gathering *g, const shared32 *word, uint32_t expected) {
    for (size_t i = g->used; i-- > 0;)
        if (g->words[i].word == word) return;
    if (g->used == FUTEX_WORDS)
        g->crowded = true;
    else
        g->words[g->used++] = (struct awaited){word, expected};
}

/* Notes what the words are, before any waker is asked to wake us. */
static void gather(struct gathering *g) {
    const struct participant *last = NULL;
    for (size_t i = 0; i < g->count; i++) {
        ipcheap_waitable *item = &g->items[i];
        if (!item->endpoint) {
            /* The lower half of a wide cell; an event with waiters is 2. */
            await(g, item->word, item->width ? (uint32_t)item->expected : 2);
        } else if (item->endpoint->me != last) {
            last = item->endpoint->me;
            const shared32 *knock = &last->record->knock;
            await(g, knock, get_acquire(knock)); /* pairs with knock() */
        }
    }
}

/* Asks the wakers of all items to wake us from now on. */
static void lie_down(struct gathering *g) {
    for (size_t i = 0; i < g->count; i++) {
        ipcheap_endpoint *e = g->items[i].endpoint;
        if (e) {
            bell_disarm(e);
            endpoint_want(e);
            put(&e->seat->parked, PARKED_AMONG);
            side_sleeps(e->heap, own_side(e));
        } else if (!g->items[i].width) {
            event_expect(g->items[i].word);
        }
    }
    const struct participant *last = NULL;
    for (size_t i = 0; i < g->count; i++) {
        const ipcheap_endpoint *e = g->items[i].endpoint;
        if (e && e->me != last) sleeper_fence(e->heap); /* pairs with endpoint_notify() */
        if (e) last = e->me;
    }
}

static void get_up(struct gathering *g) {
    for (size_t i = 0; i < g->count; i++) {
        ipcheap_endpoint *e = g->items[i].endpoint;
        if (!e) continue;
        side_wakes(own_side(e));
        put(&e->seat->parked, AWAKE);
    }
}

static bool is_closing(const struct gathering *g) {
    for (size_t i = 0; i < g->count; i++)
        if (g->items[i].endpoint && endpoint_is_closing(g->items[i].endpoint)) return true;
    return false;
}

static int look_after_peers(struct gathering *g) {
    int error = 0;
    for (size_t i = 0; i < g->count && !error; i++)
        if (g->items[i].endpoint) error = look_after_peer(g->items[i].endpoint);
    return error;
}

static void before_waiting(struct gathering *g) {
    for (size_t i = 0; i < g->count; i++)
        if (g->items[i].endpoint) g->items[i].endpoint->kind->before_waiting(g->items[i].endpoint);
}

/* Sleeps until something may be ready: 0, TIMED_OUT or an error. */
static int sleep_a_while(struct gathering *g, int64_t left) {
    int result = 0;
    g->used = 0;
    g->crowded = false;
    gather(g);
    lie_down(g);
    bool idle = !look(g) && !is_closing(g);
    if (idle) before_waiting(g); /* after lying down: as in park() */
    if (idle && !look(g)) {
        int64_t most = g->crowded ? GLANCE : LOOK_AFTER_PEER;
        most = (int64_t)least((uint64_t)left, (uint64_t)most);
        result = os_futex_wait_any(g->words, g->used, most);
    }
    get_up(g);
    return result;
}

static int wait_inside(struct gathering *g, int64_t timeout_ns) {
    before_waiting(g);
    int64_t deadline = os_deadline(timeout_ns);
    int64_t looked = os_now();
    for (;;) {
        for (int i = 0; i < GLANCES; i++) {
            if (look(g)) return 0;
            if (timeout_ns == 0) return IPCHEAP_TIMED_OUT;
            os_pause();
        }
        if (is_closing(g)) return IPCHEAP_ENDPOINT_CLOSED;
        int64_t left = os_remaining(deadline);
        if (left == 0) return IPCHEAP_TIMED_OUT;
        int result = sleep_a_while(g, left);
        if (result == IPCHEAP_INTERRUPTED) return look(g) ? 0 : result;
        if (os_now() - looked >= LOOK_AFTER_PEER) {
            int error = look_after_peers(g);
            if (error) return error;
            looked = os_now();
        }
    }
}

static bool can_be_waited_for(const ipcheap_waitable *item) {
    if (item->endpoint) return true;
    return item->word && (item->width == 0 || item->width == 4 || item->width == 8);
}

/* Leaves the first `count` endpoints; returns an error if another thread closed one meanwhile. */
static int leave_all(const ipcheap_waitable *items, size_t count) {
    int closed = 0;
    for (size_t i = 0; i < count; i++) {
        ipcheap_endpoint *e = items[i].endpoint;
        if (!e) continue;
        bell_settle(e);
        int error = ipcheap_endpoint_leave(e);
        if (error) closed = error;
    }
    return closed;
}

int64_t ipcheap_wait_any(ipcheap_waitable *items, size_t count, int64_t timeout_ns) {
    struct gathering g = {.items = items, .count = count};
    for (size_t i = 0; i < count; i++) {
        int error = can_be_waited_for(&items[i]) ? 0 : IPCHEAP_BAD_VALUE;
        if (!error && items[i].endpoint) error = ipcheap_endpoint_enter(items[i].endpoint);
        if (!error) continue;
        leave_all(items, i);
        return error;
    }
    if (count == 0) return 0;
    int error = wait_inside(&g, timeout_ns), closed = leave_all(items, count);
    if (closed) return closed;
    if (error == IPCHEAP_TIMED_OUT) return 0;
    return error ? error : (int64_t)g.ready;
}
