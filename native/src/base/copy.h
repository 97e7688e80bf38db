/* copy.h - layer base: copies of what another process is to read. */
#ifndef IPCHEAP_BASE_COPY_H
#define IPCHEAP_BASE_COPY_H

#include <stddef.h>
#include <string.h>

#include "base/shared.h"

#define SHORT_COPY ((size_t)16 << 10) /* less than this goes through the caches */

/* In the way that has been faster of late. */
void copy_long(void *to, const void *from, size_t nbytes);

/* How this thread uses memory from now on, 0 or 1: either has its own fastest way to copy. */
void copy_memory_use(int use);

/* As memcpy() does; `from` may be NULL for nothing. A release after it publishes the copy. */
static inline void copy(void *to, const void *from, size_t nbytes) {
    if (UNLIKELY(nbytes >= SHORT_COPY))
        copy_long(to, from, nbytes);
    else if (LIKELY(nbytes))
        memcpy(to, from, nbytes);
}

#endif
