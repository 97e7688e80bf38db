/*
 * handle.h - layer segment: a process's handle on a heap, and its participants.
 *
 * Private memory only. Nothing in here is read by another process, and nothing in here is
 * trusted less than our own code: geometry comes from the capacity, never again from the
 * segment. Pointers live here; the segment knows offsets.
 */
#ifndef IPCHEAP_SEGMENT_HANDLE_H
#define IPCHEAP_SEGMENT_HANDLE_H

#include "base/os.h"
#include "ipcheap/ipcheap.h"
#include "segment/layout.h"

struct kind;
struct participant_memory;

enum participant_attention {
    ATTENTION_HELPED = 1,  /* other threads have freed or sent what it holds */
    ATTENTION_TRIM = 2,    /* a trim was due when it could not be made */
};

/* One thread of this process using one heap. */
struct participant {
    struct ipcheap_heap *heap; /* NULL once the heap is released */
    uint32_t slot, generation;
    uint64_t tag;              /* own_tag of the two above */
    uint32_t lock_word;
    uint32_t lock_depth;
    struct participant_slot *record; /* its slot */
    _Atomic uintptr_t thread;  /* thread_marker() of its thread; 0 when that has ended */
    bool abandoned;            /* belongs to the parent of a fork */
    bool succeeds_dead;        /* the slot's last occupant is still to be recovered */
    _Atomic uint8_t attention; /* participant_attention: a free takes the long way */
    struct participant_memory *memory; /* the memory layer's; NULL when that needs nothing of it */
    struct ipcheap_endpoint *endpoints;
    int64_t held;              /* records owned outright, less those ... */
    _Atomic int64_t held_elsewhere; /* ... added or given back by other threads */
    struct participant *next_of_thread;
    struct participant *next_of_heap;
};

/* What the segment layer needs done by the layers above it. */
struct hooks {
    void (*rebuild)(struct participant *me); /* under the lock, after its owner died */
    int (*recover)(struct participant *me, uint32_t slot, uint32_t generation); /* under the lock */
    void (*leave)(struct participant *me); /* its thread ends: close endpoints, give up memory */
    void (*forget)(struct participant *me); /* the handle goes: free what is private */
    /* the heap is closed by another thread, `me` */
    void (*close_endpoints)(struct participant *owner, struct participant *me);
    void (*abandon)(struct participant *me); /* in a forked child: it was the parent's */
    void (*reclaim)(struct participant *me); /* memory is short: collect what waits in channels */
    const struct kind *const *kinds;         /* by number: channel/kind.h */
};

struct ipcheap_heap {
    unsigned char *base;
    struct header *header;
    struct page *pages;
    struct geometry geometry;
    const struct hooks *hooks;
    _Atomic uint64_t serial; /* of this handle in this process, changed by fork */
    uint64_t process;    /* of this attachment, among all */
    int fd;              /* the segment, to commit and punch; -1 for System V */
    int file;            /* what liveness locks are on: fd, or the file beside a segment */
    int live;            /* an open file description of its own for them; -1 after fork */
    bool sysv;
    _Atomic bool closed;
    uint32_t sem_kind;   /* as the header said when we came */
    int sem_id;
    void *semaphore;
    _Atomic int64_t lock_timeout; /* any thread may set it while others wait */
    int64_t boot_offset; /* of this process's time namespace: clock.h */
    _Atomic int64_t large_pages_from; /* os_now() before which the kernel is not asked for any */
    /* Of endpoint lists, and of what a closing consumer holds. Not wanted under the heap lock. */
    pthread_mutex_t mutex;
    struct participant *members;
    _Atomic uint32_t members_here; /* living threads among them */
    struct participant *_Atomic by_slot[PARTICIPANTS];
    struct channel *_Atomic chunks[DIRECTORY_CHUNKS]; /* they never move: see channel_at() */
    struct ipcheap_heap *next_of_process;
};

/* segment.c: the bytes */
/* `fill` completes what the layers above keep in the segment; its handle is good for no more. */
int segment_format(int fd, int shmid, const ipcheap_options *options,
                   int (*fill)(ipcheap_heap *heap));
int segment_open(int fd, int shmid, ipcheap_heap **heap);
void segment_free(ipcheap_heap *heap);
/* Makes sure that metadata may be touched. */
int segment_commit_meta(ipcheap_heap *heap, const void *start, uint64_t bytes);
/* May it be touched, as far as the bits say? Where an index that may be garbage leads to. */
bool segment_meta_committed(const ipcheap_heap *heap, const void *start, uint64_t bytes);
/* Gives back the whole pages of a range of metadata that nobody will look at. */
void segment_uncommit_meta(ipcheap_heap *heap, const void *start, uint64_t bytes);

static inline void *at_offset(const ipcheap_heap *heap, uint64_t offset) {
    return heap->base + offset;
}

static inline uint64_t offset_of(const ipcheap_heap *heap, const void *address) {
    return (uint64_t)((const unsigned char *)address - heap->base);
}

static inline uint64_t page_offset(const ipcheap_heap *heap, uint64_t page) {
    return heap->geometry.data_at + (page << PAGE_SHIFT);
}

static inline struct participant_slot *slot_at(const ipcheap_heap *heap, uint32_t slot) {
    return (struct participant_slot *)at_offset(heap, heap->geometry.participants_at) + slot;
}

/* The tag of what a participant gets now: its own, with a stamp. */
static inline uint64_t my_tag(const struct participant *me) {
    return me->tag | (get(&me->heap->header->clock) & STAMP_MASK);
}

#endif

