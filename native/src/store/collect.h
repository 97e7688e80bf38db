/*
 * collect.h - layer store: freeing what is dead and not held.
 *
 *   collections + 1  ->  cells of deletions gone  ->  LEAVING  ->  membarrier  ->  hold words
 *                                                 ->  block FREE, slot FREE, of what no word names
 *                                                     or it stays as it is: a spare
 *
 * A spare is a slot that is LEAVING, that no reader holds or can come to hold, and whose block the next
 * put of its size class overwrites. Only the writer knows which ones are spares. To everybody else they
 * are being collected: a participant that collects for the writer frees them.
 *
 * The caller has the store to itself: its writer, between participant_enter() and _leave(), or a
 * holder of the heap lock while no writer is inside.
 */
#ifndef IPCHEAP_STORE_COLLECT_H
#define IPCHEAP_STORE_COLLECT_H

#include "store/lists.h"
#include "store/readers.h"

/*
 * Collects, after taking away what has expired, and frees the spares of the collection before. Makes
 * spares of at most so many bytes. Returns how many bytes were freed, as put.
 */
uint64_t collect(struct participant *me, struct store *store, struct lists *lists, uint64_t spared);
/* Frees a spare, if there is one. */
void spare_drop(struct participant *me, struct store *store, struct lists *lists);
/* How many bytes of spares a put leaves: they are garbage, and there must be room for more. */
static inline uint64_t store_spare_bytes(const struct store *s) { return s->garbage / 2; }
/* Frees a slot and the block that it names, if the tag agrees; false if the block cannot be now. */
bool free_chunk(struct participant *me, struct store *store, uint32_t slot);
/*
 * Builds lists, collects with them and drops them, for a store that has no writer, or one that is not
 * inside and keeps outside. Under the lock. Returns how many bytes. `collector` names the caller
 * meanwhile: if it is killed, its recovery does it again, unless a writer's lists were built first.
 */
uint64_t collect_alone(struct participant *me, struct store *store);
/* Notes that a writer's lists have been built: what a killed collector left is completed. */
void collect_completed(struct store *store);
/* Does the same for any store, if its writer can be kept outside meanwhile: kind.reclaim. */
void store_reclaim(struct participant *me, uint32_t index);

#endif
