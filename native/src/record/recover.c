#include "record/recover.h"

#include "channel/directory.h"
#include "channel/side.h"
#include "memory/block.h"
#include "record/ring.h"

/*
 * True if the record in this slot was being forwarded to another channel, and did not arrive. The
 * sender was of the same process, so it is dead; it may have been recovered already.
 */
static bool is_half_forwarded(const struct recovery *r, uint64_t tag, uint64_t offset,
                              uint64_t here) {
    uint64_t by;
    if (!ring_awaited(r->heap, tag, offset, here, &by)) return false;
    return names_dead(r, by) || !participant_alive(r->heap, tag_slot(by), tag_generation(by));
}

static void recover_producer(const struct recovery *r, uint32_t index, struct channel *channel) {
    struct side *side = &channel->sides[IPCHEAP_PRODUCER];
    uint64_t sent = ring_sent(r->heap, index), intent = get(&side->record.intent);
    uint64_t from = get(&side->record.from);
    struct place place;
    /*
     * The block is tagged as sent, but its slot was never filled: `send` had not returned. A record
     * that was being forwarded returns to its slot; one that the dead participant owned is freed.
     */
    if (intent && place_find(r->heap, intent, &place) && place_is(&place, sent_tag(index, sent))) {
        if (tag_kind(from) == TAG_SENT && ring_holds(r->heap, from, intent)) {
            put_release(place.tag, from); /* pairs with place_is() */
        } else {
            r->report->blocks++;
            r->report->bytes += place_bytes(r->heap, &place);
            block_free(r->me, &place);
        }
    }
    put(&side->position, sent);
    put_release(&side->record.intent, 0); /* after the tag; pairs with ring_awaits() */
    ring_collect(r->me, index);
}

static void recover_consumer(const struct recovery *r, uint32_t index, struct channel *channel) {
    struct ring ring;
    if (!ring_of(r->heap, index, &ring)) return;
    struct side *side = &channel->sides[IPCHEAP_CONSUMER];
    uint64_t sent = ring_sent(r->heap, index), received = get(&side->position), again = 0;
    for (uint64_t p = sent > ring.count ? sent - ring.count : 0; p < sent; p++) {
        struct ring_slot *slot = &ring.slots[p & (ring.count - 1)];
        uint64_t word = get_acquire(&slot->word); /* pairs with fill_slot() */
        uint64_t lap = (p >> ring.shift) & LAP_MASK;
        if (ring_state(word) != SLOT_FULL || ring_lap(word) != lap) continue;
        struct place place;
        uint64_t offset = ring_offset(word), tag = sent_tag(index, p);
        bool found = place_find(r->heap, offset, &place);
        if (found && is_half_forwarded(r, get(place.tag), offset, tag)) put(place.tag, tag);
        bool here = found && get(place.tag) == tag;
        if (!here) /* kept or forwarded, and the slot not yet given back */
            put_release(&slot->word, ring_word(lap + 1, SLOT_EMPTY, 0));
        else if (p < received)
            again++;
    }
    r->report->redelivered += again;
    if (again && r->witness) {
        ipcheap_key key;
        channel_key(channel, &key);
        r->witness->redelivered(r->witness->context, &key, again);
    }
    put(&side->position, ring_oldest(r->heap, index, sent));
}

void record_recover(const struct recovery *r, uint32_t index, int side) {
    struct channel *channel = channel_at(r->heap, index);
    if (!side_is_of_dead(r, channel, side)) return;
    if (side == IPCHEAP_PRODUCER)
        recover_producer(r, index, channel);
    else
        recover_consumer(r, index, channel);
    side_recover(r, channel, side);
}
