/* The order in which a stream uses memory is the faster one, by a clock that the test sets. */

#include "base/os.h"

static int64_t time_ns;
static int64_t time_now(void) { return time_ns; }

/* The same functions, compiled again with that clock. */
#define os_now time_now
#define extent_choice choice_of_extents
#define rotation_begin begin
#define rotation_turn turn
#define rotation_page place
#define rotation_note note
#include "memory/rotation.c"
#undef os_now

#include "testing.h"

enum { RECORD = 256 };                             /* pages: four in a lap */
#define CHANGE (schedule.warm_up + schedule.tries) /* laps in the other order before it is usual */

/* How long a lap takes in either order; `first` is the first lap after a change. */
struct costs {
    int64_t lowest, in_turn, first;
};

struct scene {
    ipcheap_heap heap;
    struct participant me;
    struct participant_memory memory;
    struct rotation *r;
    uint64_t laps;
};

static void scene_begin(struct scene *s) {
    *s = (struct scene){.heap.geometry.zone_pages[DATA_ZONE] = 1 << 18, .r = &s->memory.rotation};
    s->me.heap = &s->heap;
    s->me.memory = &s->memory;
    begin(s->r);
    time_ns = 1000000;
}

static void lap_of(struct scene *s, const struct costs *c) {
    uint32_t before = s->r->trial.way;
    for (uint64_t i = 0; i < LAP_PAGES / RECORD; i++) {
        turn(&s->me, RECORD);
        note(&s->me, i * RECORD, RECORD);
        if (i > 0) continue;
        time_ns += before != s->r->trial.way && c->first ? c->first
                   : s->r->trial.way == LOWEST           ? c->lowest
                                                         : c->in_turn;
    }
    s->laps++;
}

static void laps_of(struct scene *s, int64_t lowest, int64_t in_turn, int64_t first,
                    uint32_t count) {
    struct costs costs = {lowest, in_turn, first};
    while (count--) lap_of(s, &costs);
}

/* Returns the laps until an order is the usual one; 0 if it never is. */
static uint64_t laps_until(struct scene *s, enum extent_order order, struct costs costs) {
    s->laps = 0;
    while (s->laps < 5000) {
        lap_of(s, &costs);
        if (s->r->trial.way == order && s->r->trial.goes < s->r->trial.next) return s->laps;
    }
    return 0;
}

static void the_faster_order_is_found_and_left_again(void) {
    struct scene s;
    scene_begin(&s);
    EXPECT_EQ(s.r->trial.way, LOWEST);
    EXPECT_EQ(laps_until(&s, IN_TURN, (struct costs){100, 50, 0}), 1 + schedule.first + CHANGE);
    EXPECT_EQ(s.r->trial.next, schedule.soon);
    EXPECT_EQ(laps_until(&s, LOWEST, (struct costs){50, 100, 0}), schedule.soon + CHANGE);
    EXPECT_EQ(s.r->trial.next, schedule.soon);
}

static void a_little_faster_is_not_enough(void) {
    struct scene s;
    scene_begin(&s);
    EXPECT_EQ(laps_until(&s, IN_TURN, (struct costs){1000, 950, 0}), 0);
    scene_begin(&s);
    EXPECT(laps_until(&s, IN_TURN, (struct costs){1000, 850, 0}));
    EXPECT_EQ(laps_until(&s, LOWEST, (struct costs){950, 1000, 0}), 0);
}

static void what_does_not_change_is_compared_less_and_less(void) {
    struct scene s;
    scene_begin(&s);
    uint32_t most = 0;
    for (int i = 0; i < 5000; i++) {
        laps_of(&s, 100, 150, 0, 1);
        EXPECT(s.r->trial.next >= most);
        most = s.r->trial.next;
    }
    EXPECT_EQ(most, schedule.later);
    EXPECT(laps_until(&s, IN_TURN, (struct costs){100, 50, 0}) <= schedule.later + 2 * CHANGE + 2);
    EXPECT_EQ(s.r->trial.next, schedule.soon);
}

/* The first lap includes committing memory and filling caches. */
static void the_first_lap_does_not_count(void) {
    struct scene s;
    scene_begin(&s);
    EXPECT_EQ(laps_until(&s, IN_TURN, (struct costs){100, 120, 1}), 0);
    scene_begin(&s);
    EXPECT(laps_until(&s, IN_TURN, (struct costs){100, 50, 100000}));
}

static void the_fastest_of_the_last_laps_counts(void) {
    struct scene s;
    scene_begin(&s);
    laps_of(&s, 100, 0, 0, 1 + schedule.first); /* usual */
    laps_of(&s, 0, 500, 0, 2);                  /* something came in between */
    laps_of(&s, 0, 50, 0, 1);
    laps_of(&s, 0, 500, 0, schedule.tries - 1);
    EXPECT_EQ(s.r->trial.way, IN_TURN);
    EXPECT_EQ(s.r->trial.next, schedule.soon);
    /* Laps of long ago do not count: the last ones before the comparison are slow. */
    laps_of(&s, 0, 10, 0, schedule.soon - 2 - schedule.tries);
    laps_of(&s, 80, 100, 0, 2 * schedule.tries + 2);
    EXPECT_EQ(s.r->trial.way, LOWEST);
}

/* Time that passes while nothing is allocated is the same in either order. */
static void waiting_for_the_source_changes_nothing(void) {
    struct scene s;
    scene_begin(&s);
    laps_of(&s, 1000000, 1000000, 0, 3000);
    EXPECT_EQ(s.r->trial.way, LOWEST);
}

int main(void) {
    the_faster_order_is_found_and_left_again();
    a_little_faster_is_not_enough();
    what_does_not_change_is_compared_less_and_less();
    the_first_lap_does_not_count();
    the_fastest_of_the_last_laps_counts();
    waiting_for_the_source_changes_nothing();
    return 0;
}
