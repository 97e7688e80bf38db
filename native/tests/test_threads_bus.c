/* Threads that post, listen, hold, hand on and broadcast on one bus, and others that free, close and remove. */

#include "threads.h"

enum { BUS = 7, ECHO = 8, RING = 9, WRITERS = 3, EACH = ROUNDS, ALL = WRITERS * EACH, KEPT = 16 };
enum { BROADCASTS = 400, REMOVALS = 40, CLOSINGS = 60, CROWD = 4 };

/* Buses -------------------------------------------------------------------------------------- */

static void add_bus(struct scene *scene, uint64_t id, const ipcheap_bus_options *options,
                    ipcheap_channel *channel) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_add_bus(scene->heap, &key, options, channel), 0);
}

static int remove_bus(ipcheap_heap *heap, uint64_t id, int force) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    return ipcheap_remove_channel(heap, &key, force);
}

static struct scene new_bus(uint64_t capacity, const ipcheap_bus_options *options) {
    struct scene scene = new_scene(capacity);
    ipcheap_set_lock_timeout(scene.heap, long_enough); /* on a busy machine */
    add_bus(&scene, BUS, options, &scene.first);
    return scene;
}

static ipcheap_endpoint *listen_to(ipcheap_heap *heap, const ipcheap_channel *bus, uint64_t history,
                                   uint32_t flags) {
    ipcheap_listen_options options = {history, flags};
    ipcheap_endpoint *listener = NULL;
    EXPECT_EQ(ipcheap_listen(heap, bus, &options, &listener), 0);
    return listener;
}

static void await_count(const struct scene *scene, uint64_t count) {
    while (atomic_load(&scene->count) < count) usleep(100);
}

/* A message of a writer: its number, whose it is, and bytes that follow from both. */
static uint64_t letter(unsigned char bytes[40000], uint64_t writer, uint64_t number) {
    uint64_t nbytes = number % 60 == 7 ? 40000 : 24 + number % 300;
    memset(bytes, (int)(number + writer), nbytes);
    memcpy(bytes, &number, sizeof number);
    memcpy(bytes + 8, &writer, sizeof writer);
    return nbytes;
}

/* Returns the number of a message, all of whose bytes are of that. */
static uint64_t read_letter(const void *data, uint64_t nbytes, uint64_t *writer) {
    const unsigned char *bytes = data;
    uint64_t number;
    memcpy(&number, bytes, sizeof number);
    memcpy(writer, bytes + 8, sizeof *writer);
    EXPECT_EQ(nbytes, number % 60 == 7 ? 40000 : 24 + number % 300);
    for (uint64_t i = 16; i < nbytes; i += 1 + i / 64)
        EXPECT_EQ(bytes[i], (unsigned char)(number + *writer));
    return number;
}

/* Writers ------------------------------------------------------------------------------------ */

static void post_letter(struct scene *scene, uint64_t writer, uint64_t number) {
    static _Thread_local unsigned char bytes[40000];
    uint64_t nbytes = letter(bytes, writer, number);
    if (number % 3) {
        EXPECT_EQ(ipcheap_post(scene->heap, &scene->first, bytes, nbytes, long_enough, NULL), 0);
        return;
    }
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(scene->heap, nbytes, &record), 0);
    memcpy(record.data, bytes, nbytes);
    EXPECT_EQ(ipcheap_post_record(scene->heap, &scene->first, &record, long_enough, NULL), 0);
    EXPECT(!record.data);
}

/* Waits until `count` listeners are there, then posts. */
static void *post_all(void *argument) {
    struct scene *scene = argument;
    uint64_t writer = (uint64_t)atomic_fetch_add(&scene->turn, 1);
    while (atomic_load(&scene->count) == 0) usleep(100);
    for (uint64_t number = 0; number < EACH; number++) post_letter(scene, writer, number);
    return NULL;
}

/* Listeners ---------------------------------------------------------------------------------- */

/* What a listener has heard: all positions in order, and each writer's messages in order. */
struct ear {
    ipcheap_endpoint *in;
    uint64_t heard, next[WRITERS];
    bool misses;
};

static struct ear new_ear(struct scene *scene, uint32_t flags) {
    struct ear ear = {.in = listen_to(scene->heap, &scene->first, 0, flags),
                      .misses = flags & IPCHEAP_LOSSY};
    atomic_fetch_add(&scene->count, 1);
    return ear;
}

static void note(struct ear *ear, uint64_t position, const void *data, uint64_t nbytes) {
    uint64_t writer, number = read_letter(data, nbytes, &writer);
    EXPECT(writer < WRITERS);
    EXPECT(ear->misses ? position >= ear->heard : position == ear->heard);
    EXPECT(ear->misses ? number >= ear->next[writer] : number == ear->next[writer]);
    ear->heard = position + 1;
    ear->next[writer] = number + 1;
}

/* Holds some messages for a while, and keeps some. */
static void *hear_and_hold(void *argument) {
    struct scene *scene = argument;
    struct ear ear = new_ear(scene, 0);
    ipcheap_record held[KEPT] = {0};
    while (ear.heard < ALL) {
        ipcheap_record *place = &held[ear.heard * ear.heard % KEPT];
        uint64_t writer;
        if (place->data) {
            read_letter(place->data, place->nbytes, &writer);
            EXPECT_EQ(ipcheap_free(scene->heap, place), 0);
        }
        EXPECT_EQ(ipcheap_receive(ear.in, place, long_enough), 0);
        note(&ear, place->position, place->data, place->nbytes);
        if (ear.heard % 5 == 0) EXPECT_EQ(ipcheap_keep(scene->heap, place), 0);
    }
    for (int i = 0; i < KEPT; i++)
        if (held[i].data) EXPECT_EQ(ipcheap_free(scene->heap, &held[i]), 0);
    ipcheap_endpoint_release(ear.in);
    return NULL;
}

static int note_copies(void *context, const ipcheap_bytes *records, size_t count) {
    struct ear *ear = context;
    for (size_t i = 0; i < count; i++) note(ear, ear->heard, records[i].data, records[i].nbytes);
    return 0;
}

static void *hear_copies(void *argument) {
    struct scene *scene = argument;
    struct ear ear = new_ear(scene, 0);
    EXPECT(ipcheap_endpoint_descriptor(ear.in) >= 0);
    while (ear.heard < ALL) {
        EXPECT(ipcheap_try_receive_copies(ear.in, note_copies, &ear, 20) >= 0);
        if (ear.heard < ALL) EXPECT_EQ(ipcheap_wait(ear.in, long_enough), 0);
    }
    ipcheap_endpoint_release(ear.in);
    return NULL;
}

/* Loses what it does not hear in time, and knows how much. */
static void *hear_some(void *argument) {
    struct scene *scene = argument;
    struct ear ear = new_ear(scene, IPCHEAP_LOSSY);
    ipcheap_listener_statistics s = {0};
    ipcheap_record message;
    while (s.received + s.lost < ALL) {
        int error = ipcheap_receive(ear.in, &message, 1000000);
        EXPECT(!error || error == IPCHEAP_TIMED_OUT);
        if (!error) {
            note(&ear, message.position, message.data, message.nbytes);
            EXPECT_EQ(ipcheap_free(scene->heap, &message), 0);
        }
        if (ear.heard % 50 == 0) usleep(100);
        EXPECT_EQ(ipcheap_listener_describe(ear.in, &s), 0);
        /* What it has lost since the last message counts already. */
        EXPECT(ear.heard <= s.received + s.lost);
    }
    ipcheap_endpoint_release(ear.in);
    return NULL;
}

/* Comes and goes, and frees after it has gone. */
static void *come_and_go(void *argument) {
    struct scene *scene = argument;
    ipcheap_record held[3];
    uint64_t writer;
    while (!atomic_load(&scene->stop)) {
        ipcheap_endpoint *in = listen_to(scene->heap, &scene->first, 4, 0);
        int count = 0;
        for (int i = 0; i < 6; i++) {
            ipcheap_record message;
            if (ipcheap_receive(in, &message, 1000000)) break;
            read_letter(message.data, message.nbytes, &writer);
            if (count < 3)
                held[count++] = message;
            else
                EXPECT_EQ(ipcheap_free(scene->heap, &message), 0);
        }
        EXPECT_EQ(ipcheap_endpoint_close(in), 0);
        if (count) EXPECT_EQ(ipcheap_free(scene->heap, &held[--count]), 0);
        ipcheap_endpoint_release(in);
        for (int i = 0; i < count; i++) {
            read_letter(held[i].data, held[i].nbytes, &writer);
            EXPECT_EQ(ipcheap_free(scene->heap, &held[i]), 0);
        }
    }
    return NULL;
}

/* Checks, counts and collects beside all that. */
static void *look_around(void *argument) {
    struct scene *scene = argument;
    while (!atomic_load(&scene->stop)) {
        ipcheap_bus_statistics found;
        ipcheap_listener_info info;
        ipcheap_holder holder;
        uint32_t cursor = 0;
        EXPECT(ipcheap_trim(scene->heap, 0) >= 0);
        EXPECT_EQ(ipcheap_bus_describe(scene->heap, &scene->first, &found), 0);
        EXPECT(found.waiting <= found.posted && found.listeners <= 8);
        while (ipcheap_next_listener(scene->heap, &scene->first, &cursor, &info) == 1) {}
        EXPECT(ipcheap_bus_blocker(scene->heap, &scene->first, 1, &holder) >= 0);
        statistics(scene->heap);
        expect_sound(scene->heap);
        usleep(2000);
    }
    return NULL;
}

static void finish(struct scene *scene) {
    EXPECT_EQ(remove_bus(scene->heap, BUS, 0), 0);
    expect_empty(scene);
}

/* Each of the listeners is there before the writers begin; `beside` goes on until they have ended. */
static void beside_writers(void *(*const ears[])(void *), void *(*beside)(void *),
                           const ipcheap_bus_options *options) {
    struct scene scene = new_bus(16 * MIB, options);
    pthread_t threads[8], writers[WRITERS], other;
    int count = 0;
    for (; ears[count]; count++) threads[count] = start(ears[count], &scene);
    await_count(&scene, (uint64_t)count);
    if (beside) other = start(beside, &scene);
    for (int i = 0; i < WRITERS; i++) writers[i] = start(post_all, &scene);
    for (int i = 0; i < WRITERS; i++) pthread_join(writers[i], NULL);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    atomic_store(&scene.stop, 1);
    if (beside) pthread_join(other, NULL);
    finish(&scene);
}

/* A slow listener is passed, and knows how much it lost. */
static void *hear_slowly(void *argument) {
    struct scene *scene = argument;
    struct ear ear = new_ear(scene, 0);
    uint64_t heard = 0, lost = 0;
    ear.misses = true;
    while (heard + lost < ALL) {
        ipcheap_record message;
        int error = ipcheap_receive(ear.in, &message, long_enough);
        if (error == IPCHEAP_MESSAGES_LOST) {
            lost += ipcheap_listener_lost(ear.in);
            continue;
        }
        EXPECT_EQ(error, 0);
        EXPECT_EQ(message.position, heard + lost);
        note(&ear, message.position, message.data, message.nbytes);
        heard++;
        EXPECT_EQ(ipcheap_free(scene->heap, &message), 0);
        if (heard % 100 == 0) usleep(3000);
    }
    ipcheap_endpoint_release(ear.in);
    return NULL;
}

/* Handing on --------------------------------------------------------------------------------- */

static void *free_or_keep_what_is_handed(void *argument) {
    struct scene *scene = argument;
    ipcheap_channel ring = record_channel(scene->heap, RING, 16);
    ipcheap_endpoint *out = claim(scene->heap, &ring, IPCHEAP_PRODUCER);
    uint64_t writer;
    for (uint64_t i = 0; i < EACH; i++) {
        await(&scene->turn, 1);
        EXPECT_EQ(read_letter(scene->handed.data, scene->handed.nbytes, &writer), i);
        if (i % 4 == 1) EXPECT_EQ(ipcheap_keep(scene->heap, &scene->handed), 0);
        if (i % 4 == 2)
            EXPECT_EQ(
                ipcheap_post_record(scene->heap, &scene->second, &scene->handed, long_enough, NULL),
                0);
        else if (i % 4 == 3)
            EXPECT_EQ(ipcheap_send(out, &scene->handed, long_enough), 0);
        else
            EXPECT_EQ(ipcheap_free(scene->heap, &scene->handed), 0);
        atomic_store(&scene->turn, 0);
    }
    ipcheap_endpoint_release(out);
    return NULL;
}

/* Another thread does with a listener's messages what may be done with them, while it goes on. */
static void another_thread_frees(bool shared) {
    static const ipcheap_bus_options plain;
    struct scene scene = new_bus(8 * MIB, &plain);
    add_bus(&scene, ECHO, &plain, &scene.second);
    ipcheap_channel ring = record_channel(scene.heap, RING, 16);
    ipcheap_endpoint *in = claim(scene.heap, &ring, IPCHEAP_CONSUMER);
    ipcheap_endpoint *listener = listen_to(scene.heap, &scene.first, 0, 0), *other = NULL;
    if (shared) other = listen_to(scene.heap, &scene.first, 0, 0);
    ipcheap_endpoint *echo = listen_to(scene.heap, &scene.second, 0, 0);
    pthread_t thread = start(free_or_keep_what_is_handed, &scene);
    ipcheap_record message;
    uint64_t writer;
    for (uint64_t i = 0; i < EACH; i++) {
        post_letter(&scene, 0, i);
        EXPECT_EQ(ipcheap_try_receive(listener, &scene.handed), 0);
        atomic_store(&scene.turn, 1);
        if (shared) {
            EXPECT_EQ(ipcheap_try_receive(other, &message), 0);
            EXPECT_EQ(read_letter(message.data, message.nbytes, &writer), i);
            EXPECT_EQ(ipcheap_free(scene.heap, &message), 0);
        }
        await(&scene.turn, 0);
        if (i % 4 < 2) continue;
        EXPECT_EQ(ipcheap_try_receive(i % 4 == 2 ? echo : in, &message), 0);
        EXPECT_EQ(read_letter(message.data, message.nbytes, &writer), i);
        EXPECT_EQ(ipcheap_free(scene.heap, &message), 0);
    }
    pthread_join(thread, NULL);
    ipcheap_endpoint_release(listener);
    if (other) ipcheap_endpoint_release(other);
    ipcheap_endpoint_release(echo);
    ipcheap_endpoint_release(in);
    EXPECT_EQ(remove_bus(scene.heap, ECHO, 0), 0);
    EXPECT_EQ(remove_bus(scene.heap, RING, 0), 0);
    finish(&scene);
}

/* Hears one bus, and posts what it hears to the other: without a copy if nobody else needs it. */
static void *pass_on(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *in = listen_to(scene->heap, &scene->first, 0, 0);
    atomic_fetch_add(&scene->count, 1);
    for (uint64_t i = 0; i < EACH; i++) {
        ipcheap_record message;
        EXPECT_EQ(ipcheap_receive(in, &message, long_enough), 0);
        EXPECT_EQ(ipcheap_post_record(scene->heap, &scene->second, &message, long_enough, NULL), 0);
    }
    ipcheap_endpoint_release(in);
    return NULL;
}

/* Two threads pass all messages on: each comes twice on the second bus, in either's order. */
static void messages_go_on(void) {
    static const ipcheap_bus_options plain;
    struct scene scene = new_bus(16 * MIB, &plain);
    add_bus(&scene, ECHO, &plain, &scene.second);
    ipcheap_endpoint *echo = listen_to(scene.heap, &scene.second, 0, 0);
    pthread_t threads[2] = {start(pass_on, &scene), start(pass_on, &scene)};
    await_count(&scene, 2);
    uint64_t times[EACH + 1] = {0}, heard = 0, posted = 0;
    while (heard < 2 * EACH) {
        ipcheap_record message;
        uint64_t writer;
        if (posted < EACH && posted < heard / 2 + 100) post_letter(&scene, 1, posted++);
        int error = ipcheap_receive(echo, &message, posted < EACH ? 0 : long_enough);
        if (error == IPCHEAP_TIMED_OUT) continue;
        EXPECT_EQ(error, 0);
        uint64_t number = read_letter(message.data, message.nbytes, &writer);
        EXPECT(number < posted && ++times[number] <= 2);
        EXPECT(number == 0 || times[number - 1] >= times[number]);
        EXPECT_EQ(ipcheap_free(scene.heap, &message), 0);
        heard++;
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    ipcheap_endpoint_release(echo);
    EXPECT_EQ(remove_bus(scene.heap, ECHO, 0), 0);
    finish(&scene);
}

/* Broadcasts --------------------------------------------------------------------------------- */

static _Atomic uint64_t released[2 * BROADCASTS + 1]; /* by its number: how many have released it */

/* Broadcasts have a number each, in the order of their positions; other messages have none. */
static void *broadcast_all(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < BROADCASTS; i++) {
        ipcheap_broadcast_report report;
        EXPECT_EQ(
            ipcheap_broadcast_bytes(scene->heap, &scene->first, "b", 1, long_enough, 0, &report),
            0);
        EXPECT_EQ(report.listeners, CROWD);
        EXPECT_EQ(report.released + report.gone, CROWD); /* after the last one they close */
        if (i < BROADCASTS / 2) EXPECT_EQ(report.gone, 0);
    }
    return NULL;
}

static void *post_beside_broadcasts(void *argument) {
    struct scene *scene = argument;
    for (int i = 0; i < BROADCASTS; i++)
        EXPECT_EQ(ipcheap_post(scene->heap, &scene->first, "post", 4, long_enough, NULL), 0);
    ipcheap_broadcast_report report;
    EXPECT_EQ(ipcheap_drain(scene->heap, &scene->first, long_enough, &report), 0);
    EXPECT_EQ(report.slow, 0);
    return NULL;
}

/* Nobody receives a broadcast before all have released the one before. */
static void *take_turns(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *in = listen_to(scene->heap, &scene->first, 0, 0);
    atomic_fetch_add(&scene->count, 1);
    uint64_t number = 0;
    for (uint64_t i = 0; i < 3 * BROADCASTS; i++) {
        ipcheap_record message;
        EXPECT_EQ(ipcheap_receive(in, &message, long_enough), 0);
        EXPECT_EQ(message.position, i);
        if (message.nbytes == 1) {
            if (number) EXPECT_EQ(atomic_load(&released[number - 1]), CROWD);
            atomic_fetch_add(&released[number++], 1);
            if (i % 3 == 0) EXPECT_EQ(ipcheap_keep(scene->heap, &message), 0);
        }
        EXPECT_EQ(ipcheap_free(scene->heap, &message), 0);
    }
    EXPECT_EQ(number, 2 * BROADCASTS);
    ipcheap_endpoint_release(in);
    return NULL;
}

static void broadcasts_take_turns(void) {
    static const ipcheap_bus_options plain = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 16};
    struct scene scene = new_bus(4 * MIB, &plain);
    pthread_t ears[CROWD], writers[3];
    for (int i = 0; i < CROWD; i++) ears[i] = start(take_turns, &scene);
    await_count(&scene, CROWD);
    writers[0] = start(broadcast_all, &scene);
    writers[1] = start(broadcast_all, &scene);
    writers[2] = start(post_beside_broadcasts, &scene);
    for (int i = 0; i < 3; i++) pthread_join(writers[i], NULL);
    for (int i = 0; i < CROWD; i++) pthread_join(ears[i], NULL);
    finish(&scene);
}

/* Ends --------------------------------------------------------------------------------------- */

static void *post_until_removed(void *argument) {
    struct scene *scene = argument;
    for (uint64_t number = 0;; number++) {
        unsigned char bytes[40000];
        ipcheap_broadcast_report report;
        uint64_t nbytes = letter(bytes, 0, number);
        int error = number % 8 == 5 ? ipcheap_broadcast_bytes(scene->heap, &scene->first, bytes,
                                                              nbytes, long_enough, 0, &report)
                                    : ipcheap_post(scene->heap, &scene->first, bytes, nbytes,
                                                   long_enough, NULL);
        if (error == IPCHEAP_CHANNEL_NOT_FOUND) return NULL;
        EXPECT_EQ(error, 0);
    }
}

/* What it holds as the bus is removed stays as it is. */
static void *hear_until_removed(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *in = listen_to(scene->heap, &scene->first, 0, 0);
    ipcheap_record held[4] = {0};
    uint64_t heard = 0, first = 0, writer;
    int error;
    atomic_fetch_add(&scene->count, 1);
    for (;; heard++) {
        ipcheap_record *place = &held[heard % 4];
        if (place->data) {
            EXPECT_EQ(read_letter(place->data, place->nbytes, &writer), first + heard - 4);
            EXPECT_EQ(ipcheap_free(scene->heap, place), 0);
        }
        error = ipcheap_receive(in, place, long_enough);
        if (error) break;
        if (heard == 0) first = place->position;
        EXPECT_EQ(place->position, first + heard);
        /* A broadcast would wait for it. */
        if (place->position % 8 == 5) EXPECT_EQ(ipcheap_keep(scene->heap, place), 0);
        if (heard == 20) atomic_fetch_add(&scene->turn, 1);
    }
    EXPECT_EQ(error, IPCHEAP_ENDPOINT_CLOSED);
    if (atomic_load(&scene->stop)) ipcheap_endpoint_release(in);
    for (uint64_t i = 0; i < 4; i++) {
        if (!held[i].data || i == heard % 4) continue;
        EXPECT_EQ((read_letter(held[i].data, held[i].nbytes, &writer) - first) % 4, i);
        EXPECT_EQ(ipcheap_free(scene->heap, &held[i]), 0);
    }
    if (!atomic_load(&scene->stop)) ipcheap_endpoint_release(in);
    return NULL;
}

static void a_bus_is_removed(void) {
    static const ipcheap_bus_options plain = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 16};
    struct scene scene = new_bus(8 * MIB, &plain);
    for (int round = 0; round < REMOVALS; round++) {
        pthread_t threads[4];
        if (round) add_bus(&scene, BUS, &plain, &scene.first);
        atomic_store(&scene.stop, round % 2);
        atomic_store(&scene.turn, 0);
        atomic_store(&scene.count, 0);
        for (int i = 0; i < 2; i++) threads[i] = start(hear_until_removed, &scene);
        await_count(&scene, 2);
        for (int i = 2; i < 4; i++)
            threads[i] = start(i == 2 ? post_until_removed : hear_until_removed, &scene);
        await_count(&scene, 3);
        while (atomic_load(&scene.turn) < 2) usleep(100);
        EXPECT_EQ(remove_bus(scene.heap, BUS, 1), 0);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        EXPECT_EQ(statistics(scene.heap).in_use, 0);
        expect_sound(scene.heap);
    }
    expect_empty(&scene);
}

/* Receives until another thread has closed the heap; what it holds then, it frees later. */
static void *hear_until_closed(void *argument) {
    struct scene *scene = argument;
    ipcheap_endpoint *in = listen_to(scene->heap, &scene->first, 0, 0);
    ipcheap_record held[4] = {0};
    uint64_t writer;
    atomic_store(&scene->turn, 1);
    for (uint64_t n = 0;; n++) {
        ipcheap_record *place = &held[n % 4];
        if (ipcheap_endpoint_enter(in)) break;
        if (place->data) EXPECT_EQ(ipcheap_free(scene->heap, place), 0);
        int error = ipcheap_receive(in, place, long_enough);
        if (error) EXPECT(error == IPCHEAP_ENDPOINT_CLOSED || error == IPCHEAP_HEAP_CLOSED);
        if (n == 10) atomic_store(&scene->turn, 2);
        if (ipcheap_endpoint_leave(in)) break;
    }
    for (int i = 0; i < 4; i++) {
        if (!held[i].data) continue;
        read_letter(held[i].data, held[i].nbytes, &writer);
        EXPECT_EQ(ipcheap_free(scene->heap, &held[i]), 0);
    }
    ipcheap_endpoint_release(in);
    return NULL;
}

static void *post_for_a_while(void *argument) {
    struct scene *scene = argument;
    for (uint64_t number = 0; !atomic_load(&scene->stop); number++) post_letter(scene, 2, number);
    return NULL;
}

/* Whatever the listener's thread is doing as its heap is closed, writers go on and nothing is left. */
static void another_thread_closes(void) {
    int fd = new_segment(8 * MIB);
    static const ipcheap_bus_options plain = {.given = IPCHEAP_BUS_CAPACITY, .capacity = 16};
    struct scene outside = {.heap = attach(fd)};
    add_bus(&outside, BUS, &plain, &outside.first);
    pthread_t writer = start(post_for_a_while, &outside);
    for (int round = 0; round < CLOSINGS; round++) {
        struct scene scene = {.heap = attach(fd), .first = outside.first};
        pthread_t thread = start(hear_until_closed, &scene);
        await(&scene.turn, 2);
        EXPECT_EQ(ipcheap_close(scene.heap), 0);
        pthread_join(thread, NULL);
        ipcheap_release(scene.heap);
        ipcheap_bus_statistics found;
        EXPECT_EQ(ipcheap_bus_describe(outside.heap, &outside.first, &found), 0);
        EXPECT_EQ(found.listeners, 0);
        expect_sound(outside.heap);
    }
    atomic_store(&outside.stop, 1);
    pthread_join(writer, NULL);
    finish(&outside);
    close(fd);
}

int main(void) {
    static const ipcheap_bus_options plain,
        remembering = {.given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_HISTORY,
                       .capacity = 64,
                       .history = 8},
        patient = {.given = IPCHEAP_BUS_CAPACITY | IPCHEAP_BUS_PATIENCE,
                   .capacity = 32,
                   .patience_ns = 1000000};
    beside_writers((void *(*[])(void *)){hear_and_hold, hear_copies, NULL}, look_around, &plain);
    beside_writers((void *(*[])(void *)){hear_and_hold, hear_some, NULL}, come_and_go,
                   &remembering);
    beside_writers((void *(*[])(void *)){hear_slowly, NULL}, NULL, &patient);
    another_thread_frees(false);
    another_thread_frees(true);
    messages_go_on();
    broadcasts_take_turns();
    a_bus_is_removed();
    another_thread_closes();
}
