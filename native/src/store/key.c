#include "store/key.h"

#include <string.h>

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
