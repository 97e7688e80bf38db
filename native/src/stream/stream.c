/* stream.c - streams as channels: adding, claiming, waiting, ends. */

#include <stdlib.h>
#include <string.h>

#include "endpoint/bell.h"
#include "endpoint/notify.h"
#include "endpoint/wait.h"
#include "memory/block.h"
#include "segment/lock.h"
#include "stream/endpoint.h"

/* The channel -------------------------------------------------------------------------------- */

/* A shape as the head has it. */
struct wanted_shape {
    uint64_t backlog, itemsize, ring_bytes;
    uint32_t flags;
    uint32_t description_bytes;
    ipcheap_description description;
};

static int wanted_of(const ipcheap_stream_shape *shape, struct wanted_shape *wanted) {
    int64_t length = ipcheap_describe_array(&shape->item, &wanted->description);
    if (length < 0) return (int)length;
    if (length > (int64_t)sizeof((struct stream_head){0}.description)) return IPCHEAP_BAD_VALUE;
    if (shape->flags & ~(uint32_t)IPCHEAP_OVERWRITE) return IPCHEAP_BAD_VALUE;
    const char *rest = (const char *)wanted->description.shape_and_type;
    uint64_t itemsize;
    if (!description_measure(&wanted->description.header, rest, &itemsize))
        return IPCHEAP_BAD_VALUE;
    wanted->backlog = shape->backlog;
    wanted->itemsize = itemsize;
    wanted->ring_bytes = stream_ring_bytes(shape->capacity, shape->backlog, itemsize);
    wanted->flags = shape->flags;
    wanted->description_bytes = (uint32_t)length;
    return wanted->ring_bytes ? 0 : IPCHEAP_BAD_VALUE;
}

/* Makes a stream's memory and writes its shape, before the descriptor is LIVE. Under the lock. */
static int make(struct participant *me, uint32_t index, uint64_t capacity, const void *details) {
    const struct wanted_shape *wanted = details;
    if (!wanted) return IPCHEAP_CORRUPT; /* a stream that has lost its memory */
    struct stream_head *head;
    int error = channel_make_part(me, index, 0, sizeof *head + wanted->ring_bytes);
    if (error) return error;
    head = at_offset(me->heap, get(&channel_at(me->heap, index)->parts[0]));
    put(&head->capacity, capacity);
    put(&head->backlog, wanted->backlog);
    put(&head->itemsize, wanted->itemsize);
    put(&head->ring_bytes, wanted->ring_bytes);
    put(&head->flags, wanted->flags);
    put(&head->description_bytes, wanted->description_bytes);
    memcpy(head->description, &wanted->description, wanted->description_bytes);
    return 0;
}

/* True if an existing stream of the same capacity is as wanted in all else. */
static bool is_same(ipcheap_heap *heap, uint32_t index, const struct wanted_shape *wanted) {
    const struct stream_head *head = stream_head_of(heap, index);
    return head && get(&head->backlog) == wanted->backlog &&
           get(&head->itemsize) == wanted->itemsize && get(&head->flags) == wanted->flags &&
           get(&head->description_bytes) == wanted->description_bytes &&
           memcmp(head->description, &wanted->description, wanted->description_bytes) == 0;
}

static int add(struct participant *me, const ipcheap_key *key, uint64_t capacity,
               const struct wanted_shape *wanted, ipcheap_channel *handle, bool *added) {
    int error = directory_add(me, key, IPCHEAP_STREAM, capacity, wanted, handle, added);
    if (error != IPCHEAP_HEAP_FULL && error != IPCHEAP_MEMORY_FULL) return error;
    error = heap_reclaim(me, error == IPCHEAP_MEMORY_FULL);
    return error ? error : directory_add(me, key, IPCHEAP_STREAM, capacity, wanted, handle, added);
}

int ipcheap_add_stream(ipcheap_heap *heap, const ipcheap_key *key,
                       const ipcheap_stream_shape *shape, ipcheap_channel *handle) {
    struct participant *me;
    struct wanted_shape wanted = {0};
    uint64_t capacity = shape ? shape->capacity : 0;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error && shape) error = wanted_of(shape, &wanted);
    if (!error) error = heap_lock(me);
    if (error) return error;
    bool added = false;
    error = add(me, key, capacity, &wanted, handle, &added);
    if (!error && shape && !added && !is_same(heap, handle->index, &wanted))
        error = IPCHEAP_CHANNEL_TYPE;
    heap_unlock(me);
    return error;
}

int ipcheap_stream_shape_of(ipcheap_heap *heap, const ipcheap_channel *handle,
                            ipcheap_stream_shape *shape, ipcheap_description *description) {
    struct channel *channel;
    struct stream stream;
    uint64_t itemsize;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    if (handle->kind != IPCHEAP_STREAM) return IPCHEAP_CHANNEL_TYPE;
    if (!stream_of(heap, handle->index, &stream)) return IPCHEAP_CORRUPT;
    const struct stream_head *head = stream_head_of(heap, handle->index);
    uint32_t length = get(&head->description_bytes);
    if (length < sizeof description->header || length > sizeof head->description)
        return IPCHEAP_CORRUPT;
    memcpy(description, head->description, length);
    const char *rest = (const char *)description->shape_and_type;
    if (length != description_bytes(&description->header) ||
        !description_measure(&description->header, rest, &itemsize) || itemsize != stream.itemsize)
        return IPCHEAP_CORRUPT;
    *shape = (ipcheap_stream_shape){
        .capacity = stream.capacity,
        .backlog = stream.backlog,
        .flags = stream.overwrite ? IPCHEAP_OVERWRITE : 0,
        .item = description_says(description),
    };
    return 0;
}

/* Claiming and closing ----------------------------------------------------------------------- */

/* Lets a new reader follow a reset that its predecessor has not. */
static void follow_cut(struct channel *channel) {
    uint64_t cut = get_acquire(&channel->stream.cut); /* pairs with reset_by_writer() */
    shared64 *released = &channel->sides[IPCHEAP_READER].position;
    if (cut > get(released)) put_release(released, cut); /* pairs with look_at_peer() */
}

static bool positions_are_right(const struct stream *s, uint64_t written, uint64_t released) {
    return released <= written && (s->overwrite || written - released <= s->capacity);
}

static int take_side(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    struct channel *channel = endpoint->channel;
    if (!stream_of(endpoint->heap, endpoint->index, &e->stream)) return IPCHEAP_CORRUPT;
    if (!is_writer(e)) follow_cut(channel);
    const struct side *sides = channel->sides;
    uint64_t released = get_acquire(&sides[IPCHEAP_READER].position); /* pairs with advance() */
    uint64_t written = get_acquire(&sides[IPCHEAP_WRITER].position);  /* pairs with advance() */
    if (!positions_are_right(&e->stream, written, released)) return IPCHEAP_CORRUPT;
    e->position = is_writer(e) ? written : released;
    e->seen = is_writer(e) ? released : written;
    e->at = byte_of(&e->stream, e->position);
    e->watermark = e->need = 1;
    e->mirror = mirror_make(e->stream.ring, e->stream.ring_bytes);
    e->ring = e->mirror ? mirror_start(e->mirror) : e->stream.ring;
    return 0;
}

/* Ends a window without committing or releasing it, and leaves the mirror to those who look at it. */
static void keep_held(ipcheap_endpoint *endpoint, struct participant *me) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    (void)me;
    e->in_window = false;
    if (e->pinned) os_unpin(e->ring, e->stream.ring_bytes);
    if (e->mirror) mirror_leave(e->mirror);
    e->mirror = NULL;
}

static void release(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    if (e->mirror) mirror_drop(e->mirror);
    free(e->own_copy);
}

static void recover(const struct recovery *r, uint32_t index, int pass) {
    struct channel *channel = channel_at(r->heap, index);
    if (side_is_of_dead(r, channel, pass)) side_recover(r, channel, pass);
}

/* Waiting ------------------------------------------------------------------------------------ */

/* The first item that a reader would get, as of `written`; there may be none. */
static uint64_t first_to_read(const struct stream_endpoint *e, uint64_t written) {
    /* After the writer's position, which the caller has loaded: a reset comes after that. */
    uint64_t cut = get_acquire(&words_of_stream(e)->cut); /* with reset_by_writer() */
    uint64_t first = greatest(e->position, cut);
    if (!e->stream.overwrite) return first;
    /* Acquire: pairs with spoil(). */
    uint64_t floor = get_acquire(&e->base.channel->sides[IPCHEAP_WRITER].stream.floor);
    first = greatest(first, floor);
    return written > e->stream.capacity ? greatest(first, written - e->stream.capacity) : first;
}

/* Returns how many items there are, or room for how many. */
static uint64_t items_now(const struct stream_endpoint *e) {
    if (is_writer(e)) {
        if (e->stream.overwrite) return e->stream.capacity;
        uint64_t released = get_acquire(position_of(e, IPCHEAP_READER)); /* pairs with advance() */
        return least(released + e->stream.capacity - e->position, e->stream.capacity);
    }
    uint64_t written = get_acquire(position_of(e, IPCHEAP_WRITER)); /* pairs with advance() */
    uint64_t first = first_to_read(e, written);
    return written > first ? written - first : 0;
}

/* True if the positions are impossible. */
static bool is_broken(const struct stream_endpoint *e) {
    uint64_t other = get_acquire(position_of(e, !e->base.side)); /* pairs with advance() */
    if (is_writer(e)) return !positions_are_right(&e->stream, e->position, other);
    return !positions_are_right(&e->stream, other, e->position);
}

static bool can_go_on(const ipcheap_endpoint *endpoint) {
    const struct stream_endpoint *e = (const struct stream_endpoint *)endpoint;
    return items_now(e) >= e->need;
}

static bool ready(const ipcheap_endpoint *endpoint) {
    if (can_go_on(endpoint)) return true;
    enum side_state peer = peer_state(endpoint);
    if (peer == SIDE_CLOSED || peer == SIDE_DIED || endpoint_is_over(endpoint)) return true;
    return is_broken((const struct stream_endpoint *)endpoint);
}

/* Under the mutex, because another thread may be closing the endpoint. */
static void before_waiting(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    /* Acquire: pairs with reset_by_writer(). */
    if (is_writer(e) || LIKELY(get_acquire(&words_of_stream(e)->cut) <= e->position)) return;
    pthread_mutex_lock(&endpoint->heap->mutex);
    if (!endpoint->closed) notice_cut(e);
    pthread_mutex_unlock(&endpoint->heap->mutex);
}

/* The other side's position at which there is as much as the endpoint needs. */
static bool want(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    shared64 *wanted = &words_of_stream(e)->wanted[endpoint->side];
    uint64_t position = e->position + e->need;
    if (is_writer(e)) {
        position = position > e->stream.capacity ? position - e->stream.capacity : 0;
    } else {
        uint64_t written = get_acquire(position_of(e, IPCHEAP_WRITER)); /* pairs with advance() */
        position = first_to_read(e, written) + e->need;
    }
    if (get(wanted) == position) return false;
    put(wanted, position); /* before `parked`; pairs with notify() */
    return true;
}

int ipcheap_stream_want(ipcheap_endpoint *endpoint, uint64_t items) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (error) return error;
    if (items < 1 || items > most_waited_for(&e->stream)) return IPCHEAP_BAD_VALUE;
    e->watermark = e->need = items;
    bell_settle(endpoint);
    return 0;
}

int ipcheap_stream_wait(ipcheap_endpoint *endpoint, uint64_t items, int64_t timeout_ns) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int64_t deadline = os_deadline(timeout_ns);
    int error = stream_check(endpoint);
    if (error) return error;
    if (items < 1 || items > most_waited_for(&e->stream)) return IPCHEAP_BAD_VALUE;
    error = ipcheap_endpoint_enter(endpoint); /* so that no other thread closes it before the end */
    if (error) return error;
    e->need = items;
    error = endpoint_wait(endpoint, deadline);
    e->need = e->watermark;
    bell_settle(endpoint);
    int closed = ipcheap_endpoint_leave(endpoint);
    return closed ? closed : error;
}

int64_t ipcheap_stream_ready(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (error) return error;
    if (is_broken(e)) channel_poison(endpoint->heap, endpoint->channel);
    if (!is_writer(e))
        notice_cut(e);
    else if ((error = give_room_back(e)))
        return error;
    if (endpoint_is_over(endpoint)) return endpoint_why_not(endpoint);
    bell_settle(endpoint);
    return (int64_t)items_now(e);
}

const struct kind stream_kind = {
    .zone = DATA_ZONE,
    .pages = KIND_STREAM,
    .made_with_channel = true,
    .make = make,
    .recover = recover,
    .endpoint_bytes = sizeof(struct stream_endpoint),
    .take_side = take_side,
    .keep_held = keep_held,
    .can_go_on = can_go_on,
    .has_some = can_go_on,
    .ready = ready,
    .before_waiting = before_waiting,
    .want = want,
    .release = release,
};
