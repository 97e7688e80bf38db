#include "channel/users.h"

#include "channel/directory.h"
#include "channel/kind.h"

#define ALL_USERS (USERS + PARTICIPANTS)

/* Returns the table; NULL if there is none. */
static shared64 *table_of_users(ipcheap_heap *heap, uint32_t index) {
    uint64_t offset = channel_part(heap, index, USERS_PART, USERS_BYTES);
    return offset ? at_offset(heap, offset) : NULL;
}

static bool is_alive(ipcheap_heap *heap, uint64_t word) {
    return tag_kind(word) == TAG_OWN &&
           participant_alive(heap, tag_slot(word), tag_generation(word));
}

/* Returns the channel if its kind has users. */
static struct channel *channel_with_users(ipcheap_heap *heap, uint32_t index) {
    struct channel *channel = channel_at(heap, index);
    const struct kind *kind = channel ? kind_of(heap, channel) : NULL;
    return kind && kind->has_users ? channel : NULL;
}

bool users_add(struct participant *keeper, uint32_t index) {
    ipcheap_heap *heap = keeper->heap;
    struct channel *channel = channel_at(heap, index);
    for (int i = 0; i < USERS; i++) {
        uint64_t seen = get(&channel->users[i]);
        if (seen && is_alive(heap, seen)) continue;
        if (put_if(&channel->users[i], &seen, keeper->tag)) return true;
    }
    shared64 *table = table_of_users(heap, index);
    if (table) put_release(&table[keeper->slot], keeper->tag); /* pairs with next_user() */
    return table != NULL;
}

int users_make_table(struct participant *me, uint32_t index) {
    return channel_make_part(me, index, USERS_PART, USERS_BYTES);
}

void users_remove(struct participant *keeper, uint32_t index) {
    struct channel *channel = channel_at(keeper->heap, index);
    for (int i = 0; i < USERS; i++)
        if (get(&channel->users[i]) == keeper->tag) put(&channel->users[i], 0);
    shared64 *table = table_of_users(keeper->heap, index);
    if (table && get(&table[keeper->slot]) == keeper->tag) put(&table[keeper->slot], 0);
}

/* Returns the next living user from *cursor on; 0 if there is none. */
static uint64_t next_user(ipcheap_heap *heap, uint32_t index, uint32_t *cursor) {
    struct channel *channel = channel_with_users(heap, index);
    if (!channel) return 0;
    shared64 *table = table_of_users(heap, index);
    uint32_t end = table ? ALL_USERS : USERS;
    while (*cursor < end) {
        uint32_t i = (*cursor)++;
        /* Pairs with users_add(). */
        uint64_t word = get_acquire(i < USERS ? &channel->users[i] : &table[i - USERS]);
        if (word && is_alive(heap, word)) return word;
    }
    return 0;
}

bool users_any(ipcheap_heap *heap, uint32_t index) {
    uint32_t cursor = 0;
    return next_user(heap, index, &cursor) != 0;
}

bool users_elsewhere(ipcheap_heap *heap, uint32_t index) {
    uint32_t cursor = 0;
    ipcheap_holder holder = {.ours = 1};
    uint64_t word;
    while (holder.ours && (word = next_user(heap, index, &cursor)) != 0)
        participant_describe(heap, tag_slot(word), &holder);
    return !holder.ours;
}

int ipcheap_next_user(ipcheap_heap *heap, const ipcheap_channel *handle, uint32_t *cursor,
                      ipcheap_holder *holder) {
    uint64_t word = next_user(heap, handle->index, cursor);
    if (!word) return 0;
    participant_describe(heap, tag_slot(word), holder);
    return 1;
}
