/*
 * threads.h - one heap, and threads of one process that share its mapping, two of them in every
 * kind of operation at a time: tests for ThreadSanitizer, which sees nothing between processes.
 * See docs/design/models.md.
 */
#ifndef IPCHEAP_TESTS_THREADS_H
#define IPCHEAP_TESTS_THREADS_H

#include <pthread.h>
#include <stdatomic.h>

#include "testing.h"

enum { ROUNDS = 3000, FIRST = 1, SECOND_ONE = 2, OTHER = 3 };
static const int64_t long_enough = 60000000000;

/* One heap, and what the threads of a test share. */
struct scene {
    ipcheap_heap *heap;
    ipcheap_channel first, second;
    atomic_int turn, stop;
    _Atomic uint64_t count;
    ipcheap_record handed; /* passed from one thread to the other with the turn */
    void *bytes;           /* a static segment's */
};

static inline struct scene new_scene(uint64_t capacity) {
    int fd = new_segment(capacity);
    struct scene scene = {.heap = attach(fd)};
    close(fd);
    scene.first = record_channel(scene.heap, FIRST, 4);
    scene.second = record_channel(scene.heap, SECOND_ONE, 4);
    return scene;
}

static inline pthread_t start(void *(*body)(void *), struct scene *scene) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, body, scene), 0);
    return thread;
}

static inline void expect_empty(struct scene *scene) {
    EXPECT_EQ(statistics(scene->heap).in_use, 0);
    expect_sound(scene->heap);
    ipcheap_release(scene->heap);
}

static inline void await(atomic_int *word, int value) {
    while (atomic_load(word) != value) usleep(100);
}

static inline uint64_t size_of(uint64_t number) {
    return number % 7 == 3 ? 40000 : 8 + number % 300;
}

static inline ipcheap_record numbered(ipcheap_heap *heap, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, size_of(number), &record), 0);
    memset(record.data, (int)number, record.nbytes);
    memcpy(record.data, &number, sizeof number);
    return record;
}

static inline uint64_t number_in(const ipcheap_record *record) {
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    EXPECT_EQ(record->nbytes, size_of(number));
    if (record->nbytes > 8)
        EXPECT_EQ(((unsigned char *)record->data)[record->nbytes - 1], (unsigned char)number);
    return number;
}

#endif
