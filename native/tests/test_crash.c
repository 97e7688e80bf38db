/*
 * A crash before every shared store.
 *
 * A victim prepares itself, then acts as the scenario says and is killed before its k-th store to
 * shared memory; k = 1, 2, ... until it reaches the end. A survivor that was there before, with
 * records and endpoints of its own, recovers and accounts for everything. What belongs to the
 * living is unchanged, what was sent arrives once and in order, the victim's last act is done or
 * not done, and the whole heap is usable. Then the same with a second victim, killed while it
 * recovers the first.
 *
 *   test_crash [area | scenario [k [j]]]    only those; only that one; only that step of it; only
 *                                           that step of recovery
 *   test_crash areas                        their names
 */
#include "crash.h"

#ifndef IPCHEAP_STEPS

int main(void) { return 77; }

#else

/* The hook ------------------------------------------------------------------------------- */

static struct told *hook_told;
static long steps_left;
static int each_line; /* how often each line counts; 0: always */
static struct {
    const char *file;
    int line, count;
} lines_seen[1024];

static bool counts(const char *file, int line) {
    if (!each_line) return true;
    size_t i = 0;
    while (lines_seen[i].file && (lines_seen[i].line != line || lines_seen[i].file != file)) i++;
    EXPECT(i < 1023);
    lines_seen[i].file = file;
    lines_seen[i].line = line;
    return ++lines_seen[i].count <= each_line;
}

static void step(const char *file, int line) {
    if (!counts(file, line) || --steps_left > 0) return;
    hook_told->file = file;
    hook_told->line = line;
    raise(SIGKILL);
}

static void arm(struct told *told, long steps, int times) {
    hook_told = told;
    steps_left = steps;
    each_line = times;
    memset(lines_seen, 0, sizeof lines_seen);
    ipcheap_step_hook = step;
}

/* The victims ----------------------------------------------------------------------------- */

static void be_victim(struct world *w, const struct scenario *s, long k) {
    alarm(20);
    if (!s->joins) w->heap = attach(w->fd);
    if (s->prepare) s->prepare(w);
    meet(w, 1, 2);
    arm(w->told, k, 0);
    s->act(w);
    ipcheap_step_hook = NULL;
    w->told->done = 1;
    _exit(0);
}

static void be_second_victim(struct world *w, struct told *told, long j, int times) {
    alarm(20);
    ipcheap_heap *heap = attach(w->fd);
    arm(told, j, times);
    ipcheap_recovery report;
    EXPECT_EQ(recover_now(heap, &report), 0);
    ipcheap_step_hook = NULL;
    told->done = 1;
    _exit(0);
}

static void expect_end(pid_t pid, const struct told *told) {
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (told->done)
        EXPECT_EQ(status, 0);
    else
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Makes one run in a new process: a victim killed at step k, a second at step j if not 0. */
static void survive(const struct scenario *s, struct told told[2], long k, long j, int times) {
    struct world w = {.told = told};
    world_begin(&w, s);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) be_victim(&w, s, k);
    world_meanwhile(&w, s);
    expect_end(pid, told);
    note_counts(&w);
    if (w.bell) EXPECT(bell_rings(&w)); /* because of a record, or of the death */
    if (j) {
        pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0) be_second_victim(&w, told + 1, j, times);
        expect_end(pid, told + 1);
        expect_counts(&w);
    }
    ipcheap_recovery report;
    EXPECT_EQ(recover_now(w.heap, &report), 0);
    EXPECT(report.participants <= 3);
    expect_counts(&w);
    accept_all(&w, s);
    ipcheap_release(w.heap);
    _exit(0);
}

/* The driver ----------------------------------------------------------------------------- */

static long crashes, failures;

/* Returns false once the victim in question reached the end. */
static bool run(const struct scenario *s, struct told told[2], long k, long j, int times) {
    memset(told, 0, 2 * sizeof *told);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) survive(s, told, k, j, times);
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (status) {
        failures++;
        fprintf(stderr, "FAILED: '%s' at step %ld (%s:%d)", s->name, k,
                told[0].file ? told[0].file : "end", told[0].line);
        if (j)
            fprintf(stderr, ", recovery at step %ld (%s:%d)", j,
                    told[1].file ? told[1].file : "end", told[1].line);
        fprintf(stderr, ", status %x\n", (unsigned)status);
    }
    bool died = !told[j ? 1 : 0].done;
    /* Neither killed nor at the end: the preparation does not work. */
    if (status && died && !told[j ? 1 : 0].file) return false;
    crashes += died;
    return died;
}

/* Runs every step; then some steps with every line of recovery. */
static void run_scenario(const struct scenario *s, struct told *told, long samples, int times) {
    long steps = 1;
    while (run(s, told, steps, 0, 0)) steps++;
    for (long sample = 0; sample <= samples && samples; sample++) {
        long k = 1 + (steps - 1) * sample / samples, j = 1;
        while (run(s, told, k, j, times)) j++;
    }
}

int main(int count, char **arguments) {
    int found = 0;
    struct told *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(told != MAP_FAILED);
    const char *samples = getenv("IPCHEAP_CRASH_SAMPLES"), *times = getenv("IPCHEAP_CRASH_TIMES");
    const char *only = count > 1 ? arguments[1] : NULL;
    bool list = only && strcmp(only, "areas") == 0;
    for (const struct crash_area *area = crash_areas; area->name; area++) {
        bool all = !only || strcmp(only, area->name) == 0;
        if (list) puts(area->name);
        for (const struct scenario *s = area->scenarios; s->name; s++) {
            if (!all && strcmp(only, s->name)) continue;
            found++;
            if (count > 2)
                run(s, told, atol(arguments[2]), count > 3 ? atol(arguments[3]) : 0,
                    times ? atoi(times) : 1);
            else
                run_scenario(s, told, samples ? atol(samples) : 3, times ? atoi(times) : 1);
        }
    }
    if (list) return 0;
    EXPECT(found > 0); /* otherwise nothing has that name */
    if (failures) {
        printf("%ld failures at %ld crash points\n", failures, crashes);
        return 1;
    }
    printf("%ld crash points in %d scenarios, all recovered\n", crashes, found);
    return 0;
}

#endif
