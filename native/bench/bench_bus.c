/*
 * bench_bus - what a message of a bus costs, beside a record of a channel.
 *
 *   bench_bus [repetitions]
 *
 * A message and a record of 64 B are copied in, read by one other process, and freed. What a post costs is
 * also measured beside many listeners: such that receive everything between the posts that are timed, and
 * such that never receive and may lose messages. With five repetitions or more, the instructions of these
 * posts are counted, too. Floors and figures alternate, so that their ratios hold on a noisy machine;
 * medians of the repetitions. Two processes, each pinned to a processor.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

enum { NBYTES = 64, MESSAGES = 1 << 20, PLACES = 1024, STRETCH = PLACES / 2, STRETCHES = 16 };
enum { WARM_UP = 4 /* stretches */, CAPACITY = 256 << 20 };
enum { COUNTING = 5 }; /* repetitions from which instructions are counted, too: it takes a minute */

static int segment;

static uint64_t sum64(const void *data) {
    uint64_t words[8], sum = 0;
    memcpy(words, data, NBYTES);
    for (int i = 0; i < 8; i++) sum += words[i];
    return sum;
}

/* Beside a record channel ------------------------------------------------------------------ */

static void records_out(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *out = endpoint(heap, 1, PLACES, IPCHEAP_PRODUCER);
    unsigned char payload[NBYTES] = {1};
    ipcheap_record record;
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < MESSAGES; i++) {
        memcpy(payload, &i, sizeof i);
        MUST(ipcheap_allocate(heap, NBYTES, &record));
        memcpy(record.data, payload, NBYTES);
        give(out, &record);
    }
    while (atomic_load(&meeting->received) == 0) {}
    *result = (now() - begin) / MESSAGES;
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
}

/* Receives and frees all messages, as a consumer or as a listener. */
static void receive_all(ipcheap_heap *heap, ipcheap_endpoint *in) {
    ipcheap_record record;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < MESSAGES; i++) {
        take(in, &record);
        sum += sum64(record.data);
        MUST(ipcheap_free(heap, &record));
    }
    sink = sum;
    atomic_store(&meeting->received, 1);
}

static void records_in(void) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_endpoint *in = endpoint(heap, 1, PLACES, IPCHEAP_CONSUMER);
    both_start();
    receive_all(heap, in);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

static void bus_of(ipcheap_heap *heap, uint64_t id, ipcheap_channel *bus) {
    ipcheap_key key;
    ipcheap_bus_options options = {.given = IPCHEAP_BUS_CAPACITY, .capacity = PLACES};
    MUST(ipcheap_key_int(&key, id));
    MUST(ipcheap_add_bus(heap, &key, &options, bus));
}

static ipcheap_endpoint *listening(ipcheap_heap *heap, ipcheap_channel *bus, uint32_t flags) {
    ipcheap_listen_options options = {.flags = flags};
    ipcheap_endpoint *listener;
    MUST(ipcheap_listen(heap, bus, &options, &listener));
    return listener;
}

static void post(ipcheap_heap *heap, const ipcheap_channel *bus, const void *data) {
    int error;
    while ((error = ipcheap_try_post(heap, bus, data, NBYTES, NULL)) == IPCHEAP_WOULD_BLOCK) {}
    MUST(error);
}

static void messages_out(double *result) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_channel bus;
    unsigned char payload[NBYTES] = {1};
    bus_of(heap, 2, &bus);
    both_start();
    double begin = now();
    for (uint64_t i = 0; i < MESSAGES; i++) {
        memcpy(payload, &i, sizeof i);
        post(heap, &bus, payload);
    }
    while (atomic_load(&meeting->received) == 0) {}
    *result = (now() - begin) / MESSAGES;
    ipcheap_release(heap);
}

static void messages_in(void) {
    ipcheap_heap *heap = attached(segment);
    ipcheap_channel bus;
    bus_of(heap, 2, &bus);
    ipcheap_endpoint *in = listening(heap, &bus, 0);
    both_start();
    receive_all(heap, in);
    ipcheap_endpoint_release(in);
    ipcheap_release(heap);
}

/* Beside many listeners -------------------------------------------------------------------- */

/* A bus, and listeners of this thread. */
static struct crowd {
    uint32_t count, flags;
    ipcheap_heap *heap;
    ipcheap_channel bus;
    ipcheap_endpoint **listeners;
} crowd;

static void post_stretch(void) {
    unsigned char payload[NBYTES] = {1};
    for (int i = 0; i < STRETCH; i++) post(crowd.heap, &crowd.bus, payload);
}

/* They receive the last stretch, unless they never receive. */
static void catch_up(void) {
    ipcheap_record message;
    if (crowd.flags) return;
    for (uint32_t n = 0; n < crowd.count; n++)
        for (int i = 0; i < STRETCH; i++) {
            take(crowd.listeners[n], &message);
            MUST(ipcheap_free(crowd.heap, &message));
        }
}

static void gather(void) {
    crowd.heap = attached(segment);
    crowd.listeners = calloc(crowd.count + 1, sizeof *crowd.listeners);
    if (!crowd.listeners) exit(1);
    bus_of(crowd.heap, 3, &crowd.bus);
    for (uint32_t i = 0; i < crowd.count; i++)
        crowd.listeners[i] = listening(crowd.heap, &crowd.bus, crowd.flags);
    for (int i = 0; i < WARM_UP; i++) {
        post_stretch();
        catch_up();
    }
}

static void disperse(void) {
    ipcheap_key key;
    for (uint32_t i = 0; i < crowd.count; i++) ipcheap_endpoint_release(crowd.listeners[i]);
    MUST(ipcheap_key_int(&key, 3));
    MUST(ipcheap_remove_channel(crowd.heap, &key, 1));
    free(crowd.listeners);
    ipcheap_release(crowd.heap);
}

/* Nanoseconds for a post. */
static double timed_posts(void) {
    double each[STRETCHES];
    gather();
    for (int i = 0; i < STRETCHES; i++) {
        double begin = now();
        post_stretch();
        each[i] = (now() - begin) / STRETCH;
        catch_up();
    }
    disperse();
    return median(each, STRETCHES);
}

/* Instructions for a post, -1 where they are not counted. */
static double counted_posts(void) {
    gather();
    double count = instructions(post_stretch) / STRETCH;
    disperse();
    return count;
}

/* The run ---------------------------------------------------------------------------------- */

static const uint32_t counts[] = {0, 1, 64, IPCHEAP_LISTENERS};
static const char *const numbers[] = {"0", "1", "64", "4,096"};
enum { COUNTS = sizeof counts / sizeof *counts };

typedef void (*print)(const char *what, double value, double floor, const char *of);

static void rows(print one, const char *what, const double values[COUNTS], uint32_t first) {
    char text[64], floor[16];
    snprintf(floor, sizeof floor, "that of %s", numbers[first]);
    for (uint32_t i = 0; i < COUNTS; i++) {
        snprintf(text, sizeof text, "%s: %s", what, numbers[i]);
        one(text, values[i], values[first], i > first ? floor : NULL);
    }
}

/* What a post costs beside listeners of a kind, by their number; `first` is what is compared with. */
static void report(const char *kind, uint32_t flags, double times[COUNTS][MOST], int repetitions,
                   uint32_t first) {
    double values[COUNTS];
    char text[64];
    for (uint32_t i = 0; i < COUNTS; i++) values[i] = median(times[i], repetitions);
    snprintf(text, sizeof text, "bus, post, %s listeners", kind);
    rows(row, text, values, first);
    if (repetitions < COUNTING) return;
    for (uint32_t i = 0; i < COUNTS; i++) {
        crowd = (struct crowd){.count = counts[i], .flags = flags};
        values[i] = counted_posts();
        if (values[i] < 0) return;
    }
    snprintf(text, sizeof text, "bus, counted post, %s listeners", kind);
    rows(row_of_instructions, text, values, first);
}

int main(int count, char **arguments) {
    int repetitions = repetitions_of(count, arguments);
    segment = new_segment(CAPACITY);
    pin(0);
    static double record[MOST], message[MOST], reliable[COUNTS][MOST], lossy[COUNTS][MOST];
    for (int r = 0; r < repetitions; r++) {
        in_two_processes(records_out, records_in, &record[r]);
        in_two_processes(messages_out, messages_in, &message[r]);
        for (uint32_t i = 0; i < COUNTS; i++) {
            crowd = (struct crowd){.count = counts[i]};
            reliable[i][r] = timed_posts();
            crowd = (struct crowd){.count = counts[i], .flags = IPCHEAP_LOSSY};
            lossy[i][r] = timed_posts();
        }
    }
    double record_ns = median(record, repetitions);
    row("floor: record channel, 64 B, send ... free", record_ns, 0, NULL);
    row("bus, 64 B, post ... release", median(message, repetitions), record_ns, "the channel");
    report("registered", 0, reliable, repetitions, 1);
    report("idle lossy", IPCHEAP_LOSSY, lossy, repetitions, 0);
    close(segment);
    return 0;
}
