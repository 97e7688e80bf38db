#include "channel/hold.h"

#include <stdlib.h>

#include "channel/directory.h"
#include "channel/removal.h"
#include "channel/users.h"
#include "segment/lock.h"

struct channel_hold {
    uint32_t index, incarnation;
    uint32_t count; /* 0: to be released as soon as the heap lock can be had */
    bool lasts;     /* a forked child uses it that is no user in its own name */
};

static struct channel_hold *hold_find(const ipcheap_heap *heap, const ipcheap_channel *handle) {
    for (uint32_t i = 0; i < heap->hold_count; i++) {
        struct channel_hold *hold = &heap->holds[i];
        if (hold->index == handle->index && hold->incarnation == handle->incarnation) return hold;
    }
    return NULL;
}

/* Makes room for one more hold. */
static int holds_reserve(ipcheap_heap *heap) {
    if (heap->hold_count < heap->hold_room) return 0;
    uint32_t room = heap->hold_room ? 2 * heap->hold_room : 4;
    struct channel_hold *holds = os_allocate_zeroed(room, sizeof *holds);
    if (!holds) return IPCHEAP_NO_MEMORY;
    for (uint32_t i = 0; i < heap->hold_count; i++) holds[i] = heap->holds[i];
    free(heap->holds);
    heap->holds = holds;
    heap->hold_room = room;
    return 0;
}

/* Makes `keeper` a user, with the memory that this may take. `me` locks. */
static int become_user(struct participant *me, struct participant *keeper, uint32_t index) {
    if (users_add(keeper, index)) return 0;
    int error = heap_lock(me);
    if (error) return error;
    if (!users_add(keeper, index)) {
        error = users_make_table(me, index);
        if (!error) users_add(keeper, index);
    }
    heap_unlock(me);
    return error;
}

/* Gives the process a keeper that is a user of all that it holds already. */
static int keeper_ready(ipcheap_heap *heap) {
    uint64_t had = heap->keeper ? heap->keeper->tag : 0;
    int error = keeper_join(heap);
    if (error || heap->keeper->tag == had) return error;
    /* A forked child that could not be given one. Its parent's holds last, unless that has died. */
    for (uint32_t i = 0; i < heap->hold_count && !error; i++) {
        struct channel_hold *hold = &heap->holds[i];
        hold->lasts = false;
        const struct channel *channel = channel_at(heap, hold->index);
        if (channel && get(&channel->incarnation) == hold->incarnation)
            error = become_user(heap->keeper, heap->keeper, hold->index);
    }
    return error;
}

/* Takes a first hold of a channel, which exists and is not removed. Under the heap lock. */
static int hold_begin(ipcheap_heap *heap, const ipcheap_channel *handle) {
    struct channel *channel;
    int error = channel_of(heap, handle, &channel);
    if (!error) error = become_user(heap->keeper, heap->keeper, handle->index);
    if (error) return error;
    heap->holds[heap->hold_count++] = (struct channel_hold){handle->index, handle->incarnation, 1,
                                                            false};
    return 0;
}

/* Releases a hold that nobody needs. Under the heap lock. */
static void hold_finish(ipcheap_heap *heap, struct channel_hold *hold) {
    users_remove(heap->keeper, hold->index);
    channel_drop_if_done(heap->keeper, hold->index);
    *hold = heap->holds[--heap->hold_count];
}

static bool is_finished(const struct channel_hold *hold) {
    return hold->count == 0 && !hold->lasts;
}

/* Releases what nobody needs, if the heap lock can be had; false if it cannot. */
static bool holds_settle(ipcheap_heap *heap) {
    bool locked = false, settled = true;
    for (uint32_t i = 0; i < heap->hold_count;) {
        if (!is_finished(&heap->holds[i])) {
            i++;
            continue;
        }
        if (!locked && (!heap->keeper || heap_lock(heap->keeper))) {
            settled = false;
            break;
        }
        locked = true;
        hold_finish(heap, &heap->holds[i]);
    }
    if (locked) heap_unlock(heap->keeper);
    return settled;
}

/* Gives up what is needed only while there are holds. */
static void holds_tidy(ipcheap_heap *heap, bool owes) {
    if (heap->hold_count && !owes) return;
    keeper_leave(heap, owes);
    free(heap->holds);
    heap->holds = NULL;
    heap->hold_count = heap->hold_room = 0;
}

int hold_take(ipcheap_heap *heap, const ipcheap_channel *handle) {
    process_enter();
    struct channel_hold *hold = hold_find(heap, handle);
    int error = 0;
    if (hold) {
        hold->count++;
    } else {
        error = holds_reserve(heap);
        if (!error) error = keeper_ready(heap);
        if (!error) error = heap_lock(heap->keeper);
        if (!error) {
            error = hold_begin(heap, handle);
            heap_unlock(heap->keeper);
        }
    }
    holds_settle(heap);
    holds_tidy(heap, false);
    process_leave();
    return error;
}

void hold_release(ipcheap_heap *heap, const ipcheap_channel *handle) {
    process_enter();
    struct channel_hold *hold = hold_find(heap, handle);
    if (hold && hold->count) hold->count--;
    /* A forked child that is no user in its own name has nothing to take back. */
    if (hold && !hold->count && !heap->keeper) *hold = heap->holds[--heap->hold_count];
    holds_settle(heap);
    holds_tidy(heap, false);
    process_leave();
}

bool holds_share(ipcheap_heap *heap, struct participant *child) {
    int error = 0;
    for (uint32_t i = 0; i < heap->hold_count && !error; i++) {
        if (child)
            error = become_user(heap->keeper, child, heap->holds[i].index);
        else
            heap->holds[i].lasts = true;
    }
    return !error;
}

void holds_end(ipcheap_heap *heap) {
    process_enter();
    for (uint32_t i = 0; i < heap->hold_count; i++) {
        heap->holds[i].count = 0;
        heap->holds[i].lasts = false;
    }
    /* Otherwise others find the keeper dead, and release what it held. */
    bool settled = holds_settle(heap);
    holds_tidy(heap, !settled);
    process_leave();
}
