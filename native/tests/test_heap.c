/* Allocation: sizes, reuse, filling up, giving back. */

#include "testing.h"

static void sizes_from_nothing_to_half_a_gigabyte(void) {
    int fd = new_segment(1024 * MIB);
    ipcheap_heap *heap = attach(fd);
    const uint64_t sizes[] = {0, 1, 63, 64, 65, 4096, 4097, 32768, 32769, MIB, 64 * MIB, 512 * MIB};
    ipcheap_record records[sizeof sizes / sizeof *sizes];
    ipcheap_statistics before = statistics(heap);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        EXPECT_EQ(ipcheap_allocate(heap, sizes[i], &records[i]), 0);
        EXPECT_EQ((uintptr_t)records[i].data % 64, 0);
        EXPECT_EQ(records[i].nbytes, sizes[i]);
        if (sizes[i]) {
            memset(records[i].data, 1, 1);
            memset((char *)records[i].data + sizes[i] - 1, 2, 1);
        }
    }
    expect_sound(heap);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    ipcheap_statistics after = statistics(heap);
    EXPECT_EQ(after.in_use, before.in_use);
    EXPECT_EQ(after.largest_free, before.largest_free);
    EXPECT(after.committed <= 64 * MIB);
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    EXPECT_EQ(statistics(heap).committed, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void a_heap_of_small_records_fills_to_the_end(uint64_t capacity) {
    int fd = new_segment(capacity);
    ipcheap_heap *heap = attach(fd);
    size_t most = capacity / 64 + 1, count = 0;
    ipcheap_record *records = malloc(most * sizeof *records);
    while (ipcheap_allocate(heap, 64, &records[count]) == 0) count++;
    EXPECT(count * 64 >= capacity / 100 * 95);
    EXPECT(statistics(heap).in_use >= capacity / 100 * 95);
    /* A random half is freed: that much fits again, and no more. */
    uint64_t seed = 7;
    for (size_t i = count - 1; i > 0; i--) {
        size_t j = next_random(&seed) % (i + 1);
        ipcheap_record other = records[i];
        records[i] = records[j];
        records[j] = other;
    }
    size_t half = count / 2;
    for (size_t i = half; i < count; i++) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    size_t again = half;
    while (again < most && ipcheap_allocate(heap, 64, &records[again]) == 0) again++;
    EXPECT(again + 64 >= count);
    expect_sound(heap);
    for (size_t i = 0; i < again; i++) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    EXPECT_EQ(ipcheap_allocate(heap, capacity / 100 * 95, &records[0]), 0);
    EXPECT_EQ(ipcheap_free(heap, &records[0]), 0);
    ipcheap_statistics s = statistics(heap);
    EXPECT_EQ(s.in_use, 0);
    EXPECT_EQ(s.records, 0);
    expect_sound(heap);
    free(records);
    ipcheap_release(heap);
    close(fd);
}

static void mistakes_are_told(void) {
    int fd = new_segment(4 * MIB), other_fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(other_fd);
    ipcheap_record record, foreign;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_allocate(heap, 100000, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_allocate(other, 100, &foreign), 0);
    EXPECT_EQ(ipcheap_free(heap, &foreign), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_allocate(heap, 5 * MIB, &record), IPCHEAP_HEAP_FULL);
    EXPECT_EQ(ipcheap_allocate(heap, UINT64_MAX, &record), IPCHEAP_HEAP_FULL);
    expect_sound(heap);
    EXPECT_EQ(ipcheap_segment_bytes(1), 0);
    EXPECT_EQ(ipcheap_close(heap), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 1, &record), IPCHEAP_HEAP_CLOSED);
    ipcheap_release(heap);
    ipcheap_release(other);
    close(fd);
    close(other_fd);
}

static void random_sizes_come_and_go(void) {
    enum { LIVE = 500 };
    int fd = new_segment(64 * MIB);
    ipcheap_heap *heap = attach(fd);
    static ipcheap_record records[LIVE];
    static bool used[LIVE];
    uint64_t seed = 42;
    for (int step = 0; step < 200000; step++) {
        size_t i = next_random(&seed) % LIVE;
        if (used[i]) {
            EXPECT_EQ(*(size_t *)records[i].data, i);
            EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
            used[i] = false;
        } else {
            uint64_t bytes = 8 + next_random(&seed) % (UINT64_C(1) << (next_random(&seed) % 18));
            if (ipcheap_allocate(heap, bytes, &records[i])) continue;
            *(size_t *)records[i].data = i;
            used[i] = true;
        }
        if (step % 20000 == 0) expect_sound(heap);
    }
    for (size_t i = 0; i < LIVE; i++)
        if (used[i]) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    ipcheap_statistics s = statistics(heap);
    EXPECT_EQ(s.in_use, 0);
    EXPECT_EQ(s.largest_free, 64 * MIB);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

/* After a large slab was revoked, a small slab of the same owner covers only its beginning. */
static void a_slab_that_was_taken_leads_nowhere(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_record large, all, small, extent;
    EXPECT_EQ(ipcheap_allocate(heap, 30000, &large), 0);
    EXPECT_EQ(ipcheap_free(heap, &large), 0);
    EXPECT_EQ(ipcheap_allocate(other, 16 * MIB, &all), 0);
    EXPECT_EQ(ipcheap_free(other, &all), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 64, &small), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 30000, &large), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 40000, &extent), 0);
    EXPECT(extent.offset < large.offset); /* where the first one was */
    EXPECT_EQ(ipcheap_free(heap, &extent), 0);
    EXPECT_EQ(ipcheap_free(heap, &large), 0);
    EXPECT_EQ(ipcheap_free(heap, &small), 0);
    expect_sound(heap);
    ipcheap_release(other);
    ipcheap_release(heap);
    close(fd);
}

/* A large slab has its second granule where a run began that was once merged to the left. */
static void rebuilding_the_indices_leaves_slabs_alone(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record one, two, large[8];
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_allocate(heap, 65536, &one), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 65536, &two), 0);
    EXPECT_EQ(ipcheap_free(heap, &one), 0);
    EXPECT_EQ(ipcheap_free(heap, &two), 0);
    for (int i = 0; i < 8; i++) EXPECT_EQ(ipcheap_allocate(heap, 32768, &large[i]), 0);
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    expect_sound(heap);
    for (int i = 0; i < 8; i++) EXPECT_EQ(ipcheap_free(heap, &large[i]), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void a_handle_stays_until_its_last_user_releases_it(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_record record;
    ipcheap_retain(heap);
    ipcheap_retain(heap);
    for (int i = 0; i < 2; i++) {
        ipcheap_release(heap);
        EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0); /* it is not even closed */
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(statistics(other).participants, 2);
    ipcheap_release(heap);
    EXPECT_EQ(statistics(other).participants, 1);
    ipcheap_release(other);
    close(fd);
}

static void the_header_of_a_file_is_read_without_attaching(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_heap_info read, described;
    memset(&read, 0xFF, sizeof read);
    EXPECT_EQ(ipcheap_read_header(fd, -1, &read), 0);
    EXPECT_EQ(ipcheap_heap_describe(heap, &described), 0);
    EXPECT_EQ(read.capacity, 16 * MIB);
    EXPECT_EQ(read.identity, described.identity);
    EXPECT_EQ(read.created_ns, described.created_ns);
    EXPECT_EQ(read.inode, described.inode);
    EXPECT_EQ(read.participants, 0);
    EXPECT_EQ(read.open, 0);
    ipcheap_release(heap);
    EXPECT_EQ(ftruncate(fd, 4096), 0); /* a header of more than there is */
    EXPECT_EQ(ipcheap_read_header(fd, -1, &read), IPCHEAP_FORMAT_MISMATCH);
    EXPECT_EQ(ftruncate(fd, 64), 0);
    EXPECT_EQ(ipcheap_read_header(fd, -1, &read), IPCHEAP_FORMAT_MISMATCH);
    EXPECT_EQ(ftruncate(fd, 0), 0);
    EXPECT_EQ(ipcheap_read_header(fd, -1, &read), IPCHEAP_NOT_FORMATTED);
    EXPECT_EQ(ftruncate(fd, 4096), 0); /* a hole */
    EXPECT_EQ(ipcheap_read_header(fd, -1, &read), IPCHEAP_NOT_FORMATTED);
    EXPECT_EQ(ipcheap_formatted(fd, -1), 0);
    close(fd);
}

int main(void) {
    a_handle_stays_until_its_last_user_releases_it();
    the_header_of_a_file_is_read_without_attaching();
    rebuilding_the_indices_leaves_slabs_alone();
    a_slab_that_was_taken_leads_nowhere();
    sizes_from_nothing_to_half_a_gigabyte();
    a_heap_of_small_records_fills_to_the_end(64 * 1024);
    a_heap_of_small_records_fills_to_the_end(1000 * 1000);
    a_heap_of_small_records_fills_to_the_end(20 * MIB);
    mistakes_are_told();
    random_sizes_come_and_go();
    return 0;
}
