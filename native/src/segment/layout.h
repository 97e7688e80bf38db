/*
 * layout.h - layer segment: every byte that processes share.
 *
 *   header | committed bits | gap | participants | pages[] | slabs[] | data zone | system zone
 *
 *   header       identity, the heap lock, roots of all indices
 *   committed    one bit a page of the two zones: whether it has memory
 *   gap          one page that no process touches: os_lock_lazily()
 *   participants one slot a participant; its index is the byte that its process keeps locked
 *   pages[]      one descriptor a page of the two zones: the truth about extents
 *   slabs[]      one a granule of the data zone: tags and remote-free bits of its blocks
 *   data         users' memory: records, static segments
 *   system       ours: channel descriptors, hash tables, rings
 *
 * The file is sparse: only the header and the bits have memory before they need it.
 * "Offset" is bytes from the start of the segment; "page" counts from the data zone.
 * Any change here raises FORMAT.
 */
#ifndef IPCHEAP_SEGMENT_LAYOUT_H
#define IPCHEAP_SEGMENT_LAYOUT_H

#include <assert.h>

#include "base/shared.h"
#include "segment/size_class.h"

#define MAGIC UINT64_C(0x7061656863706931) /* "1ipcheap" */
#define FORMAT 3u                          /* IPCHEAP_FORMAT of ipcheap.h */

#define PAGE_SHIFT 12
#define PAGE ((uint64_t)1 << PAGE_SHIFT)
#define PARTICIPANTS 4096
#define CREATION_BYTE PARTICIPANTS    /* locked by the process that formats the segment */
#define USERS_BYTE (PARTICIPANTS + 1) /* shared by all processes that have the heap open */
#define BINS 128
#define ZONES 2
#define DATA_ZONE 0
#define SYSTEM_ZONE 1
#define DIRECTORY_CHUNKS 18
#define FIRST_CHUNK 128 /* channels in chunk 0; each further one has twice as many */
#define MAX_CHANNELS ((uint64_t)FIRST_CHUNK * ((1u << DIRECTORY_CHUNKS) - 1))

/* Tags: the owner of a block or extent ------------------------------------------------ */
/*
 *   FREE   0
 *   OWN    1 | stamp 18 | generation 32 | slot 12   the participant that may free or send it
 *   SENT   2 | channel 24 | position 38             the place in a channel that holds it
 *   PART   3 | channel 24 | part 38                 memory that a channel itself keeps
 *
 * The stamp is the second in which the owner got it, modulo three days: a hint for people. Tags
 * are compared without their stamps: tag_owner(). The low part numbers are areas of the channel (a
 * ring's slots, a segment's bytes), the others its contents; its kind says where its areas end.
 * Parts of NO_CHANNEL are the directory's own: part k is chunk k, DIRECTORY_TABLE the hash table.
 */
#define TAG_FREE UINT64_C(0)
#define TAG_OWN UINT64_C(1)
#define TAG_SENT UINT64_C(2)
#define TAG_PART UINT64_C(3)
#define STAMP_SHIFT 44
#define STAMP_MASK (((UINT64_C(1) << 18) - 1) << STAMP_SHIFT)
#define POSITION_BITS 38
#define NO_CHANNEL 0xFFFFFFu
#define DIRECTORY_TABLE 64
#define POSITION_MASK ((UINT64_C(1) << POSITION_BITS) - 1)

static inline uint64_t tag_kind(uint64_t tag) { return tag >> 62; }

static inline uint64_t own_tag(uint32_t slot, uint32_t generation) {
    return TAG_OWN << 62 | (uint64_t)generation << 12 | slot;
}

/* Returns an OWN tag without its stamp. */
static inline uint64_t tag_owner(uint64_t tag) { return tag & ~STAMP_MASK; }

/* Returns seconds of the heap's clock in the place that OWN tags and the header have them. */
static inline uint64_t stamp_of(uint64_t seconds) { return seconds << STAMP_SHIFT & STAMP_MASK; }

static inline uint32_t tag_slot(uint64_t tag) { return (uint32_t)(tag & (PARTICIPANTS - 1)); }

static inline uint32_t tag_generation(uint64_t tag) { return (uint32_t)(tag >> 12); }

static inline uint64_t sent_tag(uint32_t channel, uint64_t position) {
    return TAG_SENT << 62 | (uint64_t)channel << POSITION_BITS | (position & POSITION_MASK);
}

static inline uint64_t part_tag(uint32_t channel, uint64_t part) {
    return TAG_PART << 62 | (uint64_t)channel << POSITION_BITS | (part & POSITION_MASK);
}

static inline uint32_t tag_channel(uint64_t tag) {
    return (uint32_t)(tag >> POSITION_BITS) & 0xFFFFFF;
}

/* Returns the position of a SENT tag, or the part of a PART tag. */
static inline uint64_t tag_position(uint64_t tag) { return tag & POSITION_MASK; }

/* Pages ------------------------------------------------------------------------------ */
/*
 *   word   state 8 | kind 8 | length in pages 48
 *
 * FREE and USED stand on the first page of a run: the truth. TAIL on the last page of a free run
 * gives its length for merging: a hint. PART marks the further granules of a large slab. Links are
 * page + 1, 0 for none: an index over the free runs.
 */
enum page_state { PAGE_NONE = 0, PAGE_FREE = 1, PAGE_USED = 2, PAGE_TAIL = 3, PAGE_PART = 4 };
enum page_kind {
    KIND_NONE = 0,
    KIND_RECORD = 1,
    KIND_SLAB = 2,
    KIND_STATIC = 3,
    KIND_SYSTEM = 4,
    KIND_FREE_PENDING = 5, /* a future slab, or being trimmed; with tag FREE, anybody's to free */
    KIND_STREAM = 6,
};

struct page {
    shared64 word;
    shared64 tag; /* of a used run */
    shared32 child, next, previous;
    shared32 unused;
};
static_assert(sizeof(struct page) == 32, "two pages share a cache line, none straddles one");

static inline uint64_t page_word(enum page_state state, enum page_kind kind, uint64_t length) {
    return (uint64_t)state << 56 | (uint64_t)kind << 48 | length;
}

static inline enum page_state word_state(uint64_t word) { return (enum page_state)(word >> 56); }

static inline enum page_kind word_kind(uint64_t word) {
    return (enum page_kind)(word >> 48 & 0xFF);
}

static inline uint64_t word_length(uint64_t word) { return word & ((UINT64_C(1) << 48) - 1); }

/* Slabs ------------------------------------------------------------------------------ */

#define REMOTE_WORDS (MAX_BLOCKS / 64)

struct slab {
    shared64 owner;       /* slab_owner_word(), or 0: an orphan, which any participant may adopt */
    shared32 size_class;  /* set before the extent's commit */
    shared32 next_orphan; /* granule + 1: an index */
    shared64 unused[6];
    shared64 remote[REMOTE_WORDS]; /* set by others than the owner: freed, to be collected */
    shared64 unused_line[8];
    shared64 tags[]; /* one a block */
};
static_assert(offsetof(struct slab, remote) == 64, "others write apart from the owner");
static_assert(offsetof(struct slab, tags) == 256, "tags begin on a line of their own");

/*
 * A slab's owner, and the index of its private half in that participant's table. The owner of a
 * slab that was revoked finds another word here, whatever has become of the slab since.
 */
#define MAX_LOCAL_SLABS (1u << 18) /* the last index stands for a slab being revoked */

static inline uint64_t slab_owner_word(uint64_t own, uint32_t index) {
    return (own & ~(TAG_OWN << 62)) | (uint64_t)index << 44;
}

static inline uint64_t slab_owner_tag(uint64_t owner) {
    return TAG_OWN << 62 | (owner & ((UINT64_C(1) << 44) - 1));
}

static inline uint32_t slab_owner_index(uint64_t owner) { return (uint32_t)(owner >> 44); }

/* Participants ----------------------------------------------------------------------- */

/* A keeper is no thread: it stands for a process that uses memory of channels. */
enum participant_state { SLOT_FREE = 0, SLOT_LIVE = 1, SLOT_KEEPER = 2 };

#define LABEL_WORDS 6
#define WAYS_IN_TURN UINT32_C(0x80000000) /* below it a bit a size of copies: base/copy.h */

struct participant_slot {
    shared64 word; /* generation 32 << 8 | state */
    shared32 pid, tid;
    shared64 process;            /* of its attachment, to tell our own from others */
    shared64 since;              /* wall clock, ns */
    shared64 label[LABEL_WORDS]; /* its name: UTF-8, filled up with zeroes */
    shared64 namespace;          /* of its process id */
    shared32 knock;              /* incremented to wake it while it waits for several endpoints */
    shared32 core;               /* 1 + the only core that it may run on; 0: several */
    shared32 version;            /* of its library: major 8 | minor 8 | patch 16 */
    shared32 ways;  /* which it has found faster, for others to see: WAYS_IN_TURN | copies */
    shared64 board; /* reserved: offset of a table of source lines; 0: none */
    shared32 first; /* tags of this generation and later ones are its own: those of ended threads */
    shared32 unused_word;
    shared64 unused;
    /* The rest is written by the occupant only, and often. */
    shared64 busy; /* 1 while the occupant is inside a slab or a ring that others could revoke */
    /* What the occupant has under way on a bus: bus/post.h, bus/reclaim.h. */
    shared64 bus; /* generation 32 | index of the channel + 1, while it is inside; otherwise 0 */
    shared64 intent, from, letting;
    shared64 unused_tail[11];
};
static_assert(offsetof(struct participant_slot, busy) == 128, "apart from what others look at");
static_assert(sizeof(struct participant_slot) == 256, "one a pair of pairs of lines");

static inline uint64_t slot_word(uint32_t generation, enum participant_state state) {
    return (uint64_t)generation << 8 | state;
}

/* Channels --------------------------------------------------------------------------- */
/*
 * A ring slot:  word = lap 22 | state 2 | offset / 64 in 40 bits
 *
 *   EMPTY(lap) -> FULL(lap, offset) -> RELEASED(lap + 1, offset)  the producer is to free the block
 *                                   -> EMPTY(lap + 1)             its memory went elsewhere
 */
enum slot_state { SLOT_EMPTY = 0, SLOT_FULL = 1, SLOT_RELEASED = 2 };
#define LAP_MASK UINT64_C(0x3FFFFF)
#define OFFSET_UNITS ((UINT64_C(1) << 40) - 1)

struct ring_slot {
    shared64 word;
    shared64 size; /* the record's form in 8 bits | its bytes in 56 */
};
static_assert(sizeof(struct ring_slot) == 16, "four slots a cache line");

#define SIZE_BITS 56

static inline uint64_t size_word(uint64_t nbytes, uint32_t form) {
    return (uint64_t)form << SIZE_BITS | nbytes;
}

static inline uint64_t size_bytes(uint64_t size) { return size & ((UINT64_C(1) << SIZE_BITS) - 1); }

static inline uint32_t size_form(uint64_t size) { return (uint32_t)(size >> SIZE_BITS); }

static inline uint64_t ring_word(uint64_t lap, enum slot_state state, uint64_t offset) {
    return (lap & LAP_MASK) << 42 | (uint64_t)state << 40 | offset >> 6;
}

static inline enum slot_state ring_state(uint64_t word) {
    return (enum slot_state)(word >> 40 & 3);
}

static inline uint64_t ring_lap(uint64_t word) { return word >> 42; }

static inline uint64_t ring_offset(uint64_t word) { return (word & OFFSET_UNITS) << 6; }

/* A side's holder: state << 62 | the generation and slot of an OWN tag. */
enum side_state { SIDE_NEVER = 0, SIDE_OPEN = 1, SIDE_CLOSED = 2, SIDE_DIED = 3 };

static inline enum side_state side_state(uint64_t holder) {
    return (enum side_state)(holder >> 62);
}

/* What a record channel keeps on a side's line. */
struct record_side {
    shared64 intent;   /* producer: the offset being sent; 0 between sends */
    shared64 from;     /* producer: its tag before that, which undoing the send restores */
    shared64 detached; /* consumer: records taken out to make way for the producer */
    shared64 unused;
};

/* What a stream keeps on a side's line. */
struct stream_side {
    shared64 floor;      /* writer that overwrites: items below this position may be spoilt */
    shared64 operations; /* how often it has committed or released */
    shared64 unused[2];
};

/* What a listener of a bus keeps there. Its `position` is its cursor: the next that it receives. */
struct bus_side {
    shared64 joined;             /* the first position that it is owed; JOINING before that */
    shared64 lost;               /* how many it did not get */
    shared64 lost_from, lost_to; /* the last ones of these; stored before the position */
};
#define JOINING UINT64_MAX
#define LOSING UINT64_MAX /* in `lost_from`, while the three are being written */

/*
 * What one side writes with every record or item: its holder, or a participant that recovers it.
 *
 *   mark   position 38 | seconds 26     the side was there at that second; 0: none
 *
 * Marks are made when the side sleeps or is claimed. The newest comes first.
 */
#define MARKS 8
#define MARK_SECONDS ((UINT64_C(1) << (64 - POSITION_BITS)) - 1)

struct side {
    shared64 position; /* sent or received; a record channel's is a hint, at most a ring behind, a
                          stream's the truth */
    shared64 parks, wakes;
    shared64 since; /* when it fell asleep, ns of the boot-time clock; 0: it is awake */
    shared64 marks[MARKS];
    union {
        shared64 of_kind[4];
        struct record_side record;
        struct stream_side stream;
        struct bus_side bus;
    };
};
static_assert(sizeof(struct side) == 128, "sides never share the pair of lines a prefetch takes");

static inline uint64_t mark_word(uint64_t position, uint64_t seconds) {
    return (position & POSITION_MASK) << (64 - POSITION_BITS) | (seconds & MARK_SECONDS);
}

static inline uint64_t mark_position(uint64_t mark) { return mark >> (64 - POSITION_BITS); }

static inline uint64_t mark_seconds(uint64_t mark) { return mark & MARK_SECONDS; }

enum channel_state { CHANNEL_FREE = 0, CHANNEL_MAKING = 1, CHANNEL_LIVE = 2, CHANNEL_REMOVED = 3 };
enum channel_flags {
    CHANNEL_REVOKED = 1,  /* garbage is being collected: the producer waits for the heap lock */
    CHANNEL_GONE = 2,     /* removed: its endpoints are closed */
    CHANNEL_DESERTED = 4, /* no producer will collect what is released */
    CHANNEL_POISONED = 8, /* a word violates the protocol: no side goes on */
    CHANNEL_TRACED = 16,  /* `journeys` is filled in */
};

/* How to wake a side when it can go on: channel/wake.h. */
enum parked_state {
    AWAKE = 0,
    PARKED_HERE = 1,  /* asleep on this very word */
    PARKED_BELL = 2,  /* a poller watches its bell, a pipe */
    PARKED_AMONG = 3, /* asleep on its participant's `knock` */
};

/* A pipe that makes a side's descriptor readable. */
struct bell {
    shared64 inode; /* of the pipe; 0: there is none; BELL_MAKING: it is being made */
    shared32 fd;    /* its number in the holder's process */
    shared32 unused;
};
#define BELL_MAKING UINT64_MAX

/*
 * The seat of one party of a channel. Two stand in the descriptor, for the writing and the reading
 * side; a kind with more parties keeps an array of seats in its own memory.
 */
struct seat {
    shared64 holder; /* side_state << 62 | generation and slot, as in an OWN tag */
    shared32 parked; /* parked_state: not AWAKE while its holder is to be woken */
    shared32 unused;
    struct bell bell;
};
static_assert(sizeof(struct seat) == 32, "two a cache line");

#define PARTS 2 /* areas that a descriptor itself leads to */

/*
 * The users of a channel whose memory processes map for long: OWN tags of keepers, or 0. Some stand
 * in the descriptor. The others have a table in the system zone, with a word for each slot.
 */
#define USERS 8
#define USERS_PART 1
#define USERS_BYTES (PARTICIPANTS * sizeof(shared64))
/* What a stream writes only to sleep, end or reset. */
struct stream_words {
    shared64 wanted[2]; /* the other side's position that a sleeper waits for */
    shared64 cut;       /* items below this position were dropped by the writer's reset */
    shared64 base;      /* the backlog does not reach below this position */
    shared64 unused[4];
};

/* The beginning of a stream's memory, written before the descriptor is LIVE. */
struct stream_head {
    shared64 capacity, backlog; /* items */
    shared64 itemsize;          /* bytes */
    shared64 ring_bytes;        /* of the ring, which begins at the next page */
    shared32 flags;             /* IPCHEAP_OVERWRITE */
    shared32 description_bytes;
    shared64 unused[3];
    unsigned char description[4032]; /* of an item, as an array has it */
};
static_assert(sizeof(struct stream_head) == PAGE, "the ring begins at a page");

/*
 * What describes a chunk of a store completely.
 *
 *   word   state 8 | version 56
 *   form   0 16 | kind of the key 8 | its length 8
 */
enum chunk_state {
    CHUNK_FREE = 0,
    CHUNK_PREPARED = 1, /* filled, and not committed */
    CHUNK_LIVE = 2,     /* committed if its version is at most the store's head */
    CHUNK_DEAD = 3,
    CHUNK_LEAVING = 4, /* being collected */
};
#define CHUNK_KEY_WORDS 8

struct store_slot {
    shared64 word;
    shared64 offset;  /* of the block, whose tag names this slot; 0: a deletion */
    shared64 size;    /* as of a ring's slot */
    shared64 expires; /* ns of the boot-time clock; 0: never */
    shared64 time;    /* of the commit, on the same clock */
    shared64 hash;    /* of the key; 0: it has none */
    shared32 older;   /* slot + 1 of the same key's previous chunk; 0: none */
    shared32 form;
    shared64 key[CHUNK_KEY_WORDS];
    shared64 died; /* when it became DEAD; before its commit: the tag that its block had */
};
static_assert(sizeof(struct store_slot) == 128, "a pair of lines");

#define VERSION_BITS 56

static inline uint64_t chunk_word(enum chunk_state state, uint64_t version) {
    return (uint64_t)state << VERSION_BITS | version;
}

static inline enum chunk_state chunk_state(uint64_t word) {
    return (enum chunk_state)(word >> VERSION_BITS);
}

static inline uint64_t chunk_version(uint64_t word) {
    return word & ((UINT64_C(1) << VERSION_BITS) - 1);
}

/* Where a key is looked up: upper half of its hash 32 | slot + 1 in 32; a hash alone: it is gone. */
struct store_cell {
    shared64 word; /* 0: never used */
    shared32 bell; /* as of the root */
    shared32 unused;
};

/* One reader. Its holder writes it, or a participant that recovers it. */
struct store_reader {
    struct seat seat;
    shared64 holds;  /* offset of its hold words; 0: never claimed */
    shared32 used;   /* hold words from this one on are 0 */
    shared32 closed; /* its endpoint is closed, and it still holds chunks */
    shared64 since;  /* wall clock at its claim, ns */
    shared64 given, skipped;
    shared64 unused[7];
    struct side side;
};
static_assert(sizeof(struct store_reader) == 256, "a reader writes lines of its own");
static_assert(offsetof(struct store_reader, side) == 128, "apart from what wakers look at");

/* A hold word: second of the heap's clock 18 | unused 14 | slot + 1 in 32; 0: free. */
#define MOST_HOLDS 65536u

#define STORE_PIECES 20
#define FIRST_PIECE 64     /* slots of piece 0; each further one has twice as many */
#define CELLS_OF_PIECE 512 /* of piece 0: four times as many as slots, and a power of two */
#define LOG_OF_PIECE 256   /* of piece 0: twice as many as slots */
#define READER_GROUPS 9
#define FIRST_GROUP 16 /* readers of group 0; each further one has twice as many */
#define MOST_READERS 4096u
/* Parts of a store. */
#define PART_OF_PIECE 16
#define PART_OF_GROUP 64
#define PART_OF_HOLDS 4096
#define PART_OF_CHUNK 8192

/* A bell word: count 30 | POLLING | SLEEPING. */
#define BELL_SLEEPING UINT32_C(1)
#define BELL_POLLING UINT32_C(2)
#define BELL_COUNT UINT32_C(4)

struct store_root {
    /* Written before the descriptor is LIVE. */
    shared64 depth, ttl, max_chunks, max_bytes, garbage;
    shared32 hold, flags;
    shared64 unused[10];
    /* What a commit writes. */
    shared64 head;  /* the newest committed version */
    shared64 epoch; /* counts before a key goes, a chain is cut, or slots become free */
    shared32 bell;  /* for all that wait for any commit */
    shared32 keyed; /* not 0: a reader has slept on the bell of a cell */
    shared64 replaced, expired, evicted, deleted, collections;
    shared64 fences_since; /* when a membarrier was refused first, boot-time ns; 0: never */
    shared64 collector;    /* tag of the participant that collects and is not the writer; 0: none */
    shared64 unused_counts[6];
    /* What grows. */
    shared32 pieces, readers; /* readers' entries from this one on were never used */
    shared64 piece[STORE_PIECES];
    shared64 group[READER_GROUPS];
};
static_assert(offsetof(struct store_root, head) == 128, "a commit writes lines of its own");
static_assert(offsetof(struct store_root, pieces) == 256, "apart from them");
static_assert(sizeof(struct store_root) <= PAGE, "part 0");

/*
 * A slot of a bus's log is a ring_word(): lap 22 | message_kind 2 | block / 64 in 40 bits. The block has
 * the message's tag, and contains its envelope: bus/bus.h.
 */
enum message_kind {
    MESSAGE_NEVER = 0, /* the slot has never had a message */
    MESSAGE_WHOLE = 1, /* the payload is the beginning of the block, the envelope its end */
    MESSAGE_APART = 2, /* the block is the envelope; the payload is a block of its own, a PART */
    MESSAGE_LARGE = 3, /* the same, and the payload is an extent */
};

struct envelope {
    shared64 payload;   /* offset of the bytes */
    shared64 size;      /* as of a ring's slot */
    shared64 sender;    /* tag of the participant that posts it */
    shared64 ids;       /* its thread id 32 | process id 32 */
    shared64 namespace; /* of these */
    shared64 unused[3];
};
static_assert(sizeof(struct envelope) == 64, "a line");

/* A hold of a listener: state 2 | apart 1 | position 21 | block / 64 in 40 bits; 0: free. */
enum hold_state {
    HOLD_FREE = 0,
    HOLD_HELD = 1,      /* received */
    HOLD_KEPT = 2,      /* acknowledged, and still used */
    HOLD_RELEASING = 3, /* its holder frees the message if it is the last one */
};
#define HOLD_POSITION_MASK ((UINT64_C(1) << 21) - 1)
#define NEAR_HOLDS 64 /* hold words in a listener's own record */
#define HOLD_TABLES 7 /* of further ones, each four times as long as the one before */
#define FIRST_HOLD_TABLE 512u

enum listener_flags { LISTENER_LOSSY = 1, LISTENER_CLOSED = 2 }; /* closed: it only holds */
enum listener_waiters { WAITS_FOR_RELEASE = 1, WAITS_FOR_ROOM = 2 };

/* One listener of a bus, in three parts that share no lines. */
struct bus_listener {
    struct side side; /* its holder writes it, or a participant that recovers it */
    /* What writers write, to sleep or to pass it; and what changes rarely. */
    struct seat seat;
    shared64 passed;  /* cursor + 1 if writers go on without it; void when the cursor moves */
    shared64 stalled; /* since when it has been in a writer's way: stalled_word() */
    shared32 waiters; /* listener_waiters */
    shared32 turns;   /* the word that they sleep on */
    shared32 used;    /* hold words from this one on are 0 */
    shared32 flags;   /* listener_flags */
    shared64 more[HOLD_TABLES]; /* offsets of tables of hold words; 0: none yet */
    shared64 unused;
    shared64 holds[NEAR_HOLDS];
};
static_assert(offsetof(struct bus_listener, seat) == 128, "what others write, apart");
static_assert(offsetof(struct bus_listener, holds) == 256, "and apart from both");
static_assert(sizeof(struct bus_listener) == 768, "whole pairs of lines");

#define MOST_LISTENERS 4096u
#define LISTENER_WORDS (MOST_LISTENERS / 64)
#define LISTENER_GROUPS 9
#define FIRST_LISTENERS 16 /* of group 0; each further one has twice as many */
/* Parts of a bus. Envelopes are numbered from the beginning of the data zone. */
#define PART_OF_LISTENERS 64
#define PART_OF_MORE_HOLDS 4096
#define PART_OF_ENVELOPE 8192

/* `sleepers` of a bus: armings 30 | OTHERS | HERE. */
#define SLEEPERS_HERE UINT32_C(1)   /* some sleep on `wake` */
#define SLEEPERS_OTHERS UINT32_C(2) /* some wait by a descriptor, or for several things */
#define SLEEPERS_ARMING UINT32_C(4)

/* The memory of a bus; made when it is first used. The slots of its log follow. */
struct bus_root {
    /* What making room writes. */
    shared64 floor;        /* no position below it may be received any more; only grows */
    shared64 settled;      /* below it, each message that was received shows in a hold */
    shared64 swept;        /* below it, each message is freed, or left to its holders */
    shared64 passes;       /* how often a listener was passed */
    shared64 laggard;      /* a listener that had not released an extent: a hint */
    shared64 fences_since; /* when a membarrier was refused first, boot-time ns; 0: never */
    shared64 unused[10];
    /* What each post writes. */
    shared64 head; /* the first position that is not posted: a hint */
    shared64 unused_head[15];
    /* What falling asleep writes, and each post reads. */
    shared32 sleepers, wake;
    shared64 unused_sleepers[15];
    /* What a broadcast writes. */
    shared64 turn;                    /* of the participant that has it: bus/broadcast.h; 0 */
    shared32 turn_wake, turn_waiters; /* the word that others sleep on for it; whether any does */
    shared64 turn_until;              /* when it ends at the latest */
    shared64 turn_message;            /* the position that it is about, once it is posted */
    shared64 unused_turn[12];
    /* What listening writes. */
    shared32 listeners, unused_listeners; /* records from this one on were never used */
    shared64 group[LISTENER_GROUPS];      /* offsets */
    shared64 unused_groups[6];
    shared64 active[LISTENER_WORDS]; /* a bit a listener: it is registered */
    shared64 polled[LISTENER_WORDS]; /* it has waited by a descriptor, or for several things */
    shared64 slots[];
};
static_assert(offsetof(struct bus_root, head) == 128, "apart");
static_assert(offsetof(struct bus_root, sleepers) == 256, "apart");
static_assert(offsetof(struct bus_root, turn) == 384, "apart");
static_assert(offsetof(struct bus_root, listeners) == 512, "apart");
static_assert(offsetof(struct bus_root, slots) == 1664, "a log of 256 slots in a page with it");

/* The shape of a bus: log2 of its slots + 1 in 5 bits | history 25 | patience in ms 32. */
#define BUS_CAPACITY_LOG 24
#define PATIENCE_UNLIMITED UINT32_MAX
static inline uint64_t bus_shape(uint32_t log, uint64_t history, uint32_t patience) {
    return (uint64_t)(log + 1) << 57 | history << 32 | patience;
}
static inline uint32_t shape_log(uint64_t shape) { return (uint32_t)((shape >> 57) & 31) - 1; }
static inline uint64_t shape_history(uint64_t shape) { return shape >> 32 & ((1u << 25) - 1); }
static inline uint32_t shape_patience(uint64_t shape) { return (uint32_t)shape; }

/* Two lines that change rarely; two lines for each side; then what is written only to sleep. */
struct channel {
    shared64 state; /* channel_state << 62 | the maker's generation and slot while MAKING */
    shared32 incarnation, kind;
    shared64 shape;        /* slots of a ring; bytes of a static segment; items of a stream */
    shared64 parts[PARTS]; /* offsets of its first areas of memory; 0 while there are none */
    shared64 ready;        /* static: 0 untouched, the initialiser's OWN tag, or STATIC_READY */
    shared32 flags;
    shared32 next_free; /* index + 1 */
    shared64 journeys;  /* offset of the table of a traced channel */
    shared64 hash;
    shared64 key[7]; /* an ipcheap_key */
    struct side sides[2];
    struct seat seats[2];
    union {
        shared64 of_kind[8]; /* what a kind writes only to sleep, end or reset */
        shared64 users[USERS];
        struct stream_words stream;
    };
};
static_assert(offsetof(struct channel, sides) == 128, "sides start on their own lines");
static_assert(offsetof(struct channel, seats) == 384, "seats start on a line of their own");
static_assert(sizeof(struct channel) == 512, "a power of two");
#define STATIC_READY UINT64_C(1)

/* Header ----------------------------------------------------------------------------- */

struct zone {
    shared64 bin_bits[BINS / 64]; /* which bins hold runs */
    shared32 bins[BINS];          /* page + 1 of the lowest run of each bin */
    shared64 used;                /* pages in used runs */
    shared64 unused[5];
};
static_assert(sizeof(struct zone) % 64 == 0, "whole lines");

struct header {
    shared64 magic; /* stored last */
    shared32 format, layout;
    shared64 capacity, identity, created;
    shared32 shm_kind, sem_kind, sem_id, fences; /* fences: some participant has no membarrier */
    shared64 clock;                              /* stamp_of() the boot-time clock: clock.h */
    shared64 sem_name[8];

    _Alignas(128) shared32 lock; /* waiters 1 | generation 18 | slot + 1 in 13 */
    _Alignas(128) shared32 directory_version;
    shared32 directory_waiters;
    shared32 slots_used; /* slots from this one on have never been occupied */
    shared32 channels;   /* LIVE ones */
    shared32 entries;    /* descriptors from this one on have never been used */
    shared32 free_entry; /* index + 1 */
    shared64 table;      /* log2 of cells << 56 | offset of the hash table */
    shared64 tombstones;
    shared64 recoveries;
    shared64 committed; /* pages of the data zone with memory: a hint */
    /* Hints for how much idle memory to keep committed: pages, and monotonic ns. */
    shared64 slack, idle_lowest, slack_since, trimmed_at;
    shared64 freeing; /* page + 1 of a used head inside a free run, or about to be: extent.c */
    shared64 chunks[DIRECTORY_CHUNKS];
    shared32 orphans[CLASSES]; /* granule + 1 */
    shared32 revoked;          /* a slab has been revoked from a living owner */
    shared64 inode;            /* of the heap's file when it was formatted: a copy has another */
    _Alignas(64) unsigned char semaphore[64]; /* for sem_kind POSIX without a name */
    _Alignas(64) struct zone zones[ZONES];
};
static_assert(offsetof(struct header, fences) / 64 == offsetof(struct header, clock) / 64,
              "a line that every send reads anyway");
static_assert(sizeof(struct header) <= PAGE, "the header is one page");

/* Where everything is: worked out from the capacity alone and kept in private memory. */
struct geometry {
    uint64_t capacity;
    uint64_t zone_first[ZONES], zone_pages[ZONES];
    uint64_t total_pages;
    uint32_t slab_shift;       /* bytes of a small slab, and of a granule */
    uint32_t large_slab_shift; /* of a slab for larger classes; 0: there are none */
    uint32_t classes;          /* served from slabs; larger sizes are extents */
    uint64_t slab_stride;
    uint64_t granules;
    uint64_t committed_at, metabits_at, participants_at, pages_at, slabs_at, data_at, bytes;
    uint64_t always; /* committed at creation: header and bits */
    uint64_t gap_at; /* a page that nobody touches, the last of these: os_lock_lazily() */
};

/* Works out a heap's geometry; false for a capacity that no heap can have. */
bool geometry_of(uint64_t capacity, struct geometry *geometry);
/* Returns a hash over the sizes that two builds of the library have to agree on. */
uint32_t layout_hash(void);

#endif
