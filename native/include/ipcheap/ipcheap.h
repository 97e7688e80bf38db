/*
 * ipcheap.h - a heap and its channels in one shared-memory segment.
 *
 * Caveats first
 *   - Every participant can write anywhere in the segment: attach only with peers you trust.
 *   - Each thread that uses a heap becomes a participant with its first call, and stops being
 *     one when it ends or the heap is closed.
 *   - An endpoint belongs to the thread that claimed it. Where no other thread is mentioned,
 *     only that thread may call the functions that take the endpoint; almost all of them
 *     return WRONG_THREAD in any other.
 *   - Functions that take a heap may be called from any thread.
 *   - After fork() the child may use the heap, but not the parent's endpoints and records:
 *     WRONG_PROCESS.
 *   - A consumer may hold as many records as the heap has room for. A record that is held for a
 *     whole ring is detached: taken out of the channel as by ipcheap_keep(), so that the
 *     producer can go on. A detached record is not redelivered if its holder is killed.
 *   - A record handle is a plain struct without a lock: use it in one thread at a time.
 *   - A chunk of a store keeps its memory as long as a reader holds it. The writer never waits for
 *     readers, so it gets HEAP_FULL if they hold too much.
 *   - The library never parses names. You open the kernel object and pass its descriptor. The
 *     library keeps a duplicate, so you may close yours afterwards.
 *
 * A producer, in full
 *     int fd = shm_open("/ipcheap.camera", O_RDWR, 0);
 *     ipcheap_attach(fd, -1, &heap);
 *     ipcheap_add_record_channel(heap, &key, 1024, &channel);
 *     ipcheap_claim(heap, &channel, IPCHEAP_PRODUCER, &producer);
 *     ipcheap_allocate(heap, nbytes, &record);
 *     memcpy(record.data, frame, nbytes);
 *     ipcheap_send(producer, &record, -1);
 *
 * Results. Functions return 0 or a count, or one of the negative numbers of errors.h. A call
 * that fails changes nothing, unless its comment says otherwise. Comments name errors without
 * their prefix, and only those that mean something particular. Besides these,
 *   - any call may return HEAP_CLOSED after ipcheap_close(),
 *   - a thread's first call TOO_MANY_PARTICIPANTS or NO_MEMORY,
 *   - a call that needs the heap lock HEAP_BUSY: see ipcheap_set_lock_timeout(),
 *   - a call that meets what no participant would have written CORRUPT,
 *   - a call that the kernel refuses something SYSTEM, with errno set.
 *
 * Timeouts are nanoseconds. Negative waits indefinitely, 0 does not wait. A call that waits
 * returns TIMED_OUT, or INTERRUPTED after a signal handler has run: call again to go on.
 */
#ifndef IPCHEAP_H
#define IPCHEAP_H

#include <stddef.h>
#include <stdint.h>

#include "errors.h"

#if defined(__GNUC__)
#define IPCHEAP_API __attribute__((visibility("default")))
#else
#define IPCHEAP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ipcheap_heap ipcheap_heap;
typedef struct ipcheap_endpoint ipcheap_endpoint;

/* The ID of a channel. Fill it in with ipcheap_key_int() or ipcheap_key_text(). */
enum { IPCHEAP_KEY_INT = 1, IPCHEAP_KEY_TEXT = 2, IPCHEAP_KEY_MAX = 48 };
typedef struct ipcheap_key {
    uint8_t kind;
    uint8_t length;
    char bytes[IPCHEAP_KEY_MAX];
} ipcheap_key;

/* Returns the version of the library, "1.2.3"; a constant. */
IPCHEAP_API const char *ipcheap_version_string(void);
/* Returns a sentence for an error, or for a number that is none; a constant. */
IPCHEAP_API const char *ipcheap_error_text(int error);
/*
 * How many forks lie between this process and the ancestor that first opened a heap. If this
 * number differs from the one when something was made, that belongs to a parent of this process.
 */
IPCHEAP_API uint32_t ipcheap_forks(void);

/* The heap ------------------------------------------------------------------------- */

enum { IPCHEAP_SEM_FUTEX = 0, IPCHEAP_SEM_POSIX = 1, IPCHEAP_SEM_SYSV = 2 };
enum { IPCHEAP_SHM_POSIX = 0, IPCHEAP_SHM_SYSV = 1, IPCHEAP_SHM_FILE = 2, IPCHEAP_SHM_MEMFD = 3 };

/* What the creator of a heap decides. All of it is written into the segment. */
typedef struct ipcheap_options {
    uint64_t capacity; /* bytes for users' data, at least 64 KiB */
    uint32_t shm_kind; /* for information */
    uint32_t sem_kind; /* what waiters for the heap lock sleep on */
    int32_t sem_id;    /* of the System V semaphore, for IPCHEAP_SEM_SYSV */
    char sem_name[64]; /* of the POSIX semaphore; empty: one inside the segment */
} ipcheap_options;

/* What the header of a heap says; it can be read without becoming a participant. */
typedef struct ipcheap_heap_info {
    uint64_t capacity;
    uint64_t identity;   /* a random number of this heap alone */
    uint64_t created_ns; /* since the epoch */
    uint64_t committed;  /* bytes of data pages that have memory */
    uint32_t shm_kind;
    uint32_t sem_kind;
    int32_t sem_id;
    char sem_name[64];
    uint32_t participants; /* living ones; 0 from ipcheap_heap_describe() */
    uint32_t dead;         /* participants that await recovery; 0 from ipcheap_heap_describe() */
    uint64_t inode;        /* of the heap's file when it was made: in a copy, this is another one */
    uint32_t open; /* 1: some process has it open, perhaps by inheriting it only; as above */
} ipcheap_heap_info;

/* A System V object as the kernel describes it. */
typedef struct ipcheap_sysv {
    int32_t id;
    int32_t key;
    uint32_t uid;     /* the user ID of the owner */
    uint32_t gid;     /* the ID of its group */
    uint32_t creator; /* the user ID of the creator */
    uint32_t mode;    /* permission bits */
    uint64_t bytes;   /* of a segment; of a semaphore set: how many semaphores it has */
} ipcheap_sysv;

/*
 * Returns how many bytes a segment for `capacity` bytes of users' data must have; 0 if no heap
 * can have that capacity.
 */
IPCHEAP_API uint64_t ipcheap_segment_bytes(uint64_t capacity);

/*
 * Takes the creation lock of a heap's file: only its holder may format the segment. The lock ends
 * with the holder's descriptor. If a creator dies half-way, the segment is not formatted, and the
 * next holder formats it. TIMED_OUT if another process keeps the lock for so long.
 */
IPCHEAP_API int ipcheap_lock_creation(int fd, int64_t timeout_ns);
/*
 * Takes the creation lock together with others that share it. A process that attaches holds it until
 * it is a participant, so that no other process removes the heap as unused in the meantime.
 */
IPCHEAP_API int ipcheap_share_creation(int fd, int64_t timeout_ns);
/* Releases the creation lock. */
IPCHEAP_API int ipcheap_unlock_creation(int fd);
/*
 * Finds a System V segment, or a semaphore set if `semaphore` is not 0: by its key if `by_key` is
 * not 0, otherwise by its id. SYSTEM with errno if there is none, or none that may be read.
 */
IPCHEAP_API int ipcheap_find_sysv(int semaphore, int by_key, int number, ipcheap_sysv *found);
/*
 * Gives the System V object `wanted->id` the owner, group and mode of `wanted`. SYSTEM with errno if
 * the caller is neither its owner, nor its creator, nor root.
 */
IPCHEAP_API int ipcheap_permit_sysv(int semaphore, const ipcheap_sysv *wanted);
/*
 * Lets those processes ring the pipe of a descriptor that may open the heap's file. If the user
 * `from` owns the pipe, the pipe is given to the owner of the file. `pipe` may be opened with O_PATH.
 * SYSTEM with errno if the caller is neither the owner of the pipe nor root.
 */
IPCHEAP_API int ipcheap_permit_pipe(int pipe, int file, uint32_t from);
/*
 * Writes what the file of a POSIX semaphore contains whose value is 0, and returns its length in
 * bytes; BAD_VALUE if there is no room for so many.
 */
IPCHEAP_API int ipcheap_semaphore_bytes(void *bytes, size_t room);
/*
 * Returns 1 for a heap, 0 for a segment that awaits its format, FORMAT_MISMATCH for anything
 * else.
 */
IPCHEAP_API int ipcheap_formatted(int fd, int shmid);
/* The format of the heaps of this library. Heaps of another one are left untouched. */
enum { IPCHEAP_FORMAT = 3 };
/* The most participants of a heap. */
enum { IPCHEAP_PARTICIPANTS = 4096 };
/* Returns the number of the format of a heap, of this or of another one; 0 if it is no heap. */
IPCHEAP_API int ipcheap_found_format(int fd, int shmid);
/*
 * Makes a heap of a segment; whatever was in it is lost. A file is set to the size that
 * ipcheap_segment_bytes() returns, rounded up to large pages on hugetlbfs; a System V segment must
 * have it. BAD_VALUE for a capacity that
 * no heap can have or a segment that is too small, MEMORY_FULL if the file system has no room,
 * SYSTEM with EOPNOTSUPP in errno if it cannot reserve memory or give it back.
 */
IPCHEAP_API int ipcheap_format(int fd, int shmid, const ipcheap_options *options);

/*
 * Attaches to a heap, and makes the calling thread a participant. `fd` is the segment; if `shmid`
 * is not negative, that is the System V segment, and `fd` the file beside it that carries the
 * liveness locks. NOT_FORMATTED if the creator is not done yet, FORMAT_MISMATCH for a heap of
 * another format or no heap.
 */
IPCHEAP_API int ipcheap_attach(int fd, int shmid, ipcheap_heap **heap);
/*
 * The library measures which of two ways is faster, and shows it in ipcheap_holder. Environment
 * variables, which a process reads once, pin it: IPCHEAP_COPY is through, past or learn,
 * IPCHEAP_EXTENTS is lowest, in-turn or learn, IPCHEAP_SPIN is learn, never or longest, and
 * IPCHEAP_DOZE is learn or never. IPCHEAP_COREDUMP is exclude or include: whether a core dump
 * contains the mapped heaps. For any other value ipcheap_attach() returns
 * BAD_VALUE, and this function the name of the variable, with its words as "a|b|c" in *words. It
 * returns NULL if all values are right.
 */
IPCHEAP_API const char *ipcheap_bad_variable(const char **words);
/*
 * For a process that has called mlockall(MCL_FUTURE), between the two calls a new mapping of any
 * kind is locked page by page as it is touched, so that attaching a System V segment does not
 * populate all of it. The first returns 1 if the second must be called.
 */
IPCHEAP_API int ipcheap_pause_populating(void);
IPCHEAP_API void ipcheap_resume_populating(void);
/*
 * Reads what never changes in the header of a heap, without attaching. A file is not mapped. Does
 * not count participants. Fails as ipcheap_attach() does.
 */
IPCHEAP_API int ipcheap_read_header(int fd, int shmid, ipcheap_heap_info *info);
/* Reads the header of a heap, and counts participants. Fails as ipcheap_attach() does. */
IPCHEAP_API int ipcheap_inspect(int fd, int shmid, ipcheap_heap_info *info);
/*
 * Returns 1 if a living process has the heap of that file open, 0 if none has. Also tells it of a
 * heap whose memory is gone, or in another IPC namespace.
 */
IPCHEAP_API int ipcheap_has_users(int fd);
/* Reads the header of an attached heap. Does not count participants. */
IPCHEAP_API int ipcheap_heap_describe(ipcheap_heap *heap, ipcheap_heap_info *info);

/*
 * Returns the descriptor of the heap's file that the handle keeps, to pass it to another process;
 * do not close or position it. DESCRIPTOR_LOST if the program has closed it and it cannot be
 * opened again.
 */
IPCHEAP_API int ipcheap_heap_file(ipcheap_heap *heap);

/*
 * Closes this process's endpoints, and ends the participation of its threads. Records stay valid
 * and can be freed. Idempotent; always returns 0. Other threads may be in calls on the heap, and
 * in ipcheap_wait(), ipcheap_wait_peer() or between ipcheap_endpoint_enter() and _leave() on an
 * endpoint. These calls return HEAP_CLOSED and have closed the endpoint. No thread may be in any
 * other call on an endpoint.
 */
IPCHEAP_API int ipcheap_close(ipcheap_heap *heap);

/*
 * After ipcheap_close(): waits until other threads that were in calls on endpoints have closed them.
 * A process that ends before they have leaves endpoints of a dead process. TIMED_OUT if they have
 * not within `timeout_ns`.
 */
IPCHEAP_API int ipcheap_wait_closed(ipcheap_heap *heap, int64_t timeout_ns);

/*
 * Closes the heap, unless it is closed, and drops handle and mapping. Afterwards nothing may use
 * the handle, its endpoints or its records. Release the endpoints before. Has no effect as often as
 * ipcheap_retain() has been called.
 */
IPCHEAP_API void ipcheap_release(ipcheap_heap *heap);

/* One more user of the handle: for each, one more ipcheap_release() comes before the last one. */
IPCHEAP_API void ipcheap_retain(ipcheap_heap *heap);

/*
 * Sets how long calls of this process wait for the heap lock before they return HEAP_BUSY: 10 s
 * unless set. A signal does not end that wait. Allocating and sending small records rarely needs
 * the lock; large records, channels, claims, statistics, checks and recovery do.
 */
IPCHEAP_API void ipcheap_set_lock_timeout(ipcheap_heap *heap, int64_t timeout_ns);

typedef struct ipcheap_statistics {
    uint64_t capacity;     /* bytes for users' data */
    uint64_t committed;    /* bytes of data pages that have memory */
    uint64_t in_use;       /* bytes of blocks and extents allocated or sent, and not freed */
    uint64_t largest_free; /* bytes of the longest free run of pages */
    uint64_t records;      /* allocated or sent, and not freed */
    uint64_t extents;      /* of large records and static segments */
    uint64_t slabs;        /* of small records */
    uint64_t participants; /* living ones */
    uint64_t channels;     /* static segments included */
    uint64_t recoveries;   /* dead participants recovered so far */
} ipcheap_statistics;

/* Counts what is in the heap, under the heap lock, in time proportional to slabs and extents. */
IPCHEAP_API int ipcheap_heap_statistics(ipcheap_heap *heap, ipcheap_statistics *statistics);
/* Gives free memory beyond `keep` bytes back to the system; returns how many bytes it gave. */
IPCHEAP_API int64_t ipcheap_trim(ipcheap_heap *heap, uint64_t keep);

/* A participant, as messages name it. */
typedef struct ipcheap_holder {
    uint32_t pid; /* in its own PID namespace; 0: unknown */
    uint32_t tid;
    uint32_t alive;       /* 1 or 0 */
    uint32_t ours;        /* 1: a thread of the calling process */
    uint32_t elsewhere;   /* 1: its pid is of another PID namespace than the caller's */
    char name[16];        /* of the thread, with a zero at the end */
    uint64_t since_ns;    /* when it became a participant, since the epoch */
    uint32_t in_turn;     /* 1: its large records use memory in turn, not the lowest that is free */
    uint32_t copies_past; /* bit n: it copies 16 KiB << n, up to twice that, past the caches */
} ipcheap_holder;

/*
 * Returns 1 and the next participant, dead ones that await recovery included, or 0 at the end.
 * *cursor starts at 0.
 */
IPCHEAP_API int ipcheap_next_participant(ipcheap_heap *heap, uint32_t *cursor,
                                         ipcheap_holder *holder);
/* Returns 1 and the participant that holds the heap lock, or 0 if the lock is free. */
IPCHEAP_API int ipcheap_lock_holder(ipcheap_heap *heap, ipcheap_holder *holder);

typedef struct ipcheap_recovery {
    uint32_t participants; /* dead participants recovered */
    uint32_t endpoints;    /* sides that they held */
    uint64_t blocks;       /* blocks and extents freed */
    uint64_t bytes;        /* of these */
    uint64_t redelivered;  /* records that they had received and not freed */
} ipcheap_recovery;

/* Is called with what a recovery finds, under the heap lock: it must not use any heap. */
typedef struct ipcheap_recovery_witness {
    void (*died)(void *context, const ipcheap_holder *who);
    void (*redelivered)(void *context, const ipcheap_key *key, uint64_t records);
    void *context;
} ipcheap_recovery_witness;

/*
 * Recovers dead participants now and rebuilds all indices. Otherwise this happens on demand, when
 * a caller waits for a dead participant or needs what it held. CORRUPT if something cannot be
 * rebuilt; all else has been recovered then.
 */
IPCHEAP_API int ipcheap_recover(ipcheap_heap *heap, ipcheap_recovery *report);
/* Does the same, and tells the witness of each dead participant and each redelivering channel. */
IPCHEAP_API int ipcheap_recover_witnessed(ipcheap_heap *heap, ipcheap_recovery *report,
                                          const ipcheap_recovery_witness *witness);

/*
 * Looks at every structure of the heap, under the heap lock. Calls `say` with a sentence for each
 * broken invariant; returns how many there were. Dead participants that await recovery break
 * none.
 */
IPCHEAP_API int ipcheap_check(ipcheap_heap *heap, void (*say)(void *context, const char *text),
                              void *context);

/* Records -------------------------------------------------------------------------- */

/* What a record holds. The form travels with the record, beside its data. */
enum {
    IPCHEAP_PLAIN = 0,  /* bytes */
    IPCHEAP_ARRAY = 1,  /* an array: ipcheap_array_of() says which */
    IPCHEAP_OBJECT = 2, /* pieces that Python's send_object() made: see docs/objects.md */
};

typedef struct ipcheap_record {
    void *data;                 /* 64-byte aligned */
    uint64_t nbytes;            /* as asked for; may be 0 */
    uint64_t offset;            /* of data, in the segment */
    uint64_t position;          /* in the ring of `consumer`, until it is freed or kept */
    ipcheap_endpoint *consumer; /* that received it; NULL for an allocated or kept record */
    uint32_t form;              /* IPCHEAP_PLAIN, ... */
    uint32_t place;             /* of a message of a bus: which hold of its listener it is */
} ipcheap_record;

/*
 * Allocates a record, which the calling process owns; its bytes are not initialised. HEAP_FULL if
 * the heap has no room for it, MEMORY_FULL if the file system under the heap has none.
 */
IPCHEAP_API int ipcheap_allocate(ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record);
/*
 * Frees a record: any thread may, also after ipcheap_close(). For a received record this is the
 * acknowledgement. Sets `data` to NULL: the handle is dead. If the heap lock cannot be had, the
 * memory is given back later. RECORD if the record was freed or sent already, or is of another
 * heap. Do not use a copy of a handle that was freed: its memory may be that of another record.
 */
IPCHEAP_API int ipcheap_free(ipcheap_heap *heap, ipcheap_record *record);
/*
 * Takes a received record out of its channel, so that its slot of the ring can be used again. The
 * record stays valid when the consumer is closed, and is not redelivered if this process dies.
 * Any thread may call it; it does nothing for a record that the process owns. RECORD as
 * ipcheap_free().
 */
IPCHEAP_API int ipcheap_keep(ipcheap_heap *heap, ipcheap_record *record);
/* Returns 1 if two handles of this process are on the same heap. */
IPCHEAP_API int ipcheap_same(const ipcheap_heap *heap, const ipcheap_heap *other);
/*
 * Makes a record of the handle `from` one of `heap`, another handle of this process on the same heap;
 * its data is mapped at another address then. Keeps it first, as ipcheap_keep() does. RECORD as
 * ipcheap_free(), and if the handles are on different heaps.
 */
IPCHEAP_API int ipcheap_adopt(ipcheap_heap *heap, ipcheap_heap *from, ipcheap_record *record);

/* Arrays --------------------------------------------------------------------------- */

enum {
    IPCHEAP_ARRAY_MAGIC = 0x31617261, /* "ara1" in memory */
    IPCHEAP_ARRAY_VERSION = 1,
    IPCHEAP_ARRAY_DIMENSIONS = 64, /* at most */
    IPCHEAP_ARRAY_TYPE = 4096,     /* most characters of a type, with the zero at its end */
};

/*
 * The beginning of a description. After it come uint64_t shape[dimensions], and the type's
 * `type_length` characters and a zero. A record of the form IPCHEAP_ARRAY has its description
 * behind its data, at the next multiple of 64 bytes; `nbytes` does not count it.
 */
typedef struct ipcheap_array_header {
    uint32_t magic;
    uint16_t version;
    uint16_t type_length; /* characters, the zero at the end not counted */
    uint8_t dimensions;
    uint8_t order; /* 0: the last index runs fastest, as in C; 1: the first, as in Fortran */
    uint8_t zero[6];
    uint64_t itemsize; /* bytes */
} ipcheap_array_header;

/* Room for any description. Most take less than 64 bytes of it. */
typedef struct ipcheap_description {
    ipcheap_array_header header;
    uint64_t shape_and_type[IPCHEAP_ARRAY_DIMENSIONS + IPCHEAP_ARRAY_TYPE / 8];
} ipcheap_description;

/* What a description says. */
typedef struct ipcheap_array {
    uint64_t itemsize;     /* bytes; not 0 */
    uint32_t dimensions;   /* 0 for a single item */
    uint32_t order;        /* as in the header */
    const uint64_t *shape; /* `dimensions` lengths */
    const char *type;      /* as in .npy files: "<f4", "|u1", "[('x', '<i4'), ...]" */
} ipcheap_array;

/*
 * Describes an array; returns the length of the description in bytes. BAD_VALUE if no record
 * could hold that array, or the type is empty or too long.
 */
IPCHEAP_API int64_t ipcheap_describe_array(const ipcheap_array *array,
                                           ipcheap_description *description);
/*
 * Allocates a record for the array that a description of `length` bytes describes. Its items are
 * not initialised. BAD_VALUE for what ipcheap_describe_array() would not have written; otherwise
 * fails as ipcheap_allocate() does. The description may lie at any address, and be used for any
 * number of records.
 */
IPCHEAP_API int ipcheap_allocate_array(ipcheap_heap *heap, const void *description, size_t length,
                                       ipcheap_record *record);
/*
 * Copies the description out of a record and checks it; returns its length in bytes. `array`,
 * unless it is NULL, then says the same, its shape and type inside `description`. RECORD if the
 * record is not of the form IPCHEAP_ARRAY, FORMAT_MISMATCH for a description of another version,
 * CORRUPT if description and record contradict each other.
 */
IPCHEAP_API int64_t ipcheap_array_of(ipcheap_heap *heap, const ipcheap_record *record,
                                     ipcheap_description *description, ipcheap_array *array);

/* Channels ------------------------------------------------------------------------- */

enum {
    IPCHEAP_RECORD_CHANNEL = 1,
    IPCHEAP_STATIC_SEGMENT = 2,
    IPCHEAP_STREAM = 3,
    IPCHEAP_STORE = 4,
    IPCHEAP_BUS = 5
};
enum { IPCHEAP_PRODUCER = 0, IPCHEAP_CONSUMER = 1 };
enum { IPCHEAP_WRITER = IPCHEAP_PRODUCER, IPCHEAP_READER = IPCHEAP_CONSUMER };

/* Names a channel of a heap. A plain value; valid until the channel is removed. */
typedef struct ipcheap_channel {
    uint32_t index;
    uint32_t incarnation; /* tells it from an earlier channel of the same index */
    uint32_t kind;        /* IPCHEAP_RECORD_CHANNEL, ... */
    uint64_t
        shape; /* slots of a channel, bytes of a segment, items of a stream, 1 for a store; of a
                       bus: see ipcheap_bus_options_of() */
} ipcheap_channel;

/* Makes the key of a number; BAD_VALUE for 2**63 or more. */
IPCHEAP_API int ipcheap_key_int(ipcheap_key *key, uint64_t value);
/* Makes the key of a text of 1 to 48 bytes, as a rule UTF-8; BAD_VALUE for any other length. */
IPCHEAP_API int ipcheap_key_text(ipcheap_key *key, const char *text, size_t length);

/* Looks a channel up, without a lock. CHANNEL_NOT_FOUND if there is none of that ID. */
IPCHEAP_API int ipcheap_find_channel(ipcheap_heap *heap, const ipcheap_key *key,
                                     ipcheap_channel *channel);
/*
 * Adds a record channel, or takes the one that exists. `capacity` is rounded up to a power of
 * two; 0 takes an existing channel of any capacity, or returns CHANNEL_NOT_FOUND. CHANNEL_TYPE if
 * the channel is of another kind or capacity; HEAP_FULL if there is no room.
 */
IPCHEAP_API int ipcheap_add_record_channel(ipcheap_heap *heap, const ipcheap_key *key,
                                           uint64_t capacity, ipcheap_channel *channel);
/*
 * Removes a channel and frees the records that are pending in it; held ones stay with their
 * holder. CHANNEL_BUSY if a living participant holds a side. With `force` not 0 it is removed all
 * the same, and calls on its endpoints return ENDPOINT_CLOSED.
 */
IPCHEAP_API int ipcheap_remove_channel(ipcheap_heap *heap, const ipcheap_key *key, int force);
/* Returns 1 and the next channel, or 0 at the end. *cursor starts at 0. */
IPCHEAP_API int ipcheap_next_channel(ipcheap_heap *heap, uint32_t *cursor, ipcheap_key *key,
                                     ipcheap_channel *channel);
/*
 * Returns a number that changes when a channel is added, removed or made ready, and when a side
 * is claimed or given back. Read it before you look for any of these, and pass it to
 * ipcheap_wait_directory().
 */
IPCHEAP_API uint32_t ipcheap_directory_version(ipcheap_heap *heap);
/* Sleeps while the version is `seen`. A death does not change it: look again now and then. */
IPCHEAP_API int ipcheap_wait_directory(ipcheap_heap *heap, uint32_t seen, int64_t timeout_ns);

/* Endpoints ------------------------------------------------------------------------ */

/*
 * Claims a side of a record channel or of a stream for the calling thread. The side of a holder that
 * has closed or died can be claimed again and continues where that holder stopped. CHANNEL_BUSY if a
 * living participant holds it, CHANNEL_TYPE for a static segment, CHANNEL_NOT_FOUND if the channel
 * was removed. Does not wait for the side: see ipcheap_wait_directory().
 */
IPCHEAP_API int ipcheap_claim(ipcheap_heap *heap, const ipcheap_channel *channel, int side,
                              ipcheap_endpoint **endpoint);
/* Returns 1 and the participant that holds a side, living or not; 0 if no one holds it. */
IPCHEAP_API int ipcheap_side_holder(ipcheap_heap *heap, const ipcheap_channel *channel, int side,
                                    ipcheap_holder *holder);
/*
 * Gives the side back. What a consumer holds stays valid and is not redelivered. Idempotent.
 * Another thread may call it if the claiming thread is in no call on the endpoint except those
 * that ipcheap_close() names.
 */
IPCHEAP_API int ipcheap_endpoint_close(ipcheap_endpoint *endpoint);
/*
 * Marks the beginning of calls during which another thread may close the heap or the endpoint.
 * The endpoint is then not closed during them but by ipcheap_endpoint_leave(), and waiting ends
 * early. HEAP_CLOSED or ENDPOINT_CLOSED if it is too late. Pairs may be nested.
 */
IPCHEAP_API int ipcheap_endpoint_enter(ipcheap_endpoint *endpoint);
/* Ends what _enter() began. HEAP_CLOSED or ENDPOINT_CLOSED if it has closed the endpoint. */
IPCHEAP_API int ipcheap_endpoint_leave(ipcheap_endpoint *endpoint);
/*
 * Closes the endpoint, unless it is closed, and drops the handle. No record that was received
 * through it may be used afterwards, except a kept one: free the others before. Which thread may
 * call it is as for ipcheap_endpoint_close().
 */
IPCHEAP_API void ipcheap_endpoint_release(ipcheap_endpoint *endpoint);

/*
 * Sends a record, allocated or received on any channel of the heap; afterwards the handle is
 * dead. WOULD_BLOCK if the ring is full. CHANNEL_CLOSED or PEER_DIED if the ring is full and the
 * consumer has closed or died. RECORD if the record was freed or sent, or is of another heap;
 * ENDPOINT_CLOSED if the channel was removed. After an error the record is the caller's as
 * before.
 */
IPCHEAP_API int ipcheap_try_send(ipcheap_endpoint *producer, ipcheap_record *record);
/* Does the same, and waits for room. */
IPCHEAP_API int ipcheap_send(ipcheap_endpoint *producer, ipcheap_record *record,
                             int64_t timeout_ns);
/*
 * Sends records in order, as many as there is room for, and wakes the consumer once. Returns how
 * many went, 0 if there was no room, or the error of the first if not one went.
 */
IPCHEAP_API int64_t ipcheap_try_send_many(ipcheap_endpoint *producer, ipcheap_record *records,
                                          size_t count);

/*
 * Copies bytes that another process will read, as memcpy() does, in the faster of two ways:
 * through the caches or past them. Which is faster depends on the length, on how many such copies
 * run in parallel, and on whether the two cores share a cache. Each participant of the heap measures
 * it now and then; a thread that is none, and a closed heap, just copy. A send that follows publishes
 * the copy.
 */
IPCHEAP_API void ipcheap_copy(ipcheap_heap *heap, void *to, const void *from, size_t nbytes);

/* Bytes to be copied from. */
typedef struct ipcheap_bytes {
    const void *data;
    uint64_t nbytes;
} ipcheap_bytes;

/*
 * Sends records that are copies of bytes, in order, as many as there is room for, and wakes the
 * consumer once. Returns how many went, 0 if there was no room, or an error if not one went:
 * HEAP_FULL, and those of ipcheap_try_send(). This is the fastest way to send bytes that exist
 * already, because as a rule a copy goes into the block that came back in its slot.
 */
IPCHEAP_API int64_t ipcheap_try_send_copies(ipcheap_endpoint *producer, const ipcheap_bytes *copied,
                                            size_t count);
/*
 * Takes the bytes of `count` records, all of them or none. Returns 0 if it took them, or a
 * negative number, its own or an ipcheap_error. It must not use the endpoint.
 */
typedef int ipcheap_taker(void *context, const ipcheap_bytes *records, size_t count);
/*
 * Receives up to `limit` records in order, shows their bytes to a taker, and frees them. Returns
 * how many, 0 if there are none, or an error if not one came. The taker sees groups of at most 64
 * records. A group that it does not take ends the call; the first of that group is the next
 * record again. If no group was taken before, the call returns what the taker returned.
 */
IPCHEAP_API int64_t ipcheap_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take,
                                               void *context, size_t limit);
/*
 * Receives the next record, which the caller frees, keeps or sends on. WOULD_BLOCK if there is
 * none; CHANNEL_CLOSED or PEER_DIED if there is none and the producer has closed or died.
 * ENDPOINT_CLOSED if the channel was removed. Detaches a record that has been held for a whole
 * ring.
 */
IPCHEAP_API int ipcheap_try_receive(ipcheap_endpoint *consumer, ipcheap_record *record);
/* Does the same, and waits for a record. */
IPCHEAP_API int ipcheap_receive(ipcheap_endpoint *consumer, ipcheap_record *record,
                                int64_t timeout_ns);
/* Returns size and form of the next record without receiving it. Fails as try_receive does. */
IPCHEAP_API int ipcheap_peek(ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form);
/*
 * Receives up to `limit` records in order. Returns how many, 0 if there are none, or an error as
 * ipcheap_try_receive() if not one came.
 */
IPCHEAP_API int64_t ipcheap_try_receive_many(ipcheap_endpoint *consumer, ipcheap_record *records,
                                             size_t limit);

/*
 * Sleeps until a send or receive would not return WOULD_BLOCK: there is a record, or room, or the
 * other side has closed or died, or the channel is gone. Returns 0 for all of these.
 */
IPCHEAP_API int ipcheap_wait(ipcheap_endpoint *endpoint, int64_t timeout_ns);
/*
 * Looks for a microsecond or two whether ipcheap_wait() would return 0: returns 0, or TIMED_OUT.
 * Looks only once if waits have lately been longer. Call it before you give something up in order
 * to sleep, such as a lock.
 */
IPCHEAP_API int ipcheap_spin(ipcheap_endpoint *endpoint);
/*
 * Sleeps until a living participant holds the other side. ENDPOINT_CLOSED if the channel is gone.
 */
IPCHEAP_API int ipcheap_wait_peer(ipcheap_endpoint *endpoint, int64_t timeout_ns);

/* What ipcheap_wait_any() waits for. */
typedef struct ipcheap_waitable {
    ipcheap_endpoint *endpoint; /* of the calling thread; or NULL, and then: */
    void *word;                 /* a cell of a static segment, or an event */
    uint64_t expected;          /* the cell is ready when it holds another value */
    uint32_t width;             /* of the cell, 4 or 8 bytes; 0 for an event: ready when set */
    uint32_t ready;             /* out: 1 if it is ready */
} ipcheap_waitable;

/*
 * Sleeps until one or more of any number of items, of any heaps, are ready. Marks all that are
 * and returns how many; 0 if none was in time. BAD_VALUE for an item that is none of these.
 */
IPCHEAP_API int64_t ipcheap_wait_any(ipcheap_waitable *items, size_t count, int64_t timeout_ns);

/*
 * Returns a descriptor for select, poll and epoll, which is readable while ipcheap_wait() would
 * return immediately. It is made by the first call and belongs to the endpoint: do not read or
 * close it.
 */
IPCHEAP_API int ipcheap_endpoint_descriptor(ipcheap_endpoint *endpoint);

typedef struct ipcheap_endpoint_statistics {
    uint64_t capacity; /* slots of the ring */
    uint64_t sent;     /* records ever sent on the channel */
    uint64_t received; /* records ever received on it */
    uint64_t parks;    /* times this side went to sleep */
    uint64_t wakes;    /* times this side woke the other */
    uint64_t held;     /* records received and not yet freed, kept, sent or detached */
    uint64_t spins;    /* how often this side looks before it sleeps, as learnt */
    uint64_t doze_ns;  /* how long it sleeps by a timer of its own before it looks; 0: not at all */
    uint64_t detached; /* records taken out of the channel so that held ones did not stop it */
} ipcheap_endpoint_statistics;

/* Counts for one endpoint, also a closed one. Does not check the thread. BAD_VALUE for a stream's. */
IPCHEAP_API int ipcheap_endpoint_describe(ipcheap_endpoint *endpoint,
                                          ipcheap_endpoint_statistics *statistics);
/* Returns how many records were sent and not yet received. Does not check the thread. */
IPCHEAP_API int64_t ipcheap_pending(ipcheap_endpoint *endpoint);

/* How a side of a channel is: no holder ever; a living one; the last one has closed, or has died. */
enum {
    IPCHEAP_SIDE_NEVER = 0,
    IPCHEAP_SIDE_OPEN = 1,
    IPCHEAP_SIDE_CLOSED = 2,
    IPCHEAP_SIDE_DIED = 3
};
enum { IPCHEAP_NOT_BLOCKED = 0, IPCHEAP_BLOCKED_FULL = 1, IPCHEAP_BLOCKED_EMPTY = 2 };

/* sent = received + pending; received = freed + held. */
typedef struct ipcheap_counts {
    uint64_t capacity; /* slots of the ring */
    uint64_t sent;     /* records sent since the channel was added */
    uint64_t received; /* of these, given to a consumer; not those that the next one gets again */
    uint64_t freed;    /* of these, no longer in the channel: freed, kept, sent on or detached */
    uint64_t pending;  /* sent and not yet received */
    uint64_t held;     /* received and not freed */
    uint32_t producer, consumer; /* IPCHEAP_SIDE_NEVER, ... */
    uint32_t blocked;            /* IPCHEAP_NOT_BLOCKED, ... */
} ipcheap_counts;

/*
 * Counts what has passed through a record channel, without claiming a side and without a lock, in
 * time proportional to its capacity. Any thread of a process that has attached to the heap may call
 * it. CHANNEL_TYPE for another kind, CHANNEL_NOT_FOUND if the channel was removed, CORRUPT if its
 * memory is not its own.
 *
 * `sent` is exact if the producer is idle or dead, `freed` if the consumer is, whatever the other side
 * does meanwhile. Otherwise they are numbers that were right at some moment of the call, or, if the
 * producer sends more than a ring during the call, a little too low. Neither ever decreases.
 *
 * A killed participant need not be recovered before. What counts is what the recovery will find: a
 * record is sent when its slot is full; freed when its slot is given back, or, if it is kept or
 * detached, when its block says so; and a record that is sent on leaves its channel at the very store
 * that sends it on the other one. So it is counted on exactly one of the two. Until the recovery, or
 * the next claim, what a dead consumer held is `held`; from then on it is `pending` again.
 *
 * `blocked` is IPCHEAP_BLOCKED_FULL while the producer sleeps, or a poller watches for it, and the slot
 * of the next record is taken; IPCHEAP_BLOCKED_EMPTY while the consumer does so, and nothing is
 * pending. A side that spins, dozes, works or tries again and again is not blocked.
 */
IPCHEAP_API int ipcheap_channel_counts(ipcheap_heap *heap, const ipcheap_channel *channel,
                                       ipcheap_counts *counts);

/* Streams -------------------------------------------------------------------------- */
/*
 * A ring of items from one writer to one reader. Both work in place, in windows that are one piece
 * of memory, also across the ring's end. ipcheap_claim(), _wait_peer(), _wait_any(),
 * _endpoint_descriptor() and _endpoint_close() are as for records; ipcheap_wait() waits for the
 * watermark.
 *
 *     ipcheap_window window;
 *     ipcheap_window_open(writer, 64, 64, 0, &window);
 *     make_sound(window.data, 64);
 *     ipcheap_window_close(writer, 64);
 *
 * No call waits for more than half the capacity, rounded up, or the capacity of a stream that
 * overwrites: BAD_VALUE. If fewer items are there, a call returns WOULD_BLOCK; then call
 * ipcheap_stream_wait(). A reader gets what is left when the writer has closed or died, then
 * CHANNEL_CLOSED or PEER_DIED. Apart from claims, waits and resets no call takes a lock, and none
 * enters the kernel unless the other side sleeps. While a window is open, any call that moves or
 * copies items returns WINDOW.
 */
enum { IPCHEAP_OVERWRITE = 1 }; /* the writer never waits: unread items are lost */

typedef struct ipcheap_stream_shape {
    uint64_t capacity;  /* items that can be unread at the same time, at least 1 */
    uint64_t backlog;   /* items before the reader's position that it can read again */
    uint32_t flags;     /* 0 or IPCHEAP_OVERWRITE */
    ipcheap_array item; /* its type, and its own dimensions: 0 of them for a plain number */
} ipcheap_stream_shape;

/*
 * Adds a stream, or takes the one that exists; NULL takes one of any shape, or returns
 * CHANNEL_NOT_FOUND. All its memory is taken now. CHANNEL_TYPE if the channel is of another kind or
 * shape, BAD_VALUE for a shape that no stream can have, HEAP_FULL if there is no room.
 */
IPCHEAP_API int ipcheap_add_stream(ipcheap_heap *heap, const ipcheap_key *key,
                                   const ipcheap_stream_shape *shape, ipcheap_channel *channel);
/* Returns the shape of a stream. The item's shape and type then lie inside `description`. */
IPCHEAP_API int ipcheap_stream_shape_of(ipcheap_heap *heap, const ipcheap_channel *channel,
                                        ipcheap_stream_shape *shape,
                                        ipcheap_description *description);

/*
 * Writes as many of the items as there is room for; returns how many. A stream that overwrites has
 * room for all.
 */
IPCHEAP_API int64_t ipcheap_stream_write(ipcheap_endpoint *writer, const void *items,
                                         uint64_t count);
/*
 * Copies `least` to `most` items, and releases them; returns how many. With NULL for `items` they
 * are skipped.
 */
IPCHEAP_API int64_t ipcheap_stream_read(ipcheap_endpoint *reader, void *items, uint64_t least,
                                        uint64_t most);
/* Does the same, and releases none. */
IPCHEAP_API int64_t ipcheap_stream_peek(ipcheap_endpoint *reader, void *items, uint64_t least,
                                        uint64_t most);
/*
 * Copies the last items before the position, at most `most`, which is at most the backlog; returns
 * how many. With NULL for `items` it only says how many there are.
 */
IPCHEAP_API int64_t ipcheap_stream_history(ipcheap_endpoint *reader, void *items, uint64_t most);

typedef struct ipcheap_window {
    void *data;        /* `overlap` items read before, then the window's, in one piece */
    uint64_t items;    /* between `least` and `most` of ipcheap_window_open() */
    uint64_t overlap;  /* a reader's: as many as wanted, or as there are */
    uint64_t position; /* of the first item of the window, counted since the stream was added */
} ipcheap_window;

/*
 * Opens a window of `least` to `most` items: to be read, after `overlap` items that were read
 * before, or to be filled. It is the ring itself. It is a copy for the reader of a stream that
 * overwrites, and where the system refuses to map the ring twice.
 */
IPCHEAP_API int ipcheap_window_open(ipcheap_endpoint *endpoint, uint64_t least, uint64_t most,
                                    uint64_t overlap, ipcheap_window *window);
/* Ends the window, and commits or releases its first `items` items. BAD_VALUE if it has fewer. */
IPCHEAP_API int ipcheap_window_close(ipcheap_endpoint *endpoint, uint64_t items);

/* Returns how many items there are to read, or room for how many. */
IPCHEAP_API int64_t ipcheap_stream_ready(ipcheap_endpoint *endpoint);
/* Sets how many items, or room for how many, makes the endpoint ready; 1 at first. */
IPCHEAP_API int ipcheap_stream_want(ipcheap_endpoint *endpoint, uint64_t items);
/* Waits for so many items, or room for so many: one sleep and one wake-up. As ipcheap_wait(). */
IPCHEAP_API int ipcheap_stream_wait(ipcheap_endpoint *endpoint, uint64_t items, int64_t timeout_ns);
/* Drops all that has been written until now, and the backlog. */
IPCHEAP_API int ipcheap_stream_reset(ipcheap_endpoint *endpoint);

typedef struct ipcheap_stream_statistics {
    uint64_t capacity;
    uint64_t backlog;
    uint64_t written;  /* items committed since the stream was added */
    uint64_t read;     /* items released, skipped, dropped or lost since then */
    uint64_t writes;   /* how often items were committed */
    uint64_t reads;    /* how often items were released */
    uint64_t lost;     /* items that this reader has missed */
    uint64_t parks;    /* times this side went to sleep */
    uint64_t wakes;    /* times this side woke the other */
    uint32_t mirrored; /* 1: windows are the ring itself */
} ipcheap_stream_statistics;

/* Counts for one endpoint. Does not check the thread. */
IPCHEAP_API int ipcheap_stream_describe(ipcheap_endpoint *endpoint,
                                        ipcheap_stream_statistics *statistics);

/*
 * Keeps the ring in memory until the endpoint is closed, so that no call faults a page in. SYSTEM if the
 * limit for locked memory forbids it: closing the endpoint then leaves its side as the claim found it.
 */
IPCHEAP_API int ipcheap_stream_pin(ipcheap_endpoint *endpoint);

/*
 * Where an endpoint finds its ring; does not change while it is open. Item k begins at byte
 * k * itemsize % ring_bytes and may continue at the ring's start.
 */
typedef struct ipcheap_stream_layout {
    void *ring;
    uint64_t ring_bytes;
    uint64_t most_waited_for; /* items */
    int twice;                /* 1: the ring follows once more, and windows are the ring itself */
    int writes;               /* 1: a writer */
} ipcheap_stream_layout;

/* Returns where the ring is. Does not check the thread. */
IPCHEAP_API int ipcheap_stream_lay_out(ipcheap_endpoint *endpoint, ipcheap_stream_layout *layout);

/*
 * Keeps the memory of an endpoint's windows where it is until ipcheap_view_drop(): after the
 * endpoint was closed, it shows what was there at that time. NULL if windows are copies. Any thread
 * may drop a view.
 */
typedef struct ipcheap_view ipcheap_view;
IPCHEAP_API ipcheap_view *ipcheap_stream_view(ipcheap_endpoint *endpoint);
IPCHEAP_API void ipcheap_view_drop(ipcheap_view *view);

/* Stores --------------------------------------------------------------------------- */
/*
 * Keyed chunks from one writer to many readers, which hold them in place. A chunk is immutable. Each
 * change has a version, from 1, in the whole store. A chunk is live until it is replaced, deleted,
 * evicted or expired; then it is dead, and its memory is given back when no reader holds it.
 *
 *     ipcheap_add_store(heap, &id, &options, &store);
 *     ipcheap_store_key_of(&key, IPCHEAP_KEY_TEXT, "frame", 5);
 *
 *     ipcheap_claim(heap, &store, IPCHEAP_WRITER, &writer);
 *     ipcheap_store_put(writer, &key, frame, nbytes, 0, &version);
 *
 *     ipcheap_claim(heap, &store, IPCHEAP_READER, &reader);
 *     while (ipcheap_store_wait_for(reader, &key, version, -1, &chunk) == 0) {
 *         show(chunk.data, chunk.nbytes);
 *         version = chunk.version;
 *         ipcheap_chunk_release(&chunk);
 *     }
 *
 * ipcheap_claim() gives each caller a reader of its own, up to IPCHEAP_READERS; a thread may have
 * several. ipcheap_wait(), _wait_any() and _endpoint_descriptor() of a reader wait for
 * ipcheap_store_next(), spuriously now and then; a writer is always ready. _wait_peer() and
 * _endpoint_close() are as for records, ipcheap_side_holder() is for the writer only.
 *
 * Putting and getting take no lock, and enter the kernel only if a put collects or wakes somebody, or
 * needs an extent. The writer never waits for a reader.
 */
enum {
    IPCHEAP_KEY_NONE = 0,  /* a chunk that is followed, never looked up and never replaced */
    IPCHEAP_KEY_BYTES = 3, /* beside IPCHEAP_KEY_INT and IPCHEAP_KEY_TEXT: three separate spaces */
    IPCHEAP_STORE_KEY_MAX = 64,
    IPCHEAP_READERS = 4096,    /* of a store, at the same time */
    IPCHEAP_MOST_HOLDS = 65536 /* of a reader */
};
enum { IPCHEAP_EVICT = 1 }; /* flags of a store: the oldest chunks make way for new ones */

/* The key of a chunk; the bytes beyond its length do not matter. */
typedef struct ipcheap_store_key {
    uint8_t kind;
    uint8_t length;
    char bytes[IPCHEAP_STORE_KEY_MAX];
} ipcheap_store_key;

/* Makes the key of a number. Returns 0. */
IPCHEAP_API int ipcheap_store_key_int(ipcheap_store_key *key, uint64_t value);
/*
 * Makes the key of 1 to 64 bytes, of kind IPCHEAP_KEY_TEXT or IPCHEAP_KEY_BYTES; BAD_VALUE for
 * anything else.
 */
IPCHEAP_API int ipcheap_store_key_of(ipcheap_store_key *key, int kind, const void *bytes,
                                     size_t length);

typedef struct ipcheap_store_options {
    uint32_t given;      /* which of the following count: IPCHEAP_GIVEN_DEPTH, ... */
    uint32_t flags;      /* 0 or IPCHEAP_EVICT */
    uint64_t depth;      /* chunks of a key that are live at the same time, at least 1; 1 */
    int64_t ttl_ns;      /* of a chunk whose put says nothing else; 0: indefinitely; 0 */
    uint64_t max_chunks; /* live ones; 0: as many as the heap has room for; 0 */
    uint64_t max_bytes;  /* of the live ones; 0: as many as the heap has room for; 0 */
    uint64_t garbage;    /* bytes of dead, unheld chunks that a put leaves uncollected; 1 MiB */
    uint32_t hold;       /* chunks that a reader may hold, 1 to IPCHEAP_MOST_HOLDS; 1024 */
} ipcheap_store_options;
enum {
    IPCHEAP_GIVEN_FLAGS = 1,
    IPCHEAP_GIVEN_DEPTH = 2,
    IPCHEAP_GIVEN_TTL = 4,
    IPCHEAP_GIVEN_MAX_CHUNKS = 8,
    IPCHEAP_GIVEN_MAX_BYTES = 16,
    IPCHEAP_GIVEN_GARBAGE = 32,
    IPCHEAP_GIVEN_HOLD = 64,
    IPCHEAP_GIVEN_ALL = 127
};

/*
 * Adds a store, or takes the one that exists if the given options are its own. An option that is not
 * given takes an existing store as it is, and a new one gets the default, which the list above has
 * last. So options of zeros add a store with the defaults. NULL takes an existing store, or returns
 * CHANNEL_NOT_FOUND. CHANNEL_TYPE if the channel is of another kind, or an option differs; BAD_VALUE
 * for what no store can have.
 */
IPCHEAP_API int ipcheap_add_store(ipcheap_heap *heap, const ipcheap_key *key,
                                  const ipcheap_store_options *options, ipcheap_channel *channel);
/* Returns the options of a store, all of them given. */
IPCHEAP_API int ipcheap_store_options_of(ipcheap_heap *heap, const ipcheap_channel *channel,
                                         ipcheap_store_options *options);

/*
 * Writing. `key` may be NULL for a chunk without a key. `ttl_ns` is how long the chunk lives from its
 * commit: 0 as the store says, negative indefinitely. `version` may be NULL.
 *
 * Errors of a put, which has changed nothing then: STORE_FULL if a limit is reached, HEAP_FULL and
 * MEMORY_FULL if the heap has no room. A store that evicts drops its oldest chunks first. If a chunk
 * could never fit, it fails immediately and nothing is dropped. ipcheap_store_blocker() says which
 * reader holds the most.
 */

/* Puts a copy of the bytes, as one commit, or into the open transaction. */
IPCHEAP_API int ipcheap_store_put(ipcheap_endpoint *writer, const ipcheap_store_key *key,
                                  const void *data, uint64_t nbytes, int64_t ttl_ns,
                                  uint64_t *version);
/*
 * Puts a record, allocated or received on any channel of the heap, without a copy. Afterwards the
 * handle is dead. In a transaction the handle is the writer's until the transaction ends, and must stay
 * at its address: a commit ends it, an abort makes the record the caller's as before. The consumer that
 * received the record may be closed meanwhile, and not released. RECORD as ipcheap_try_send().
 */
IPCHEAP_API int ipcheap_store_put_record(ipcheap_endpoint *writer, const ipcheap_store_key *key,
                                         ipcheap_record *record, int64_t ttl_ns, uint64_t *version);

typedef struct ipcheap_store_item {
    const ipcheap_store_key *key;
    const void *data;
    uint64_t nbytes;
} ipcheap_store_item;

/*
 * Puts copies of all items as one commit, or none of them. In a transaction they are part of it, all
 * or none. *version is that of the last.
 */
IPCHEAP_API int ipcheap_store_put_many(ipcheap_endpoint *writer, const ipcheap_store_item *items,
                                       size_t count, int64_t ttl_ns, uint64_t *version);
/*
 * Deletes all chunks of a key; it is a commit, and takes a version. Returns 1, or 0 if the key has no
 * chunk: then nothing is committed.
 */
IPCHEAP_API int ipcheap_store_delete(ipcheap_endpoint *writer, const ipcheap_store_key *key,
                                     uint64_t *version);

/*
 * Begins a transaction: all puts and deletions until ipcheap_store_commit() are one commit. No reader
 * sees any of them before it. The last change of a key counts. TRANSACTION if one is open.
 */
IPCHEAP_API int ipcheap_store_begin(ipcheap_endpoint *writer);
/*
 * Commits the transaction; *version is that of its last change, or the newest one if it has none. After
 * an error, as of a put, it is undone and closed. TRANSACTION if none is open.
 */
IPCHEAP_API int ipcheap_store_commit(ipcheap_endpoint *writer, uint64_t *version);
/* Undoes the transaction. TRANSACTION if none is open. */
IPCHEAP_API int ipcheap_store_abort(ipcheap_endpoint *writer);

/*
 * Drops the oldest chunks of a store that evicts, of so many bytes in all if it has them, and collects.
 * For a record that is to be put and could not be allocated. Returns 1, or 0 if nothing was dropped.
 */
IPCHEAP_API int ipcheap_store_evict(ipcheap_endpoint *writer, uint64_t nbytes);
/* Frees all that is dead and not held. Returns how many bytes, as they were put. */
IPCHEAP_API int64_t ipcheap_store_collect(ipcheap_endpoint *writer);
/* Which limits the writer's last STORE_FULL has met: IPCHEAP_GIVEN_MAX_CHUNKS, _MAX_BYTES; or 0. */
IPCHEAP_API uint32_t ipcheap_store_limits_met(const ipcheap_endpoint *writer);

/* Reading. */

/* What the library knows of a reader's holds. */
typedef struct ipcheap_holds ipcheap_holds;

/*
 * A chunk that a reader holds: its bytes do not change until it is released, whatever happens. The
 * struct may be copied and passed on; release it once.
 */
typedef struct ipcheap_chunk {
    const void *data; /* 64-byte aligned; NULL: released, or none */
    uint64_t nbytes;
    uint64_t version;
    uint64_t offset; /* of data, in the segment, as in a record */
    uint32_t form;   /* IPCHEAP_PLAIN, ... */
    uint32_t place;  /* of the hold */
    ipcheap_holds *holds;
} ipcheap_chunk;

/* Returns the version of the newest commit. */
IPCHEAP_API uint64_t ipcheap_store_version(const ipcheap_endpoint *endpoint);

/*
 * Gets the newest chunk of a key, if its version is above `newer_than`. Returns 1, or 0 if there is
 * none. HOLDS if the reader holds as many chunks as it may.
 */
IPCHEAP_API int ipcheap_store_get(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                                  uint64_t newer_than, ipcheap_chunk *chunk);
/*
 * The same for a caller that copies: the chunk takes no place among those that the reader may hold, and
 * must be released before the reader's thread calls the store again.
 */
IPCHEAP_API int ipcheap_store_peek(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                                   ipcheap_chunk *chunk);
/*
 * Gets the newest chunks of all keys as of one moment; returns how many there are. Those of absent
 * keys have no data. Holds none after an error; TIMED_OUT if 1,000 attempts were overtaken.
 */
IPCHEAP_API int64_t ipcheap_store_get_many(ipcheap_endpoint *reader, const ipcheap_store_key *keys,
                                           size_t count, ipcheap_chunk *chunks);
/*
 * Gets the live chunks of a key as of one moment, oldest first; at most `room`, the newest of them.
 * Returns how many. Fails as ipcheap_store_get_many() does.
 */
IPCHEAP_API int64_t ipcheap_store_history(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                                          ipcheap_chunk *chunks, size_t room);
/* Returns 1 if ipcheap_store_get() would find a chunk, otherwise 0. Holds nothing. */
IPCHEAP_API int ipcheap_store_contains(ipcheap_endpoint *reader, const ipcheap_store_key *key);

/* A key that has a live chunk, and the version of its newest one. */
typedef struct ipcheap_store_entry {
    uint64_t version;
    ipcheap_store_key key;
} ipcheap_store_entry;
/*
 * Writes at most `room` keys, by ascending version, and returns how many there are, perhaps more than
 * that: then call again with more room. A key that is there throughout is among them, and any key once.
 * It looks at every cell.
 */
IPCHEAP_API int64_t ipcheap_store_keys(ipcheap_endpoint *reader, ipcheap_store_entry *entries,
                                       size_t room);

/*
 * Gets the live chunk with the smallest version above the reader's position, and moves the position
 * there. Returns 0. Never waits: WOULD_BLOCK if there is none yet, and ipcheap_wait() waits for it;
 * CHANNEL_CLOSED or PEER_DIED if there is none and the writer has closed or died. HOLDS as
 * ipcheap_store_get(): then the position has not moved.
 */
IPCHEAP_API int ipcheap_store_next(ipcheap_endpoint *reader, ipcheap_chunk *chunk);
/* Returns the reader's position: 0 at its claim. */
IPCHEAP_API uint64_t ipcheap_store_position(const ipcheap_endpoint *reader);
/* Continues after that version, at most after the newest one. Sets *position, unless it is NULL. */
IPCHEAP_API int ipcheap_store_seek(ipcheap_endpoint *reader, uint64_t version, uint64_t *position);
/*
 * For callers that poll for keys: versions up to that one do not make the reader ready any more, for
 * ipcheap_wait(), _wait_any() and its descriptor. 0: those up to its position, as at its claim.
 */
IPCHEAP_API int ipcheap_store_notice(ipcheap_endpoint *reader, uint64_t version);
/*
 * Gets the newest chunk of a key as soon as its version is above `newer_than`. Returns 0. Only commits of
 * that key wake it, or any commit if there is no such key yet. Does not move the position. CHANNEL_CLOSED
 * or PEER_DIED if it would have to wait and the writer has closed or died; HOLDS as ipcheap_store_get().
 */
IPCHEAP_API int ipcheap_store_wait_for(ipcheap_endpoint *reader, const ipcheap_store_key *key,
                                       uint64_t newer_than, int64_t timeout_ns,
                                       ipcheap_chunk *chunk);

/*
 * Ends a hold, and sets data to NULL. Any thread of the process may call it, also after the reader or
 * the heap was closed or the reader released. RECORD if the chunk was released already. WRONG_PROCESS
 * in a forked child, where the hold is its parent's.
 */
IPCHEAP_API int ipcheap_chunk_release(ipcheap_chunk *chunk);

typedef struct ipcheap_chunk_info {
    ipcheap_store_key key; /* of kind IPCHEAP_KEY_NONE if it has none */
    int64_t age_ns;        /* since its commit, by the boot-time clock */
    int64_t expires_in_ns; /* at most 0 if it has expired; INT64_MAX: never */
    uint32_t live;         /* 1: neither replaced, nor deleted, evicted or expired */
} ipcheap_chunk_info;
/* Returns the key of a chunk that is held; any thread may call it. RECORD if it was released. */
IPCHEAP_API int ipcheap_chunk_key(const ipcheap_chunk *chunk, ipcheap_store_key *key);
/* Describes a chunk that is held; any thread may. RECORD if it was released. */
IPCHEAP_API int ipcheap_chunk_describe(const ipcheap_chunk *chunk, ipcheap_chunk_info *info);
/*
 * Copies the description of an array out of a chunk that is held, as ipcheap_array_of() does out of a
 * record, and returns what that returns. RECORD also if the chunk was released.
 */
IPCHEAP_API int64_t ipcheap_chunk_array(ipcheap_heap *heap, const ipcheap_chunk *chunk,
                                        ipcheap_description *description, ipcheap_array *array);

/* Looking. */

typedef struct ipcheap_store_statistics {
    uint64_t version;                             /* of the newest commit */
    uint64_t keys;                                /* that have a live chunk */
    uint64_t chunks, bytes;                       /* live and unexpired; bytes as they were put */
    uint64_t dead, dead_bytes;                    /* not given back yet */
    uint64_t held, held_bytes;                    /* of the dead, those that readers hold */
    uint64_t readers;                             /* open ones */
    uint64_t replaced, expired, evicted, deleted; /* chunks, since the store was added */
    uint64_t collections;
    uint64_t slots; /* that the tables have room for */
} ipcheap_store_statistics;
/* Counts, under the heap lock, in time proportional to the slots. */
IPCHEAP_API int ipcheap_store_describe(ipcheap_heap *heap, const ipcheap_channel *channel,
                                       ipcheap_store_statistics *statistics);

typedef struct ipcheap_store_reader_info {
    ipcheap_holder holder;
    uint32_t number;                             /* for ipcheap_store_holds() */
    uint32_t closed;                             /* 1: it only holds chunks */
    uint32_t state;                              /* how it sleeps: 0 for a reader that is awake */
    uint64_t since_ns;                           /* when it was claimed, since the epoch */
    uint64_t position, behind;                   /* behind: versions after its position */
    uint64_t held, held_bytes, dead, dead_bytes; /* dead: of those that it holds */
    uint64_t oldest_ns; /* how long it has held what it has held longest, to the second */
} ipcheap_store_reader_info;
/* Returns 1 and the next reader, or 0 at the end. *cursor starts at 0. Under the heap lock. */
IPCHEAP_API int ipcheap_store_next_reader(ipcheap_heap *heap, const ipcheap_channel *channel,
                                          uint32_t *cursor, ipcheap_store_reader_info *info);
/* Returns 1 and the reader that holds the most dead bytes, or 0 if none holds any. */
IPCHEAP_API int ipcheap_store_blocker(ipcheap_heap *heap, const ipcheap_channel *channel,
                                      ipcheap_store_reader_info *info);

typedef struct ipcheap_store_hold {
    ipcheap_store_key key;
    uint64_t version, nbytes;
    uint64_t since_ns; /* for how long, to the second */
    uint32_t live;
} ipcheap_store_hold;
/* Writes at most `room` of the chunks that a reader holds; returns how many it holds. */
IPCHEAP_API int64_t ipcheap_store_holds(ipcheap_heap *heap, const ipcheap_channel *channel,
                                        uint32_t number, ipcheap_store_hold *holds, size_t room);

typedef struct ipcheap_store_endpoint_statistics {
    uint64_t given;   /* chunks that a reader was given by next; versions that a writer committed */
    uint64_t skipped; /* versions that next has passed over */
    uint64_t held;    /* chunks that the reader holds now */
    uint64_t parks;   /* times that it went to sleep */
} ipcheap_store_endpoint_statistics;
/* Counts for one endpoint, also a closed one. Does not check the thread. */
IPCHEAP_API int ipcheap_store_endpoint_describe(ipcheap_endpoint *endpoint,
                                                ipcheap_store_endpoint_statistics *statistics);

/* Buses ---------------------------------------------------------------------------- */
/*
 * Every listener hears every message, in one order. A message stands in the heap once, and its memory is
 * given back when all have released it.
 *
 *     ipcheap_add_bus(heap, &id, NULL, &bus);
 *     ipcheap_post(heap, &bus, "open", 4, -1, NULL);
 *
 *     ipcheap_listen(heap, &bus, NULL, &listener);
 *     while (ipcheap_receive(listener, &message, -1) == 0) {
 *         show(message.data, message.nbytes);
 *         ipcheap_free(heap, &message);
 *     }
 *
 * A listener is an endpoint, and a message a record that it has received: ipcheap_try_receive(),
 * _receive(), _peek(), _try_receive_many(), _try_receive_copies(), _free(), _keep(), _array_of(), _wait(),
 * _wait_any(), _endpoint_descriptor(), _pending() and _endpoint_close() are as for records.
 * ipcheap_free() acknowledges a message; ipcheap_keep() acknowledges it, and its bytes stay until it is
 * freed. Its bytes are other listeners', too: do not write to them. A message may be sent or posted on:
 * without a copy if nobody else needs it. Free all messages before ipcheap_endpoint_release(), or use
 * none of them afterwards except to free it.
 *
 * Writers have no seat: any thread posts. ipcheap_claim() with IPCHEAP_CONSUMER is ipcheap_listen() with
 * NULL, with IPCHEAP_PRODUCER it is BAD_VALUE.
 */
enum { IPCHEAP_LISTENERS = 4096 }; /* of a bus, at the same time */

/* What a bus is; a member counts if its bit is in `given`. */
typedef struct ipcheap_bus_options {
    uint32_t given; /* IPCHEAP_BUS_CAPACITY, ... */
    uint32_t flags; /* 0 or IPCHEAP_EXCLUSIVE */
    uint64_t
        capacity; /* messages that a listener may be behind, up to 2**24; rounded up to a power of
                            two; 256 */
    uint64_t history; /* how many of the last messages are kept for later listeners, at most the
                            capacity; 0 */
    int64_t
        patience_ns; /* how long a listener may be in a writer's way, to the millisecond; negative:
                            indefinitely; 0: not at all; -1 */
} ipcheap_bus_options;
enum {
    IPCHEAP_BUS_CAPACITY = 1,
    IPCHEAP_BUS_HISTORY = 2,
    IPCHEAP_BUS_PATIENCE = 4,
    IPCHEAP_BUS_ALL = 7,
    IPCHEAP_EXCLUSIVE = 1 /* flag: CHANNEL_EXISTS if there is a channel of that ID */
};

/*
 * Adds a bus, or takes the one that exists if the given options are its own. An option that is not given
 * takes any bus, and a new one gets the default, which the list above has last. Options of zeros add a bus
 * with the defaults; NULL takes an existing one, or returns CHANNEL_NOT_FOUND. CHANNEL_TYPE if the channel
 * is of another kind, or an option differs; BAD_VALUE for what no bus can have.
 */
IPCHEAP_API int ipcheap_add_bus(ipcheap_heap *heap, const ipcheap_key *key,
                                const ipcheap_bus_options *options, ipcheap_channel *channel);
/* Returns the options of a bus, all of them given; it was found, and may be gone. */
IPCHEAP_API int ipcheap_bus_options_of(const ipcheap_channel *channel,
                                       ipcheap_bus_options *options);

/* Posting. *position is that of the message, from 0 on; `position` may be NULL. */

/*
 * Posts a copy of the bytes: it is published when the call returns 0. WOULD_BLOCK if the log has no room,
 * because a listener is a whole log behind; CHANNEL_NOT_FOUND if the bus was removed. HEAP_FULL and
 * MEMORY_FULL as ipcheap_allocate().
 */
IPCHEAP_API int ipcheap_try_post(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data,
                                 uint64_t nbytes, uint64_t *position);
/*
 * Posts copies of bytes in order, as many as there is room for, and wakes listeners once. Returns how many
 * went, 0 if there was no room, or an error if not one went.
 */
IPCHEAP_API int64_t ipcheap_try_post_many(ipcheap_heap *heap, const ipcheap_channel *bus,
                                          const ipcheap_bytes *copied, size_t count);
/*
 * Posts a record, allocated or received on any channel of the heap; afterwards the handle is dead. It is
 * not copied, unless it is a message that others still need. After an error the record is the caller's as
 * before. RECORD as ipcheap_try_send().
 */
IPCHEAP_API int ipcheap_try_post_record(ipcheap_heap *heap, const ipcheap_channel *bus,
                                        ipcheap_record *record, uint64_t *position);
/*
 * Sleeps until the log may have room. OWN_LISTENER if `timeout_ns` is negative and a listener of the
 * calling thread is in the way, which only this thread could change.
 */
IPCHEAP_API int ipcheap_wait_room(ipcheap_heap *heap, const ipcheap_channel *bus,
                                  int64_t timeout_ns);
/* Returns OWN_LISTENER if that would be so now, otherwise 0. */
IPCHEAP_API int ipcheap_own_listener(ipcheap_heap *heap, const ipcheap_channel *bus);
/* Does what ipcheap_try_post() does, and waits for room. */
IPCHEAP_API int ipcheap_post(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data,
                             uint64_t nbytes, int64_t timeout_ns, uint64_t *position);
/* Does what ipcheap_try_post_record() does, and waits for room. */
IPCHEAP_API int ipcheap_post_record(ipcheap_heap *heap, const ipcheap_channel *bus,
                                    ipcheap_record *record, int64_t timeout_ns, uint64_t *position);

/* Broadcasting: posting, and waiting until all listeners have released the message. */

/*
 * To how many listeners a message was owed: those that were registered when it was posted, except lossy
 * ones and those of the calling thread. `listeners` is the sum of the other three.
 */
typedef struct ipcheap_broadcast_report {
    uint64_t position; /* UINT64_MAX: nothing has been posted */
    uint64_t listeners;
    uint64_t released; /* have released or kept it */
    uint64_t gone;     /* have closed or died before that */
    uint64_t slow;     /* have not, or were passed */
} ipcheap_broadcast_report;

typedef struct ipcheap_broadcast ipcheap_broadcast;

/* Makes a broadcast for the calling thread, which has posted nothing yet; NO_MEMORY. */
IPCHEAP_API int ipcheap_broadcast_begin(ipcheap_heap *heap, const ipcheap_channel *bus,
                                        ipcheap_broadcast **broadcast);
/*
 * Posts its message, a copy of the bytes or a record, if it is this broadcast's turn and there is room.
 * Its turn ends `timeout_ns` from now at the latest; negative: when all have released it. WOULD_BLOCK if
 * another broadcast has the turn or a listener is in the way. Otherwise as ipcheap_try_post().
 */
IPCHEAP_API int ipcheap_try_broadcast(ipcheap_broadcast *broadcast, const void *data,
                                      uint64_t nbytes, int64_t timeout_ns);
IPCHEAP_API int ipcheap_try_broadcast_record(ipcheap_broadcast *broadcast, ipcheap_record *record,
                                             int64_t timeout_ns);
/* Sleeps until it may be its turn, and there may be room. OWN_LISTENER as ipcheap_wait_room(). */
IPCHEAP_API int ipcheap_wait_turn(ipcheap_broadcast *broadcast, int64_t timeout_ns);
/* In place of a message: it is about all that was posted until now. */
IPCHEAP_API int ipcheap_drain_begin(ipcheap_broadcast *broadcast);
/*
 * Sleeps until nobody owes a release any more: 0. TIMED_OUT leaves it as it is, for another call.
 * CHANNEL_NOT_FOUND if the bus is removed meanwhile. Any thread may call it, and one at a time.
 */
IPCHEAP_API int ipcheap_await_releases(ipcheap_broadcast *broadcast, int64_t timeout_ns);
/* Makes a thread in one of the two calls that sleep return INTERRUPTED soon. Any thread may call it. */
IPCHEAP_API void ipcheap_broadcast_cancel(ipcheap_broadcast *broadcast);
/* Counts, as of the last look. */
IPCHEAP_API void ipcheap_broadcast_describe(const ipcheap_broadcast *broadcast,
                                            ipcheap_broadcast_report *report);
/* Returns 1 and the next listener that is slow, or 0 at the end. *cursor starts at 0. */
IPCHEAP_API int ipcheap_next_slow(const ipcheap_broadcast *broadcast, uint64_t *cursor,
                                  ipcheap_holder *holder);
/* Ends the turn, and drops the handle. */
IPCHEAP_API void ipcheap_broadcast_end(ipcheap_broadcast *broadcast);

/*
 * Broadcasts a copy of the bytes. `timeout_ns` covers everything: TIMED_OUT if nothing was posted by then,
 * 0 if it was: the report says who is slow. CHANNEL_BUSY instead of waiting for turn or room if `nowait` is
 * not 0. After INTERRUPTED the report says whether the message was posted.
 */
IPCHEAP_API int ipcheap_broadcast_bytes(ipcheap_heap *heap, const ipcheap_channel *bus,
                                        const void *data, uint64_t nbytes, int64_t timeout_ns,
                                        int nowait, ipcheap_broadcast_report *report);
/* Waits until all listeners have released what was posted before the call. */
IPCHEAP_API int ipcheap_drain(ipcheap_heap *heap, const ipcheap_channel *bus, int64_t timeout_ns,
                              ipcheap_broadcast_report *report);

/*
 * Returns 1 and the listener that is in the way of a post; 2 and the holder of the turn, if `broadcast` is
 * not 0 and that is in the way; 0 if nothing is, or not any more.
 */
IPCHEAP_API int ipcheap_bus_blocker(ipcheap_heap *heap, const ipcheap_channel *bus, int broadcast,
                                    ipcheap_holder *holder);

/* Listening. */

enum {
    IPCHEAP_LOSSY = 1
}; /* never makes anybody wait, and loses what it does not receive in time */
typedef struct ipcheap_listen_options {
    uint64_t history; /* begins with as many of the messages that the bus has kept */
    uint32_t flags;   /* 0 or IPCHEAP_LOSSY */
} ipcheap_listen_options;

/*
 * Registers a listener of the calling thread, which misses nothing that is posted from then on. NULL is
 * options of zeros. BAD_VALUE for more history than the bus has; CHANNEL_BUSY if there are too many
 * listeners.
 *
 * Its receiving calls return MESSAGES_LOST once after it was passed: ipcheap_listener_lost() says how many
 * messages it did not get, and the next call goes on with the oldest that is there.
 */
IPCHEAP_API int ipcheap_listen(ipcheap_heap *heap, const ipcheap_channel *bus,
                               const ipcheap_listen_options *options, ipcheap_endpoint **listener);
/* Returns what the last MESSAGES_LOST of a listener was about. */
IPCHEAP_API uint64_t ipcheap_listener_lost(const ipcheap_endpoint *listener);
/* For callers that could not pass the last MESSAGES_LOST on: the next call returns it again. */
IPCHEAP_API void ipcheap_listener_tell_again(ipcheap_endpoint *listener);

typedef struct ipcheap_listener_statistics {
    uint64_t received;
    uint64_t lost;    /* messages that it did not get: it is lossy, or was passed */
    uint64_t held;    /* received and not freed; kept ones count */
    uint64_t pending; /* can still be received */
    uint64_t parks;   /* times that it went to sleep */
} ipcheap_listener_statistics;
/* Counts for one listener, also a closed one. Does not check the thread. */
IPCHEAP_API int ipcheap_listener_describe(ipcheap_endpoint *listener,
                                          ipcheap_listener_statistics *statistics);

/* Describes the participant that posted a message. RECORD if that was freed. */
IPCHEAP_API int ipcheap_message_sender(ipcheap_heap *heap, const ipcheap_record *message,
                                       ipcheap_holder *sender);

/* Looking. */

typedef struct ipcheap_bus_statistics {
    uint64_t capacity, history;
    uint64_t posted;    /* messages so far */
    uint64_t waiting;   /* that some listener has not received yet */
    uint64_t listeners; /* registered */
    uint64_t passed;    /* how often a listener was passed */
} ipcheap_bus_statistics;
IPCHEAP_API int ipcheap_bus_describe(ipcheap_heap *heap, const ipcheap_channel *bus,
                                     ipcheap_bus_statistics *statistics);

typedef struct ipcheap_listener_info {
    ipcheap_holder holder;
    uint64_t joined; /* the first position that it is owed */
    uint64_t pending, held, lost;
    uint32_t lossy;
    uint32_t closed; /* 1: it only holds messages */
    uint32_t state;  /* how it sleeps: 0 for one that is awake */
} ipcheap_listener_info;
/* Returns 1 and the next listener, or 0 at the end. *cursor starts at 0. Under the heap lock. */
IPCHEAP_API int ipcheap_next_listener(ipcheap_heap *heap, const ipcheap_channel *bus,
                                      uint32_t *cursor, ipcheap_listener_info *info);

/* Static segments ------------------------------------------------------------------ */

/*
 * Adds a segment of `nbytes` zero bytes, or takes the one that exists; 0 takes one of any size.
 * Returns 0 if it is ready; 1 if the caller is to initialise it and then call
 * ipcheap_static_ready(); WOULD_BLOCK while another participant initialises it, CHANNEL_BUSY while
 * the calling thread does. CHANNEL_TYPE if the size differs or the ID is that of a channel, HEAP_FULL if there is no room.
 */
IPCHEAP_API int ipcheap_add_static_segment(ipcheap_heap *heap, const ipcheap_key *key,
                                           uint64_t nbytes, ipcheap_channel *channel);
/*
 * Ends the initialisation, in the thread that was to do it; WRONG_THREAD in any other. If
 * `succeeded` is 0, the next caller of ipcheap_add_static_segment() is to initialise it.
 */
IPCHEAP_API int ipcheap_static_ready(ipcheap_heap *heap, const ipcheap_channel *channel,
                                     int succeeded);
/* Describes the participant that is initialising the segment. Returns 1, or 0 if none is. */
IPCHEAP_API int ipcheap_static_initialiser(ipcheap_heap *heap, const ipcheap_channel *channel,
                                           ipcheap_holder *holder);
/*
 * Returns the segment's bytes, 64-byte aligned, which are valid as long as the channel. NULL if
 * the channel is gone, or until the segment is ready, except in the thread that initialises it.
 * A process that keeps the pointer while others may remove the channel calls ipcheap_static_hold().
 */
IPCHEAP_API void *ipcheap_static_data(ipcheap_heap *heap, const ipcheap_channel *channel);
/*
 * Gets the segment's bytes and makes this process a user of the segment: without force it cannot be
 * removed, and its memory is given to nobody else before the last user is gone. Closing the heap
 * changes nothing. A forked child is a user of its own. Returns 0, CHANNEL_NOT_FOUND where
 * ipcheap_static_data() returns NULL, or HEAP_BUSY.
 */
IPCHEAP_API int ipcheap_static_hold(ipcheap_heap *heap, const ipcheap_channel *channel,
                                    void **data);
/*
 * Takes back one call of ipcheap_static_hold(); after the last one the bytes must not be used. Any
 * thread may call, also after closing. Never fails: what the heap lock delays is done later.
 */
IPCHEAP_API int ipcheap_static_release(ipcheap_heap *heap, const ipcheap_channel *channel);
/* Returns 1 if the segment has been removed, 0 otherwise. Only for a user of the segment. */
IPCHEAP_API int ipcheap_static_removed(ipcheap_heap *heap, const ipcheap_channel *channel);
/*
 * Describes the next process that uses a static segment: its thread is the one that began. *cursor
 * is 0 at first. Returns 1, or 0 at the end.
 */
IPCHEAP_API int ipcheap_next_user(ipcheap_heap *heap, const ipcheap_channel *channel,
                                  uint32_t *cursor, ipcheap_holder *holder);

/*
 * Sleeps while *word, of 4 or 8 bytes, is `expected`. A thread that changes the word calls
 * ipcheap_word_wake() afterwards; a change without that may be noticed a second later.
 */
IPCHEAP_API int ipcheap_word_wait(ipcheap_heap *heap, const void *word, uint64_t expected,
                                  uint32_t width, int64_t timeout_ns);
/* Wakes at most `count` waiters of a word; returns how many woke. */
IPCHEAP_API int ipcheap_word_wake(const void *word, int count);

/*
 * The size of an event, a barrier and a lock. Each is 64-byte aligned in a static segment, and
 * zero before its first use.
 */
enum { IPCHEAP_SYNC_BYTES = 64 };

/* Sets the event and wakes all waiters. Returns 0. */
IPCHEAP_API int ipcheap_event_set(void *event);
/* Clears the event. Returns 0. */
IPCHEAP_API int ipcheap_event_clear(void *event);
/* Returns 1 if the event is set, otherwise 0. */
IPCHEAP_API int ipcheap_event_is_set(const void *event);
/* Sleeps until the event is set. */
IPCHEAP_API int ipcheap_event_wait(ipcheap_heap *heap, void *event, int64_t timeout_ns);

/*
 * Arrives at a barrier of 1 to 65,535 parties, all of which pass the same number. Returns the
 * order of arrival, from 0, or BROKEN. The last to arrive releases all; the others go on with
 * ipcheap_barrier_wait() for the generation that this call returns.
 */
IPCHEAP_API int ipcheap_barrier_arrive(void *barrier, uint32_t parties, uint32_t *generation);
/* Sleeps until that generation is released; BROKEN if it was broken instead. */
IPCHEAP_API int ipcheap_barrier_wait(ipcheap_heap *heap, void *barrier, uint32_t generation,
                                     int64_t timeout_ns);
/* Breaks the generation that is waiting, and makes the barrier usable again. Returns 0. */
IPCHEAP_API int ipcheap_barrier_reset(void *barrier);
/* Breaks the barrier until ipcheap_barrier_reset(). Returns 0. */
IPCHEAP_API int ipcheap_barrier_abort(void *barrier);
/* Returns how many have arrived in this generation. */
IPCHEAP_API int ipcheap_barrier_waiting(const void *barrier);
/* Returns 1 if the barrier is broken, otherwise 0. */
IPCHEAP_API int ipcheap_barrier_broken(const void *barrier);

/*
 * Acquires a lock for the calling thread; it does not nest. Returns 0, or OWNER_DIED: the lock is
 * acquired as well, but its last owner died, and what it guards may be half-done.
 */
IPCHEAP_API int ipcheap_lock_acquire(ipcheap_heap *heap, void *lock, int64_t timeout_ns);
/* Releases a lock; WRONG_THREAD if the calling thread does not hold it. */
IPCHEAP_API int ipcheap_lock_release(ipcheap_heap *heap, void *lock);
/* Returns 1 and the participant that holds the lock, or 0 if it is free. */
IPCHEAP_API int ipcheap_lock_owner(ipcheap_heap *heap, const void *lock, ipcheap_holder *holder);

/* Observing ------------------------------------------------------------------------ */
/*
 * An observer looks at a heap from outside. It is no participant: it stores nothing, takes no lock and
 * no slot, maps no file, and needs read permission only. So it works on a heap that is locked,
 * corrupt or full, or whose processes are stopped, and on a copy of a heap. A look reads each
 * structure once, except for a bounded number of repetitions, and ends in time that grows with
 * participants, channels and slots, and with runs and blocks if memory is asked for.
 *
 * While the heap moves, each number was right at some time within the look. One thread at a time may
 * use an observer.
 */
typedef struct ipcheap_observer ipcheap_observer;

/*
 * Makes an observer of the heap in a file, or in the System V segment beside it; -1: there is none.
 * The descriptor may be open for reading only; it stays the caller's, who keeps it open. It must not
 * be a duplicate of one that a participant of this process uses: the heap would look abandoned.
 * NOT_FORMATTED or FORMAT_MISMATCH if there is no heap, NO_MEMORY.
 */
IPCHEAP_API int ipcheap_observe(int fd, int shmid, ipcheap_observer **observer);
/* Drops an observer, or NULL. */
IPCHEAP_API void ipcheap_observer_close(ipcheap_observer *observer);

enum { IPCHEAP_LOOK_MEMORY = 1 }; /* also which holder has what, by all blocks of the heap */
/* Looks, in place of what the last look has found. NO_MEMORY if it does not fit into this process. */
IPCHEAP_API int ipcheap_observer_look(ipcheap_observer *observer, uint32_t what);

/* Keys of participants are numbers that no two of a heap share; 0 is none. */
#define IPCHEAP_KEY_SLOT(key) ((uint32_t)((key) & 0xFFF))
#define IPCHEAP_KEY_GENERATION(key) ((uint32_t)((key) >> 12))

/* The heap as a whole. Bytes are those of whole blocks and extents. */
typedef struct ipcheap_seen_heap {
    uint64_t capacity, committed, identity, created_ns, recoveries;
    uint32_t shm_kind, sem_kind;
    uint32_t is_copy;     /* 1: a copy of a heap's file, which says nothing of who is alive */
    uint32_t locked;      /* the heap lock is held, */
    uint32_t contended;   /* and others wait for it */
    uint32_t sentences;   /* how many there are, also those that were not kept */
    uint64_t lock_holder; /* key; 0: unknown */
    uint64_t taken_ns;    /* when the look began, since the epoch */
    int64_t took_ns;
    uint64_t again;                       /* how often it looked again at something that moved */
    uint64_t owned, held, pending, fixed; /* bytes in use, `fixed` those of IPCHEAP_STATIC */
    uint64_t idle;                        /* waits in slabs and channels to be used again */
    uint64_t unread;                      /* could not be read */
    uint64_t free, largest_free, system;
    uint64_t records, extents, slabs;
} ipcheap_seen_heap;
IPCHEAP_API void ipcheap_observer_heap(const ipcheap_observer *observer, ipcheap_seen_heap *heap);

enum { IPCHEAP_SEEN_DEAD = 0, IPCHEAP_SEEN_ALIVE = 1, IPCHEAP_SEEN_UNKNOWN = 2 };
typedef struct ipcheap_seen_participant {
    uint64_t key;
    uint64_t since_ns; /* when it joined, since the epoch */
    uint32_t pid, tid; /* in its own PID namespace */
    uint32_t state;    /* IPCHEAP_SEEN_ALIVE, ... */
    uint32_t elsewhere;
    char name[56]; /* with a zero at the end */
} ipcheap_seen_participant;

typedef struct ipcheap_seen_side {
    uint64_t holder; /* key */
    uint32_t state;  /* IPCHEAP_SIDE_NEVER, ... */
    uint32_t
        waiting; /* 1: it sleeps, or a poller watches for it, and there is nothing to do for it */
    uint64_t parks, wakes;
} ipcheap_seen_side;

/* Why there is no room. */
enum { IPCHEAP_FULL_HELD = 1, IPCHEAP_FULL_PENDING = 2 };
typedef struct ipcheap_seen_channel {
    ipcheap_key key;
    uint32_t index, kind;
    uint32_t removed, poisoned, traced;
    uint32_t full; /* IPCHEAP_FULL_HELD: the reader has received what is in the way, ...; 0: room */
    uint64_t capacity, nbytes; /* bytes of the users' data that are in it now */
    uint64_t sent; /* records, items of a stream or messages of a bus; the version of a store */
    uint64_t received, pending, held;
    uint64_t pending_bytes, held_bytes;
    uint64_t mean_nbytes;              /* of the last records, an item, or a live chunk */
    uint64_t room;                     /* of a stream */
    uint64_t chunks, dead, dead_bytes; /* of a store */
    uint64_t passed;                   /* of a bus: how often a listener was */
    ipcheap_seen_side sides[2];
} ipcheap_seen_channel;

/* A reader of a store, or a listener of a bus. */
typedef struct ipcheap_seen_party {
    uint64_t holder; /* key */
    uint32_t channel, number;
    uint32_t closed; /* 1: it has closed, and still holds something */
    uint32_t waiting, lossy;
    uint32_t passed; /* 1: writers go on without it */
    uint32_t stalls; /* 1: writers wait for it, or have */
    uint64_t position, pending, held, held_bytes, dead, lost, parks;
} ipcheap_seen_party;

enum { IPCHEAP_OWNED = 0, IPCHEAP_HELD = 1, IPCHEAP_PENDING = 2, IPCHEAP_STATIC = 3 };
enum { IPCHEAP_FORM_MIXED = 254, IPCHEAP_FORM_UNKNOWN = 255 };
/* The records that one holder has in one place. Each record in use is in exactly one holding. */
typedef struct ipcheap_seen_holding {
    uint64_t holder;      /* key of the participant that has them, or that is to receive them */
    uint32_t how;         /* IPCHEAP_OWNED, ... */
    uint32_t form;        /* IPCHEAP_PLAIN, ..., IPCHEAP_FORM_MIXED or _UNKNOWN */
    uint32_t has_channel; /* `channel` is an index */
    uint32_t channel;
    uint64_t records, nbytes;
} ipcheap_seen_holding;

/* A sentence about what could not be read. */
typedef struct ipcheap_seen_text {
    char text[160];
} ipcheap_seen_text;

/* What the last look has found. Each returns 1 and the next one, or 0. *cursor starts at 0. */
IPCHEAP_API int ipcheap_observer_next_participant(const ipcheap_observer *observer,
                                                  uint64_t *cursor,
                                                  ipcheap_seen_participant *participant);
IPCHEAP_API int ipcheap_observer_next_channel(const ipcheap_observer *observer, uint64_t *cursor,
                                              ipcheap_seen_channel *channel);
IPCHEAP_API int ipcheap_observer_next_party(const ipcheap_observer *observer, uint64_t *cursor,
                                            ipcheap_seen_party *party);
IPCHEAP_API int ipcheap_observer_next_holding(const ipcheap_observer *observer, uint64_t *cursor,
                                              ipcheap_seen_holding *holding);
IPCHEAP_API int ipcheap_observer_next_text(const ipcheap_observer *observer, uint64_t *cursor,
                                           ipcheap_seen_text *text);

#ifdef __cplusplus
}
#endif

#endif
