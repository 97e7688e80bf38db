/*
 * crash_store.h - the parts of the crash test of stores.
 *
 * A script says what is done to the store: first by the survivor, then by the victim. After each act the
 * contents are those of a model, so a survivor finds the state after the last act that the victim has
 * noted, or after the one that it was in.
 */
#ifndef IPCHEAP_TESTS_CRASH_STORE_H
#define IPCHEAP_TESTS_CRASH_STORE_H

#include "crash.h"

enum { KEYS = 6, FACTS = 256, FEW_ACTS = 24, HELD = 3 };
#define SOON (5 * INT64_C(1000000000)) /* a ttl */
#define LATER (20 * INT64_C(1000000000))

enum what { NOTHING, PUT, SOON_OVER, ERASE };
struct part {
    enum what what;
    uint64_t key; /* 0: none */
};
enum act {
    END,
    ONE,
    TOGETHER,
    TRANSACTION,
    ABORTED,
    WAIT,
    COLLECT,
    MANY_KEYS,
    RECORD,  /* put of a record of the victim's */
    FORWARD, /* put of what came on B, in a transaction */
    FORWARD_ABORTED,
};
struct step {
    enum act act;
    struct part parts[5];
};
struct script {
    ipcheap_store_options options;
    int before; /* how many steps the survivor takes */
    bool waits; /* the victim's clock goes ahead of the survivor's */
    struct step steps[FEW_ACTS];
};

extern const struct script *script; /* of this scenario */
extern ipcheap_chunk kept[HELD];    /* what the survivor holds, or the victim */

/* What is there, in the order of versions. */
struct fact {
    uint64_t key, version;
    bool ends;
};
struct model {
    uint64_t head, depth, most, forwards;
    uint64_t dropped; /* forwarded records that did not count, a bit each */
    struct fact facts[FACTS];
    int count;
};
/* Returns the contents after so many steps of the script. */
struct model model_after(int steps);
uint64_t bytes_of_version(uint64_t version);
ipcheap_store_key store_key(uint64_t value);
void do_put(ipcheap_endpoint *writer, const struct part *part, uint64_t version);
/* Moves the clock of this process on. */
void pass(struct world *w, int64_t ns);
/* Takes the steps that are left, up to that one, and notes each. */
void act_all(struct world *w, ipcheap_endpoint *writer, int to);
/* Adds the store of the script, or finds it. */
ipcheap_channel the_store(struct world *w);
ipcheap_endpoint *side_of_x(struct world *w, int side);
/* The survivor adds the store, takes its steps, and stays the writer. */
void begin_as_writer(struct world *w, const struct script *s);
/* The same, as a reader that holds the newest chunks of some keys. */
void begin_as_reader(struct world *w, const struct script *s);
/* Returns the bytes of the blocks and extents that the store has, by its tags. */
uint64_t room_of_store(struct world *w);
/* The bytes of a chunk are those of its version. */
void expect_chunk(const ipcheap_chunk *chunk, uint64_t version);
void release_chunk(ipcheap_chunk *chunk);
/* The survivor finds what it should, uses the store and removes it. */
void use_store(struct world *w);
/* The same; returns the room that the store had. */
uint64_t store_after(struct world *w);

#endif
