/*
 * pipe.h - layer base: pipes that other processes can find, and what a poller watches.
 *
 * A pipe lies beside a file as `<path of the file>~<suffix>`, so that the permissions of the
 * directory apply to it. If the file has no path (a memfd, or a file that has been unlinked), or if
 * the pipe's name is taken, the pipe is nameless and is reached through /proc. In both cases its
 * inode number proves that the right pipe was opened. Any thread may call these functions.
 */
#ifndef IPCHEAP_BASE_PIPE_H
#define IPCHEAP_BASE_PIPE_H

#include <stdbool.h>
#include <stdint.h>

/* Makes a pipe, opens both its ends without blocking, and returns the descriptor. */
int os_pipe_make(int file, uint64_t suffix, uint64_t *inode);
/* Opens a pipe that process `pid` made and has open as descriptor `fd`. */
int os_pipe_open(int file, uint64_t suffix, uint32_t pid, int fd, uint64_t inode);
void os_pipe_remove(int file, uint64_t suffix);
/*
 * Lets those processes open a pipe that may open the file. The pipe gets the file's mode, its group,
 * and its owner if it belongs to `from`, as far as this process may give it away. The rest is done by
 * a list of access (ACL). `pipe` may be a descriptor that is only a path.
 */
int os_pipe_permit(int pipe, int file, uint32_t from);
/* Makes the pipe readable. */
void os_pipe_ring(int fd);
/* Empties the pipe; returns true if it was not empty. */
bool os_pipe_clear(int fd);
/* Waits at most a millisecond for a byte that is about to arrive, and empties the pipe. */
void os_pipe_clear_soon(int fd);

/* Returns a descriptor that is readable when one of the descriptors added to it is. */
int os_poll_make(void);
int os_poll_add(int poll, int fd);
/* True if that poller watches that descriptor; changes nothing, whatever the two are. */
bool os_poll_has(int poll, int fd);
/* Returns a descriptor that becomes readable when a process ends. */
int os_process_watch(uint32_t pid);
/*
 * Returns a descriptor that becomes readable whenever any process closes that file: the nearest to
 * os_process_watch() that works across PID namespaces.
 */
int os_file_watch(int file);
bool os_file_watch_clear(int watch); /* true if a process has closed it */

#endif
