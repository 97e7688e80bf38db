/*
 * copy.c - copies of what another process is to read.
 *
 * Through the caches, each line of the target is fetched first, often from the core that read it
 * last. Past them, stores go straight to memory: nothing is fetched, and the reader takes the
 * data from memory. Between cores that share a cache the first way is faster, until the copies
 * under way fill that cache. Between others it costs tens of nanoseconds to take a line back, and
 * the second way is up to ten times as fast. So both are tried now and then: see trial.h.
 */
#include "base/copy.h"

#include <string.h>

struct choice copy_choice = {.name = "IPCHEAP_COPY", .words = "learn|through|past"};

#if defined(__x86_64__)

#include <emmintrin.h>
#include <x86intrin.h>

enum {
    LINE = 64,
    WATCHED = 16, /* of so many copies in the usual way, one is timed */
    MIDDLING = 64 << 10,
    LARGE = 8 << 20,
};
enum way { THROUGH, PAST };
static const struct schedule schedule = {.first = 16, .soon = 64, .later = 1024, .tries = 3};

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
    _mm_sfence(); /* these stores are not ordered with later ones */
}

/* Copies whole lines past the caches, and what lies before and behind them through the caches. */
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

/* Returns the processor's ticks for 64 KiB. */
static uint64_t timed_copy(enum way way, void *to, const void *from, size_t nbytes) {
    uint64_t begin = __rdtsc();
    copy_in_way(way, to, from, nbytes);
    return (__rdtsc() - begin) * 65536 / nbytes;
}

/*
 * Returns how many ticks a copy past the caches may take to be preferred. The reader pays for what
 * has bypassed the caches, and the reader may be the slower side. For short copies nothing but
 * taking lines back from another core costs more than that. Long copies have left the caches anyway
 * by the time they are read.
 */
static uint64_t most_ticks_past(uint64_t through, size_t nbytes) {
    if (nbytes < MIDDLING) return through / 6;
    return nbytes < LARGE ? through / 4 * 3 : through;
}

static void decide(struct copies *c, uint32_t order, size_t nbytes) {
    struct trial *t = &c->trials[order];
    enum way way = t->best[PAST] < most_ticks_past(t->best[THROUGH], nbytes) ? PAST : THROUGH;
    trial_decide(t, &schedule, way);
    c->past = (c->past & ~(1u << order)) | (uint32_t)way << order;
}

void copies_begin(struct copies *c) {
    int pinned = os_choice(&copy_choice);
    for (int i = 0; i < COPY_SIZES; i++) trial_begin(&c->trials[i], &schedule, pinned);
    c->past = pinned == 1 + PAST ? (1u << COPY_SIZES) - 1 : 0;
}

void copy_long(struct copies *c, void *to, const void *from, size_t nbytes) {
    uint32_t order = (uint32_t)(63 - __builtin_clzll(nbytes / SHORT_COPY | 1));
    if (order >= COPY_SIZES) order = COPY_SIZES - 1;
    struct trial *t = &c->trials[order];
    bool timed = trial_is_timed(t, &schedule);
    bool watched = t->best[t->way] && t->goes % WATCHED == WATCHED - 1;
    uint64_t ticks = 0;
    if (LIKELY(!timed && !watched))
        copy_in_way(t->way, to, from, nbytes);
    else
        ticks = timed_copy(t->way, to, from, nbytes);
    /* Twice as slow as it was: something has changed. */
    if (!timed && watched && ticks > 2 * t->best[t->way]) trial_hurry(t, &schedule);
    if (UNLIKELY(trial_go(t, &schedule, ticks))) decide(c, order, nbytes);
}

#else

void copies_begin(struct copies *c) { *c = (struct copies){0}; }

void copy_long(struct copies *c, void *to, const void *from, size_t nbytes) {
    (void)c;
    memcpy(to, from, nbytes);
}

#endif
