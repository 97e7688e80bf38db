#include "store/holds.h"

#include <stdlib.h>

struct ipcheap_holds *holds_make(struct participant *me, const struct store *store,
                                 uint32_t number) {
    struct ipcheap_holds *h = os_allocate_zeroed(1, sizeof *h);
    uint32_t *stack = h ? os_allocate_zeroed((uint64_t)2 * store->hold, sizeof *stack) : NULL;
    if (!stack) {
        free(h);
        return NULL;
    }
    h->store = *store;
    h->me = me;
    h->number = number;
    h->entry = store_reader_at(&h->store, number);
    h->words = store_holds_at(&h->store, number);
    h->free = stack;
    h->returned = stack + store->hold;
    for (uint32_t word = store->hold; word > 0; word--) stack[h->free_count++] = word;
    return h;
}

void holds_drop(struct ipcheap_holds *h) {
    free(h->free);
    free(h);
}

uint32_t holds_count(const struct ipcheap_holds *h) {
    uint64_t used = least(get(&h->entry->used), (uint64_t)h->store.hold + 1);
    uint32_t count = 0;
    for (uint64_t word = 1; word < used; word++) count += get(&h->words[word]) != 0;
    return count;
}

bool holds_gather(struct ipcheap_holds *h) {
    if (!h->returned_count) return false;
    pthread_mutex_lock(&h->store.heap->mutex);
    while (h->returned_count) h->free[h->free_count++] = h->returned[--h->returned_count];
    pthread_mutex_unlock(&h->store.heap->mutex);
    return true;
}
