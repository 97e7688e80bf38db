/*
 * trim.h - layer memory: how much idle memory stays, and returning the rest to the system.
 *
 * Freeing leaves at most the reserve committed: min(64 MiB, capacity / 16). Punching holes and
 * filling them again costs 0.4 ms a MiB of small pages. If memory is needed again right after it
 * was returned, a slack is added to the reserve. The slack shrinks each second to what was used of
 * it.
 */
#ifndef IPCHEAP_MEMORY_TRIM_H
#define IPCHEAP_MEMORY_TRIM_H

#include "segment/handle.h"

/* Returns free memory beyond `keep` bytes to the system: how many bytes, or an error. */
int64_t extents_trim(struct participant *me, uint64_t keep);
/* Under the lock: would so many more idle pages exceed reserve and slack? */
bool trim_is_due(ipcheap_heap *heap, uint64_t more);
/*
 * Returns to the system what lies idle beyond reserve and slack. A caller that must not sleep, is
 * inside participant_enter(), or already holds the lock puts it off to its next trim_retry().
 */
void extents_trim_if_due(struct participant *me);
/* Does a trim that was put off: 0, or WOULD_SLEEP if the caller must not sleep. */
int trim_retry(struct participant *me);
/* Under the lock: notes that a run was taken of which `missing` pages have no memory yet. */
void note_taken(ipcheap_heap *heap, uint64_t missing);
/* Under the lock: is a living participant trimming extents, or making a slab? It is so soon. */
bool extents_free_pending(ipcheap_heap *heap);

#endif
