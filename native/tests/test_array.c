/* Arrays: their description arrives, is checked, and is not part of the data. */

#include <stddef.h>

#include "testing.h"

static const int64_t patience = 10000000000;
enum { SLOTS = 4 };

/* A description that cannot be is of length 0, which no description has. */
struct described {
    ipcheap_description description;
    size_t length;
};

static struct described described_as(const ipcheap_array *array) {
    struct described made;
    int64_t length = ipcheap_describe_array(array, &made.description);
    EXPECT(length > 0 || length == IPCHEAP_BAD_VALUE);
    made.length = length > 0 ? (size_t)length : 0;
    return made;
}

static struct described matrix(uint64_t rows, uint64_t columns) {
    const uint64_t shape[] = {rows, columns};
    return described_as(
        &(ipcheap_array){.itemsize = 4, .dimensions = 2, .shape = shape, .type = "<f4"});
}

static int allocate(ipcheap_heap *heap, const struct described *array, ipcheap_record *record) {
    return ipcheap_allocate_array(heap, &array->description, array->length, record);
}

static void expect_matrix(ipcheap_heap *heap, const ipcheap_record *record, uint64_t rows,
                          uint64_t columns) {
    ipcheap_description description;
    ipcheap_array array;
    EXPECT_EQ(record->form, IPCHEAP_ARRAY);
    EXPECT_EQ(record->nbytes, 4 * rows * columns);
    EXPECT_EQ((uintptr_t)record->data % 64, 0);
    EXPECT_EQ(ipcheap_array_of(heap, record, &description, &array), 24 + 2 * 8 + 4);
    EXPECT_EQ(array.itemsize, 4);
    EXPECT_EQ(array.dimensions, 2);
    EXPECT_EQ(array.order, 0);
    EXPECT_EQ(array.shape[0], rows);
    EXPECT_EQ(array.shape[1], columns);
    EXPECT_EQ(strcmp(array.type, "<f4"), 0);
    struct described same = matrix(rows, columns);
    EXPECT_EQ(memcmp(&same.description, &description, same.length), 0);
}

/* Small ones in blocks, large ones in extents, and those whose header needs a page more. */
static void shape_and_type_arrive_and_are_passed_on(void) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair line = pair_of(heap, 1, SLOTS), onward = pair_of(heap, 2, SLOTS);
    const uint64_t rows[] = {0, 1, 16, 256, 1024, 3000};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct described array = matrix(rows[i], 16);
        ipcheap_record record;
        EXPECT_EQ(allocate(heap, &array, &record), 0);
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
    struct described array = matrix(4, 4);
    ipcheap_description found;
    ipcheap_record record, plain;
    EXPECT_EQ(allocate(heap, &array, &record), 0);
    EXPECT_EQ(ipcheap_allocate(heap, 256, &plain), 0);
    memcpy(plain.data, record.data, 128); /* data and header: all that an array has */
    plain.nbytes = 64;
    EXPECT_EQ(ipcheap_array_of(heap, &plain, &found, NULL), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_send(line.out, &plain, patience), 0);
    EXPECT_EQ(ipcheap_receive(line.in, &plain, patience), 0);
    EXPECT_EQ(plain.form, IPCHEAP_PLAIN);
    EXPECT_EQ(ipcheap_array_of(heap, &plain, &found, NULL), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_free(heap, &plain), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    pair_release(&line);
    ipcheap_release(heap);
    close(fd);
}

static void expect_no_such_array(const ipcheap_array *array) {
    ipcheap_description description;
    EXPECT_EQ(ipcheap_describe_array(array, &description), IPCHEAP_BAD_VALUE);
}

static void an_array_that_cannot_be_is_not_described(void) {
    const uint64_t one[IPCHEAP_ARRAY_DIMENSIONS + 1] = {1, 1};
    const uint64_t many[] = {UINT64_C(1) << 33, UINT64_C(1) << 33};
    const ipcheap_array good = {.itemsize = 4, .dimensions = 2, .shape = one, .type = "<f4"};
    EXPECT(described_as(&good).length > 0);
    ipcheap_array array = good;
    array.shape = many;
    expect_no_such_array(&array);
    array = good;
    array.itemsize = 0;
    expect_no_such_array(&array);
    array = good;
    array.dimensions = IPCHEAP_ARRAY_DIMENSIONS + 1;
    expect_no_such_array(&array);
    array.dimensions = 256 + 2; /* beyond what its place in a header can say */
    expect_no_such_array(&array);
    array = good;
    array.order = 2;
    expect_no_such_array(&array);
    array.order = 256;
    expect_no_such_array(&array);
    array = good;
    array.type = "";
    expect_no_such_array(&array);
    static char type[IPCHEAP_ARRAY_TYPE + 1];
    memset(type, '<', sizeof type - 1);
    array.type = type;
    expect_no_such_array(&array);
}

/* A description of the caller's, each of its bytes changed in turn, and cut off anywhere. */
static void what_describes_no_array_is_refused(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    struct described array = matrix(1 << 20, 1 << 20);
    EXPECT_EQ(allocate(heap, &array, &record), IPCHEAP_HEAP_FULL);
    array = matrix(1, 1);
    const size_t length = array.length;
    const struct {
        size_t at, size;
        uint64_t value;
    } spoilt[] = {
        {offsetof(ipcheap_array_header, magic), 4, IPCHEAP_ARRAY_MAGIC + 1},
        {offsetof(ipcheap_array_header, version), 2, IPCHEAP_ARRAY_VERSION + 1},
        {offsetof(ipcheap_array_header, type_length), 2, 0},
        {offsetof(ipcheap_array_header, type_length), 2, 2},
        {offsetof(ipcheap_array_header, type_length), 2, IPCHEAP_ARRAY_TYPE},
        {offsetof(ipcheap_array_header, type_length), 2, UINT16_MAX},
        {offsetof(ipcheap_array_header, dimensions), 1, 1},
        {offsetof(ipcheap_array_header, dimensions), 1, IPCHEAP_ARRAY_DIMENSIONS + 1},
        {offsetof(ipcheap_array_header, order), 1, 2},
        {offsetof(ipcheap_array_header, itemsize), 8, 0},
        {sizeof(ipcheap_array_header), 8, UINT64_MAX},
        {length - 2, 1, 0}, /* a zero in the type */
        {length - 1, 1, 1}, /* none behind it */
    };
    for (size_t i = 0; i < sizeof spoilt / sizeof *spoilt; i++) {
        array = matrix(1, 1);
        memcpy((char *)&array.description + spoilt[i].at, &spoilt[i].value, spoilt[i].size);
        EXPECT_EQ(allocate(heap, &array, &record), IPCHEAP_BAD_VALUE);
    }
    array = matrix(1, 1);
    for (array.length = 0; array.length < sizeof array.description; array.length++)
        if (array.length != length) EXPECT_EQ(allocate(heap, &array, &record), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(statistics(heap).records, 0);
    array.length = length;
    char anywhere[sizeof array.description + 1]; /* not aligned */
    memcpy(anywhere + 1, &array.description, length);
    EXPECT_EQ(ipcheap_allocate_array(heap, anywhere + 1, length, &record), 0);
    expect_matrix(heap, &record, 1, 1);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    ipcheap_release(heap);
    close(fd);
}

static void as_many_dimensions_as_there_may_be(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    uint64_t shape[IPCHEAP_ARRAY_DIMENSIONS];
    static char type[IPCHEAP_ARRAY_TYPE];
    for (int i = 0; i < IPCHEAP_ARRAY_DIMENSIONS; i++) shape[i] = i % 20 ? 1 : 2;
    memset(type, 'x', sizeof type - 1);
    ipcheap_array array = {.itemsize = 3,
                           .dimensions = IPCHEAP_ARRAY_DIMENSIONS,
                           .order = 1,
                           .shape = shape,
                           .type = type};
    struct described longest = described_as(&array);
    EXPECT_EQ(longest.length, sizeof longest.description);
    ipcheap_description description;
    ipcheap_array found;
    ipcheap_record record;
    EXPECT_EQ(allocate(heap, &longest, &record), 0);
    EXPECT_EQ(record.nbytes, 3 * 16);
    EXPECT_EQ(ipcheap_array_of(heap, &record, &description, &found), (int64_t)longest.length);
    EXPECT_EQ(found.order, 1);
    EXPECT_EQ(found.dimensions, IPCHEAP_ARRAY_DIMENSIONS);
    EXPECT_EQ(memcmp(found.shape, shape, sizeof shape), 0);
    EXPECT_EQ(strcmp(found.type, type), 0);
    array.dimensions = 0;
    array.shape = NULL;
    struct described item = described_as(&array);
    ipcheap_record single;
    EXPECT_EQ(allocate(heap, &item, &single), 0);
    EXPECT_EQ(single.nbytes, 3);
    EXPECT_EQ(ipcheap_array_of(heap, &single, &description, &found), (int64_t)item.length);
    EXPECT_EQ(found.dimensions, 0);
    EXPECT_EQ(strcmp(found.type, type), 0);
    EXPECT_EQ(ipcheap_free(heap, &single), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_release(heap);
    close(fd);
}

/* Whatever a peer writes over a header, the result is an error, and no read leaves the heap. */
static void a_spoilt_header_is_an_error(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct described array = matrix(4, 4);
    ipcheap_description found;
    ipcheap_record record;
    EXPECT_EQ(allocate(heap, &array, &record), 0);
    unsigned char *header = (unsigned char *)record.data + 64;
    header[offsetof(ipcheap_array_header, version)]++;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), IPCHEAP_FORMAT_MISMATCH);
    header[offsetof(ipcheap_array_header, version)]--;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), (int64_t)array.length);
    header[array.length - 1] = 1; /* a type without an end */
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), IPCHEAP_CORRUPT);
    header[array.length - 1] = 0;
    header[array.length - 2] = 0; /* with two */
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), IPCHEAP_CORRUPT);
    memcpy(header, &array.description, array.length);
    uint64_t random = 0x9E3779B97F4A7C15;
    unsigned char kept[sizeof(ipcheap_array_header) + 2 * sizeof(uint64_t) + sizeof "<f4"];
    EXPECT_EQ(sizeof kept, array.length);
    memcpy(kept, header, sizeof kept);
    for (int round = 0; round < 100000; round++) {
        uint64_t r = next_random(&random);
        header[r % sizeof kept] ^= (unsigned char)(1u << (r >> 8) % 8);
        header[(r >> 16) % sizeof kept] = (unsigned char)(r >> 24);
        ipcheap_array seen;
        int64_t result = ipcheap_array_of(heap, &record, &found, &seen);
        EXPECT(result > 0 || result == IPCHEAP_CORRUPT || result == IPCHEAP_FORMAT_MISMATCH);
        if (result > 0) EXPECT_EQ(strlen(seen.type), found.header.type_length);
        if (round % 4 == 3) memcpy(header, kept, sizeof kept);
    }
    record.nbytes = UINT64_MAX;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), IPCHEAP_CORRUPT);
    record.nbytes = MIB;
    EXPECT_EQ(ipcheap_array_of(heap, &record, &found, NULL), IPCHEAP_CORRUPT);
    ipcheap_release(heap);
    close(fd);
}

static void looking_ahead_takes_nothing(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair line = pair_of(heap, 1, SLOTS);
    struct described array = matrix(2, 3);
    ipcheap_record record;
    uint64_t nbytes;
    uint32_t form;
    EXPECT_EQ(ipcheap_peek(line.in, &nbytes, &form), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_peek(line.out, &nbytes, &form), IPCHEAP_BAD_VALUE);
    EXPECT_EQ(ipcheap_allocate(heap, 5, &record), 0);
    EXPECT_EQ(ipcheap_send(line.out, &record, patience), 0);
    EXPECT_EQ(allocate(heap, &array, &record), 0);
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
    an_array_that_cannot_be_is_not_described();
    what_describes_no_array_is_refused();
    as_many_dimensions_as_there_may_be();
    a_spoilt_header_is_an_error();
    looking_ahead_takes_nothing();
    return 0;
}
