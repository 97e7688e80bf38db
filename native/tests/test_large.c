/* Large pages of the processor: which records get them, and that no heap holds less for it. */

#include <sys/mman.h>
#include <sys/shm.h>

#include "base/os.h"
#include "memory/extent.h"
#include "segment/commit.h"
#include "testing.h"

#define LARGE ((uint64_t)2 * MIB)
#define FRAME ((uint64_t)1920 * 1080 * 3)

/* Can this kernel make large pages of shared memory, and has it one left? */
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
    /* Another attachment, as of another process, maps them as large pages, too. */
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

/* Parts of a large page may be given back and committed anew while other parts are in use. */
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

static uint64_t fill(ipcheap_heap *heap, uint64_t nbytes) {
    ipcheap_record record;
    uint64_t count = 0;
    int error;
    while ((error = ipcheap_allocate(heap, nbytes, &record)) == 0) count++;
    EXPECT_EQ(error, IPCHEAP_HEAP_FULL);
    expect_sound(heap);
    return count;
}

static uint64_t how_many_fit(uint64_t capacity, uint64_t nbytes) {
    int fd = new_segment(capacity);
    ipcheap_heap *heap = attach(fd);
    uint64_t count = fill(heap, nbytes);
    ipcheap_release(heap);
    close(fd);
    return count;
}

/* A heap made for n records holds n; beside a slab one less, as without large pages. */
static void what_a_heap_is_made_for_fits(void) {
    const uint64_t bytes = round_up(FRAME, PAGE);
    for (uint64_t count = 8; count <= 32; count++)
        EXPECT_EQ(how_many_fit(count * bytes, FRAME), count);
    int fd = new_segment(72 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record small;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &small), 0);
    EXPECT_EQ(fill(heap, 8 * MIB - 8 * MIB / 33), 9);
    ipcheap_release(heap);
    close(fd);
}

/* System V segments have no large pages, so nothing is rounded up for them. */
static void system_v_segments_lose_nothing(void) {
    const uint64_t bytes = round_up(FRAME, PAGE), capacity = 64 * bytes;
    int shmid = shmget(IPC_PRIVATE, 2 * capacity + 256 * MIB, IPC_CREAT | SHM_NORESERVE | 0600);
    int fd = memfd_create("ipcheap-test", MFD_CLOEXEC);
    if (shmid < 0) return; /* a limit of the system */
    ipcheap_options options = {.capacity = capacity, .shm_kind = IPCHEAP_SHM_SYSV};
    ipcheap_heap *heap;
    int error = ipcheap_format(-1, shmid, &options);
    if (!error) error = ipcheap_attach(fd, shmid, &heap);
    shmctl(shmid, IPC_RMID, NULL); /* takes effect with the last detach */
    EXPECT_EQ(error, 0);
    EXPECT_EQ(fill(heap, FRAME), 64);
    ipcheap_release(heap);
    close(fd);
}

/* If the heads do not add up, a record that is not aligned to a large page is still allocated. */
static void broken_heads_are_no_reason_to_refuse(void) {
    int fd = new_segment(64 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record first, hole, record;
    EXPECT_EQ(ipcheap_allocate(heap, 33 << 10, &first), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 600 * PAGE, &hole), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 64 * MIB - 609 * PAGE, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &hole), 0);
    put(&heap->pages[(record.offset - heap->geometry.data_at) >> PAGE_SHIFT].word, 0);
    EXPECT_EQ(ipcheap_allocate(heap, LARGE - 15 * PAGE, &record), 0);
    ipcheap_release(heap);
    close(fd);
}

static void what_is_rounded_up_costs_no_room_that_is_missed(void) {
    /* Rounding up adds little, and only where there is room for it. */
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
    what_a_heap_is_made_for_fits();
    system_v_segments_lose_nothing();
    broken_heads_are_no_reason_to_refuse();
    return 0;
}
