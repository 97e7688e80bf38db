/* Arrays: what they say of themselves arrives, is checked, and is no part of the data. */

#include <stddef.h>

#include "testing.h"

static const int64_t patience = 10000000000;
enum { SLOTS = 4 };

static ipcheap_array matrix(uint64_t rows, uint64_t columns) {
    return (ipcheap_array){
        .itemsize = 4, .dimensions = 2, .shape = {rows, columns}, .type = "<f4"};
}

static void expect_matrix(ipcheap_heap *heap, const ipcheap_record *record, uint64_t rows,
                          uint64_t columns) {
    ipcheap_array array;
    EXPECT_EQ(record->form, IPCHEAP_ARRAY);
    EXPECT_EQ(record->nbytes, 4 * rows * columns);
    EXPECT_EQ((uintptr_t)record->data % 64, 0);
    EXPECT_EQ(ipcheap_array_of(heap, record, &array), 0);
    EXPECT_EQ(array.itemsize, 4);
    EXPECT_EQ(array.dimensions, 2);
    EXPECT_EQ(array.order, 0);
    EXPECT_EQ(array.shape[0], rows);
    EXPECT_EQ(array.shape[1], columns);
    EXPECT_EQ(strcmp(array.type, "<f4"), 0);
}

/* Small ones in blocks, large ones in extents, and those whose header needs a page more. */
static void shape_and_type_arrive_and_are_passed_on(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair line = pair_of(heap, 1, SLOTS), onward = pair_of(heap, 2, SLOTS);
    const uint64_t rows[] = {0, 1, 16, 256, 1024, 3000};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ipcheap_array array = matrix(rows[i], 16);
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), 0);
        expect_matrix(heap, &record, rows[i], 16);
        memset(record.data, 7, record.nbytes);
        EXPECT_EQ(ipcheap_send(line.out, &record, patience), 0);
        EXPECT_EQ(ipcheap_receive(line.in, &record, patience), 0);
        expect_matrix(heap, &record, rows[i], 16);
        EXPECT_EQ(ipcheap_send(onward.out, &record, patience), 0);
        EXPECT_EQ(ipcheap_receive(onward.in, &record, patience), 0);
        expect_matrix(heap, &record, rows[i], 16);
        EXPECT_EQ(ipcheap_keep(heap, &record), 0);
        expect_matrix(heap, &record, rows[i], 16);
        for (uint64_t n = 0; n < record.nbytes; n++) EXPECT_EQ(((char *)record.data)[n], 7);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    EXPECT_EQ(statistics(heap).in_use, 0);
    expect_sound(heap);
    pair_release(&line);
    pair_release(&onward);
    ipcheap_release(heap);
    close(fd);
}

static void a_plain_record_cannot_look_like_an_array(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair line = pair_of(heap, 1, SLOTS);
    ipcheap_array array = matrix(4, 4), found;
    ipcheap_record record, plain;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 256, &plain), 0);
    memcpy(plain.data, record.data, 128); /* data and header: what it would take */
    plain.nbytes = 64;
    EXPECT_EQ(ipcheap_array_of(heap, &plain, &found), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_send(line.out, &plain, patience), 0);
    EXPECT_EQ(ipcheap_receive(line.in, &plain, patience), 0);
    EXPECT_EQ(plain.form, IPCHEAP_PLAIN);
    EXPECT_EQ(ipcheap_array_of(heap, &plain, &found), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_free(heap, &plain), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    pair_release(&line);
    ipcheap_release(heap);
    close(fd);
}

static void an_array_that_cannot_be_is_refused(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    ipcheap_array array = matrix(UINT64_C(1) << 33, UINT64_C(1) << 33);
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    array = matrix(1 << 20, 1 << 20);
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_HEAP_FULL);
    array = matrix(1, 1);
    array.itemsize = 0;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    array = matrix(1, 1);
    array.dimensions = IPCHEAP_ARRAY_DIMENSIONS + 1;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    array = matrix(1, 1);
    array.order = 2;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    array = matrix(1, 1);
    array.type[0] = 0;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    memset(array.type, '<', sizeof array.type);
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(statistics(heap).records, 0);
    ipcheap_release(heap);
    close(fd);
}

static void as_many_dimensions_as_there_may_be(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_array array = {.itemsize = 3, .dimensions = IPCHEAP_ARRAY_DIMENSIONS, .order = 1};
    ipcheap_array found;
    for (int i = 0; i < IPCHEAP_ARRAY_DIMENSIONS; i++) array.shape[i] = i % 20 ? 1 : 2;
    memset(array.type, 'x', sizeof array.type - 1);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), 0);
    EXPECT_EQ(record.nbytes, 3 * 16);
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found), 0);
    EXPECT_EQ(found.order, 1);
    EXPECT_EQ(memcmp(found.shape, array.shape, sizeof array.shape), 0);
    EXPECT_EQ(strcmp(found.type, array.type), 0);
    array.dimensions = 0;
    ipcheap_record single;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &single), 0);
    EXPECT_EQ(single.nbytes, 3);
    EXPECT_EQ(ipcheap_array_of(heap, &single, &found), 0);
    EXPECT_EQ(found.dimensions, 0);
    EXPECT_EQ(ipcheap_free(heap, &single), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_release(heap);
    close(fd);
}

/* Whatever a peer wrote over it: an error, and nothing is read beyond the heap. */
static void a_spoilt_header_is_an_error(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_array array = matrix(4, 4), found;
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), 0);
    unsigned char *header = (unsigned char *)record.data + 64;
    header[offsetof(ipcheap_array_header, version)]++;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found), IPCHEAP_FORMAT_MISMATCH);
    header[offsetof(ipcheap_array_header, version)]--;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found), 0);
    uint64_t random = 0x9E3779B97F4A7C15;
    unsigned char kept[sizeof(ipcheap_array_header) + 16];
    memcpy(kept, header, sizeof kept);
    for (int round = 0; round < 100000; round++) {
        uint64_t r = next_random(&random);
        header[r % sizeof kept] ^= (unsigned char)(1u << (r >> 8) % 8);
        header[(r >> 16) % sizeof kept] = (unsigned char)(r >> 24);
        int error = ipcheap_array_of(heap, &record, &found);
        EXPECT(error == 0 || error == IPCHEAP_CORRUPT || error == IPCHEAP_FORMAT_MISMATCH);
        if (round % 4 == 3) memcpy(header, kept, sizeof kept);
    }
    record.nbytes = UINT64_MAX;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found), IPCHEAP_CORRUPT);
    record.nbytes = MIB;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found), IPCHEAP_CORRUPT);
    ipcheap_release(heap);
    close(fd);
}

static void looking_ahead_takes_nothing(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair line = pair_of(heap, 1, SLOTS);
    ipcheap_array array = matrix(2, 3);
    ipcheap_record record;
    uint64_t nbytes;
    uint32_t form;
    EXPECT_EQ(ipcheap_peek(line.in, &nbytes, &form), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_peek(line.out, &nbytes, &form), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_allocate(heap, 5, &record), 0);
    EXPECT_EQ(ipcheap_send(line.out, &record, patience), 0);
    EXPECT_EQ(ipcheap_allocate_array(heap, &array, &record), 0);
    EXPECT_EQ(ipcheap_send(line.out, &record, patience), 0);
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(ipcheap_peek(line.in, &nbytes, &form), 0);
        EXPECT_EQ(nbytes, 5);
        EXPECT_EQ(form, IPCHEAP_PLAIN);
        EXPECT_EQ(ipcheap_pending(line.in), 2);
    }
    EXPECT_EQ(ipcheap_receive(line.in, &record, patience), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_peek(line.in, &nbytes, &form), 0);
    EXPECT_EQ(nbytes, 24);
    EXPECT_EQ(form, IPCHEAP_ARRAY);
    ipcheap_endpoint_close(line.out);
    EXPECT_EQ(ipcheap_receive(line.in, &record, patience), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(ipcheap_peek(line.in, &nbytes, &form), IPCHEAP_CHANNEL_CLOSED);
    pair_release(&line);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    shape_and_type_arrive_and_are_passed_on();
    a_plain_record_cannot_look_like_an_array();
    an_array_that_cannot_be_is_refused();
    as_many_dimensions_as_there_may_be();
    a_spoilt_header_is_an_error();
    looking_ahead_takes_nothing();
    return 0;
}
