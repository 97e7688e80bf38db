/*
 * A failure of every call that can fail for lack of a resource.
 *
 * A victim acts as a scenario of the crash test says, and its k-th call to the operating system
 * fails (base/fault.h says which calls count); k = 1, 2, ... until no call fails. Either that call
 * alone fails, or all calls at the same place from then on, or all calls, until a function of the
 * library has returned an error. The error names what is lacking, the heap is sound, the same call
 * succeeds when repeated, and the victim leaves with every descriptor closed. The survivor then
 * finds what it would find if nothing had failed: each record once, in order, every byte accounted
 * for.
 *
 *   test_faults [scenario [k [lack]]]    only that one; only that call; 1: its place, 2: all
 */
#include <dirent.h>
#include <errno.h>

#include "crash.h"

#ifndef IPCHEAP_STEPS

int main(void) { return 77; }

#else

#include "base/fault.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

/* What the victim has noted. */
struct outcome {
    struct told told;
    long asked, struck; /* calls that could fail; calls that did */
    int errors;         /* errors of the library because of it */
    ipcheap_recovery recovery;
};

/* How long a resource is lacking: for one call, for all calls at one place, for all calls. */
enum lack { ONCE, HERE, EVERYWHERE, LACKS };
static const char *const lack_text[] = {"", ", and all at its place,", ", and all after it,"};

/* The hook ------------------------------------------------------------------------------- */

static struct {
    struct outcome *outcome;
    struct world *world;
    long first; /* the call that fails; 0: none */
    enum lack lack;
    bool numbers[256]; /* the errno of calls that failed */
} faults;

static bool is_lacking(const struct told *at, long call, const char *file, int line) {
    if (!at->file) return call == faults.first;
    return faults.lack == EVERYWHERE ||
           (faults.lack == HERE && at->line == line && strcmp(at->file, file) == 0);
}

static bool strike(int number, const char *file, int line) {
    struct outcome *o = faults.outcome;
    if (!is_lacking(&o->told, ++o->asked, file, line)) return false;
    o->struck++;
    o->told.file = file;
    o->told.line = line;
    faults.numbers[number] = true;
    return true;
}

/* Does the error name what was lacking? A participant that cannot be checked counts as alive. */
static bool is_right(int64_t error, int number) {
    switch (error) {
    case IPCHEAP_NO_MEMORY:
        return faults.numbers[ENOMEM];
    case IPCHEAP_MEMORY_FULL:
        return faults.numbers[ENOSPC];
    case IPCHEAP_CHANNEL_BUSY:
        return faults.numbers[ENOLCK];
    default:
        return error == IPCHEAP_SYSTEM && faults.numbers[number];
    }
}

/* A call returned an error. If that names what was lacking, nothing is lacking from now on. */
static bool struck(int64_t error) {
    int number = errno;
    if (!faults.outcome->struck || !ipcheap_fault_hook || !is_right(error, number)) return false;
    ipcheap_fault_hook = NULL;
    faults.outcome->errors++;
    if (!faults.world->heap) return true;
    int unsound = ipcheap_check(faults.world->heap, say_fault, NULL);
    EXPECT(unsound == 0 || unsound == IPCHEAP_HEAP_BUSY); /* where another thread has the lock */
    return true;
}

static void arm(struct world *w, struct outcome *outcome, long k, enum lack lack) {
    faults.outcome = outcome;
    faults.world = w;
    faults.first = k;
    faults.lack = lack;
    made_to_fail = struck;
    ipcheap_fault_hook = strike;
}

/* The victim ----------------------------------------------------------------------------- */

static int open_descriptors(void) {
    int count = 0;
    DIR *all = opendir("/proc/self/fd");
    EXPECT(all != NULL);
    while (readdir(all)) count++;
    closedir(all);
    return count;
}

static void expect_no_leak(void) {
#ifdef __SANITIZE_ADDRESS__
    EXPECT_EQ(__lsan_do_recoverable_leak_check(), 0);
#endif
}

static void be_victim(struct world *w, const struct scenario *s, struct outcome *o, long k,
                      enum lack lack) {
    alarm(20);
    int descriptors = open_descriptors();
    w->heap = s->joins ? NULL : attach(w->fd);
    if (s->prepare) s->prepare(w);
    meet(w, 1, 2);
    arm(w, o, k, lack);
    s->act(w);
    ipcheap_fault_hook = NULL;
    if (!s->leaves) {
        expect_sound(w->heap);
        ipcheap_release(w->heap);
    }
    EXPECT_EQ(open_descriptors(), descriptors);
    expect_no_leak();
    o->told.done = 1;
    _exit(0);
}

/* Without a survivor, in a process that has never had a heap. */
static void be_alone(const struct scenario *s, struct outcome *o, long k, enum lack lack) {
    struct world w = {.told = &o->told};
    alarm(20);
    int descriptors = open_descriptors();
    arm(&w, o, k, lack);
    s->act(&w);
    ipcheap_fault_hook = NULL;
    EXPECT_EQ(s->verify(&w), 0);
    EXPECT_EQ(open_descriptors(), descriptors);
    expect_no_leak();
    _exit(0);
}

/* The survivor --------------------------------------------------------------------------- */

/* Makes one run in a new process. */
static void survive(const struct scenario *s, struct outcome *o, long k, enum lack lack) {
    struct world w = {.told = &o->told};
    world_begin(&w, s);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) be_victim(&w, s, o, k, lack);
    world_meanwhile(&w, s);
    expect_success(pid);
    if (w.bell) EXPECT(bell_rings(&w));
    EXPECT_EQ(recover_now(w.heap, &o->recovery), 0);
    accept_all(&w, s);
    ipcheap_release(w.heap);
    expect_no_leak();
    _exit(0);
}

/* The driver ----------------------------------------------------------------------------- */

static long points, refused, failures;

/* Returns false once no call failed. */
static bool run(const struct scenario *s, struct outcome *o, long k, enum lack lack) {
    memset(o, 0, sizeof *o);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0 && s->capacity) survive(s, o, k, lack);
    if (pid == 0) be_alone(s, o, k, lack);
    int status;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (status) {
        failures++;
        fprintf(stderr, "FAILED: '%s' with call %ld%s failing (%s:%d)\n", s->name, k,
                lack_text[lack], o->told.file ? o->told.file : "none", o->told.line);
    }
    points += o->struck > 0;
    refused += o->errors > 0;
    return o->struck > 0;
}

static void run_scenario(const struct scenario *s, struct outcome *o) {
    run(s, o, 0, ONCE);
    for (enum lack lack = ONCE; lack < LACKS; lack++)
        for (long k = 1; run(s, o, k, lack); k++) {}
}

static int run_all(const struct scenario *s, struct outcome *o, int count, char **arguments) {
    int found = 0;
    for (; s->name; s++) {
        if (count > 1 && strcmp(arguments[1], s->name)) continue;
        found++;
        if (count > 2)
            run(s, o, atol(arguments[2]), count > 3 ? (enum lack)atoi(arguments[3]) : ONCE);
        else
            run_scenario(s, o);
    }
    return found;
}

int main(int count, char **arguments) {
    struct outcome *o = mmap(NULL, sizeof *o, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                             -1, 0);
    EXPECT(o != MAP_FAILED);
    memory_fails = true;
    int found = run_all(own_heap_scenarios, o, count, arguments);
    for (const struct crash_area *area = crash_areas; area->name; area++)
        found += run_all(area->scenarios, o, count, arguments);
    EXPECT(found > 0); /* otherwise no scenario has that name */
    if (failures) {
        printf("%ld failures at %ld points\n", failures, points);
        return 1;
    }
    printf("%ld failing calls in %d scenarios, %ld of them reported: nothing lost\n", points, found,
           refused);
    return 0;
}

#endif
