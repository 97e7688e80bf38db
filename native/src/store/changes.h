/*
 * changes.h - layer store: what a writer has put and not committed.
 *
 *   slot   FREE  ->  PREPARED, and its block's tag names it  ->  LIVE(head + 1 + place)     commit.h
 *                                                            ->  FREE, the tag as it was    undone
 *
 * No reader is given any of it. The index leads from a key to its last change. The caller is the
 * writer.
 */
#ifndef IPCHEAP_STORE_CHANGES_H
#define IPCHEAP_STORE_CHANGES_H

#include "endpoint/parcel.h"
#include "store/endpoint.h"

/* What a writer must look at before it does anything inside. */
#define CHANNEL_STOPS (CHANNEL_REVOKED | CHANNEL_GONE | CHANNEL_POISONED)
/* Outside, after one of them was seen: brings the lists up to date, 0; or the error. */
int store_stopped(struct store_endpoint *e, uint32_t flags);
/* Keeps others from collecting until participant_leave(); brings the lists up to date first. */
static inline int store_enter(struct store_endpoint *e) {
    for (;;) {
        participant_enter(e->base.me);
        uint32_t flags = get(&e->base.channel->flags);
        if (LIKELY(!(flags & CHANNEL_STOPS))) return 0;
        participant_leave(e->base.me);
        int error = store_stopped(e, flags);
        if (error) return error;
    }
}
/* Adds a change: a PREPARED slot. An error has changed nothing. */
int change_add(struct store_endpoint *e, const struct chunk_key *key, const struct parcel *parcel,
               int64_t ttl);
/* Begins to keep several changes; the writer has none yet. */
void changes_begin(struct store_endpoint *e);
/* Forgets all changes, which are committed or undone, and ends the transaction. */
void changes_end(struct store_endpoint *e);
/* Undoes all changes from that one on, for the caller `me`. Under the heap's mutex. */
void changes_undo(struct store_endpoint *e, struct participant *me, uint32_t from);
/* Returns the last change of a key, plus 1; 0 if it has none. */
uint32_t change_find(struct store_endpoint *e, const struct chunk_key *key);
/* Gives a change's slot back, whose block has been freed or has its former tag. */
void slot_give_back(struct store_endpoint *e, uint32_t slot);
/* Frees the block that a change has brought, or gives it back to where it came from. */
void change_drop(struct store_endpoint *e, struct participant *me, struct change *change);

#endif
