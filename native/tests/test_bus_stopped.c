/*
 * Buses: participants that are stopped or killed before each of their stores, and what the others may do
 * meanwhile and afterwards.
 */
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "base/fault.h"
#include "base/shared.h"
#include "segment/handle.h"
#include "testing.h"

#ifndef IPCHEAP_STEPS
int main(void) { return 77; }
#else

enum { BUS = 1, CAPACITY = 4 };

static const int64_t SOON = 3000000000; /* ns: what must not wait is done by then */

/* What the victim does, and what the others do while it is stopped and after it has ended. */
struct story {
    const char *name;
    uint64_t capacity, history;
    void (*begin)(ipcheap_heap *heap); /* survivor: before the victim comes */
    void (*prepare)(ipcheap_heap *heap);
    void (*act)(ipcheap_heap *heap); /* victim: stopped or killed in here */
    void (*meanwhile)(
        ipcheap_heap *heap);            /* survivor: while it is stopped, or after it was killed */
    void (*finish)(ipcheap_heap *heap); /* survivor: afterwards */
    int only;                           /* SIGSTOP or SIGKILL; 0: both */
};

static ipcheap_endpoint *listener; /* the victim's, or the survivor's */
static ipcheap_record message;

/* Steps ---------------------------------------------------------------------------------------- */

static int steps_left, sign;

static void count_step(const char *file, int line) {
    (void)file;
    (void)line;
    if (steps_left-- == 0) kill(getpid(), sign);
}

static ipcheap_channel the_bus(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, NULL, &channel), 0);
    return channel;
}

static void run(const struct story *s, int how) {
    for (int step = 0;; step++) {
        int fd = new_segment(4 * MIB), status;
        ipcheap_heap *heap = attach(fd);
        ipcheap_key key;
        ipcheap_channel bus;
        ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_HISTORY,
                                       .capacity = s->capacity ? s->capacity : CAPACITY,
                                       .history = s->history};
        EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
        EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &bus), 0);
        if (s->begin) s->begin(heap);
        pid_t victim = fork_child();
        if (!victim) {
            ipcheap_heap *own = attach(fd);
            if (s->prepare) s->prepare(own);
            steps_left = step;
            sign = how;
            ipcheap_step_hook = count_step;
            s->act(own);
            ipcheap_step_hook = NULL;
            _exit(steps_left < 0 ? 0 : 7); /* 7: it did all without coming to that step */
        }
        EXPECT_EQ(waitpid(victim, &status, WUNTRACED), victim);
        bool ended = WIFEXITED(status);
        if (ended) EXPECT_EQ(WEXITSTATUS(status), 7);
        ipcheap_holder owner;
        bool waits = WIFSTOPPED(status), locked = waits && ipcheap_lock_holder(heap, &owner);
        /* With the heap lock, it keeps others waiting. */
        if (!locked && s->meanwhile) s->meanwhile(heap);
        if (waits) {
            kill(victim, SIGCONT);
            expect_success(victim);
        }
        if (locked && s->meanwhile) s->meanwhile(heap);
        if (s->finish) s->finish(heap);
        if (listener) ipcheap_endpoint_release(listener);
        listener = NULL;
        ipcheap_recovery report;
        EXPECT_EQ(ipcheap_recover(heap, &report), 0);
        expect_sound(heap);
        int removed = ipcheap_remove_channel(heap, &key, 1);
        EXPECT(!removed || removed == IPCHEAP_CHANNEL_NOT_FOUND);
        ipcheap_release(heap);
        heap = attach(fd);
        expect_sound(heap);
        EXPECT_EQ(statistics(heap).in_use, 0);
        ipcheap_release(heap);
        close(fd);
        if (ended) {
            fprintf(stderr, "%s, %s: %d steps\n", s->name, how == SIGKILL ? "killed" : "stopped",
                    step);
            return;
        }
    }
}

/* What they do --------------------------------------------------------------------------------- */

static void post(ipcheap_heap *heap, uint64_t n) {
    ipcheap_channel bus = the_bus(heap);
    EXPECT_EQ(ipcheap_post(heap, &bus, &n, sizeof n, SOON, NULL), 0);
}

static void listen(ipcheap_heap *heap) {
    ipcheap_channel bus = the_bus(heap);
    EXPECT_EQ(ipcheap_listen(heap, &bus, NULL, &listener), 0);
}

static void expect_next(ipcheap_heap *heap, uint64_t n) {
    EXPECT_EQ(ipcheap_try_receive(listener, &message), 0);
    EXPECT_EQ(*(const uint64_t *)message.data, n);
    EXPECT_EQ(ipcheap_free(heap, &message), 0);
}

static void listen_and_be_behind(ipcheap_heap *heap) {
    listen(heap);
    post(heap, 0);
}

static void close_it(ipcheap_heap *heap) {
    (void)heap;
    EXPECT_EQ(ipcheap_endpoint_close(listener), 0);
}

/* Nobody is in the way, or only a dead one. */
static void post_many(ipcheap_heap *heap) {
    for (uint64_t n = 0; n < 3 * CAPACITY; n++) post(heap, n);
}

/* A new listener, perhaps with the record of the one that is closing, hears all. */
static void listen_anew(ipcheap_heap *heap) {
    listen(heap);
    post(heap, 1);
}

static void hear(ipcheap_heap *heap) {
    post(heap, 2);
    expect_next(heap, 1);
    expect_next(heap, 2);
    ipcheap_endpoint_release(listener);
    listener = NULL;
}

static void hold_one(ipcheap_heap *heap) {
    listen(heap);
    post(heap, 0);
    EXPECT_EQ(ipcheap_try_receive(listener, &message), 0);
}

static void close_and_free(ipcheap_heap *heap) {
    EXPECT_EQ(ipcheap_endpoint_close(listener), 0);
    EXPECT_EQ(ipcheap_free(heap, &message), 0);
}

static void remove_it(ipcheap_heap *heap) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
}

static ipcheap_record mine;
static ipcheap_channel the;

/* With slabs for what a post allocates. */
static void prepare_record(ipcheap_heap *heap) {
    for (uint64_t nbytes = 64; nbytes < 1000; nbytes += 64) {
        EXPECT_EQ(ipcheap_allocate(heap, nbytes, &mine), 0);
        EXPECT_EQ(ipcheap_free(heap, &mine), 0);
    }
    EXPECT_EQ(ipcheap_allocate(heap, 1000, &mine), 0);
    the = the_bus(heap);
}

static void post_it(ipcheap_heap *heap) {
    int error = ipcheap_try_post_record(heap, &the, &mine, NULL);
    EXPECT(!error || error == IPCHEAP_CHANNEL_NOT_FOUND);
}

static void post_copy(ipcheap_heap *heap) {
    int error = ipcheap_try_post(heap, &the, "copy", 4, NULL);
    EXPECT(!error || error == IPCHEAP_CHANNEL_NOT_FOUND);
}

static int descriptor;

static bool is_readable(int ms) {
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    return poll(&polled, 1, ms) == 1;
}

static void listen_by_descriptor(ipcheap_heap *heap) {
    listen(heap);
    descriptor = ipcheap_endpoint_descriptor(listener);
    EXPECT(descriptor >= 0);
}

/* Whatever the other writer is about, a post is noticed. */
static void post_and_see(ipcheap_heap *heap) {
    post(heap, 1);
    EXPECT(is_readable(300));
}

static void hear_them(ipcheap_heap *heap) {
    int heard = 0;
    while (ipcheap_try_receive(listener, &message) == 0) {
        EXPECT_EQ(ipcheap_free(heap, &message), 0);
        heard++;
    }
    EXPECT(heard == 1 || heard == 2);
    EXPECT_EQ(ipcheap_wait(listener, 0), IPCHEAP_TIMED_OUT); /* settles */
    EXPECT(!is_readable(0));
    post(heap, 2);
    EXPECT(is_readable(300));
    ipcheap_endpoint_release(listener);
    listener = NULL;
}

static void broadcast_briefly(ipcheap_heap *heap) {
    ipcheap_broadcast_report report;
    int error = ipcheap_broadcast_bytes(heap, &the, "brief", 5, 50000000, 0, &report);
    EXPECT(!error || error == IPCHEAP_TIMED_OUT);
}

/* The turn of one that is stopped ends with its time. */
static void broadcast_in_turn(ipcheap_heap *heap) {
    ipcheap_channel bus = the_bus(heap);
    ipcheap_broadcast_report report;
    EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, "next", 4, SOON, 0, &report), 0);
    EXPECT_EQ(report.listeners, 0);
}

static const struct story stories[] = {
    {.name = "a listener that closes is in nobody's way",
     .prepare = listen_and_be_behind,
     .act = close_it,
     .meanwhile = post_many,
     .only = SIGKILL},
    {.name = "a listener that closes leaves the next one alone",
     .prepare = listen_and_be_behind,
     .act = close_it,
     .meanwhile = listen_anew,
     .finish = hear},
    {.name = "a listener that comes is in nobody's way",
     .prepare = NULL,
     .act = listen_and_be_behind,
     .meanwhile = post_many,
     .only = SIGKILL},
    {.name = "a closed listener's last message",
     .prepare = hold_one,
     .act = close_and_free,
     .meanwhile = listen_anew,
     .finish = hear},
    {.name = "a record on a bus that is removed",
     .begin = listen,
     .prepare = prepare_record,
     .act = post_it,
     .meanwhile = remove_it},
    {.name = "a copy on a bus that is removed",
     .begin = listen,
     .prepare = prepare_record,
     .act = post_copy,
     .meanwhile = remove_it},
    {.name = "a post to one that polls",
     .begin = listen_by_descriptor,
     .prepare = prepare_record,
     .act = post_copy,
     .meanwhile = post_and_see,
     .finish = hear_them},
    {.name = "a broadcast, and another one",
     .begin = listen,
     .prepare = prepare_record,
     .act = broadcast_briefly,
     .meanwhile = broadcast_in_turn},
};

/* A writer is killed in its post, and recovered while the last holder of the message releases it. */
static void a_late_recovery(int post_step) {
    bool more = true;
    for (int free_step = 0; more; free_step++) {
        int fd = new_segment(4 * MIB), status, result;
        ipcheap_heap *heap = attach(fd);
        ipcheap_key key;
        ipcheap_channel bus;
        ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 1};
        EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
        EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &bus), 0);
        pid_t holder = fork_child();
        if (!holder) {
            ipcheap_heap *own = attach(fd);
            listen(own);
            raise(SIGSTOP);
            if (ipcheap_try_receive(listener, &message)) _exit(8);
            raise(SIGSTOP);
            steps_left = free_step;
            sign = SIGSTOP;
            ipcheap_step_hook = count_step;
            EXPECT_EQ(ipcheap_free(own, &message), 0);
            ipcheap_step_hook = NULL;
            _exit(0);
        }
        EXPECT_EQ(waitpid(holder, &status, WUNTRACED), holder);
        pid_t writer = fork_child();
        if (!writer) {
            ipcheap_heap *own = attach(fd);
            prepare_record(own);
            steps_left = post_step;
            sign = SIGKILL;
            ipcheap_step_hook = count_step;
            post_it(own);
            _exit(0);
        }
        EXPECT_EQ(waitpid(writer, &result, 0), writer);
        kill(holder, SIGCONT);
        EXPECT_EQ(waitpid(holder, &status, WUNTRACED), holder);
        bool posted = WIFSTOPPED(status);
        if (posted) {
            post(heap, 1);
            kill(holder, SIGCONT);
            EXPECT_EQ(waitpid(holder, &status, WUNTRACED), holder);
        }
        ipcheap_recovery report;
        EXPECT_EQ(ipcheap_recover(heap, &report), 0);
        more = WIFSTOPPED(status); /* in the middle of its release, which is its business */
        if (posted && more) EXPECT_EQ(report.blocks, 0);
        if (more) {
            kill(holder, SIGCONT);
            EXPECT_EQ(waitpid(holder, &result, 0), holder);
        }
        EXPECT_EQ(ipcheap_recover(heap, &report), 0);
        expect_sound(heap);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
        EXPECT_EQ(statistics(heap).in_use, 0);
        ipcheap_release(heap);
        close(fd);
    }
}

static bool fails(int number, const char *file, int line) {
    (void)file;
    (void)line;
    return number == EMFILE;
}

/* A writer that could not ring, because it is out of descriptors, leaves it to the next one. */
static void a_bell_that_does_not_ring(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_key key;
    ipcheap_channel bus;
    ipcheap_bus_options options = {0};
    EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &bus), 0);
    listen_by_descriptor(heap);
    pid_t writer = fork_child();
    if (!writer) {
        ipcheap_heap *own = attach(fd);
        ipcheap_fault_hook = fails;
        post(own, 0);
        ipcheap_fault_hook = NULL;
        post(own, 1);
        for (;;) pause(); /* its end would be noticed, too */
    }
    EXPECT(is_readable(3000));
    kill(writer, SIGKILL);
    EXPECT_EQ(waitpid(writer, NULL, 0), writer);
    ipcheap_endpoint_release(listener);
    listener = NULL;
    ipcheap_release(heap);
    close(fd);
}

static void add_another(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_bus_options options = {0};
    EXPECT_EQ(ipcheap_key_int(&key, BUS + 1), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &channel), 0);
}

/* Nobody can recover a dead listener while a stopped process has the heap lock: writers go on without it. */
static void a_lock_that_is_kept(void) {
    int fd = new_segment(4 * MIB), status;
    ipcheap_heap *heap = attach(fd);
    ipcheap_key key;
    ipcheap_channel bus;
    ipcheap_holder owner;
    ipcheap_broadcast_report report;
    ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = CAPACITY};
    EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &bus), 0);
    pid_t dead = fork_child();
    if (!dead) {
        listen(attach(fd));
        raise(SIGSTOP);
    }
    EXPECT_EQ(waitpid(dead, &status, WUNTRACED), dead);
    for (uint64_t n = 0; n < CAPACITY - 1; n++) post(heap, n);
    EXPECT_EQ(ipcheap_broadcast_bytes(heap, &bus, "", 0, 0, 0, &report), 0);
    EXPECT_EQ(report.slow, 1);
    pid_t stopped = fork_child();
    if (!stopped) {
        ipcheap_heap *own = attach(fd);
        steps_left = 1; /* the first one takes the lock */
        sign = SIGSTOP;
        ipcheap_step_hook = count_step;
        add_another(own);
        _exit(0);
    }
    EXPECT_EQ(waitpid(stopped, &status, WUNTRACED), stopped);
    EXPECT_EQ(ipcheap_lock_holder(heap, &owner), 1);
    kill(dead, SIGKILL);
    EXPECT_EQ(waitpid(dead, &status, 0), dead);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    /* It is passed. */
    EXPECT_EQ(ipcheap_try_post(heap, &bus, "", 0, NULL), 0);
    EXPECT_EQ(ipcheap_post(heap, &bus, "", 0, 200000000, NULL), 0);
    EXPECT_EQ(ipcheap_drain(heap, &bus, 200000000, &report), 0);
    EXPECT_EQ(report.gone, 1);
    clock_gettime(CLOCK_MONOTONIC, &end);
    EXPECT(end.tv_sec - begin.tv_sec < 3);
    kill(stopped, SIGCONT);
    expect_success(stopped);
    post(heap, 5);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    a_lock_that_is_kept();
    a_bell_that_does_not_ring();
    for (int step = 0; step < 20; step++) a_late_recovery(step);
    for (size_t i = 0; i < sizeof stories / sizeof *stories; i++) {
        if (stories[i].only != SIGSTOP) run(&stories[i], SIGKILL);
        if (stories[i].only != SIGKILL) run(&stories[i], SIGSTOP);
    }
    return 0;
}
#endif
