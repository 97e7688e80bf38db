/*
 * cache_line - prints the round trip of a cache line between two cores, in nanoseconds.
 *
 *   cache_line FIRST SECOND
 *
 * There is one thread on each core. The result is the minimum of a few rounds, because it should
 * show the distance of the cores and no other load. It is 0 if a core is not available.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 10, TRIPS = 400 };

static _Alignas(128) atomic_int ping;
static _Alignas(128) atomic_int pong;
static int second;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

static void *answer(void *unused) {
    (void)unused;
    if (pin(second) != 0) exit(1);
    for (int i = 1; i <= ROUNDS * TRIPS; i++) {
        while (atomic_load_explicit(&ping, memory_order_acquire) != i) {}
        atomic_store_explicit(&pong, i, memory_order_release);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    second = atoi(arguments[2]);
    if (pin(atoi(arguments[1])) != 0) return 1;
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer, NULL) != 0) return 1;
    double least = 1e18;
    for (int round = 0, i = 0; round < ROUNDS; round++) {
        double begin = now();
        for (int trip = 0; trip < TRIPS; trip++) {
            i++;
            atomic_store_explicit(&ping, i, memory_order_release);
            while (atomic_load_explicit(&pong, memory_order_acquire) != i) {}
        }
        double each = (now() - begin) / TRIPS;
        if (each < least) least = each;
    }
    pthread_join(thread, NULL);
    printf("%.1f\n", least);
    return 0;
}
