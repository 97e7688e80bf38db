#include "stream/ring.h"

#include "ipcheap/ipcheap.h"

uint64_t stream_ring_bytes(uint64_t capacity, uint64_t backlog, uint64_t itemsize) {
    uint64_t bytes;
    if (capacity < 1 || capacity > MOST_ITEMS || backlog > MOST_ITEMS || itemsize < 1) return 0;
    if (__builtin_mul_overflow(capacity + backlog, itemsize, &bytes)) return 0;
    return bytes > MOST_ARRAY_BYTES ? 0 : round_up(bytes, PAGE);
}

struct stream_head *stream_head_of(ipcheap_heap *heap, uint32_t index) {
    struct channel *channel = channel_at(heap, index);
    if (!channel || get(&channel->kind) != IPCHEAP_STREAM) return NULL;
    uint64_t memory = channel_part(heap, index, 0, sizeof(struct stream_head));
    return memory ? at_offset(heap, memory) : NULL;
}

bool stream_of(ipcheap_heap *heap, uint32_t index, struct stream *stream) {
    struct stream_head *head = stream_head_of(heap, index);
    if (!head) return false;
    uint64_t capacity = get(&head->capacity), backlog = get(&head->backlog);
    uint64_t itemsize = get(&head->itemsize), bytes = get(&head->ring_bytes);
    if (capacity != get(&channel_at(heap, index)->shape)) return false;
    if (bytes == 0 || bytes != stream_ring_bytes(capacity, backlog, itemsize)) return false;
    if (!channel_part(heap, index, 0, sizeof *head + bytes)) return false;
    *stream = (struct stream){
        .capacity = capacity,
        .backlog = backlog,
        .cells = capacity + backlog,
        .itemsize = itemsize,
        .ring_bytes = bytes,
        .ring = (unsigned char *)(head + 1),
        .overwrite = get(&head->flags) & IPCHEAP_OVERWRITE,
    };
    return true;
}
