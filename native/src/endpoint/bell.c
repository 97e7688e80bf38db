#include "endpoint/bell.h"

#include <stdlib.h>

#include "base/pipe.h"
#include "base/timing.h"
#include "segment/file.h"

/* The holder's half, in private memory. */
struct own_bell {
    struct descriptor pipe;
    int poll;          /* over the pipe and `watch`; what the user polls */
    int watch;         /* ends with the other side's process; -1 for none */
    bool watches_file; /* `watch` reports any process that closes the heap */
    uint64_t watched;  /* the holder of the other side that `watch` is for */
    enum { QUIET, ARMED, RUNG } state;
    bool due; /* a waker is about to write a byte */
};

/* The other side's process -------------------------------------------------------------- */

/* True if neither the pipe nor the poller was closed by the program. */
static bool is_whole(const struct own_bell *b) {
    return descriptor_is_ours(&b->pipe) && os_poll_has(b->poll, b->pipe.fd);
}

/* In a bell that is whole. */
static bool has_watch(const struct own_bell *b) { return os_poll_has(b->poll, b->watch); }

static void unwatch(struct own_bell *b) {
    if (has_watch(b)) os_close(b->watch); /* which takes it out of the poller */
    b->watch = -1;
}

/* Adds a descriptor to the poller, unless it is none. */
static void watch_by(struct own_bell *b, int watch) {
    if (watch >= 0 && os_poll_add(b->poll, watch) != 0) {
        os_close(watch);
        watch = -1;
    }
    b->watch = watch;
}

/* Watches for the end of the process that holds the other side now. */
static void watch(ipcheap_endpoint *e, uint64_t holder) {
    struct own_bell *b = e->bell;
    unwatch(b);
    b->watched = holder;
    if (e->kind->open_to_all) {
        /* A writer that is killed before it rings closes the heap: then it is time to look. */
        b->watches_file = true;
        watch_by(b, os_file_watch(file_descriptor(e->heap)));
        return;
    }
    if (side_state(holder) != SIDE_OPEN) return;
    const struct participant_slot *slot = participant_record(e->heap, holder);
    if (!slot) return; /* no participant's slot, as peer_is_lost() will find */
    uint32_t pid = get(&slot->pid);
    bool same = get(&slot->namespace) == get(&e->me->record->namespace);
    if (same && pid == os_process_id()) return; /* threads of this process close their endpoints */
    int watch = same ? os_process_watch(pid) : -1;
    b->watches_file = watch < 0;
    if (b->watches_file) watch = os_file_watch(file_descriptor(e->heap));
    watch_by(b, watch);
}

static bool holder_lives(const ipcheap_endpoint *e, uint64_t holder) {
    return participant_alive(e->heap, tag_slot(holder), tag_generation(holder));
}

/* Has the other side's holder died, and could it not be recovered here and now? */
static bool peer_is_lost(ipcheap_endpoint *e) {
    struct own_bell *b = e->bell;
    uint64_t holder = get_acquire(&e->peer->holder); /* pairs with claim() */
    bool unwatched = e->kind->open_to_all ? !b->watches_file : holder != b->watched;
    if (unwatched && is_whole(b)) watch(e, holder);
    bool closed = b->watches_file && is_whole(b) && has_watch(b) && os_file_watch_clear(b->watch);
    if (side_state(holder) != SIDE_OPEN || holder_lives(e, holder)) {
        if (side_state(holder) != SIDE_OPEN || !closed) return false;
        /* The kernel reports a close just before it releases the file's locks. */
        os_nap(RELEASE_NAP);
        if (holder_lives(e, holder)) return false;
    }
    return recover_if_dead(e->me, holder) != 0;
}

/* The level --------------------------------------------------------------------------------- */

void bell_disarm(ipcheap_endpoint *e) {
    struct own_bell *b = e->bell;
    if (!b || b->state != ARMED) return;
    /* If a waker has taken the word, it rings. */
    b->due = put_exchange(&e->seat->parked, AWAKE) != PARKED_BELL;
    b->state = b->due ? RUNG : QUIET;
}

/* Also while a byte is due: the waker that has taken the word may be killed before it writes it. */
static void ring_self(ipcheap_endpoint *e) {
    struct own_bell *b = e->bell;
    bell_disarm(e);
    os_pipe_ring(b->pipe.fd);
    b->due = false;
    b->state = RUNG;
}

/* `emptied`: a byte was read just now, which may have been the one that is due. */
static void arm(ipcheap_endpoint *e, bool emptied) {
    struct own_bell *b = e->bell;
    shared32 *word = &e->seat->parked;
    bell_disarm(e);
    if (!os_pipe_clear(b->pipe.fd) && !emptied && b->due) os_pipe_clear_soon(b->pipe.fd);
    b->due = false;
    b->state = ARMED;
    put(word, PARKED_BELL);
    sleeper_fence(e->heap); /* pairs with endpoint_notify() */
}

/* Reads a byte of a waker that was stopped on its way, which would stay in the pipe. */
static bool has_late_byte(const struct own_bell *b) {
    return b->state == ARMED && os_pipe_clear(b->pipe.fd);
}

/* Forgets the bell; the next request for its descriptor makes another. */
static void drop(ipcheap_endpoint *e) {
    bell_remove(e);
    bell_close(e);
}

bool bell_bring_in_line(ipcheap_endpoint *e) {
    struct own_bell *b = e->bell;
    bool something = endpoint_ready(e);
    if (something && b->state == RUNG && !b->due) return false;
    if (!descriptor_is_ours(&b->pipe)) {
        drop(e);
        return false;
    }
    if (something) {
        ring_self(e);
        return false;
    }
    bool late = has_late_byte(b), wants = endpoint_want(e);
    if (late || wants || b->state != ARMED || get(&e->seat->parked) != PARKED_BELL) arm(e, late);
    e->kind->before_waiting(e); /* after arming: as in park() */
    bool lost = peer_is_lost(e), ready = endpoint_ready(e);
    if (lost) e->idle = LOOK_AFTER_TRIES - 1; /* so that the next try says why */
    if (lost || ready) ring_self(e);
    return ready;
}

/* Making and removing -------------------------------------------------------------------- */

/* Closes what is ours. A poller can be told from the program's by what it watches only. */
static void close_descriptors(struct own_bell *b) {
    if (is_whole(b)) {
        unwatch(b);
        os_close(b->poll);
    }
    descriptor_close(&b->pipe);
}

static int bell_make(ipcheap_endpoint *e, struct own_bell *b) {
    struct bell *bell = &e->seat->bell;
    uint64_t inode, suffix = seat_suffix(e->heap, e->seat);
    b->poll = os_poll_make();
    if (b->poll < 0) return b->poll;
    put_release(&bell->inode, BELL_MAKING); /* before there is anything to remove */
    int file = file_descriptor(e->heap), fd = os_pipe_make(file, suffix, &inode);
    int error = fd < 0 ? fd : descriptor_note(fd, &b->pipe);
    if (!error) error = os_poll_add(b->poll, fd);
    if (error) {
        if (fd >= 0) os_pipe_remove(file, suffix);
        os_close(b->poll); /* which watches nothing */
        put_release(&bell->inode, 0);
        return error;
    }
    put(&bell->fd, (uint32_t)fd);
    put_release(&bell->inode, inode); /* pairs with bell_ring() */
    return 0;
}

static int bell_descriptor(ipcheap_endpoint *e) {
    if (e->bell && !is_whole(e->bell)) drop(e);
    if (!e->bell) {
        struct own_bell *b = os_allocate_zeroed(1, sizeof *b);
        if (!b) return IPCHEAP_NO_MEMORY;
        *b = (struct own_bell){.pipe = NO_DESCRIPTOR, .poll = -1, .watch = -1};
        int error = bell_make(e, b);
        if (error) {
            descriptor_close(&b->pipe);
            free(b);
            return error;
        }
        e->bell = b;
    }
    int poll = e->bell->poll;
    bell_settle(e);
    return poll;
}

int ipcheap_endpoint_descriptor(ipcheap_endpoint *e) {
    int error = endpoint_check(e);
    return error ? error : bell_descriptor(e);
}

void bell_remove(ipcheap_endpoint *e) {
    struct bell *bell = &e->seat->bell;
    if (!e->bell) return;
    put(&e->seat->parked, AWAKE);
    os_pipe_remove(file_descriptor(e->heap), seat_suffix(e->heap, e->seat));
    put_release(&bell->inode, 0);
}

void bell_close(ipcheap_endpoint *e) {
    bell_let_go(&e->pull);
    if (!e->bell) return;
    close_descriptors(e->bell);
    free(e->bell);
    e->bell = NULL;
}

void bells_abandon(struct participant *me) {
    for (struct ipcheap_endpoint *e = me->endpoints; e; e = e->next) bell_close(e);
}
