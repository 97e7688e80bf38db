/*
 * A dead participant's slot is given to a newcomer before the dead one is recovered. What the dead
 * one left then looks like the newcomer's, above all `busy`. A collector of garbage must not take
 * away the record that the dead one was forwarding.
 *
 *   Y --> victim --> X: killed between the record's new tag and its slot
 */
#include <sys/resource.h>

#include "testing.h"

#include "record/endpoint.h"
#include "segment/membership.h"

#if IPCHEAP_STEPS

static ipcheap_heap *heap;
static ipcheap_channel x, y;
static pid_t victim;
static int go[2], told[2], ready[2], come[2];
static uint64_t precious; /* the record that the victim is killed with */
static uint32_t slot;     /* the victim's participant slot */

static void tell(const int pipe[2]) { EXPECT_EQ(write(pipe[1], "!", 1), 1); }

static void hear(const int pipe[2]) {
    char byte;
    EXPECT_EQ(read(pipe[0], &byte, 1), 1);
}

/* The victim ------------------------------------------------------------------------------- */

static void stop_with_the_new_tag(const char *file, int line) {
    (void)file;
    (void)line;
    struct place place;
    if (!precious || !place_find(heap, precious, &place)) return;
    if (get(place.tag) != sent_tag(x.index, 2)) return;
    tell(told);
    for (;;) pause();
}

static void forward_three(ipcheap_heap *own) {
    heap = own;
    ipcheap_endpoint *in = claim(own, &y, IPCHEAP_CONSUMER);
    ipcheap_endpoint *out = claim(own, &x, IPCHEAP_PRODUCER);
    struct participant *me;
    EXPECT_EQ(participant_current(own, &me), 0);
    EXPECT_EQ(write(told[1], &me->slot, sizeof me->slot), sizeof me->slot);
    ipcheap_step_hook = stop_with_the_new_tag;
    for (int i = 0;; i++) {
        ipcheap_record record;
        hear(go);
        EXPECT_EQ(ipcheap_try_receive(in, &record), 0);
        if (i == 2) precious = record.offset;
        EXPECT_EQ(ipcheap_try_send(out, &record), 0);
        tell(told);
    }
}

/* Others ----------------------------------------------------------------------------------- */

/* Takes every slot there is, so that a newcomer gets the slot of the dead participant. */
static pid_t start_crowd(int fd) {
    pid_t pid = fork_child();
    if (pid) return pid;
    ipcheap_heap *one;
    int error;
    while ((error = ipcheap_attach(fd, -1, &one)) == 0) {}
    EXPECT_EQ(error, IPCHEAP_TOO_MANY_PARTICIPANTS);
    tell(ready);
    for (;;) pause();
}

/* Joins, and waits for the lock under which it recovers the dead participant. */
static pid_t start_newcomer(int fd) {
    pid_t pid = fork_child();
    if (pid) return pid;
    hear(come);
    attach(fd);
    _exit(0);
}

static void put_newcomer_in_its_place(const char *file, int line) {
    (void)line;
    if (!strstr(file, "ring.c")) return; /* the collector is about to set CHANNEL_REVOKED */
    ipcheap_step_hook = NULL;
    kill(victim, SIGKILL);
    EXPECT_EQ(waitpid(victim, NULL, 0), victim);
    uint32_t before, now;
    EXPECT(participant_latest(heap, slot, &before));
    tell(come);
    do {
        usleep(1000);
        EXPECT(participant_latest(heap, slot, &now));
    } while (now == before);
}

static ipcheap_record make(void) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 4000, &record), 0);
    memset(record.data, 0x77, record.nbytes);
    return record;
}

static void forward(ipcheap_endpoint *out, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_try_send(out, record), 0);
    tell(go);
    hear(told);
}

static void receive_and_free(ipcheap_endpoint *in) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(in, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

int main(void) {
    enum { MOST = 64 };
    struct rlimit limit;
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 2 * PARTICIPANTS + 100) return 77; /* up to two for each */
    EXPECT(!pipe(go) && !pipe(told) && !pipe(ready) && !pipe(come));
    int fd = new_segment(4 * MIB);
    heap = attach(fd);
    x = record_channel(heap, 1, 2); /* two slots: the third record takes the first one's */
    y = record_channel(heap, 2, 4);
    ipcheap_endpoint *out = claim(heap, &y, IPCHEAP_PRODUCER);
    ipcheap_endpoint *in = claim(heap, &x, IPCHEAP_CONSUMER);
    victim = run_peer(fd, forward_three);
    EXPECT_EQ(read(told[0], &slot, sizeof slot), sizeof slot);
    pid_t crowd = start_crowd(fd), newcomer = start_newcomer(fd);
    hear(ready);

    /* The same block comes back in X, is freed there, and is sent again through Y. */
    ipcheap_record records[MOST], record = make();
    uint64_t first = record.offset;
    forward(out, &record);
    receive_and_free(in);
    record = make();
    forward(out, &record);
    receive_and_free(in);
    int count = 0;
    do EXPECT(count < MOST);
    while ((records[count++] = make()).offset != first);
    forward(out, &records[count - 1]);
    for (int i = 0; i < count - 1; i++) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);

    ipcheap_step_hook = put_newcomer_in_its_place;
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT(!ipcheap_step_hook);
    expect_success(newcomer);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    ipcheap_endpoint *again = claim(heap, &y, IPCHEAP_CONSUMER);
    EXPECT_EQ(ipcheap_try_receive(again, &record), 0);
    EXPECT_EQ(record.offset, first);
    for (uint64_t i = 0; i < record.nbytes; i++) EXPECT_EQ(((unsigned char *)record.data)[i], 0x77);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    kill(crowd, SIGKILL);
    EXPECT_EQ(waitpid(crowd, NULL, 0), crowd);
    ipcheap_endpoint_release(again);
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
    close(fd);
    return 0;
}

#else

int main(void) { return 77; }

#endif
