/*
 * kind.h - layer channel: what all other code asks of a kind of channel.
 *
 * A kind is a folder of its own, beside the others, and one line of the table in heap/kinds.c. The
 * layers below it, and all code that goes through every channel, know a kind by these answers
 * alone. Sending and receiving do not come through here; waiting, claiming, closing, removing,
 * recovering and reclaiming do. Each answer says which locks its caller holds.
 */
#ifndef IPCHEAP_CHANNEL_KIND_H
#define IPCHEAP_CHANNEL_KIND_H

#include "segment/participant.h"

/* A dead participant that is being recovered; under the heap lock. */
struct recovery {
    struct participant *me;
    ipcheap_heap *heap;
    uint32_t slot, generation;
    ipcheap_recovery *report;
    const ipcheap_recovery_witness *witness;
    bool continued; /* another thread of its process, which is alive, continues it ... */
    uint32_t first; /* ... and owns what has a tag of this generation or a later one */
};

/*
 * All writing sides are recovered before any reading side: undoing a send may return a forwarded
 * record to the slot that it came from.
 */
enum { RECOVER_WRITERS, RECOVER_READERS, RECOVERY_PASSES };

/* True if a tag or holder names the dead participant, or an earlier occupant of its slot. */
static inline bool names_dead(const struct recovery *r, uint64_t word) {
    return tag_slot(word) == r->slot && (int32_t)(tag_generation(word) - r->generation) <= 0;
}

/* True for an OWN tag of the dead participant's, or of an earlier occupant of its slot. */
static inline bool owned_by_dead(const struct recovery *r, uint64_t tag) {
    if (tag_kind(tag) != TAG_OWN || !names_dead(r, tag)) return false;
    return !r->continued || (int32_t)(tag_generation(tag) - r->first) < 0;
}

/* How the calls for records treat an endpoint that receives them, and what it has received. */
struct receiving {
    /* The calls of that name: ipcheap_try_receive() and so on. */
    int (*receive)(ipcheap_endpoint *e, ipcheap_record *record);
    int64_t (*receive_many)(ipcheap_endpoint *e, ipcheap_record *records, size_t limit);
    int (*peek)(ipcheap_endpoint *e, uint64_t *nbytes, uint32_t *form);
    int64_t (*receive_copies)(ipcheap_endpoint *e, ipcheap_taker *take, void *context,
                              size_t limit);
    int64_t (*pending)(ipcheap_endpoint *e);
    int (*free)(ipcheap_heap *heap, ipcheap_record *record);
    int (*keep)(ipcheap_heap *heap, ipcheap_record *record);
};

struct kind {
    /* Its memory: made with the channel, or when a side is first claimed. */
    int zone;
    enum page_kind pages;
    bool made_with_channel;
    bool has_users; /* processes map its memory for long: channel/users.h */
    /* Makes it and writes what must stand there; `details` are those of directory_add(). */
    int (*make)(struct participant *me, uint32_t index, uint64_t shape, const void *details);
    /* True if the channel leads to that area itself. NULL: the descriptor leads to all of them. */
    bool (*has_part)(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset);

    /* Contents; under the lock. NULL: a kind without contents of its own. */

    /* True if it holds the block with this SENT or PART tag, false for garbage. Needs no lock. */
    bool (*holds)(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
    /* Frees garbage; no participant is writing. */
    void (*collect)(struct participant *me, uint32_t index);
    /* Frees garbage while the writing side may be in use, if it is safe now. */
    void (*reclaim)(struct participant *me, uint32_t index);
    /* After CHANNEL_GONE was set: frees what no reader has received, if that can be known. */
    void (*withdraw)(struct participant *me, uint32_t index);
    /* Frees all that is left in a removed channel without an open side. */
    void (*drain)(struct participant *me, uint32_t index);
    /* Undoes or completes what the dead participant left in the channel; may be repeated. */
    void (*recover)(const struct recovery *r, uint32_t index, int pass);

    /* Records on their way from one channel to another. NULL: it gives none, or takes none. */

    /*
     * For a record that an endpoint of this kind has received. Returns 1 if the record occupies a
     * place in the channel, whose tag is *tag; 0 if its holder owns it outright; 2 if others need it as
     * well, so that only a copy may go on; or an error.
     */
    int (*lends)(const ipcheap_record *record, uint64_t *tag);
    /* Gives that place back: the block has another tag, and is committed elsewhere. */
    void (*taken)(ipcheap_record *record);
    /*
     * True if a participant, whose holder word is then *by, gave the block this tag, took it from the
     * place whose tag is `from`, and has not committed it. Needs no lock.
     */
    bool (*awaits)(ipcheap_heap *heap, uint64_t tag, uint64_t offset, uint64_t from, uint64_t *by);

    /* Seats of its own, beside the two of the descriptor. NULL: it has none. Under the lock. */

    /* True if a living participant holds one; recovers dead ones. */
    bool (*occupied)(struct participant *me, uint32_t index);
    /* True while somebody needs what a removed channel still has. */
    bool (*lingers)(struct participant *me, uint32_t index);
    /* Wakes all that sleep there, after an end, a claim or a removal. Needs no lock. */
    void (*wake_all)(ipcheap_heap *heap, uint32_t index);

    /* NULL: records have calls of their own (record/), or endpoints of this kind receive none. */
    const struct receiving *receiving;

    /* Endpoints. 0 bytes: no side can be claimed, and the rest is NULL. */

    size_t endpoint_bytes;
    /*
     * Finds an endpoint's seat and words, if it is to have one of the kind's own: 1; 0 for that of its
     * side; or an error. NULL: always that of its side. Under the lock.
     */
    int (*find_seat)(ipcheap_endpoint *e);
    /* Ends the holding of such a seat. */
    void (*leave_seat)(ipcheap_endpoint *e);
    /* Prepares an endpoint before it holds its seat: 0 or an error. Under the lock. */
    int (*take_side)(ipcheap_endpoint *e);
    /* Makes what a closing endpoint holds its participant's own. Under the heap's mutex. */
    void (*keep_held)(ipcheap_endpoint *e, struct participant *me);
    /* True if there is something to do. */
    bool (*can_go_on)(const ipcheap_endpoint *e);
    /* True if there is so much to do that it pays to stop spinning. */
    bool (*has_some)(const ipcheap_endpoint *e);
    /* True if there is something to do, or an end or an error to report. */
    bool (*ready)(const ipcheap_endpoint *e);
    /* Gets what the endpoint itself holds out of the way of what it is about to wait for. */
    void (*before_waiting)(ipcheap_endpoint *e);
    /*
     * Tells wakers what the endpoint waits for, before it parks; true if that has changed. NULL: any
     * change is worth a wake-up.
     */
    bool (*want)(ipcheap_endpoint *e);
    /* Sleeps until it is ready: 0, TIMED_OUT, INTERRUPTED or an error. NULL: on its seat. */
    int (*sleep)(ipcheap_endpoint *e, int64_t deadline);
    /* Wakes its own thread from that, for one that closes it. NULL: that sleeps on its seat as well. */
    void (*rouse)(ipcheap_endpoint *e);
    /* True if a living participant is on the other side. NULL: by the seat of that side. */
    bool (*has_peer)(const ipcheap_endpoint *e);
    /* True if any participant may post, so that a poller looks when any process closes the heap. */
    bool open_to_all;
    /* What the caller of a claim wants beside the side: 0 or BAD_VALUE. NULL: nothing can be wanted. */
    int (*configure)(ipcheap_endpoint *e, const void *wanted);
    /* Frees what the endpoint has in private memory. NULL: nothing. */
    void (*release)(ipcheap_endpoint *e);
    /* True if the endpoint itself stays, because it is still needed for what it holds. NULL: it goes. */
    bool (*outlives)(ipcheap_endpoint *e);
};

#define KINDS 6 /* IPCHEAP_RECORD_CHANNEL, ...; 0 is none */

/* Returns the answers of the kind with that number; NULL if there is no such kind. */
static inline const struct kind *kind_numbered(const ipcheap_heap *heap, uint32_t number) {
    return number < KINDS ? heap->hooks->kinds[number] : NULL;
}

static inline const struct kind *kind_of(const ipcheap_heap *heap, const struct channel *channel) {
    return kind_numbered(heap, get(&channel->kind));
}

#endif
