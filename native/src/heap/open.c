/* open.c - opening and closing a heap: all layers put together. */

#include "channel/directory.h"
#include "channel/hold.h"
#include "endpoint/bell.h"
#include "endpoint/patience.h"
#include "heap/kinds.h"
#include "heap/reclaim.h"
#include "heap/recover.h"
#include "memory/block.h"
#include "memory/extent.h"
#include "memory/participant_memory.h"
#include "memory/trim.h"
#include "segment/file.h"

/*
 * Rebuilds all indices after the owner of the heap lock died: it may have left them half changed.
 * If the heads do not add up, the indices cover what precedes the break: docs/design/corruption.md.
 */
static void rebuild(struct participant *me) {
    extents_rebuild(me->heap);
    slabs_rebuild(me->heap);
    directory_rebuild(me);
}

static int recover(struct participant *me, uint32_t slot, uint32_t generation) {
    ipcheap_recovery report = {0};
    return recover_participant(me, slot, generation, &report);
}

static void reclaim(struct participant *me) {
    ipcheap_recovery report = {0};
    recover_all(me, &report);
    channels_reclaim(me);
}

static void leave(struct participant *me) {
    endpoints_close(me, me);
    memory_leave(me);
}

static const struct hooks hooks = {
    .rebuild = rebuild,
    .recover = recover,
    .leave = leave,
    .forget = memory_forget,
    .close_endpoints = endpoints_close,
    .abandon = bells_abandon,
    .share = holds_share,
    .reclaim = reclaim,
    .kinds = kinds,
};

int ipcheap_format(int fd, int shmid, const ipcheap_options *options) {
    return segment_format(fd, shmid, options, extents_rebuild);
}

const char *ipcheap_bad_variable(const char **words) {
    static struct choice *const choices[] = {&copy_choice, &extent_choice, &spin_choice,
                                             &doze_choice, &coredump_choice};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        if (os_choice(choices[i]) >= 0) continue;
        *words = choices[i]->words;
        return choices[i]->name;
    }
    return NULL;
}

int ipcheap_attach(int fd, int shmid, ipcheap_heap **result) {
    ipcheap_heap *heap;
    const char *words;
    if (ipcheap_bad_variable(&words)) return IPCHEAP_BAD_VALUE;
    int error = segment_open(fd, shmid, &heap);
    if (error) return error;
    heap->hooks = &hooks;
    error = process_list_add(heap);
    if (error) {
        segment_free(heap);
        return error;
    }
    /* From now on others see this process. */
    struct participant *me;
    error = participant_current(heap, &me);
    if (error) {
        ipcheap_release(heap);
        return error;
    }
    *result = heap;
    return 0;
}

int ipcheap_heap_file(ipcheap_heap *heap) { return file_descriptor(heap); }

int ipcheap_close(ipcheap_heap *heap) {
    if (!atomic_exchange(&heap->closed, true)) participants_close(heap);
    return 0;
}

void ipcheap_retain(ipcheap_heap *heap) { atomic_fetch_add(&heap->retained, 1); }

void ipcheap_release(ipcheap_heap *heap) {
    if (atomic_fetch_sub(&heap->retained, 1) > 0) return;
    ipcheap_close(heap);
    holds_end(heap);
    participants_forget(heap);
    process_list_remove(heap);
    segment_free(heap);
}

int64_t ipcheap_trim(ipcheap_heap *heap, uint64_t keep) {
    struct participant *me;
    if (heap->closed) return IPCHEAP_HEAP_CLOSED;
    int error = participant_current(heap, &me);
    if (!error) error = heap_reclaim(me, false);
    return error ? error : extents_trim(me, keep);
}
