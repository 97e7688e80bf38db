/* Where a stream of large records is placed; test_order.c tests when which order is used. */

#include "memory/participant_memory.h"
#include "segment/membership.h"
#include "segment/sleep.h"
#include "testing.h"

enum { SIZE = 64 << 10, ROUNDS = 200, LAP = 4 << 20 };

struct scene {
    int fd;
    ipcheap_heap *heap;
    struct participant *me;
    struct rotation *rotation;
    ipcheap_record last;
};

static struct scene scene_of(uint64_t capacity) {
    struct scene s = {.fd = new_segment(capacity)};
    s.heap = attach(s.fd);
    EXPECT_EQ(participant_current(s.heap, &s.me), 0);
    EXPECT(memory_of(s.me) != NULL);
    s.rotation = &s.me->memory->rotation;
    EXPECT_EQ(s.rotation->trial.way, LOWEST);
    return s;
}

static void scene_end(struct scene *s) {
    expect_sound(s->heap);
    EXPECT_EQ(statistics(s->heap).largest_free, statistics(s->heap).capacity);
    ipcheap_release(s->heap);
    close(s->fd);
}

static uint64_t allocate(struct scene *s, uint64_t nbytes) {
    EXPECT_EQ(ipcheap_allocate(s->heap, nbytes, &s->last), 0);
    return s->last.offset;
}

static void give_back(struct scene *s, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_free(s->heap, record), 0);
}

/* Allocates as a stream does whose consumer is one record behind. */
static uint64_t allocate_next(struct scene *s, uint64_t nbytes) {
    ipcheap_record before = s->last;
    uint64_t offset = allocate(s, nbytes);
    give_back(s, &before);
    return offset;
}

static void stream(struct scene *s, uint64_t nbytes, int count) {
    allocate(s, nbytes);
    for (int i = 1; i < count; i++) allocate_next(s, nbytes);
    give_back(s, &s->last);
}

/* Returns how far apart the places are that `count` records took one after the other. */
static uint64_t span_of(struct scene *s, uint64_t nbytes, int count) {
    uint64_t lowest = UINT64_MAX, highest = 0;
    allocate(s, nbytes);
    for (int i = 0; i < count; i++) {
        uint64_t offset = allocate_next(s, nbytes);
        lowest = least(lowest, offset);
        highest = greatest(highest, offset);
    }
    give_back(s, &s->last);
    return highest - lowest;
}

static void the_lowest_is_taken_at_first(void) {
    struct scene s = scene_of(1024 * MIB);
    uint64_t first = allocate(&s, SIZE);
    for (int i = 1; i < ROUNDS; i++)
        EXPECT_EQ(allocate_next(&s, SIZE), i % 2 ? first + SIZE : first);
    give_back(&s, &s.last);
    scene_end(&s);
}

static void in_turn_they_follow_each_other_for_a_lap(void) {
    struct scene s = scene_of(1024 * MIB);
    s.rotation->trial.way = IN_TURN;
    uint64_t first = allocate(&s, SIZE), next = first + SIZE;
    for (int i = 1; i < LAP / SIZE; i++, next += SIZE) EXPECT_EQ(allocate_next(&s, SIZE), next);
    EXPECT_EQ(allocate_next(&s, SIZE), first);
    give_back(&s, &s.last);
    EXPECT_EQ(span_of(&s, SIZE, ROUNDS), LAP - SIZE);
    EXPECT_EQ(statistics(s.heap).committed, LAP);
    scene_end(&s);
}

static void only_what_it_pays_for_goes_round(void) {
    const struct {
        uint64_t capacity, nbytes;
        bool goes;
    } cases[] = {{1024 * MIB, 32 << 10, false}, {1024 * MIB, 36 << 10, true},
                 {1024 * MIB, 1 << 20, true},   {1024 * MIB, 2 * MIB - 4096, false},
                 {1024 * MIB, 6 * MIB, false},  {64 * MIB, 512 << 10, true},
                 {64 * MIB, 600 << 10, false},  {2 * MIB, 40 << 10, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct scene s = scene_of(cases[i].capacity);
        s.rotation->trial.way = IN_TURN;
        stream(&s, cases[i].nbytes, 3);
        EXPECT_EQ(s.rotation->last_word != 0, cases[i].goes);
        ipcheap_release(s.heap);
        close(s.fd);
    }
}

/* Allocation restarts at the lowest place once the last record was freed, and after each lap. */
static void places_are_only_hints(void) {
    struct scene s = scene_of(1024 * MIB);
    s.rotation->trial.way = IN_TURN;
    uint64_t first = allocate(&s, SIZE);
    give_back(&s, &s.last);
    EXPECT_EQ(allocate(&s, SIZE), first);
    ipcheap_record held = s.last;
    /* Another participant has taken the next place. */
    ipcheap_heap *other = attach(s.fd);
    ipcheap_record theirs;
    EXPECT_EQ(ipcheap_allocate(other, SIZE, &theirs), 0);
    EXPECT_EQ(theirs.offset, first + SIZE);
    EXPECT_EQ(allocate(&s, SIZE), first + 2 * SIZE);
    give_back(&s, &held);
    EXPECT_EQ(ipcheap_free(other, &theirs), 0);
    ipcheap_release(other);
    give_back(&s, &s.last);
    uint64_t random = 1;
    allocate(&s, 33000);
    for (int i = 0; i < 20 * ROUNDS; i++) {
        allocate_next(&s, 33000 + next_random(&random) % (2 * MIB));
        if (i % 50 == 0) expect_sound(s.heap);
    }
    give_back(&s, &s.last);
    scene_end(&s);
}

/* Stale words stand inside runs after a crash: only what is certainly a head is believed. */
static void what_stands_inside_a_run_is_not_believed(void) {
    struct scene s = scene_of(1024 * MIB);
    s.rotation->trial.way = IN_TURN;
    uint64_t first = allocate(&s, SIZE), page = s.rotation->last + SIZE / PAGE;
    give_back(&s, &s.last);
    put(&s.heap->pages[page].word, page_word(PAGE_FREE, KIND_NONE, 100));
    EXPECT_EQ(allocate(&s, SIZE), first);
    give_back(&s, &s.last);
    put(&s.heap->pages[page].word, page_word(PAGE_FREE, KIND_NONE, 100));
    EXPECT_EQ(allocate(&s, 4 * SIZE), first); /* now the stale word stands inside this one */
    EXPECT_EQ(rotation_page(s.me, 1), s.rotation->last + 4 * SIZE / PAGE);
    EXPECT_EQ(allocate_next(&s, SIZE), first + 4 * SIZE);
    give_back(&s, &s.last);
    scene_end(&s);
}

/* As Python does it: a call that would sleep is repeated where it may. It counts only once. */
static void a_caller_that_must_not_sleep_asks_again(void) {
    struct scene s = scene_of(1024 * MIB);
    s.rotation->trial.way = IN_TURN;
    uint64_t first = 0;
    for (int i = 0; i < LAP / (512 << 10); i++) {
        ipcheap_record before = s.last;
        ipcheap_allow_sleep(0);
        int error = ipcheap_allocate(s.heap, 512 << 10, &s.last);
        ipcheap_allow_sleep(1);
        if (error == IPCHEAP_WOULD_SLEEP) allocate(&s, 512 << 10);
        if (i == 0) first = s.last.offset;
        EXPECT_EQ(s.last.offset, first + (uint64_t)i * (512 << 10));
        if (i > 0) give_back(&s, &before);
    }
    EXPECT_EQ(s.rotation->left, 0);
    EXPECT_EQ(s.rotation->trial.goes, 0);
    give_back(&s, &s.last);
    scene_end(&s);
}

/* A nearly full heap keeps what is left in one piece, and a full one counts no laps. */
static void what_little_is_left_is_not_taken_apart(void) {
    struct scene s = scene_of(132 * MIB);
    ipcheap_record large[24];
    uint64_t count = 0;
    while (ipcheap_allocate(s.heap, 6 * MIB, &large[count]) == 0) count++;
    give_back(&s, &large[--count]);
    s.rotation->trial.way = IN_TURN;
    EXPECT_EQ(span_of(&s, SIZE, ROUNDS), SIZE);
    for (int i = 0; i < ROUNDS; i++) {
        ipcheap_record record;
        stream(&s, SIZE, 3);
        EXPECT_EQ(ipcheap_allocate(s.heap, 5 * MIB, &record), 0);
        give_back(&s, &record);
    }
    EXPECT_EQ(ipcheap_allocate(s.heap, 6 * MIB, &large[count]), 0);
    uint32_t laps = s.rotation->trial.goes;
    uint64_t left = s.rotation->left;
    ipcheap_record record;
    int error = 0;
    for (int i = 0; i < 10 * ROUNDS; i++) error = ipcheap_allocate(s.heap, MIB, &record);
    EXPECT_EQ(error, IPCHEAP_HEAP_FULL);
    EXPECT_EQ(s.rotation->trial.goes, laps);
    EXPECT_EQ(s.rotation->left, left);
    for (uint64_t i = 0; i <= count; i++) give_back(&s, &large[i]);
    scene_end(&s);
}

#if IPCHEAP_STEPS

static int steps_left;

static void die_in_time(const char *file, int line) {
    (void)file;
    (void)line;
    if (steps_left-- == 0) raise(SIGKILL);
}

/* Returns false if the slab was complete before that many steps. */
static bool is_killed_making_a_slab(int fd, int steps) {
    pid_t pid = fork_child();
    int status;
    if (pid == 0) {
        ipcheap_heap *heap = attach(fd);
        struct participant *me;
        ipcheap_record record;
        EXPECT_EQ(participant_current(heap, &me), 0);
        steps_left = steps;
        ipcheap_step_hook = die_in_time;
        EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
        ipcheap_step_hook = NULL;
        _exit(7);
    }
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status);
}

/*
 * A participant makes a slab, aligned, inside a free run, exactly where the last record lay, which
 * had the same length. Killed half-way, it leaves the slab's head: that is not the last record.
 */
static bool a_death_leaves_something_alike(int steps) {
    struct scene s = scene_of(1024 * MIB);
    ipcheap_heap *other = attach(s.fd);
    ipcheap_record below, between, theirs[3], large;
    s.rotation->trial.way = IN_TURN;
    EXPECT_EQ(ipcheap_allocate(s.heap, 17 * PAGE, &below), 0);
    EXPECT_EQ(ipcheap_allocate(s.heap, 15 * PAGE, &between), 0);
    allocate(&s, SIZE);
    for (int i = 0; i < 3; i++) EXPECT_EQ(ipcheap_allocate(other, 10 * PAGE, &theirs[i]), 0);
    give_back(&s, &between);
    give_back(&s, &s.last);
    /* So that `freeing` holds another page. */
    EXPECT_EQ(ipcheap_free(other, &theirs[0]), 0);
    EXPECT_EQ(ipcheap_free(other, &theirs[2]), 0);
    EXPECT_EQ(ipcheap_free(other, &theirs[1]), 0);
    bool killed = is_killed_making_a_slab(s.fd, steps);
    allocate(&s, SIZE);
    EXPECT_EQ(ipcheap_allocate(other, 300 * PAGE, &large), 0);
    uint64_t end = s.last.offset + SIZE, their_end = large.offset + 300 * PAGE;
    EXPECT(end <= large.offset || their_end <= s.last.offset);
    expect_sound(s.heap);
    ipcheap_release(other);
    ipcheap_release(s.heap);
    close(s.fd);
    return killed;
}

static void what_a_death_leaves_is_not_the_last_one(void) {
    int steps = 0;
    while (a_death_leaves_something_alike(steps)) steps++;
    EXPECT(steps > 5);
}

#else

static void what_a_death_leaves_is_not_the_last_one(void) {}

#endif

int main(void) {
    the_lowest_is_taken_at_first();
    in_turn_they_follow_each_other_for_a_lap();
    only_what_it_pays_for_goes_round();
    places_are_only_hints();
    what_stands_inside_a_run_is_not_believed();
    a_caller_that_must_not_sleep_asks_again();
    what_little_is_left_is_not_taken_apart();
    what_a_death_leaves_is_not_the_last_one();
    return 0;
}
