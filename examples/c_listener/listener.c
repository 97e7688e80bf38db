/*
 * listener.c - adds up every frame that a Python program posts on a bus, in place.
 *
 *   listener HEAP
 *
 * The writer creates the heap. The program that starts first waits for the other. What the frames
 * are, their shape and type, is in the messages: the listener checks that it can add them up. An
 * empty message is the end.
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
    fprintf(stderr, "listener: %s: %s%s%s\n", what, ipcheap_error_text((int)result),
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

static ipcheap_endpoint *listen_to(ipcheap_heap *heap, const char *id)
{
    /* As the writer has it. Whichever comes first adds the bus. */
    const ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 16};
    ipcheap_key key;
    ipcheap_channel bus;
    ipcheap_endpoint *listener;
    check(ipcheap_key_text(&key, id, strlen(id)), "key");
    check(ipcheap_add_bus(heap, &key, &options, &bus), "bus");
    check(ipcheap_listen(heap, &bus, NULL, &listener), "listener");
    return listener;
}

/* Sleeps until there is a message. Returns 0 for the one that is the end. */
static int next_frame(ipcheap_heap *heap, ipcheap_endpoint *listener, ipcheap_record *message)
{
    int result;
    do
        result = ipcheap_receive(listener, message, -1);
    while (result == IPCHEAP_INTERRUPTED);
    check(result, "frame");
    if (message->nbytes > 0)
        return 1;
    check(ipcheap_free(heap, message), "free"); /* the writer's broadcast may return */
    return 0;
}

/* Returns the mean of a frame of 16-bit pixels, which is read where it is. */
static double mean_of(ipcheap_heap *heap, const ipcheap_record *message)
{
    ipcheap_description description;
    ipcheap_array array; /* its shape and type point into the description */
    check(ipcheap_array_of(heap, message, &description, &array), "array");
    if (array.dimensions != 2 || strcmp(array.type, "<u2") != 0) {
        fprintf(stderr, "listener: a frame of %u dimensions and type %s\n", array.dimensions,
                array.type);
        exit(1);
    }
    const uint16_t *pixels = message->data;
    const uint64_t count = array.shape[0] * array.shape[1];
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += pixels[i];
    return sum / (double)count;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: listener HEAP\n");
        return 2;
    }
    ipcheap_heap *heap = attach(argv[1]);
    ipcheap_endpoint *listener = listen_to(heap, "camera");

    ipcheap_record first, message;
    uint64_t heard = 0, in_order = 0;
    double mean = 0, first_mean = 0;
    while (next_frame(heap, listener, &message)) {
        mean = mean_of(heap, &message);
        in_order += message.position == heard;
        if (heard++ == 0) {
            first = message;
            first_mean = mean;
            check(ipcheap_keep(heap, &first), "keep"); /* acknowledged, and its bytes stay */
        } else {
            check(ipcheap_free(heap, &message), "free"); /* the acknowledgement */
        }
    }
    printf("listener: %" PRIu64 " frames, %" PRIu64 " in order, the last with mean %.1f\n", heard,
           in_order, mean);
    if (heard > 0) {
        printf("listener: the first frame is as it was: %s\n",
               mean_of(heap, &first) == first_mean ? "yes" : "no");
        check(ipcheap_free(heap, &first), "free");
    }

    check(ipcheap_endpoint_close(listener), "close");
    ipcheap_endpoint_release(listener);
    ipcheap_release(heap);
    return 0;
}
