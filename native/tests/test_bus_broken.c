/* One word of a bus has a value that no participant writes: who gets an error, what goes on. */
#include "bus/endpoint.h"
#include "segment/membership.h"
#include "testing.h"

enum { PLACES = 8, BUS = 1, WHOLE_ONE = 2, POSTED = 11 };

static ipcheap_channel bus_of(ipcheap_heap *heap, uint64_t id) {
    static const ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = PLACES};
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_bus(heap, &key, &options, &channel), 0);
    return channel;
}

static ipcheap_endpoint *listen_to(ipcheap_heap *heap, const ipcheap_channel *bus) {
    ipcheap_endpoint *listener = NULL;
    EXPECT_EQ(ipcheap_listen(heap, bus, NULL, &listener), 0);
    return listener;
}

/* Posts a message of the bus, a copy or a record, by turns. */
static int post_one(ipcheap_heap *heap, const ipcheap_channel *bus, uint64_t n) {
    ipcheap_record record;
    if (n % 2 == 0) return ipcheap_try_post(heap, bus, &n, sizeof n, NULL);
    EXPECT_EQ(ipcheap_allocate(heap, 200, &record), 0);
    memcpy(record.data, &n, sizeof n);
    int error = ipcheap_try_post_record(heap, bus, &record, NULL);
    if (error) EXPECT_EQ(ipcheap_free(heap, &record), 0);
    return error;
}

/*
 * Two listeners of a bus: the first holds message 7 and has received all up to 8, the second up to 6; the
 * log ends at 11.
 */
struct scene {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    struct bus bus;
    ipcheap_endpoint *in, *second;
    ipcheap_record held;
};

static struct scene scene_of(int fd) {
    struct scene s = {.heap = attach(fd)};
    ipcheap_record message;
    s.channel = bus_of(s.heap, BUS);
    s.in = listen_to(s.heap, &s.channel);
    s.second = listen_to(s.heap, &s.channel);
    for (uint64_t n = 0; n < POSTED; n++) {
        EXPECT_EQ(post_one(s.heap, &s.channel, n), 0);
        if (n < 8) EXPECT_EQ(ipcheap_try_receive(s.in, n == 7 ? &s.held : &message), 0);
        if (n < 7) EXPECT_EQ(ipcheap_free(s.heap, &message), 0);
        if (n < 6) EXPECT_EQ(ipcheap_try_receive(s.second, &message), 0);
        if (n < 6) EXPECT_EQ(ipcheap_free(s.heap, &message), 0);
    }
    EXPECT(bus_view(s.heap, s.channel.index, &s.bus));
    expect_sound(s.heap);
    return s;
}

static struct bus_listener *first(struct scene *s) { return listener_at(&s->bus, 0); }

static struct message message_at(struct scene *s, uint64_t position) {
    return slot_says(position, get(bus_slot(&s->bus, position)));
}

static struct envelope *envelope_at(struct scene *s, uint64_t position) {
    struct message m = message_at(s, position);
    struct envelope *envelope = message_envelope(s->heap, &m, NULL);
    EXPECT(envelope);
    return envelope;
}

static uint64_t word_for(struct scene *s, uint64_t position, uint64_t offset) {
    return ring_word(bus_lap(&s->bus, position), (enum slot_state)MESSAGE_WHOLE, offset);
}

/* Words that lie ------------------------------------------------------------------------------ */

static void slot_beyond_the_heap(struct scene *s) {
    put(bus_slot(&s->bus, 8), word_for(s, 8, OFFSET_UNITS << 6));
}
static void slot_that_names_no_block(struct scene *s) {
    put(bus_slot(&s->bus, 8), word_for(s, 8, 0));
}
static void slot_of_a_later_lap(struct scene *s) {
    put(bus_slot(&s->bus, 8), word_for(s, 8 + 5 * PLACES, message_at(s, 8).block));
}
static void slots_whose_laps_run_in_a_circle(struct scene *s) {
    for (uint64_t i = 0; i < PLACES; i++)
        put(bus_slot(&s->bus, i), word_for(s, (i + 2) % 4 * (LAP_MASK / 4 + 1) * PLACES, PAGE));
}
static void slot_that_never_was(struct scene *s) { put(bus_slot(&s->bus, 9), 0); }
static void floor_beyond_the_end(struct scene *s) { put(&s->bus.root->floor, 1000); }
static void floor_without_end(struct scene *s) { put(&s->bus.root->floor, UINT64_MAX); }
static void settled_above_the_floor(struct scene *s) { put(&s->bus.root->settled, 100); }
static void swept_above_the_floor(struct scene *s) { put(&s->bus.root->swept, UINT64_MAX); }
static void head_beyond_the_end(struct scene *s) { put(&s->bus.root->head, 1 << 20); }
static void cursor_beyond_the_end(struct scene *s) { put(&first(s)->side.position, 5000); }
static void seat_of_nobody(struct scene *s) { put(&first(s)->seat.holder, own_tag(4000, 77)); }
static void seat_of_no_kind(struct scene *s) { put(&first(s)->seat.holder, UINT64_MAX); }
static void flags_that_do_not_exist(struct scene *s) { put(&first(s)->flags, 0xFF00); }
static void hold_of_no_block(struct scene *s) {
    put(&first(s)->holds[5], hold_of(HOLD_HELD, &(struct message){.block = OFFSET_UNITS << 6}));
    put(&first(s)->used, 8);
}
static void holds_without_end(struct scene *s) { put(&first(s)->used, UINT32_MAX); }
static void table_elsewhere(struct scene *s) {
    put(&first(s)->more[0], s->held.offset);
    put(&first(s)->used, 1000);
}
static void group_elsewhere(struct scene *s) { put(&s->bus.root->group[0], 4096); }
static void listeners_without_end(struct scene *s) { put(&s->bus.root->listeners, UINT32_MAX); }
static void bits_of_records_never_made(struct scene *s) {
    for (uint32_t i = 0; i < LISTENER_WORDS; i++) put(&s->bus.root->active[i], UINT64_MAX);
}
static void size_beyond_the_block(struct scene *s) {
    put(&envelope_at(s, 8)->size, size_word(1 << 30, IPCHEAP_PLAIN));
}
static void payload_of_somebody_else(struct scene *s) {
    put(&envelope_at(s, 9)->payload, s->held.offset);
}
static void payload_beyond_the_heap(struct scene *s) {
    put(&envelope_at(s, 9)->payload, UINT64_C(1) << 45);
}
static void tag_of_another_position(struct scene *s) {
    struct message m = message_at(s, 8);
    struct place place;
    EXPECT(place_find(s->heap, m.block, &place));
    put(place.tag, message_tag(&s->bus, 5));
}
static void turn_of_nobody(struct scene *s) { put(&s->bus.root->turn, UINT64_MAX); }
static void turn_without_end(struct scene *s) {
    put(&s->bus.root->turn, s->in->me->tag | UINT64_C(1) << 61);
    put(&s->bus.root->turn_until, UINT64_MAX);
    put(&s->bus.root->turn_message, UINT64_MAX);
}
static void root_elsewhere(struct scene *s) {
    put(&s->bus.channel->parts[0], get(&s->bus.channel->parts[0]) + PAGE);
}
static void shape_of_no_bus(struct scene *s) { put(&s->bus.channel->shape, UINT64_MAX); }
static void log_longer_than_it_is(struct scene *s) {
    put(&s->bus.channel->shape, bus_shape(20, 0, PATIENCE_UNLIMITED));
}

/* What goes on -------------------------------------------------------------------------------- */

static bool is_possible(int64_t result) {
    switch (result) {
    case IPCHEAP_WOULD_BLOCK:
    case IPCHEAP_TIMED_OUT:
    case IPCHEAP_CORRUPT:
    case IPCHEAP_MESSAGES_LOST:
    case IPCHEAP_CHANNEL_BUSY:
    case IPCHEAP_CHANNEL_TYPE:
    case IPCHEAP_OWN_LISTENER:
    case IPCHEAP_BAD_VALUE:
    case IPCHEAP_RECORD:
        return true;
    default:
        return result >= 0;
    }
}

/* Returns how many calls said CORRUPT; each returns in time, whatever it says. */
static int hear(ipcheap_heap *heap, ipcheap_endpoint *in) {
    int corrupt = 0;
    for (int i = 0; i < 2 * PLACES; i++) {
        ipcheap_record message;
        uint64_t nbytes;
        uint32_t form;
        int error = ipcheap_try_receive(in, &message);
        EXPECT(is_possible(error));
        corrupt += error == IPCHEAP_CORRUPT;
        if (!error) EXPECT(is_possible(ipcheap_free(heap, &message)));
        EXPECT(is_possible(ipcheap_peek(in, &nbytes, &form)));
        EXPECT(is_possible(ipcheap_pending(in)));
    }
    EXPECT(is_possible(ipcheap_wait(in, 1000000)));
    return corrupt;
}

static int use(ipcheap_heap *heap, const ipcheap_channel *bus) {
    int corrupt = 0;
    ipcheap_broadcast_report report;
    ipcheap_bus_statistics statistics;
    ipcheap_listener_info info;
    ipcheap_holder holder;
    ipcheap_endpoint *in;
    uint32_t cursor = 0;
    for (uint64_t n = 0; n < 2 * PLACES; n++) {
        int error = post_one(heap, bus, n);
        EXPECT(is_possible(error));
        corrupt += error == IPCHEAP_CORRUPT;
    }
    EXPECT(is_possible(ipcheap_broadcast_bytes(heap, bus, "b", 1, 1000000, 0, &report)));
    EXPECT(is_possible(ipcheap_drain(heap, bus, 1000000, &report)));
    EXPECT(is_possible(ipcheap_bus_blocker(heap, bus, 1, &holder)));
    EXPECT(is_possible(ipcheap_bus_describe(heap, bus, &statistics)));
    while (ipcheap_next_listener(heap, bus, &cursor, &info) == 1) EXPECT(cursor <= MOST_LISTENERS);
    int error = ipcheap_listen(heap, bus, NULL, &in);
    EXPECT(is_possible(error));
    if (!error) corrupt += hear(heap, in);
    if (!error) ipcheap_endpoint_release(in);
    return corrupt;
}

static void expect_to_work(ipcheap_heap *heap, const ipcheap_channel *bus) {
    ipcheap_endpoint *in = listen_to(heap, bus);
    for (uint64_t n = 0; n < 3 * PLACES; n++) {
        ipcheap_record message;
        EXPECT_EQ(post_one(heap, bus, n), 0);
        EXPECT_EQ(ipcheap_try_receive(in, &message), 0);
        EXPECT_EQ(memcmp(message.data, &n, sizeof n), 0);
        EXPECT_EQ(ipcheap_free(heap, &message), 0);
    }
    ipcheap_endpoint_release(in);
}

enum finding { NOTHING, CHECK = 1, ERROR = 2 }; /* what tells: check(), or a call of the bus */

static void word_that_lies(const char *name, void (*spoil)(struct scene *s), int tells) {
    int fd = new_segment(4 * MIB);
    struct scene s = scene_of(fd);
    ipcheap_channel whole = bus_of(s.heap, WHOLE_ONE);
    fprintf(stderr, "%s\n", name);
    alarm(20);
    expect_to_work(s.heap, &whole);
    spoil(&s);
    ipcheap_heap *fresh = attach(fd); /* has not looked at the bus before */
    int faults = ipcheap_check(fresh, NULL, NULL);
    EXPECT(faults >= 0);
    if (tells & CHECK) EXPECT(faults > 0);
    int corrupt = hear(s.heap, s.in) + hear(s.heap, s.second);
    ipcheap_channel again;
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, BUS), 0);
    int error = ipcheap_find_channel(fresh, &key, &again);
    corrupt += error ? error == IPCHEAP_CORRUPT : use(fresh, &again);
    corrupt += use(s.heap, &s.channel);
    if (tells & ERROR) EXPECT(corrupt > 0);
    EXPECT(is_possible(ipcheap_free(s.heap, &s.held)));
    ipcheap_recovery recovery;
    EXPECT(is_possible(ipcheap_recover(fresh, &recovery)));
    EXPECT(is_possible(ipcheap_trim(fresh, 0)));
    expect_to_work(s.heap, &whole);
    ipcheap_endpoint_release(s.in);
    ipcheap_endpoint_release(s.second);
    error = ipcheap_remove_channel(s.heap, &key, 1);
    EXPECT(is_possible(error) || error == IPCHEAP_CHANNEL_NOT_FOUND);
    ipcheap_channel anew = bus_of(s.heap, 3);
    expect_to_work(s.heap, &anew);
    expect_to_work(fresh, &whole);
    ipcheap_release(fresh);
    ipcheap_release(s.heap);
    close(fd);
}

/* A seat that names nobody keeps no writer waiting. */
static void nobody_is_in_the_way(void) {
    int fd = new_segment(4 * MIB);
    struct scene s = scene_of(fd);
    seat_of_nobody(&s);
    put(&listener_at(&s.bus, 1)->seat.holder, own_tag(4001, 78));
    for (uint64_t n = 0; n < 3 * PLACES; n++)
        EXPECT_EQ(ipcheap_post(s.heap, &s.channel, &n, sizeof n, 2000000000, NULL), 0);
    EXPECT(is_possible(ipcheap_free(s.heap, &s.held)));
    ipcheap_endpoint_release(s.in);
    ipcheap_endpoint_release(s.second);
    ipcheap_release(s.heap);
    close(fd);
}

/* What a participant is said to have under way ------------------------------------------------- */

static const struct scene *theirs;
static uint64_t named[4]; /* blocks of the survivor's */
static int lie;           /* which of them it is about */

/* Says that it is posting, or reclaiming, what is another's; and dies. */
static void lie_and_die(ipcheap_heap *heap) {
    struct participant *me;
    EXPECT_EQ(participant_current(heap, &me), 0);
    put(&me->record->bus, (uint64_t)tag_generation(me->tag) << 32 | (theirs->channel.index + 1));
    struct message m = {.position = POSTED, .block = named[lie], .apart = lie % 2};
    put(&me->record->intent, hold_of(HOLD_HELD, &m));
    put(&me->record->letting, named[(lie + 1) % 4]);
    put(&me->record->from, sent_tag(0, 3));
    _exit(0);
}

static void the_dead_do_not_take_what_is_others(void) {
    int fd = new_segment(4 * MIB);
    struct scene s = scene_of(fd);
    struct pair ring = pair_of(s.heap, 7, 8);
    ipcheap_record mine, sent, message;
    ipcheap_recovery recovery;
    EXPECT_EQ(ipcheap_allocate(s.heap, 100, &mine), 0);
    EXPECT_EQ(ipcheap_allocate(s.heap, 100, &sent), 0);
    memset(mine.data, 0xFF, 100);
    named[0] = mine.offset;
    named[1] = sent.offset;
    EXPECT_EQ(ipcheap_try_send(ring.out, &sent), 0);
    named[2] = message_at(&s, 7).block;
    named[3] = message_at(&s, 8).block;
    theirs = &s;
    for (lie = 0; lie < 4; lie++) {
        expect_success(run_peer(fd, lie_and_die));
        EXPECT_EQ(ipcheap_recover(s.heap, &recovery), 0);
        expect_sound(s.heap);
    }
    EXPECT_EQ(((unsigned char *)mine.data)[99], 0xFF);
    EXPECT_EQ(ipcheap_free(s.heap, &mine), 0);
    EXPECT_EQ(ipcheap_try_receive(ring.in, &sent), 0);
    EXPECT_EQ(ipcheap_free(s.heap, &sent), 0);
    EXPECT_EQ(ipcheap_free(s.heap, &s.held), 0);
    for (uint64_t n = 8; n < POSTED; n++) {
        EXPECT_EQ(ipcheap_try_receive(s.in, &message), 0);
        EXPECT_EQ(memcmp(message.data, &n, sizeof n), 0);
        EXPECT_EQ(ipcheap_free(s.heap, &message), 0);
    }
    pair_release(&ring);
    ipcheap_endpoint_release(s.in);
    ipcheap_endpoint_release(s.second);
    expect_sound(s.heap);
    ipcheap_release(s.heap);
    close(fd);
}

#define LIES(spoil, tells) word_that_lies(#spoil, spoil, tells)

int main(void) {
    LIES(slot_beyond_the_heap, ERROR);
    LIES(slot_that_names_no_block, ERROR);
    LIES(slot_of_a_later_lap, CHECK | ERROR);
    LIES(slots_whose_laps_run_in_a_circle, CHECK | ERROR);
    LIES(slot_that_never_was, CHECK);
    LIES(floor_beyond_the_end, CHECK | ERROR);
    LIES(floor_without_end, CHECK | ERROR);
    LIES(settled_above_the_floor, CHECK);
    LIES(swept_above_the_floor, CHECK);
    LIES(head_beyond_the_end, NOTHING); /* it is a hint */
    LIES(cursor_beyond_the_end, CHECK);
    LIES(seat_of_nobody, CHECK);
    LIES(seat_of_no_kind, CHECK);
    LIES(flags_that_do_not_exist, CHECK);
    LIES(hold_of_no_block, CHECK);
    LIES(holds_without_end, NOTHING);
    LIES(table_elsewhere, NOTHING);
    LIES(group_elsewhere, CHECK);
    LIES(listeners_without_end, NOTHING);
    LIES(bits_of_records_never_made, CHECK);
    LIES(size_beyond_the_block, ERROR);
    LIES(payload_of_somebody_else, CHECK | ERROR);
    LIES(payload_beyond_the_heap, CHECK | ERROR);
    LIES(tag_of_another_position, CHECK);
    LIES(turn_of_nobody, NOTHING);
    LIES(turn_without_end, NOTHING);
    LIES(root_elsewhere, CHECK | ERROR);
    LIES(shape_of_no_bus, CHECK | ERROR);
    LIES(log_longer_than_it_is, CHECK | ERROR);
    nobody_is_in_the_way();
    the_dead_do_not_take_what_is_others();
    return 0;
}
