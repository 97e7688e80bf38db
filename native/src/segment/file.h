/*
 * file.h - layer segment: the heap's file, as this process has it open.
 *
 *   file       for memory, for looking at locks, and to find the pipes beside it
 *   presence   another open file description, for the locks that say that this process is alive
 *
 * The program may close both, as daemons do. Nothing here uses a descriptor that is not ours. The
 * file is then opened again, by its path or through its mapping. The locks of the lost presence stay,
 * because a mapping keeps its open file description; a new presence gets the locks that are still to
 * come. A forked child inherits `file` and neither the presence nor its mapping.
 */
#ifndef IPCHEAP_SEGMENT_FILE_H
#define IPCHEAP_SEGMENT_FILE_H

#include "segment/handle.h"

/*
 * Returns a descriptor of the heap's file that is ours now. Opens the file again if it was closed;
 * DESCRIPTOR_LOST if that is impossible. Any thread, under any lock.
 */
int file_descriptor(ipcheap_heap *heap);
/* Opens the heap's file and a presence, for a process that attaches by that descriptor. */
int file_open(ipcheap_heap *heap, int fd);
void file_close(ipcheap_heap *heap);
/* True if two handles of this process are on the same heap. */
bool file_is_same(const ipcheap_heap *heap, const ipcheap_heap *other);

/*
 * Returns a descriptor to lock bytes by, of the presence that heap->presences numbers. If the former
 * one was closed, opens another. Under the process mutex.
 */
int presence_descriptor(ipcheap_heap *heap);
/* Unlocks a byte of that presence. If its descriptor is lost, the byte stays locked. */
void presence_unlock(ipcheap_heap *heap, uint32_t presence, uint64_t byte);
/* Ends the presence of a closed heap, unless a participant keeps its slot. Under the process mutex. */
void presence_end(ipcheap_heap *heap, bool keeps_slots);
/* Opens the presence of a child that is about to be forked. Under the process mutex. */
int presence_for_child(ipcheap_heap *heap);
/* Replaces the parent's presence by one of this process, in a forked child: calls what a handler may. */
void presence_after_fork(ipcheap_heap *heap);

#endif
