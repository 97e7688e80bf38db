/* The order in which a stream of large records uses memory. */

#include "heap/rotation.h"
#include "segment/participant.h"
#include "testing.h"

enum { SIZE = 64 << 10, ROUNDS = 200, LAP = 4 << 20 };

struct scene {
    int fd;
    ipcheap_heap *heap;
    struct participant *me;
    ipcheap_record last;
};

static struct scene scene_of(uint64_t capacity) {
    struct scene s = {.fd = new_segment(capacity)};
    s.heap = attach(s.fd);
    EXPECT_EQ(participant_current(s.heap, &s.me), 0);
    EXPECT_EQ(s.me->rotation.order, LOWEST);
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

static void let_go(struct scene *s, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_free(s->heap, record), 0);
}

/* As a consumer does who is one record behind; returns where the last one lay. */
static uint64_t stream(struct scene *s, uint64_t nbytes, int count) {
    uint64_t offset = allocate(s, nbytes);
    for (int i = 1; i < count; i++) {
        ipcheap_record before = s->last;
        offset = allocate(s, nbytes);
        let_go(s, &before);
    }
    let_go(s, &s->last);
    return offset;
}

/* How far apart the places are that so many records took one after the other. */
static uint64_t span_of(struct scene *s, uint64_t nbytes, int count) {
    uint64_t lowest = UINT64_MAX, highest = 0;
    allocate(s, nbytes);
    for (int i = 0; i < count; i++) {
        ipcheap_record before = s->last;
        uint64_t offset = allocate(s, nbytes);
        lowest = least(lowest, offset);
        highest = greatest(highest, offset);
        let_go(s, &before);
    }
    let_go(s, &s->last);
    return highest - lowest;
}

static void the_lowest_is_taken_at_first(void) {
    struct scene s = scene_of(1024 * MIB);
    uint64_t first = allocate(&s, SIZE);
    let_go(&s, &s.last);
    for (int i = 0; i < ROUNDS; i++) {
        EXPECT_EQ(allocate(&s, SIZE), first);
        let_go(&s, &s.last);
    }
    scene_end(&s);
}

static void in_turn_they_follow_each_other_for_a_lap(void) {
    struct scene s = scene_of(1024 * MIB);
    s.me->rotation.order = IN_TURN;
    uint64_t first = allocate(&s, SIZE), next = first + SIZE;
    for (int i = 1; i < LAP / SIZE; i++, next += SIZE) {
        ipcheap_record before = s.last;
        EXPECT_EQ(allocate(&s, SIZE), next);
        let_go(&s, &before);
    }
    ipcheap_record before = s.last;
    EXPECT_EQ(allocate(&s, SIZE), first);
    let_go(&s, &before);
    let_go(&s, &s.last);
    s.me->rotation.order = IN_TURN;
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
        s.me->rotation.order = IN_TURN;
        stream(&s, cases[i].nbytes, 3);
        EXPECT_EQ(s.me->rotation.last_word != 0, cases[i].goes);
        ipcheap_release(s.heap);
        close(s.fd);
    }
}

/* Who has let go of the last one begins again with the lowest, as do different sizes at a lap's end. */
static void places_are_only_hints(void) {
    struct scene s = scene_of(1024 * MIB);
    s.me->rotation.order = IN_TURN;
    uint64_t first = allocate(&s, SIZE);
    let_go(&s, &s.last);
    EXPECT_EQ(allocate(&s, SIZE), first);
    ipcheap_record held = s.last;
    /* Somebody else has taken the next one. */
    ipcheap_heap *other = attach(s.fd);
    ipcheap_record his;
    EXPECT_EQ(ipcheap_allocate(other, SIZE, &his), 0);
    EXPECT_EQ(his.offset, first + SIZE);
    EXPECT_EQ(allocate(&s, SIZE), first + 2 * SIZE);
    let_go(&s, &held);
    EXPECT_EQ(ipcheap_free(other, &his), 0);
    ipcheap_release(other);
    let_go(&s, &s.last);
    uint64_t random = 1;
    for (int i = 0; i < 20 * ROUNDS; i++) {
        held = s.last;
        allocate(&s, 33000 + next_random(&random) % (2 * MIB));
        if (i) let_go(&s, &held);
        if (i % 50 == 0) expect_sound(s.heap);
    }
    let_go(&s, &s.last);
    scene_end(&s);
}

/* Inside a run stands what a crash has left there: only what is a head for certain is believed. */
static void what_stands_inside_a_run_is_not_believed(void) {
    struct scene s = scene_of(1024 * MIB);
    s.me->rotation.order = IN_TURN;
    uint64_t first = allocate(&s, SIZE), page = s.me->rotation.last + SIZE / PAGE;
    let_go(&s, &s.last);
    put(&s.heap->pages[page].word, page_word(PAGE_FREE, KIND_NONE, 100));
    EXPECT_EQ(allocate(&s, SIZE), first);
    let_go(&s, &s.last);
    put(&s.heap->pages[page].word, page_word(PAGE_FREE, KIND_NONE, 100));
    EXPECT_EQ(allocate(&s, 4 * SIZE), first); /* now it stands inside this one */
    EXPECT_EQ(rotation_page(s.me, 1), s.me->rotation.last + 4 * SIZE / PAGE);
    ipcheap_record around = s.last;
    EXPECT_EQ(allocate(&s, SIZE), first + 4 * SIZE);
    let_go(&s, &around);
    let_go(&s, &s.last);
    scene_end(&s);
}

/* Streams until that is the order, each record taking long in the other one; false if it never is. */
static bool changes_to(struct scene *s, enum extent_order fast) {
    for (int i = 0; i < 4000; i++) {
        stream(s, MIB, 2);
        if (s->me->rotation.order == fast && s->me->rotation.laps == 0) return true;
        if (s->me->rotation.order != fast) usleep(500);
    }
    return false;
}

static void what_has_been_faster_is_kept_to(void) {
    struct scene s = scene_of(1024 * MIB);
    EXPECT(changes_to(&s, IN_TURN));
    EXPECT(changes_to(&s, LOWEST));
    EXPECT(changes_to(&s, IN_TURN));
    scene_end(&s);
}

int main(void) {
    the_lowest_is_taken_at_first();
    in_turn_they_follow_each_other_for_a_lap();
    only_what_it_pays_for_goes_round();
    places_are_only_hints();
    what_stands_inside_a_run_is_not_believed();
    what_has_been_faster_is_kept_to();
    return 0;
}
