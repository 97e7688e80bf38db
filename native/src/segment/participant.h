/*
 * participant.h - layer segment: the participants of a heap, and whether they are alive.
 *
 *   slot   | word: generation 32, state 8 | pid, tid, label, ... |   | busy |
 *            written to join and to leave                            written around each use
 *
 * A participant is one thread of one process: a slot of the table, and a generation that is
 * incremented for each new occupant. It is alive as long as its process keeps the slot's byte of
 * the heap's file locked (F_OFD_SETLK). The kernel releases that lock at any death, a stopped
 * process keeps it, and no PID is ever compared. A process that dumps core still has the lock, but
 * is dead: base/coredump.h.
 *
 * Any thread may look at others, without a lock. Only its own thread enters and leaves.
 */
#ifndef IPCHEAP_SEGMENT_PARTICIPANT_H
#define IPCHEAP_SEGMENT_PARTICIPANT_H

#include "segment/handle.h"

/*
 * Between these two calls no other participant revokes the caller's slabs or collects the garbage
 * of the channels that it writes to. A participant that wants to do so changes the word that the
 * owner reads after participant_enter(), runs os_membarrier(), and waits for `busy` to fall:
 * participant_settled(). That barrier pairs with the compiler_fence() here.
 */
static inline void participant_enter(struct participant *me) {
    put(&me->record->busy, 1);
    compiler_fence();
}

static inline void participant_leave(struct participant *me) {
    put_release(&me->record->busy, 0); /* pairs with participant_settled() */
}

/* Returns why what an abandoned participant had cannot be used. */
static inline int participant_refuses(const struct participant *abandoned) {
    return abandoned->lost ? IPCHEAP_DESCRIPTOR_LOST : IPCHEAP_WRONG_PROCESS;
}

/* Waits briefly until a participant is outside; false if it is still inside. */
bool participant_settled(ipcheap_heap *heap, uint32_t slot);

/* Returns the slot that a tag or a holder names; NULL for one that was never used. */
struct participant_slot *participant_record(ipcheap_heap *heap, uint64_t tag);
/* True if a participant, and the one that a tag names, are confined to the same core. */
bool participant_shares_core(const struct participant *me, uint64_t tag);
/* Notes which core the caller is confined to: now and then, because it may change meanwhile. */
void participant_note_core(struct participant *me);
/* True if the occupant of a slot with that generation is alive. */
bool participant_alive(ipcheap_heap *heap, uint32_t slot, uint32_t generation);
/* Gets the generation of a slot's present or last occupant; false if there is no such slot. */
bool participant_latest(ipcheap_heap *heap, uint32_t slot, uint32_t *generation);
/* True if the slot ever had an occupant of that generation. */
bool participant_has_been(ipcheap_heap *heap, uint32_t slot, uint32_t generation);
/* True if no process holds the slot's byte, whatever the slot says. Opens no file. */
bool participant_unlocked(ipcheap_heap *heap, uint32_t slot);
/*
 * True if no process holds the slot's byte, whatever the slot says, or if all that its process still
 * does is to write its core dump.
 */
bool participant_absent(ipcheap_heap *heap, uint32_t slot);
/* True if a tag is one of this participant's, or of an ended thread's that it continues. */
bool participant_owns(const struct participant *p, uint64_t tag);
/* Returns the first generation whose tags belong to a slot's present or last occupant. */
uint32_t participant_first(ipcheap_heap *heap, uint32_t slot);
/* Describes the present or last occupant of a slot; all zero if there is no such slot. */
void participant_describe(ipcheap_heap *heap, uint32_t slot, ipcheap_holder *holder);
/* Counts the slots in use by living and by dead participants, without keepers. */
void participants_count(ipcheap_heap *heap, uint32_t *living, uint32_t *dead);

#endif
