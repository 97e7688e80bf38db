/*
 * array.c - records that say what array they hold.
 *
 *   | data, nbytes of it | up to 63 | ipcheap_array_header | shape | type and a zero |
 *   ^ 64-byte aligned               ^ 64-byte aligned: the description
 *
 * The description stands behind the data, so the data begins where its block begins, and a reader
 * that does not ask for the array sees a record like any other. The slot of the ring says whether a
 * record has a description, not bytes that a user could have written.
 */
#include <string.h>

#include "record/ring.h"

_Static_assert(sizeof(ipcheap_array_header) == 24, "it lies in shared memory");
_Static_assert(sizeof(ipcheap_description) == sizeof(ipcheap_array_header) +
                                                  IPCHEAP_ARRAY_DIMENSIONS * sizeof(uint64_t) +
                                                  IPCHEAP_ARRAY_TYPE,
               "there is room for the longest description");

static const uint64_t most_bytes = UINT64_C(1) << (SIZE_BITS - 1);

/* Computes the bytes of all items; false if no record has so many, or there is no such array. */
static bool measure(const ipcheap_array_header *header, const char *shape, uint64_t *nbytes) {
    if (header->itemsize == 0 || header->order > 1) return false;
    bool empty = false, fits = header->itemsize <= most_bytes;
    uint64_t total = header->itemsize;
    for (uint32_t i = 0; i < header->dimensions; i++) {
        uint64_t length;
        memcpy(&length, shape + i * sizeof length, sizeof length);
        empty |= length == 0;
        fits = fits && !__builtin_mul_overflow(total, length, &total);
        fits = fits && total <= most_bytes;
    }
    *nbytes = empty ? 0 : total;
    return empty || fits;
}

static uint64_t description_at(uint64_t nbytes) { return round_up(nbytes, BLOCK_ALIGN); }

/* Returns the length of the description that begins with a header; 0 if none can. */
static uint64_t description_bytes(const ipcheap_array_header *header) {
    if (header->dimensions > IPCHEAP_ARRAY_DIMENSIONS) return 0;
    if (header->type_length == 0 || header->type_length >= IPCHEAP_ARRAY_TYPE) return 0;
    return sizeof *header + header->dimensions * sizeof(uint64_t) + header->type_length + 1;
}

/* True if what stands behind a header that description_bytes() accepts is valid. */
static bool rest_is_valid(const ipcheap_array_header *header, const char *rest, uint64_t *nbytes) {
    const char *type = rest + header->dimensions * sizeof(uint64_t);
    if (memchr(type, 0, (size_t)header->type_length + 1) != type + header->type_length)
        return false;
    return measure(header, rest, nbytes);
}

int64_t ipcheap_describe_array(const ipcheap_array *array, ipcheap_description *description) {
    size_t length = strnlen(array->type, IPCHEAP_ARRAY_TYPE);
    if (array->dimensions > IPCHEAP_ARRAY_DIMENSIONS || array->order > 1) return IPCHEAP_BAD_VALUE;
    ipcheap_array_header *header = &description->header;
    *header = (ipcheap_array_header){
        .magic = IPCHEAP_ARRAY_MAGIC,
        .version = IPCHEAP_ARRAY_VERSION,
        .type_length = (uint16_t)length,
        .dimensions = (uint8_t)array->dimensions,
        .order = (uint8_t)array->order,
        .itemsize = array->itemsize,
    };
    uint64_t bytes = description_bytes(header), nbytes;
    if (!bytes) return IPCHEAP_BAD_VALUE;
    char *rest = (char *)description->shape_and_type;
    size_t shape_bytes = array->dimensions * sizeof *array->shape;
    if (shape_bytes) memcpy(rest, array->shape, shape_bytes);
    memcpy(rest + shape_bytes, array->type, length + 1);
    return measure(header, rest, &nbytes) ? (int64_t)bytes : IPCHEAP_BAD_VALUE;
}

int ipcheap_allocate_array(ipcheap_heap *heap, const void *description, size_t length,
                           ipcheap_record *record) {
    ipcheap_array_header header;
    uint64_t nbytes;
    if (length < sizeof header) return IPCHEAP_BAD_VALUE;
    memcpy(&header, description, sizeof header); /* it may be unaligned */
    if (header.magic != IPCHEAP_ARRAY_MAGIC || header.version != IPCHEAP_ARRAY_VERSION)
        return IPCHEAP_BAD_VALUE;
    if (length != description_bytes(&header)) return IPCHEAP_BAD_VALUE;
    if (!rest_is_valid(&header, (const char *)description + sizeof header, &nbytes))
        return IPCHEAP_BAD_VALUE;
    int error = ipcheap_allocate(heap, description_at(nbytes) + length, record);
    if (error) return error;
    /* Only the caller sees the block; sending publishes this together with the data. */
    memcpy((char *)record->data + description_at(nbytes), description, length);
    record->nbytes = nbytes;
    record->form = IPCHEAP_ARRAY;
    return 0;
}

int64_t ipcheap_array_of(ipcheap_heap *heap, const ipcheap_record *record,
                         ipcheap_description *description, ipcheap_array *array) {
    if (record->form != IPCHEAP_ARRAY) return IPCHEAP_RECORD;
    if (record->data != at_offset(heap, record->offset)) return IPCHEAP_RECORD;
    if (record->nbytes > most_bytes) return IPCHEAP_CORRUPT;
    /* Each byte is copied once and then checked: a peer may change the original at any time. */
    ipcheap_array_header *header = &description->header;
    uint64_t before = description_at(record->nbytes), nbytes;
    if (!record_fits(heap, record->offset, before + sizeof *header)) return IPCHEAP_CORRUPT;
    const char *from = at_offset(heap, record->offset + before);
    memcpy(header, from, sizeof *header);
    if (header->magic != IPCHEAP_ARRAY_MAGIC) return IPCHEAP_CORRUPT;
    if (header->version != IPCHEAP_ARRAY_VERSION) return IPCHEAP_FORMAT_MISMATCH;
    uint64_t length = description_bytes(header);
    if (!length || !record_fits(heap, record->offset, before + length)) return IPCHEAP_CORRUPT;
    char *rest = (char *)description->shape_and_type;
    memcpy(rest, from + sizeof *header, length - sizeof *header);
    if (!rest_is_valid(header, rest, &nbytes) || nbytes != record->nbytes) return IPCHEAP_CORRUPT;
    if (array)
        *array = (ipcheap_array){
            .itemsize = header->itemsize,
            .dimensions = header->dimensions,
            .order = header->order,
            .shape = description->shape_and_type,
            .type = rest + header->dimensions * sizeof(uint64_t),
        };
    return (int64_t)length;
}
