/*
 * holds.h - layer store: what a reader keeps about the chunks that it holds.
 *
 *   reader                                collector: collect.h
 *     hold[i] = slot                        word = LEAVING
 *     compiler barrier                      membarrier
 *     word = slot.word                      hold words
 *     LIVE or DEAD: the slot stays          not named: block FREE, then slot FREE
 *     hold[i] = 0
 *
 * One of the two sees the other's store, because the collector's membarrier orders both. All of this is
 * private memory; it lives until the endpoint is released and the last chunk, too. The reader's own
 * thread holds, and keeps the free words on a stack. Other threads only release. Which words are free is
 * known here alone: a corrupt word is not believed.
 */
#ifndef IPCHEAP_STORE_HOLDS_H
#define IPCHEAP_STORE_HOLDS_H

#include "store/readers.h"

struct ipcheap_holds {
    struct store store;
    struct participant *me;
    struct store_reader *entry;
    shared64 *words;
    uint32_t number;    /* of the entry */
    uint32_t used;      /* as in the entry */
    uint32_t *free;     /* words that hold nothing, the next one last */
    uint32_t *returned; /* those that other threads have released; under the heap's mutex */
    uint32_t free_count;
    _Atomic uint32_t returned_count;
    _Atomic bool closed; /* the endpoint is: every release is another thread's */
    bool peeked;         /* word 0 holds what a caller copies */
    bool lingers;        /* its entry stays: it held chunks as it closed */
    bool orphaned;       /* the endpoint was released; under the heap's mutex */
};

/* Makes it for an entry; NULL if the process is out of memory. */
struct ipcheap_holds *holds_make(struct participant *me, const struct store *store,
                                 uint32_t number);
void holds_drop(struct ipcheap_holds *holds);
/* Returns how many chunks are out. The reader's own thread, or none is inside; under the mutex. */
static inline uint32_t holds_out(const struct ipcheap_holds *h) {
    return h->store.hold - h->free_count - h->returned_count + h->peeked;
}
/* Counts the same in the words, for any thread. */
uint32_t holds_count(const struct ipcheap_holds *holds);
/* Puts words that other threads have released on the stack again; false if there are none. */
bool holds_gather(struct ipcheap_holds *holds);

/* Returns a free word; 0 if there is none. It is not taken yet. */
static inline uint32_t hold_free(struct ipcheap_holds *h) {
    if (UNLIKELY(!h->free_count) && !holds_gather(h)) return 0;
    return h->free[h->free_count - 1];
}

/* Takes the word that hold_free() returned. */
static inline void hold_keep(struct ipcheap_holds *h) { h->free_count--; }

/* Ends what a word holds. */
static inline void unhold(struct ipcheap_holds *h, uint32_t word) {
    put_release(&h->words[word], 0); /* pairs with hold_step() */
}

/* Puts a word back on the stack; its own thread. */
static inline void hold_return(struct ipcheap_holds *h, uint32_t word) {
    h->free[h->free_count++] = word;
    if (UNLIKELY(h->used > 64 && h->free_count == h->store.hold)) {
        h->used = 1;
        put_release(&h->entry->used, 1); /* all above are 0 */
    }
}

/*
 * Makes a word hold a slot, instead of what it held before. Returns the slot's word if that is LIVE or
 * DEAD: then the slot stays as it is. Otherwise returns 0, and what the word names does not count.
 */
static inline uint64_t hold_at(struct ipcheap_holds *h, uint32_t word, uint32_t slot,
                               const struct store_slot *shared) {
    if (UNLIKELY(word >= h->used)) {
        h->used = word + 1;
        put(&h->entry->used, word + 1);
    }
    put_release(&h->words[word], hold_word(h->store.heap, slot)); /* after what was read before */
    compiler_fence(); /* pairs with the membarrier in collect() */
    if (UNLIKELY(get(&h->store.heap->header->fences))) full_fence();
    /* Pairs with make_pending(), fill_spare(), bury() and free_chunk(). */
    uint64_t found = get_acquire(&shared->word);
    enum chunk_state state = chunk_state(found);
    return state == CHUNK_LIVE || state == CHUNK_DEAD ? found : 0;
}

static inline uint64_t hold_slot(struct ipcheap_holds *h, uint32_t word, uint32_t slot) {
    return hold_at(h, word, slot, chunk_slot(&h->store, slot));
}

#endif
