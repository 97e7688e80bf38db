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

#include <string.h>

#include "ipcheap/ipcheap.h"
#include "segment/layout.h"

struct chunk_key {
    uint64_t hash; /* 0: no key */
    uint32_t form, words;
    uint64_t word[CHUNK_KEY_WORDS];
};

static inline uint64_t key_mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * UINT64_C(0xBF58476D1CE4E5B9);
    return hash ^ hash >> 32;
}

/* Takes a caller's key, or NULL for none; BAD_VALUE if it is of no kind, or of a wrong length. */
static inline int key_take(const ipcheap_store_key *from, struct chunk_key *key) {
    key->hash = key->form = key->words = 0;
    if (UNLIKELY(!from || from->kind == IPCHEAP_KEY_NONE)) return 0;
    uint32_t length = from->length, kind = from->kind;
    if (UNLIKELY(kind > IPCHEAP_KEY_BYTES || length < 1 || length > IPCHEAP_STORE_KEY_MAX))
        return IPCHEAP_BAD_VALUE;
    if (UNLIKELY(kind == IPCHEAP_KEY_INT && length != sizeof(uint64_t))) return IPCHEAP_BAD_VALUE;
    uint32_t last = (length - 1) / 8;
    uint64_t hash = ((uint64_t)kind << 8 | length) * UINT64_C(0x9E3779B97F4A7C15), word;
    for (uint32_t i = 0; i < last; i++) {
        memcpy(&word, from->bytes + i * sizeof word, sizeof word);
        key->word[i] = word;
        hash = key_mix(hash, word);
    }
    memcpy(&word, from->bytes + last * sizeof word, sizeof word);
    word &= UINT64_MAX >>
            (64 * (last + 1) - 8 * length); /* what is behind the key does not matter */
    key->word[last] = word;
    hash = key_mix(hash, word) * UINT64_C(0x94D049BB133111EB);
    hash ^= hash >> 29;
    key->form = kind << 8 | length;
    key->words = last + 1;
    key->hash = LIKELY(hash) ? hash : 1;
    return 0;
}
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
    if (get(&slot->key[0]) != key->word[0]) return false;
    for (uint32_t i = 1; i < key->words; i++)
        if (get(&slot->key[i]) != key->word[i]) return false;
    return true;
}

#endif
