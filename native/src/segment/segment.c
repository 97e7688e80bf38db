#include "segment/handle.h"

#include <stdlib.h>
#include <string.h>

#include "base/pipe.h"
#include "base/timing.h"
#include "segment/clock.h"
#include "segment/file.h"

/* Looking at a segment ------------------------------------------------------------------- */
/*
 * It may be anything until one of these has said that it is a heap.
 *
 *   header_map()             makes the header readable, if there may be one
 *   header_check()           says whether it is the header of a heap of this library's format
 *   header_read()            does both on a copy of the header of a file, which it does not map
 *   length_check()           says whether a file is as long as its header wants it
 *   ipcheap_found_format()   reads the format's number, whichever it is
 *   ipcheap_read_header()    reads what never changes in a heap; also of a longer file
 *   ipcheap_formatted()      is the answer of that one, for a process that may format it
 *   ipcheap_inspect()        reads header and participants without attaching; also of a longer file
 *   segment_open()           attaches, after all three
 *   ipcheap_has_users()      looks at the locks of the file only, whatever is in it
 *   ipcheap_heap_describe()  reads the header of an attached heap, and checks nothing
 */

static_assert(FORMAT == IPCHEAP_FORMAT, "the public header names it");
static_assert(PARTICIPANTS == IPCHEAP_PARTICIPANTS, "and this one");

/*
 * Returns 0 and the geometry for a heap of this format, NOT_FORMATTED, or FORMAT_MISMATCH. An
 * attached process goes by the geometry in its private memory from then on.
 */
static int header_check(const struct header *header, uint64_t bytes, struct geometry *geometry) {
    uint64_t magic = get_acquire(&header->magic); /* pairs with segment_format() */
    if (magic == 0) return IPCHEAP_NOT_FORMATTED;
    if (magic != MAGIC || get(&header->format) != FORMAT || get(&header->layout) != layout_hash())
        return IPCHEAP_FORMAT_MISMATCH;
    if (!geometry_of(get(&header->capacity), geometry) || geometry->bytes > bytes)
        return IPCHEAP_FORMAT_MISMATCH;
    return 0;
}

/* Returns how long a heap's file is: the end of its geometry, in whole units of the file system. */
static uint64_t file_bytes(const struct geometry *geometry, const struct backing *backing) {
    return round_up(geometry->bytes, backing->unit);
}

/* Returns FORMAT_MISMATCH for a file that is not as long as the capacity in its header says. */
static int length_check(uint64_t bytes, const ipcheap_heap *heap) {
    bool right = heap->sysv || bytes == file_bytes(&heap->geometry, &heap->backing);
    return right ? 0 : IPCHEAP_FORMAT_MISMATCH;
}

uint64_t ipcheap_segment_bytes(uint64_t capacity) {
    struct geometry geometry;
    return geometry_of(capacity, &geometry) ? geometry.bytes : 0;
}

static int creation_lock(int fd, int64_t timeout_ns, int (*lock)(int fd, uint64_t byte)) {
    int64_t deadline = os_deadline(timeout_ns);
    for (;;) {
        int error = lock(fd, CREATION_BYTE);
        if (error != IPCHEAP_WOULD_BLOCK) return error;
        if (os_remaining(deadline) == 0) return IPCHEAP_TIMED_OUT;
        os_nap(MILLISECOND);
    }
}

int ipcheap_lock_creation(int fd, int64_t timeout_ns) {
    return creation_lock(fd, timeout_ns, os_byte_lock);
}

int ipcheap_share_creation(int fd, int64_t timeout_ns) {
    return creation_lock(fd, timeout_ns, os_byte_share);
}

int ipcheap_unlock_creation(int fd) { return os_byte_unlock(fd, CREATION_BYTE); }

int ipcheap_find_sysv(int semaphore, int by_key, int number, ipcheap_sysv *found) {
    struct os_sysv seen;
    int error = os_sysv_find(semaphore != 0, by_key != 0, number, &seen);
    if (error) return error;
    *found = (ipcheap_sysv){
        .id = seen.id,
        .key = seen.key,
        .uid = seen.uid,
        .gid = seen.gid,
        .creator = seen.creator,
        .mode = seen.mode,
        .bytes = seen.bytes,
    };
    return 0;
}

int ipcheap_permit_sysv(int semaphore, const ipcheap_sysv *wanted) {
    return os_sysv_permit(semaphore != 0, wanted->id, wanted->uid, wanted->gid, wanted->mode);
}

int ipcheap_permit_pipe(int pipe, int file, uint32_t from) {
    return os_pipe_permit(pipe, file, from);
}

int ipcheap_semaphore_bytes(void *bytes, size_t room) {
    if (room < os_semaphore_bytes()) return IPCHEAP_BAD_VALUE;
    memset(bytes, 0, os_semaphore_bytes());
    int error = os_semaphore_init(bytes);
    return error ? error : (int)os_semaphore_bytes();
}

/* Returns 0 and the length of what may be a heap. NOT_FORMATTED or FORMAT_MISMATCH if it is none. */
static int header_expect(int fd, int shmid, uint64_t *bytes) {
    int64_t have = shmid >= 0 ? os_sysv_bytes(shmid) : os_file_bytes(fd);
    if (have < 0) return (int)have;
    if (have == 0) return IPCHEAP_NOT_FORMATTED;
    if ((uint64_t)have < PAGE) return IPCHEAP_FORMAT_MISMATCH;
    *bytes = (uint64_t)have;
    if (shmid >= 0) return 0;
    uint64_t magic = 0;
    os_read_nothing_ahead(fd);
    int got = os_file_read(fd, 0, &magic, sizeof magic); /* touching a hole might raise SIGBUS */
    if (got < 0) return got;
    if (magic == 0) return IPCHEAP_NOT_FORMATTED;
    return magic == MAGIC ? 0 : IPCHEAP_FORMAT_MISMATCH;
}

/* Maps the header, in System V all of the segment. NOT_FORMATTED or FORMAT_MISMATCH without one. */
static int header_map(int fd, int shmid, unsigned char **base, uint64_t *bytes) {
    int error = header_expect(fd, shmid, bytes);
    if (error) return error;
    int locks = shmid >= 0 ? os_map_sysv(shmid, false, base)
                           : os_map(fd, os_backing(fd).unit, base);
    return locks < 0 ? locks : 0;
}

static void header_unmap(int fd, int shmid, unsigned char *base) {
    if (shmid >= 0)
        os_unmap_sysv(base);
    else
        os_unmap(base, os_backing(fd).unit);
}

/*
 * Copies the header of a file and checks it; does not map the file. What its maker has written is
 * complete in the copy, because the second read begins when the first has returned the magic. A word
 * that changes later may be torn: only what never changes is to be taken from the copy.
 */
static int header_read(int fd, struct header *copy, uint64_t *bytes, struct geometry *geometry) {
    int error = header_expect(fd, -1, bytes);
    if (error) return error;
    int got = os_file_read(fd, 0, copy, sizeof *copy);
    if (got < 0) return got;
    if (got < (int)sizeof *copy) return IPCHEAP_FORMAT_MISMATCH;
    return header_check(copy, *bytes, geometry);
}

int ipcheap_found_format(int fd, int shmid) {
    unsigned char *base;
    uint64_t bytes = 0;
    int error = header_map(fd, shmid, &base, &bytes);
    if (error)
        return error == IPCHEAP_NOT_FORMATTED || error == IPCHEAP_FORMAT_MISMATCH ? 0 : error;
    const struct header *header = (struct header *)base;
    uint64_t magic = get_acquire(&header->magic); /* pairs with segment_format() */
    int format = magic == MAGIC ? (int)(get(&header->format) & INT32_MAX) : 0;
    header_unmap(fd, shmid, base);
    return format;
}

int ipcheap_formatted(int fd, int shmid) {
    ipcheap_heap_info info;
    int error = ipcheap_read_header(fd, shmid, &info);
    return error == 0 ? 1 : error == IPCHEAP_NOT_FORMATTED ? 0 : error;
}

/* Formatting ----------------------------------------------------------------------------- */

static void header_fill(struct header *header, int fd, const ipcheap_options *options) {
    put(&header->format, FORMAT);
    put(&header->layout, layout_hash());
    put(&header->capacity, options->capacity);
    put(&header->identity, os_random());
    put(&header->created, os_wall_clock());
    put(&header->shm_kind, options->shm_kind);
    put(&header->sem_kind, options->sem_kind);
    put(&header->sem_id, (uint32_t)options->sem_id);
    uint64_t name[8];
    memcpy(name, options->sem_name, sizeof name);
    for (int i = 0; i < 8; i++) put(&header->sem_name[i], name[i]);
    put(&header->inode, os_file_inode(fd));
    put(&header->directory_version, 1);
    os_semaphore_init(header->semaphore);
}

/* Makes each zone one free run; before the magic makes the segment visible. */
static int zones_fill(ipcheap_heap *heap) {
    for (int z = 0; z < ZONES; z++) {
        uint64_t length = heap->geometry.zone_pages[z];
        struct page *first = &heap->pages[heap->geometry.zone_first[z]], *last = first + length - 1;
        int error = segment_commit_meta(heap, first, sizeof *first);
        if (!error) error = segment_commit_meta(heap, last, sizeof *last);
        if (error) return error;
        put(&last->word, page_word(PAGE_TAIL, KIND_NONE, length));
        put(&first->word, page_word(PAGE_FREE, KIND_NONE, length));
    }
    return 0;
}

/* Empties a file, makes it so long and maps it, with memory for header and bits. */
static int file_map_new(int fd, uint64_t bytes, const struct geometry *g,
                        const struct backing *backing, unsigned char **base) {
    /* To zero first, so that nothing is left of what a creator that died had written. */
    int error = os_file_resize(fd, 0);
    if (error) return error;
    os_overwrite_in_place(fd);
    error = os_file_resize(fd, bytes);
    if (!error) error = os_commit(fd, 0, g->always);
    /* A disk that cannot do this either has no holes: the capacity would not be virtual. */
    if (!error && backing->touch) error = os_punch(fd, g->data_at, PAGE);
    int locks = error ? error : os_map(fd, bytes, base);
    if (locks < 0) return locks;
    if (!backing->touch) return 0;
    error = os_touch(*base, g->always);
    if (error) os_unmap(*base, bytes);
    return error;
}

int segment_format(int fd, int shmid, const ipcheap_options *options,
                   int (*fill)(ipcheap_heap *heap)) {
    struct geometry g;
    if (!geometry_of(options->capacity, &g)) return IPCHEAP_BAD_VALUE;
    unsigned char *base;
    bool sysv = shmid >= 0;
    struct backing backing = {.unit = PAGE};
    uint64_t bytes = g.bytes;
    int error;
    if (sysv) {
        int64_t have = os_sysv_bytes(shmid);
        if (have < 0) return (int)have;
        if ((uint64_t)have < g.bytes) return IPCHEAP_BAD_VALUE;
        error = os_map_sysv(shmid, false, &base);
    } else {
        backing = os_backing(fd);
        bytes = file_bytes(&g, &backing);
        error = file_map_new(fd, bytes, &g, &backing, &base);
        if (error) os_file_resize(fd, 0);
    }
    if (error) return error;
    struct header *header = (struct header *)base;
    header_fill(header, fd, options);
    ipcheap_heap half = {
        .base = base, .header = header, .geometry = g, .backing = backing, .sysv = sysv};
    half.pages = at_offset(&half, g.pages_at);
    pthread_mutex_init(&half.opening, NULL);
    error = sysv ? 0 : descriptor_note(fd, &half.file);
    if (!error) error = zones_fill(&half);
    if (!error) error = fill(&half);
    if (!error) put_release(&header->magic, MAGIC); /* pairs with header_check() */
    if (sysv)
        os_unmap_sysv(base);
    else
        os_unmap(base, bytes);
    if (error && !sysv) os_file_resize(fd, 0);
    return error;
}

/* Attaching ------------------------------------------------------------------------------ */

static int semaphore_open(ipcheap_heap *heap) {
    heap->sem_kind = get(&heap->header->sem_kind);
    heap->sem_id = (int)get(&heap->header->sem_id);
    if (heap->sem_kind != IPCHEAP_SEM_POSIX) return 0;
    uint64_t words[8];
    char name[sizeof words + 1] = {0};
    for (int i = 0; i < 8; i++) words[i] = get(&heap->header->sem_name[i]);
    memcpy(name, words, sizeof words);
    if (name[0]) return os_semaphore_open(name, &heap->semaphore);
    heap->semaphore = heap->header->semaphore;
    return 0;
}

/* Maps a System V segment if it is a heap, and opens the file beside it. */
static int open_sysv(ipcheap_heap *heap, int fd, int shmid, bool *locks) {
    uint64_t bytes = 0;
    int error = header_map(fd, shmid, &heap->base, &bytes);
    if (error) return error;
    error = header_check((struct header *)heap->base, bytes, &heap->geometry);
    *locks = os_mappings_are_locked();
    return error ? error : file_open(heap, fd);
}

/* Opens and maps a file if it is a heap. */
static int open_file(ipcheap_heap *heap, int fd, bool *locks) {
    struct header header;
    uint64_t bytes = 0;
    int error = header_read(fd, &header, &bytes, &heap->geometry);
    if (!error) error = length_check(bytes, heap);
    if (!error) error = file_open(heap, fd);
    if (error) return error;
    int mapped = os_map(fd, bytes, &heap->base);
    *locks = mapped == 1;
    return mapped < 0 ? mapped : 0;
}

int segment_open(int fd, int shmid, ipcheap_heap **result) {
    ipcheap_heap *heap = os_allocate_zeroed(1, sizeof *heap);
    if (!heap) return IPCHEAP_NO_MEMORY;
    heap->file = heap->live.lock = NO_DESCRIPTOR;
    heap->sysv = shmid >= 0;
    heap->backing = heap->sysv ? (struct backing){.unit = PAGE} : os_backing(fd);
    heap->lock_timeout = LOCK_TIMEOUT;
    heap->process = os_random();
    heap->child_presence = NO_DESCRIPTOR;
    pthread_mutex_init(&heap->mutex, NULL);
    pthread_mutex_init(&heap->opening, NULL);
    bool locks = false;
    int error = heap->sysv ? open_sysv(heap, fd, shmid, &locks) : open_file(heap, fd, &locks);
    if (error) goto fail;
    uint64_t mapped = file_bytes(&heap->geometry, &heap->backing);
    os_lock_lazily(heap->base, mapped, heap->geometry.gap_at, locks);
    heap->header = (struct header *)heap->base;
    heap->pages = at_offset(heap, heap->geometry.pages_at);
    clock_set(heap);
    error = semaphore_open(heap);
    if (error) goto fail;
    if (!os_membarrier_register()) put(&heap->header->fences, 1);
    *result = heap;
    return 0;
fail:
    segment_free(heap);
    return error;
}

int ipcheap_pause_populating(void) { return os_pause_populating(); }

void ipcheap_resume_populating(void) { os_resume_populating(); }

void segment_forked(ipcheap_heap *heap) {
    os_stop_populating(at_offset(heap, heap->geometry.gap_at));
}

void segment_free(ipcheap_heap *heap) {
    if (heap->semaphore && heap->semaphore != heap->header->semaphore)
        os_semaphore_close(heap->semaphore);
    if (heap->base && heap->sysv)
        os_unmap_sysv(heap->base);
    else if (heap->base)
        os_unmap(heap->base, file_bytes(&heap->geometry, &heap->backing));
    file_close(heap);
    pthread_mutex_destroy(&heap->opening);
    pthread_mutex_destroy(&heap->mutex);
    free(heap);
}

/* Memory ----------------------------------------------------------------------------------- */

int segment_commit(ipcheap_heap *heap, uint64_t offset, uint64_t bytes) {
    int file = file_descriptor(heap);
    int error = file < 0 ? file : os_commit(file, offset, bytes);
    if (error || !heap->backing.touch) return error;
    return os_touch(at_offset(heap, offset), bytes);
}

int segment_commit_meta(ipcheap_heap *heap, const void *start, uint64_t bytes) {
    if (heap->sysv) return 0;
    const struct geometry *g = &heap->geometry;
    uint64_t first = (offset_of(heap, start) - g->always) >> PAGE_SHIFT;
    uint64_t last = (offset_of(heap, start) + bytes - 1 - g->always) >> PAGE_SHIFT;
    shared64 *bits = at_offset(heap, g->metabits_at);
    for (uint64_t page = first; page <= last; page++) {
        uint64_t bit = UINT64_C(1) << (page & 63);
        if (LIKELY(get(&bits[page / 64]) & bit)) continue;
        int error = segment_commit(heap, g->always + (page << PAGE_SHIFT), PAGE);
        if (error) return error;
        put_or(&bits[page / 64], bit);
    }
    return 0;
}

bool segment_meta_committed(const ipcheap_heap *heap, const void *start, uint64_t bytes) {
    if (heap->sysv) return true;
    const struct geometry *g = &heap->geometry;
    uint64_t first = (offset_of(heap, start) - g->always) >> PAGE_SHIFT;
    uint64_t last = (offset_of(heap, start) + bytes - 1 - g->always) >> PAGE_SHIFT;
    const shared64 *bits = at_offset(heap, g->metabits_at);
    while (first <= last && get(&bits[first / 64]) >> (first & 63) & 1) first++;
    return first > last;
}

void segment_uncommit_meta(ipcheap_heap *heap, const void *start, uint64_t bytes) {
    if (heap->sysv || heap->backing.unit > PAGE) return;
    const struct geometry *g = &heap->geometry;
    uint64_t first = (round_up(offset_of(heap, start), PAGE) - g->always) >> PAGE_SHIFT;
    uint64_t end = (offset_of(heap, start) + bytes - g->always) >> PAGE_SHIFT;
    shared64 *bits = at_offset(heap, g->metabits_at);
    if (first >= end) return;
    for (uint64_t page = first; page < end; page++)
        put_and(&bits[page / 64], ~(UINT64_C(1) << (page & 63)));
    int file = file_descriptor(heap);
    if (file < 0) return; /* it stays as it is, until it is used again */
    os_punch(file, g->always + (first << PAGE_SHIFT), (end - first) << PAGE_SHIFT);
}

/* Describing ----------------------------------------------------------------------------- */

static void info_fill(const struct header *header, ipcheap_heap_info *info) {
    *info = (ipcheap_heap_info){
        .capacity = get(&header->capacity),
        .identity = get(&header->identity),
        .created_ns = get(&header->created),
        .committed = get(&header->committed) << PAGE_SHIFT,
        .shm_kind = get(&header->shm_kind),
        .sem_kind = get(&header->sem_kind),
        .sem_id = (int32_t)get(&header->sem_id),
        .inode = get(&header->inode),
    };
    uint64_t name[8];
    for (int i = 0; i < 8; i++) name[i] = get(&header->sem_name[i]);
    memcpy(info->sem_name, name, sizeof name);
    info->sem_name[sizeof info->sem_name - 1] = 0;
}

static bool participant_bytes_locked(int fd, uint64_t slot) {
    return os_byte_locked(fd, slot) != 0; /* also if the kernel cannot tell */
}

int ipcheap_read_header(int fd, int shmid, ipcheap_heap_info *info) {
    struct header copy;
    const struct header *header = &copy;
    unsigned char *base = NULL;
    uint64_t bytes = 0;
    struct geometry g;
    int error;
    if (shmid < 0) {
        error = header_read(fd, &copy, &bytes, &g);
    } else {
        error = header_map(fd, shmid, &base, &bytes);
        if (error) return error;
        header = (struct header *)base;
        error = header_check(header, bytes, &g);
    }
    if (!error) info_fill(header, info);
    if (base) header_unmap(fd, shmid, base);
    return error;
}

int ipcheap_inspect(int fd, int shmid, ipcheap_heap_info *info) {
    unsigned char *base;
    uint64_t bytes = 0;
    struct geometry g;
    int error = header_map(fd, shmid, &base, &bytes);
    if (error) return error;
    const struct header *header = (struct header *)base;
    error = header_check(header, bytes, &g);
    if (!error) {
        info_fill(header, info);
        uint32_t used = (uint32_t)least(get(&header->slots_used), PARTICIPANTS);
        for (uint32_t slot = 0; slot < used; slot++) {
            struct participant_slot record;
            uint64_t at = g.participants_at + slot * sizeof record;
            if (shmid >= 0)
                memcpy(&record, base + at, sizeof record);
            else if (os_file_read(fd, at, &record, sizeof record) < (int)sizeof record)
                break;
            if ((get(&record.word) & 0xFF) != SLOT_LIVE) continue;
            if (participant_bytes_locked(fd, slot))
                info->participants++;
            else
                info->dead++;
        }
        info->open = participant_bytes_locked(fd, USERS_BYTE);
    }
    header_unmap(fd, shmid, base);
    return error;
}

int ipcheap_has_users(int fd) {
    int used = os_bytes_locked(fd, 0, PARTICIPANTS);
    return used ? used : os_byte_locked(fd, USERS_BYTE);
}

int ipcheap_heap_describe(ipcheap_heap *heap, ipcheap_heap_info *info) {
    info_fill(heap->header, info);
    return 0;
}

void ipcheap_set_lock_timeout(ipcheap_heap *heap, int64_t timeout_ns) {
    heap->lock_timeout = timeout_ns;
}
