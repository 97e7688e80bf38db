/*
 * bench_streams - what a stream costs, beside bare rings that do the same.
 *
 *   bench_streams [repetitions]
 *
 * Every ring has a megabyte. Bursts of the floors and of the stream alternate, so that their ratios
 * hold on a noisy machine. A cache line is sent there and back before and after each round of
 * bursts: rounds in which the two processors were far apart do not count if enough others are left.
 */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { RING = 1 << 20, MOST_PORTION = 1 << 16, LAPS = 2 /* before the time is taken */ };
enum { FAR = 2 /* times the usual round trip */, ENOUGH = 3 /* rounds */, TRIALS = 3 };

static const struct portion {
    const char *name;
    size_t nbytes;
    uint64_t count; /* in a burst */
} portions[] = {
    {"64 B", 64, 1 << 18},
    {"256 B", 256, 1 << 17},
    {"4 KiB", 4096, 1 << 14},
    {"64 KiB", 65536, 1 << 10},
};

static size_t nbytes; /* of a portion */
static uint64_t warm_up, count;
static unsigned char *ring;    /* mapped twice in a row */
static unsigned char *private; /* a portion, which each process has for itself */
static int segment;

/* Portions --------------------------------------------------------------------------------- */

static void stamp(uint64_t number) { memcpy(private, &number, sizeof number); }

static void look(void) {
    uint64_t number;
    memcpy(&number, private, sizeof number);
    sink = number;
}

ALWAYS_INLINE void fill_words(void *place, uint64_t number) {
    uint64_t *words = place;
    for (size_t i = 0; i < nbytes / sizeof *words; i++) words[i] = number + i;
}

ALWAYS_INLINE void sum_words(const void *place) {
    const uint64_t *words = place;
    uint64_t sum = 0;
    for (size_t i = 0; i < nbytes / sizeof *words; i++) sum += words[i];
    sink = sum;
}

/* Bare rings: each side has a position in a line of its own, and caches the other's ---------- */

enum way { ONCE, TWICE, IN_PLACE };

/* Copies in one piece, or in two at the end of a ring that is mapped once. */
ALWAYS_INLINE void into_ring(enum way way, uint64_t position) {
    size_t at = position % RING, first = nbytes;
    if (way == ONCE && first > RING - at) first = RING - at;
    memcpy(ring + at, private, first);
    if (way == ONCE && first < nbytes) memcpy(ring, private + first, nbytes - first);
}

ALWAYS_INLINE void from_ring(enum way way, uint64_t position) {
    size_t at = position % RING, first = nbytes;
    if (way == ONCE && first > RING - at) first = RING - at;
    memcpy(private, ring + at, first);
    if (way == ONCE && first < nbytes) memcpy(private + first, ring, nbytes - first);
}

struct bare {
    uint64_t position, seen;
};

ALWAYS_INLINE void bare_write(enum way way, struct bare *own, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        while (own->position + nbytes - own->seen > RING)
            own->seen = atomic_load_explicit(&meeting->received, memory_order_acquire);
        if (way == IN_PLACE) {
            fill_words(ring + own->position % RING, i);
        } else {
            stamp(i);
            into_ring(way, own->position);
        }
        own->position += nbytes;
        atomic_store_explicit(&meeting->sent, own->position, memory_order_release);
    }
    while (atomic_load_explicit(&meeting->received, memory_order_acquire) != own->position) {}
}

ALWAYS_INLINE void bare_read(enum way way, struct bare *own, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        while (own->seen - own->position < nbytes)
            own->seen = atomic_load_explicit(&meeting->sent, memory_order_acquire);
        if (way == IN_PLACE) {
            sum_words(ring + own->position % RING);
        } else {
            from_ring(way, own->position);
            look();
        }
        own->position += nbytes;
        atomic_store_explicit(&meeting->received, own->position, memory_order_release);
    }
}

ALWAYS_INLINE void bare_out(enum way way, double *result) {
    struct bare own = {0, 0};
    both_arrive(1);
    bare_write(way, &own, warm_up);
    both_arrive(2);
    double begin = now();
    bare_write(way, &own, count);
    *result = (now() - begin) / (double)count;
}

ALWAYS_INLINE void bare_in(enum way way) {
    struct bare own = {0, 0};
    both_arrive(1);
    bare_read(way, &own, warm_up);
    both_arrive(2);
    bare_read(way, &own, count);
}

static void once_out(double *result) { bare_out(ONCE, result); }
static void once_in(void) { bare_in(ONCE); }
static void twice_out(double *result) { bare_out(TWICE, result); }
static void twice_in(void) { bare_in(TWICE); }
static void in_place_out(double *result) { bare_out(IN_PLACE, result); }
static void in_place_in(void) { bare_in(IN_PLACE); }

/* fdringbuf's way: one shared count of unread bytes, to which one side adds and the other takes. */

static void counted_write(uint64_t *position, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        while (RING - atomic_load_explicit(&meeting->sent, memory_order_acquire) < nbytes) {}
        stamp(i);
        into_ring(ONCE, *position);
        *position += nbytes;
        atomic_fetch_add_explicit(&meeting->sent, nbytes, memory_order_acq_rel);
    }
    while (atomic_load_explicit(&meeting->sent, memory_order_acquire) != 0) {}
}

static void counted_read(uint64_t *position, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        while (atomic_load_explicit(&meeting->sent, memory_order_acquire) < nbytes) {}
        from_ring(ONCE, *position);
        look();
        *position += nbytes;
        atomic_fetch_sub_explicit(&meeting->sent, nbytes, memory_order_acq_rel);
    }
}

static void counted_out(double *result) {
    uint64_t position = 0;
    both_arrive(1);
    counted_write(&position, warm_up);
    both_arrive(2);
    double begin = now();
    counted_write(&position, count);
    *result = (now() - begin) / (double)count;
}

static void counted_in(void) {
    uint64_t position = 0;
    both_arrive(1);
    counted_read(&position, warm_up);
    both_arrive(2);
    counted_read(&position, count);
}

/* The stream ------------------------------------------------------------------------------- */

static ipcheap_endpoint *claimed(ipcheap_heap *heap, int side) {
    ipcheap_key key;
    ipcheap_channel channel;
    ipcheap_endpoint *e;
    ipcheap_stream_shape shape = {.capacity = RING, .item = {.itemsize = 1, .type = "|u1"}};
    MUST(ipcheap_key_int(&key, 1));
    MUST(ipcheap_add_stream(heap, &key, &shape, &channel));
    MUST(ipcheap_claim(heap, &channel, side, &e));
    MUST(ipcheap_wait_peer(e, -1));
    return e;
}

static void stream_write(ipcheap_endpoint *writer, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        stamp(i);
        for (uint64_t done = 0; done < nbytes;) {
            int64_t went = ipcheap_stream_write(writer, private + done, nbytes - done);
            if (went == IPCHEAP_WOULD_BLOCK) continue;
            MUST(went);
            done += (uint64_t)went;
        }
    }
}

static void stream_read(ipcheap_endpoint *reader, uint64_t times) {
    for (uint64_t i = 0; i < times; i++) {
        int64_t came;
        while ((came = ipcheap_stream_read(reader, private, nbytes, nbytes)) ==
               IPCHEAP_WOULD_BLOCK);
        MUST(came);
        look();
    }
}

static void open_window(ipcheap_endpoint *e, ipcheap_window *window) {
    int error;
    while ((error = ipcheap_window_open(e, nbytes, nbytes, 0, window)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

static void window_write(ipcheap_endpoint *writer, uint64_t times) {
    ipcheap_window window;
    for (uint64_t i = 0; i < times; i++) {
        open_window(writer, &window);
        fill_words(window.data, i);
        MUST(ipcheap_window_close(writer, nbytes));
    }
}

static void window_read(ipcheap_endpoint *reader, uint64_t times) {
    ipcheap_window window;
    for (uint64_t i = 0; i < times; i++) {
        open_window(reader, &window);
        sum_words(window.data);
        MUST(ipcheap_window_close(reader, nbytes));
    }
}

typedef void moving(ipcheap_endpoint *endpoint, uint64_t times);

static void side_out(moving *move, double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *writer = claimed(heap, IPCHEAP_WRITER);
    both_arrive(1);
    move(writer, warm_up);
    both_arrive(2);
    double begin = now();
    move(writer, count);
    both_arrive(3); /* when all has been read */
    *result = (now() - begin) / (double)count;
    ipcheap_endpoint_release(writer);
    ipcheap_release(heap);
}

static void side_in(moving *move) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *reader = claimed(heap, IPCHEAP_READER);
    both_arrive(1);
    move(reader, warm_up);
    both_arrive(2);
    move(reader, count);
    both_arrive(3);
    ipcheap_endpoint_release(reader);
    ipcheap_release(heap);
}

static void stream_out(double *result) { side_out(stream_write, result); }
static void stream_in(void) { side_in(stream_read); }
static void window_out(double *result) { side_out(window_write, result); }
static void window_in(void) { side_in(window_read); }

/* The run ---------------------------------------------------------------------------------- */

static unsigned char *mapped_twice(void) {
    int fd = memfd_create("ring", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, RING) != 0) exit(1);
    unsigned char *start = mmap(NULL, 2 * RING, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) exit(1);
    for (int half = 0; half < 2; half++)
        if (mmap(start + half * RING, RING, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                 0) == MAP_FAILED)
            exit(1);
    close(fd);
    return start;
}

enum what { LINE, RING_ONCE, RING_TWICE, RING_COUNTED, RING_IN_PLACE, COPIES, WINDOWS, KINDS };

enum { SIZES = sizeof portions / sizeof *portions };

/* What each round found, for each portion; the line is the slower one of before and after. */
static double found[SIZES][KINDS][MOST];

/* How often others have taken the processor from this process and its children. */
static long interruptions(void) {
    struct rusage own, children;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &children);
    return own.ru_nivcsw + children.ru_nivcsw;
}

/* Repeats a burst that was interrupted: the least interrupted one counts. */
static double burst(void (*out)(double *result), void (*in)(void)) {
    double best = 0;
    long least = LONG_MAX;
    for (int trial = 0; trial < TRIALS && least > 0; trial++) {
        double ns;
        long before = interruptions();
        in_two_processes(out, in, &ns);
        long times = interruptions() - before;
        if (times < least) {
            least = times;
            best = ns;
        }
    }
    return best;
}

static void bursts(const struct portion *portion, double (*results)[MOST], int round) {
    nbytes = portion->nbytes;
    count = portion->count;
    warm_up = LAPS * RING / nbytes;
    double before = cache_line();
    results[RING_ONCE][round] = burst(once_out, once_in);
    results[RING_TWICE][round] = burst(twice_out, twice_in);
    results[COPIES][round] = burst(stream_out, stream_in);
    results[RING_COUNTED][round] = burst(counted_out, counted_in);
    results[RING_IN_PLACE][round] = burst(in_place_out, in_place_in);
    results[WINDOWS][round] = burst(window_out, window_in);
    double after = cache_line();
    results[LINE][round] = before > after ? before : after;
}

/* Returns the usual round trip of a cache line: the tenth part were faster. */
static double usual_line(int rounds) {
    static double all[SIZES * MOST];
    int lines = 0;
    for (int size = 0; size < SIZES; size++)
        for (int round = 0; round < rounds; round++) all[lines++] = found[size][LINE][round];
    median(all, lines);
    return all[lines / 10];
}

/* Moves the rounds that count to the front; returns how many they are. */
static int counted(double (*results)[MOST], int rounds, double usual) {
    int near = 0;
    for (int round = 0; round < rounds; round++) near += results[LINE][round] <= FAR * usual;
    if (near < ENOUGH) return rounds;
    near = 0;
    for (int round = 0; round < rounds; round++) {
        if (results[LINE][round] > FAR * usual) continue;
        for (int kind = 0; kind < KINDS; kind++) results[kind][near] = results[kind][round];
        near++;
    }
    return near;
}

static void print(const struct portion *portion, double (*results)[MOST], int rounds) {
    double ns[KINDS];
    char name[80];
    for (int kind = 0; kind < KINDS; kind++) ns[kind] = median(results[kind], rounds);
    snprintf(name, sizeof name, "floor: ring, %s, mapped once", portion->name);
    row(name, ns[RING_ONCE], 0, NULL);
    snprintf(name, sizeof name, "floor: ring, %s, mapped twice", portion->name);
    row(name, ns[RING_TWICE], ns[RING_ONCE], "mapped once");
    snprintf(name, sizeof name, "floor: ring, %s, one shared count", portion->name);
    row(name, ns[RING_COUNTED], ns[RING_ONCE], "mapped once");
    snprintf(name, sizeof name, "stream, %s, write + read", portion->name);
    row(name, ns[COPIES], ns[RING_ONCE], "the ring mapped once");
    row("", ns[COPIES], ns[RING_TWICE], "the ring mapped twice");
    row("", ns[COPIES], ns[RING_COUNTED], "the ring with one shared count");
    snprintf(name, sizeof name, "floor: ring, %s, filled and summed", portion->name);
    row(name, ns[RING_IN_PLACE], 0, NULL);
    snprintf(name, sizeof name, "stream, %s, windows filled and summed", portion->name);
    row(name, ns[WINDOWS], ns[RING_IN_PLACE], "the ring");
}

int main(int given, char **arguments) {
    int rounds = repetitions_of(given, arguments);
    ring = mapped_twice();
    private = aligned_alloc(4096, MOST_PORTION);
    if (!private) return 1;
    memset(private, 1, MOST_PORTION);
    segment = new_segment(UINT64_C(16) << 20);
    pin(0);
    for (int round = 0; round < rounds; round++)
        for (int size = 0; size < SIZES; size++) bursts(&portions[size], found[size], round);
    double usual = usual_line(rounds);
    row("floor: cache-line round trip, beside streams", usual, 0, NULL);
    for (int size = 0; size < SIZES; size++)
        print(&portions[size], found[size], counted(found[size], rounds, usual));
    close(segment);
    return 0;
}
