/*
 * cells.h - layer store: the table that leads from keys to the newest slots, as its writer uses it.
 *
 *   | hash, slot 7 | hash, gone | hash, slot 2 | 0 | ...      a key's cell is at hash & mask, or later
 *
 * Probes end at a cell that was never used. A cell whose key is gone keeps its hash, so that probes go
 * on behind it, until a new key takes it, or the cell behind it is never-used: then it becomes so
 * itself. There are four times as many cells as slots.
 */
#ifndef IPCHEAP_STORE_CELLS_H
#define IPCHEAP_STORE_CELLS_H

#include "store/bells.h"
#include "store/key.h"

/* Returns the cell of a key, and its slot; NULL if it has none. The caller writes the store. */
struct store_cell *cell_find(const struct store *store, const struct chunk_key *key,
                             uint32_t *slot);
/* The same, quickly if it is the first one that is looked at. */
static inline struct store_cell *cell_look(const struct store *s, const struct chunk_key *key,
                                           uint32_t *slot) {
    struct store_cell *cell = &s->cells[key->hash & s->cell_mask];
    uint64_t word = get(&cell->word);
    *slot = (uint32_t)word - 1;
    bool right = word >> 32 == hash_in_cell(key->hash) && *slot < s->slots;
    if (LIKELY(right && slot_has_key(chunk_slot(s, *slot), key))) return cell;
    return cell_find(s, key, slot);
}
/* Returns the cell that leads to a slot; NULL if none does. */
struct store_cell *cell_of_slot(const struct store *store, uint32_t slot);
/* Returns the cell that a new key gets; NULL if the table is full, which a corrupt one may be. */
struct store_cell *cell_for(const struct store *store, uint64_t hash);
/* Lets a cell lead to a slot with that hash. */
static inline void cell_put(struct store_cell *cell, uint64_t hash, uint32_t slot) {
    /* Release: pairs with find_cell(). Publishes the slot. */
    put_release(&cell->word, (uint64_t)hash_in_cell(hash) << 32 | (slot + 1));
}
/* The key of a cell is gone: wakes those that wait for it, and reclaims the cell if it can. */
void cell_clear(struct store *store, struct store_cell *cell);

#endif
