#include "channel/wake.h"

#include "base/pipe.h"
#include "segment/file.h"

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

void bell_let_go(struct bell_pull *pull) {
    if (pull->inode) descriptor_close(&pull->pipe);
    *pull = (struct bell_pull){0};
}

/* Opens the seat's pipe, unless it is open. False if it cannot be opened now. */
static bool take_hold(ipcheap_heap *heap, struct seat *seat, uint64_t inode,
                      struct bell_pull *pull) {
    if (pull->inode == inode && (!inode || descriptor_is_ours(&pull->pipe))) return true;
    bell_let_go(pull);
    if (inode == 0 || inode == BELL_MAKING) return true;
    uint64_t holder = get_acquire(&seat->holder); /* with claim() */
    const struct participant_slot *record = participant_record(heap, holder);
    uint32_t pid = record ? get(&record->pid) : 0; /* 0: no process has it */
    int fd = os_pipe_open(file_descriptor(heap), seat_suffix(heap, seat), pid,
                          (int)get(&seat->bell.fd), inode);
    if (fd < 0 || descriptor_note(fd, &pull->pipe)) return false;
    pull->inode = inode;
    return true;
}

/* False if the pipe cannot be opened now: out of descriptors, or the holder is gone. */
static bool pull_it(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull) {
    struct bell_pull once = {0};
    if (!pull) pull = &once;
    uint64_t inode = get_acquire(&seat->bell.inode); /* pairs with bell_make() */
    if (!take_hold(heap, seat, inode, pull)) return false;
    if (pull->inode) os_pipe_ring(pull->pipe.fd);
    bell_let_go(&once);
    return true;
}

void bell_ring(ipcheap_heap *heap, struct seat *seat, struct bell_pull *pull) {
    uint32_t awake = AWAKE;
    /* Otherwise the next waker retries. */
    if (!pull_it(heap, seat, pull)) put_if(&seat->parked, &awake, PARKED_BELL);
}

bool seat_rouse(ipcheap_heap *heap, struct seat *seat) {
    switch ((enum parked_state)get(&seat->parked)) {
    case PARKED_BELL:
        return pull_it(heap, seat, NULL);
    case PARKED_AMONG:
        knock(heap, get_acquire(&seat->holder)); /* with claim() */
        return true;
    default:
        return true;
    }
}

void bell_recover(ipcheap_heap *heap, struct seat *seat) {
    if (get(&seat->bell.inode) == 0) return;
    os_pipe_remove(file_descriptor(heap), seat_suffix(heap, seat));
    put(&seat->bell.inode, 0);
}
