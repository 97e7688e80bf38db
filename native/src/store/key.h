/*
 * key.h - layer store: keys as the slots have them.
 *
 *   form   kind 8 | length 8          hash   over kind, length and bytes; never 0
 *   key    the bytes, filled up with zeroes to whole words
 *
 * The lower half of the hash says where a cell is looked up, the upper half stands in the cell.
 */
#ifndef IPCHEAP_STORE_KEY_H
#define IPCHEAP_STORE_KEY_H

#include "ipcheap/ipcheap.h"
#include "segment/layout.h"

struct chunk_key {
    uint64_t hash; /* 0: no key */
    uint32_t form, words;
    uint64_t word[CHUNK_KEY_WORDS];
};

/* Takes a caller's key, or NULL for none; BAD_VALUE if it is of no kind, or of a wrong length. */
int key_take(const ipcheap_store_key *from, struct chunk_key *key);
/* Returns the key of a slot in the form that callers use. */
void key_show(const struct store_slot *slot, ipcheap_store_key *key);

/* Returns the key of a slot as it is; a corrupt form is cut. */
void key_in_slot(const struct store_slot *slot, struct chunk_key *key);

/* The half of a hash that cells have; never 0. */
static inline uint32_t hash_in_cell(uint64_t hash) {
    uint32_t upper = (uint32_t)(hash >> 32);
    return upper ? upper : 1;
}

static inline bool slot_has_key(const struct store_slot *slot, const struct chunk_key *key) {
    if (get(&slot->hash) != key->hash || get(&slot->form) != key->form) return false;
    for (uint32_t i = 0; i < key->words; i++)
        if (get(&slot->key[i]) != key->word[i]) return false;
    return true;
}

#endif
