/*
 * commit.h - layer store: making all changes of a writer one commit.
 *
 *   LIVE, of each  ->  cells  ->  head = the last version  <- committed  ->  log  ->  DEAD, replaced
 *
 * A put of bytes that finds a spare fills it, and is a change without a PREPARED slot:
 *
 *   LEAVING, with its block  ->  block and slot filled  ->  LIVE  ->  cell  ->  head  ->  log  ->  DEAD
 *
 * The caller is the writer, outside.
 */
#ifndef IPCHEAP_STORE_COMMIT_H
#define IPCHEAP_STORE_COMMIT_H

#include "store/changes.h"

/*
 * Commits all changes, wakes, and collects if that is due; *version is the last one's. After an error
 * nothing is committed, and the changes are still there.
 */
int commit(struct store_endpoint *e, uint64_t *version);
/*
 * Commits one put of bytes in a spare, while no other change is there. Returns 1, or 0 if there is no
 * spare of that size or something else is to be done first; an error has changed nothing, either.
 */
int commit_spare(struct store_endpoint *e, const struct chunk_key *key, const void *data,
                 uint64_t nbytes, int64_t ttl, uint64_t *version);
/*
 * Takes the oldest chunks away, one at least, until so many bytes are, and collects. Returns 1, or 0 if
 * there are none, or an error.
 */
int evict_bytes(struct store_endpoint *e, uint64_t bytes);
/* Collects now, and makes spares of so many bytes; returns how many bytes were freed. */
int64_t collect_now(struct store_endpoint *e, uint64_t spared);

#endif
