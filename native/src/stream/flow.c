/* flow.c - writing, reading, windows and resets. */

#include <stdlib.h>
#include <string.h>

#include "endpoint/bell.h"
#include "endpoint/notify.h"
#include "segment/lock.h"
#include "stream/endpoint.h"

#define MOST_RETRIES 64 /* copies that a writer overtakes, before a read gives up for now */

/* Positions ---------------------------------------------------------------------------------- */

/* Wakes the other side if it waits for no more than what is there now. */
static void notify(struct stream_endpoint *e) {
    ipcheap_endpoint *base = &e->base;
    if (UNLIKELY(get(&base->heap->header->fences))) full_fence();
    compiler_fence(); /* pairs with sleeper_fence() */
    if (LIKELY(get(&base->peer->parked) == AWAKE)) return;
    /* As `parked`: if this is not the sleeper's last word, it saw our position on its second look. */
    if (e->position < get(&words_of_stream(e)->wanted[!base->side])) return;
    if (!wake_peer(base)) return;
    shared64 *wakes = &own_side(base)->wakes;
    put(wakes, get(wakes) + 1);
}

static void set_position(struct stream_endpoint *e, uint64_t position) {
    e->position = position;
    e->at = byte_of(&e->stream, position);
    put_release(position_of(e, e->base.side), position); /* pairs with look_at_peer() */
}

void advance(struct stream_endpoint *e, uint64_t items) {
    struct side *side = own_side(&e->base);
    e->position += items;
    e->at += items * e->stream.itemsize;
    if (e->at >= e->stream.ring_bytes) e->at -= e->stream.ring_bytes;
    /* Release: pairs with look_at_peer(). Publishes the items, or gives their place back. */
    put_release(&side->position, e->position);
    put(&side->stream.operations, get(&side->stream.operations) + 1);
    notify(e);
    bell_settle(&e->base);
}

bool look_at_peer(struct stream_endpoint *e) {
    e->seen = get_acquire(position_of(e, !e->base.side)); /* pairs with advance() */
    uint64_t distance = is_writer(e) ? e->position - e->seen : e->seen - e->position;
    bool sound = e->stream.overwrite ? distance < UINT64_C(1) << 63
                                     : distance <= e->stream.capacity;
    if (UNLIKELY(!sound)) channel_poison(e->base.heap, e->base.channel);
    return sound;
}

bool notice_cut(struct stream_endpoint *e) {
    /* Again after each one: another may have come before this look at the writer's position. */
    while (LIKELY(!e->in_window)) {
        uint64_t cut = get_acquire(&words_of_stream(e)->cut); /* with reset_by_writer() */
        if (LIKELY(cut <= e->position)) return true;
        if (!look_at_peer(e)) return false;
        if (cut > e->seen) { /* it was stored after a writer's position that is no lower */
            channel_poison(e->base.heap, e->base.channel);
            return false;
        }
        set_position(e, cut);
        notify(e);
    }
    return true;
}

static int checked(struct stream_endpoint *e, int side) {
    int error = endpoint_check(&e->base);
    if (UNLIKELY(error)) return error;
    if (UNLIKELY(e->base.role != role_of(IPCHEAP_STREAM, side))) return IPCHEAP_BAD_VALUE;
    if (UNLIKELY(e->in_window)) return IPCHEAP_WINDOW;
    return UNLIKELY(endpoint_is_over(&e->base)) ? endpoint_why_not(&e->base) : 0;
}

int stream_check(ipcheap_endpoint *endpoint) {
    int error = endpoint_check(endpoint);
    if (UNLIKELY(error)) return error;
    bool stream = endpoint->role >> 1 == IPCHEAP_STREAM;
    return stream ? 0 : IPCHEAP_BAD_VALUE;
}

/* Gives the room of a reset back if there is no living reader that would do it. Under the lock. */
static void cut_for_nobody(struct stream_endpoint *e, uint64_t cut) {
    struct channel *channel = e->base.channel;
    if (side_taken(e->base.me, channel, IPCHEAP_READER)) return;
    shared64 *released = position_of(e, IPCHEAP_READER);
    if (cut > get(released)) put_release(released, cut); /* pairs with look_at_peer() */
}

int give_room_back(struct stream_endpoint *e) {
    uint64_t cut = get(&words_of_stream(e)->cut);
    if (peer_state(&e->base) == SIDE_OPEN || cut <= get(position_of(e, IPCHEAP_READER))) return 0;
    int error = heap_lock(e->base.me);
    if (error) return error;
    cut_for_nobody(e, cut);
    heap_unlock(e->base.me);
    return 0;
}

/* As endpoint_why_not(), for a call that needs so many items. */
static int why_not(struct stream_endpoint *e, uint64_t items) {
    e->need = items;
    int why = endpoint_why_not(&e->base);
    e->need = e->watermark;
    return why;
}

/*
 * Finds at least `few` items to read, or room for them, and at most `many`: returns how many, or an
 * error. What is left after the other side's end is enough for a reader.
 */
static int64_t find(struct stream_endpoint *e, uint64_t few, uint64_t many) {
    if (UNLIKELY(few > most_waited_for(&e->stream))) return IPCHEAP_BAD_VALUE;
    for (;;) {
        if (items_seen(e) < many && !look_at_peer(e)) return IPCHEAP_CORRUPT;
        if (!is_writer(e) && !notice_cut(e)) return IPCHEAP_CORRUPT;
        uint64_t there = items_seen(e);
        if (LIKELY(there >= few)) return (int64_t)least(there, many);
        int why = why_not(e, few);
        if (why == IPCHEAP_WOULD_BLOCK && bell_settle(&e->base)) continue;
        if (why == IPCHEAP_CHANNEL_CLOSED || why == IPCHEAP_PEER_DIED) {
            /* Once more after the end: all that it wrote, or released, comes first. */
            int error = is_writer(e) ? give_room_back(e) : 0;
            if (error) return error;
            if (!look_at_peer(e)) return IPCHEAP_CORRUPT;
            if (!is_writer(e) && !notice_cut(e)) return IPCHEAP_CORRUPT;
            there = items_seen(e);
            if (there >= few || (there > 0 && !is_writer(e))) return (int64_t)least(there, many);
        }
        if (why) return why;
    }
}

/* Copies ------------------------------------------------------------------------------------- */

/* Copies bytes of the ring, in one piece if it is mapped twice. */
static void from_ring(const struct stream_endpoint *e, void *to, uint64_t at, uint64_t bytes) {
    uint64_t first = e->mirror ? bytes : least(bytes, e->stream.ring_bytes - at);
    memcpy(to, e->ring + at, first);
    if (UNLIKELY(first < bytes)) memcpy((char *)to + first, e->ring, bytes - first);
}

/* Copies long ones in the faster of two ways. */
static void into_ring(const struct stream_endpoint *e, uint64_t at, const void *from,
                      uint64_t bytes) {
    uint64_t first = e->mirror ? bytes : least(bytes, e->stream.ring_bytes - at);
    ipcheap_copy(e->base.heap, e->ring + at, from, first);
    if (UNLIKELY(first < bytes))
        ipcheap_copy(e->base.heap, e->ring, (const char *)from + first, bytes - first);
}

/* Writing ------------------------------------------------------------------------------------ */

/*
 * An overwriting writer is about to fill the cells of its next items: what was there is spoilt, and
 * a reader that is copying it will see that.
 */
static void spoil(struct stream_endpoint *e, uint64_t items) {
    shared64 *floor = &own_side(&e->base)->stream.floor;
    uint64_t end = e->position + items;
    if (end <= e->stream.cells || end - e->stream.cells <= get(floor)) return;
    put_release(floor, end - e->stream.cells); /* pairs with first_to_read() */
    /* Before the items: pairs with the fence in copy_whole(). */
    atomic_thread_fence(memory_order_seq_cst);
}

static void write_items(struct stream_endpoint *e, const void *items, uint64_t count) {
    if (e->stream.overwrite) spoil(e, count);
    into_ring(e, e->at, items, count * e->stream.itemsize);
    advance(e, count);
}

int64_t ipcheap_stream_write(ipcheap_endpoint *endpoint, const void *items, uint64_t count) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = checked(e, IPCHEAP_WRITER);
    if (UNLIKELY(error) || count == 0) return error;
    if (LIKELY(!e->stream.overwrite)) {
        int64_t room = find(e, 1, count);
        if (LIKELY(room > 0)) write_items(e, items, (uint64_t)room);
        return room;
    }
    /* In portions, so that there is always something whole to read. */
    uint64_t portion = greatest(e->stream.capacity / 4, 1);
    for (uint64_t done = 0; done < count;) {
        uint64_t part = least(portion, count - done);
        write_items(e, (const char *)items + done * e->stream.itemsize, part);
        done += part;
    }
    return (int64_t)count;
}

/* Reading ------------------------------------------------------------------------------------ */

/* The oldest item that can still be read when the reader is at its position. */
static uint64_t oldest_kept(const struct stream_endpoint *e) {
    uint64_t oldest = e->position > e->stream.backlog ? e->position - e->stream.backlog : 0;
    const struct stream_words *words = words_of_stream(e);
    oldest = greatest(oldest, greatest(get(&words->cut), get(&words->base)));
    if (!e->stream.overwrite) return oldest;
    const struct side *writer = &e->base.channel->sides[IPCHEAP_WRITER];
    uint64_t floor = get_acquire(&writer->stream.floor); /* pairs with spoil() */
    return greatest(oldest, floor);
}

/* Returns how many items before the position, of those wanted, can be read again. */
static uint64_t kept(const struct stream_endpoint *e, uint64_t wanted) {
    uint64_t oldest = oldest_kept(e);
    return oldest < e->position ? least(wanted, e->position - oldest) : 0;
}

/* Moves an overwriting stream's reader past items that were lost. */
static void lose_until(struct stream_endpoint *e, uint64_t position) {
    if (position <= e->position) return;
    e->lost += position - e->position;
    set_position(e, position);
}

/*
 * Between these two, ThreadSanitizer takes no notice of what the thread reads: it is a race by
 * design, and copy_whole() finds out afterwards whether it was lost.
 */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#else
#define AnnotateIgnoreReadsBegin(file, line) ((void)0)
#define AnnotateIgnoreReadsEnd(file, line) ((void)0)
#endif

/*
 * An overwriting stream's reader copies from `first` on; false if the writer has overtaken it, and
 * what was copied may be torn.
 */
static bool copy_whole(struct stream_endpoint *e, void *to, uint64_t first, uint64_t items) {
    const shared64 *floor = &e->base.channel->sides[IPCHEAP_WRITER].stream.floor;
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    from_ring(e, to, byte_of(&e->stream, first), items * e->stream.itemsize);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    atomic_thread_fence(memory_order_acquire); /* pairs with spoil() */
    return get(floor) <= first;
}

/*
 * Finds items that an overwriting writer has not spoilt, and moves the position to the first of
 * them: returns how many, or an error.
 */
static int64_t find_whole(struct stream_endpoint *e, uint64_t few, uint64_t many) {
    if (few > e->stream.capacity) return IPCHEAP_BAD_VALUE;
    const shared64 *floor = &e->base.channel->sides[IPCHEAP_WRITER].stream.floor;
    for (bool ended = false;;) {
        if (!look_at_peer(e) || !notice_cut(e)) return IPCHEAP_CORRUPT;
        uint64_t spoilt = get_acquire(floor); /* pairs with spoil() */
        uint64_t first = greatest(e->position, spoilt);
        if (UNLIKELY(spoilt > e->seen)) { /* the writer has gone on meanwhile, or that is corrupt */
            uint64_t now = get_acquire(position_of(e, IPCHEAP_WRITER)); /* pairs with advance() */
            if (spoilt > now) return channel_poison(e->base.heap, e->base.channel);
            continue;
        }
        if (e->seen > e->stream.capacity) first = greatest(first, e->seen - e->stream.capacity);
        uint64_t there = e->seen > first ? e->seen - first : 0;
        if (e->overtaken >= 2 && there > 0) { /* the newest, then, which it leaves alone longest */
            uint64_t newest = greatest(few, greatest(e->stream.capacity / 4, 1));
            first = e->seen - least(there, newest);
            there = e->seen - first;
        }
        if (there >= few || (ended && there > 0)) {
            lose_until(e, first);
            return (int64_t)least(there, many);
        }
        int why = why_not(e, few);
        if (why == IPCHEAP_WOULD_BLOCK && bell_settle(&e->base)) continue;
        bool end = why == IPCHEAP_CHANNEL_CLOSED || why == IPCHEAP_PEER_DIED;
        if (end && !ended) {
            ended = true;
            continue;
        }
        if (why) return why;
    }
}

/* Copies items that an overwriting stream has, preceded by `overlap` older ones if they are kept. */
static int64_t copy_found(struct stream_endpoint *e, void *to, uint64_t few, uint64_t many,
                          uint64_t *overlap) {
    uint64_t wanted = *overlap;
    for (int tries = 0; tries < MOST_RETRIES; tries++) {
        int64_t items = find_whole(e, few, many);
        if (items < 0) return items;
        *overlap = kept(e, wanted);
        if (copy_whole(e, to, e->position - *overlap, *overlap + (uint64_t)items)) {
            e->overtaken = 0;
            return items;
        }
        e->overtaken++;
    }
    return IPCHEAP_WOULD_BLOCK;
}

int64_t ipcheap_stream_read(ipcheap_endpoint *endpoint, void *items, uint64_t few, uint64_t many) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = checked(e, IPCHEAP_READER);
    if (UNLIKELY(error) || many == 0) return error;
    if (UNLIKELY(few < 1 || few > many)) return IPCHEAP_BAD_VALUE;
    uint64_t overlap = 0;
    int64_t count;
    if (LIKELY(!e->stream.overwrite)) {
        count = find(e, few, many);
        if (LIKELY(count > 0 && items))
            from_ring(e, items, e->at, (uint64_t)count * e->stream.itemsize);
    } else {
        count = items ? copy_found(e, items, few, many, &overlap) : find_whole(e, few, many);
    }
    if (LIKELY(count > 0)) advance(e, (uint64_t)count);
    return count;
}

int64_t ipcheap_stream_peek(ipcheap_endpoint *endpoint, void *items, uint64_t few, uint64_t many) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = checked(e, IPCHEAP_READER);
    if (error || many == 0) return error;
    if (few < 1 || few > many) return IPCHEAP_BAD_VALUE;
    uint64_t overlap = 0;
    int64_t count = e->stream.overwrite ? copy_found(e, items, few, many, &overlap)
                                        : find(e, few, many);
    if (count > 0 && !e->stream.overwrite)
        from_ring(e, items, e->at, (uint64_t)count * e->stream.itemsize);
    bell_settle(endpoint);
    return count;
}

int64_t ipcheap_stream_history(ipcheap_endpoint *endpoint, void *items, uint64_t many) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = checked(e, IPCHEAP_READER);
    if (error) return error;
    if (many > e->stream.backlog) return IPCHEAP_BAD_VALUE;
    if (!notice_cut(e)) return IPCHEAP_CORRUPT;
    bell_settle(endpoint);
    for (;;) {
        uint64_t count = kept(e, many), first = e->position - count;
        if (count == 0 || !items) return (int64_t)count;
        if (e->stream.overwrite && !copy_whole(e, items, first, count)) continue;
        if (!e->stream.overwrite)
            from_ring(e, items, byte_of(&e->stream, first), count * e->stream.itemsize);
        return (int64_t)count;
    }
}

/* Windows ------------------------------------------------------------------------------------ */

/* Makes room for a window that is a copy. */
static int reserve_copy(struct stream_endpoint *e, uint64_t bytes) {
    if (bytes <= e->own_copy_bytes) return 0;
    unsigned char *more = os_reallocate(e->own_copy, bytes);
    if (!more) return IPCHEAP_NO_MEMORY;
    e->own_copy = more;
    e->own_copy_bytes = bytes;
    return 0;
}

static bool shows_the_ring(const struct stream_endpoint *e) {
    return e->mirror && (is_writer(e) || !e->stream.overwrite);
}

/* Opens a window of items that were found, after `overlap` older ones. */
static int open_found(struct stream_endpoint *e, uint64_t items, uint64_t overlap,
                      ipcheap_window *window) {
    uint64_t size = e->stream.itemsize, back = overlap * size;
    uint64_t at = e->at >= back ? e->at - back : e->at + e->stream.ring_bytes - back;
    unsigned char *data = e->ring + at;
    if (!shows_the_ring(e)) {
        int error = reserve_copy(e, (overlap + items) * size);
        if (error) return error;
        data = e->own_copy;
        from_ring(e, data, at, (overlap + items) * size);
    }
    *window = (ipcheap_window){data, items, overlap, e->position};
    return 0;
}

/* An overwriting stream's reader: the window is a copy, checked after it was made. */
static int open_copy(struct stream_endpoint *e, uint64_t few, uint64_t many, uint64_t overlap,
                     ipcheap_window *window) {
    int64_t there = find_whole(e, few, least(many, e->stream.capacity));
    if (there < 0) return (int)there;
    int error = reserve_copy(e, (overlap + (uint64_t)there) * e->stream.itemsize);
    if (error) return error;
    int64_t items = copy_found(e, e->own_copy, few, (uint64_t)there, &overlap);
    if (items < 0) return (int)items;
    *window = (ipcheap_window){e->own_copy, (uint64_t)items, overlap, e->position};
    return 0;
}

int ipcheap_window_open(ipcheap_endpoint *endpoint, uint64_t few, uint64_t many, uint64_t overlap,
                        ipcheap_window *window) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (UNLIKELY(error)) return error;
    if (UNLIKELY(e->in_window)) return IPCHEAP_WINDOW;
    if (UNLIKELY(few > many || (few < 1 && many > 0))) return IPCHEAP_BAD_VALUE;
    if (UNLIKELY(overlap > (is_writer(e) ? 0 : e->stream.backlog))) return IPCHEAP_BAD_VALUE;
    if (UNLIKELY(endpoint_is_over(endpoint))) return endpoint_why_not(endpoint);
    if (!is_writer(e) && e->stream.overwrite && many > 0) {
        error = open_copy(e, few, many, overlap, window);
    } else {
        int64_t items = many ? find(e, few, many) : 0;
        if (items < 0) return (int)items;
        if (is_writer(e) && e->stream.overwrite) spoil(e, (uint64_t)items);
        error = open_found(e, (uint64_t)items, overlap ? kept(e, overlap) : 0, window);
    }
    if (error) return error;
    e->in_window = true;
    e->window = window->items;
    e->window_begin = window->position;
    return 0;
}

int ipcheap_window_close(ipcheap_endpoint *endpoint, uint64_t items) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (UNLIKELY(error)) return error;
    if (UNLIKELY(!e->in_window)) return IPCHEAP_WINDOW;
    if (UNLIKELY(items > e->window)) return IPCHEAP_BAD_VALUE;
    e->in_window = false;
    if (is_writer(e) && items > 0 && !shows_the_ring(e))
        into_ring(e, e->at, e->own_copy, items * e->stream.itemsize);
    if (!is_writer(e)) notice_cut(e);
    /* A reset meanwhile has dropped these items already: the release is stale. */
    if (LIKELY(items > 0 && e->position == e->window_begin))
        advance(e, items);
    else
        bell_settle(endpoint);
    return 0;
}

/* Resets ------------------------------------------------------------------------------------- */

static int reset_by_writer(struct stream_endpoint *e) {
    uint64_t cut = e->position;
    int error = heap_lock(e->base.me);
    if (error) return error;
    put_release(&words_of_stream(e)->cut, cut); /* commit; pairs with notice_cut() */
    full_fence();                               /* pairs with sleeper_fence() */
    unpark(e->base.heap, e->base.peer, &e->base.pull);
    cut_for_nobody(e, cut);
    heap_unlock(e->base.me);
    return 0;
}

static int reset_by_reader(struct stream_endpoint *e) {
    if (!look_at_peer(e) || !notice_cut(e)) return IPCHEAP_CORRUPT;
    put(&words_of_stream(e)->base, e->seen);
    set_position(e, e->seen);
    notify(e);
    return 0;
}

int ipcheap_stream_reset(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (error) return error;
    if (e->in_window) return IPCHEAP_WINDOW;
    if (endpoint_is_over(endpoint)) return endpoint_why_not(endpoint);
    error = is_writer(e) ? reset_by_writer(e) : reset_by_reader(e);
    bell_settle(endpoint);
    return error;
}

/* Looking ------------------------------------------------------------------------------------ */

int ipcheap_stream_describe(ipcheap_endpoint *endpoint, ipcheap_stream_statistics *statistics) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    if (endpoint->role >> 1 != IPCHEAP_STREAM) return IPCHEAP_BAD_VALUE;
    const struct side *sides = endpoint->channel->sides, *side = &sides[endpoint->side];
    *statistics = (ipcheap_stream_statistics){
        .capacity = e->stream.capacity,
        .backlog = e->stream.backlog,
        .written = get(&sides[IPCHEAP_WRITER].position),
        .read = get(&sides[IPCHEAP_READER].position),
        .writes = get(&sides[IPCHEAP_WRITER].stream.operations),
        .reads = get(&sides[IPCHEAP_READER].stream.operations),
        .lost = e->lost,
        .parks = get(&side->parks),
        .wakes = get(&side->wakes),
        .mirrored = e->ring != e->stream.ring,
    };
    return 0;
}

ipcheap_view *ipcheap_stream_view(ipcheap_endpoint *endpoint) {
    struct mirror *mirror = stream_endpoint(endpoint)->mirror;
    if (stream_check(endpoint) || !mirror) return NULL;
    mirror_keep(mirror);
    return (ipcheap_view *)mirror;
}

void ipcheap_view_drop(ipcheap_view *view) { mirror_drop((struct mirror *)view); }

int ipcheap_stream_lay_out(ipcheap_endpoint *endpoint, ipcheap_stream_layout *layout) {
    const struct stream_endpoint *e = stream_endpoint(endpoint);
    if (endpoint->role >> 1 != IPCHEAP_STREAM) return IPCHEAP_BAD_VALUE;
    *layout = (ipcheap_stream_layout){
        .ring = e->ring,
        .ring_bytes = e->stream.ring_bytes,
        .most_waited_for = most_waited_for(&e->stream),
        .twice = e->mirror != NULL,
        .writes = is_writer(e),
    };
    return 0;
}

int ipcheap_stream_pin(ipcheap_endpoint *endpoint) {
    struct stream_endpoint *e = stream_endpoint(endpoint);
    int error = stream_check(endpoint);
    if (error) return error;
    uint64_t bytes = e->stream.ring_bytes;
    error = os_pin(e->ring, e->mirror ? 2 * bytes : bytes);
    e->pinned = !error && !e->mirror; /* the mirror's pages are unpinned with it */
    if (error) endpoint->ends_as = endpoint->found;
    return error;
}
