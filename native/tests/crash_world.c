/* crash_world.c - records with a number in them, and the channels that they go through. */
#include <poll.h>

#include "crash.h"

/* Records -------------------------------------------------------------------------------- */

uint64_t bytes_of(uint64_t number) { return number % 3 == 2 ? 20000 + number : 64 + number; }

uint64_t room_of(struct world *w, uint64_t nbytes) {
    uint32_t size_class = size_class_of(nbytes);
    if (size_class < w->heap->geometry.classes) return size_class_bytes(size_class);
    return round_up(nbytes, PAGE);
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
    EXPECT_EQ(ipcheap_allocate(w->heap, nbytes, &record), 0);
    fill(&record, number);
    return record;
}

void give_back(struct world *w, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_free(w->heap, record), 0);
}

/* Channels ------------------------------------------------------------------------------- */

ipcheap_key key_of(uint64_t id) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    return key;
}

void remove_id(struct world *w, uint64_t id, int force) {
    ipcheap_key key = key_of(id);
    EXPECT_EQ(ipcheap_remove_channel(w->heap, &key, force), 0);
}

bool find_id(struct world *w, uint64_t id, ipcheap_channel *channel) {
    ipcheap_key key = key_of(id);
    int error = ipcheap_find_channel(w->heap, &key, channel);
    EXPECT(error == 0 || error == IPCHEAP_CHANNEL_NOT_FOUND);
    return !error;
}

void send_a(struct world *w) {
    uint64_t number = w->told->sent;
    ipcheap_record record = make(w, bytes_of(number), number);
    w->told->sending = number + 1;
    EXPECT_EQ(ipcheap_try_send(w->a_out, &record), 0);
    w->told->sent = number + 1;
}

static void send_b(struct world *w) {
    ipcheap_record record = make(w, bytes_of(w->b_sent), w->b_sent);
    EXPECT_EQ(ipcheap_try_send(w->b_out, &record), 0);
    w->b_sent++;
}

uint64_t receive_b(struct world *w, ipcheap_record *record) {
    EXPECT_EQ(ipcheap_try_receive(w->b_in, record), 0);
    uint64_t number;
    memcpy(&number, record->data, sizeof number);
    expect_filled(record, number);
    return number;
}

/* The usual worlds of a survivor. */
void listen_a(struct world *w) {
    w->a = record_channel(w->heap, A, SLOTS);
    w->a_in = claim(w->heap, &w->a, IPCHEAP_CONSUMER);
}

void send_b_full(struct world *w) {
    w->b = record_channel(w->heap, B, SLOTS);
    w->b_out = claim(w->heap, &w->b, IPCHEAP_PRODUCER);
    for (int i = 0; i < SLOTS; i++) send_b(w);
}

void all_channels(struct world *w) {
    listen_a(w);
    send_b_full(w);
    w->c = record_channel(w->heap, C, SLOTS);
    w->c_in = claim(w->heap, &w->c, IPCHEAP_CONSUMER);
}

void claim_a(struct world *w) { w->a_out = claim(w->heap, &w->a, IPCHEAP_PRODUCER); }

void claim_b(struct world *w) { w->b_in = claim(w->heap, &w->b, IPCHEAP_CONSUMER); }

void fill_a(struct world *w) {
    claim_a(w);
    for (int i = 0; i < SLOTS; i++) send_a(w);
}

bool bell_rings(const struct world *w) {
    struct pollfd one = {.fd = w->bell, .events = POLLIN};
    return poll(&one, 1, 0) == 1;
}
