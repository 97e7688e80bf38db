/* Stores whose writers and readers stop, die, fork, sleep or find corrupt bytes. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "store/tables.h"
#include "testing.h"

enum { STORE = 5 };

struct shop {
    ipcheap_heap *heap;
    ipcheap_channel channel;
    ipcheap_endpoint *writer, *reader;
};

static ipcheap_store_key number(uint64_t value) {
    ipcheap_store_key key;
    EXPECT_EQ(ipcheap_store_key_int(&key, value), 0);
    return key;
}

static struct shop open_shop(ipcheap_heap *heap, const ipcheap_store_options *options) {
    struct shop s = {.heap = heap};
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, STORE), 0);
    EXPECT_EQ(ipcheap_add_store(heap, &key, options, &s.channel), 0);
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    s.reader = claim(heap, &s.channel, IPCHEAP_READER);
    return s;
}

static struct shop plain_shop(ipcheap_heap *heap) {
    static const ipcheap_store_options none;
    return open_shop(heap, &none);
}

static int remove_store(ipcheap_heap *heap, int force) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, STORE), 0);
    return ipcheap_remove_channel(heap, &key, force);
}

static void close_shop(struct shop *s) {
    if (s->writer) ipcheap_endpoint_release(s->writer);
    if (s->reader) ipcheap_endpoint_release(s->reader);
    EXPECT_EQ(remove_store(s->heap, 0), 0);
    expect_sound(s->heap);
    EXPECT_EQ(statistics(s->heap).in_use, 0);
}

static ipcheap_store_statistics numbers(const struct shop *s) {
    ipcheap_store_statistics found;
    EXPECT_EQ(ipcheap_store_describe(s->heap, &s->channel, &found), 0);
    return found;
}

static int put_number(const struct shop *s, uint64_t at, uint64_t value) {
    ipcheap_store_key key = number(at);
    return ipcheap_store_put(s->writer, &key, &value, sizeof value, 0, NULL);
}

static int get_number(const struct shop *s, uint64_t at, uint64_t *value) {
    ipcheap_store_key key = number(at);
    ipcheap_chunk chunk;
    int there = ipcheap_store_get(s->reader, &key, 0, &chunk);
    if (there != 1) return there;
    EXPECT_EQ(chunk.nbytes, sizeof *value);
    memcpy(value, chunk.data, sizeof *value);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    return 1;
}

/* Readers that stop, and sleep ------------------------------------------------------------------ */

static ipcheap_endpoint *reader_of(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, STORE), 0);
    EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
    return claim(heap, &channel, IPCHEAP_READER);
}

static void hold_and_stop(ipcheap_heap *heap) {
    ipcheap_endpoint *reader = reader_of(heap);
    ipcheap_chunk chunks[3], copy[3];
    for (uint64_t key = 0; key < 3; key++) {
        ipcheap_store_key of = number(key);
        EXPECT_EQ(ipcheap_store_get(reader, &of, 0, &chunks[key]), 1);
        copy[key] = chunks[key];
    }
    raise(SIGSTOP);
    for (uint64_t key = 0; key < 3; key++) {
        EXPECT_EQ(*(const uint64_t *)copy[key].data, 100 + key);
        EXPECT_EQ(ipcheap_chunk_release(&chunks[key]), 0);
    }
    ipcheap_endpoint_release(reader);
}

static void a_stopped_reader_stops_nobody(ipcheap_heap *heap, int fd) {
    struct shop s = plain_shop(heap);
    int status;
    for (uint64_t key = 0; key < 3; key++) EXPECT_EQ(put_number(&s, key, 100 + key), 0);
    pid_t peer = run_peer(fd, hold_and_stop);
    EXPECT_EQ(waitpid(peer, &status, WUNTRACED), peer);
    EXPECT(WIFSTOPPED(status));
    for (uint64_t i = 0; i < 10000; i++) EXPECT_EQ(put_number(&s, i % 5, i), 0);
    EXPECT_EQ(ipcheap_store_collect(s.writer) >= 0, 1);
    EXPECT_EQ(numbers(&s).dead, 3);
    EXPECT_EQ(numbers(&s).held, 3);
    EXPECT(numbers(&s).slots <= 192);
    ipcheap_store_reader_info blocker;
    EXPECT_EQ(ipcheap_store_blocker(heap, &s.channel, &blocker), 1);
    EXPECT_EQ(blocker.holder.pid, (uint32_t)peer);
    EXPECT_EQ(blocker.dead, 3);
    EXPECT_EQ(blocker.dead_bytes, 24);
    ipcheap_store_hold holds[4];
    EXPECT_EQ(ipcheap_store_holds(heap, &s.channel, blocker.number, holds, 4), 3);
    for (int i = 0; i < 3; i++) EXPECT(!holds[i].live && holds[i].version <= 3);
    kill(peer, SIGCONT);
    expect_success(peer);
    EXPECT_EQ(ipcheap_store_collect(s.writer), 24);
    close_shop(&s);
}

static void sleep_until_removed(ipcheap_heap *heap) {
    ipcheap_endpoint *reader = reader_of(heap), *other = reader_of(heap);
    ipcheap_store_key key = number(1);
    ipcheap_chunk chunk;
    ipcheap_waitable both[2] = {{.endpoint = reader}, {.endpoint = other}};
    EXPECT_EQ(ipcheap_wait(reader, -1), 0);
    EXPECT_EQ(ipcheap_store_next(reader, &chunk), IPCHEAP_PEER_DIED);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, 0, -1, &chunk), IPCHEAP_PEER_DIED);
    EXPECT_EQ(ipcheap_wait_peer(reader, -1), 0); /* another writer cancels it */
    EXPECT_EQ(ipcheap_store_next(reader, &chunk), IPCHEAP_WOULD_BLOCK);
    EXPECT_EQ(ipcheap_store_wait_for(reader, &key, 0, -1, &chunk), 0);
    EXPECT_EQ(ipcheap_store_seek(reader, UINT64_MAX, NULL), 0);
    EXPECT_EQ(ipcheap_store_seek(other, UINT64_MAX, NULL), 0);
    EXPECT(ipcheap_wait_any(both, 2, -1) >= 1); /* it is removed */
    EXPECT_EQ(ipcheap_store_next(reader, &chunk), IPCHEAP_ENDPOINT_CLOSED);
    EXPECT_EQ(ipcheap_store_get(other, &key, 0, &chunk), IPCHEAP_ENDPOINT_CLOSED);
    ipcheap_endpoint_release(other);
    ipcheap_endpoint_release(reader);
}

static void die_as_writer(ipcheap_heap *heap) {
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, STORE), 0);
    EXPECT_EQ(ipcheap_find_channel(heap, &key, &channel), 0);
    struct shop s = {.heap = heap, .channel = channel};
    s.writer = claim(heap, &channel, IPCHEAP_WRITER);
    EXPECT_EQ(ipcheap_wait_peer(s.writer, -1), 0);
    usleep(20000);
    EXPECT_EQ(ipcheap_store_begin(s.writer), 0);
    EXPECT_EQ(put_number(&s, 1, 1), 0);
    raise(SIGKILL);
}

static void wait_until_asleep(const struct shop *s, uint32_t readers) {
    for (;;) {
        ipcheap_store_reader_info info;
        uint32_t cursor = 0, asleep = 0;
        while (ipcheap_store_next_reader(s->heap, &s->channel, &cursor, &info) == 1)
            asleep += info.state != 0;
        if (asleep >= readers) return;
        usleep(1000);
    }
}

static void sleepers_wake_for_ends_claims_and_removal(ipcheap_heap *heap, int fd) {
    struct shop s = plain_shop(heap);
    int status;
    ipcheap_endpoint_release(s.writer);
    ipcheap_endpoint_release(s.reader);
    pid_t writer = run_peer(fd, die_as_writer);
    ipcheap_holder holder;
    while (ipcheap_side_holder(heap, &s.channel, IPCHEAP_WRITER, &holder) != 1) usleep(1000);
    pid_t reader = run_peer(fd, sleep_until_removed);
    EXPECT_EQ(waitpid(writer, &status, 0), writer);
    EXPECT(WIFSIGNALED(status));
    usleep(700000); /* sleepers look after their peer themselves */
    s.writer = claim(heap, &s.channel, IPCHEAP_WRITER);
    wait_until_asleep(&s, 1);
    EXPECT_EQ(put_number(&s, 1, 7), 0);
    wait_until_asleep(&s, 2);
    EXPECT_EQ(remove_store(heap, 1), 0);
    expect_success(reader);
    EXPECT_EQ(put_number(&s, 1, 7), IPCHEAP_ENDPOINT_CLOSED);
    ipcheap_endpoint_release(s.writer);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    expect_sound(heap);
    EXPECT_EQ(statistics(heap).in_use, 0);
}

/* A child of fork() ----------------------------------------------------------------------------- */

static void a_forked_child_is_refused(ipcheap_heap *heap) {
    struct shop s = plain_shop(heap);
    ipcheap_store_key key = number(1);
    ipcheap_chunk chunk, more;
    EXPECT_EQ(put_number(&s, 1, 1), 0);
    EXPECT_EQ(ipcheap_store_get(s.reader, &key, 0, &chunk), 1);
    pid_t pid = fork_child();
    if (pid == 0) {
        EXPECT_EQ(put_number(&s, 1, 2), IPCHEAP_WRONG_PROCESS);
        EXPECT_EQ(ipcheap_store_get(s.reader, &key, 0, &more), IPCHEAP_WRONG_PROCESS);
        EXPECT_EQ(ipcheap_store_next(s.reader, &more), IPCHEAP_WRONG_PROCESS);
        EXPECT_EQ(ipcheap_store_wait_for(s.reader, &key, 5, 0, &more), IPCHEAP_WRONG_PROCESS);
        EXPECT_EQ(ipcheap_store_begin(s.writer), IPCHEAP_WRONG_PROCESS);
        ipcheap_endpoint_release(s.reader);
        EXPECT_EQ(ipcheap_chunk_release(&chunk), IPCHEAP_WRONG_PROCESS);
        ipcheap_endpoint_release(s.writer);
        /* Endpoints of its own are another matter. */
        struct shop own = {.heap = heap, .channel = s.channel};
        uint64_t value = 0;
        own.reader = claim(heap, &s.channel, IPCHEAP_READER);
        EXPECT_EQ(get_number(&own, 1, &value), 1);
        EXPECT_EQ(value, 1);
        ipcheap_endpoint_release(own.reader);
        _exit(0);
    }
    expect_success(pid);
    EXPECT_EQ(*(const uint64_t *)chunk.data, 1);
    EXPECT_EQ(put_number(&s, 1, 3), 0);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    close_shop(&s);
}

/* What calls cost ------------------------------------------------------------------------------ */

#ifndef __SANITIZE_ADDRESS__

/* From here on a system call is the end of this process, except those that end it or tell the time. */
static void forbid_system_calls(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    EXPECT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) _exit(77);
}

static void use_it_all(const struct shop *s) {
    ipcheap_store_key keys[8];
    ipcheap_chunk chunks[8];
    ipcheap_store_entry entries[16];
    uint64_t value;
    for (uint64_t i = 0; i < 8; i++) keys[i] = number(i);
    for (uint64_t i = 0; i < 40; i++) {
        EXPECT_EQ(put_number(s, i % 8, i), 0);
        EXPECT_EQ(get_number(s, i % 8, &value), 1);
        EXPECT_EQ(value, i);
        EXPECT_EQ(ipcheap_store_next(s->reader, chunks), 0);
        EXPECT_EQ(ipcheap_chunk_release(chunks), 0);
    }
    EXPECT_EQ(ipcheap_store_get_many(s->reader, keys, 8, chunks), 8);
    for (int i = 0; i < 8; i++) EXPECT_EQ(ipcheap_chunk_release(&chunks[i]), 0);
    EXPECT_EQ(ipcheap_store_keys(s->reader, entries, 16), 8);
    EXPECT_EQ(ipcheap_store_delete(s->writer, &keys[3], NULL), 1);
    EXPECT_EQ(ipcheap_store_begin(s->writer), 0);
    EXPECT_EQ(put_number(s, 1, 1), 0);
    EXPECT_EQ(put_number(s, 3, 1), 0);
    EXPECT_EQ(ipcheap_store_commit(s->writer, NULL), 0);
}

static void nothing_enters_the_kernel_while_nobody_sleeps(int fd) {
    int status;
    pid_t pid = fork_child();
    if (pid == 0) {
        ipcheap_heap *heap = attach(fd);
        static const ipcheap_store_options options;
        struct shop s = open_shop(heap, &options);
        use_it_all(&s); /* has its slabs and its lists from now on */
        EXPECT(ipcheap_store_collect(s.writer) >= 0);
        EXPECT_EQ(ipcheap_store_seek(s.reader, UINT64_MAX, NULL), 0);
        forbid_system_calls();
        use_it_all(&s);
        _exit(0);
    }
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
    ipcheap_heap *heap = attach(fd);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(remove_store(heap, 0), 0);
    ipcheap_release(heap);
}

#endif

/* Corrupt bytes ------------------------------------------------------------------------------- */

static int count_faults(ipcheap_heap *heap) { return ipcheap_check(heap, NULL, NULL); }

/* Changes a word, expects that check() reports it, and restores the word. */
static void expect_reported(ipcheap_heap *heap, shared64 *word, uint64_t value) {
    uint64_t right = get(word);
    EXPECT(right != value);
    put(word, value);
    EXPECT(count_faults(heap) > 0);
    put(word, right);
    expect_sound(heap);
}

static void check_reports_what_is_wrong(ipcheap_heap *heap) {
    ipcheap_store_options options = {.given = IPCHEAP_GIVEN_DEPTH, .depth = 2};
    struct shop s = open_shop(heap, &options);
    struct store store;
    ipcheap_store_key one = number(1);
    ipcheap_chunk chunk;
    for (uint64_t i = 0; i < 12; i++) EXPECT_EQ(put_number(&s, i % 4, i), 0);
    EXPECT_EQ(ipcheap_store_get(s.reader, &one, 0, &chunk), 1);
    EXPECT(ipcheap_store_collect(s.writer) >= 0);
    EXPECT(store_view(heap, s.channel.index, &store));
    uint32_t slot = 0;
    while (chunk_state(get(&chunk_slot(&store, slot)->word)) != CHUNK_LIVE) slot++;
    struct store_slot *live = chunk_slot(&store, slot);
    uint64_t word = get(&live->word), version = chunk_version(word);
    expect_reported(heap, &live->word, chunk_word((enum chunk_state)7, version));
    expect_reported(heap, &live->word, chunk_word(CHUNK_LIVE, version + 1000));
    expect_reported(heap, &live->word, chunk_word(CHUNK_LIVE, version == 12 ? 11 : version + 1));
    expect_reported(heap, &live->word, chunk_word(CHUNK_FREE, 0));
    expect_reported(heap, &live->offset, get(&live->offset) + 64);
    expect_reported(heap, &live->offset, heap->geometry.bytes);
    expect_reported(heap, &live->size, UINT64_C(1) << 30);
    expect_reported(heap, &live->hash, get(&live->hash) + 1);
    uint64_t cell = 0;
    while ((uint32_t)get(&store.cells[cell].word) == 0) cell++;
    expect_reported(heap, &store.cells[cell].word, 0);
    expect_reported(heap, &store.cells[cell].word, get(&store.cells[cell].word) + 1000);
    expect_reported(heap, &store.log[12 & store.log_mask], 12);
    expect_reported(heap, &store.root->head, 3);
    expect_reported(heap, store_holds_at(&store, 0) + 1, 100000);
    EXPECT_EQ(ipcheap_chunk_release(&chunk), 0);
    close_shop(&s);
}

static void what_leads_astray_poisons_the_store(ipcheap_heap *heap) {
    struct shop s = plain_shop(heap);
    struct store store;
    uint64_t value;
    ipcheap_chunk chunk;
    for (uint64_t i = 0; i < 4; i++) EXPECT_EQ(put_number(&s, i, i), 0);
    EXPECT(store_view(heap, s.channel.index, &store));
    for (uint32_t slot = 0; slot < 4; slot++)
        put(&chunk_slot(&store, slot)->word, chunk_word(CHUNK_FREE, 0));
    EXPECT_EQ(get_number(&s, 1, &value), IPCHEAP_CORRUPT);
    EXPECT_EQ(get_number(&s, 2, &value), IPCHEAP_CORRUPT);
    EXPECT_EQ(put_number(&s, 9, 9), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_store_next(s.reader, &chunk), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_store_wait_for(s.reader, &(ipcheap_store_key){.kind = 1, .length = 8}, 0, -1,
                                     &chunk),
              IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_wait(s.reader, -1), 0); /* there is an end to report */
    ipcheap_endpoint *other;
    EXPECT_EQ(ipcheap_claim(heap, &s.channel, IPCHEAP_READER, &other), IPCHEAP_CORRUPT);
    ipcheap_endpoint_release(s.writer);
    ipcheap_endpoint_release(s.reader);
    EXPECT_EQ(remove_store(heap, 0), 0);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
}

int main(void) {
    int fd = new_segment(8 * MIB);
    ipcheap_heap *heap = attach(fd);
    a_stopped_reader_stops_nobody(heap, fd);
    sleepers_wake_for_ends_claims_and_removal(heap, fd);
    a_forked_child_is_refused(heap);
#ifndef __SANITIZE_ADDRESS__ /* which makes system calls of its own */
    nothing_enters_the_kernel_while_nobody_sleeps(fd);
#endif
    check_reports_what_is_wrong(heap);
    what_leads_astray_poisons_the_store(heap);
    ipcheap_release(heap);
    close(fd);
}
