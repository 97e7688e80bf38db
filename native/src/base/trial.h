/*
 * trial.h - layer base: which of two ways is faster, found out by trying both now and then.
 *
 *   goes:  usual way ............. | usual, timed | other way | other, timed |  decide
 *          `next` in all, the last `tries` timed    `warm_up`     `tries`
 *
 * Which way is faster depends on caches and on where the cores are. Nothing reports that, and it
 * changes when a virtual machine or a thread moves. A comparison is made again soon after one that
 * changed the usual way; after any other, only when twice as many goes have passed. Private
 * memory of one thread.
 */
#ifndef IPCHEAP_BASE_TRIAL_H
#define IPCHEAP_BASE_TRIAL_H

#include "base/shared.h"

struct schedule {
    uint32_t first;  /* goes in the usual way before the first comparison, the timed ones included */
    uint32_t soon;   /* the same after the usual way has changed */
    uint32_t later;  /* else twice as many as before, up to this */
    uint32_t tries;  /* timed goes in each way, of which the fastest counts */
    uint32_t warm_up; /* goes in the other way before those that are timed */
};

struct trial {
    uint32_t way;     /* 0 or 1: how to go next */
    uint32_t goes;    /* since the last comparison */
    uint32_t next;    /* goes before the other way is tried; 0: never, for the way is pinned */
    uint64_t best[2]; /* the least cost of either way when last timed; 0: it never was */
};

/* Begins with way 0. `pinned` is 0, or 1 + the way that is to stay. */
void trial_begin(struct trial *t, const struct schedule *s, int pinned);

/* Returns the way that is usual; `way` is the other one while that is being tried. */
static inline uint32_t trial_usual(const struct trial *t) {
    return t->next && t->goes >= t->next ? !t->way : t->way;
}

/* Is the next go one whose cost counts? */
static inline bool trial_is_timed(const struct trial *t, const struct schedule *s) {
    if (t->goes < t->next) return t->goes + s->tries >= t->next;
    return t->next && t->goes >= t->next + s->warm_up;
}

/* Counts a go; its cost counts if it was timed. Returns true when trial_decide() is due. */
bool trial_go(struct trial *t, const struct schedule *s, uint64_t cost);
/* Ends the comparison: `way` is the usual one from now on. */
void trial_decide(struct trial *t, const struct schedule *s, uint32_t way);
/* Brings the next comparison forward, if the last was some time ago: the usual way has slowed down. */
void trial_hurry(struct trial *t, const struct schedule *s);

#endif
