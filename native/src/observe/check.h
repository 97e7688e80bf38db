/*
 * check.h - layer observe: what the parts of a check have in common.
 *
 * A check only reads, and holds the heap lock: extents, slabs without an owner and the directory do
 * not change meanwhile. Tags, rings and positions do, as participants send and free without the
 * lock. A fault in those counts only if it is present at each of several looks with nothing changed
 * in between, and only where no participant may have been stopped half-way. Dead participants that
 * await recovery are treated like stopped ones: what they left breaks no invariant.
 */
#ifndef IPCHEAP_OBSERVE_CHECK_H
#define IPCHEAP_OBSERVE_CHECK_H

#include "channel/directory.h"
#include "channel/kind.h"

enum { LOOKS = 3 };

struct check {
    ipcheap_heap *heap;
    void (*say)(void *context, const char *text);
    void *context;
    int faults;
};

/* Counts a fault and reports it in a sentence. */
void __attribute__((format(printf, 2, 3))) fault(struct check *c, const char *format, ...);

/* True if a holder names a participant that is alive or awaits recovery. */
bool may_hold(ipcheap_heap *heap, uint64_t holder);
/* The same for an OWN tag, which may also name an ended thread whose participant another continues. */
bool may_own(ipcheap_heap *heap, uint64_t tag);

/* True if a used run with this kind, tag and length starts at this offset. */
bool run_is(ipcheap_heap *heap, uint64_t offset, enum page_kind kind, uint64_t tag, uint64_t bytes);

/* The checks of one kind, in a file of its own: a second opinion, sharing no code with the kind. */
struct kind_check {
    void (*check)(struct check *c, uint32_t index, struct channel *channel);
    /* True if the channel accounts for a block with this SENT or PART tag, garbage included. */
    bool (*accounts_for)(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
    const char *sides[2]; /* names of the sides that can be claimed */
    /* True if the channel leads to that area itself. NULL: the descriptor leads to all of them. */
    bool (*leads_to)(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset);
};
extern const struct kind_check record_check, static_check, stream_kind_check, store_kind_check,
    bus_kind_check;

/* True if the channel that the PART tag of an area names leads to it. */
bool channel_leads_to(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
/* True if the channel that a SENT or PART tag names accounts for that block. */
bool channel_accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset);

/* check_memory.c: every page of both zones has one owner. */
void check_memory(struct check *c);
/* check_channels.c: participants, directory and channels agree with what they lead to. */
void check_channels(struct check *c);

#endif
