/*
 * fault.h - layer base: calls to the operating system that a test can make fail.
 *
 * FAULT(number) stands before every call that can fail because something has run out: private
 * memory, pages of the heap's file, mappings, descriptors, watches, file locks, barriers. If a
 * test's hook says so, errno becomes `number` and the call is not made. What the kernel does on
 * its own (a page fault that finds no memory, the process killed) is not simulated here. Without
 * IPCHEAP_STEPS no trace of it is compiled.
 */
#ifndef IPCHEAP_BASE_FAULT_H
#define IPCHEAP_BASE_FAULT_H

#include <errno.h>
#include <stdbool.h>

#ifdef IPCHEAP_STEPS
/* True if the call at that place is to fail, with that number in errno. Tests set it. */
extern bool (*_Atomic ipcheap_fault_hook)(int number, const char *file, int line);
#define FAULT(number)                                                        \
    (ipcheap_fault_hook && ipcheap_fault_hook(number, __FILE__, __LINE__) && \
     (errno = (number), true))
#else
#define FAULT(number) false
#endif

#endif
