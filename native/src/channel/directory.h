/*
 * directory.h - layer channel: which channels there are.
 *
 *   hash table of index + 1  ->  descriptors in chunks that never move  ->  its memory
 *
 * A descriptor is LIVE or it is not: that store commits; table, free list and counts are
 * made again from the descriptors after a crash. Look-ups take no lock: whatever they find
 * in a table is checked against the descriptor, and a miss counts only when the directory
 * did not change meanwhile.
 */
#ifndef IPCHEAP_CHANNEL_DIRECTORY_H
#define IPCHEAP_CHANNEL_DIRECTORY_H

#include "segment/membership.h"


/* The descriptor; NULL for an index that was never given. */
struct channel *channel_at(ipcheap_heap *heap, uint32_t index);
/* Descriptors beyond this one have never been. */
uint32_t directory_entries(ipcheap_heap *heap);
/* Where an area of a channel's memory is; 0 unless it is there, is its own, and has that many bytes. */
uint64_t channel_part(ipcheap_heap *heap, uint32_t index, uint32_t part, uint64_t bytes);
/* The channel that a handle names, unless it is gone: CHANNEL_NOT_FOUND. */
int channel_of(ipcheap_heap *heap, const ipcheap_channel *handle, struct channel **channel);

/*
 * Under the lock. Finds the channel or adds it; *added tells. A different kind or shape is
 * CHANNEL_TYPE; shape 0 takes any.
 */
int directory_add(struct participant *me, const ipcheap_key *key, uint32_t kind, uint64_t shape,
                  ipcheap_channel *handle, bool *added);
/* Under the lock. Gives the channel an area of its memory, zero from end to end. */
int channel_make_part(struct participant *me, uint32_t index, uint32_t part, uint64_t bytes);
/* Under the lock. Takes it out of the table; the descriptor stays until directory_drop(). */
void directory_remove(struct participant *me, uint32_t index);
/* Under the lock. Frees memory and descriptor of a removed channel. */
void directory_drop(struct participant *me, uint32_t index);
/* Under the lock. Completes table, free list and counts; frees what a dead one was making. */
void directory_rebuild(struct participant *me);
/* Under the lock. Do the roots lead to descriptors and table, and do the counts add up? */
bool directory_valid(ipcheap_heap *heap);
/* The key that a descriptor has. */
void channel_key(const struct channel *channel, ipcheap_key *key);
/* Something that others may wait for has changed. */
void directory_notify(ipcheap_heap *heap);

#endif
