#include "channel/side.h"

#include "channel/directory.h"
#include "channel/wake.h"
#include "segment/clock.h"

bool side_taken(struct participant *me, struct channel *channel, int side) {
    struct seat *seat = &channel->seats[side];
    uint64_t holder = get_acquire(&seat->holder); /* pairs with claim() */
    /* A holder that never existed cannot be recovered, and will never close the side. */
    if (recover_if_dead(me, holder) == IPCHEAP_CORRUPT)
        side_end(me->heap, channel, side, SIDE_DIED);
    return side_state(get(&seat->holder)) == SIDE_OPEN;
}

int ipcheap_side_holder(ipcheap_heap *heap, const ipcheap_channel *handle, int side,
                        ipcheap_holder *holder) {
    struct channel *channel;
    int error = channel_of(heap, handle, &channel);
    if (error) return error;
    uint64_t word = get_acquire(&channel->seats[side].holder); /* pairs with claim() */
    if (side_state(word) != SIDE_OPEN) return 0;
    participant_describe(heap, tag_slot(word), holder);
    return 1;
}

/* Wakes those that sit on seats of the kind's own. */
static void wake_others(ipcheap_heap *heap, const struct channel *channel) {
    const struct kind *kind = kind_of(heap, channel);
    if (kind && kind->wake_all) kind->wake_all(heap, channel_index(heap, channel));
}

void side_end(ipcheap_heap *heap, struct channel *channel, int side, enum side_state state) {
    struct seat *seat = &channel->seats[side];
    uint64_t holder = get(&seat->holder) & ~(UINT64_C(3) << 62);
    if (side == IPCHEAP_PRODUCER) put_or(&channel->flags, CHANNEL_DESERTED);
    /* Release: pairs with peer_state(). All that the side did comes before its end. */
    put_release(&seat->holder, (uint64_t)state << 62 | holder);
    full_fence(); /* pairs with sleeper_fence() */
    unpark(heap, &channel->seats[!side], NULL);
    wake_others(heap, channel);
    directory_notify(heap);
}

bool side_is_of_dead(const struct recovery *r, const struct channel *channel, int side) {
    uint64_t holder = get(&channel->seats[side].holder);
    return side_state(holder) == SIDE_OPEN && names_dead(r, holder);
}

void side_recover(const struct recovery *r, struct channel *channel, int side) {
    put(&channel->sides[side].since, 0);
    put(&channel->seats[side].parked, AWAKE);
    bell_recover(r->heap, &channel->seats[side]);
    /*
     * The dead holder may have taken the other side's word without ringing. Before the commit, so
     * that it is done even if this process is killed here.
     */
    bell_ring(r->heap, &channel->seats[!side], NULL);
    r->report->endpoints++;
    side_end(r->heap, channel, side, SIDE_DIED);
}

int channel_poison(ipcheap_heap *heap, struct channel *channel) {
    /* What lies in a channel is freed on its removal, so it looks broken and is only removed. */
    if (get_acquire(&channel->flags) & CHANNEL_GONE) /* pairs with channel_end() */
        return IPCHEAP_ENDPOINT_CLOSED;
    put_or(&channel->flags, CHANNEL_POISONED);
    full_fence(); /* pairs with sleeper_fence() */
    for (int side = 0; side < 2; side++) unpark(heap, &channel->seats[side], NULL);
    wake_others(heap, channel);
    return IPCHEAP_CORRUPT;
}

/*
 * Adds a mark of where the side is at that second, newest first. The k-th mark is given up if its
 * neighbours are less than 2^k seconds apart, so that marks lie 1, 2, 4 ... seconds back.
 */
static void side_mark(struct side *side, uint64_t seconds) {
    uint64_t mark = mark_word(get(&side->position), seconds), newest = get(&side->marks[0]);
    if (mark_seconds(mark) == mark_seconds(newest)) return;
    uint64_t newer = mark_seconds(mark), k;
    for (k = 0; k < MARKS - 1 && get(&side->marks[k]) != 0; k++) {
        uint64_t older = get(&side->marks[k + 1]), apart = newer - mark_seconds(older);
        if (older != 0 && (apart & MARK_SECONDS) < UINT64_C(2) << k) break;
        newer = mark_seconds(get(&side->marks[k]));
    }
    /* From the oldest on: if the holder is killed half-way, one mark stands there twice. */
    for (; k > 0; k--) put(&side->marks[k], get(&side->marks[k - 1]));
    put_release(&side->marks[0], mark); /* pairs with check_marks() */
}

void side_sleeps(ipcheap_heap *heap, struct side *side) {
    int64_t now = clock_now(heap);
    side_mark(side, (uint64_t)(now / SECOND));
    put(&side->since, (uint64_t)now);
    clock_tick(heap);
}
