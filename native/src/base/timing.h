/*
 * timing.h - layer base: how long things take that a user may notice, each with what that is.
 *
 * Times in ns; a number of looks takes about 20 ns each.
 */
#ifndef IPCHEAP_BASE_TIMING_H
#define IPCHEAP_BASE_TIMING_H

#include "base/os.h"

/* A call that needs the heap lock raises HeapBusy after this, unless set_lock_timeout() says so. */
#define LOCK_TIMEOUT (10 * SECOND)
/* A waiter for the heap lock, or a Lock, notices within this that its holder has died. */
#define LOOK_AFTER_OWNER (100 * MILLISECOND)
/* A process that has just been seen not to dump core is not looked at again within this. */
#define DUMP_GLANCE (20 * MILLISECOND)
/* A sleeping endpoint notices within this that the other side has died. */
#define LOOK_AFTER_PEER (SECOND / 2)
/* A thread that waits for the directory, an event, a cell or a barrier looks at least this often. */
#define LOOK_AGAIN SECOND
/* A wait for more things than the kernel can wait for looks at the rest this often. */
#define GLANCE (5 * MILLISECOND)

/* An endpoint looks this often, 20 to 50 us, before it sleeps: about what it costs to be woken. */
#define MOST_SPINS 2000
/* The same while other threads of its process use the heap, which want the core. */
#define SPINS_IN_COMPANY 60
/* A thread looks which cores it may run on each time that it has slept this often. */
#define CORE_LOOKS 16
/* Never less than this, so that a wait that got shorter is noticed. */
#define FEWEST_SPINS 20
/* ipcheap_spin() looks this often: a microsecond or two. */
#define FEW_SPINS 100
/* A sleep this short might have been spun through: every PROBE_EVERY of them the longest spin is tried. */
#define SHORT_SLEEP (MILLISECOND / 5)
#define PROBE_EVERY 32
/* Waits up to this are dozed through on a timer, if they are regular; longer ones are slept through. */
#define LONGEST_WAIT (MILLISECOND / 3)
#define SHORTEST_DOZE (MILLISECOND / 100) /* as precise as a timer is */
#define STEADY 4                          /* similar waits before most of one is dozed through */

/* Idle memory is given back after the heap has needed no more for this long. */
#define CALM SECOND
/* An allocation that finds the heap full while memory is being given back looks again after this. */
#define TRIM_NAP (MILLISECOND / 5)
/* The kernel reports that a process closed a file this long, at most, before it releases its locks. */
#define RELEASE_NAP (MILLISECOND / 5)
/* A thread that drops an endpoint which another thread is closing looks again after this. */
#define CLOSING_NAP (MILLISECOND / 10)

#endif
