/*
 * maandree_bus.c - loops of rounds over maandree/bus, so that it is measured as the C library it is.
 *
 * It is compiled together with the library's own sources, which are no part of this project. Every
 * process has one bus open. A round is one bus_write, which returns when all listeners have
 * acknowledged.
 */

#include <stdint.h>
#include <string.h>
#include <time.h>

#include "bus.h"

static bus_t bus;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

int bench_open(const char *path) { return bus_open(&bus, path, BUS_RDWR); }

int bench_create(const char *path) { return bus_create(path, BUS_EXCL, NULL); }

int bench_close(void) { return bus_close(&bus); }

/* Registers the listener. Between two phases no writer waits, which is when it may come and go. */
int bench_enter(void) { return bus_poll_start(&bus); }

int bench_rounds(const char *message, long count, long pause_ns, int64_t *samples) {
    struct timespec pause = {.tv_sec = 0, .tv_nsec = pause_ns};
    for (long i = 0; i < count; i++) {
        if (pause_ns) nanosleep(&pause, NULL);
        int64_t begin = now();
        if (bus_write(&bus, message, 0) < 0) return -1;
        samples[i] = now() - begin;
    }
    return 0;
}

/* Copies each message, and acknowledges the last one by its end. */
int bench_answers(long count, char *copied) {
    for (long i = 0; i < count; i++) {
        const char *message = bus_poll(&bus, 0);
        if (!message) return -1;
        memcpy(copied, message, strlen(message) + 1);
    }
    return bus_poll_stop(&bus);
}
