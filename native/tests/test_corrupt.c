/*
 * A heap whose bytes have been corrupted: errors and lost data are fine; a signal, a hang, or
 * a sanitizer's report is not.
 *
 * Every case runs in a child of its own and has a second.
 *
 *   test_corrupt             the corpus, then IPCHEAP_CORRUPT_CASES random cases
 *   test_corrupt SEED [END]  that random case, in this process; or all from SEED up to END
 *   test_corrupt -f FILE...  those cases, in this process
 *   test_corrupt -w SEED     writes that random case to its output, for the corpus
 */
#include "corrupt.h"

#include <dirent.h>
#include <time.h>

#include "testing.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Instrumented code takes two to four times as long, and a child's first page fault longer. */
enum { CASES = 400, SECONDS = 5 };
#else
enum { CASES = 1000, SECONDS = 1 };
#endif

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct totals {
    unsigned long cases, faults, operations, succeeded, corrupt;
    double longest;
    char slowest[64];
    struct corrupt_result *shared; /* shared with the children */
};

/* Runs a case in a child; prints how it failed, and returns false, if it did. */
static bool survives(struct totals *t, const unsigned char *bytes, size_t size, const char *name) {
    int status = 0;
    double start = now();
    *t->shared = (struct corrupt_result){0};
    pid_t pid = fork_child();
    if (pid == 0) {
        alarm(SECONDS + 1);
        *t->shared = corrupt_run(bytes, size);
        _exit(0);
    }
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    double took = now() - start;
    t->cases++;
    if (took > t->longest) {
        t->longest = took;
        snprintf(t->slowest, sizeof t->slowest, "%s", name);
    }
    t->operations += t->shared->operations;
    t->succeeded += t->shared->succeeded;
    t->corrupt += t->shared->corrupt;
    if (status == 0 && took <= SECONDS) return true;
    if (WIFSIGNALED(status))
        fprintf(stderr, "case %s: %s after %.2f s\n", name, strsignal(WTERMSIG(status)), took);
    else
        fprintf(stderr, "case %s: status %d after %.2f s\n", name, status, took);
    return false;
}

/* Retries a case once that was only late: the machine may have been busy. */
static void expect_survival(struct totals *t, const unsigned char *bytes, size_t size,
                            const char *name) {
    if (!survives(t, bytes, size, name) && !survives(t, bytes, size, name)) t->faults++;
}

static size_t read_case(const char *path, unsigned char bytes[CASE_MOST]) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    size_t size = fread(bytes, 1, CASE_MOST, file);
    fclose(file);
    return size;
}

static void replay_corpus(struct totals *t, const char *folder) {
    unsigned char bytes[CASE_MOST];
    DIR *directory = opendir(folder);
    EXPECT(directory != NULL);
    const struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.') continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        expect_survival(t, bytes, read_case(path, bytes), path);
    }
    closedir(directory);
    EXPECT(t->cases > 0);
}

static void run_random(struct totals *t, uint64_t first, uint64_t end) {
    unsigned char bytes[CASE_MOST];
    for (uint64_t seed = first; seed < end; seed++) {
        char name[32];
        snprintf(name, sizeof name, "%llu", (unsigned long long)seed);
        expect_survival(t, bytes, corrupt_random(seed, bytes), name);
    }
}

static int report(const struct totals *t) {
    fprintf(stderr,
            "%lu cases, %lu operations of which %lu succeeded and %lu said CORRUPT; "
            "longest %.3f s (%s); %lu faults\n",
            t->cases, t->operations, t->succeeded, t->corrupt, t->longest, t->slowest, t->faults);
    return t->faults != 0;
}

static void run_here(const unsigned char *bytes, size_t size) {
    struct corrupt_result r = corrupt_run(bytes, size);
    printf("%u operations, %u succeeded, %u said CORRUPT\n", r.operations, r.succeeded, r.corrupt);
}

int main(int count, char **arguments) {
    unsigned char bytes[CASE_MOST];
    if (count == 3 && strcmp(arguments[1], "-w") == 0) {
        size_t size = corrupt_random(strtoull(arguments[2], NULL, 0), bytes);
        return fwrite(bytes, 1, size, stdout) != size;
    }
    corrupt_prepare();
    if (count > 2 && strcmp(arguments[1], "-f") == 0) {
        for (int i = 2; i < count; i++) run_here(bytes, read_case(arguments[i], bytes));
        return 0;
    }
    if (count == 2) {
        run_here(bytes, corrupt_random(strtoull(arguments[1], NULL, 0), bytes));
        return 0;
    }
    struct totals t = {0};
    t.shared = mmap(NULL, sizeof *t.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                    0);
    EXPECT(t.shared != MAP_FAILED);
    if (count == 3) {
        run_random(&t, strtoull(arguments[1], NULL, 0), strtoull(arguments[2], NULL, 0));
        return report(&t);
    }
    const char *cases = getenv("IPCHEAP_CORRUPT_CASES");
    replay_corpus(&t, IPCHEAP_CORPUS);
    run_random(&t, 0, cases ? strtoull(cases, NULL, 0) : CASES);
    return report(&t);
}
