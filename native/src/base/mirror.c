#include "base/mirror.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fault.h"
#include "base/os.h"

struct mirror {
    _Atomic uint32_t users;
    unsigned char *start;
    size_t bytes; /* of one half */
};

/* Reserves addresses; NULL if there are none left. */
static unsigned char *reserve(size_t bytes) {
    if (FAULT(ENOMEM)) return NULL;
    void *start = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

/* With an old size of 0, mremap() duplicates what is mapped there and shared; it needs no file. */
static bool duplicate(unsigned char *from, unsigned char *to, size_t bytes) {
    if (FAULT(ENOMEM)) return false;
    return mremap(from, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

/* Maps shared memory twice over the mirror, in one step for each half. */
static bool cover(const struct mirror *mirror, unsigned char *shared) {
    return duplicate(shared, mirror->start, mirror->bytes) &&
           duplicate(shared, mirror->start + mirror->bytes, mirror->bytes);
}

/* ThreadSanitizer is blind to what goes through another mapping, so there is none under it. */
#ifdef __SANITIZE_THREAD__
static const bool refused = true;
#else
static const bool refused = false;
#endif

struct mirror *mirror_make(unsigned char *area, size_t bytes) {
    if (refused || bytes > SIZE_MAX / 2) return NULL;
    struct mirror *mirror = os_allocate_zeroed(1, sizeof *mirror);
    if (!mirror) return NULL;
    mirror->users = 1;
    mirror->bytes = bytes;
    mirror->start = reserve(2 * bytes);
    if (mirror->start && cover(mirror, area)) return mirror;
    mirror_drop(mirror);
    return NULL;
}

unsigned char *mirror_start(const struct mirror *mirror) { return mirror->start; }

void mirror_keep(struct mirror *mirror) { atomic_fetch_add(&mirror->users, 1); }

void mirror_drop(struct mirror *mirror) {
    if (atomic_fetch_sub(&mirror->users, 1) != 1) return;
    if (mirror->start) munmap(mirror->start, 2 * mirror->bytes);
    free(mirror);
}

/* Puts a copy of the memory in the place of both halves. A concurrent reader does not notice. */
static bool freeze(const struct mirror *mirror) {
    int access = PROT_READ | PROT_WRITE;
    if (FAULT(ENOMEM)) return false;
    void *copy = mmap(NULL, mirror->bytes, access, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) return false;
    memcpy(copy, mirror->start, mirror->bytes);
    bool covered = cover(mirror, copy);
    munmap(copy, mirror->bytes);
    return covered;
}

bool mirror_leave(struct mirror *mirror) {
    bool frozen = true;
    if (mirror->users > 1 && !freeze(mirror)) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        mmap(mirror->start, 2 * mirror->bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        frozen = false;
    }
    mirror_drop(mirror);
    return frozen;
}
