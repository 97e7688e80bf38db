/*
 * commit.h - layer store: making all changes of a writer one commit.
 *
 *   LIVE, of each  ->  cells  ->  head = the last version  <- committed  ->  log  ->  DEAD, replaced
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
 * Takes the oldest chunks away, one at least, until so many bytes are, and collects. Returns 1, or 0 if
 * there are none, or an error.
 */
int evict_bytes(struct store_endpoint *e, uint64_t bytes);
/* Collects now; returns how many bytes. */
int64_t collect_now(struct store_endpoint *e);

#endif
