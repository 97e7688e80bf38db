/*
 * handle.h - layer segment: a process's handle on a heap, and its participants.
 *
 * All of it is private memory that no other process reads. It is as trustworthy as our own code:
 * geometry is worked out once from the capacity and never reread from the segment. Pointers live
 * here; the segment knows offsets.
 *
 * Any thread of the process may use the handle. A participant belongs to its thread, except for
 * the fields that say otherwise.
 */
#ifndef IPCHEAP_SEGMENT_HANDLE_H
#define IPCHEAP_SEGMENT_HANDLE_H

#include "base/descriptor.h"
#include "base/os.h"
#include "ipcheap/ipcheap.h"
#include "segment/layout.h"

struct kind;
struct channel_hold;
struct participant_memory;

enum participant_attention {
    ATTENTION_HELPED = 1, /* other threads have freed or sent what it holds */
    ATTENTION_TRIM = 2,   /* a trim is due that had to be postponed */
};

/* One thread of this process using one heap. */
struct participant {
    struct ipcheap_heap *heap; /* NULL once the heap is released */
    uint32_t slot;
    _Atomic uint32_t generation; /* changes when its thread has ended: participant_settle() */
    uint32_t first;              /* the generation in which it joined: tags have any since then */
    uint64_t tag;                /* own_tag() of slot and generation */
    uint32_t lock_word;
    uint32_t lock_depth;
    struct participant_slot *record; /* what others see of it */
    _Atomic uintptr_t thread;        /* thread_marker() of its thread; 0 when that has ended */
    uint32_t presence;               /* which presence its byte is locked by */
    bool abandoned;                  /* belongs to the parent of this forked process, or is lost: */
    bool lost;                       /* its lock went with a descriptor; others find it dead */
    bool vacant;                     /* its thread has ended, and the next one continues it */
    bool succeeds_dead;              /* the slot's last occupant is still to be recovered */
    _Atomic uint8_t attention;       /* participant_attention; not 0: a free takes the slow path */
    uint32_t core_looks;             /* calls of participant_note_core() */
    struct participant_memory *memory; /* the memory layer's; NULL while it has nothing there */
    struct ipcheap_endpoint *endpoints;
    int64_t held;                   /* records owned outright, as counted by its own thread ... */
    _Atomic int64_t held_elsewhere; /* ... and what other threads add to that or take from it */
    struct participant *next_of_thread;
    struct participant *next_of_heap;
};

/* What the segment layer asks of the layers above it. heap/open.c fills it in. */
struct hooks {
    /* Rebuilds all indices; under the lock, after its owner died. */
    void (*rebuild)(struct participant *me);
    /* Recovers that occupant of a slot and all earlier ones; under the lock. */
    int (*recover)(struct participant *me, uint32_t slot, uint32_t generation);
    /* Closes the endpoints of a participant whose thread ends, and gives up its memory. */
    void (*leave)(struct participant *me);
    /* Frees what is private to a participant of a handle that goes away. */
    void (*forget)(struct participant *me);
    /* Closes the endpoints of another thread's participant; `me` is the caller. */
    void (*close_endpoints)(struct participant *owner, struct participant *me);
    /* Closes what a forked child has inherited of a participant of its parent. */
    void (*abandon)(struct participant *me);
    /*
     * Before a fork: makes the child a user of all channels' memory that this process uses, and
     * returns whether that worked. NULL: the child has no slot. Under the process mutex.
     */
    bool (*share)(struct ipcheap_heap *heap, struct participant *child);
    /* Frees garbage that waits in channels, because memory is short; under the lock. */
    void (*reclaim)(struct participant *me);
    const struct kind *const *kinds; /* by number: channel/kind.h */
};

/* An open file description that liveness locks are on: presence.h. */
struct presence {
    struct descriptor lock; /* to lock bytes by */
    struct hold hold;       /* keeps the locks when the program has closed the descriptor */
    struct presence *next;
};

struct ipcheap_heap {
    unsigned char *base;
    struct header *header;
    struct page *pages;
    struct geometry geometry;
    struct backing backing; /* of the file; pages for System V */
    const struct hooks *hooks;
    _Atomic uint64_t serial; /* of this handle in this process; fork and closing change it */
    uint64_t process;        /* a random number for this attachment */
    struct descriptor file;  /* the segment, or the file beside a System V one: file.h */
    char *path;              /* that the attached file was opened by; NULL: unknown */
    pthread_mutex_t opening; /* guards `file`; taken after all other locks */
    struct presence live;    /* that this process is alive; under the process mutex */
    uint32_t presences;      /* how many there were so far: the number of `live` */
    struct presence *former; /* those whose descriptors were lost */
    bool sysv;
    _Atomic bool closed;
    _Atomic uint32_t retained; /* so many releases come before the last one */
    _Atomic uint32_t closing;  /* endpoints that are not closed yet, and no longer usable */
    uint32_t sem_kind;         /* as the header said when we attached */
    int sem_id;
    void *semaphore;
    _Atomic int64_t lock_timeout; /* any thread may set it while others wait */
    int64_t boot_offset;          /* of this process's time namespace: clock.h */
    _Atomic uint64_t
        not_dumped; /* a process that was not dumping core a moment ago: participant.c */
    _Atomic int64_t large_pages_from; /* os_now() before which the kernel is not asked for any */
    /* Guards endpoint lists and what a closing consumer holds. Never taken under the heap lock. */
    pthread_mutex_t mutex;
    struct participant *members;   /* under the process mutex */
    struct participant *inherited; /* of the parent of this forked process; only fork() adds any */
    _Atomic uint32_t members_here; /* living threads among them */
    struct participant *_Atomic by_slot[PARTICIPANTS];
    struct channel *_Atomic chunks[DIRECTORY_CHUNKS]; /* they never move: see channel_at() */
    /* What this process uses of channels' memory: channel/hold.h. Under the process mutex. */
    struct participant *keeper; /* in whose name; NULL while it uses nothing */
    struct channel_hold *holds;
    uint32_t hold_count, hold_room;
    /* Between the handlers of a fork: the child's keeper, and the presence with its byte. */
    struct participant *child;
    struct descriptor child_presence;
    struct ipcheap_heap *next_of_process;
};

/* segment.c: the bytes. */

/*
 * Formats a segment: creation byte locked by the caller, magic stored last. `fill` completes what
 * the layers above keep in it; the handle that it gets serves no other purpose.
 */
int segment_format(int fd, int shmid, const ipcheap_options *options,
                   int (*fill)(ipcheap_heap *heap));
/* Maps a formatted segment and makes a handle on it, which has no participants yet. */
int segment_open(int fd, int shmid, ipcheap_heap **heap);
/* In a forked child: a later mlockall() must not populate the mapping that it inherited. */
void segment_forked(ipcheap_heap *heap);
void segment_free(ipcheap_heap *heap);
/* Gives a range of the file memory that cannot be denied later: no store to it raises SIGBUS. */
int segment_commit(ipcheap_heap *heap, uint64_t offset, uint64_t bytes);
/* Gives a range of metadata memory, so that it may be touched; MEMORY_FULL. */
int segment_commit_meta(ipcheap_heap *heap, const void *start, uint64_t bytes);
/* True if the bits say that a range of metadata may be touched: for what an index leads to. */
bool segment_meta_committed(const ipcheap_heap *heap, const void *start, uint64_t bytes);
/* Gives back the whole pages of a range of metadata that is not used any more; large ones stay. */
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

/* Returns the tag of what a participant gets now: its own, with a stamp. */
static inline uint64_t my_tag(const struct participant *me) {
    return me->tag | (get(&me->heap->header->clock) & STAMP_MASK);
}

#endif
