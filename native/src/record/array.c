/*
 * array.c - records that say what array they hold.
 *
 *   | data, nbytes of it | up to 63 | ipcheap_array_header | shape | type |
 *   ^ 64-byte aligned               ^ 64-byte aligned
 *
 * The header stands behind the data so that the data begins where its block begins: whoever
 * does not care for it sees a record like any other. That there is one is told by the slot of
 * the ring, not by the bytes, which a user could have written.
 */
#include <string.h>

#include "record/ring.h"

static const uint64_t most_bytes = UINT64_C(1) << (SIZE_BITS - 1);

/* Bytes of all items; false if that is more than any record has, or no array at all. */
static bool measure(const ipcheap_array *array, uint64_t *nbytes) {
    if (array->itemsize == 0 || array->order > 1) return false;
    if (array->dimensions > IPCHEAP_ARRAY_DIMENSIONS) return false;
    bool empty = false, fits = array->itemsize <= most_bytes;
    uint64_t total = array->itemsize;
    for (uint32_t i = 0; i < array->dimensions; i++) {
        empty |= array->shape[i] == 0;
        fits = fits && !__builtin_mul_overflow(total, array->shape[i], &total);
        fits = fits && total <= most_bytes;
    }
    *nbytes = empty ? 0 : total;
    return empty || fits;
}

static uint64_t header_at(uint64_t nbytes) { return round_up(nbytes, BLOCK_ALIGN); }

static uint64_t header_bytes(uint32_t dimensions, size_t type_length) {
    return sizeof(ipcheap_array_header) + dimensions * sizeof(uint64_t) + type_length;
}

int ipcheap_allocate_array(ipcheap_heap *heap, const ipcheap_array *array,
                           ipcheap_record *record) {
    uint64_t nbytes;
    size_t length = strnlen(array->type, sizeof array->type);
    if (!measure(array, &nbytes) || length == 0 || length == sizeof array->type)
        return IPCHEAP_BAD_VALUE;
    uint64_t behind = header_bytes(array->dimensions, length);
    int error = ipcheap_allocate(heap, header_at(nbytes) + behind, record);
    if (error) return error;
    ipcheap_array_header header = {
        .magic = IPCHEAP_ARRAY_MAGIC,
        .version = IPCHEAP_ARRAY_VERSION,
        .type_length = (uint16_t)length,
        .dimensions = (uint8_t)array->dimensions,
        .order = (uint8_t)array->order,
        .itemsize = array->itemsize,
    };
    /* The block is ours alone; sending publishes this together with the data. */
    char *to = (char *)record->data + header_at(nbytes);
    memcpy(to, &header, sizeof header);
    to += sizeof header;
    memcpy(to, array->shape, array->dimensions * sizeof *array->shape);
    memcpy(to + array->dimensions * sizeof *array->shape, array->type, length);
    record->nbytes = nbytes;
    record->form = IPCHEAP_ARRAY;
    return 0;
}

int ipcheap_array_of(ipcheap_heap *heap, const ipcheap_record *record, ipcheap_array *array) {
    ipcheap_array_header header; /* a copy: what was checked must not change any more */
    if (record->form != IPCHEAP_ARRAY) return IPCHEAP_RECORD;
    if (record->data != at_offset(heap, record->offset)) return IPCHEAP_RECORD;
    if (record->nbytes > most_bytes) return IPCHEAP_CORRUPT;
    uint64_t before = header_at(record->nbytes);
    if (!record_fits(heap, record->offset, before + sizeof header)) return IPCHEAP_CORRUPT;
    const char *from = at_offset(heap, record->offset + before);
    memcpy(&header, from, sizeof header);
    if (header.magic != IPCHEAP_ARRAY_MAGIC) return IPCHEAP_CORRUPT;
    if (header.version != IPCHEAP_ARRAY_VERSION) return IPCHEAP_FORMAT_MISMATCH;
    if (header.dimensions > IPCHEAP_ARRAY_DIMENSIONS) return IPCHEAP_CORRUPT;
    if (header.type_length == 0 || header.type_length >= IPCHEAP_ARRAY_TYPE) return IPCHEAP_CORRUPT;
    uint64_t behind = header_bytes(header.dimensions, header.type_length), nbytes;
    if (!record_fits(heap, record->offset, before + behind)) return IPCHEAP_CORRUPT;
    array->itemsize = header.itemsize;
    array->dimensions = header.dimensions;
    array->order = header.order;
    from += sizeof header;
    memcpy(array->shape, from, header.dimensions * sizeof *array->shape);
    memcpy(array->type, from + header.dimensions * sizeof *array->shape, header.type_length);
    array->type[header.type_length] = 0;
    if (memchr(array->type, 0, header.type_length)) return IPCHEAP_CORRUPT;
    return measure(array, &nbytes) && nbytes == record->nbytes ? 0 : IPCHEAP_CORRUPT;
}
