/* Size classes: how many there are, how large their blocks are, which heap has which. */

#include "segment/layout.h"
#include "testing.h"

static void there_are_56_classes_up_to_32_kib(void) {
    EXPECT_EQ(CLASSES, 56);
    EXPECT_EQ(MOST_BLOCK_BYTES, 32768);
    EXPECT_EQ(size_class_bytes(0), 64);
    EXPECT_EQ(size_class_bytes(15), 1024);
    EXPECT_EQ(size_class_bytes(16), 1152);
    EXPECT_EQ(size_class_bytes(31), 4096);
    EXPECT_EQ(size_class_bytes(48), 18432);
    EXPECT_EQ(size_class_bytes(CLASSES - 1), MOST_BLOCK_BYTES);
}

static void classes_waste_at_most_an_eighth(void) {
    for (uint64_t bytes = 1; bytes <= MOST_BLOCK_BYTES; bytes++) {
        uint32_t size_class = size_class_of(bytes), room = size_class_bytes(size_class);
        EXPECT(size_class < CLASSES && room >= bytes);
        EXPECT(size_class == 0 || size_class_bytes(size_class - 1) < bytes);
        EXPECT(bytes <= 512 || (room - bytes) * 8 <= room);
    }
    EXPECT_EQ(size_class_of(0), 0);
    for (int shift = 16; shift < 64; shift++)
        EXPECT(size_class_of(UINT64_C(1) << shift) >= CLASSES);
    EXPECT(size_class_of(MOST_BLOCK_BYTES + 1) >= CLASSES);
    EXPECT(size_class_of(UINT64_MAX) >= CLASSES);
}

/* A slab of each class has at least 8 blocks, and no more than it has bits and tags for. */
static void slabs_hold_from_8_to_1024_blocks(void) {
    for (uint64_t capacity = 64 << 10; capacity <= UINT64_C(1) << 44; capacity *= 2) {
        struct geometry g;
        EXPECT(geometry_of(capacity, &g));
        EXPECT(g.classes >= 4 && g.classes <= CLASSES);
        for (uint32_t c = 0; c < g.classes; c++) {
            bool large = g.large_slab_shift && c >= SMALL_CLASSES;
            uint64_t slab = UINT64_C(1) << (large ? g.large_slab_shift : g.slab_shift);
            uint64_t blocks = slab / size_class_bytes(c);
            EXPECT(blocks >= 8 && blocks <= MAX_BLOCKS);
            EXPECT(sizeof(struct slab) + blocks * sizeof(shared64) <=
                   g.slab_stride * (slab >> g.slab_shift));
        }
    }
}

static uint32_t classes_of(uint64_t capacity) {
    struct geometry g;
    EXPECT(geometry_of(capacity, &g));
    return g.classes;
}

static void small_heaps_have_fewer_classes(void) {
    EXPECT_EQ(classes_of(64 << 10), 4); /* to 256 bytes */
    EXPECT_EQ(classes_of((512 << 10) - 1), 4);
    EXPECT_EQ(classes_of(512 << 10), 8);
    EXPECT_EQ(classes_of(MIB), 16);
    EXPECT_EQ(classes_of(2 * MIB), 24);
    EXPECT_EQ(classes_of(4 * MIB - 1), 24);
    EXPECT_EQ(classes_of(4 * MIB), SMALL_CLASSES);
    EXPECT_EQ(classes_of(16 * MIB - 1), SMALL_CLASSES);
    EXPECT_EQ(classes_of(16 * MIB), CLASSES);
    EXPECT_EQ(classes_of(1024 * MIB), CLASSES);
}

/* In a heap of each kind, the largest block is of a slab, and one byte more is an extent. */
static void what_fits_no_class_is_an_extent(void) {
    const uint64_t capacities[] = {64 << 10, 512 << 10, MIB, 2 * MIB, 4 * MIB, 64 * MIB};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
        int fd = new_segment(capacities[i]);
        ipcheap_heap *heap = attach(fd);
        uint64_t most = size_class_bytes(classes_of(capacities[i]) - 1);
        ipcheap_record block, extent;
        EXPECT_EQ(ipcheap_allocate(heap, most, &block), 0);
        ipcheap_statistics before = statistics(heap);
        EXPECT_EQ(before.slabs, 1);
        EXPECT_EQ(before.extents, 0);
        EXPECT_EQ(before.in_use, most);
        EXPECT_EQ(ipcheap_allocate(heap, most + 1, &extent), 0);
        EXPECT_EQ(statistics(heap).extents, 1);
        EXPECT_EQ(ipcheap_free(heap, &block), 0);
        EXPECT_EQ(ipcheap_free(heap, &extent), 0);
        ipcheap_release(heap);
        close(fd);
    }
}

int main(void) {
    there_are_56_classes_up_to_32_kib();
    classes_waste_at_most_an_eighth();
    slabs_hold_from_8_to_1024_blocks();
    small_heaps_have_fewer_classes();
    what_fits_no_class_is_an_extent();
    return 0;
}
