/*
 * tables.h - layer store: where a store keeps its slots, cells and log.
 *
 *   root   part 0       options | head, bell, counts | pieces, readers
 *   piece  part 16 + k  64 << k slots | 512 << k cells | 256 << k entries of the log
 *
 * Slots stay where they are as long as the store. The cells and the log of the newest piece are those
 * in use. `struct store` is a view of all this in private memory, checked as it was made; slots, cells
 * and entries are found through it alone. Readers refresh it when `pieces` has changed.
 */
#ifndef IPCHEAP_STORE_TABLES_H
#define IPCHEAP_STORE_TABLES_H

#include "channel/directory.h"
#include "channel/kind.h"

struct store {
    ipcheap_heap *heap;
    struct channel *channel;
    struct store_root *root;
    uint32_t index;
    uint32_t pieces;
    uint32_t slots;                /* in these pieces */
    uintptr_t piece[STORE_PIECES]; /* where slot 0 would be, if a piece had all before it, too */
    struct store_cell *cells;
    uint64_t cell_mask;
    shared64 *log;
    uint64_t log_mask;
    struct store_reader *group[READER_GROUPS]; /* NULL: not looked up yet */
    /* Options. */
    uint64_t depth, max_chunks, max_bytes, garbage;
    int64_t ttl; /* 0: indefinitely */
    uint32_t hold;
    bool evicts;
};

/* What a new store is to be like. */
struct store_wanted {
    uint64_t depth, ttl, max_chunks, max_bytes, garbage;
    uint32_t hold, flags;
};

/* Makes root and first piece: kind.make. */
int store_make(struct participant *me, uint32_t index, uint64_t shape, const void *details);
/* Returns the root; NULL if the channel is no store, or has no memory of its own. */
struct store_root *store_root_of(ipcheap_heap *heap, uint32_t index);
/* Makes a view; false if the bytes are impossible. */
bool store_view(ipcheap_heap *heap, uint32_t index, struct store *store);
/*
 * True if a slot claims the block at an offset for its chunk, whatever the slot's state, or is about to;
 * false for what a slot has left behind.
 */
bool store_claims(ipcheap_heap *heap, uint64_t tag, uint64_t offset);
/* Adds the pieces that were published since; false if one is not the store's. */
bool store_refresh(struct store *store);
/*
 * Allocates the next piece, with its cells and its log filled, and does not publish it. The writer is
 * the caller, or there is none. Under the lock.
 */
int store_prepare_piece(struct participant *me, struct store *store, uint64_t *offset);
/* Publishes that piece, and refreshes the view. Under the lock. */
void store_publish_piece(struct store *store, uint64_t offset);
/* True if the store leads to that area: kind.has_part. */
bool store_has_part(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset);
/* Frees all areas that the root leads to, as the store is being dropped. Under the lock. */
void store_free_areas(struct participant *me, struct store *store);

static inline uint32_t slots_of_pieces(uint32_t pieces) {
    return FIRST_PIECE * ((UINT32_C(1) << pieces) - 1);
}

static inline struct store_slot *chunk_slot(const struct store *s, uint32_t slot) {
    uint32_t piece = 31 - (uint32_t)__builtin_clz(slot / FIRST_PIECE + 1);
    return (struct store_slot *)(s->piece[piece] + (uint64_t)slot * sizeof(struct store_slot));
}

static inline uint64_t tag_of_chunk(const struct store *s, uint32_t slot) {
    return part_tag(s->index, PART_OF_CHUNK + (uint64_t)slot);
}

/* Entries of readers: how many were ever used, and the one with a number; NULL if it is not there. */
static inline uint32_t readers_used(const struct store *s) {
    return (uint32_t)least(get_acquire(&s->root->readers), MOST_READERS); /* with entry_take() */
}
struct store_reader *store_reader_at(struct store *store, uint32_t number);
/* Returns the hold words of an entry; NULL if it has none. */
shared64 *store_holds_at(struct store *store, uint32_t number);

/* Changes before a key goes, a chain is cut, or slots become free. */
static inline uint64_t store_epoch(const struct store *s) {
    return get_acquire(&s->root->epoch); /* pairs with store_turn() */
}

static inline uint64_t store_head(const struct store *s) {
    return get_acquire(&s->root->head); /* pairs with commit_inside() */
}

#endif
