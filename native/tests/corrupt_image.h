/*
 * corrupt_image.h - a heap to corrupt, and the edits that corrupt it.
 *
 * It is built once by four attachments of this process, each a participant, and copied while all
 * of them are attached. In a copy their bytes are not locked, so all are dead except those whose
 * bytes the copy locks.
 *
 * With IPCHEAP_CORRUPT_FOLDER, a directory on a small tmpfs, copies lie there and the rest
 * of it is filled: then touching a page without memory raises SIGBUS.
 */
#ifndef IPCHEAP_TESTS_CORRUPT_IMAGE_H
#define IPCHEAP_TESTS_CORRUPT_IMAGE_H

#include "base/descriptor.h"
#include "segment/layout.h"

enum { IMAGES = 2, RECORD_CHANNELS = 8, STORES = 3, FIRST_STORE = 610, RUNS = 64 };
enum { BUSES = 3, FIRST_BUS = 620, MESSAGES = 16 };

struct image {
    uint64_t bytes;
    uint64_t count;
    struct {
        uint64_t offset;
        unsigned char *data;
    } pages[4096];
    struct geometry geometry;
    uint64_t chunk, table, table_cells; /* offsets */
    uint64_t rings[RECORD_CHANNELS], slots[RECORD_CHANNELS];
    struct {
        uint64_t root, slots, cells, log, readers, holds;
    } stores[STORES];
    struct {
        uint32_t index;
        uint64_t root, slots, log, listeners, more, last;
        uint64_t envelopes[MESSAGES], tags[MESSAGES]; /* of the messages before `last` */
    } buses[BUSES];
    uint64_t runs[RUNS], run_count;   /* pages of heads */
    uint64_t slabs[RUNS], slab_count; /* granules */
    uint32_t slots_used;
    uint32_t generation[64];
};

struct copy {
    const struct image *image;
    int fd;
    unsigned char *base;
    struct descriptor life; /* locks the bytes of the living */
    int ballast;            /* takes the room that the folder had left */
};

/* One store of a peer that runs wild. */
struct edit {
    enum { AT_HEAP, AT_STORE, AT_BUS } at; /* what the region is one of */
    uint8_t region, how;
    uint16_t where;
    uint64_t value;
};

void images_prepare(void);
/* `living` has a bit for each participant of the image. */
struct copy copy_open(unsigned kind, uint8_t living);
void copy_close(struct copy *copy);
void spoil(const struct copy *copy, const struct edit *edit);
/* False if touching that page would raise SIGBUS. */
bool has_memory(int fd, uint64_t at);
/* Is the file system full, so that touching a page without memory raises a signal? */
bool memory_is_short(void);

#endif
