#include "store/bells.h"

#include <limits.h>

#include "channel/wake.h"

/* Wakes the readers that sleep on their seats. */
static void wake_seats(struct store *s) {
    uint32_t readers = readers_used(s);
    for (uint32_t i = 0; i < readers; i++) {
        struct store_reader *entry = store_reader_at(s, i);
        if (entry) unpark(s->heap, &entry->seat, NULL);
    }
}

void bell_wake(struct store *s, shared32 *bell) {
    for (;;) {
        uint32_t seen = get_acquire(bell); /* pairs with bell_poll() */
        if (!(seen & (BELL_SLEEPING | BELL_POLLING))) return;
        if (seen & BELL_POLLING) wake_seats(s);
        uint32_t next = (seen + BELL_COUNT) & ~(BELL_SLEEPING | BELL_POLLING);
        if (!put_if(bell, &seen, next)) continue;
        if (seen & BELL_SLEEPING) os_futex_wake(bell, INT_MAX);
        return;
    }
}

uint32_t bell_arm(shared32 *bell) { return put_or(bell, BELL_SLEEPING) | BELL_SLEEPING; }

void bell_poll(shared32 *bell) {
    uint32_t seen = get(bell);
    while (!put_if(bell, &seen, (seen + BELL_COUNT) | BELL_POLLING)) {}
}

void bells_of_cells(struct store *s) {
    if (!get(&s->root->keyed)) return;
    for (uint64_t i = 0; i <= s->cell_mask; i++) bell_tell(s, &s->cells[i].bell);
}

void bells_tell_all(struct store *s) {
    bell_tell(s, &s->root->bell);
    bells_of_cells(s);
    wake_seats(s);
}
