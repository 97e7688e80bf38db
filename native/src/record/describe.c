/* describe.c - what has passed through a record channel, as anybody can see it. */

#include "channel/directory.h"
#include "record/ring.h"

static_assert((int)IPCHEAP_SIDE_NEVER == SIDE_NEVER && (int)IPCHEAP_SIDE_OPEN == SIDE_OPEN &&
                  (int)IPCHEAP_SIDE_CLOSED == SIDE_CLOSED && (int)IPCHEAP_SIDE_DIED == SIDE_DIED,
              "a seat has the states of the interface");

static uint32_t state_of(ipcheap_heap *heap, const struct seat *seat) {
    uint64_t holder = get_acquire(&seat->holder); /* pairs with claim() */
    bool open = side_state(holder) == SIDE_OPEN;
    if (open && !participant_alive(heap, tag_slot(holder), tag_generation(holder)))
        return IPCHEAP_SIDE_DIED;
    return side_state(holder);
}

/* True if the slot of the next record still has the one before. */
static bool is_full(const struct ring *ring, uint64_t sent) {
    /* Pairs with slot_leave(). */
    uint64_t word = get_acquire(&ring->slots[sent & (ring->count - 1)].word);
    return sent >= ring->count && ring_state(word) == SLOT_FULL &&
           ring_lap(word) == (((sent >> ring->shift) - 1) & LAP_MASK);
}

/* Returns what the channel's parties wait for; a dead one waits for nothing. */
static uint32_t blocked(const struct channel *channel, const ipcheap_counts *counts, bool full) {
    const struct seat *seats = channel->seats;
    bool producer = counts->producer == IPCHEAP_SIDE_OPEN && get(&seats[0].parked) != AWAKE;
    bool consumer = counts->consumer == IPCHEAP_SIDE_OPEN && get(&seats[1].parked) != AWAKE;
    if (producer && full) return IPCHEAP_BLOCKED_FULL;
    return consumer && !counts->pending ? IPCHEAP_BLOCKED_EMPTY : IPCHEAP_NOT_BLOCKED;
}

/*
 * Counts what is in the ring. A position that has left the channel stays so, and `sent` is known
 * before any slot is looked at: what a living producer sends meanwhile changes no other position's
 * answer. If a slot was refilled, its former record had left.
 */
static bool count(ipcheap_heap *heap, uint32_t index, const struct channel *channel,
                  ipcheap_counts *counts) {
    struct ring ring;
    if (!ring_of(heap, index, &ring)) return false;
    uint64_t sent = ring_sent(heap, index);
    uint64_t received = get(&channel->sides[IPCHEAP_CONSUMER].position);
    for (uint64_t p = sent > ring.count ? sent - ring.count : 0; p < sent; p++) {
        if (!ring_has(heap, index, &ring, p)) continue;
        if (p < received)
            counts->held++;
        else
            counts->pending++;
    }
    counts->sent = sent;
    counts->received = sent - counts->pending;
    counts->freed = counts->received - counts->held;
    counts->blocked = blocked(channel, counts, is_full(&ring, sent));
    return true;
}

int ipcheap_channel_counts(ipcheap_heap *heap, const ipcheap_channel *handle,
                           ipcheap_counts *counts) {
    struct channel *channel;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    if (get(&channel->kind) != IPCHEAP_RECORD_CHANNEL) return IPCHEAP_CHANNEL_TYPE;
    *counts = (ipcheap_counts){
        .capacity = get(&channel->shape),
        .producer = state_of(heap, &channel->seats[IPCHEAP_PRODUCER]),
        .consumer = state_of(heap, &channel->seats[IPCHEAP_CONSUMER]),
    };
    bool untouched = !get_acquire(&channel->parts[0]); /* with channel_make_part() */
    bool counted = untouched || count(heap, handle->index, channel, counts);
    /* After its removal the ring may be anything. */
    error = channel_of(heap, handle, &channel);
    return error || counted ? error : IPCHEAP_CORRUPT;
}
