/*
 * directory.h - layer channel: the channels of a heap, by their keys.
 *
 *   table    | 0 | index + 1 | tombstone | ... |     by hash of the key, open addressing
 *                      |
 *   chunks   | descriptor | descriptor | ... |       they never move
 *                      |
 *   parts    | what the kind keeps there |           memory of the channel's own
 *
 * One store makes a descriptor LIVE and so commits the channel. Table, free list and counts are
 * rebuilt from the descriptors after a crash. Look-ups take no lock: whatever they find in a table
 * is checked against the descriptor, and a miss counts only if the directory did not change
 * meanwhile. Any participant may look; only a holder of the heap lock adds and removes.
 */
#ifndef IPCHEAP_CHANNEL_DIRECTORY_H
#define IPCHEAP_CHANNEL_DIRECTORY_H

#include "segment/membership.h"

/* Returns the descriptor with an index; NULL if its chunk was never made. */
struct channel *channel_at(ipcheap_heap *heap, uint32_t index);
/* Returns the index of a descriptor that channel_at() has returned. */
uint32_t channel_index(const ipcheap_heap *heap, const struct channel *channel);
/* Returns how many descriptors have ever been used: those from this index on have not. */
uint32_t directory_entries(ipcheap_heap *heap);
/* Returns the offset of a channel's part; 0 unless it exists, is its own, and has the bytes. */
uint64_t channel_part(ipcheap_heap *heap, uint32_t index, uint32_t part, uint64_t bytes);
/* Finds the channel that a handle names; CHANNEL_NOT_FOUND if it has been removed. */
int channel_of(ipcheap_heap *heap, const ipcheap_channel *handle, struct channel **channel);

/*
 * Finds the channel or adds it, which *added says. Returns CHANNEL_TYPE if it exists with another
 * kind or shape, except that shape 0 accepts any and adds none. `details` are for the kind, if its
 * memory is made with the channel. Under the lock.
 */
int directory_add(struct participant *me, const ipcheap_key *key, uint32_t kind, uint64_t shape,
                  const void *details, ipcheap_channel *handle, bool *added);
/* Gives the channel memory for one of its parts, all zero. Under the lock. */
int channel_make_part(struct participant *me, uint32_t index, uint32_t part, uint64_t bytes);
/*
 * Allocates an area for a part that the kind itself leads to, all zero; the caller stores where it is.
 * Under the lock, which the caller keeps until it has done so.
 */
int channel_make_area(struct participant *me, uint32_t index, uint32_t part, uint64_t bytes,
                      uint64_t *offset);
/* True if there is such an area, with as many bytes, at an arbitrary offset. */
bool channel_area_is(ipcheap_heap *heap, uint32_t index, uint32_t part, uint64_t offset,
                     uint64_t bytes);
/* Frees an area that exists. Under the lock. */
void channel_free_area(struct participant *me, uint64_t offset);
/* Takes a channel out of the table; directory_drop() frees its descriptor. Under the lock. */
void directory_remove(struct participant *me, uint32_t index);
/* Frees memory and descriptor of a removed channel. Under the lock. */
void directory_drop(struct participant *me, uint32_t index);
/* Rebuilds table, free list and counts; frees what was half made. Under the lock. */
void directory_rebuild(struct participant *me);
/* True if the roots lead to descriptors and table, and the counts add up. Under the lock. */
bool directory_valid(ipcheap_heap *heap);
/* Gets the key in a descriptor. */
void channel_key(const struct channel *channel, ipcheap_key *key);
/* Wakes the waiters for a change of the directory, and makes look-ups that missed start anew. */
void directory_notify(ipcheap_heap *heap);

#endif
