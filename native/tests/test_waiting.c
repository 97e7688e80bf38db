/* Waiting: descriptors that are level-triggered, wait_any over many, ends and deaths. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/time.h>

#include "endpoint/patience.h"
#include "testing.h"

enum { SLOTS = 4, MANY = 300 };

static bool readable(int fd, int ms) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    int got = poll(&one, 1, ms);
    EXPECT(got >= 0);
    return got == 1;
}

static void send_one(ipcheap_heap *heap, ipcheap_endpoint *producer) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 8, &record), 0);
    EXPECT_EQ(ipcheap_send(producer, &record, -1), 0);
}

static void receive_one(ipcheap_heap *heap, ipcheap_endpoint *consumer) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(consumer, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

static bool nothing_comes(ipcheap_endpoint *consumer) {
    ipcheap_record record;
    return ipcheap_try_receive(consumer, &record) == IPCHEAP_WOULD_BLOCK;
}

struct inside {
    ipcheap_heap *heap;
    const ipcheap_channel *channel;
    atomic_int at;
};

/* Is inside its endpoint until it is told to leave. */
static void *stay_inside(void *context) {
    struct inside *inside = context;
    ipcheap_endpoint *consumer = claim(inside->heap, inside->channel, IPCHEAP_CONSUMER);
    EXPECT_EQ(ipcheap_endpoint_enter(consumer), 0);
    inside->at = 1;
    while (inside->at == 1) usleep(100);
    EXPECT_EQ(ipcheap_endpoint_leave(consumer), IPCHEAP_HEAP_CLOSED);
    ipcheap_endpoint_release(consumer);
    return NULL;
}

static void closing_waits_for_what_other_threads_have_to_close(int fd) {
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_channel channel = record_channel(heap, 99, SLOTS);
    ipcheap_counts counts;
    struct inside inside = {.heap = heap, .channel = &channel};
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, stay_inside, &inside), 0);
    while (!inside.at) usleep(100);
    EXPECT_EQ(ipcheap_close(heap), 0);
    EXPECT_EQ(ipcheap_wait_closed(heap, 0), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_wait_closed(heap, 1000 * 1000), IPCHEAP_TIMED_OUT);
    EXPECT_EQ(ipcheap_channel_counts(other, &channel, &counts), 0);
    EXPECT_EQ(counts.consumer, IPCHEAP_SIDE_OPEN);
    inside.at = 2;
    EXPECT_EQ(ipcheap_wait_closed(heap, -1), 0);
    EXPECT_EQ(ipcheap_channel_counts(other, &channel, &counts), 0);
    EXPECT_EQ(counts.consumer, IPCHEAP_SIDE_CLOSED);
    pthread_join(thread, NULL);
    ipcheap_release(heap);
    ipcheap_release(other);
}

/* A file in /dev/shm, so that bells have names. */
static int named_segment(char path[64]) {
    snprintf(path, 64, "/dev/shm/ipcheap-test-waiting-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    ipcheap_options options = {.capacity = MIB, .shm_kind = IPCHEAP_SHM_FILE};
    EXPECT_EQ(ipcheap_format(fd, -1, &options), 0);
    return fd;
}

static int pipes_beside(const char *path) {
    char command[160];
    snprintf(command, sizeof command, "ls %s~* 2>/dev/null | wc -l", path);
    FILE *out = popen(command, "r");
    int count = -1;
    EXPECT_EQ(fscanf(out, "%d", &count), 1);
    pclose(out);
    return count;
}

static void a_descriptor_is_readable_while_there_is_something_to_do(int fd) {
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *in = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = claim(heap, &channel, IPCHEAP_PRODUCER);
    int in_fd = ipcheap_endpoint_descriptor(in), out_fd = ipcheap_endpoint_descriptor(out);
    EXPECT(in_fd >= 0 && out_fd >= 0);
    EXPECT_EQ(ipcheap_endpoint_descriptor(in), in_fd);
    EXPECT(!readable(in_fd, 0) && readable(out_fd, 0));
    for (int round = 0; round < 100; round++) {
        int count = 1 + round % SLOTS;
        for (int i = 0; i < count; i++) send_one(heap, out);
        EXPECT_EQ(readable(out_fd, 0), count < SLOTS);
        for (int i = 0; i < count; i++) {
            EXPECT(readable(in_fd, 0));
            receive_one(heap, in);
        }
        EXPECT(!readable(in_fd, 0) && readable(out_fd, 0));
        EXPECT(nothing_comes(in));
        EXPECT_EQ(ipcheap_wait(in, 1000), IPCHEAP_TIMED_OUT);
        EXPECT(!readable(in_fd, 0));
    }
    EXPECT_EQ(ipcheap_endpoint_close(out), 0);
    EXPECT(readable(in_fd, 0)); /* the end counts as something to do */
    ipcheap_endpoint_release(in);
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

static int asked_for; /* a pipe that reports that a child is ready */

static void wait_for_word(void) {
    char byte;
    EXPECT_EQ(read(asked_for, &byte, 1), 1);
}

static void be_killed_as_producer(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *out = claim(heap, &channel, IPCHEAP_PRODUCER);
    wait_for_word();
    send_one(heap, out);
    wait_for_word();
    raise(SIGKILL);
}

static void a_descriptor_reports_another_process_and_its_death(int fd) {
    int words[2];
    EXPECT_EQ(pipe(words), 0);
    asked_for = words[0];
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    pid_t child = run_peer(fd, be_killed_as_producer);
    ipcheap_endpoint *in = claim(heap, &channel, IPCHEAP_CONSUMER);
    EXPECT_EQ(ipcheap_wait_peer(in, -1), 0);
    int in_fd = ipcheap_endpoint_descriptor(in);
    EXPECT(!readable(in_fd, 0));
    EXPECT_EQ(write(words[1], "", 1), 1);
    EXPECT(readable(in_fd, 10000));
    receive_one(heap, in);
    EXPECT(!readable(in_fd, 0));
    EXPECT_EQ(write(words[1], "", 1), 1);
    EXPECT(readable(in_fd, 10000));
    ipcheap_record record;
    waitpid(child, NULL, 0);
    EXPECT_EQ(ipcheap_try_receive(in, &record), IPCHEAP_PEER_DIED);
    EXPECT(readable(in_fd, 0));
    ipcheap_endpoint_release(in);
    expect_sound(heap);
    ipcheap_release(heap);
    close(words[0]);
    close(words[1]);
}

static void be_killed_with_a_bell(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    EXPECT(ipcheap_endpoint_descriptor(claim(heap, &channel, IPCHEAP_CONSUMER)) >= 0);
    raise(SIGKILL);
}

static void pipes_go_with_their_endpoints(void) {
    char path[64];
    int fd = named_segment(path);
    a_descriptor_is_readable_while_there_is_something_to_do(fd);
    EXPECT_EQ(pipes_beside(path), 0);
    a_descriptor_reports_another_process_and_its_death(fd);
    closing_waits_for_what_other_threads_have_to_close(fd);
    EXPECT_EQ(pipes_beside(path), 0);
    ipcheap_heap *heap = attach(fd);
    waitpid(run_peer(fd, be_killed_with_a_bell), NULL, 0);
    EXPECT_EQ(pipes_beside(path), 1);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(pipes_beside(path), 0);
    expect_sound(heap);
    ipcheap_release(heap);
    unlink(path);
    close(fd);
}

static void feed_many(ipcheap_heap *heap) {
    static ipcheap_endpoint *out[MANY];
    for (uint64_t i = 0; i < MANY; i++) {
        ipcheap_channel channel = record_channel(heap, i, SLOTS);
        out[i] = claim(heap, &channel, IPCHEAP_PRODUCER);
    }
    for (uint64_t i = 0; i < 4 * MANY; i++) {
        send_one(heap, out[i * 7 % MANY]);
        if (i % 16 == 0) usleep(500);
    }
}

static void one_sleep_for_many_channels(void) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    static ipcheap_waitable items[MANY];
    for (uint64_t i = 0; i < MANY; i++) {
        ipcheap_channel channel = record_channel(heap, i, SLOTS);
        items[i].endpoint = claim(heap, &channel, IPCHEAP_CONSUMER);
    }
    EXPECT_EQ(ipcheap_wait_any(items, MANY, 1000000), 0);
    pid_t child = run_peer(fd, feed_many);
    for (int left = 4 * MANY, ended = 0; left > 0 || ended < MANY;) {
        EXPECT(ipcheap_wait_any(items, MANY, -1) > 0);
        ended = 0;
        for (int i = 0; i < MANY; i++) {
            ipcheap_record record;
            if (!items[i].ready) continue;
            int got = ipcheap_try_receive(items[i].endpoint, &record);
            ended += got == IPCHEAP_CHANNEL_CLOSED;
            if (got) continue;
            EXPECT_EQ(ipcheap_free(heap, &record), 0);
            left--;
        }
    }
    waitpid(child, NULL, 0);
    for (int i = 0; i < MANY; i++) ipcheap_endpoint_release(items[i].endpoint);
    ipcheap_release(heap);
    close(fd);
}

static void *set_later(void *event) {
    usleep(20000);
    ipcheap_event_set(event);
    return NULL;
}

static void *change_later(void *cell) {
    usleep(20000);
    __atomic_store_n((uint64_t *)cell, 7, __ATOMIC_SEQ_CST);
    ipcheap_word_wake(cell, 1);
    return NULL;
}

static void events_and_cells_among_endpoints(void) {
    static _Alignas(64) uint64_t words[200][8];
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_waitable items[201] = {{.endpoint = claim(heap, &channel, IPCHEAP_CONSUMER)}};
    for (int i = 0; i < 200; i++)
        items[i + 1] = (ipcheap_waitable){.word = words[i], .width = i % 2 ? 8 : 0};
    for (int i = 0; i < 200; i += 99) {
        pthread_t thread;
        EXPECT_EQ(pthread_create(&thread, NULL, i % 2 ? change_later : set_later, words[i]), 0);
        EXPECT_EQ(ipcheap_wait_any(items, 201, 10000000000), 1);
        EXPECT_EQ(items[i + 1].ready, 1);
        EXPECT_EQ(items[0].ready, 0);
        pthread_join(thread, NULL);
        memset(words[i], 0, sizeof words[i]);
    }
    ipcheap_endpoint_release(items[0].endpoint);
    ipcheap_release(heap);
    close(fd);
}

/* Dozing ------------------------------------------------------------------------------------ */

#define MICROSECOND (MILLISECOND / 1000)

/* The doze shrinks fast and grows slowly. */
static void expect_wait(ipcheap_endpoint *e, int64_t microseconds, int64_t most) {
    int64_t before = e->patience.doze;
    endpoint_expect(e, microseconds * MICROSECOND);
    EXPECT(e->patience.doze <= before + before / 4 + 5 * MICROSECOND);
    EXPECT(e->patience.doze <= most * MICROSECOND || e->patience.doze == before / 2);
}

static void one_dozes_for_less_than_half_of_waits_that_differ(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    EXPECT_EQ(p.in->patience.doze, 0);
    static const int64_t waits[] = {200, 300, 150, 320, 180, 100, 250, 90, 300};
    for (int i = 0; i < 90; i++) expect_wait(p.in, waits[i % 9], waits[i % 9] / 2 - 10);
    EXPECT(p.in->patience.doze > 0);
    endpoint_expect(p.in, 200 * MICROSECOND);
    int64_t doze = p.in->patience.doze;
    EXPECT(doze > 20 * MICROSECOND);
    endpoint_expect(p.in, 0); /* the record was there sooner */
    EXPECT_EQ(p.in->patience.doze, doze / 2);
    for (int i = 0; i < 8; i++) endpoint_expect(p.in, SECOND);
    EXPECT_EQ(p.in->patience.doze, 0);
    for (int i = 0; i < 20; i++) endpoint_expect(p.in, 20 * MICROSECOND);
    EXPECT_EQ(p.in->patience.doze, 0); /* spinning covers these waits */
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void one_dozes_through_most_of_waits_that_are_alike(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    for (int i = 0; i < 3; i++) expect_wait(p.in, 200, 90);
    for (int i = 0; i < 20; i++) expect_wait(p.in, 200, 155);
    EXPECT_EQ(p.in->patience.doze, 155 * MICROSECOND);
    expect_wait(p.in, 120, 85); /* an occasional shorter one */
    for (int i = 0; i < 5; i++) expect_wait(p.in, 200, 155);
    EXPECT(p.in->patience.doze > 100 * MICROSECOND);
    int64_t doze = p.in->patience.doze;
    endpoint_expect(p.in, 0);
    EXPECT_EQ(p.in->patience.doze, doze - doze / 8);
    for (int i = 0; i < 4; i++) endpoint_expect(p.in, 0); /* no longer alike */
    EXPECT(p.in->patience.doze < doze / 3);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void ignore_alarm(int number) { (void)number; }

static void send_while_the_other_dozes(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *out = claim(heap, &channel, IPCHEAP_PRODUCER);
    for (int i = 0; i < 3; i++) {
        usleep(2000);
        send_one(heap, out);
    }
    /* The consumer may be slow to start: wait_peer() does not see a side that is closed again. */
    while (ipcheap_pending(out)) usleep(2000);
    EXPECT_EQ(ipcheap_endpoint_close(out), 0);
    ipcheap_endpoint_release(out);
}

static void a_doze_ends_as_a_wait_does(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);

    p.in->patience.doze = MILLISECOND;
    int64_t begin = os_now();
    EXPECT_EQ(ipcheap_wait(p.in, 5 * MILLISECOND), IPCHEAP_TIMED_OUT);
    EXPECT(os_now() - begin >= 5 * MILLISECOND);

    p.in->patience.doze = 3600 * SECOND; /* no doze: there is less time, then a record */
    EXPECT_EQ(ipcheap_wait(p.in, MILLISECOND), IPCHEAP_TIMED_OUT);
    send_one(heap, p.out);
    p.in->patience.doze = 3600 * SECOND;
    EXPECT_EQ(ipcheap_wait(p.in, -1), 0);
    receive_one(heap, p.in);

    struct sigaction action = {.sa_handler = ignore_alarm}, before;
    struct itimerval soon = {.it_value = {.tv_usec = 2000}, .it_interval = {.tv_usec = 2000}};
    EXPECT_EQ(sigaction(SIGALRM, &action, &before), 0);
    EXPECT_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
    EXPECT_EQ(ipcheap_wait(p.in, -1), IPCHEAP_INTERRUPTED);
    EXPECT_EQ(setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL), 0);
    EXPECT_EQ(sigaction(SIGALRM, &before, NULL), 0);

    EXPECT_EQ(ipcheap_endpoint_close(p.out), 0);
    ipcheap_endpoint_release(p.out);
    pid_t child = run_peer(fd, send_while_the_other_dozes);
    EXPECT_EQ(ipcheap_wait_peer(p.in, 10 * SECOND), 0);
    for (int i = 0; i < 3; i++) {
        p.in->patience.doze = MILLISECOND;
        EXPECT_EQ(ipcheap_wait(p.in, -1), 0);
        receive_one(heap, p.in);
    }
    p.in->patience.doze = MILLISECOND;
    EXPECT_EQ(ipcheap_wait(p.in, -1), 0); /* there is an end to report */
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(p.in, &record), IPCHEAP_CHANNEL_CLOSED);
    expect_success(child);
    ipcheap_endpoint_release(p.in);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    int fd = new_segment(MIB);
    a_descriptor_is_readable_while_there_is_something_to_do(fd);
    a_descriptor_reports_another_process_and_its_death(fd);
    close(fd);
    pipes_go_with_their_endpoints();
    one_sleep_for_many_channels();
    events_and_cells_among_endpoints();
    one_dozes_for_less_than_half_of_waits_that_differ();
    one_dozes_through_most_of_waits_that_are_alike();
    a_doze_ends_as_a_wait_does();
    return 0;
}
