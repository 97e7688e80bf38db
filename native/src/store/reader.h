/*
 * reader.h - layer store: what a reader looks up.
 *
 *   head first; then the cell; hold its slot; compare the key; while the version is above that head, hold
 *   the older one instead
 *
 * The caller is the reader's own thread.
 */
#ifndef IPCHEAP_STORE_READER_H
#define IPCHEAP_STORE_READER_H

#include "store/endpoint.h"

/* Returns 0 if the endpoint is a reader that can go on. */
int reader_check(struct store_endpoint *e);
/* Gets the newest chunk of a key: 1, 0 or an error. */
int reader_get(struct store_endpoint *e, const struct chunk_key *key, uint64_t newer_than,
               ipcheap_chunk *chunk);
/* Returns the cell that a key's waiters sleep on: its own, or none. */
struct store_cell *reader_cell(struct store_endpoint *e, const struct chunk_key *key);
/* Returns what a held chunk is, for a slot that is held in that word: 0 or CORRUPT. */
int reader_chunk(struct store_endpoint *e, uint32_t slot, uint64_t slot_word, uint32_t word,
                 ipcheap_chunk *chunk);
/* True if what a slot has is a deletion, or has expired. */
bool reader_is_over(const struct store_endpoint *e, uint32_t slot);
/* Follows growth: 0 or CORRUPT. */
int reader_follow(struct store_endpoint *e);

#endif
