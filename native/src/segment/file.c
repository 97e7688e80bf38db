#include "segment/file.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The file ------------------------------------------------------------------------------- */

/* Opens the file again, whose descriptor is lost. Under the mutex `opening`. */
static int reopen(ipcheap_heap *heap) {
    struct descriptor again = NO_DESCRIPTOR;
    char mapping[64];
    int error = heap->path ? descriptor_open(heap->path, &heap->file, &again)
                           : IPCHEAP_DESCRIPTOR_LOST;
    if (error == IPCHEAP_DESCRIPTOR_LOST && !heap->sysv && os_mapping_path(heap->base, mapping))
        error = descriptor_open(mapping, &heap->file, &again);
    if (error == IPCHEAP_SYSTEM && errno != EMFILE && errno != ENFILE)
        error = IPCHEAP_DESCRIPTOR_LOST; /* it may not be opened by this process */
    if (!error) heap->file = again;
    return error;
}

int file_descriptor(ipcheap_heap *heap) {
    pthread_mutex_lock(&heap->opening);
    int error = descriptor_is_ours(&heap->file) ? 0 : reopen(heap);
    int fd = heap->file.fd;
    pthread_mutex_unlock(&heap->opening);
    return error ? error : fd;
}

/* Opens a presence through a descriptor of the file. */
static int presence_open(ipcheap_heap *heap, int file, struct presence *live) {
    int error = descriptor_reopen(file, &live->lock);
    if (!error && !heap->closed) error = os_byte_share(live->lock.fd, USERS_BYTE);
    if (error) {
        descriptor_close(&live->lock);
        return error;
    }
    live->hold = os_hold(live->lock.fd, heap->backing.unit);
    heap->presences++;
    return 0;
}

int file_open(ipcheap_heap *heap, int fd) {
    char path[PATH_MAX];
    int error = descriptor_reopen(fd, &heap->file);
    if (error) return error;
    if (os_opened_path(fd, path, sizeof path)) {
        size_t bytes = strlen(path) + 1;
        heap->path = os_allocate_zeroed(1, bytes);
        if (!heap->path) return IPCHEAP_NO_MEMORY;
        memcpy(heap->path, path, bytes);
    }
    return presence_open(heap, heap->file.fd, &heap->live);
}

bool file_is_same(const ipcheap_heap *heap, const ipcheap_heap *other) {
    const struct descriptor *a = &heap->file, *b = &other->file;
    return a->device == b->device && a->inode == b->inode &&
           get(&heap->header->identity) == get(&other->header->identity);
}

static void presence_close(struct presence *presence) {
    descriptor_close(&presence->lock);
    os_let_go(&presence->hold);
}

static void presences_close(ipcheap_heap *heap) {
    presence_close(&heap->live);
    while (heap->former) {
        struct presence *former = heap->former;
        heap->former = former->next;
        presence_close(former);
        free(former);
    }
}

void file_close(ipcheap_heap *heap) {
    presences_close(heap);
    descriptor_close(&heap->file);
    free(heap->path);
}

/* The presence --------------------------------------------------------------------------- */

/* Keeps the locks of a presence whose descriptor is lost, if a mapping does. */
static int presence_set_aside(ipcheap_heap *heap) {
    struct presence *live = &heap->live;
    if (live->hold.start) {
        struct presence *former = os_allocate_zeroed(1, sizeof *former);
        if (!former) return IPCHEAP_NO_MEMORY;
        *former = (struct presence){NO_DESCRIPTOR, live->hold, heap->former};
        heap->former = former;
    }
    *live = (struct presence){.lock = NO_DESCRIPTOR};
    return 0;
}

int presence_descriptor(ipcheap_heap *heap) {
    if (descriptor_is_ours(&heap->live.lock)) return heap->live.lock.fd;
    int file = file_descriptor(heap);
    if (file < 0) return file;
    int error = presence_set_aside(heap);
    if (!error) error = presence_open(heap, file, &heap->live);
    return error ? error : heap->live.lock.fd;
}

void presence_unlock(ipcheap_heap *heap, uint32_t presence, uint64_t byte) {
    if (presence != heap->presences || !descriptor_is_ours(&heap->live.lock)) return;
    os_byte_unlock(heap->live.lock.fd, byte);
}

void presence_end(ipcheap_heap *heap, bool keeps_slots) {
    if (keeps_slots)
        presence_unlock(heap, heap->presences, USERS_BYTE);
    else
        presences_close(heap); /* a child that is being forked keeps what it inherits of it */
}

int presence_for_child(ipcheap_heap *heap) {
    int file = file_descriptor(heap);
    if (file < 0) return file;
    int error = descriptor_reopen(file, &heap->child_presence);
    if (!error && !heap->closed) error = os_byte_share(heap->child_presence.fd, USERS_BYTE);
    return error;
}

void presence_after_fork(ipcheap_heap *heap) {
    struct presence mine = {.lock = NO_DESCRIPTOR};
    pthread_mutex_init(&heap->opening, NULL);
    for (struct presence *p = heap->former; p; p = p->next) p->hold = (struct hold){0};
    if (heap->child) { /* its byte is locked already: by the parent, for this child */
        mine.lock = heap->child_presence;
        mine.hold = os_hold(mine.lock.fd, heap->backing.unit);
        heap->presences++;
        heap->child_presence = NO_DESCRIPTOR;
    }
    bool opens = !heap->child && !heap->closed && descriptor_is_ours(&heap->file);
    /* First, so that at no moment the heap seems to have no user. An error is left to the first use. */
    if (opens) presence_open(heap, heap->file.fd, &mine);
    bool short_of = opens && mine.lock.fd < 0;
    descriptor_close(&heap->live.lock); /* otherwise the child would keep its dead parent alive */
    if (short_of) presence_open(heap, heap->file.fd, &mine); /* there is one descriptor more now */
    heap->live = mine;
}
