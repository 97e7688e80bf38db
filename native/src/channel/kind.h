/*
 * kind.h - layer channel: what all other code asks of a kind of channel.
 *
 * A kind is a folder of its own, beside the others, and one line of the table in heap/kinds.c.
 * Everything below it, and whatever goes through all channels, knows a kind by these answers
 * alone. Sending and receiving do not come through here: only waiting, claiming, closing, removing,
 * recovering and reclaiming do.
 */
#ifndef IPCHEAP_CHANNEL_KIND_H
#define IPCHEAP_CHANNEL_KIND_H

#include "segment/participant.h"

/* One participant that is being recovered; under the heap lock. */
struct recovery {
    struct participant *me;
    ipcheap_heap *heap;
    uint32_t slot, generation;
    ipcheap_recovery *report;
    const ipcheap_recovery_witness *witness;
};

/* Writing sides of all channels come before any reading side: a forwarded record may go back. */
enum { RECOVER_WRITERS, RECOVER_READERS, RECOVERY_PASSES };

/* Does a tag or a holder word name the dead participant, or an earlier occupant of its slot? */
static inline bool names_dead(const struct recovery *r, uint64_t word) {
    return tag_slot(word) == r->slot && (int32_t)(tag_generation(word) - r->generation) <= 0;
}

static inline bool owned_by_dead(const struct recovery *r, uint64_t tag) {
    return tag_kind(tag) == TAG_OWN && names_dead(r, tag);
}

struct kind {
    /* Its first area of memory, part 0: made with the channel, or when a side is first claimed. */
    int zone;
    enum page_kind pages;
    bool made_with_channel;
    uint64_t (*bytes)(uint64_t shape);

    /* Under the lock, of a channel. NULL: a kind without contents of its own. */
    /* Does the channel hold the block with this SENT or PART tag, or is it garbage? Without it, too. */
    bool (*holds)(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
    /* Frees garbage; the writing side is out of the way. */
    void (*collect)(struct participant *me, uint32_t index);
    /* Frees garbage if that can be done now, whatever the writing side does. */
    void (*reclaim)(struct participant *me, uint32_t index);
    /* CHANNEL_GONE has been set: frees what no reader has received, if that can be known. */
    void (*withdraw)(struct participant *me, uint32_t index);
    /* The channel is removed and no side is open: frees all that is left. */
    void (*drain)(struct participant *me, uint32_t index);
    /* Undoes and completes what the dead participant left in the channel; may be repeated. */
    void (*recover)(const struct recovery *r, uint32_t index, int pass);

    /* Endpoints. 0 bytes: nobody claims a side, and the rest is NULL. */
    size_t endpoint_bytes;
    /* Under the lock, before the endpoint holds its seat: 0, CORRUPT. */
    int (*take_side)(ipcheap_endpoint *e);
    /* Under the heap's mutex, at the end: what it holds becomes its participant's own. */
    void (*keep_held)(ipcheap_endpoint *e, struct participant *me);
    /* Is there something to do? */
    bool (*can_go_on)(const ipcheap_endpoint *e);
    /* Is there enough to do, so that it is worth while to stop spinning? */
    bool (*has_some)(const ipcheap_endpoint *e);
    /* Is there something to do, or an end or an error to report? */
    bool (*ready)(const ipcheap_endpoint *e);
    /* The endpoint is about to wait, and nothing of its own may be what it waits for. */
    void (*before_waiting)(ipcheap_endpoint *e);
};

#define KINDS 6 /* IPCHEAP_RECORD_CHANNEL, ...; 0 is none */

/* What the kind of that number answers; NULL if there is none. */
static inline const struct kind *kind_numbered(const ipcheap_heap *heap, uint32_t number) {
    return number < KINDS ? heap->hooks->kinds[number] : NULL;
}

static inline const struct kind *kind_of(const ipcheap_heap *heap, const struct channel *channel) {
    return kind_numbered(heap, get(&channel->kind));
}

#endif
