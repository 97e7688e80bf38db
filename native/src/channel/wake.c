#include "channel/wake.h"

#include "base/pipe.h"

static void knock(ipcheap_heap *heap, uint64_t holder) {
    struct participant_slot *record = participant_record(heap, holder);
    if (!record) return; /* a corrupt word: a sleeper looks by itself after a while */
    put_add(&record->knock, 1);
    os_futex_wake(&record->knock, 1);
}

bool unpark(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull) {
    if (get(&seat->parked) == AWAKE) return false;
    switch ((enum parked_state)put_exchange(&seat->parked, AWAKE)) {
    case AWAKE:
        return false;
    case PARKED_BELL:
        bell_ring(heap, seat, pull);
        break;
    case PARKED_AMONG:
        knock(heap, get_acquire(&seat->holder)); /* with claim() */
        break;
    default:
        os_futex_wake(&seat->parked, 1); /* PARKED_HERE, or a corrupt word */
    }
    return true;
}

void bell_ring(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull) {
    struct bell *bell = &seat->bell;
    struct bell_pull once = {0};
    if (!pull) pull = &once;
    uint64_t inode = get_acquire(&bell->inode); /* pairs with bell_make() */
    if (pull->inode != inode) {
        if (pull->inode) os_close(pull->fd);
        *pull = (struct bell_pull){0};
        if (inode == 0 || inode == BELL_MAKING) return;
        uint64_t holder = get_acquire(&seat->holder); /* with claim() */
        const struct participant_slot *record = participant_record(heap, holder);
        uint32_t pid = record ? get(&record->pid) : 0; /* 0: no process has it */
        int fd = os_pipe_open(heap->file, seat_suffix(heap, seat), pid, (int)get(&bell->fd), inode);
        if (fd < 0) { /* out of descriptors, or the holder is gone: the next waker retries */
            uint32_t awake = AWAKE;
            put_if(&seat->parked, &awake, PARKED_BELL);
            return;
        }
        *pull = (struct bell_pull){inode, fd};
    }
    if (pull->inode) os_pipe_ring(pull->fd);
    if (once.inode) os_close(once.fd);
}

void bell_recover(ipcheap_heap *heap, struct seat *seat) {
    if (get(&seat->bell.inode) == 0) return;
    os_pipe_remove(heap->file, seat_suffix(heap, seat));
    put(&seat->bell.inode, 0);
}
