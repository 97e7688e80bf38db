/*
 * crash.h - what a crash test is made of: a world with a survivor and a victim in it, and
 * scenarios of what the victim is killed in.
 *
 *            A: numbers 0, 1, ...            C: what came on B, forwarded
 *   victim ------------------> survivor     victim ------------------> survivor
 *          <------------------
 *            B: numbers 0, 1, ...            X: of the scenario
 */
#ifndef IPCHEAP_TESTS_CRASH_H
#define IPCHEAP_TESTS_CRASH_H

#include "testing.h"

#include "memory/size_class.h"
#include "segment/handle.h"

enum { SLOTS = 4, MOST = 64, OWN = 4 };
enum { A = 1, B = 2, C = 3, X = 9 }; /* ids: victim to survivor, back, forwarded, of a scenario */

/* What became of a record of channel B in the victim's hands. */
enum fate { UNTOUCHED, GIVING, GIVEN, FORWARDING, FORWARDED };

/* What the victim tells before it dies; shared by fork. */
struct told {
    const char *file;
    int line;
    int done; /* it got to the end */
    uint64_t sending, sent; /* on A */
    enum fate fate[MOST];   /* of what came on B */
    int progress;           /* as the scenario likes */
};

struct world {
    int fd;
    ipcheap_heap *heap;
    struct told *told;
    ipcheap_channel a, b, c;
    ipcheap_endpoint *a_out, *a_in, *b_out, *b_in, *c_out, *c_in, *x_in, *x_out;
    uint64_t a_received, b_sent;
    ipcheap_record own[OWN], mine[MOST];
    int meet[2]; /* the survivor's end, the victim's */
    int bell; /* the descriptor of a_in, if it was asked for: armed when the victim acts */
};

struct scenario {
    const char *name;
    uint64_t capacity;
    void (*before)(struct world *w);     /* survivor: before the victim comes */
    void (*prepare)(struct world *w);    /* victim */
    void (*meanwhile)(struct world *w);  /* survivor, between the two */
    void (*act)(struct world *w);        /* victim: killed in here */
    uint64_t (*verify)(struct world *w); /* survivor: bytes in use beyond the ordinary */
    bool joins;                          /* it is in act() that the victim attaches */
    bool leaves;                         /* and in act() that it releases the heap */
};

/* Each ends with one that has no name. */
extern const struct scenario memory_scenarios[], directory_scenarios[], static_scenarios[],
    channel_scenarios[];
/* All of them; NULL ends it. */
extern const struct scenario *const crash_scenarios[];

/*
 * Stands around what a victim calls: what it returns. If test_faults made the call fail, and it
 * failed as it should, it is made a second time.
 */
#define CALL(call) (is_to_repeat(call) ? (call) : last_result)
extern int64_t last_result;
/* Set by test_faults: true if the call that returned this error is to be made again. */
extern bool (*made_to_fail)(int64_t error);
bool is_to_repeat(int64_t result);

/* Records: what is in each follows from its number. */
uint64_t bytes_of(uint64_t number);
uint64_t room_of(struct world *w, uint64_t nbytes);
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

/* The survivor: a heap with records of its own, and what the scenario has before. */
void world_begin(struct world *w, const struct scenario *s);
/* What it does between the victim's preparation and its act. */
void world_meanwhile(struct world *w, const struct scenario *s);
/* The victim's half of that. */
void meet(struct world *w, int end, int times);
/* Waits a moment for the lock only: the dead are found when the time is up. */
int recover_now(ipcheap_heap *heap, ipcheap_recovery *report);
/* Everything is accounted for, and the heap can be used to the end. */
void accept_all(struct world *w, const struct scenario *s);

/* The usual worlds of a survivor. */
void listen_a(struct world *w);
void send_b_full(struct world *w); /* as many as there are slots */
void all_channels(struct world *w);
bool bell_rings(const struct world *w);

/* The usual preparations of a victim. */
void claim_a(struct world *w);
void claim_b(struct world *w);
void fill_a(struct world *w);

/* One record more. */
void send_a(struct world *w);
/* Returns its number. */
uint64_t receive_b(struct world *w, ipcheap_record *record);

#endif
