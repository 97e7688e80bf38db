#include "segment/participant.h"

#include <string.h>

#include "base/coredump.h"
#include "base/timing.h"
#include "segment/file.h"

/* True if a slot may be read. Not by slots_used: a wrong store there must hide no participant. */
static bool slot_exists(ipcheap_heap *heap, uint32_t slot) {
    return slot < PARTICIPANTS &&
           segment_meta_committed(heap, slot_at(heap, slot), sizeof(struct participant_slot));
}

struct participant_slot *participant_record(ipcheap_heap *heap, uint64_t tag) {
    uint32_t slot = tag_slot(tag);
    return slot_exists(heap, slot) ? slot_at(heap, slot) : NULL;
}

bool participant_shares_core(const struct participant *me, uint64_t tag) {
    uint32_t core = get(&me->record->core);
    const struct participant_slot *other = core ? participant_record(me->heap, tag) : NULL;
    return other && get(&other->core) == core;
}

void participant_note_core(struct participant *me) {
    if (me->core_looks++ % CORE_LOOKS) return; /* a system call */
    put(&me->record->core, os_only_core());
}

/*
 * True if the occupant of a slot has crashed and its core dump is not complete. Until then, it keeps
 * its byte. Its number belongs to another process only if it is dead already.
 */
static bool participant_is_dumped(ipcheap_heap *heap, uint32_t slot) {
    if (!slot_exists(heap, slot)) return false;
    struct participant_slot *record = slot_at(heap, slot);
    uint64_t word = get_acquire(&record->word); /* pairs with slot_fill() */
    uint32_t pid = get(&record->pid);
    uint64_t here = os_process_namespace();
    if ((word & 0xFF) != SLOT_LIVE || !here || get(&record->namespace) != here) return false;
    /* Many participants may be threads of one process. */
    uint64_t seen = (uint64_t)pid << 32 | (uint32_t)(os_now() / DUMP_GLANCE);
    if (heap->not_dumped == seen) return false;
    if (process_is_dumped(pid)) return get_acquire(&record->word) == word; /* with slot_fill() */
    heap->not_dumped = seen;
    return false;
}

bool participant_unlocked(ipcheap_heap *heap, uint32_t slot) {
    if (heap->by_slot[slot]) return false;
    /* A participant counts as present if the kernel cannot say: no memory, or no descriptor. */
    int file = file_descriptor(heap);
    return file >= 0 && os_byte_locked(file, slot) == 0;
}

bool participant_absent(ipcheap_heap *heap, uint32_t slot) {
    if (heap->by_slot[slot]) return false;
    return participant_unlocked(heap, slot) || participant_is_dumped(heap, slot);
}

bool participant_alive(ipcheap_heap *heap, uint32_t slot, uint32_t generation) {
    if (!slot_exists(heap, slot)) return false;
    uint64_t word = get_acquire(&slot_at(heap, slot)->word); /* pairs with slot_fill() */
    if (word != slot_word(generation, SLOT_LIVE) && word != slot_word(generation, SLOT_KEEPER))
        return false;
    struct participant *own = heap->by_slot[slot];
    return own ? own->generation == generation : !participant_absent(heap, slot);
}

bool participant_latest(ipcheap_heap *heap, uint32_t slot, uint32_t *generation) {
    if (!slot_exists(heap, slot)) return false;
    *generation = (uint32_t)(get_acquire(&slot_at(heap, slot)->word) >> 8); /* with slot_fill() */
    return true;
}

bool participant_has_been(ipcheap_heap *heap, uint32_t slot, uint32_t generation) {
    uint32_t latest;
    return participant_latest(heap, slot, &latest) && (int32_t)(generation - latest) <= 0;
}

bool participant_settled(ipcheap_heap *heap, uint32_t slot) {
    if (!slot_exists(heap, slot)) return true;
    for (int i = 0; i < 1000; i++) {
        /* Pairs with participant_leave(). */
        if (get_acquire(&slot_at(heap, slot)->busy) == 0) return true;
        os_pause();
    }
    return false;
}

bool participant_owns(const struct participant *p, uint64_t tag) {
    uint32_t generation = tag_generation(tag);
    return tag_kind(tag) == TAG_OWN && tag_slot(tag) == p->slot &&
           (int32_t)(generation - p->first) >= 0 && (int32_t)(generation - p->generation) <= 0;
}

uint32_t participant_first(ipcheap_heap *heap, uint32_t slot) {
    return slot_exists(heap, slot) ? get(&slot_at(heap, slot)->first) : 0;
}

void participant_describe(ipcheap_heap *heap, uint32_t slot, ipcheap_holder *holder) {
    *holder = (ipcheap_holder){0};
    if (!slot_exists(heap, slot)) return;
    struct participant_slot *record = slot_at(heap, slot);
    uint64_t word = get_acquire(&record->word); /* pairs with slot_fill() */
    holder->pid = get(&record->pid);
    holder->tid = get(&record->tid);
    holder->since_ns = get(&record->since);
    holder->alive = participant_alive(heap, slot, (uint32_t)(word >> 8));
    uint32_t ways = get(&record->ways);
    holder->in_turn = (ways & WAYS_IN_TURN) != 0;
    holder->copies_past = ways & ~WAYS_IN_TURN;
    /* A pid means something only in its own namespace, and while its process lives. */
    uint64_t here = os_process_namespace(), there = get(&record->namespace);
    holder->elsewhere = here && there && here != there;
    holder->ours = holder->alive && !holder->elsewhere && holder->pid == os_process_id();
    uint64_t label[LABEL_WORDS];
    for (int i = 0; i < LABEL_WORDS; i++) label[i] = get(&record->label[i]);
    memcpy(holder->name, label, sizeof holder->name);
    holder->name[sizeof holder->name - 1] = 0;
}

int ipcheap_next_participant(ipcheap_heap *heap, uint32_t *cursor, ipcheap_holder *holder) {
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    while (*cursor < used) {
        uint32_t slot = (*cursor)++;
        if (!slot_exists(heap, slot)) continue;
        uint64_t state = get(&slot_at(heap, slot)->word) & 0xFF;
        if (state == SLOT_FREE || state == SLOT_KEEPER) continue;
        participant_describe(heap, slot, holder);
        return 1;
    }
    return 0;
}

void participants_count(ipcheap_heap *heap, uint32_t *living, uint32_t *dead) {
    *living = *dead = 0;
    uint32_t used = (uint32_t)least(get(&heap->header->slots_used), PARTICIPANTS);
    for (uint32_t slot = 0; slot < used; slot++) {
        if (!slot_exists(heap, slot)) continue;
        uint64_t word = get(&slot_at(heap, slot)->word);
        if ((word & 0xFF) == SLOT_FREE || (word & 0xFF) == SLOT_KEEPER) continue;
        if (participant_alive(heap, slot, (uint32_t)(word >> 8)))
            ++*living;
        else
            ++*dead;
    }
}
