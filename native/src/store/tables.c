#include "store/tables.h"

#include "ipcheap/ipcheap.h"

/* Pieces ------------------------------------------------------------------------------------- */

static uint64_t piece_bytes(uint32_t piece) {
    uint64_t first = FIRST_PIECE * sizeof(struct store_slot) +
                     CELLS_OF_PIECE * sizeof(struct store_cell) + LOG_OF_PIECE * sizeof(shared64);
    return first << piece;
}

/* Points a view to a piece of that number, which becomes its newest. */
static void look_at_piece(struct store *s, uint32_t piece, uint64_t offset) {
    unsigned char *start = at_offset(s->heap, offset);
    s->piece[piece] = (uintptr_t)start - slots_of_pieces(piece) * sizeof(struct store_slot);
    start += (FIRST_PIECE * sizeof(struct store_slot)) << piece;
    s->cells = (struct store_cell *)start;
    start += (CELLS_OF_PIECE * sizeof(struct store_cell)) << piece;
    s->log = (shared64 *)start;
    s->cell_mask = ((uint64_t)CELLS_OF_PIECE << piece) - 1;
    s->log_mask = ((uint64_t)LOG_OF_PIECE << piece) - 1;
    s->pieces = piece + 1;
    s->slots = slots_of_pieces(piece + 1);
}

bool store_refresh(struct store *s) {
    uint32_t pieces = get_acquire(&s->root->pieces); /* pairs with store_publish_piece() */
    if (pieces < s->pieces || pieces > STORE_PIECES) return false;
    while (s->pieces < pieces) {
        uint32_t piece = s->pieces;
        uint64_t offset = get(&s->root->piece[piece]);
        if (!channel_area_is(s->heap, s->index, PART_OF_PIECE + piece, offset, piece_bytes(piece)))
            return false;
        look_at_piece(s, piece, offset);
    }
    return true;
}

/* The cell in which a word belongs, in a table that nobody else uses yet. */
static void cell_move(const struct store *to, const struct store *from, uint64_t word) {
    uint64_t at = get(&chunk_slot(from, (uint32_t)word - 1)->hash) & to->cell_mask;
    while (get(&to->cells[at].word) != 0) at = (at + 1) & to->cell_mask;
    put(&to->cells[at].word, word);
}

/*
 * Fills a new log. An entry has the newest version that belongs there, and the slot only if that is
 * LIVE: what is not there has nothing to give.
 */
static void log_fill(const struct store *to, const struct store *from, uint64_t head) {
    for (uint64_t i = 0; i <= to->log_mask; i++) {
        uint64_t version = head - ((head - i) & to->log_mask);
        if (head >= ((head - i) & to->log_mask) && version > 0) put(&to->log[i], version << 32);
    }
    for (uint32_t i = 0; i < from->slots; i++) {
        uint64_t word = get(&chunk_slot(from, i)->word), version = chunk_version(word);
        if (chunk_state(word) != CHUNK_LIVE || version > head || head - version > to->log_mask)
            continue;
        put(&to->log[version & to->log_mask], version << 32 | (i + 1));
    }
}

int store_prepare_piece(struct participant *me, struct store *s, uint64_t *offset) {
    if (s->pieces == STORE_PIECES) return IPCHEAP_HEAP_FULL;
    uint32_t piece = s->pieces;
    int error = channel_make_area(me, s->index, PART_OF_PIECE + piece, piece_bytes(piece), offset);
    if (error || piece == 0) return error;
    struct store next = *s;
    look_at_piece(&next, piece, *offset);
    for (uint64_t i = 0; i <= s->cell_mask; i++) {
        uint64_t word = get(&s->cells[i].word);
        uint32_t slot = (uint32_t)word;
        if (slot && slot <= s->slots) cell_move(&next, s, word);
    }
    log_fill(&next, s, get(&s->root->head));
    return 0;
}

void store_publish_piece(struct store *s, uint64_t offset) {
    put(&s->root->piece[s->pieces], offset);
    put_release(&s->root->pieces, s->pieces + 1); /* pairs with store_refresh() */
    look_at_piece(s, s->pieces, offset);
}

/* The root ----------------------------------------------------------------------------------- */

struct store_root *store_root_of(ipcheap_heap *heap, uint32_t index) {
    const struct channel *channel = channel_at(heap, index);
    if (!channel || get(&channel->kind) != IPCHEAP_STORE) return NULL;
    uint64_t memory = channel_part(heap, index, 0, sizeof(struct store_root));
    return memory ? at_offset(heap, memory) : NULL;
}

bool store_view(ipcheap_heap *heap, uint32_t index, struct store *s) {
    struct store_root *root = store_root_of(heap, index);
    if (!root) return false;
    *s = (struct store){
        .heap = heap,
        .channel = channel_at(heap, index),
        .root = root,
        .index = index,
        .depth = get(&root->depth),
        .ttl = (int64_t)get(&root->ttl),
        .max_chunks = get(&root->max_chunks),
        .max_bytes = get(&root->max_bytes),
        .garbage = get(&root->garbage),
        .hold = get(&root->hold),
        .evicts = get(&root->flags) & IPCHEAP_EVICT,
    };
    if (s->depth < 1 || s->ttl < 0 || s->hold < 1 || s->hold > MOST_HOLDS) return false;
    return store_refresh(s) && s->pieces > 0;
}

bool store_claims(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    struct store s;
    uint64_t part = tag_position(tag);
    if (tag_kind(tag) != TAG_PART || part < PART_OF_CHUNK) return false;
    if (!store_view(heap, tag_channel(tag), &s) || part - PART_OF_CHUNK >= s.slots) return false;
    const struct store_slot *slot = chunk_slot(&s, (uint32_t)(part - PART_OF_CHUNK));
    return chunk_state(get(&slot->word)) != CHUNK_FREE && get(&slot->offset) == offset;
}

int store_make(struct participant *me, uint32_t index, uint64_t shape, const void *details) {
    const struct store_wanted *wanted = details;
    (void)shape;
    if (!wanted) return IPCHEAP_CORRUPT; /* a store that has lost its memory */
    int error = channel_make_part(me, index, 0, sizeof(struct store_root));
    if (error) return error;
    struct channel *channel = channel_at(me->heap, index);
    uint64_t memory = get(&channel->parts[0]), piece;
    struct store_root *root = at_offset(me->heap, memory);
    put(&root->depth, wanted->depth);
    put(&root->ttl, wanted->ttl);
    put(&root->max_chunks, wanted->max_chunks);
    put(&root->max_bytes, wanted->max_bytes);
    put(&root->garbage, wanted->garbage);
    put(&root->hold, wanted->hold);
    put(&root->flags, wanted->flags);
    struct store s = {.heap = me->heap, .root = root, .index = index};
    error = store_prepare_piece(me, &s, &piece);
    if (error) {
        put(&channel->parts[0], 0);
        channel_free_area(me, memory);
        return error;
    }
    store_publish_piece(&s, piece);
    return 0;
}

/* Readers ------------------------------------------------------------------------------------ */

static uint32_t group_of(uint32_t number, uint32_t *within) {
    uint32_t group = 31 - (uint32_t)__builtin_clz(number / FIRST_GROUP + 1);
    *within = number - FIRST_GROUP * ((UINT32_C(1) << group) - 1);
    return group;
}

struct store_reader *store_reader_at(struct store *s, uint32_t number) {
    if (number >= MOST_READERS) return NULL;
    uint32_t within, group = group_of(number, &within);
    if (!s->group[group]) {
        uint64_t offset = get_acquire(&s->root->group[group]); /* pairs with entry_take() */
        uint64_t bytes = (FIRST_GROUP * sizeof(struct store_reader)) << group;
        if (!channel_area_is(s->heap, s->index, PART_OF_GROUP + group, offset, bytes)) return NULL;
        s->group[group] = at_offset(s->heap, offset);
    }
    return s->group[group] + within;
}

shared64 *store_holds_at(struct store *s, uint32_t number) {
    const struct store_reader *entry = store_reader_at(s, number);
    uint64_t offset = entry ? get_acquire(&entry->holds) : 0; /* pairs with entry_prepare() */
    uint64_t bytes = ((uint64_t)s->hold + 1) * sizeof(shared64);
    bool own = channel_area_is(s->heap, s->index, PART_OF_HOLDS + number, offset, bytes);
    return own ? at_offset(s->heap, offset) : NULL;
}

/* Areas -------------------------------------------------------------------------------------- */

bool store_has_part(ipcheap_heap *heap, uint32_t index, uint64_t part, uint64_t offset) {
    struct store_root *root = store_root_of(heap, index);
    if (!root) return false;
    if (part >= PART_OF_HOLDS && part < PART_OF_HOLDS + MOST_READERS) {
        struct store s = {.heap = heap, .root = root, .index = index};
        struct store_reader *entry = store_reader_at(&s, (uint32_t)(part - PART_OF_HOLDS));
        return entry && get(&entry->holds) == offset;
    }
    if (part >= PART_OF_GROUP && part < PART_OF_GROUP + READER_GROUPS)
        return get(&root->group[part - PART_OF_GROUP]) == offset;
    return part >= PART_OF_PIECE && part < PART_OF_PIECE + STORE_PIECES &&
           part - PART_OF_PIECE < get(&root->pieces) &&
           get(&root->piece[part - PART_OF_PIECE]) == offset;
}

void store_free_areas(struct participant *me, struct store *s) {
    uint32_t readers = readers_used(s);
    for (uint32_t i = 0; i < readers; i++) {
        shared64 *holds = store_holds_at(s, i);
        if (!holds) continue;
        put(&store_reader_at(s, i)->holds, 0);
        channel_free_area(me, offset_of(s->heap, holds));
    }
    put(&s->root->readers, 0);
    for (uint32_t i = 0; i < READER_GROUPS; i++) {
        uint64_t offset = get(&s->root->group[i]);
        put(&s->root->group[i], 0);
        if (offset && channel_area_is(s->heap, s->index, PART_OF_GROUP + i, offset, 1))
            channel_free_area(me, offset);
    }
    while (s->pieces > 0) {
        uint32_t piece = --s->pieces;
        put(&s->root->pieces, piece);
        channel_free_area(me, offset_of(s->heap, chunk_slot(s, slots_of_pieces(piece))));
    }
}
