/*
 * patience.h - layer endpoint: how long to spin and to doze before sleeping.
 *
 * Spinning. Being woken costs both sides microseconds, so an endpoint first looks at its next slot
 * for about as long as recent waits took: 20 to 50 us at most (MOST_SPINS), briefly if other
 * threads of the process use the heap, and not at all if both sides are confined to one core.
 *
 * Dozing. A consumer that keeps pace with a busy producer waits about equally long for every
 * record. Waking it each time would cost the producer a futex call and the consumer a membarrier.
 * Instead it sleeps on a timer for a little less than half the expected wait, then spins. Even a
 * record that arrives early is noticed no later than a wake-up would have been. Once STEADY waits
 * in a row were similar, it sleeps through most of the wait.
 */
#ifndef IPCHEAP_ENDPOINT_PATIENCE_H
#define IPCHEAP_ENDPOINT_PATIENCE_H

#include "endpoint/endpoint.h"

/* What the environment pins; otherwise both are learnt. */
extern struct choice spin_choice, doze_choice;

/* A new endpoint has learnt nothing yet. */
void patience_begin(struct patience *p);
/* Looks for as long as recent waits took: true if the endpoint can go on. */
bool endpoint_spin(ipcheap_endpoint *e);
/*
 * Sleeps for most of what recent waits took, then spins. `begin` is when this wait began. Returns 0
 * if the endpoint can go on, WOULD_BLOCK if it is time to park, INTERRUPTED.
 */
int endpoint_doze(ipcheap_endpoint *e, int64_t deadline, int64_t begin);
/* A wait has taken so many ns in all; 0: less than was dozed. Sets how long to doze from now on. */
void endpoint_expect(ipcheap_endpoint *e, int64_t waited);
/* A sleep after spinning has taken so many ns. Sets how long to spin from now on. */
void endpoint_learn(ipcheap_endpoint *e, int64_t slept);

#endif
