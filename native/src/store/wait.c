/* wait.c - sleeping until the next version, or until a key changes. */

#include "store/wait.h"

#include "base/timing.h"
#include "endpoint/bell.h"
#include "endpoint/park.h"
#include "segment/clock.h"
#include "store/next.h"

int store_park(ipcheap_endpoint *endpoint, int64_t deadline) {
    struct store_endpoint *e = store_endpoint(endpoint);
    const struct kind *kind = endpoint->kind;
    if (kind->ready(endpoint) || is_store_writer(e)) return 0;
    shared32 *bell = &e->store.root->bell, *word = &endpoint->seat->parked;
    bell_disarm(endpoint);
    for (;;) {
        uint32_t armed = bell_arm(bell);
        put(word, PARKED_HERE);
        sleeper_fence(endpoint->heap); /* pairs with bell_fence() */
        int64_t left = os_remaining(deadline);
        int result = 0;
        if (!kind->ready(endpoint) && !endpoint_is_closing(endpoint) && left > 0)
            result = sleep_once(endpoint, bell, armed, left);
        put(word, AWAKE);
        if (kind->ready(endpoint)) return 0;
        if (endpoint_is_closing(endpoint)) return IPCHEAP_ENDPOINT_CLOSED;
        if (result == IPCHEAP_INTERRUPTED) return result;
        if (result == IPCHEAP_TIMED_OUT) {
            int error = look_after_peer(endpoint);
            if (error) return error;
        }
        if (os_remaining(deadline) == 0) return kind->ready(endpoint) ? 0 : IPCHEAP_TIMED_OUT;
    }
}

/* Keys ------------------------------------------------------------------------------------------- */

/* What a call waits for. */
struct key_wait {
    const struct chunk_key *key;
    uint64_t newer_than;
    ipcheap_chunk *chunk;
};

/* Returns 1 if the chunk is there, 0 to wait, or why not to. */
static int key_there(struct store_endpoint *e, const struct key_wait *wait) {
    int error = reader_check(e);
    if (error) return error;
    int there = reader_get(e, wait->key, wait->newer_than, wait->chunk);
    if (there) return there;
    e->waits_for_key = true; /* for can_go_on(): what could be followed does not count */
    int why = endpoint_why_not(&e->base);
    e->waits_for_key = false;
    if (why == IPCHEAP_WOULD_BLOCK) return 0;
    /* Once more after the end: what the writer committed before comes first. */
    there = reader_get(e, wait->key, wait->newer_than, wait->chunk);
    return there ? there : why;
}

/* Sleeps until the key may have changed: 0, INTERRUPTED, TIMED_OUT or an error. */
static int key_sleep(struct store_endpoint *e, const struct key_wait *wait, int64_t left,
                     int *there) {
    ipcheap_endpoint *base = &e->base;
    struct store_cell *cell = reader_cell(e, wait->key);
    shared32 *bell = cell ? &cell->bell : &e->store.root->bell;
    int result = 0;
    if (cell) put(&e->store.root->keyed, 1);
    uint32_t armed = bell_arm(bell);
    put(&base->seat->parked, PARKED_HERE);
    sleeper_fence(base->heap); /* pairs with bell_fence() */
    *there = key_there(e, wait);
    bool stays = reader_cell(e, wait->key) == cell;
    if (!*there && stays && !endpoint_is_closing(base))
        result = sleep_once(base, bell, armed, left);
    put(&base->seat->parked, AWAKE);
    return result;
}

static int key_wait_inside(struct store_endpoint *e, const struct key_wait *wait,
                           int64_t deadline) {
    ipcheap_endpoint *base = &e->base;
    bell_disarm(base);
    for (;;) {
        int there = 0;
        int64_t left = os_remaining(deadline);
        int result = left > 0 ? key_sleep(e, wait, left, &there) : 0;
        if (!there) there = key_there(e, wait);
        if (there) return there;
        if (endpoint_is_closing(base)) return IPCHEAP_ENDPOINT_CLOSED;
        if (result == IPCHEAP_INTERRUPTED) return result;
        if (result == IPCHEAP_TIMED_OUT) {
            int error = look_after_peer(base);
            if (error) return error;
        }
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
    }
}

/* Looks for a moment whether the key changes before it sleeps. */
static int key_spin(struct store_endpoint *e, const struct key_wait *wait) {
    uint64_t seen = store_head(&e->store);
    for (int i = 0; i < FEW_SPINS; i++) {
        uint64_t head = store_head(&e->store);
        int there = head != seen ? key_there(e, wait) : 0;
        if (there) return there;
        seen = head;
        os_pause();
    }
    return 0;
}

int ipcheap_store_wait_for(ipcheap_endpoint *endpoint, const ipcheap_store_key *from,
                           uint64_t newer_than, int64_t timeout_ns, ipcheap_chunk *chunk) {
    struct store_endpoint *e = store_endpoint(endpoint);
    int64_t deadline = os_deadline(timeout_ns);
    struct chunk_key key;
    chunk->data = NULL;
    int error = reader_check(e);
    if (!error) error = key_take(from, &key);
    if (!error && !key.hash) error = IPCHEAP_BAD_VALUE;
    if (error) return error;
    struct key_wait wait = {&key, newer_than, chunk};
    int there = key_there(e, &wait);
    if (!there && deadline) there = key_spin(e, &wait);
    if (!there && !deadline) there = IPCHEAP_TIMED_OUT;
    if (!there) {
        error = ipcheap_endpoint_enter(endpoint);
        if (error) return error;
        there = key_wait_inside(e, &wait, deadline);
        bell_settle(endpoint);
        int closed = ipcheap_endpoint_leave(endpoint);
        if (closed && there > 0) ipcheap_chunk_release(chunk);
        if (closed) return closed;
    }
    return there > 0 ? 0 : there;
}
