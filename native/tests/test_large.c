/* Large pages of the processor's: who gets them, and that nobody goes short of memory for it. */

#include <sys/mman.h>

#include "base/os.h"
#include "heap/extent.h"
#include "segment/commit.h"
#include "testing.h"

#define LARGE ((uint64_t)2 * MIB)
#define FRAME ((uint64_t)1920 * 1080 * 3)

/* Can this kernel make large pages of shared memory, and has it one to give? */
static bool kernel_can(void) {
    unsigned char *base;
    int fd = memfd_create("ipcheap.large", 0);
    EXPECT(fd >= 0 && ftruncate(fd, LARGE) == 0 && os_commit(fd, 0, PAGE) == 0);
    EXPECT_EQ(os_map(fd, LARGE, &base), 0);
    EXPECT_EQ((uintptr_t)base % LARGE, 0);
    bool can = os_make_large(base);
    os_unmap(base, LARGE);
    close(fd);
    return can;
}

/* How much of the mapping around an address is mapped in large pages. */
static uint64_t mapped_large(const void *address) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false;
    unsigned long first, end, kib = 0;
    EXPECT(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
            here = first <= (uintptr_t)address && (uintptr_t)address < end;
        else if (here && sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1)
            break;
    }
    fclose(maps);
    return (uint64_t)kib * 1024;
}

static void a_frame_lies_in_large_pages(void) {
    int fd = new_segment(1024 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record frame;
    EXPECT_EQ(ipcheap_allocate(heap, FRAME, &frame), 0);
    EXPECT_EQ((uintptr_t)frame.data % LARGE, 0);
    EXPECT_EQ(frame.nbytes, FRAME);
    memset(frame.data, 1, FRAME);
    EXPECT_EQ(statistics(heap).in_use, 3 * LARGE);
    EXPECT_EQ(statistics(heap).committed, 3 * LARGE);
    if (kernel_can()) EXPECT_EQ(mapped_large(frame.data), 3 * LARGE);
    expect_sound(heap);
    /* Another process, here another attachment, maps them as they are. */
    ipcheap_heap *other = attach(fd);
    const char *there = (const char *)at_offset(other, frame.offset);
    EXPECT_EQ(there[0] + there[LARGE] + there[FRAME - 1], 3);
    if (kernel_can()) EXPECT(mapped_large(there) >= 2 * LARGE);
    ipcheap_release(other);
    EXPECT_EQ(ipcheap_free(heap, &frame), 0);
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT_EQ(statistics(heap).committed, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

/* Parts of a large page may be given back, and come again, among others that are in use. */
static void large_pages_come_apart(void) {
    int fd = new_segment(1024 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record frame, parts[4];
    EXPECT_EQ(ipcheap_allocate(heap, FRAME, &frame), 0);
    memset(frame.data, 1, FRAME);
    EXPECT_EQ(ipcheap_free(heap, &frame), 0);
    for (int i = 0; i < 4; i++) {
        EXPECT_EQ(ipcheap_allocate(heap, LARGE / 4, &parts[i]), 0);
        memset(parts[i].data, 2 + i, LARGE / 4);
    }
    EXPECT_EQ(ipcheap_free(heap, &parts[1]), 0);
    EXPECT(ipcheap_trim(heap, 0) > 0);
    EXPECT_EQ(statistics(heap).committed, 3 * LARGE / 4);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_allocate(heap, FRAME, &frame), 0);
    memset(frame.data, 7, FRAME);
    for (int i = 0; i < 4; i++) {
        const char *data = parts[i].data;
        if (i != 1) EXPECT(data[0] == 2 + i && data[LARGE / 4 - 1] == 2 + i);
        if (i != 1) EXPECT_EQ(ipcheap_free(heap, &parts[i]), 0);
    }
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static uint64_t how_many_fit(uint64_t capacity, uint64_t nbytes) {
    int fd = new_segment(capacity);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    uint64_t count = 0;
    int error;
    while ((error = ipcheap_allocate(heap, nbytes, &record)) == 0) count++;
    EXPECT_EQ(error, IPCHEAP_HEAP_FULL);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
    return count;
}

static void what_is_rounded_up_costs_no_room_that_is_missed(void) {
    /* Nothing is rounded up by much, nor where it would matter. */
    EXPECT_EQ(how_many_fit(64 * MIB, FRAME), 64 * MIB / FRAME);
    EXPECT_EQ(how_many_fit(64 * MIB, LARGE - PAGE), 64 * MIB / (LARGE - PAGE));
    EXPECT_EQ(how_many_fit(512 * MIB, 5 * MIB), 512 / 5);
    EXPECT_EQ(how_many_fit(512 * MIB, LARGE + 1), 512 * MIB / (LARGE + PAGE));
    EXPECT(how_many_fit(512 * MIB, FRAME) * FRAME >= 512 * MIB / 32 * 31);
}

int main(void) {
    a_frame_lies_in_large_pages();
    large_pages_come_apart();
    what_is_rounded_up_costs_no_room_that_is_missed();
    return 0;
}
