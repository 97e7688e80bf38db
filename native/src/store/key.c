#include "store/key.h"

#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * UINT64_C(0xBF58476D1CE4E5B9);
    return hash ^ hash >> 32;
}

int key_take(const ipcheap_store_key *from, struct chunk_key *key) {
    key->hash = key->form = key->words = 0;
    if (!from || from->kind == IPCHEAP_KEY_NONE) return 0;
    uint32_t length = from->length;
    bool number = from->kind == IPCHEAP_KEY_INT;
    if (from->kind > IPCHEAP_KEY_BYTES || length < 1 || length > IPCHEAP_STORE_KEY_MAX)
        return IPCHEAP_BAD_VALUE;
    if (number && length != sizeof(uint64_t)) return IPCHEAP_BAD_VALUE;
    key->form = (uint32_t)from->kind << 8 | length;
    key->words = (length + 7) / 8;
    key->word[key->words - 1] = 0;
    memcpy(key->word, from->bytes, length);
    uint64_t hash = mix(UINT64_C(0x9E3779B97F4A7C15), key->form);
    for (uint32_t i = 0; i < key->words; i++) hash = mix(hash, key->word[i]);
    hash *= UINT64_C(0x94D049BB133111EB);
    hash ^= hash >> 29;
    key->hash = hash ? hash : 1;
    return 0;
}

void key_in_slot(const struct store_slot *slot, struct chunk_key *key) {
    key->hash = get(&slot->hash);
    key->form = get(&slot->form);
    key->words = (uint32_t)least(((key->form & 0xFF) + 7) / 8, CHUNK_KEY_WORDS);
    for (uint32_t i = 0; i < key->words; i++) key->word[i] = get(&slot->key[i]);
}

void key_show(const struct store_slot *slot, ipcheap_store_key *key) {
    uint32_t form = get(&slot->form), length = form & 0xFF;
    *key = (ipcheap_store_key){.kind = (uint8_t)(form >> 8)};
    if (length > IPCHEAP_STORE_KEY_MAX) length = IPCHEAP_STORE_KEY_MAX;
    key->length = (uint8_t)length;
    for (uint32_t i = 0; i * 8 < length; i++) {
        uint64_t word = get(&slot->key[i]);
        memcpy(key->bytes + i * 8, &word, sizeof word);
    }
}

int ipcheap_store_key_int(ipcheap_store_key *key, uint64_t value) {
    *key = (ipcheap_store_key){.kind = IPCHEAP_KEY_INT, .length = sizeof value};
    memcpy(key->bytes, &value, sizeof value);
    return 0;
}

int ipcheap_store_key_of(ipcheap_store_key *key, int kind, const void *bytes, size_t length) {
    if (kind != IPCHEAP_KEY_TEXT && kind != IPCHEAP_KEY_BYTES) return IPCHEAP_BAD_VALUE;
    if (length < 1 || length > IPCHEAP_STORE_KEY_MAX) return IPCHEAP_BAD_VALUE;
    *key = (ipcheap_store_key){.kind = (uint8_t)kind, .length = (uint8_t)length};
    memcpy(key->bytes, bytes, length);
    return 0;
}
