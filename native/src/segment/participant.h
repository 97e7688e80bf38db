/*
 * participant.h - layer segment: who uses the heap, and who is still alive.
 *
 * A participant is one thread of one process: a slot of the table and a generation that
 * goes up with each new occupant. It lives as long as its process keeps the slot's byte of
 * the heap's file locked (F_OFD_SETLK): the kernel lets go of it at any death, a stopped
 * process keeps it, and no PID is ever compared.
 */
#ifndef IPCHEAP_SEGMENT_PARTICIPANT_H
#define IPCHEAP_SEGMENT_PARTICIPANT_H

#include "segment/handle.h"

/*
 * Between these two nobody takes a slab or the garbage of a ring away from its owner. Who
 * wants to changes the word that the owner looks at after participant_enter(), runs
 * os_membarrier(), and then waits for `busy` to fall. That barrier pairs with the compiler's.
 */
static inline void participant_enter(struct participant *me) {
    put(&me->record->busy, 1);
    compiler_fence();
}

static inline void participant_leave(struct participant *me) {
    put_release(&me->record->busy, 0); /* pairs with participant_settled() */
}

/* Waits a little until a participant is outside; false when it is not. */
bool participant_settled(ipcheap_heap *heap, uint32_t slot);

/* The slot that a tag or a holder names, whatever it says; NULL for one that has never been. */
struct participant_slot *participant_record(ipcheap_heap *heap, uint64_t tag);
/* Is the occupant of a slot, in that generation, alive? */
bool participant_alive(ipcheap_heap *heap, uint32_t slot, uint32_t generation);
/* The generation of a slot's occupant, or of its last one; false when there is no such slot. */
bool participant_latest(ipcheap_heap *heap, uint32_t slot, uint32_t *generation);
/* Was there ever an occupant of that generation? */
bool participant_has_been(ipcheap_heap *heap, uint32_t slot, uint32_t generation);
/* Does no process hold the slot's byte, whatever the slot says? */
bool participant_absent(ipcheap_heap *heap, uint32_t slot);
void participant_describe(ipcheap_heap *heap, uint32_t slot, ipcheap_holder *holder);
/* How many slots are in use by the living, and how many by the dead. */
void participants_count(ipcheap_heap *heap, uint32_t *living, uint32_t *dead);

#endif
