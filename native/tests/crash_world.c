/* crash_world.c - numbered records, and the channels that they travel through. */
#include <poll.h>

#include "crash.h"
#include "memory/block.h"
#include "record/endpoint.h"

/* Calls ---------------------------------------------------------------------------------- */

int64_t last_result;
bool (*made_to_fail)(int64_t error);
bool memory_fails;

bool is_to_repeat(int64_t result) {
    last_result = result;
    return result < 0 && made_to_fail && made_to_fail(result);
}

/* Records -------------------------------------------------------------------------------- */

uint64_t bytes_of(uint64_t number) { return number % 3 == 2 ? 20000 + number : 64 + number; }

uint64_t room_of(struct world *w, uint64_t nbytes) {
    uint32_t size_class = size_class_of(nbytes);
    if (size_class < w->heap->geometry.classes) return size_class_bytes(size_class);
    return round_up(nbytes, PAGE);
}

uint64_t room_taken(struct world *w, const ipcheap_record *record) {
    struct place place;
    EXPECT(place_find(w->heap, record->offset, &place));
    uint64_t taken = place_bytes(w->heap, &place), room = room_of(w, record->nbytes);
    EXPECT(memory_fails ? taken >= room : taken == room);
    return taken;
}

void fill(const ipcheap_record *record, uint64_t number) {
    memset(record->data, (int)(number + 1), record->nbytes);
    memcpy(record->data, &number, sizeof number);
}

void expect_filled(const ipcheap_record *record, uint64_t number) {
    uint64_t found;
    memcpy(&found, record->data, sizeof found);
    EXPECT_EQ(found, number);
    for (uint64_t i = sizeof found; i < record->nbytes; i++)
        EXPECT_EQ(((unsigned char *)record->data)[i], (unsigned char)(number + 1));
}

ipcheap_record make(struct world *w, uint64_t nbytes, uint64_t number) {
    ipcheap_record record;
    EXPECT_EQ(CALL(ipcheap_allocate(w->heap, nbytes, &record)), 0);
    fill(&record, number);
    return record;
}

void give_back(struct world *w, ipcheap_record *record) {
    EXPECT_EQ(CALL(ipcheap_free(w->heap, record)), 0);
}

void look_around(struct world *w) {
    ipcheap_statistics found;
    EXPECT_EQ(CALL(ipcheap_heap_statistics(w->heap, &found)), 0);
}

/* Channels ------------------------------------------------------------------------------- */

ipcheap_key key_of(uint64_t id) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    return key;
}

void remove_id(struct world *w, uint64_t id, int force) {
    ipcheap_key key = key_of(id);
    EXPECT_EQ(CALL(ipcheap_remove_channel(w->heap, &key, force)), 0);
}

bool find_id(struct world *w, uint64_t id, ipcheap_channel *channel) {
    ipcheap_key key = key_of(id);
    int error = ipcheap_find_channel(w->heap, &key, channel);
    EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND);
    return !error;
}

ipcheap_channel add_channel(struct world *w, uint64_t id, uint64_t slots) {
    ipcheap_key key = key_of(id);
    ipcheap_channel channel;
    EXPECT_EQ(CALL(ipcheap_add_record_channel(w->heap, &key, slots, &channel)), 0);
    return channel;
}

ipcheap_endpoint *claim_side(struct world *w, const ipcheap_channel *channel, int side) {
    ipcheap_endpoint *endpoint = NULL;
    EXPECT_EQ(CALL(ipcheap_claim(w->heap, channel, side, &endpoint)), 0);
    return endpoint;
}

void send_a(struct world *w) {
    uint64_t number = w->told->sent;
    ipcheap_record record = make(w, bytes_of(number), number);
    w->told->sending = number + 1;
    EXPECT_EQ(CALL(ipcheap_try_send(w->a_out, &record)), 0);
    w->told->sent = number + 1;
}

static void send_b(struct world *w) {
    ipcheap_record record = make(w, bytes_of(w->b_sent), w->b_sent);
    EXPECT_EQ(CALL(ipcheap_try_send(w->b_out, &record)), 0);
    w->b_sent++;
}

/* To receive the last of a whole ring arms the endpoint's bell, if it has one: that detaches the first. */
uint64_t receive_b(struct world *w, ipcheap_record *record) {
    bool detaches = w->b_in->bell && record_endpoint(w->b_in)->position == SLOTS - 1;
    if (detaches) w->told->fate[0] = GIVING;
    EXPECT_EQ(CALL(ipcheap_try_receive(w->b_in, record)), 0);
    if (detaches) w->told->fate[0] = GIVEN;
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    expect_filled(record, number);
    return number;
}

/* Common worlds of a survivor. */
void listen_a(struct world *w) {
    w->a = add_channel(w, A, SLOTS);
    w->a_in = claim_side(w, &w->a, IPCHEAP_CONSUMER);
}

void send_b_full(struct world *w) {
    w->b = add_channel(w, B, SLOTS);
    w->b_out = claim_side(w, &w->b, IPCHEAP_PRODUCER);
    for (int i = 0; i < SLOTS; i++) send_b(w);
}

void all_channels(struct world *w) {
    listen_a(w);
    send_b_full(w);
    w->c = add_channel(w, C, SLOTS);
    w->c_in = claim_side(w, &w->c, IPCHEAP_CONSUMER);
}

void claim_a(struct world *w) { w->a_out = claim_side(w, &w->a, IPCHEAP_PRODUCER); }

void claim_b(struct world *w) { w->b_in = claim_side(w, &w->b, IPCHEAP_CONSUMER); }

void fill_a(struct world *w) {
    claim_a(w);
    for (int i = 0; i < SLOTS; i++) send_a(w);
}

bool bell_rings(const struct world *w) {
    struct pollfd one = {.fd = w->bell, .events = POLLIN};
    return poll(&one, 1, 0) == 1;
}
