/*
 * coredump.h - layer base: whether a process is dead except for its core dump.
 *
 * The kernel keeps a crashed process's files open, and so its file locks, until the dump of its
 * memory has been written. That may take minutes. None of its threads runs again by then.
 *
 * Any thread may call.
 */
#ifndef IPCHEAP_BASE_COREDUMP_H
#define IPCHEAP_BASE_COREDUMP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * True if the process is being dumped and all its threads have stopped running its code. `pid` is
 * a number of the caller's PID namespace. False if that cannot be known: without /proc, with the
 * /proc of another namespace, or before Linux 5.16.
 */
bool process_is_dumped(uint32_t pid);

#endif
