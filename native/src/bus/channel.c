/* channel.c - buses as channels: adding, listening, closing, readiness. */

#include <stdlib.h>

#include "base/timing.h"
#include "bus/endpoint.h"
#include "bus/holds.h"
#include "bus/receive.h"
#include "bus/reclaim.h"
#include "bus/recover.h"
#include "bus/wake.h"
#include "channel/side.h"
#include "endpoint/bell.h"
#include "segment/lock.h"

/* Adding --------------------------------------------------------------------------------------- */

/* Works out the shape of a bus with these options; 0 if there can be none. */
static uint64_t shape_of(const ipcheap_bus_options *options) {
    uint32_t given = options->given, log = 0;
    uint64_t capacity = given & IPCHEAP_BUS_CAPACITY ? options->capacity : 256;
    uint64_t history = given & IPCHEAP_BUS_HISTORY ? options->history : 0;
    int64_t patience = given & IPCHEAP_BUS_PATIENCE ? options->patience_ns : -1;
    if (given & ~(uint32_t)IPCHEAP_BUS_ALL || options->flags & ~(uint32_t)IPCHEAP_EXCLUSIVE)
        return 0;
    if (capacity < 1 || capacity > UINT64_C(1) << BUS_CAPACITY_LOG) return 0;
    /* A history makes a default log long enough for it. */
    if (!(given & IPCHEAP_BUS_CAPACITY) && history <= UINT64_C(1) << BUS_CAPACITY_LOG)
        capacity = greatest(capacity, history);
    while (UINT64_C(1) << log < capacity) log++;
    if (history > UINT64_C(1) << log) return 0;
    uint32_t ms = PATIENCE_UNLIMITED;
    if (patience >= 0)
        ms = (uint32_t)least(((uint64_t)patience + MILLISECOND - 1) / MILLISECOND,
                             PATIENCE_UNLIMITED - 1);
    return bus_shape(log, history, ms);
}

/* True if an existing bus is as wanted in all that was given. */
static bool is_same(uint64_t is, uint64_t wanted, uint32_t given) {
    return (!(given & IPCHEAP_BUS_CAPACITY) || shape_log(is) == shape_log(wanted)) &&
           (!(given & IPCHEAP_BUS_HISTORY) || shape_history(is) == shape_history(wanted)) &&
           (!(given & IPCHEAP_BUS_PATIENCE) || shape_patience(is) == shape_patience(wanted));
}

static int add(struct participant *me, const ipcheap_key *key, uint64_t shape,
               const ipcheap_bus_options *options, ipcheap_channel *handle) {
    bool added;
    int error = ipcheap_find_channel(me->heap, key, handle);
    if (error) return directory_add(me, key, IPCHEAP_BUS, shape, NULL, handle, &added);
    if (options && options->flags & IPCHEAP_EXCLUSIVE) return IPCHEAP_CHANNEL_EXISTS;
    if (handle->kind != IPCHEAP_BUS) return IPCHEAP_CHANNEL_TYPE;
    return options && !is_same(handle->shape, shape, options->given) ? IPCHEAP_CHANNEL_TYPE : 0;
}

int ipcheap_add_bus(ipcheap_heap *heap, const ipcheap_key *key, const ipcheap_bus_options *options,
                    ipcheap_channel *handle) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    uint64_t shape = options ? shape_of(options) : 0;
    if (options && !shape) return IPCHEAP_BAD_VALUE;
    int error = participant_current(heap, &me);
    if (!error) error = heap_lock(me);
    if (error) return error;
    error = add(me, key, shape, options, handle);
    heap_unlock(me);
    return error;
}

int ipcheap_bus_options_of(const ipcheap_channel *handle, ipcheap_bus_options *options) {
    if (handle->kind != IPCHEAP_BUS) return IPCHEAP_CHANNEL_TYPE;
    uint32_t patience = shape_patience(handle->shape);
    *options = (ipcheap_bus_options){
        .given = IPCHEAP_BUS_ALL,
        .capacity = UINT64_C(1) << (shape_log(handle->shape) & 31),
        .history = shape_history(handle->shape),
        .patience_ns = patience == PATIENCE_UNLIMITED ? -1 : patience * MILLISECOND,
    };
    return 0;
}

/* Memory --------------------------------------------------------------------------------------- */

static int make(struct participant *me, uint32_t index, uint64_t shape, const void *details) {
    struct bus bus;
    (void)shape;
    (void)details;
    return bus_view_made(me, index, &bus);
}

/* Seats ---------------------------------------------------------------------------------------- */

static bool occupied(struct participant *me, uint32_t index) {
    struct bus bus;
    struct listener_walk walk = {0};
    if (!bus_view(me->heap, index, &bus)) return false;
    listeners_recover(me, &bus);
    while (listener_step(&bus, &walk))
        if (listener_is_open(walk.listener) && listener_is_alive(&bus, walk.listener)) return true;
    return false;
}

static bool lingers(struct participant *me, uint32_t index) {
    struct bus bus;
    return bus_view(me->heap, index, &bus) && (listeners_tidy(&bus) || bus_is_occupied(me, index));
}

static void wake_all(ipcheap_heap *heap, uint32_t index) {
    struct bus bus;
    if (bus_view(heap, index, &bus)) bus_wake_all(&bus);
}

static int configure(ipcheap_endpoint *endpoint, const void *wanted) {
    struct listener *e = listener_of(endpoint);
    if (endpoint->side != IPCHEAP_CONSUMER) return IPCHEAP_BAD_VALUE;
    if (wanted) e->wanted = *(const ipcheap_listen_options *)wanted;
    return e->wanted.flags & ~(uint32_t)IPCHEAP_LOSSY ? IPCHEAP_BAD_VALUE : 0;
}

static int find_seat(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    if (get(&endpoint->channel->flags) & CHANNEL_POISONED) return IPCHEAP_CORRUPT;
    int error = bus_view_made(endpoint->me, endpoint->index, &e->bus);
    if (error) return error;
    if (e->wanted.history > e->bus.history) return IPCHEAP_BAD_VALUE;
    uint32_t flags = e->wanted.flags & IPCHEAP_LOSSY ? LISTENER_LOSSY : 0;
    error = listener_take(endpoint->me, &e->bus, e->wanted.history, flags, &e->number);
    if (error) return error;
    e->shared = listener_at(&e->bus, e->number);
    e->incarnation = get(&endpoint->channel->incarnation);
    e->lossy = listener_is_lossy(&e->bus, e->shared);
    e->position = get(&e->shared->side.position);
    endpoint->seat = &e->shared->seat;
    endpoint->own = &e->shared->side;
    return 1;
}

static void leave_seat(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    struct participant *me;
    bool inside = participant_current(endpoint->heap, &me) == 0;
    uint64_t before = inside ? bus_stay(me, &e->bus) : 0;
    /* Not by the record: if its last message was freed meanwhile, it may be another listener's. */
    if (!e->lingers) listener_free(&e->bus, e->number, SIDE_CLOSED);
    directory_notify(endpoint->heap);
    if (!inside) return;
    /* What it had still to receive may be nobody's now. */
    if (!(get(&endpoint->channel->flags) & CHANNEL_GONE)) bus_tidy(me, &e->bus);
    bus_return(me, before);
}

/* Endpoints ------------------------------------------------------------------------------------ */

static int take_side(ipcheap_endpoint *endpoint) {
    (void)endpoint;
    return 0;
}

static void keep_held(ipcheap_endpoint *endpoint, struct participant *me) {
    struct listener *e = listener_of(endpoint);
    ipcheap_listener_describe(endpoint, &e->last);
    uint32_t held = listener_holds(e);
    if (held) {
        e->lingers = true;
        participant_holds(me, endpoint->me, (int)held);
        put_or(&e->shared->flags, LISTENER_CLOSED); /* all is acknowledged */
        listener_wake_writers(e->shared);
    }
}

static void release(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    free(e->free);
    free(e->returned);
}

static bool outlives(ipcheap_endpoint *endpoint) {
    struct listener *e = listener_of(endpoint);
    pthread_mutex_lock(&endpoint->heap->mutex); /* another thread may be freeing a message */
    e->orphaned = e->words && listener_holds(e) > 0;
    bool stays = e->orphaned;
    pthread_mutex_unlock(&endpoint->heap->mutex);
    return stays;
}

static bool ready(const ipcheap_endpoint *endpoint) {
    return listener_can_go_on(endpoint) || endpoint_is_over(endpoint);
}

static bool has_peer(const ipcheap_endpoint *endpoint) {
    (void)endpoint;
    return true; /* writers have no seat: there is nobody to wait for */
}

int ipcheap_listen(ipcheap_heap *heap, const ipcheap_channel *bus,
                   const ipcheap_listen_options *options, ipcheap_endpoint **listener) {
    if (bus->kind != IPCHEAP_BUS) return IPCHEAP_CHANNEL_TYPE;
    return endpoint_claim(heap, bus, IPCHEAP_CONSUMER, options, listener);
}

const struct kind bus_kind = {
    .zone = SYSTEM_ZONE,
    .pages = KIND_SYSTEM,
    .make = make,
    .has_part = bus_has_part,
    .holds = bus_holds,
    .reclaim = bus_reclaim,
    .withdraw = bus_withdraw,
    .drain = bus_drain,
    .recover = bus_recover,
    .lends = message_lends,
    .taken = message_taken,
    .awaits = bus_awaits,
    .receiving = &listener_receiving,
    .occupied = occupied,
    .lingers = lingers,
    .wake_all = wake_all,
    .endpoint_bytes = sizeof(struct listener),
    .find_seat = find_seat,
    .leave_seat = leave_seat,
    .take_side = take_side,
    .keep_held = keep_held,
    .can_go_on = listener_can_go_on,
    .has_some = listener_can_go_on,
    .ready = ready,
    .before_waiting = listener_before_waiting,
    .sleep = listener_park,
    .rouse = listener_rouse,
    .has_peer = has_peer,
    .open_to_all = true,
    .configure = configure,
    .release = release,
    .outlives = outlives,
};
