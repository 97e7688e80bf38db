/*
 * copy.c - copies of what another process is to read.
 *
 * Through the caches: each line of the target is fetched, or taken from the core that has read it
 * last. Past them, with stores that go to memory: nothing is fetched, and the reader gets it from
 * there. Where both cores share a cache the first is faster, until the copies under way fill it;
 * where they do not, to take a line back costs tens of nanoseconds, and the second is faster, up to
 * ten times. No processor tells, and a virtual one moves: so both are tried now and then.
 */
#include "base/copy.h"

#include "ipcheap/ipcheap.h"

#if defined(__x86_64__)

#include <emmintrin.h>
#include <x86intrin.h>

enum {
    LINE = 64,
    ORDERS = 24,  /* powers of two from SHORT_COPY on */
    TRIES = 3,    /* of either way, of which the best counts */
    FIRST = 16,   /* copies before they are compared, for the memory is new; then after ... */
    SOON = 64,    /* ... so many, if that has changed anything, or else ... */
    LATER = 1024, /* ... twice as many each time, up to this */
    WATCHED = 16, /* how many copies one of them is timed of */
    MIDDLING = 64 << 10,
    LARGE = 8 << 20,
};
enum way { THROUGH, PAST };

/* How copies of about one length have gone, in this thread and in one way of using memory. */
struct pace {
    enum way way;
    uint32_t copies, next; /* since the last comparison; after which there is another */
    uint64_t ticks[2];     /* for 64 KiB, the best of each way */
};

static _Thread_local struct pace paces[2][ORDERS];
static _Thread_local int memory_use;

static void stream_lines(char *to, const char *from, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += LINE) {
        const __m128i *source = (const __m128i *)(const void *)(from + at);
        __m128i *target = (__m128i *)(void *)(to + at);
        __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        _mm_stream_si128(target, a);
        _mm_stream_si128(target + 1, b);
        _mm_stream_si128(target + 2, c);
        _mm_stream_si128(target + 3, d);
    }
    _mm_sfence(); /* such stores keep no order of their own */
}

/* Whole lines past the caches, and what is left before and behind them as usual. */
static void stream(char *to, const char *from, size_t nbytes) {
    size_t before = -(uintptr_t)to % LINE, lines = (nbytes - before) / LINE * LINE;
    memcpy(to, from, before);
    stream_lines(to + before, from + before, lines);
    memcpy(to + before + lines, from + before + lines, nbytes - before - lines);
}

static void copy_in_way(enum way way, void *to, const void *from, size_t nbytes) {
    if (way == PAST)
        stream(to, from, nbytes);
    else
        memcpy(to, from, nbytes);
}

static uint64_t timed_copy(enum way way, void *to, const void *from, size_t nbytes) {
    uint64_t begin = __rdtsc();
    copy_in_way(way, to, from, nbytes);
    return (__rdtsc() - begin) * 65536 / nbytes;
}

/*
 * The reader pays for what has gone past his caches, and he may be the slower one. Of short copies
 * only one core's fight for another's lines is worse than that; long ones would not be in a cache
 * any more when they are read.
 */
static uint64_t most_ticks_past(uint64_t through, size_t nbytes) {
    if (nbytes < MIDDLING) return through / 6;
    return nbytes < LARGE ? through / 4 * 3 : through;
}

static void decide(struct pace *p, size_t nbytes) {
    uint64_t most = most_ticks_past(p->ticks[THROUGH], nbytes);
    enum way way = p->ticks[PAST] < most ? PAST : THROUGH;
    p->next = way == p->way ? (uint32_t)least(2 * p->next, LATER) : SOON;
    p->way = way;
}

static void compare(struct pace *p, void *to, const void *from, size_t nbytes) {
    uint32_t nth = p->copies++ - p->next;
    enum way way = nth < TRIES ? THROUGH : PAST;
    uint64_t ticks = timed_copy(way, to, from, nbytes);
    if (nth % TRIES == 0 || ticks < p->ticks[way]) p->ticks[way] = ticks;
    if (++nth < 2 * TRIES) return;
    decide(p, nbytes);
    p->copies = 0;
}

/* It takes twice as long as it did? Then compare them again, but not all the time. */
static void watch(struct pace *p, void *to, const void *from, size_t nbytes) {
    uint64_t ticks = timed_copy(p->way, to, from, nbytes);
    if (ticks > 2 * p->ticks[p->way] && p->copies > SOON) p->next = p->copies + 1;
}

void copy_memory_use(int use) { memory_use = use; }

void copy_long(void *to, const void *from, size_t nbytes) {
    uint32_t order = (uint32_t)(63 - __builtin_clzll(nbytes / SHORT_COPY | 1));
    struct pace *p = &paces[memory_use][least(order, ORDERS - 1)];
    if (UNLIKELY(!p->next)) p->next = FIRST;
    if (UNLIKELY(p->copies >= p->next)) {
        compare(p, to, from, nbytes);
        return;
    }
    if (UNLIKELY(p->copies % WATCHED == WATCHED - 1 && p->ticks[p->way]))
        watch(p, to, from, nbytes);
    else
        copy_in_way(p->way, to, from, nbytes);
    p->copies++;
}

#else

void copy_memory_use(int use) { (void)use; }

void copy_long(void *to, const void *from, size_t nbytes) { memcpy(to, from, nbytes); }

#endif

void ipcheap_copy(void *to, const void *from, size_t nbytes) { copy(to, from, nbytes); }
