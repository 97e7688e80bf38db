/*
 * ipcheap.h - a heap and its channels in one shared-memory segment.
 *
 * Caveats first
 *   - A thread that uses a heap is one of its participants; the library sees to that on
 *     first use. An endpoint belongs to the thread that claimed it.
 *   - After fork() the child may use the heap, but not the parent's endpoints and records.
 *   - A consumer may hold as many records as the heap has room for. One that has been held for a
 *     whole ring is detached: taken out of the channel as by ipcheap_keep(), so that the producer can
 *     go on. A detached record is not delivered again if its holder is killed.
 *   - The library never parses names. The caller opens the kernel object and passes it in,
 *     and may close its descriptor afterwards.
 *   - A record handle is a plain struct. Do not use one from two threads at a time.
 *   - Trusting peers: a participant can write anywhere in the segment.
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
 * Functions return 0 or a count, or a negative ipcheap_error. Timeouts are nanoseconds;
 * negative is for ever, 0 does not wait.
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

/* The ID of a channel: see ipcheap_key_int() and ipcheap_key_text(). */
enum { IPCHEAP_KEY_INT = 1, IPCHEAP_KEY_TEXT = 2, IPCHEAP_KEY_MAX = 48 };
typedef struct ipcheap_key {
    uint8_t kind;
    uint8_t length;
    char bytes[IPCHEAP_KEY_MAX];
} ipcheap_key;

IPCHEAP_API const char *ipcheap_version_string(void);
IPCHEAP_API const char *ipcheap_error_text(int error);
/*
 * How many forks lie between this process and the ancestor that first opened a heap. If this
 * number differs from the one when something was made, that belongs to a parent of this process.
 */
IPCHEAP_API uint32_t ipcheap_forks(void);

/* The heap ------------------------------------------------------------------------- */

enum { IPCHEAP_SEM_FUTEX = 0, IPCHEAP_SEM_POSIX = 1, IPCHEAP_SEM_SYSV = 2 };
enum { IPCHEAP_SHM_POSIX = 0, IPCHEAP_SHM_SYSV = 1, IPCHEAP_SHM_FILE = 2, IPCHEAP_SHM_MEMFD = 3 };

/* What the creator decides. All of it is written into the segment. */
typedef struct ipcheap_options {
    uint64_t capacity; /* bytes for users' data, at least 64 KiB */
    uint32_t shm_kind; /* for information */
    uint32_t sem_kind; /* what contended waiters for the heap lock sleep on */
    int32_t sem_id;    /* of a System V semaphore */
    char sem_name[64]; /* of a POSIX semaphore */
} ipcheap_options;

/* What can be read from a heap's header without becoming a participant. */
typedef struct ipcheap_heap_info {
    uint64_t capacity;
    uint64_t identity;
    uint64_t created_ns; /* since the epoch */
    uint64_t committed;  /* bytes of data pages */
    uint32_t shm_kind;
    uint32_t sem_kind;
    int32_t sem_id;
    char sem_name[64];
    uint32_t participants; /* living ones */
    uint32_t dead;         /* that await recovery */
} ipcheap_heap_info;

/* How many bytes a segment for this capacity must have; 0 if there is no such heap. */
IPCHEAP_API uint64_t ipcheap_segment_bytes(uint64_t capacity);

/*
 * The two halves of making a heap without a race: whoever holds the creation lock of the
 * file may format it. The lock ends with the holder, so a creator that died leaves an
 * unformatted file for the next one. ipcheap_formatted() returns 1, 0 or FORMAT_MISMATCH.
 */
IPCHEAP_API int ipcheap_lock_creation(int fd, int64_t timeout_ns);
IPCHEAP_API int ipcheap_unlock_creation(int fd);
IPCHEAP_API int ipcheap_formatted(int fd, int shmid);
IPCHEAP_API int ipcheap_format(int fd, int shmid, const ipcheap_options *options);

/*
 * fd is the segment, or, where shmid is not negative, the file beside a System V segment
 * that carries the liveness locks.
 */
IPCHEAP_API int ipcheap_attach(int fd, int shmid, ipcheap_heap **heap);
/*
 * The library finds out by trying which way is faster, and shows it in ipcheap_holder. Environment
 * variables, which a process reads once, pin it: IPCHEAP_COPY is through, past or learn,
 * IPCHEAP_EXTENTS is lowest, in-turn or learn. For any other value ipcheap_attach() returns
 * BAD_VALUE, and this the variable's name, with its words as "a|b|c"; NULL if all are right.
 */
IPCHEAP_API const char *ipcheap_bad_variable(const char **words);
IPCHEAP_API int ipcheap_inspect(int fd, int shmid, ipcheap_heap_info *info);
IPCHEAP_API int ipcheap_heap_describe(ipcheap_heap *heap, ipcheap_heap_info *info);

/*
 * Closes this process's endpoints. The mapping stays until the last record is given back.
 * Other threads may be in the middle of calls on the heap; of calls on an endpoint only in
 * ipcheap_wait() and _wait_peer(), or between ipcheap_endpoint_enter() and _leave(): they come
 * out with HEAP_CLOSED and have closed it.
 */
IPCHEAP_API int ipcheap_close(ipcheap_heap *heap);
/* Drops the handle; nothing may use it afterwards. Closes first if need be. */
IPCHEAP_API void ipcheap_release(ipcheap_heap *heap);
/* How long to wait for the heap lock before HEAP_BUSY; 10 s unless set. */
IPCHEAP_API void ipcheap_set_lock_timeout(ipcheap_heap *heap, int64_t timeout_ns);

typedef struct ipcheap_statistics {
    uint64_t capacity;
    uint64_t committed;
    uint64_t in_use;
    uint64_t largest_free;
    uint64_t records;
    uint64_t extents;
    uint64_t slabs;
    uint64_t participants;
    uint64_t channels;
    uint64_t recoveries;
} ipcheap_statistics;

IPCHEAP_API int ipcheap_heap_statistics(ipcheap_heap *heap, ipcheap_statistics *statistics);
/* Gives free memory beyond `keep` bytes back to the system; returns bytes or an error. */
IPCHEAP_API int64_t ipcheap_trim(ipcheap_heap *heap, uint64_t keep);

/* Who a participant is, for messages. */
typedef struct ipcheap_holder {
    uint32_t pid; /* as its own PID namespace counts; 0: unknown */
    uint32_t tid;
    uint32_t alive;
    uint32_t ours;      /* a thread of the calling process */
    uint32_t elsewhere; /* its pid is one of another PID namespace than the caller's */
    char name[16];
    uint64_t since_ns; /* when it came, since the epoch */
    uint32_t in_turn;  /* its large records use memory in turn, not the lowest that is free */
    uint32_t copies_past; /* bit n: it copies 16 KiB << n, up to twice that, past the caches */
} ipcheap_holder;

/* Steps through the participants, the dead that await recovery included: *cursor starts at 0.
   Returns 1, or 0 at the end. */
IPCHEAP_API int ipcheap_next_participant(ipcheap_heap *heap, uint32_t *cursor,
                                         ipcheap_holder *holder);
/* The participant that holds the heap lock; returns 1, or 0 when nobody does. */
IPCHEAP_API int ipcheap_lock_holder(ipcheap_heap *heap, ipcheap_holder *holder);

typedef struct ipcheap_recovery {
    uint32_t participants; /* dead ones recovered */
    uint32_t endpoints;    /* sides that they held */
    uint64_t blocks;       /* and extents, freed */
    uint64_t bytes;
    uint64_t redelivered; /* records they had received and not freed */
} ipcheap_recovery;

/* Called with what a recovery finds, under the heap lock: use no heap in there. */
typedef struct ipcheap_recovery_witness {
    void (*died)(void *context, const ipcheap_holder *who);
    void (*redelivered)(void *context, const ipcheap_key *key, uint64_t records);
    void *context;
} ipcheap_recovery_witness;

/* Cleans up after the dead now, and makes every index of the heap again. */
IPCHEAP_API int ipcheap_recover(ipcheap_heap *heap, ipcheap_recovery *report);
IPCHEAP_API int ipcheap_recover_witnessed(ipcheap_heap *heap, ipcheap_recovery *report,
                                          const ipcheap_recovery_witness *witness);

/* Calls back with a sentence for every broken invariant; returns how many there were. */
IPCHEAP_API int ipcheap_check(ipcheap_heap *heap, void (*say)(void *context, const char *text),
                              void *context);

/* Records -------------------------------------------------------------------------- */

/* What a record says of itself. It travels with the record; data that only looks alike does
 * not have it. */
enum {
    IPCHEAP_PLAIN = 0,  /* bytes */
    IPCHEAP_ARRAY = 1,  /* an array: ipcheap_array_of() says which */
    IPCHEAP_OBJECT = 2, /* what send_object() of Python made: pieces, see docs/objects.md */
};

typedef struct ipcheap_record {
    void *data;                  /* 64-byte aligned */
    uint64_t nbytes;             /* as asked for; 0 is fine */
    uint64_t offset;             /* of data, in the segment */
    uint64_t position;           /* in `consumer`'s ring, while it waits to be freed there */
    ipcheap_endpoint *consumer;  /* NULL for a record owned outright */
    uint32_t form;               /* IPCHEAP_PLAIN, ... */
} ipcheap_record;

IPCHEAP_API int ipcheap_allocate(ipcheap_heap *heap, uint64_t nbytes, ipcheap_record *record);
IPCHEAP_API int ipcheap_free(ipcheap_heap *heap, ipcheap_record *record);
/* Takes a received record out of its channel: it stays after the consumer has gone. */
IPCHEAP_API int ipcheap_keep(ipcheap_heap *heap, ipcheap_record *record);

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
 * Copies the description out of a record and checks it; returns its length in bytes. `array`, unless
 * it is NULL, then says the same, its shape and type inside `description`. RECORD if the record is
 * not of the form IPCHEAP_ARRAY, FORMAT_MISMATCH for a description of another version, CORRUPT if
 * description and record contradict each other.
 */
IPCHEAP_API int64_t ipcheap_array_of(ipcheap_heap *heap, const ipcheap_record *record,
                                     ipcheap_description *description, ipcheap_array *array);

/* Channels ------------------------------------------------------------------------- */

enum { IPCHEAP_RECORD_CHANNEL = 1, IPCHEAP_STATIC_SEGMENT = 2 };
enum { IPCHEAP_PRODUCER = 0, IPCHEAP_CONSUMER = 1 };

/* Names a channel of a heap. A plain value; it stays good until the channel is removed. */
typedef struct ipcheap_channel {
    uint32_t index;
    uint32_t incarnation;
    uint32_t kind;
    uint64_t shape; /* slots of a record channel, bytes of a static segment */
} ipcheap_channel;

IPCHEAP_API int ipcheap_key_int(ipcheap_key *key, uint64_t value);
IPCHEAP_API int ipcheap_key_text(ipcheap_key *key, const char *text, size_t length);

IPCHEAP_API int ipcheap_find_channel(ipcheap_heap *heap, const ipcheap_key *key,
                                     ipcheap_channel *channel);
/* Adds the channel or takes the one that is there; capacity 0 takes any. */
IPCHEAP_API int ipcheap_add_record_channel(ipcheap_heap *heap, const ipcheap_key *key,
                                           uint64_t capacity, ipcheap_channel *channel);
/* Frees what was pending. `force` also closes living endpoints. */
IPCHEAP_API int ipcheap_remove_channel(ipcheap_heap *heap, const ipcheap_key *key, int force);
/* Steps through the channels: *cursor starts at 0. Returns 1, or 0 at the end. */
IPCHEAP_API int ipcheap_next_channel(ipcheap_heap *heap, uint32_t *cursor, ipcheap_key *key,
                                     ipcheap_channel *channel);
/* Changes whenever a channel was added or a side claimed; for waiting until one is. */
IPCHEAP_API uint32_t ipcheap_directory_version(ipcheap_heap *heap);
IPCHEAP_API int ipcheap_wait_directory(ipcheap_heap *heap, uint32_t seen, int64_t timeout_ns);

/* Endpoints ------------------------------------------------------------------------ */

IPCHEAP_API int ipcheap_claim(ipcheap_heap *heap, const ipcheap_channel *channel, int side,
                              ipcheap_endpoint **endpoint);
IPCHEAP_API int ipcheap_side_holder(ipcheap_heap *heap, const ipcheap_channel *channel, int side,
                                    ipcheap_holder *holder);
/* Gives the side back; from the claiming thread, or from ipcheap_close(). Idempotent. */
IPCHEAP_API int ipcheap_endpoint_close(ipcheap_endpoint *endpoint);
/*
 * For calls during which another thread may close the heap: the endpoint is not closed under
 * them but by _leave(), which then returns HEAP_CLOSED or ENDPOINT_CLOSED, as _enter() does
 * when it is too late. Waiting ends early. The two may be nested.
 */
IPCHEAP_API int ipcheap_endpoint_enter(ipcheap_endpoint *endpoint);
IPCHEAP_API int ipcheap_endpoint_leave(ipcheap_endpoint *endpoint);
/* Drops the handle itself; records received through it may still be freed before this. */
IPCHEAP_API void ipcheap_endpoint_release(ipcheap_endpoint *endpoint);

IPCHEAP_API int ipcheap_try_send(ipcheap_endpoint *producer, ipcheap_record *record);
IPCHEAP_API int ipcheap_send(ipcheap_endpoint *producer, ipcheap_record *record,
                             int64_t timeout_ns);
/* As many as there is room for, in order, with one wake: returns how many, 0 if none fit. */
IPCHEAP_API int64_t ipcheap_try_send_many(ipcheap_endpoint *producer, ipcheap_record *records,
                                          size_t count);

/*
 * Copies what another process is to read, as memcpy() does, in the faster of two ways: through the
 * caches or past them. That depends on the length, on how many such copies are under way and on
 * whether the two cores share a cache. Each participant of the heap tries it now and then; a thread
 * that is none, and a closed heap, just copy. A send after it publishes the copy.
 */
IPCHEAP_API void ipcheap_copy(ipcheap_heap *heap, void *to, const void *from, size_t nbytes);

/* Bytes to be copied from. */
typedef struct ipcheap_bytes {
    const void *data;
    uint64_t nbytes;
} ipcheap_bytes;

/*
 * Sends records that are copies of bytes, in order, as many as there is room for, with one
 * wake: returns how many, 0 if none fit, or an error if none went. The quickest way for what
 * is there already: a copy goes, as a rule, into the block that came back in its slot.
 */
IPCHEAP_API int64_t ipcheap_try_send_copies(ipcheap_endpoint *producer,
                                            const ipcheap_bytes *copied, size_t count);
/*
 * Takes the bytes of some records, all of them: 0; or a negative number of its own or the
 * library's. The endpoint is not to be used meanwhile.
 */
typedef int ipcheap_taker(void *context, const ipcheap_bytes *records, size_t count);
/*
 * Receives up to `limit` records, in order, shows their bytes and frees them: returns how many,
 * 0 if there are none, or an error if not one came. They are shown in groups of at most 64. A
 * group that is not taken ends the call, and its first is the next one again; if there was none
 * before it, what the taker said is returned.
 */
IPCHEAP_API int64_t ipcheap_try_receive_copies(ipcheap_endpoint *consumer, ipcheap_taker *take,
                                               void *context, size_t limit);
IPCHEAP_API int ipcheap_try_receive(ipcheap_endpoint *consumer, ipcheap_record *record);
IPCHEAP_API int ipcheap_receive(ipcheap_endpoint *consumer, ipcheap_record *record,
                                int64_t timeout_ns);
/* What the next record will be, without receiving it. Fails as try_receive does. */
IPCHEAP_API int ipcheap_peek(ipcheap_endpoint *consumer, uint64_t *nbytes, uint32_t *form);
IPCHEAP_API int64_t ipcheap_try_receive_many(ipcheap_endpoint *consumer, ipcheap_record *records,
                                             size_t limit);

/* Sleeps until the endpoint can go on: a record or room, an end, a death. */
IPCHEAP_API int ipcheap_wait(ipcheap_endpoint *endpoint, int64_t timeout_ns);
/*
 * Looks for a microsecond or two whether a call need not wait, an error of its own included: 0, or
 * TIMED_OUT; only once where waits have lately been longer than that. Before one gives up
 * something in order to sleep.
 */
IPCHEAP_API int ipcheap_spin(ipcheap_endpoint *endpoint);
/* Sleeps until a living participant holds the other side. */
IPCHEAP_API int ipcheap_wait_peer(ipcheap_endpoint *endpoint, int64_t timeout_ns);

/* What one can wait for along with others. */
typedef struct ipcheap_waitable {
    ipcheap_endpoint *endpoint; /* of the calling thread; or NULL, and then */
    void *word;                 /* a cell that is ready when it is not `expected` any more, */
    uint64_t expected;
    uint32_t width;             /* 4 or 8 bytes; 0 for an event, which is ready when set */
    uint32_t ready;             /* out: 1 when it is */
} ipcheap_waitable;

/*
 * Sleeps until one or more of any number are ready, of any heaps: marks all that are and
 * returns how many; 0 when none was in time.
 */
IPCHEAP_API int64_t ipcheap_wait_any(ipcheap_waitable *items, size_t count, int64_t timeout_ns);

/*
 * A descriptor for select, poll and epoll: readable while ipcheap_wait() would return at
 * once. The endpoint's own: do not read or close it. Made when it is first asked for.
 */
IPCHEAP_API int ipcheap_endpoint_descriptor(ipcheap_endpoint *endpoint);

typedef struct ipcheap_endpoint_statistics {
    uint64_t capacity;
    uint64_t sent;     /* records ever sent on the channel */
    uint64_t received; /* and received */
    uint64_t parks;    /* times this side went to sleep */
    uint64_t wakes;    /* times this side woke the other */
    uint64_t held;     /* slots that the consumer has received and not given back */
    uint64_t detached; /* records taken out of the channel so that held ones did not stop it */
} ipcheap_endpoint_statistics;

IPCHEAP_API int ipcheap_endpoint_describe(ipcheap_endpoint *endpoint,
                                          ipcheap_endpoint_statistics *statistics);
IPCHEAP_API int64_t ipcheap_pending(ipcheap_endpoint *endpoint);

/* Static segments ------------------------------------------------------------------ */

/*
 * Adds a segment of zero bytes, or finds it. Returns 1 when the caller is to initialise it
 * and then to call ipcheap_static_ready(); 0 when it is complete; WOULD_BLOCK while
 * another participant initialises it. nbytes 0 takes any size.
 */
IPCHEAP_API int ipcheap_add_static_segment(ipcheap_heap *heap, const ipcheap_key *key,
                                           uint64_t nbytes, ipcheap_channel *channel);
IPCHEAP_API int ipcheap_static_ready(ipcheap_heap *heap, const ipcheap_channel *channel,
                                     int succeeded);
/* NULL until it is complete, and when the channel is gone. */
IPCHEAP_API void *ipcheap_static_data(ipcheap_heap *heap, const ipcheap_channel *channel);

/* Sleeps while *word is `expected`; any change of it should be followed by a wake. */
IPCHEAP_API int ipcheap_word_wait(ipcheap_heap *heap, const void *word, uint64_t expected,
                                  uint32_t width, int64_t timeout_ns);
IPCHEAP_API int ipcheap_word_wake(const void *word, int count);

/* 64 bytes, 64-aligned, zero to begin with, each. */
enum { IPCHEAP_SYNC_BYTES = 64 };
IPCHEAP_API int ipcheap_event_set(void *event);
IPCHEAP_API int ipcheap_event_clear(void *event);
IPCHEAP_API int ipcheap_event_is_set(const void *event);
IPCHEAP_API int ipcheap_event_wait(ipcheap_heap *heap, void *event, int64_t timeout_ns);

/* Returns the order of arrival, from 0, or BROKEN. The last of `parties` releases all. */
IPCHEAP_API int ipcheap_barrier_arrive(void *barrier, uint32_t parties, uint32_t *generation);
/* Sleeps until that generation is released: 0, or TIMED_OUT, INTERRUPTED, BROKEN. */
IPCHEAP_API int ipcheap_barrier_wait(ipcheap_heap *heap, void *barrier, uint32_t generation,
                                     int64_t timeout_ns);
IPCHEAP_API int ipcheap_barrier_reset(void *barrier);
IPCHEAP_API int ipcheap_barrier_abort(void *barrier);
IPCHEAP_API int ipcheap_barrier_waiting(const void *barrier);
IPCHEAP_API int ipcheap_barrier_broken(const void *barrier);

/* 0, or OWNER_DIED: acquired as well, but what it guards may be half-made. */
IPCHEAP_API int ipcheap_lock_acquire(ipcheap_heap *heap, void *lock, int64_t timeout_ns);
IPCHEAP_API int ipcheap_lock_release(ipcheap_heap *heap, void *lock);
IPCHEAP_API int ipcheap_lock_owner(ipcheap_heap *heap, const void *lock, ipcheap_holder *holder);

#ifdef __cplusplus
}
#endif

#endif
