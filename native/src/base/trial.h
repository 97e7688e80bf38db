/*
 * trial.h - layer base: which of two ways is faster, learnt by trying both now and then.
 *
 *   goes:  usual way ............. | usual, timed | other way | other, timed |  decide
 *          `next` in all, the last `tries` timed    `warm_up`     `tries`
 *
 * Which way is faster depends on the caches and on where the cores are. Nothing reports that, and
 * it changes when a thread or a virtual machine moves. After a comparison that changed the usual
 * way the next one comes soon; after any other it comes when twice as many goes have passed. A
 * trial is private memory that one thread uses at a time.
 */
#ifndef IPCHEAP_BASE_TRIAL_H
#define IPCHEAP_BASE_TRIAL_H

#include "base/shared.h"

struct schedule {
    uint32_t first; /* goes in the usual way before the first comparison, the timed ones included */
    uint32_t soon;  /* the same after a comparison that changed the usual way */
    uint32_t later; /* otherwise twice as many as before, up to this */
    uint32_t tries; /* timed goes in each way, of which the fastest counts */
    uint32_t warm_up; /* goes in the other way before those that are timed */
};

struct trial {
    uint32_t way;     /* 0 or 1: how to go next */
    uint32_t goes;    /* since the last comparison */
    uint32_t next;    /* goes before the other way is tried; 0: never, because the way is pinned */
    uint64_t best[2]; /* the least cost of either way when last timed; 0: it never was */
};

/* Starts with way 0. `pinned` is 0, or 1 + the way that stays. */
void trial_begin(struct trial *t, const struct schedule *s, int pinned);

/* Returns the usual way; `way` differs from it while the other way is tried. */
static inline uint32_t trial_usual(const struct trial *t) {
    return t->next && t->goes >= t->next ? !t->way : t->way;
}

/* Does the cost of the next go count? */
static inline bool trial_is_timed(const struct trial *t, const struct schedule *s) {
    if (t->goes < t->next) return t->goes + s->tries >= t->next;
    return t->next && t->goes >= t->next + s->warm_up;
}

/* Counts a go, and its cost if that go was timed. Returns true when trial_decide() is due. */
bool trial_go(struct trial *t, const struct schedule *s, uint64_t cost);
/* Ends a comparison: `way` is the usual way from now on. */
void trial_decide(struct trial *t, const struct schedule *s, uint32_t way);
/* Brings the next comparison forward unless the last one was recent: the usual way has slowed. */
void trial_hurry(struct trial *t, const struct schedule *s);

#endif
