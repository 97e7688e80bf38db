/*
 * A crash before every shared store.
 *
 * A victim prepares itself, then does what the scenario is about and is killed before its
 * k-th store to shared memory; k = 1, 2, ... until it gets to the end. A survivor that was
 * there before, with records and endpoints of its own, recovers, and finds all of it
 * accounted for: what belongs to the living is as it was, what was sent arrives once and in
 * order, what the dead was doing is done or not done, and the heap can be used to the end.
 * Then the same with a second one killed while it recovers the first.
 *
 *   test_crash [scenario [k [j]]]    only that one; only that step; only that step of recovery
 */
#include "crash.h"

#ifndef IPCHEAP_STEPS

int main(void) { return 77; }

#else

#include <sys/socket.h>

/* The hook ------------------------------------------------------------------------------- */

static struct told *hook_told;
static long steps_left;
static int each_line; /* how many times a line counts; 0: always */
static struct { const char *file; int line, count; } lines_seen[1024];

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

/* The survivor --------------------------------------------------------------------------- */

static const uint64_t own_bytes[OWN] = {100, 1000, 5000, 40000};

/* Waits a moment for the lock only: the dead are found when the time is up. */
static int recover_now(ipcheap_heap *heap, ipcheap_recovery *report) {
    ipcheap_set_lock_timeout(heap, 1000000);
    int error = ipcheap_recover(heap, report);
    ipcheap_set_lock_timeout(heap, 10000000000);
    return error;
}

static uint64_t drain_a(struct world *w) {
    uint64_t bytes = 0, limit = w->told->sending;
    ipcheap_record records[SLOTS];
    int count = 0;
    while (count < SLOTS && ipcheap_try_receive(w->a_in, &records[count]) == 0) {
        expect_filled(&records[count], w->a_received++);
        bytes += room_of(w, records[count++].nbytes);
    }
    EXPECT(w->a_received >= w->told->sent && w->a_received <= limit);
    for (int i = 0; i < count; i++) give_back(w, &records[i]);
    return bytes;
}

/* What comes again on B, or on C for the first time: each record on one of them or on none. */
static uint64_t drain_b_and_c(struct world *w) {
    uint64_t bytes = 0, number, last = 0;
    bool seen_b[MOST] = {false}, seen_c[MOST] = {false};
    ipcheap_record record;
    w->b_in = claim(w->heap, &w->b, IPCHEAP_CONSUMER);
    while (ipcheap_try_receive(w->b_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_b[number]);
        last = number;
        seen_b[number] = true;
        bytes += room_of(w, record.nbytes);
        give_back(w, &record);
    }
    last = 0;
    while (w->c_in && ipcheap_try_receive(w->c_in, &record) == 0) {
        memcpy(&number, record.data, sizeof number);
        expect_filled(&record, number);
        EXPECT(number >= last && number < w->b_sent && !seen_c[number]);
        last = number;
        seen_c[number] = true;
        bytes += room_of(w, record.nbytes);
        give_back(w, &record);
    }
    for (uint64_t i = 0; i < w->b_sent; i++) {
        enum fate fate = w->told->fate[i];
        EXPECT(!seen_b[i] || !seen_c[i]);
        if (fate == UNTOUCHED) EXPECT(seen_b[i]);
        if (fate == GIVEN) EXPECT(!seen_b[i] && !seen_c[i]);
        if (fate == FORWARDING) EXPECT(seen_b[i] || seen_c[i]);
        if (fate == FORWARDED) EXPECT(seen_c[i]);
    }
    ipcheap_endpoint_release(w->b_in);
    return bytes;
}

/* The channel goes on, with the survivor on both sides. */
static void use_channel(struct world *w, uint64_t id, ipcheap_endpoint *out, ipcheap_endpoint *in) {
    ipcheap_channel channel = record_channel(w->heap, id, SLOTS);
    if (!out) out = claim(w->heap, &channel, IPCHEAP_PRODUCER);
    if (!in) in = claim(w->heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    for (uint64_t round = 0; round < 3 * SLOTS; round += SLOTS) {
        for (uint64_t i = round; i < round + SLOTS; i++) {
            record = make(w, bytes_of(i), i);
            EXPECT_EQ(ipcheap_try_send(out, &record), 0);
        }
        for (uint64_t i = round; i < round + SLOTS; i++) {
            EXPECT_EQ(ipcheap_try_receive(in, &record), 0);
            expect_filled(&record, i);
            give_back(w, &record);
        }
    }
    ipcheap_endpoint_release(out);
    ipcheap_endpoint_release(in);
    remove_id(w, id, 0);
}

static void use_memory(struct world *w) {
    ipcheap_record records[48];
    for (int i = 0; i < 48; i++) records[i] = make(w, i % 4 ? 900 : 9000, (uint64_t)i);
    expect_sound(w->heap);
    for (int i = 0; i < 48; i++) {
        expect_filled(&records[i], (uint64_t)i);
        give_back(w, &records[i]);
    }
}

static void accept_all(struct world *w, const struct scenario *s) {
    expect_sound(w->heap);
    uint64_t in_use = statistics(w->heap).in_use, bytes = 0;
    EXPECT_EQ(statistics(w->heap).participants, 1);
    expect_sound(w->heap);
    for (int i = 0; i < OWN; i++) bytes += room_of(w, own_bytes[i]);
    if (w->a_in) bytes += drain_a(w);
    if (w->b.shape) bytes += drain_b_and_c(w);
    if (s->verify) bytes += s->verify(w);
    EXPECT_EQ(in_use, bytes);
    expect_sound(w->heap);
    use_memory(w);
    use_channel(w, A, NULL, w->a_in);
    use_channel(w, B, w->b_out, NULL);
    use_channel(w, C, NULL, w->c_in);
    for (int i = 0; i < OWN; i++) {
        expect_filled(&w->own[i], (uint64_t)i);
        give_back(w, &w->own[i]);
    }
    expect_sound(w->heap);
    ipcheap_statistics left = statistics(w->heap);
    EXPECT_EQ(left.in_use, 0);
    EXPECT_EQ(left.records, 0);
    EXPECT_EQ(left.extents, 0);
    EXPECT_EQ(left.slabs, 0);
    EXPECT_EQ(left.channels, 0);
    EXPECT_EQ(left.largest_free, s->capacity);
    EXPECT(ipcheap_trim(w->heap, 0) >= 0);
    EXPECT_EQ(statistics(w->heap).committed, 0);
    /* Of the directory one table is left, and chunks. */
    uint64_t pages = get(&w->heap->header->zones[SYSTEM_ZONE].used), chunks = 0;
    for (uint64_t i = 0; i < DIRECTORY_CHUNKS; i++)
        if (get(&w->heap->header->chunks[i])) chunks += (UINT64_C(16) << i);
    uint64_t table_log = get(&w->heap->header->table) >> 56;
    EXPECT_EQ(pages, chunks + ((UINT64_C(4) << table_log) >> PAGE_SHIFT));
    expect_sound(w->heap);
}

static void meet(struct world *w, int end, int times) {
    char byte = 0;
    for (int i = 0; i < times; i++) {
        EXPECT_EQ(write(w->meet[end], &byte, 1), 1);
        EXPECT_EQ(read(w->meet[end], &byte, 1), 1);
    }
}

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

/* One run in a process of its own: a victim killed at step k, a second one at step j, or none. */
static void survive(const struct scenario *s, struct told told[2], long k, long j, int times) {
    struct world w = {.told = told};
    alarm(30);
    w.fd = new_segment(s->capacity);
    w.heap = attach(w.fd);
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, w.meet), 0);
    for (int i = 0; i < OWN; i++) w.own[i] = make(&w, own_bytes[i], (uint64_t)i);
    if (s->before) s->before(&w);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) be_victim(&w, s, k);
    close(w.meet[1]);
    meet(&w, 0, 1);
    if (s->meanwhile) s->meanwhile(&w);
    meet(&w, 0, 1);
    expect_end(pid, told);
    if (w.bell) EXPECT(bell_rings(&w)); /* for a record, or for the death */
    if (j) {
        pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0) be_second_victim(&w, told + 1, j, times);
        expect_end(pid, told + 1);
    }
    ipcheap_recovery report;
    EXPECT_EQ(recover_now(w.heap, &report), 0);
    EXPECT(report.participants <= 3);
    accept_all(&w, s);
    ipcheap_release(w.heap);
    _exit(0);
}

/* The driver ----------------------------------------------------------------------------- */

static const struct scenario *const kinds[] = {
    memory_scenarios, directory_scenarios, static_scenarios, channel_scenarios,
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static long crashes, failures;

/* False once the victim in question got to the end. */
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
    /* Neither killed nor at the end: what comes before does not work. */
    if (status && died && !told[j ? 1 : 0].file) return false;
    crashes += died;
    return died;
}

/* Every step; then some of them with every line of recovery. */
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
    for (int kind = 0; kind < KINDS; kind++)
        for (const struct scenario *s = kinds[kind]; s->name; s++) {
            if (only && strcmp(only, s->name)) continue;
            found++;
            if (count > 2)
                run(s, told, atol(arguments[2]), count > 3 ? atol(arguments[3]) : 0,
                    times ? atoi(times) : 1);
            else
                run_scenario(s, told, samples ? atol(samples) : 3, times ? atoi(times) : 1);
        }
    EXPECT(found > 0); /* or there is no scenario of that name */
    if (failures) {
        printf("%ld failures at %ld crash points\n", failures, crashes);
        return 1;
    }
    printf("%ld crash points in %d scenarios, all recovered\n", crashes, found);
    return 0;
}

#endif
