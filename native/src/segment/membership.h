/*
 * membership.h - layer segment: joining a heap, leaving it, and fork.
 *
 *   slot word   generation 32 | state 8        the commit of joining and of leaving
 *
 * A thread joins with its first call. It leaves when it ends, when its process closes the heap, or
 * by dying. participant.h looks at others; this file adds and removes participants. Any layer that
 * waits for something calls recover_if_dead() to have the top layer clean up after a dead holder.
 *
 * Any thread may call, without the heap lock unless a comment says otherwise: joining, leaving and
 * fork take the process mutex, which comes before the heap lock.
 */
#ifndef IPCHEAP_SEGMENT_MEMBERSHIP_H
#define IPCHEAP_SEGMENT_MEMBERSHIP_H

#include "segment/participant.h"

extern _Thread_local struct participant_cache {
    uint64_t serial;
    struct participant *participant;
} participant_cache __attribute__((tls_model("initial-exec")));

/* Finds or registers the calling thread's participant: the slow half of participant_current(). */
int participant_join(ipcheap_heap *heap, struct participant **me);

/* Returns the calling thread's participant in *me; registers it on first use. */
static inline int participant_current(ipcheap_heap *heap, struct participant **me) {
    if (LIKELY(participant_cache.serial == heap->serial)) {
        *me = participant_cache.participant;
        return 0;
    }
    return participant_join(heap, me);
}

/* Returns the calling thread's participant, or NULL if the thread has not joined. */
struct participant *participant_here(ipcheap_heap *heap);

/* Returns a number that no other thread of this process has; cheaper than a thread id. */
static inline uintptr_t thread_marker(void) { return (uintptr_t)&participant_cache; }

/* Lets all participants of a closed handle leave; those that hold records keep their slots. */
void participants_close(ipcheap_heap *heap);
/* Removes all participants of a handle that goes away, in every thread. */
void participants_forget(ipcheap_heap *heap);

/*
 * Gives the process a keeper, a slot of its own that lives as long as the process and survives
 * closing. Only one thread uses it at a time, the one with the process mutex.
 */
int keeper_join(ipcheap_heap *heap);
/* Frees the keeper and its slot; the slot stays that of a dead one if the keeper owes anything. */
void keeper_leave(ipcheap_heap *heap, bool owes);

/* Holds off forks and all threads that join or leave. Comes before the heap lock. */
void process_enter(void);
void process_leave(void);

/* Lists a handle, so that a forked child can drop what belongs to its parent. */
int process_list_add(ipcheap_heap *heap);
void process_list_remove(ipcheap_heap *heap);

/*
 * Takes the lock and recovers the participant that a side's holder word names, if it is dead.
 * Returns HEAP_BUSY, or CORRUPT if there never was such a participant.
 */
int recover_if_dead(struct participant *me, uint64_t holder);
/* The same, and HEAP_BUSY after 0.1 s at the latest. */
int recover_if_dead_soon(struct participant *me, uint64_t holder);

#endif
