#include "store/cells.h"

static inline uint32_t slot_in(uint64_t word) { return (uint32_t)word; } /* + 1; 0: gone */

struct store_cell *cell_find(const struct store *s, const struct chunk_key *key, uint32_t *slot) {
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        struct store_cell *cell = &s->cells[(key->hash + i) & s->cell_mask];
        uint64_t word = get(&cell->word);
        if (word == 0) return NULL;
        uint32_t found = slot_in(word);
        if (!found || found > s->slots || word >> 32 != hash_in_cell(key->hash)) continue;
        if (!slot_has_key(chunk_slot(s, found - 1), key)) continue;
        *slot = found - 1;
        return cell;
    }
    return NULL;
}

struct store_cell *cell_of_slot(const struct store *s, uint32_t slot) {
    uint64_t hash = get(&chunk_slot(s, slot)->hash);
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        struct store_cell *cell = &s->cells[(hash + i) & s->cell_mask];
        uint64_t word = get(&cell->word);
        if (word == 0) return NULL;
        if (slot_in(word) == slot + 1) return cell;
    }
    return NULL;
}

struct store_cell *cell_for(const struct store *s, uint64_t hash) {
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        struct store_cell *cell = &s->cells[(hash + i) & s->cell_mask];
        if (slot_in(get(&cell->word)) == 0) return cell;
    }
    return NULL;
}

void cell_clear(struct store *s, struct store_cell *cell) {
    put_release(&cell->word, get(&cell->word) >> 32 << 32); /* pairs with find_cell() */
    bell_fence(s);
    bell_tell(s, &cell->bell);
    uint64_t at = (uint64_t)(cell - s->cells);
    if (get(&s->cells[(at + 1) & s->cell_mask].word) != 0) return;
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        struct store_cell *gone = &s->cells[(at - i) & s->cell_mask];
        if (get(&gone->word) == 0 || slot_in(get(&gone->word))) return;
        put(&gone->word, 0);
    }
}
