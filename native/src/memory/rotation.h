/*
 * rotation.h - layer memory: in which order a stream of large records uses memory.
 *
 * The lowest place that is free is, as a rule, the one that has just come back. Its lines are still
 * in the producer's cache, which is good; unless the consumer has read them all. Then they are in
 * his, from where each has to be taken, and it takes two or three times as long as in the next best
 * place: one that was used some megabytes ago, so that neither core's own cache has it any more, but
 * the one that they share does. Which of the two is faster depends on how much is read, on the
 * caches, and on where the cores are, and nobody tells. So a participant tries the other order
 * now and then, and keeps to what was faster, by all that counts: the time from one record to the next.
 *
 * A lap is so many pages allocated. Nothing of it is shared, nor does anything depend on it.
 */
#ifndef IPCHEAP_MEMORY_ROTATION_H
#define IPCHEAP_MEMORY_ROTATION_H

#include "base/trial.h"
#include "segment/handle.h"

enum extent_order { LOWEST, IN_TURN };

/* Where a participant's extents go. */
struct rotation {
    struct trial trial;        /* its way is an extent_order, its cost the time that a lap takes */
    uint64_t last, last_word;  /* the extent before, and its descriptor's word; 0 at a lap's start */
    uint64_t left;             /* pages until the lap is over */
    int64_t since;             /* when the lap began; 0 before the first */
};

/* IPCHEAP_EXTENTS: learn, lowest or in-turn. */
extern struct choice extent_choice;

void rotation_begin(struct rotation *rotation);

/* An extent of so many pages is asked for: is another lap over? */
void rotation_turn(struct participant *me, uint64_t pages);
/* Under the lock: the page to allocate it at, if it is free; UINT64_MAX for the lowest. */
uint64_t rotation_page(const struct participant *me, uint64_t pages);
/* It has been allocated there, with memory. */
void rotation_note(struct participant *me, uint64_t first, uint64_t pages);

#endif
