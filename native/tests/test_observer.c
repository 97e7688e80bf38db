/*
 * A look at a corrupt heap: sentences and wrong numbers are fine; a signal, a hang, or a store to the
 * heap is not. The heaps and what is done to them are those of corrupt_image.h.
 *
 *   test_observer              IPCHEAP_OBSERVER_CASES random cases
 *   test_observer SEED [END]   that one, or those from SEED up to END
 */
#include <sys/mman.h>
#include <time.h>

#include "corrupt_image.h"
#include "ipcheap/ipcheap.h"
#include "testing.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CASES = 300, SECONDS = 5 };
#else
enum { CASES = 1000, SECONDS = 1 };
#endif

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Returns a sum over all that has memory in a file, and over where that is. */
static uint64_t sum_of(int fd) {
    static unsigned char page[PAGE];
    uint64_t sum = 0;
    off_t at = 0;
    while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
        ssize_t got = pread(fd, page, sizeof page, at);
        for (ssize_t i = 0; i < got; i++) sum = (sum ^ page[i]) * UINT64_C(0x100000001B3);
        sum += (uint64_t)at;
        at += (off_t)PAGE;
    }
    return sum;
}

/* What a look has found, in figures. */
struct found {
    uint64_t participants, channels, parties, holdings, sentences, records, nbytes;
};

static struct found all_of(const ipcheap_observer *o) {
    struct found found = {0};
    ipcheap_seen_participant participant;
    ipcheap_seen_channel channel;
    ipcheap_seen_party party;
    ipcheap_seen_holding holding;
    ipcheap_seen_text text;
    uint64_t at = 0;
    while (ipcheap_observer_next_participant(o, &at, &participant)) {
        EXPECT(strlen(participant.name) < sizeof participant.name);
        found.participants++;
    }
    for (at = 0; ipcheap_observer_next_channel(o, &at, &channel);) found.channels++;
    for (at = 0; ipcheap_observer_next_party(o, &at, &party);) found.parties++;
    for (at = 0; ipcheap_observer_next_text(o, &at, &text);) {
        EXPECT(strlen(text.text) > 10);
        found.sentences++;
    }
    for (at = 0; ipcheap_observer_next_holding(o, &at, &holding);) {
        found.records += holding.records;
        found.nbytes += holding.nbytes;
        found.holdings++;
    }
    return found;
}

static void an_unharmed_heap_is_seen_whole(void) {
    for (unsigned kind = 0; kind < IMAGES; kind++) {
        ipcheap_observer *o;
        ipcheap_seen_heap heap;
        struct copy copy = copy_open(kind, 0xFF);
        EXPECT_EQ(ipcheap_observe(copy.fd, -1, &o), 0);
        EXPECT_EQ(ipcheap_observer_look(o, IPCHEAP_LOOK_MEMORY), 0);
        ipcheap_observer_heap(o, &heap);
        struct found found = all_of(o);
        ipcheap_seen_text text;
        for (uint64_t at = 0; ipcheap_observer_next_text(o, &at, &text);)
            fprintf(stderr, "image %u: %s\n", kind, text.text);
        EXPECT_EQ(found.sentences, 0);
        EXPECT(found.participants > 0 && found.channels > 100 && found.parties > 4);
        EXPECT_EQ(found.records, heap.records);
        uint64_t in_use = heap.owned + heap.held + heap.pending + heap.fixed;
        EXPECT_EQ(found.nbytes, in_use);
        uint64_t pages = copy.image->geometry.zone_pages[DATA_ZONE];
        EXPECT_EQ(in_use + heap.idle + heap.free, pages << PAGE_SHIFT);
        ipcheap_observer_close(o);
        copy_close(&copy);
    }
}

static void look_at_case(uint64_t seed) {
    uint64_t state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int i = 0; i < 8; i++) next_random(&state);
    struct copy copy = copy_open((unsigned)(seed % IMAGES), (uint8_t)next_random(&state));
    ipcheap_observer *o;
    int error = ipcheap_observe(copy.fd, -1, &o);
    EXPECT_EQ(error, 0);
    uint64_t edits = 1 + next_random(&state) % (next_random(&state) % 4 ? 6 : 64);
    for (int looks = 0; looks < 2; looks++) {
        for (uint64_t i = 0; i < edits; i++) {
            struct edit edit = {
                .at = next_random(&state) % 3,
                .region = (uint8_t)next_random(&state),
                .how = (uint8_t)next_random(&state),
                .where = (uint16_t)next_random(&state),
                .value = next_random(&state) << 32 ^ next_random(&state),
            };
            spoil(&copy, &edit);
        }
        uint64_t before = sum_of(copy.fd);
        double start = now();
        error = ipcheap_observer_look(o, seed % 8 ? IPCHEAP_LOOK_MEMORY : 0);
        EXPECT(error == 0 || error == IPCHEAP_NO_MEMORY);
        all_of(o);
        double took = now() - start;
        if (took > SECONDS) fprintf(stderr, "case %llu: %.2f s\n", (unsigned long long)seed, took);
        EXPECT(took <= 2 * SECONDS);
        EXPECT_EQ(sum_of(copy.fd), before);
        /* An observer that comes later finds a heap, or none. */
        ipcheap_observer *later;
        error = ipcheap_observe(copy.fd, -1, &later);
        if (error == 0) ipcheap_observer_close(later);
        EXPECT(error == 0 || error == IPCHEAP_FORMAT_MISMATCH || error == IPCHEAP_NOT_FORMATTED);
    }
    ipcheap_observer_close(o);
    copy_close(&copy);
}

/* A file that has become shorter is read as far as it goes. */
static void a_truncated_heap_is_a_sentence(void) {
    struct copy copy = copy_open(0, 0);
    uint64_t lengths[] = {copy.image->geometry.data_at + 5000,
                          copy.image->geometry.pages_at + 100,
                          copy.image->geometry.participants_at + 300,
                          5000,
                          4096,
                          100,
                          0};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        ipcheap_observer *o;
        EXPECT_EQ(ipcheap_observe(copy.fd, -1, &o), i < 6 ? 0 : IPCHEAP_FORMAT_MISMATCH);
        EXPECT_EQ(ftruncate(copy.fd, (off_t)lengths[i]), 0);
        if (i == 6) break;
        EXPECT_EQ(ipcheap_observer_look(o, IPCHEAP_LOOK_MEMORY), 0);
        EXPECT(all_of(o).sentences > 0);
        ipcheap_observer_close(o);
    }
    copy_close(&copy);
}

int main(int argc, char **argv) {
    images_prepare();
    const char *cases = getenv("IPCHEAP_OBSERVER_CASES");
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 0;
    uint64_t end = argc > 2   ? strtoull(argv[2], NULL, 0)
                   : argc > 1 ? first + 1
                              : (cases ? strtoull(cases, NULL, 0) : CASES);
    if (argc == 1) {
        an_unharmed_heap_is_seen_whole();
        a_truncated_heap_is_a_sentence();
    }
    for (uint64_t seed = first; seed < end; seed++) look_at_case(seed);
    printf("%llu cases\n", (unsigned long long)(end - first));
    return 0;
}
