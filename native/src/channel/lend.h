/*
 * lend.h - layer channel: extents that a producer lends and gets back.
 *
 * A block goes back to its producer in the slot; an extent is freed by its consumer, at once: a long
 * ring would keep many. But the next one is then the same memory again, half of it still in the
 * consumer's cache, from where each line must be fetched. A stream of records that are all as long
 * does better with a few that go round; nor does anybody need the heap lock for these. So a producer
 * who asks for the same size again marks what it sends, a few at a time: the consumer leaves them
 * RELEASED, like a block, and the next record of that size is the one that has been back longest.
 *
 * Until it is taken it is garbage in a ring like any other: collected when memory is short, when
 * its producer closes or dies, or comes round to the slot.
 */
#ifndef IPCHEAP_CHANNEL_LEND_H
#define IPCHEAP_CHANNEL_LEND_H

#include "channel/endpoint.h"

/* What it pays for: less fits a core's caches in any case, more does not in all of them. */
#define LENT_LEAST (UINT64_C(256) << 10 >> PAGE_SHIFT)
#define LENT_MOST (UINT64_C(2) << 20 >> PAGE_SHIFT)
#define LENT_PAGES (UINT64_C(4) << 20 >> PAGE_SHIFT) /* that a participant may have out at a time */

/* The offset of an extent for so many bytes that has come back, now the caller's; or 0. */
uint64_t lent_take(struct participant *me, uint64_t nbytes);
/* So many bytes have been allocated as an extent, in whatever way. */
void lent_asked(struct participant *me, uint64_t nbytes);
/* Is an extent of so many pages that the caller is about to send to come back? Of 0: no. */
static inline bool lent_wanted(const struct participant *me, uint64_t pages) {
    const struct lending *l = &me->lending;
    if (LIKELY(pages == 0 || pages != l->wanted) || l->count == LOANS) return false;
    /* Without a barrier nobody else can collect what is out: see collect_from_other(). */
    if (UNLIKELY(get(&me->heap->header->fences))) return false;
    return l->pages + pages <= least(LENT_PAGES, me->heap->geometry.zone_pages[DATA_ZONE] / 64);
}
/* It has been sent at a position. */
void lent_add(ipcheap_endpoint *e, uint64_t position, uint64_t offset);
/* Under the heap's mutex: the endpoint closes. */
void lent_forget(struct participant *me, const ipcheap_endpoint *e);

#endif
