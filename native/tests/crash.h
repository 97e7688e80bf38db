/*
 * crash.h - the parts of a crash test: a world with a survivor and a victim in it, and
 * scenarios, in which the victim is killed.
 *
 *            A: numbers 0, 1, ...            C: what came on B, forwarded
 *   victim ------------------> survivor     victim ------------------> survivor
 *          <------------------
 *            B: numbers 0, 1, ...            X: a scenario's own
 */
#ifndef IPCHEAP_TESTS_CRASH_H
#define IPCHEAP_TESTS_CRASH_H

#include "testing.h"

#include "segment/handle.h"
#include "segment/size_class.h"

enum { SLOTS = 4, MOST = 64, OWN = 4, TEXTS = 250 };
enum { A = 1, B = 2, C = 3, X = 9 }; /* ids: victim to survivor, back, forwarded, the scenario's */

/* What became of a record of channel B in the victim's hands. */
enum fate { UNTOUCHED, GIVING, GIVEN, FORWARDING, FORWARDED };

/* What the victim has noted before it dies; shared by fork. */
struct told {
    const char *file;
    int line;
    int done;                 /* it reached the end */
    uint64_t sending, sent;   /* on A */
    enum fate fate[MOST];     /* of the records that came on B */
    int progress;             /* for the scenario's own use */
    uint64_t posting, posted; /* on a bus */
    uint8_t text[TEXTS];      /* the number that a message there has, by its position */
};

struct world {
    int fd, shmid; /* of the heap; a scenario without a survivor sets both */
    ipcheap_heap *heap;
    struct told *told;
    ipcheap_channel a, b, c;
    ipcheap_endpoint *a_out, *a_in, *b_out, *b_in, *c_out, *c_in, *x_in, *x_out;
    uint64_t a_received, b_sent;
    uint64_t b_redelivered;       /* which records of B came to the survivor, a bit each */
    ipcheap_counts counts[C + 1]; /* of A, B and C right after the death, if there were any */
    ipcheap_record own[OWN], mine[MOST];
    int meet[2]; /* the survivor's end and the victim's */
    int bell;    /* the descriptor of a_in, if requested: armed when the victim acts */
};

struct scenario {
    const char *name;
    uint64_t capacity;
    void (*before)(struct world *w);     /* survivor: before the victim comes */
    void (*prepare)(struct world *w);    /* victim */
    void (*meanwhile)(struct world *w);  /* survivor, after prepare() and before act() */
    void (*act)(struct world *w);        /* victim: killed in here */
    uint64_t (*verify)(struct world *w); /* survivor: returns the bytes in use beyond the usual */
    bool joins;                          /* the victim attaches in act() */
    bool leaves;                         /* the victim releases the heap in act() */
};

/* Each array ends with a scenario without a name. */
extern const struct scenario memory_scenarios[], directory_scenarios[], static_scenarios[],
    channel_scenarios[], stream_scenarios[], store_scenarios[], upkeep_scenarios[], bus_scenarios[],
    listener_scenarios[];
/* All of these arrays by name, and one without a name at the end. */
struct crash_area {
    const char *name;
    const struct scenario *scenarios;
};
extern const struct crash_area crash_areas[];
/* Without a survivor: the victim makes a heap in act() and looks at what is left in verify(). */
extern const struct scenario own_heap_scenarios[];

/*
 * Wraps a call that a victim makes, and returns its result. If test_faults made the call fail, and
 * it failed as it should, the call is repeated.
 */
#define CALL(call) (is_to_repeat(call) ? (call) : last_result)
extern int64_t last_result;
/* Set by test_faults: returns whether the call that returned this error is to be repeated. */
extern bool (*made_to_fail)(int64_t error);
bool is_to_repeat(int64_t result);

/* Records: the content of each follows from its number. */
uint64_t bytes_of(uint64_t number);
uint64_t room_of(struct world *w, uint64_t nbytes);
/* The same for this record, which may have a larger block if memory_fails. */
uint64_t room_taken(struct world *w, const ipcheap_record *record);
extern bool memory_fails; /* set by test_faults: a slab that cannot be had is made up for */
void fill(const ipcheap_record *record, uint64_t number);
void expect_filled(const ipcheap_record *record, uint64_t number);
ipcheap_record make(struct world *w, uint64_t nbytes, uint64_t number);
void give_back(struct world *w, ipcheap_record *record);
void look_around(struct world *w); /* collects what others have freed */

/* Channels, by id. */
ipcheap_key key_of(uint64_t id);
ipcheap_channel add_channel(struct world *w, uint64_t id, uint64_t slots);
ipcheap_endpoint *claim_side(struct world *w, const ipcheap_channel *channel, int side);
bool find_id(struct world *w, uint64_t id, ipcheap_channel *channel);
void remove_id(struct world *w, uint64_t id, int force);

/* The survivor makes the heap, records of its own, and the scenario's state before the victim. */
void world_begin(struct world *w, const struct scenario *s);
/* The survivor acts between the victim's preparation and its act. */
void world_meanwhile(struct world *w, const struct scenario *s);
/* Survivor and victim wait for each other. */
void meet(struct world *w, int end, int times);
/* Waits only briefly for the lock: a dead owner is noticed when the time is up. */
int recover_now(ipcheap_heap *heap, ipcheap_recovery *report);
/* Notes the counts of A, B and C; expects later that nothing has been sent or freed since. */
void note_counts(struct world *w);
void expect_counts(struct world *w);
/* Accounts for everything, and uses the whole heap. */
void accept_all(struct world *w, const struct scenario *s);

/* Common worlds of a survivor. */
void listen_a(struct world *w);
void send_b_full(struct world *w); /* fills every slot */
void all_channels(struct world *w);
bool bell_rings(const struct world *w);

/* Common preparations of a victim. */
void claim_a(struct world *w);
void claim_b(struct world *w);
void fill_a(struct world *w);

/* Sends one more record. */
void send_a(struct world *w);
/* Returns the record's number. */
uint64_t receive_b(struct world *w, ipcheap_record *record);

#endif
