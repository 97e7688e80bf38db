/*
 * descriptor.h - layer base: descriptors that are used only while they are ours.
 *
 *   noted   | number | device, inode | position |      position: a random number, which nothing moves
 *
 * A program that becomes a daemon closes every descriptor, and files of its own get the numbers. So
 * the library notes what a descriptor led to, and compares before each use that could do harm: the
 * file, and the position of the open file description, which no other description of it has. The
 * numbers 0, 1 and 2 are never used, because programs redirect them. Any thread may call these
 * functions; in the child of a fork, too, before fork() returns.
 */
#ifndef IPCHEAP_BASE_DESCRIPTOR_H
#define IPCHEAP_BASE_DESCRIPTOR_H

#include <stdbool.h>
#include <stdint.h>

struct descriptor {
    int fd; /* -1: none */
    uint64_t device, inode;
    int64_t position; /* -1: cannot be compared, for a pipe */
};

#define NO_DESCRIPTOR ((struct descriptor){.fd = -1})

/* Returns a descriptor for the same as this one, which it closes, that is above 2; -1 with errno. */
int above_standard(int fd);
/* Returns the error for a path in /proc that could not be opened: NO_PROC or SYSTEM. */
int proc_error(void);
/* Notes a descriptor that its owner does not position; SYSTEM. */
int descriptor_note(int fd, struct descriptor *noted);
/*
 * Opens the same file again: another open file description, with a position of its own. NO_PROC if
 * that is impossible because /proc is not mounted.
 */
int descriptor_reopen(int fd, struct descriptor *again);
/* Opens that path if it leads to the file that was noted as `like`; DESCRIPTOR_LOST if not. */
int descriptor_open(const char *path, const struct descriptor *like, struct descriptor *again);
/* True if the number still leads to what it led to when it was noted. */
bool descriptor_is_ours(const struct descriptor *noted);
/* Closes the descriptor if it is ours, and forgets it. Keeps errno. */
void descriptor_close(struct descriptor *noted);

#endif
