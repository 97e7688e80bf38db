/*
 * reader.c - looks at the newest frame of a Python program, in place and at its own speed.
 *
 *   reader HEAP
 *
 * The writer creates the heap. The program that starts first waits for the other. What the frames
 * are, their shape and type, is in the chunks: the reader checks that it can add them up.
 */
#define _GNU_SOURCE
#include <ipcheap/ipcheap.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void check(int64_t result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "reader: %s: %s%s%s\n", what, ipcheap_error_text((int)result),
            result == IPCHEAP_SYSTEM ? ": " : "", result == IPCHEAP_SYSTEM ? strerror(errno) : "");
    exit(1);
}

/* Waits for the heap to appear, for at most ten seconds. */
static ipcheap_heap *attach(const char *name)
{
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    const int64_t deadline = now_ns() + INT64_C(10000000000);
    char path[256];
    snprintf(path, sizeof path, "/ipcheap.%s", name);
    for (;;) {
        ipcheap_heap *heap;
        int result = IPCHEAP_NOT_FORMATTED; /* it does not exist, or is not ready */
        int fd = shm_open(path, O_RDWR | O_CLOEXEC, 0);
        if (fd < 0 && errno != ENOENT)
            check(IPCHEAP_SYSTEM, path);
        if (fd >= 0) {
            result = ipcheap_attach(fd, -1, &heap);
            close(fd); /* the heap keeps a duplicate */
        }
        if (result == 0)
            return heap;
        if (result != IPCHEAP_NOT_FORMATTED || now_ns() > deadline)
            check(result, path);
        nanosleep(&pause, NULL);
    }
}

static ipcheap_endpoint *claim_reader(ipcheap_heap *heap)
{
    const ipcheap_store_options as_it_is = {.given = 0}; /* a new store gets the defaults */
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *reader;
    check(ipcheap_key_text(&key, "camera", strlen("camera")), "key");
    check(ipcheap_add_store(heap, &key, &as_it_is, &channel), "store");
    check(ipcheap_claim(heap, &channel, IPCHEAP_READER, &reader), "reader");
    return reader;
}

/* Sleeps until there is a newer frame, and holds it. Returns 0 when the writer has closed. */
static int next_frame(ipcheap_endpoint *reader, uint64_t newer_than, ipcheap_chunk *chunk)
{
    ipcheap_store_key key;
    int result;
    check(ipcheap_store_key_of(&key, IPCHEAP_KEY_TEXT, "frame", strlen("frame")), "key");
    do
        result = ipcheap_store_wait_for(reader, &key, newer_than, -1, chunk);
    while (result == IPCHEAP_INTERRUPTED);
    if (result == IPCHEAP_CHANNEL_CLOSED)
        return 0;
    check(result, "frame"); /* PEER_DIED if the writer was killed */
    return 1;
}

/* Returns the mean of a frame of 16-bit pixels, which is read where it is. */
static double mean_of(ipcheap_heap *heap, const ipcheap_chunk *chunk)
{
    ipcheap_description description;
    ipcheap_array array; /* its shape and type point into the description */
    check(ipcheap_chunk_array(heap, chunk, &description, &array), "array");
    if (array.dimensions != 2 || strcmp(array.type, "<u2") != 0) {
        fprintf(stderr, "reader: a frame of %u dimensions and type %s\n", array.dimensions,
                array.type);
        exit(1);
    }
    const uint16_t *pixels = chunk->data;
    const uint64_t count = array.shape[0] * array.shape[1];
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += pixels[i];
    return sum / (double)count;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: reader HEAP\n");
        return 2;
    }
    ipcheap_heap *heap = attach(argv[1]);
    ipcheap_endpoint *reader = claim_reader(heap);

    ipcheap_chunk first, chunk;
    uint64_t version = 0, seen = 0;
    double mean = 0, first_mean = 0;
    while (next_frame(reader, version, &chunk)) {
        version = chunk.version;
        mean = mean_of(heap, &chunk);
        if (seen++ == 0) {
            first = chunk; /* kept: its bytes stay as they are, however many newer ones there are */
            first_mean = mean;
        } else {
            check(ipcheap_chunk_release(&chunk), "release");
        }
    }
    if (seen > 0) {
        printf("reader: the first frame of version %" PRIu64 " is as it was: %s\n", first.version,
               mean_of(heap, &first) == first_mean ? "yes" : "no");
        check(ipcheap_chunk_release(&first), "release");
    }
    printf("reader: saw %" PRIu64 " frames, the last of version %" PRIu64 " with mean %.1f\n", seen,
           version, mean);

    check(ipcheap_endpoint_close(reader), "close");
    ipcheap_endpoint_release(reader);
    ipcheap_release(heap);
    return 0;
}
