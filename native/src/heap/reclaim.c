#include "heap/reclaim.h"

#include "channel/directory.h"
#include "channel/kind.h"
#include "channel/removal.h"

void channels_reclaim(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    uint32_t entries = directory_entries(heap);
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(heap, index);
        if (!channel) break;
        channel_drop_if_done(me, index);
        const struct kind *kind = kind_of(heap, channel);
        if (get(&channel->state) >> 62 == CHANNEL_LIVE && kind && kind->reclaim)
            kind->reclaim(me, index);
    }
}
