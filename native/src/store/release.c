/* release.c - ending holds, and describing what is held. */

#include "store/release.h"
#include "channel/removal.h"
#include "memory/block.h"
#include "segment/clock.h"
#include "segment/lock.h"
#include "store/collect.h"
#include "store/holds.h"
#include "store/key.h"

/* True if no writer is there who would collect. */
static bool is_deserted(const struct store *s) {
    return side_state(get(&s->channel->seats[IPCHEAP_WRITER].holder)) != SIDE_OPEN;
}

/* After a release, under the lock: what that was the last obstacle to. */
static void clean_up(struct participant *me, struct store *s, bool closed) {
    uint32_t index = s->index;
    if (closed) entries_tidy(s);
    if (is_deserted(s)) collect_alone(me, s);
    if (closed) channel_drop_if_done(me, index);
}

/* Collects in the writer's place, after the release of a chunk that is not live. */
static void release_deserted(struct participant *me, struct store *s, uint32_t slot) {
    if (slot >= s->slots || chunk_state(get(&chunk_slot(s, slot)->word)) == CHUNK_LIVE) return;
    if (!heap_try_lock(me)) return; /* somebody else does it later */
    clean_up(me, s, false);
    heap_unlock(me);
}

/* Ends a hold in the reader's own thread. Returns which slot it was. */
static inline uint32_t release_here(struct ipcheap_holds *h, uint32_t word) {
    uint32_t slot = held_slot(get(&h->words[word])) - 1;
    unhold(h, word);
    if (LIKELY(word))
        hold_return(h, word);
    else
        h->peeked = false;
    compiler_fence(); /* pairs with the membarrier in collect(), after a writer has left its seat */
    return slot;
}

/* Ends a hold in another thread than the reader's, or after the reader was closed. */
static void release_elsewhere(struct participant *me, struct ipcheap_holds *h, uint32_t word) {
    struct store s = h->store;
    pthread_mutex_lock(&s.heap->mutex);
    bool closed = h->closed;
    unhold(h, word);
    if (word)
        h->returned[h->returned_count++] = word;
    else
        h->peeked = false;
    if (closed) participant_holds(me, h->me, -1);
    if (h->orphaned && !holds_out(h)) holds_drop(h);
    pthread_mutex_unlock(&s.heap->mutex);
    if (!closed && !is_deserted(&s)) return;
    if (!heap_try_lock(me)) return; /* somebody else does it later */
    clean_up(me, &s, closed);
    heap_unlock(me);
}

int ipcheap_chunk_release(ipcheap_chunk *chunk) {
    struct ipcheap_holds *h = chunk->holds;
    struct participant *me;
    if (UNLIKELY(!chunk->data)) return IPCHEAP_RECORD;
    if (UNLIKELY(h->me->abandoned)) return participant_refuses(h->me);
    if (UNLIKELY(h->closed || h->me->thread != thread_marker())) {
        int error = participant_current(h->store.heap, &me);
        if (error) return error;
        chunk->data = NULL;
        release_elsewhere(me, h, chunk->place);
        return 0;
    }
    chunk->data = NULL;
    uint32_t slot = release_here(h, chunk->place);
    if (UNLIKELY(is_deserted(&h->store))) release_deserted(h->me, &h->store, slot);
    return 0;
}

/* Under the mutex, under which a reader is closed, too. The memory of its holds may go afterwards. */
int ipcheap_chunk_release_beside(ipcheap_chunk *chunk) {
    struct ipcheap_holds *h = chunk->holds;
    struct participant *me;
    if (!chunk->data || h->me->abandoned) return ipcheap_chunk_release(chunk);
    ipcheap_heap *heap = h->store.heap;
    pthread_mutex_lock(&heap->mutex);
    bool here = !h->closed && h->me->thread == thread_marker();
    uint32_t slot = here ? release_here(h, chunk->place) : 0;
    bool deserted = here && is_deserted(&h->store);
    struct store store;
    if (deserted) store = h->store;
    pthread_mutex_unlock(&heap->mutex);
    if (!here)
        return ipcheap_chunk_release(chunk); /* it is closed, or another thread's, for good */
    chunk->data = NULL;
    if (deserted && participant_current(heap, &me) == 0) release_deserted(me, &store, slot);
    return 0;
}

/* Finds the slot of a chunk that is held. */
static int slot_of_chunk(const ipcheap_chunk *chunk, const struct store_slot **slot) {
    const struct ipcheap_holds *h = chunk->holds;
    if (!chunk->data) return IPCHEAP_RECORD;
    if (h->me->abandoned) return participant_refuses(h->me);
    uint32_t at = held_slot(get(&h->words[chunk->place])) - 1;
    if (at >= h->store.slots) return IPCHEAP_RECORD;
    *slot = chunk_slot(&h->store, at);
    return 0;
}

int ipcheap_chunk_key(const ipcheap_chunk *chunk, ipcheap_store_key *key) {
    const struct store_slot *slot;
    int error = slot_of_chunk(chunk, &slot);
    if (!error) key_show(slot, key);
    return error;
}

int ipcheap_chunk_describe(const ipcheap_chunk *chunk, ipcheap_chunk_info *info) {
    const struct ipcheap_holds *h = chunk->holds;
    const struct store_slot *slot;
    int error = slot_of_chunk(chunk, &slot);
    if (error) return error;
    int64_t now = clock_now(h->store.heap), expires = (int64_t)get(&slot->expires);
    *info = (ipcheap_chunk_info){
        .age_ns = now - (int64_t)get(&slot->time),
        .expires_in_ns = expires ? expires - now : INT64_MAX,
    };
    key_show(slot, &info->key);
    info->live = chunk_state(get(&slot->word)) == CHUNK_LIVE && info->expires_in_ns > 0;
    return 0;
}
