/*
 * copy.h - layer base: copies of what another process is to read.
 *
 * A long copy goes through the caches or past them, whichever has been faster recently. What has
 * been learnt is private memory of the caller, which one thread uses at a time.
 */
#ifndef IPCHEAP_BASE_COPY_H
#define IPCHEAP_BASE_COPY_H

#include <stddef.h>

#include "base/os.h"
#include "base/trial.h"

#define SHORT_COPY ((size_t)16 << 10) /* shorter copies always go through the caches */
#define COPY_SIZES 24                 /* powers of two from SHORT_COPY on */

/* How copies have gone, by their length. */
struct copies {
    struct trial trials[COPY_SIZES];
    uint32_t past; /* bit n: the usual way for SHORT_COPY << n is past the caches */
};

/* IPCHEAP_COPY: learn, through or past. */
extern struct choice copy_choice;

void copies_begin(struct copies *copies);
/* Copies SHORT_COPY bytes or more as memcpy() does. A release after it publishes the copy. */
void copy_long(struct copies *copies, void *to, const void *from, size_t nbytes);

#endif
