#include "segment/layout.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1024) * KIB)

#define DATA_ALIGN (2 * MIB)
#define SMALLEST (64 * KIB)
#define LARGEST (UINT64_C(1) << 44)

/* Returns smaller slabs for heaps below 4 MiB, so that a few classes fit side by side. */
static uint32_t slab_shift_for(uint64_t capacity) {
    uint32_t shift = PAGE_SHIFT;
    while (shift < SMALL_SLAB_SHIFT && capacity >> (shift + 7)) shift++;
    return shift;
}

/* Reserves bytes at the end of what has been placed so far; returns where they start. */
static uint64_t place(uint64_t *end, uint64_t bytes, uint64_t align) {
    uint64_t at = round_up(*end, align);
    *end = at + bytes;
    return at;
}

bool geometry_of(uint64_t capacity, struct geometry *g) {
    if (capacity < SMALLEST || capacity > LARGEST) return false;
    uint64_t data_pages = round_up(capacity, PAGE) / PAGE;
    uint64_t system_pages = round_up(128 * MIB + capacity / 4, PAGE) / PAGE;
    uint32_t shift = slab_shift_for(capacity);
    *g = (struct geometry){
        .capacity = capacity,
        .zone_first = {0, data_pages},
        .zone_pages = {data_pages, system_pages},
        .total_pages = data_pages + system_pages,
        .slab_shift = shift,
        .slab_stride = sizeof(struct slab) + ((UINT64_C(1) << shift) / BLOCK_ALIGN) * 8,
        .granules = round_up(data_pages << PAGE_SHIFT, UINT64_C(1) << shift) >> shift,
    };
    if (shift < SMALL_SLAB_SHIFT) {
        g->classes = size_class_of((UINT64_C(1) << shift) / 16) + 1; /* at least 16 in a slab */
    } else if (capacity < 16 * MIB) {
        g->classes = SMALL_CLASSES;
    } else {
        g->classes = CLASSES;
        g->large_slab_shift = LARGE_SLAB_SHIFT;
    }
    uint64_t end = PAGE;
    g->committed_at = place(&end, round_up(g->total_pages, 64) / 8, 64);
    g->metabits_at = round_up(end, 64);
    /* One bit for each page between here and the data zone, the bits' own pages included. */
    uint64_t rest = PARTICIPANTS * sizeof(struct participant_slot) +
                    (g->total_pages + 1) * sizeof(struct page) + g->granules * g->slab_stride +
                    2 * DATA_ALIGN;
    place(&end, round_up(rest / PAGE + end / PAGE + 64, 64) / 8 + PAGE, 64);
    g->always = round_up(end, PAGE);
    g->gap_at = g->always - PAGE; /* the spare page that was placed last */
    end = g->always;
    g->participants_at = place(&end, PARTICIPANTS * sizeof(struct participant_slot), PAGE);
    g->pages_at = place(&end, (g->total_pages + 1) * sizeof(struct page), PAGE);
    g->slabs_at = place(&end, g->granules * g->slab_stride, PAGE);
    g->data_at = place(&end, g->total_pages << PAGE_SHIFT, DATA_ALIGN);
    g->bytes = end;
    return true;
}

uint32_t layout_hash(void) {
    static const uint32_t facts[] = {
        sizeof(struct header),
        sizeof(struct page),
        sizeof(struct slab),
        sizeof(struct channel),
        sizeof(struct side),
        sizeof(struct participant_slot),
        PARTICIPANTS,
        CLASSES,
        BINS,
        PAGE_SHIFT,
        FIRST_CHUNK,
        DIRECTORY_CHUNKS,
        POSITION_BITS,
        SMALL_SLAB_SHIFT,
        LARGE_SLAB_SHIFT,
        USERS,
        sizeof(struct store_slot),
        sizeof(struct store_reader),
        sizeof(struct store_root),
        sizeof(struct bus_listener),
        sizeof(struct bus_root),
    };
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) hash = (hash ^ facts[i]) * 16777619u;
    return hash;
}
