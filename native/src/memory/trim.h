/*
 * trim.h - layer memory: how much idle memory stays, and giving the rest back to the system.
 *
 * Freeing leaves at most the reserve committed: min(64 MiB, capacity / 16). Punching holes
 * and filling them again costs 0.4 ms a MiB of small pages, so who breathes, that is, needs again
 * what was given back a moment ago, earns a slack on top, which shrinks to what it really
 * uses within a second.
 */
#ifndef IPCHEAP_MEMORY_TRIM_H
#define IPCHEAP_MEMORY_TRIM_H

#include "segment/handle.h"

/* Gives back free memory beyond `keep` bytes; returns bytes or an error. */
int64_t extents_trim(struct participant *me, uint64_t keep);
/* Under the lock: with so many more pages idle, would that be beyond reserve and slack? */
bool trim_is_due(ipcheap_heap *heap, uint64_t more);
/*
 * Gives back what lies idle beyond reserve and slack. Who must not sleep, or is inside
 * participant_enter(), or has the lock, will do so in his next call that trim_retry()s.
 */
void extents_trim_if_due(struct participant *me);
/* Does what was put off: 0, or WOULD_SLEEP when it has to be put off still. */
int trim_retry(struct participant *me);
/* Under the lock: `missing` pages of a run just taken have no memory yet. */
void note_taken(ipcheap_heap *heap, uint64_t missing);
/* Under the lock: is memory being given back just now that an allocation could have? */
bool extents_free_pending(ipcheap_heap *heap);

#endif
