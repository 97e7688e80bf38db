/*
 * membership.h - layer segment: joining a heap, leaving it, and fork.
 *
 * A thread joins with its first call and leaves when it ends, when its process closes the heap,
 * or by dying; participant.h looks at others, this file changes who there is. Under the heap
 * lock nothing of a dead participant's is left alone for long: recover_if_dead() is how any
 * layer asks the top one to clean up after the holder of something it waits for.
 */
#ifndef IPCHEAP_SEGMENT_MEMBERSHIP_H
#define IPCHEAP_SEGMENT_MEMBERSHIP_H

#include "segment/participant.h"

extern _Thread_local struct participant_cache {
    uint64_t serial;
    struct participant *participant;
} participant_cache __attribute__((tls_model("initial-exec")));

int participant_join(ipcheap_heap *heap, struct participant **me);

/* The calling thread's participant; registers it on first use. */
static inline int participant_current(ipcheap_heap *heap, struct participant **me) {
    if (LIKELY(participant_cache.serial == heap->serial)) {
        *me = participant_cache.participant;
        return 0;
    }
    return participant_join(heap, me);
}

/* The same, or NULL if it is none yet. */
struct participant *participant_here(ipcheap_heap *heap);

/* Distinguishes threads of this process; cheaper than asking for an id. */
static inline uintptr_t thread_marker(void) { return (uintptr_t)&participant_cache; }

/* The heap is closed here: everyone leaves; those who hold records keep their slots. */
void participants_close(ipcheap_heap *heap);
/* This handle is no more: forget it in every thread. */
void participants_forget(ipcheap_heap *heap);

/* Handles are listed so that a forked child can drop what belongs to its parent. */
int process_list_add(ipcheap_heap *heap);
void process_list_remove(ipcheap_heap *heap);

/*
 * Takes the lock and recovers the participant that a side's holder word names, if it is dead.
 * HEAP_BUSY; CORRUPT for a participant that never was.
 */
int recover_if_dead(struct participant *me, uint64_t holder);

#endif
