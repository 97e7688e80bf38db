#include "bus/holds.h"

#include <stdlib.h>

#include "segment/lock.h"

/* Puts words that other threads have returned on the stack again; false if there are none. */
static bool gather(struct listener *e) {
    if (!e->returned_count) return false;
    pthread_mutex_lock(&e->base.heap->mutex);
    while (e->returned_count) e->free[e->free_count++] = e->returned[--e->returned_count];
    pthread_mutex_unlock(&e->base.heap->mutex);
    return true;
}

/* Makes the stacks large enough for so many words in all. */
static int reserve(struct listener *e, uint32_t words) {
    uint32_t *free_ones = os_reallocate(e->free, words * sizeof *free_ones);
    if (!free_ones) return IPCHEAP_NO_MEMORY;
    e->free = free_ones;
    pthread_mutex_lock(&e->base.heap->mutex);
    uint32_t *returned = os_reallocate(e->returned, words * sizeof *returned);
    if (returned) e->returned = returned;
    pthread_mutex_unlock(&e->base.heap->mutex);
    return returned ? 0 : IPCHEAP_NO_MEMORY;
}

/* Makes the next table of words; the first ones stand in the record. */
static int grow(struct listener *e) {
    uint32_t more = NEAR_HOLDS, within;
    if (e->words) {
        struct participant *me = e->base.me;
        uint32_t table = hold_table_of(e->words, &within);
        if (table == HOLD_TABLES) return IPCHEAP_HEAP_FULL;
        int error = heap_lock(me);
        if (error) return error;
        error = listener_make_table(me, &e->bus, e->number, table);
        heap_unlock(me);
        if (error) return error;
        e->tables[table] = listener_table(&e->bus, e->number, e->shared, table);
        if (!e->tables[table]) return IPCHEAP_CORRUPT;
        more = hold_table_length(table);
    }
    int error = reserve(e, e->words + more);
    if (error) return error;
    for (uint32_t i = more; i > 0; i--) e->free[e->free_count++] = e->words + i - 1;
    e->words += more;
    return 0;
}

int word_take(struct listener *e, uint32_t *word) {
    if (UNLIKELY(!e->free_count) && !gather(e)) {
        int error = grow(e);
        if (error) return error;
    }
    *word = e->free[--e->free_count];
    if (UNLIKELY(*word >= e->used)) {
        e->used = *word + 1;
        put_release(&e->shared->used, e->used); /* before it holds; pairs with held_walk_of() */
    }
    return 0;
}

void word_return(struct listener *e, uint32_t word, bool own) {
    if (UNLIKELY(!own)) {
        e->returned[e->returned_count++] = word;
        return;
    }
    e->free[e->free_count++] = word;
    if (UNLIKELY(e->used > 8 && e->free_count == e->words)) {
        e->used = 1;
        put_release(&e->shared->used, 1); /* all above are 0; pairs with held_walk_of() */
        /* The lowest words come first again. */
        for (uint32_t i = 0; i < e->words; i++) e->free[i] = e->words - 1 - i;
    }
}
