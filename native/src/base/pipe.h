/*
 * pipe.h - layer base: pipes that other processes can find, and what a poller watches.
 *
 * A pipe lies beside a file, as `<path of the file>~<suffix>`, so that the directory's
 * permissions decide who may use it; without a path (a memfd, or a file whose name has been
 * removed), or where something else has that name, it has none and is reached through /proc.
 * Either way its inode number says whether what was opened is the right one.
 */
#ifndef IPCHEAP_BASE_PIPE_H
#define IPCHEAP_BASE_PIPE_H

#include <stdbool.h>
#include <stdint.h>

/* Makes one and opens it at both ends, not blocking; returns the descriptor. */
int os_pipe_make(int file, uint64_t suffix, uint64_t *inode);
/* Opens one that another process made, which has it as descriptor `fd`. */
int os_pipe_open(int file, uint64_t suffix, uint32_t pid, int fd, uint64_t inode);
void os_pipe_remove(int file, uint64_t suffix);
/* Makes it readable. */
void os_pipe_ring(int fd);
/* Takes out what is in it; true if there was something. */
bool os_pipe_clear(int fd);
/* Something is on its way: waits a moment for it and takes it out. */
void os_pipe_clear_soon(int fd);

/* A descriptor that is readable when one of those in it is. */
int os_poll_make(void);
int os_poll_add(int poll, int fd);
/* A descriptor that becomes readable when a process ends. */
int os_process_watch(uint32_t pid);
/* The same, roughly, across PID namespaces: whenever somebody closes that file. */
int os_file_watch(int file);
bool os_file_watch_clear(int watch); /* true if somebody has */

#endif
