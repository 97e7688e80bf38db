#include "segment/membership.h"

#include <stdlib.h>

#include "segment/clock.h"
#include "segment/file.h"
#include "segment/lock.h"

_Thread_local struct participant_cache participant_cache;

#define NO_THREAD ((uintptr_t)1) /* of a participant that its thread may not use any more */

/* This thread's participants, of all heaps: thread_ended() goes through them. */
static _Thread_local struct participant *mine;

/*
 * The list of this process's handles for fork(), a key whose destructor runs at thread exit, and
 * the mutex over both, which is never taken under a heap lock.
 */
static pthread_mutex_t process_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t thread_key;
static int setup_error;
static struct ipcheap_heap *handles;
static uint64_t next_serial;
static uint32_t forks; /* stored in a child before it has a second thread */

/* Fork: the child owns nothing of its parent's ------------------------------------------- */

uint32_t ipcheap_forks(void) { return forks; }

void process_enter(void) { pthread_mutex_lock(&process_mutex); }

void process_leave(void) { pthread_mutex_unlock(&process_mutex); }

static int keeper_take(ipcheap_heap *heap, int live, struct participant **result);
static int recover_predecessor(struct participant *me);

/*
 * Gives the child of a fork a keeper while the parent still uses what both will see. Its byte is
 * locked through a description of its own, which both have until the parent closes it.
 */
static void child_prepare(ipcheap_heap *heap) {
    struct participant *child = NULL;
    int error = presence_for_child(heap);
    if (!error) error = keeper_take(heap, heap->child_presence.fd, &child);
    if (!error && child->succeeds_dead) error = recover_predecessor(child);
    /* Whose it is, is not known yet: not this process's. */
    if (!error) put(&child->record->pid, 0);
    if (!error && heap->hooks->share(heap, child)) {
        heap->child = child;
        return;
    }
    heap->hooks->share(heap, NULL);
    if (child && !child->succeeds_dead)
        put_release(&child->record->word, slot_word(child->generation, SLOT_FREE));
    descriptor_close(&heap->child_presence);
    free(child);
}

static void before_fork(void) {
    process_enter();
    for (struct ipcheap_heap *heap = handles; heap; heap = heap->next_of_process)
        if (heap->keeper) child_prepare(heap);
    os_before_fork();
}

static void after_fork_in_parent(void) {
    os_after_fork();
    for (struct ipcheap_heap *heap = handles; heap; heap = heap->next_of_process) {
        descriptor_close(&heap->child_presence);
        free(heap->child);
        heap->child = NULL;
    }
    process_leave();
}

/* Makes the keeper that the parent has prepared this child's own. */
static void child_takes_over(ipcheap_heap *heap) {
    if (heap->keeper) heap->by_slot[heap->keeper->slot] = NULL; /* it is the parent's */
    free(heap->keeper);
    heap->keeper = heap->child;
    heap->child = NULL;
    if (!heap->keeper) return;
    heap->keeper->presence = heap->presences;
    struct participant_slot *record = heap->keeper->record;
    put(&record->pid, os_process_id());
    put(&record->tid, os_thread_id());
    put(&record->process, heap->process);
    put(&record->namespace, os_process_namespace());
    heap->by_slot[heap->keeper->slot] = heap->keeper;
}

static void after_fork_in_child(void) {
    os_after_fork();
    forks++;
    for (struct ipcheap_heap *heap = handles; heap; heap = heap->next_of_process) {
        presence_after_fork(heap);
        segment_forked(heap);
        heap->serial = ++next_serial;
        heap->process = os_random();
        clock_set(heap);
        pthread_mutex_init(&heap->mutex, NULL);
        struct participant **end = &heap->inherited;
        while (*end) end = &(*end)->next_of_heap;
        *end = heap->members;
        for (struct participant *p = heap->members; p; p = p->next_of_heap) {
            heap->hooks->abandon(p);
            p->abandoned = true;
            p->thread = 0;
            heap->by_slot[p->slot] = NULL; /* all others are: this costs no page of the child's */
        }
        heap->members = NULL;
        heap->members_here = 0;
        heap->closing = 0;
        child_takes_over(heap);
    }
    mine = NULL;
    participant_cache.serial = 0;
    process_leave(); /* the child's only thread is the one that took it */
}

/* Thread exit ---------------------------------------------------------------------------- */

static int64_t held(struct participant *me) {
    return me->held + atomic_load_explicit(&me->held_elsewhere, memory_order_relaxed);
}

/* True if nothing but records of its own is left of a participant: no slab, no endpoint. */
static bool has_left(const struct participant *me) { return !me->endpoints && !me->memory; }

/* True if nothing in the segment names the participant any more. */
static bool done(struct participant *me) { return held(me) == 0 && has_left(me); }

/* Frees the slot of a participant that holds nothing any more. Under the process mutex. */
static void participant_retire(struct participant *me) {
    ipcheap_heap *heap = me->heap;
    if (heap->by_slot[me->slot] != me) return;
    /* Otherwise the slot stays that of a dead one: recovery includes earlier occupants. */
    if (!me->succeeds_dead)
        put_release(&slot_at(heap, me->slot)->word, slot_word(me->generation, SLOT_FREE));
    presence_unlock(heap, me->presence, me->slot);
    heap->by_slot[me->slot] = NULL;
}

/*
 * Makes the participant of an ended thread, which left records, ready to be continued by another
 * thread: see participant_of_ended(). With the new generation the ended thread counts as gone where
 * it matters that it was this one: in locks that it held. Under the process mutex.
 */
static void participant_settle(struct participant *me) {
    if (me->vacant || !has_left(me)) return;
    me->vacant = true;
    me->generation++;
    me->tag = own_tag(me->slot, me->generation);
    me->lock_word = lock_word_of(me->slot, me->generation);
    /* Release: pairs with participant_alive(). */
    put_release(&slot_at(me->heap, me->slot)->word, slot_word(me->generation, SLOT_LIVE));
}

static void thread_ended(void *unused) {
    (void)unused;
    participant_cache.serial = 0;
    pthread_mutex_lock(&process_mutex);
    for (struct participant *next, *me = mine; me; me = next) {
        next = me->next_of_thread;
        if (!me->heap) {
            free(me);
            continue;
        }
        if (!me->abandoned) {
            me->heap->members_here--;
            me->heap->hooks->leave(me);
            if (done(me))
                participant_retire(me);
            else
                participant_settle(me);
        }
        me->thread = 0;
    }
    mine = NULL;
    pthread_mutex_unlock(&process_mutex);
}

/*
 * Makes the key and the fork handlers, or what is still missing after a failure. When the library
 * is loaded: later a fork could come between the handlers and the note that they are there.
 */
__attribute__((constructor)) static void process_setup(void) {
    static bool has_key;
    setup_error = has_key ? 0 : os_thread_key(&thread_key, thread_ended);
    has_key = !setup_error;
    if (has_key) setup_error = os_at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int process_list_add(ipcheap_heap *heap) {
    pthread_mutex_lock(&process_mutex);
    if (setup_error) process_setup();
    int error = setup_error;
    if (!error) {
        heap->serial = ++next_serial;
        heap->next_of_process = handles;
        handles = heap;
    }
    pthread_mutex_unlock(&process_mutex);
    return error;
}

void process_list_remove(ipcheap_heap *heap) {
    pthread_mutex_lock(&process_mutex);
    struct ipcheap_heap **link = &handles;
    while (*link && *link != heap) link = &(*link)->next_of_process;
    if (*link) *link = heap->next_of_process;
    pthread_mutex_unlock(&process_mutex);
}

/* Joining and leaving -------------------------------------------------------------------- */

/* Takes a slot whose byte no process holds, by that descriptor. Under the process mutex. */
static int slot_take(ipcheap_heap *heap, int live, uint32_t *slot, bool *was_live) {
    struct header *header = heap->header;
    /* Pass 0: slots that were given back, then new ones. Pass 1: those of the dead. */
    for (int pass = 0; pass < 2; pass++) {
        uint32_t used = (uint32_t)least(get(&header->slots_used), PARTICIPANTS);
        uint32_t end = pass == 0 ? (uint32_t)least(used + 64, PARTICIPANTS) : used;
        for (uint32_t s = 0; s < end; s++) {
            if (heap->by_slot[s]) continue;
            struct participant_slot *record = slot_at(heap, s);
            int error = segment_commit_meta(heap, record, sizeof *record);
            if (error) return error;
            uint64_t state = get(&record->word) & 0xFF;
            /* A keeper leaves little to recover, even if its process ends in a normal way. */
            if (state != SLOT_FREE && state != SLOT_KEEPER && pass == 0) continue;
            error = os_byte_lock(live, s);
            if (error == IPCHEAP_WOULD_BLOCK) continue;
            if (error) return error;
            /* Only the holder of the byte changes the word, so it can be relied on from here. */
            state = get(&record->word) & 0xFF;
            *was_live = state != SLOT_FREE;
            if (*was_live && state != SLOT_KEEPER && pass == 0) {
                os_byte_unlock(live, s);
                continue;
            }
            uint32_t seen = get(&header->slots_used);
            while (seen <= s && !put_if(&header->slots_used, &seen, s + 1)) {}
            *slot = s;
            return 0;
        }
    }
    return IPCHEAP_TOO_MANY_PARTICIPANTS;
}

/* Fills a label, which is zero, with the program's name; control characters become `?`. */
static void label_fill(char *label) {
    os_process_name(label);
    for (char *at = label; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7F) *at = '?';
}

/* Fills in the slot of a keeper, or of a participant that has a thread from now on. */
static void slot_fill(const struct participant *me, enum participant_state state) {
    ipcheap_heap *heap = me->heap;
    struct participant_slot *record = me->record;
    uint64_t label[LABEL_WORDS] = {0};
    label_fill((char *)label);
    clock_tick(heap);
    put(&record->pid, os_process_id());
    put(&record->tid, os_thread_id());
    put(&record->process, heap->process);
    put(&record->since, os_wall_clock());
    for (int i = 0; i < LABEL_WORDS; i++) put(&record->label[i], label[i]);
    put(&record->namespace, os_process_namespace());
    put(&record->core, os_only_core());
    put(&record->version, IPCHEAP_VERSION_NUMBER);
    put(&record->ways, 0);
    put(&record->board, 0);
    put(&record->first, me->first);
    /* Release: pairs with participant_alive(). */
    put_release(&record->word, slot_word(me->generation, state));
}

static struct participant *participant_new(ipcheap_heap *heap, uint32_t slot) {
    struct participant *me = os_allocate_zeroed(1, sizeof *me);
    if (!me) return NULL;
    uint32_t generation = (uint32_t)(get(&slot_at(heap, slot)->word) >> 8) + 1;
    me->heap = heap;
    me->slot = slot;
    me->generation = me->first = generation;
    me->tag = own_tag(slot, generation);
    me->lock_word = lock_word_of(slot, generation);
    me->record = slot_at(heap, slot);
    me->presence = heap->presences;
    put(&me->record->busy, 0);
    return me;
}

/* Frees this thread's participants of heaps that were released. Under the process mutex. */
static void mine_tidy(void) {
    struct participant **link = &mine;
    while (*link) {
        struct participant *p = *link;
        if (p->heap) {
            link = &p->next_of_thread;
            continue;
        }
        *link = p->next_of_thread;
        free(p);
    }
}

/* Retires participants whose threads have ended and that hold nothing. Under the process mutex. */
static void participants_tidy(ipcheap_heap *heap) {
    struct participant **link = &heap->members;
    while (*link) {
        struct participant *p = *link;
        /* Its thread could not give up its memory, because it did not get the heap lock. */
        bool left = !p->thread && heap->by_slot[p->slot] == p;
        if (left && p->memory) heap->hooks->leave(p);
        if (p->thread || p->lost || (heap->by_slot[p->slot] == p && !done(p))) {
            if (left) participant_settle(p);
            link = &p->next_of_heap;
            continue;
        }
        participant_retire(p);
        *link = p->next_of_heap;
        free(p);
    }
}

/*
 * Gives up participants whose locks went with the descriptor of a former presence: others find them
 * dead. Under the process mutex.
 */
static void participants_lose(ipcheap_heap *heap, int live) {
    for (struct participant *p = heap->members; p; p = p->next_of_heap) {
        if (heap->by_slot[p->slot] != p || p->presence == heap->presences) continue;
        if (os_byte_locked(live, p->slot) != 0) continue;
        if (p->thread) heap->members_here--;
        p->abandoned = p->lost = true;
        p->vacant = false;
        p->thread = p->thread ? NO_THREAD : 0;
        heap->by_slot[p->slot] = NULL;
        heap->serial = ++next_serial;
    }
    struct participant *keeper = heap->keeper;
    if (!keeper || keeper->presence == heap->presences) return;
    if (os_byte_locked(live, keeper->slot) != 0) return;
    heap->by_slot[keeper->slot] = NULL;
    heap->hooks->forget(keeper);
    free(keeper);
    heap->keeper = NULL; /* the next use makes another one a user of all that is in use */
}

/* Recovers the slot's last occupant, which died; after an error the next call retries. */
static int recover_predecessor(struct participant *me) {
    int error = heap_lock(me);
    if (error) return error;
    error = me->heap->hooks->recover(me, me->slot, me->first - 1);
    heap_unlock(me);
    if (!error) me->succeeds_dead = false;
    return error;
}

/* Makes `me` the calling thread's participant from now on. */
static int begin(struct participant *me) {
    participant_cache = (struct participant_cache){me->heap->serial, me};
    int error = me->succeeds_dead ? recover_predecessor(me) : 0;
    if (error) participant_cache.serial = 0;
    return error;
}

struct participant *participant_here(ipcheap_heap *heap) {
    if (LIKELY(participant_cache.serial == heap->serial)) return participant_cache.participant;
    uintptr_t marker = thread_marker();
    for (struct participant *p = mine; p; p = p->next_of_thread)
        if (p->heap == heap && heap->by_slot[p->slot] == p && p->thread == marker) return p;
    return NULL;
}

/*
 * Returns a participant whose thread has ended while records that it owns live on, or NULL. The
 * calling thread continues it. So records need no new tags, have an owner that is alive as long as
 * the process, and a process takes no more slots than it ever had threads at a time. Under the
 * process mutex.
 */
static struct participant *participant_of_ended(ipcheap_heap *heap) {
    for (struct participant *p = heap->members; p; p = p->next_of_heap)
        if (p->vacant) return p;
    return NULL;
}

/* Makes a participant in a slot that nobody holds. Under the process mutex. */
static int participant_make(ipcheap_heap *heap, int live, struct participant **result) {
    uint32_t slot = 0;
    bool was_live = false; /* the slot's last occupant died */
    int error = slot_take(heap, live, &slot, &was_live);
    if (error) return error;
    struct participant *me = participant_new(heap, slot);
    if (!me) {
        os_byte_unlock(live, slot);
        return IPCHEAP_NO_MEMORY;
    }
    me->succeeds_dead = was_live;
    me->next_of_heap = heap->members;
    heap->members = me;
    heap->by_slot[slot] = me;
    *result = me;
    return 0;
}

int participant_join(ipcheap_heap *heap, struct participant **result) {
    *result = participant_here(heap);
    if (*result) return begin(*result);
    int error = os_thread_keep(thread_key, &mine); /* any value makes thread_ended() run */
    if (error) return error;
    pthread_mutex_lock(&process_mutex);
    mine_tidy();
    participants_tidy(heap);
    int live = presence_descriptor(heap);
    if (live >= 0) participants_lose(heap, live);
    struct participant *me = live >= 0 ? participant_of_ended(heap) : NULL;
    if (!me) error = live < 0 ? live : participant_make(heap, live, &me);
    if (!error) {
        slot_fill(me, SLOT_LIVE);
        me->vacant = false;
        /* No other thread has freed or sent what this one will allocate. */
        atomic_fetch_and(&me->attention, (uint8_t)~ATTENTION_HELPED);
        me->thread = thread_marker();
        heap->members_here++;
        me->next_of_thread = mine;
        mine = me;
    }
    pthread_mutex_unlock(&process_mutex);
    if (error) return error;
    *result = me;
    return begin(me);
}

void participants_close(ipcheap_heap *heap) {
    struct participant *me = NULL;
    bool here = participant_current(heap, &me) == 0, keeps_slots = false;
    pthread_mutex_lock(&process_mutex);
    heap->serial = ++next_serial;
    for (struct participant *p = heap->members; p && here; p = p->next_of_heap)
        if (p != me && heap->by_slot[p->slot] == p) heap->hooks->close_endpoints(p, me);
    for (struct participant *p = heap->members; p; p = p->next_of_heap) {
        if (heap->by_slot[p->slot] != p) continue;
        if (p == me) heap->hooks->leave(p);
        /*
         * Another thread may be in the middle of a call, perhaps with the heap lock. Its memory
         * and its slot stay until it ends, or until the handle is released.
         */
        if ((p == me || !p->thread) && done(p)) participant_retire(p);
        keeps_slots |= heap->by_slot[p->slot] == p;
    }
    presence_end(heap, keeps_slots || heap->keeper);
    pthread_mutex_unlock(&process_mutex);
}

void participants_forget(ipcheap_heap *heap) {
    pthread_mutex_lock(&process_mutex);
    struct participant *next;
    for (struct participant *p = heap->inherited; p; p = next) {
        next = p->next_of_heap;
        heap->hooks->forget(p);
        free(p);
    }
    heap->inherited = NULL;
    for (struct participant *p = heap->members; p; p = next) {
        next = p->next_of_heap;
        if (heap->by_slot[p->slot] == p) {
            heap->hooks->leave(p);
            if (done(p)) participant_retire(p);
            /* Otherwise it leaves records that nobody here can free: others find it dead. */
            presence_unlock(heap, p->presence, p->slot);
            heap->by_slot[p->slot] = NULL;
        }
        heap->hooks->forget(p);
        p->heap = NULL; /* its thread frees it: see mine_tidy() */
        if (!p->thread) free(p);
    }
    heap->members = NULL;
    pthread_mutex_unlock(&process_mutex);
}

/* Keepers --------------------------------------------------------------------------------- */

/* Takes a slot for a keeper. Under the process mutex. */
static int keeper_take(ipcheap_heap *heap, int live, struct participant **result) {
    uint32_t slot;
    bool was_live;
    int error = slot_take(heap, live, &slot, &was_live);
    if (error) return error;
    struct participant *keeper = participant_new(heap, slot);
    if (!keeper) {
        os_byte_unlock(live, slot);
        return IPCHEAP_NO_MEMORY;
    }
    keeper->succeeds_dead = was_live;
    slot_fill(keeper, SLOT_KEEPER);
    *result = keeper;
    return 0;
}

int keeper_join(ipcheap_heap *heap) {
    int live = presence_descriptor(heap);
    if (live >= 0) participants_lose(heap, live);
    if (!heap->keeper) {
        if (live < 0) return live;
        int error = keeper_take(heap, live, &heap->keeper);
        if (error) return error;
        heap->by_slot[heap->keeper->slot] = heap->keeper;
    }
    return heap->keeper->succeeds_dead ? recover_predecessor(heap->keeper) : 0;
}

void keeper_leave(ipcheap_heap *heap, bool owes) {
    struct participant *keeper = heap->keeper;
    if (!keeper) return;
    heap->hooks->leave(keeper);
    if (owes || keeper->memory) {
        presence_unlock(heap, keeper->presence, keeper->slot);
        heap->by_slot[keeper->slot] = NULL;
    } else {
        participant_retire(keeper);
    }
    heap->hooks->forget(keeper);
    free(keeper);
    heap->keeper = NULL;
}

/* Dead participants ----------------------------------------------------------------------- */

static int recover_with(struct participant *me, uint64_t holder,
                        int (*lock)(struct participant *)) {
    if (side_state(holder) != SIDE_OPEN) return 0;
    uint32_t slot = tag_slot(holder), generation = tag_generation(holder);
    if (participant_alive(me->heap, slot, generation)) return 0;
    /* Recovering a future occupant would take what belongs to the living. */
    if (!participant_has_been(me->heap, slot, generation)) return IPCHEAP_CORRUPT;
    int error = lock(me);
    if (error) return error;
    error = me->heap->hooks->recover(me, slot, generation);
    heap_unlock(me);
    return error;
}

int recover_if_dead(struct participant *me, uint64_t holder) {
    return recover_with(me, holder, heap_lock);
}

int recover_if_dead_soon(struct participant *me, uint64_t holder) {
    return recover_with(me, holder, heap_lock_soon);
}
