/*
 * holds.h - layer bus: which hold words of a listener are free.
 *
 *   words   0 ... 63 | 64 ...        in the record | in further tables, as many as the heap has room for
 *
 * Private memory, which lives until the endpoint is released and the last message, too. The listener's
 * own thread takes words, and keeps the free ones on a stack. Any thread of the process ends holds; those
 * that are not the listener's do so under the heap's mutex, under which a listener is closed as well.
 */
#ifndef IPCHEAP_BUS_HOLDS_H
#define IPCHEAP_BUS_HOLDS_H

#include "bus/endpoint.h"

/* Takes a free word: 0 and its number, or why there is none: HEAP_FULL, HEAP_BUSY, NO_MEMORY. */
int word_take(struct listener *e, uint32_t *word);
/* Puts a word back that holds nothing; its own thread, or under the mutex. */
void word_return(struct listener *e, uint32_t word, bool own);

/* Returns a hold word; NULL if there is no such word. */
static inline shared64 *word_at(const struct listener *e, uint32_t word) {
    if (LIKELY(word < NEAR_HOLDS)) return &e->shared->holds[word];
    uint32_t within, table = hold_table_of(word, &within);
    return table < HOLD_TABLES && e->tables[table] ? e->tables[table] + within : NULL;
}

#endif
