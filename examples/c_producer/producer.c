/*
 * producer.c - simulates a sensor: sends one struct for each reading.
 *
 *   producer HEAP COUNT
 *
 * The consumer creates the heap. The program that starts first waits for the other. Both must
 * agree on the contents of a record: struct reading here, and `reading` in consumer.py.
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

enum { SAMPLES = 1000, SLOTS = 16 };

struct reading {
    uint64_t number;
    double seconds;
    float samples[SAMPLES];
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void check(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "producer: %s: %s%s%s\n", what, ipcheap_error_text(result),
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

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: producer HEAP COUNT\n");
        return 2;
    }
    const uint64_t count = strtoull(argv[2], NULL, 10);
    ipcheap_heap *heap = attach(argv[1]);

    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *producer;
    check(ipcheap_key_text(&key, "readings", strlen("readings")), "key");
    check(ipcheap_add_record_channel(heap, &key, SLOTS, &channel), "channel");
    check(ipcheap_claim(heap, &channel, IPCHEAP_PRODUCER, &producer), "producer");

    const int64_t start = now_ns();
    for (uint64_t number = 0; number < count; number++) {
        ipcheap_record record;
        check(ipcheap_allocate(heap, sizeof(struct reading), &record), "allocate");

        struct reading *reading = record.data; /* written in place */
        reading->number = number;
        reading->seconds = (double)(now_ns() - start) / 1e9;
        for (int i = 0; i < SAMPLES; i++)
            reading->samples[i] = sinf((float)i * 0.01f) + (float)number;

        check(ipcheap_send(producer, &record, -1), "send");
    }

    check(ipcheap_endpoint_close(producer), "close"); /* the consumer sees the end */
    ipcheap_endpoint_release(producer);
    ipcheap_release(heap);
    printf("producer: sent %" PRIu64 " readings\n", count);
    return 0;
}
