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

#include "base/description.h"
#include "record/ring.h"

static_assert(MOST_ARRAY_BYTES < UINT64_C(1) << SIZE_BITS, "a ring slot has its size");

static uint64_t description_at(uint64_t nbytes) { return round_up(nbytes, BLOCK_ALIGN); }

int ipcheap_allocate_array(ipcheap_heap *heap, const void *description, size_t length,
                           ipcheap_record *record) {
    ipcheap_array_header header;
    uint64_t nbytes;
    if (length < sizeof header) return IPCHEAP_BAD_VALUE;
    memcpy(&header, description, sizeof header); /* it may be unaligned */
    if (header.magic != IPCHEAP_ARRAY_MAGIC || header.version != IPCHEAP_ARRAY_VERSION)
        return IPCHEAP_BAD_VALUE;
    if (length != description_bytes(&header)) return IPCHEAP_BAD_VALUE;
    if (!description_measure(&header, (const char *)description + sizeof header, &nbytes))
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
    if (record->nbytes > MOST_ARRAY_BYTES) return IPCHEAP_CORRUPT;
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
    if (!description_measure(header, rest, &nbytes) || nbytes != record->nbytes)
        return IPCHEAP_CORRUPT;
    if (array) *array = description_says(description);
    return (int64_t)length;
}

int64_t ipcheap_chunk_array(ipcheap_heap *heap, const ipcheap_chunk *chunk,
                            ipcheap_description *description, ipcheap_array *array) {
    const ipcheap_record same = {
        .data = at_offset(heap, chunk->offset),
        .nbytes = chunk->nbytes,
        .offset = chunk->offset,
        .form = chunk->form,
    };
    if (chunk->data != same.data) return IPCHEAP_RECORD;
    return ipcheap_array_of(heap, &same, description, array);
}
