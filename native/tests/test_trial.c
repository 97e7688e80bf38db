/* The schedule by which two ways are compared, and the variables that pin one of them. */

#include "base/copy.h"
#include "base/trial.h"
#include "memory/rotation.h"
#include "testing.h"

static const struct schedule schedule = {
    .first = 8, .soon = 10, .later = 64, .tries = 3, .warm_up = 2};

/* Goes on until a comparison is over, by what either way costs; returns how many goes that took. */
static uint32_t compare(struct trial *t, uint64_t cost, uint64_t other_cost) {
    uint32_t goes = 1, usual = trial_usual(t);
    while (!trial_go(t, &schedule, t->way == usual ? cost : other_cost)) {
        EXPECT_EQ(trial_usual(t), usual);
        goes++;
    }
    EXPECT_EQ(t->best[usual], cost);
    EXPECT_EQ(t->best[!usual], other_cost);
    return goes;
}

static void the_ways_take_turns(void) {
    struct trial t;
    trial_begin(&t, &schedule, 0);
    const char *expected = "uuuuuUUUooOOO"; /* usual, other; timed in capitals */
    for (const char *at = expected; *at; at++) {
        EXPECT_EQ(t.way, *at == 'o' || *at == 'O');
        EXPECT_EQ(trial_is_timed(&t, &schedule), *at == 'U' || *at == 'O');
        EXPECT_EQ(trial_go(&t, &schedule, 1), !at[1]);
    }
}

static void what_has_not_changed_is_compared_half_as_often(void) {
    struct trial t;
    trial_begin(&t, &schedule, 0);
    uint32_t usual = schedule.first, other = schedule.warm_up + schedule.tries;
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(compare(&t, 5, 7), usual + other);
        trial_decide(&t, &schedule, 0);
        usual = usual * 2 < schedule.later ? usual * 2 : schedule.later;
        EXPECT_EQ(t.next, usual);
    }
    EXPECT_EQ(t.next, schedule.later);
    compare(&t, 5, 3);
    trial_decide(&t, &schedule, 1);
    EXPECT_EQ(t.way, 1);
    EXPECT_EQ(trial_usual(&t), 1);
    EXPECT_EQ(compare(&t, 5, 7), schedule.soon + other);
}

/* Of those that are timed, since the last comparison. */
static void the_cheapest_go_counts(void) {
    struct trial t;
    trial_begin(&t, &schedule, 0);
    uint64_t costs[] = {1, 1, 1, 1, 1, 9, 6, 8, 1, 1, 5, 7, 9};
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) trial_go(&t, &schedule, costs[i]);
    EXPECT_EQ(t.best[0], 6);
    EXPECT_EQ(t.best[1], 5);
    trial_decide(&t, &schedule, 0);
    EXPECT(compare(&t, 60, 50));
}

static void a_hurry_brings_the_comparison_forward(void) {
    struct trial t;
    trial_begin(&t, &schedule, 0);
    for (int i = 0; i < 4; i++) {
        compare(&t, 5, 7);
        trial_decide(&t, &schedule, 0);
    }
    trial_hurry(&t, &schedule); /* just compared */
    EXPECT_EQ(t.next, schedule.later);
    for (uint32_t i = 0; i < schedule.soon; i++) EXPECT(!trial_go(&t, &schedule, 0));
    trial_hurry(&t, &schedule);
    EXPECT_EQ(compare(&t, 5, 7), 2 * schedule.tries + schedule.warm_up);
}

static void a_pinned_way_stays(void) {
    for (int way = 0; way < 2; way++) {
        struct trial t;
        trial_begin(&t, &schedule, 1 + way);
        for (int i = 0; i < 1000; i++) {
            EXPECT(!trial_is_timed(&t, &schedule));
            EXPECT(!trial_go(&t, &schedule, 1));
            EXPECT_EQ(t.way, way);
            EXPECT_EQ(trial_usual(&t), way);
        }
    }
}

/* Variables ------------------------------------------------------------------------------ */

static int chosen(const char *value) {
    struct choice choice = {.name = "IPCHEAP_TEST", .words = "learn|one|other"};
    if (value)
        setenv("IPCHEAP_TEST", value, 1);
    else
        unsetenv("IPCHEAP_TEST");
    int index = os_choice(&choice);
    setenv("IPCHEAP_TEST", "changed", 1); /* it is read once */
    EXPECT_EQ(os_choice(&choice), index);
    return index;
}

static void a_variable_has_one_of_its_words(void) {
    EXPECT_EQ(chosen(NULL), 0);
    EXPECT_EQ(chosen(""), 0);
    EXPECT_EQ(chosen("learn"), 0);
    EXPECT_EQ(chosen("one"), 1);
    EXPECT_EQ(chosen("other"), 2);
    const char *bad[] = {"on", "ones", "One", "one|other", "|", "learn|", " one", "othe", "others"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        EXPECT_EQ(chosen(bad[i]), IPCHEAP_BAD_VALUE);
}

static ipcheap_holder myself(ipcheap_heap *heap) {
    uint32_t cursor = 0;
    ipcheap_holder holder;
    EXPECT_EQ(ipcheap_next_participant(heap, &cursor, &holder), 1);
    EXPECT(holder.ours);
    return holder;
}

/* In a process of its own, with these variables. What is pinned is shown, and is not learned away. */
static void with(const char *copy, const char *extents, int error, uint32_t past,
                 uint32_t in_turn) {
    pid_t pid = fork_child();
    if (pid) {
        expect_success(pid);
        return;
    }
    setenv("IPCHEAP_COPY", copy, 1);
    setenv("IPCHEAP_EXTENTS", extents, 1);
    ipcheap_heap *heap = NULL;
    const char *words = NULL;
    int fd = new_segment(256 * MIB);
    EXPECT_EQ(ipcheap_attach(fd, -1, &heap), error);
    const char *bad = ipcheap_bad_variable(&words);
    EXPECT_EQ(bad != NULL, error != 0);
    if (error) {
        EXPECT(strcmp(bad, strcmp(copy, "fast") ? "IPCHEAP_EXTENTS" : "IPCHEAP_COPY") == 0);
        EXPECT(strstr(words, "learn|") == words);
        _exit(0);
    }
    unsigned char *bytes = calloc(1, MIB);
    for (int i = 0; i < 300; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(heap, MIB, &record), 0);
        ipcheap_copy(heap, record.data, bytes, MIB);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
        ipcheap_holder me = myself(heap);
        EXPECT_EQ(me.in_turn, in_turn);
        EXPECT_EQ(me.copies_past, past);
    }
    _exit(0);
}

static void a_way_can_be_pinned(void) {
#if defined(__x86_64__)
    uint32_t all = (1u << COPY_SIZES) - 1;
#else
    uint32_t all = 0;
#endif
    with("through", "lowest", 0, 0, 0);
    with("past", "lowest", 0, all, 0);
    with("through", "in-turn", 0, 0, 1);
    with("fast", "lowest", IPCHEAP_BAD_VALUE, 0, 0);
    with("learn", "highest", IPCHEAP_BAD_VALUE, 0, 0);
}

int main(void) {
    the_ways_take_turns();
    what_has_not_changed_is_compared_half_as_often();
    the_cheapest_go_counts();
    a_hurry_brings_the_comparison_forward();
    a_pinned_way_stays();
    a_variable_has_one_of_its_words();
    a_way_can_be_pinned();
    return 0;
}
