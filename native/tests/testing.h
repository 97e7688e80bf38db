/* testing.h - what the native tests share: a heap on a memfd, expectations, peers by fork(). */
#ifndef IPCHEAP_TESTS_TESTING_H
#define IPCHEAP_TESTS_TESTING_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipcheap/ipcheap.h"

#define MIB (UINT64_C(1) << 20)

#define EXPECT(condition)                                                             \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: expected: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

#define EXPECT_EQ(got, wanted)                                                               \
    do {                                                                                     \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                    \
        if (got_ != wanted_) {                                                               \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, \
                    wanted_);                                                                \
            abort();                                                                         \
        }                                                                                    \
    } while (0)

/* A file without a name that holds a fresh heap. */
static inline int new_segment(uint64_t capacity) {
    int fd = memfd_create("ipcheap-test", MFD_CLOEXEC);
    EXPECT(fd >= 0);
    ipcheap_options options = {.capacity = capacity, .shm_kind = IPCHEAP_SHM_MEMFD};
    EXPECT_EQ(ipcheap_format(fd, -1, &options), 0);
    return fd;
}

static inline ipcheap_heap *attach(int fd) {
    ipcheap_heap *heap = NULL;
    EXPECT_EQ(ipcheap_attach(fd, -1, &heap), 0);
    return heap;
}

static inline void say_fault(void *context, const char *text) {
    (void)context;
    fprintf(stderr, "check: %s\n", text);
}

static inline void expect_sound(ipcheap_heap *heap) {
    EXPECT_EQ(ipcheap_check(heap, say_fault, NULL), 0);
}

static inline ipcheap_statistics statistics(ipcheap_heap *heap) {
    ipcheap_statistics s;
    EXPECT_EQ(ipcheap_heap_statistics(heap, &s), 0);
    return s;
}

static inline ipcheap_channel record_channel(ipcheap_heap *heap, uint64_t id, uint64_t slots) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_record_channel(heap, &key, slots, &channel), 0);
    return channel;
}

static inline ipcheap_endpoint *claim(ipcheap_heap *heap, const ipcheap_channel *channel,
                                      int side) {
    ipcheap_endpoint *endpoint = NULL;
    EXPECT_EQ(ipcheap_claim(heap, channel, side, &endpoint), 0);
    return endpoint;
}

/* A channel and both of its sides. */
struct pair {
    ipcheap_channel channel;
    ipcheap_endpoint *out, *in;
};

static inline struct pair pair_of(ipcheap_heap *heap, uint64_t id, uint64_t slots) {
    struct pair p = {.channel = record_channel(heap, id, slots)};
    p.out = claim(heap, &p.channel, IPCHEAP_PRODUCER);
    p.in = claim(heap, &p.channel, IPCHEAP_CONSUMER);
    return p;
}

static inline void pair_release(struct pair *p) {
    ipcheap_endpoint_release(p->out);
    ipcheap_endpoint_release(p->in);
}

/* Forks a child that does not outlive the test, however the test ends. */
static inline pid_t fork_child(void) {
    pid_t parent = getpid(), pid = fork();
    EXPECT(pid >= 0);
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    return 0;
}

/* Runs `body` in a child with its own attachment; returns the pid. */
static inline pid_t run_peer(int fd, void (*body)(ipcheap_heap *heap)) {
    pid_t pid = fork_child();
    if (pid) return pid;
    ipcheap_heap *heap = attach(fd);
    body(heap);
    ipcheap_release(heap);
    _exit(0);
}

static inline void expect_success(pid_t pid) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
}

/* A small generator, the same on every run. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

#endif
