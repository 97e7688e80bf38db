/*
 * Threads that must not sleep, beside a process that has the heap lock as often as not: what
 * they cannot do just now they leave undone, or do later, and nothing of it is lost.
 */
#include <pthread.h>

#include "testing.h"

enum { ROUNDS = 500, EXTENTS = 6, EXTENT = 200 * 4096 };

/* The heap, seen from a process of its own that uses the lock all the time until it is killed. */
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

/* All has been given back: so the one who has gone has left nothing to recover. */
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

/* Without sleeping at first, and then as the core says. */
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

/* More is given back than stays committed: the free trims, and takes the lock again for it. */
static void memory_is_trimmed(void) {
    struct scene scene = new_scene();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < EXTENTS; i++) allocate(&scene, EXTENT, &scene.records[i]);
        give_back_all(&scene);
    }
    expect_nothing_left(&scene);
}

/* Whose they were has so many fewer, whoever gives them back and however often he tries. */
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

/* So many small ones that slabs come and go with them. */
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

int main(void) {
    memory_is_trimmed();
    another_thread_frees_extents();
    slabs_come_and_go();
    return 0;
}
