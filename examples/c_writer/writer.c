/*
 * writer.c - simulates a converter with two inputs: a flow of samples, in periods of 64.
 *
 *   writer HEAP COUNT
 *
 * The reader creates the heap. The program that starts first waits for the other. Both say what a
 * sample is: struct sample and `sample_type` here, and `sample` in reader.py. The library compares
 * them when the stream is added for the second time.
 */
#define _GNU_SOURCE
#include <ipcheap/ipcheap.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CAPACITY = 4096, PERIOD = 64, RATE = 10000, MAINS = 50 };

struct sample {
    double seconds;
    float volts[2];
};
static const char sample_type[] = "[('seconds', '<f8'), ('volts', '<f4', (2,))]";

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
    fprintf(stderr, "writer: %s: %s%s%s\n", what, ipcheap_error_text((int)result),
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

static ipcheap_endpoint *claim_writer(ipcheap_heap *heap)
{
    const ipcheap_stream_shape shape = {
        .capacity = CAPACITY,
        .item = {.itemsize = sizeof(struct sample), .type = sample_type},
    };
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *writer;
    check(ipcheap_key_text(&key, "samples", strlen("samples")), "key");
    check(ipcheap_add_stream(heap, &key, &shape, &channel), "stream");
    check(ipcheap_claim(heap, &channel, IPCHEAP_WRITER, &writer), "writer");
    return writer;
}

static void measure(struct sample *samples, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        double seconds = (double)(first + i) / RATE;
        double phase = 2 * 3.14159265358979 * MAINS * seconds;
        samples[i] = (struct sample){seconds, {(float)sin(phase), (float)(2 * cos(phase))}};
    }
}

/* Fills a window of the ring in place; sleeps until there is room for all of it. */
static void write_period(ipcheap_endpoint *writer, uint64_t count)
{
    ipcheap_window window;
    int result;
    while ((result = ipcheap_window_open(writer, count, count, 0, &window)) ==
           IPCHEAP_WOULD_BLOCK) {
        result = ipcheap_stream_wait(writer, count, -1);
        if (result != IPCHEAP_INTERRUPTED)
            check(result, "wait");
    }
    check(result, "window"); /* CHANNEL_CLOSED or PEER_DIED if the reader has ended */
    measure(window.data, window.position, window.items);
    check(ipcheap_window_close(writer, window.items), "commit");
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: writer HEAP COUNT\n");
        return 2;
    }
    const uint64_t count = strtoull(argv[2], NULL, 10);
    ipcheap_heap *heap = attach(argv[1]);
    ipcheap_endpoint *writer = claim_writer(heap);

    for (uint64_t done = 0; done < count;) {
        uint64_t period = count - done < PERIOD ? count - done : PERIOD;
        write_period(writer, period);
        done += period;
    }

    check(ipcheap_endpoint_close(writer), "close"); /* the reader sees the end */
    ipcheap_endpoint_release(writer);
    ipcheap_release(heap);
    printf("writer: wrote %" PRIu64 " samples\n", count);
    return 0;
}
