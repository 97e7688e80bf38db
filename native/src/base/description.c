#include "base/description.h"

#include <string.h>

_Static_assert(sizeof(ipcheap_array_header) == 24, "it lies in shared memory");
_Static_assert(sizeof(ipcheap_description) == sizeof(ipcheap_array_header) +
                                                  IPCHEAP_ARRAY_DIMENSIONS * sizeof(uint64_t) +
                                                  IPCHEAP_ARRAY_TYPE,
               "there is room for the longest description");

/* Computes the bytes of all items; false if no record has so many, or there is no such array. */
static bool measure(const ipcheap_array_header *header, const char *shape, uint64_t *nbytes) {
    if (header->itemsize == 0 || header->order > 1) return false;
    bool empty = false, fits = header->itemsize <= MOST_ARRAY_BYTES;
    uint64_t total = header->itemsize;
    for (uint32_t i = 0; i < header->dimensions; i++) {
        uint64_t length;
        memcpy(&length, shape + i * sizeof length, sizeof length);
        empty |= length == 0;
        fits = fits && !__builtin_mul_overflow(total, length, &total);
        fits = fits && total <= MOST_ARRAY_BYTES;
    }
    *nbytes = empty ? 0 : total;
    return empty || fits;
}

uint64_t description_bytes(const ipcheap_array_header *header) {
    if (header->dimensions > IPCHEAP_ARRAY_DIMENSIONS) return 0;
    if (header->type_length == 0 || header->type_length >= IPCHEAP_ARRAY_TYPE) return 0;
    return sizeof *header + header->dimensions * sizeof(uint64_t) + header->type_length + 1;
}

bool description_measure(const ipcheap_array_header *header, const char *rest, uint64_t *nbytes) {
    const char *type = rest + header->dimensions * sizeof(uint64_t);
    if (memchr(type, 0, (size_t)header->type_length + 1) != type + header->type_length)
        return false;
    return measure(header, rest, nbytes);
}

ipcheap_array description_says(const ipcheap_description *description) {
    const ipcheap_array_header *header = &description->header;
    return (ipcheap_array){
        .itemsize = header->itemsize,
        .dimensions = header->dimensions,
        .order = header->order,
        .shape = description->shape_and_type,
        .type = (const char *)(description->shape_and_type + header->dimensions),
    };
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
