/*
 * Threads that must not sleep, beside a process that has the heap lock about half of the time. What
 * they cannot do immediately they leave undone or do later, and nothing is lost.
 */
#include <pthread.h>

#include "testing.h"

#include "channel/directory.h"
#include "segment/lock.h"
#include "segment/membership.h"
#include "segment/sleep.h"

enum { ROUNDS = 500, EXTENTS = 6, EXTENT = 200 * 4096 };

/* A heap, and a rival process that uses the lock all the time until it is killed. */
struct scene {
    ipcheap_heap *heap, *observer;
    pid_t rival;
    ipcheap_record records[EXTENTS];
    unsigned refusals;
};

static void lock_and_unlock(ipcheap_heap *heap) {
    ipcheap_recovery report;
    for (;;) EXPECT_EQ(ipcheap_recover(heap, &report), 0);
}

static struct scene new_scene(void) {
    int fd = new_segment(16 * MIB);
    struct scene scene = {.rival = run_peer(fd, lock_and_unlock)};
    scene.heap = attach(fd);
    scene.observer = attach(fd);
    close(fd);
    return scene;
}

/* All has been given back, so the killed rival has left nothing to recover. */
static void expect_nothing_left(struct scene *scene) {
    EXPECT(scene->refusals > 0);
    ipcheap_close(scene->heap);
    kill(scene->rival, SIGKILL);
    EXPECT_EQ(waitpid(scene->rival, NULL, 0), scene->rival);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(scene->observer, &report), 0);
    expect_sound(scene->observer);
    EXPECT_EQ(statistics(scene->observer).in_use, 0);
    EXPECT_EQ(statistics(scene->observer).participants, 1);
    ipcheap_release(scene->heap);
    ipcheap_release(scene->observer);
}

/* Tries without sleeping, and repeats the call if the core asks for that. */
static void allocate(struct scene *scene, uint64_t nbytes, ipcheap_record *record) {
    ipcheap_allow_sleep(0);
    int error = ipcheap_allocate(scene->heap, nbytes, record);
    ipcheap_allow_sleep(1);
    scene->refusals += error == IPCHEAP_WOULD_SLEEP;
    if (error == IPCHEAP_WOULD_SLEEP) error = ipcheap_allocate(scene->heap, nbytes, record);
    EXPECT_EQ(error, 0);
}

static void give_back(struct scene *scene, ipcheap_record *record) {
    ipcheap_allow_sleep(0);
    int error = ipcheap_free(scene->heap, record);
    ipcheap_allow_sleep(1);
    scene->refusals += error == IPCHEAP_WOULD_SLEEP;
    if (error == IPCHEAP_WOULD_SLEEP) error = ipcheap_free(scene->heap, record);
    EXPECT_EQ(error, 0);
}

static void *give_back_all(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < EXTENTS; i++) give_back(scene, &scene->records[i]);
    return NULL;
}

/* More is freed than stays committed: the free trims, and takes the lock again for that. */
static void memory_is_trimmed(void) {
    struct scene scene = new_scene();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < EXTENTS; i++) allocate(&scene, EXTENT, &scene.records[i]);
        give_back_all(&scene);
    }
    expect_nothing_left(&scene);
}

/* The owner's count drops once for each extent, whichever thread frees it, however many tries. */
static void another_thread_frees_extents(void) {
    struct scene scene = new_scene();
    for (int round = 0; round < ROUNDS / 20; round++) {
        pthread_t thread;
        for (int i = 0; i < EXTENTS; i++) allocate(&scene, EXTENT, &scene.records[i]);
        EXPECT_EQ(pthread_create(&thread, NULL, give_back_all, &scene), 0);
        pthread_join(thread, NULL);
    }
    expect_nothing_left(&scene);
}

/* Small records, so many that slabs are made and freed with them. */
static void slabs_come_and_go(void) {
    enum { MANY = 4000 };
    static ipcheap_record records[MANY];
    struct scene scene = new_scene();
    for (int round = 0; round < ROUNDS / 40; round++) {
        for (int i = 0; i < MANY; i++) allocate(&scene, 1000, &records[i]);
        for (int i = 0; i < MANY; i++) give_back(&scene, &records[i]);
    }
    expect_nothing_left(&scene);
}

/* The same call again, if it would have had to sleep: then it has done nothing. */
static int post_record(struct scene *scene, const ipcheap_channel *bus, ipcheap_record *record) {
    ipcheap_allow_sleep(0);
    int error = ipcheap_try_post_record(scene->heap, bus, record, NULL);
    ipcheap_allow_sleep(1);
    scene->refusals += error == IPCHEAP_WOULD_SLEEP;
    return error == IPCHEAP_WOULD_SLEEP ? ipcheap_try_post_record(scene->heap, bus, record, NULL)
                                        : error;
}

static int post_copy(struct scene *scene, const ipcheap_channel *bus, uint64_t nbytes) {
    static const char bytes[EXTENT];
    ipcheap_allow_sleep(0);
    int error = ipcheap_try_post(scene->heap, bus, bytes, nbytes, NULL);
    ipcheap_allow_sleep(1);
    scene->refusals += error == IPCHEAP_WOULD_SLEEP;
    return error == IPCHEAP_WOULD_SLEEP ? ipcheap_try_post(scene->heap, bus, bytes, nbytes, NULL)
                                        : error;
}

/* Two listeners: the last one that frees an extent gives it back, without the lock or later. */
static void messages_come_and_go(void) {
    struct scene scene = new_scene();
    ipcheap_key key;
    ipcheap_channel bus;
    ipcheap_endpoint *in[2];
    static const ipcheap_bus_options plain;
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_add_bus(scene.heap, &key, &plain, &bus), 0);
    for (int k = 0; k < 2; k++) EXPECT_EQ(ipcheap_listen(scene.heap, &bus, NULL, &in[k]), 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 2; i++) {
            ipcheap_record record;
            allocate(&scene, i ? 100 : EXTENT, &record);
            EXPECT_EQ(post_record(&scene, &bus, &record), 0);
            EXPECT_EQ(post_copy(&scene, &bus, i ? EXTENT : 100), 0);
        }
        for (int i = 0; i < 8; i++) {
            ipcheap_allow_sleep(0);
            EXPECT_EQ(ipcheap_try_receive(in[i / 2 % 2], &scene.records[0]), 0);
            ipcheap_allow_sleep(1);
            give_back(&scene, &scene.records[0]);
        }
    }
    for (int k = 0; k < 2; k++) ipcheap_endpoint_release(in[k]);
    EXPECT_EQ(ipcheap_remove_channel(scene.heap, &key, 0), 0);
    expect_nothing_left(&scene);
}

#if IPCHEAP_STEPS

/* What is not done without sleeping --------------------------------------------------------- */

static bool sleepless;
static unsigned punches;

static void count_punches(const char *file, int line) {
    (void)line;
    punches += sleepless && strstr(file, "commit.c");
}

/* A trim is postponed until the caller may sleep: until then its next call is refused. */
static void nothing_is_trimmed(void) {
    enum { MANY = 6000 };
    static ipcheap_record records[MANY];
    ipcheap_heap *heap = attach(new_segment(16 * MIB));
    for (int i = 0; i < MANY; i++) EXPECT_EQ(ipcheap_allocate(heap, 1000, &records[i]), 0);
    uint64_t most = statistics(heap).committed;
    unsigned refused = 0;
    ipcheap_step_hook = count_punches;
    for (int i = 0; i < MANY; i++) {
        sleepless = true;
        ipcheap_allow_sleep(0);
        int error = ipcheap_free(heap, &records[i]);
        ipcheap_allow_sleep(1);
        sleepless = false;
        refused += error == IPCHEAP_WOULD_SLEEP;
        if (error == IPCHEAP_WOULD_SLEEP) error = ipcheap_free(heap, &records[i]);
        EXPECT_EQ(error, 0);
    }
    ipcheap_step_hook = NULL;
    EXPECT(refused > 0);
    EXPECT_EQ(punches, 0);
    EXPECT(statistics(heap).committed + 4 * MIB < most);
    expect_sound(heap);
    ipcheap_release(heap);
}

struct meeting {
    struct participant *me;
    struct channel *channel;
    pthread_t sender;
    pthread_barrier_t begin, locked, end;
    bool allocated, met;
};
static struct meeting meeting;

/* To the sender, looks like a collector of garbage until the sender has given up. */
static void *hold_the_ring(void *heap) {
    struct participant *me;
    EXPECT_EQ(participant_current(heap, &me), 0);
    pthread_barrier_wait(&meeting.begin);
    EXPECT_EQ(heap_lock(me), 0);
    put_or(&meeting.channel->flags, CHANNEL_REVOKED);
    pthread_barrier_wait(&meeting.locked);
    pthread_barrier_wait(&meeting.end);
    put_and(&meeting.channel->flags, ~(uint32_t)CHANNEL_REVOKED);
    heap_unlock(me);
    return NULL;
}

/* Between the allocation and filling the slot. */
static void meet(const char *file, int line) {
    (void)line;
    if (!pthread_equal(pthread_self(), meeting.sender)) return;
    meeting.allocated |= strstr(file, "extent.c") != NULL;
    if (!meeting.allocated || meeting.met || !strstr(file, "participant.h")) return;
    meeting.met = true;
    pthread_barrier_wait(&meeting.begin);
    pthread_barrier_wait(&meeting.locked);
}

/* Memory allocated for a copy that cannot be sent now is given back without the lock. */
static void a_copy_is_dropped(void) {
    static char bytes[40000];
    ipcheap_bytes copied = {bytes, sizeof bytes};
    ipcheap_heap *heap = attach(new_segment(16 * MIB));
    ipcheap_channel channel = record_channel(heap, 1, 8);
    ipcheap_endpoint *producer = claim(heap, &channel, IPCHEAP_PRODUCER);
    pthread_t thread;
    meeting.sender = pthread_self();
    meeting.channel = channel_at(heap, channel.index);
    pthread_barrier_init(&meeting.begin, NULL, 2);
    pthread_barrier_init(&meeting.locked, NULL, 2);
    pthread_barrier_init(&meeting.end, NULL, 2);
    EXPECT_EQ(pthread_create(&thread, NULL, hold_the_ring, heap), 0);
    ipcheap_step_hook = meet;
    ipcheap_allow_sleep(0);
    EXPECT_EQ(ipcheap_try_send_copies(producer, &copied, 1), IPCHEAP_WOULD_SLEEP);
    ipcheap_allow_sleep(1);
    ipcheap_step_hook = NULL;
    EXPECT(meeting.met);
    pthread_barrier_wait(&meeting.end);
    pthread_join(thread, NULL);
    EXPECT_EQ(ipcheap_try_send_copies(producer, &copied, 1), 1);
    ipcheap_endpoint_release(producer);
    ipcheap_key key;
    ipcheap_key_int(&key, 1);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_release(heap);
}

#endif

/* A slot whose last occupant died ---------------------------------------------------------- */

static void allocate_and_die(ipcheap_heap *heap) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 30000, &record), 0);
    _exit(0);
}

/* Nobody has been in the slots beyond these; now a newcomer takes one whose occupant died. */
static void use_up_the_slots(ipcheap_heap *heap) {
    for (uint32_t s = get(&heap->header->slots_used); s < PARTICIPANTS; s++) {
        struct participant_slot *slot = slot_at(heap, s);
        EXPECT_EQ(segment_commit_meta(heap, slot, sizeof *slot), 0);
        put(&slot->word, slot_word(1, SLOT_LIVE));
    }
    put(&heap->header->slots_used, PARTICIPANTS);
}

static pthread_barrier_t refused;

static void *be_refused(void *heap) {
    ipcheap_record record;
    ipcheap_allow_sleep(0);
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), IPCHEAP_WOULD_SLEEP);
    ipcheap_allow_sleep(1);
    return NULL;
}

static void *join_without_sleeping(void *heap) {
    ipcheap_record record;
    be_refused(heap);
    pthread_barrier_wait(&refused);
    pthread_barrier_wait(&refused); /* the lock is free */
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    return NULL;
}

/* A thread cannot recover its predecessor when it joins: its next call does, or its successor. */
static void a_predecessor_is_recovered_later(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    pthread_t thread;
    struct participant *me;
    EXPECT_EQ(participant_current(heap, &me), 0);
    expect_success(run_peer(fd, allocate_and_die));
    use_up_the_slots(heap);
    EXPECT(statistics(heap).in_use > 30000);
    EXPECT_EQ(pthread_barrier_init(&refused, NULL, 2), 0);
    EXPECT_EQ(heap_lock(me), 0);
    EXPECT_EQ(pthread_create(&thread, NULL, be_refused, heap), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    EXPECT(statistics(heap).in_use > 30000);
    EXPECT_EQ(pthread_create(&thread, NULL, join_without_sleeping, heap), 0);
    pthread_barrier_wait(&refused);
    heap_unlock(me);
    pthread_barrier_wait(&refused);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
#if IPCHEAP_STEPS
    nothing_is_trimmed();
    a_copy_is_dropped();
#endif
    memory_is_trimmed();
    another_thread_frees_extents();
    slabs_come_and_go();
    messages_come_and_go();
    a_predecessor_is_recovered_later();
    return 0;
}
