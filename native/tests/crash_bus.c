/*
 * crash_bus.c - what is posted to a bus before and until a death, and what a survivor finds.
 */
#include "crash_bus.h"

#include "bus/reclaim.h"

struct known x, y;

/* Texts -------------------------------------------------------------------------------------- */

uint64_t bytes_of_text(uint64_t number) {
    if (number < MOST) return bytes_of(number); /* it came on B */
    return number % 4 == 3 ? 40000 + number : number % 4 == 1 ? 8 : 64 + number;
}

void expect_text(const ipcheap_record *message, uint64_t number) {
    EXPECT_EQ(message->nbytes, bytes_of_text(number));
    expect_filled(message, number);
}

static uint64_t text_at(struct world *w, const struct known *bus, uint64_t position) {
    return bus == &y ? FROM_Y + position : w->told->text[position];
}

/* Buses and listeners ------------------------------------------------------------------------ */

ipcheap_channel add_the_bus(struct world *w, uint64_t id, const ipcheap_bus_options *options) {
    ipcheap_key key = key_of(id);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_bus(w->heap, &key, options, &channel)), 0);
    return channel;
}

ipcheap_endpoint *listen_to(struct world *w, const ipcheap_channel *bus, uint64_t history,
                            uint32_t flags) {
    ipcheap_listen_options options = {history, flags};
    ipcheap_endpoint *listener = NULL;
    EXPECT_EQ(CALL(ipcheap_listen(w->heap, bus, &options, &listener)), 0);
    return listener;
}

static void begin(struct world *w, struct known *bus, uint64_t id,
                  const ipcheap_bus_options *options) {
    *bus = (struct known){.channel = add_the_bus(w, id, options), .history = options->history};
}

void begin_bus(struct world *w, const ipcheap_bus_options *options, uint32_t flags) {
    begin(w, &x, X, options);
    x.in = listen_to(w, &x.channel, 0, flags);
}

void begin_y(struct world *w, bool listens) {
    static const ipcheap_bus_options plain = {.given = IPCHEAP_BUS_CAPACITY, .capacity = PLACES};
    begin(w, &y, Y, &plain);
    if (listens) y.in = listen_to(w, &y.channel, 0, 0);
}

/* Posting ------------------------------------------------------------------------------------ */

void posting(struct world *w, uint64_t number) {
    EXPECT(w->told->posted < TEXTS && number <= UINT8_MAX);
    w->told->text[w->told->posted] = (uint8_t)number;
    w->told->posting = w->told->posted + 1;
}

void posted(struct world *w) { w->told->posted = w->told->posting; }

static uint64_t own_text(const struct world *w) { return OWN_TEXT + w->told->posted % 100; }

/* The bytes of a number; each call has its own. */
static const void *text(uint64_t number) {
    static unsigned char buffers[2][41000];
    static int turn;
    ipcheap_record as = {.data = buffers[turn++ % 2], .nbytes = bytes_of_text(number)};
    fill(&as, number);
    return as.data;
}

void post_copy(struct world *w) {
    uint64_t number = own_text(w), position = 0;
    posting(w, number);
    EXPECT_EQ(
        CALL(ipcheap_try_post(w->heap, &x.channel, text(number), bytes_of_text(number), &position)),
        0);
    EXPECT_EQ(position, w->told->posted);
    posted(w);
}

void post_own(struct world *w) {
    uint64_t number = own_text(w), position = 0;
    ipcheap_record record = make(w, bytes_of_text(number), number);
    posting(w, number);
    EXPECT_EQ(CALL(ipcheap_try_post_record(w->heap, &x.channel, &record, &position)), 0);
    EXPECT(!record.data);
    EXPECT_EQ(position, w->told->posted);
    posted(w);
}

void post_y(struct world *w, int count) {
    for (int i = 0; i < count; i++) {
        uint64_t number = FROM_Y + y.posted, position;
        if (number % 2) {
            ipcheap_record record = make(w, bytes_of_text(number), number);
            EXPECT_EQ(ipcheap_try_post_record(w->heap, &y.channel, &record, &position), 0);
        } else {
            EXPECT_EQ(ipcheap_try_post(w->heap, &y.channel, text(number), bytes_of_text(number),
                                       &position),
                      0);
        }
        EXPECT_EQ(position, y.posted++);
    }
}

/* Hearing ------------------------------------------------------------------------------------ */

/* Receives the next message; false if there is none. */
static bool receive_next(struct world *w, struct known *bus, ipcheap_record *message) {
    ipcheap_listener_statistics s;
    int error = ipcheap_try_receive(bus->in, message);
    if (error == IPCHEAP_MESSAGES_LOST) {
        bus->heard += ipcheap_listener_lost(bus->in);
        bus->lost += ipcheap_listener_lost(bus->in);
        error = ipcheap_try_receive(bus->in, message);
    }
    EXPECT_EQ(ipcheap_listener_describe(bus->in, &s), 0);
    bus->heard += s.lost - bus->lost; /* of a lossy one */
    bus->lost = s.lost;
    if (error == IPCHEAP_WOULD_BLOCK) return false;
    EXPECT_EQ(error, 0);
    EXPECT_EQ(message->position, bus->heard++);
    expect_text(message, text_at(w, bus, message->position));
    return true;
}

void hold_one(struct world *w, struct known *bus) {
    EXPECT(receive_next(w, bus, &bus->held[bus->held_count++]));
}

void hear(struct world *w, struct known *bus) {
    ipcheap_record message;
    while (receive_next(w, bus, &message)) give_back(w, &message);
}

static void release_held(struct world *w, struct known *bus) {
    while (bus->held_count) {
        ipcheap_record *message = &bus->held[--bus->held_count];
        expect_text(message, text_at(w, bus, message->position));
        give_back(w, message);
    }
}

/* The survivor finds what it should ------------------------------------------------------------ */

static uint64_t room_of_message(const struct bus *bus, const struct message *m) {
    struct place place;
    const struct envelope *envelope = message_envelope(bus->heap, m, &place);
    EXPECT(envelope && place_is(&place, message_tag(bus, m->position)));
    uint64_t room = place_bytes(bus->heap, &place);
    if (!m->apart) return room;
    EXPECT(place_find(bus->heap, get(&envelope->payload), &place));
    return place_is(&place, payload_tag(bus, m->block)) ? room + place_bytes(bus->heap, &place)
                                                        : room;
}

/* What is held and stands below `from`; each once. */
static uint64_t room_of_held(struct bus *bus, uint64_t from) {
    uint64_t room = 0, seen[HOLDABLE];
    int count = 0;
    struct listener_walk walk = {0};
    while (listener_step(bus, &walk)) {
        struct held_walk holds = held_walk_of(walk.listener);
        while (held_step(bus, walk.number, walk.listener, &holds)) {
            struct message m;
            EXPECT(hold_uses(holds.hold) && hold_message(bus, holds.hold, &m));
            bool again = m.position >= from;
            for (int i = 0; i < count; i++) again |= seen[i] == m.position;
            if (again) continue;
            EXPECT(count < HOLDABLE);
            seen[count++] = m.position;
            room += room_of_message(bus, &m);
        }
    }
    return room;
}

uint64_t room_of_bus(struct world *w, const struct known *known) {
    struct bus bus;
    if (!known->channel.kind || !bus_view(w->heap, known->channel.index, &bus)) return 0;
    uint64_t end = bus_end(&bus), from = bus_history_from(&bus, end), room = 0;
    bool gone = get(&bus.channel->flags) & CHANNEL_GONE;
    if (known->in) from = least(from, known->heard);
    from = gone ? end : greatest(from, get(&bus.root->floor));
    for (uint64_t position = from; position < end; position++) {
        struct message m = slot_says(position, get(bus_slot(&bus, position)));
        EXPECT_EQ(slot_laps_past(&bus, position, get(bus_slot(&bus, position))), 0);
        room += room_of_message(&bus, &m);
    }
    return room + room_of_held(&bus, from);
}

/* A record of B that was posted is not redelivered there, and the others are. */
static void expect_forwarded(struct world *w, uint64_t end) {
    uint64_t found = 0;
    for (uint64_t position = 0; position < end; position++)
        if (w->told->text[position] < MOST) found |= UINT64_C(1) << w->told->text[position];
    if (!w->b_sent) return;
    EXPECT_EQ(found & w->b_redelivered, 0);
    EXPECT_EQ(found | w->b_redelivered, (UINT64_C(1) << w->b_sent) - 1);
}

static ipcheap_bus_statistics described(struct world *w, const struct known *bus) {
    ipcheap_bus_statistics s;
    EXPECT_EQ(ipcheap_bus_describe(w->heap, &bus->channel, &s), 0);
    return s;
}

/* One that comes now gets the history, and then what the first one gets. */
static ipcheap_endpoint *listen_late(struct world *w, uint64_t end) {
    ipcheap_endpoint *late = listen_to(w, &x.channel, x.history, 0);
    ipcheap_record message;
    uint64_t from = end > x.history ? end - x.history : 0;
    while (ipcheap_try_receive(late, &message) == 0) {
        EXPECT_EQ(message.position, from++);
        expect_text(&message, text_at(w, &x, message.position));
        give_back(w, &message);
    }
    EXPECT_EQ(from, end);
    return late;
}

static void expect_nobody_owes(struct world *w, uint64_t end) {
    ipcheap_broadcast_report report;
    uint64_t number = own_text(w);
    posting(w, number);
    EXPECT_EQ(ipcheap_broadcast_bytes(w->heap, &x.channel, text(number), bytes_of_text(number), -1,
                                      1, &report),
              0);
    posted(w);
    EXPECT_EQ(report.position, end);
    EXPECT_EQ(report.listeners, 0);
    EXPECT_EQ(ipcheap_drain(w->heap, &x.channel, -1, &report), 0);
    EXPECT_EQ(report.listeners, 0);
}

void use_bus(struct world *w) {
    if (!x.in) x.in = listen_to(w, &x.channel, 0, 0), x.heard = described(w, &x).posted;
    hear(w, &x);
    uint64_t end = x.heard;
    EXPECT(end >= w->told->posted && end <= w->told->posting);
    EXPECT_EQ(described(w, &x).posted, end);
    expect_forwarded(w, end);
    w->told->posted = end;
    struct known late = {.channel = x.channel, .in = listen_late(w, end), .heard = end};
    EXPECT_EQ(described(w, &x).listeners, 2);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PLACES - 1; i++) i % 3 ? post_copy(w) : post_own(w);
        expect_nobody_owes(w, w->told->posted);
        hear(w, &x);
        hear(w, &late);
        EXPECT_EQ(x.heard, w->told->posted);
        EXPECT_EQ(late.heard, w->told->posted);
    }
    expect_sound(w->heap);
    release_held(w, &x);
    ipcheap_endpoint_release(late.in);
    ipcheap_endpoint_release(x.in);
    expect_sound(w->heap);
    remove_id(w, X, 0);
}

uint64_t bus_after(struct world *w) {
    uint64_t room = room_of_bus(w, &x) + room_of_bus(w, &y);
    use_bus(w);
    if (!y.channel.kind) return room;
    if (y.in) {
        hear(w, &y);
        EXPECT_EQ(y.heard, described(w, &y).posted);
        release_held(w, &y);
        ipcheap_endpoint_release(y.in);
    }
    remove_id(w, Y, 0);
    return room;
}
