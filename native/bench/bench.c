#include "bench.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void pin(size_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* The run ---------------------------------------------------------------------------------- */

void die(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, ipcheap_error_text(error));
    exit(1);
}

int repetitions_of(int count, char **arguments) {
    int repetitions = count > 1 ? atoi(arguments[1]) : 7;
    return repetitions < 1 || repetitions > MOST ? 7 : repetitions;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

static void row_of(const char *what, double value, const char *unit, double floor, const char *of) {
    printf("%-46s %9.1f %s", what, value, unit);
    if (of) printf("   %5.2f x %s", value / floor, of);
    printf("\n");
}

void row(const char *what, double ns, double floor, const char *of) {
    row_of(what, ns, "ns", floor, of);
}

void row_of_instructions(const char *what, double count, double floor, const char *of) {
    row_of(what, count, "instructions", floor, of);
}

/* Two processes ---------------------------------------------------------------------------- */

struct meeting *meeting;

void *shared_memory(size_t nbytes) {
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

void in_two_processes(void (*first)(double *result), void (*second)(void), double *result) {
    if (!meeting) meeting = shared_memory(sizeof *meeting);
    memset(meeting, 0, sizeof *meeting);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it would spin until its parent answers */
        pin(1);
        second();
        _exit(0);
    }
    first(result);
    waitpid(pid, NULL, 0);
}

void both_arrive(uint32_t nth) {
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < 2 * nth) pause_briefly();
}

enum { TRIPS = 20000 };

static void line_there(double *result) {
    both_start();
    double begin = now();
    for (uint64_t i = 1; i <= TRIPS; i++) {
        atomic_store_explicit(&meeting->sent, i, memory_order_release);
        while (atomic_load_explicit(&meeting->received, memory_order_acquire) != i) {}
    }
    *result = (now() - begin) / TRIPS;
}

static void line_back(void) {
    both_start();
    for (uint64_t i = 1; i <= TRIPS; i++) {
        while (atomic_load_explicit(&meeting->sent, memory_order_acquire) != i) {}
        atomic_store_explicit(&meeting->received, i, memory_order_release);
    }
}

double cache_line(void) {
    double result;
    in_two_processes(line_there, line_back, &result);
    return result;
}

/* Instructions ----------------------------------------------------------------------------- */

#if defined(__x86_64__)

enum { TRAP_FLAG = 1 << 8 }; /* of the processor: a trap after each instruction */

static volatile sig_atomic_t steps;

static void step(int number) {
    (void)number;
    steps++;
}

double instructions(void (*work)(void)) {
    struct sigaction counting = {.sa_handler = step}, before;
    sigaction(SIGTRAP, &counting, &before);
    steps = 0;
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
    work();
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(uint64_t)TRAP_FLAG);
    sigaction(SIGTRAP, &before, NULL);
    return steps;
}

#else

double instructions(void (*work)(void)) {
    (void)work;
    return -1;
}

#endif

/* A heap ----------------------------------------------------------------------------------- */

volatile uint64_t sink;

int new_segment(uint64_t capacity) {
    int fd = memfd_create("bench", MFD_CLOEXEC);
    ipcheap_options options = {.capacity = capacity, .shm_kind = IPCHEAP_SHM_MEMFD};
    MUST(ipcheap_format(fd, -1, &options));
    return fd;
}

ipcheap_heap *attached(int segment) {
    ipcheap_heap *heap;
    MUST(ipcheap_attach(segment, -1, &heap));
    return heap;
}

ipcheap_endpoint *endpoint(ipcheap_heap *heap, uint64_t id, uint64_t slots, int side) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *e;
    MUST(ipcheap_key_int(&key, id));
    MUST(ipcheap_add_record_channel(heap, &key, slots, &channel));
    MUST(ipcheap_claim(heap, &channel, side, &e));
    MUST(ipcheap_wait_peer(e, -1));
    return e;
}

double pairs(ipcheap_heap *heap, uint64_t nbytes, int count) {
    ipcheap_record record;
    MUST(ipcheap_allocate(heap, nbytes, &record));
    MUST(ipcheap_free(heap, &record));
    double begin = now();
    for (int i = 0; i < count; i++) {
        MUST(ipcheap_allocate(heap, nbytes, &record));
        MUST(ipcheap_free(heap, &record));
    }
    return (now() - begin) / count;
}
