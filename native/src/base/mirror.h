/*
 * mirror.h - layer base: a part of a shared mapping, mapped twice in a row.
 *
 *   | byte 0 ... n - 1 | byte 0 ... n - 1 |
 *
 * So any n bytes in a row are in one piece, also across the end. Several users share a mirror.
 * When the memory is given back, those that still look at it can be left with a copy.
 */
#ifndef IPCHEAP_BASE_MIRROR_H
#define IPCHEAP_BASE_MIRROR_H

#include <stdbool.h>
#include <stddef.h>

struct mirror;

/*
 * Maps whole pages of a shared mapping twice; the caller is the first user. NULL if the system
 * refuses: large pages, too many mappings, a sandbox.
 */
struct mirror *mirror_make(unsigned char *area, size_t bytes);
unsigned char *mirror_start(const struct mirror *mirror);
/* Adds a user, or takes one away: the last one unmaps. Any thread may call them. */
void mirror_keep(struct mirror *mirror);
void mirror_drop(struct mirror *mirror);
/*
 * Takes a user away who gives the memory back. If there are others, they see what is there now,
 * for as long as they look. False if there is no memory for that: they see zeroes then.
 */
bool mirror_leave(struct mirror *mirror);

#endif
