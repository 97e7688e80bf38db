/*
 * check.h - layer observe: what the parts of a check have in common.
 *
 * A check holds the heap lock, so extents, slabs' owners that left and the directory stand
 * still. Tags, rings and positions do not: participants send and free without the lock. A
 * fault in those counts only if it is there at each of several looks with nothing changed
 * in between, and only where no participant may have been stopped half-way. The dead who
 * await recovery are treated like those: what they left is no broken invariant.
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

/* Says a sentence. */
void __attribute__((format(printf, 2, 3))) fault(struct check *c, const char *format, ...);

/* Does a tag or holder name a participant that lives, or is dead and awaits recovery? */
bool may_own(ipcheap_heap *heap, uint64_t tag);

/* Does a used run with this kind and tag start at this offset? */
bool run_is(ipcheap_heap *heap, uint64_t offset, enum page_kind kind, uint64_t tag,
            uint64_t bytes);

/* What a kind's own file checks: a second opinion, which shares no code with what it checks. */
struct kind_check {
    void (*check)(struct check *c, uint32_t index, struct channel *channel);
    /* Does the channel answer for a block with this SENT or PART tag, garbage included? */
    bool (*accounts_for)(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
    const char *sides[2]; /* names of the sides that can be claimed */
};
extern const struct kind_check record_check, static_check;

/* Does the channel that a SENT or PART tag names answer for that block? */
bool channel_accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset);

/* check_memory.c: every page of both zones belongs to somebody, once. */
void check_memory(struct check *c);
/* check_channels.c: participants, directory and channels agree with what they lead to. */
void check_channels(struct check *c);

#endif
