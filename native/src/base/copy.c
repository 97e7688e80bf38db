/* copy.c - copies of what another process is to read. */

#include <string.h>

#include "base/shared.h"
#include "ipcheap/ipcheap.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <emmintrin.h>

#define LINE 64
#define USUAL_CACHE (UINT64_C(32) << 20) /* where the processor does not say how large it is */
enum { DETERMINISTIC_CACHES = 4, THE_SAME_OF_AMD = 0x8000001D, MOST_CACHES = 16 };

/* The size of the last cache, which several cores share; 0 when this leaf of cpuid has none. */
static uint64_t last_cache(uint32_t leaf) {
    uint64_t nbytes = 0;
    uint32_t level = 0;
    for (uint32_t i = 0; i < MOST_CACHES; i++) {
        uint32_t a, b, c, d;
        if (!__get_cpuid_count(leaf, i, &a, &b, &c, &d) || !(a & 0x1F)) break;
        if ((a >> 5 & 7) < level) continue;
        level = a >> 5 & 7;
        /* Ways, partitions, bytes of a line and sets, each less one. */
        nbytes = (uint64_t)((b >> 22) + 1) * ((b >> 12 & 0x3FF) + 1) * ((b & 0xFFF) + 1) *
                 ((uint64_t)c + 1);
    }
    return nbytes;
}

/* What is at least so long goes past the caches. */
static uint64_t far_bytes(void) {
    static _Atomic(uint64_t) known;
    uint64_t nbytes = atomic_load_explicit(&known, memory_order_relaxed);
    if (nbytes) return nbytes;
    nbytes = last_cache(DETERMINISTIC_CACHES);
    if (!nbytes) nbytes = last_cache(THE_SAME_OF_AMD);
    nbytes = (nbytes ? nbytes : USUAL_CACHE) / 4;
    atomic_store_explicit(&known, nbytes, memory_order_relaxed);
    return nbytes;
}

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

#else

static uint64_t far_bytes(void) { return UINT64_MAX; }

static void stream(char *to, const char *from, size_t nbytes) { memcpy(to, from, nbytes); }

#endif

void ipcheap_copy(void *to, const void *from, size_t nbytes) {
    if (LIKELY(nbytes < far_bytes())) {
        if (LIKELY(nbytes)) memcpy(to, from, nbytes);
    } else {
        stream(to, from, nbytes);
    }
}
