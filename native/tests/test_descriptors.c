/* Descriptors that the program closes, and handles that share a heap in one process. */

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "base/pipe.h"
#include "segment/file.h"
#include "segment/participant.h"
#include "testing.h"

enum { LAST = 64, BYTES = 1 << 16 };

static char path[64];

/* A file with a name that holds a fresh heap. */
static int new_file(void) {
    snprintf(path, sizeof path, "/dev/shm/ipcheap-test-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    ipcheap_options options = {.capacity = 16 * MIB, .shm_kind = IPCHEAP_SHM_FILE};
    EXPECT_EQ(ipcheap_format(fd, -1, &options), 0);
    return fd;
}

/* Closes all descriptors, as a daemon does, and gives their numbers to files of the program. */
static void take_numbers(void) {
    static char content[BYTES];
    memset(content, 'p', BYTES);
    EXPECT_EQ(close_range(3, ~0U, 0), 0);
    for (int fd = 3; fd < LAST; fd++) {
        EXPECT_EQ(memfd_create("the program's", 0), fd);
        EXPECT_EQ(write(fd, content, BYTES), BYTES);
    }
}

static void expect_untouched(void) {
    static char content[BYTES + 1];
    for (int fd = 3; fd < LAST; fd++) {
        struct stat status;
        EXPECT_EQ(fstat(fd, &status), 0);
        EXPECT_EQ(status.st_size, BYTES);
        EXPECT_EQ(lseek(fd, 0, SEEK_CUR), BYTES);
        EXPECT_EQ(pread(fd, content, BYTES + 1, 0), BYTES);
        for (int i = 0; i < BYTES; i++) EXPECT_EQ(content[i], 'p');
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        EXPECT_EQ(fcntl(fd, F_OFD_GETLK, &lock), 0);
        EXPECT_EQ(lock.l_type, F_UNLCK);
    }
}

static void send_and_receive(struct pair *p, ipcheap_heap *heap, uint64_t nbytes) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
    memset(record.data, 7, nbytes);
    EXPECT_EQ(ipcheap_try_send(p->out, &record), 0);
    EXPECT_EQ(ipcheap_try_receive(p->in, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
}

static void *use_in_thread(void *heap) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    return NULL;
}

static void in_a_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, NULL, body, argument), 0);
    EXPECT_EQ(pthread_join(thread, NULL), 0);
}

/* Returns how many participants others see alive, through the file's path. */
static uint32_t seen_alive(bool *is_open) {
    ipcheap_heap_info info;
    int fd = open(path, O_RDWR);
    EXPECT_EQ(ipcheap_inspect(fd, -1, &info), 0);
    close(fd);
    *is_open = info.open;
    return info.participants;
}

static void a_heap_goes_on_when_its_descriptors_are_closed(void) {
    int fd = new_file();
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 8);
    bool is_open;
    EXPECT(ipcheap_endpoint_descriptor(p.in) > 2);
    take_numbers();
    EXPECT_EQ(seen_alive(&is_open), 1);
    EXPECT(is_open);
    send_and_receive(&p, heap, 100);
    send_and_receive(&p, heap, 3 * MIB);
    EXPECT(ipcheap_trim(heap, 0) >= 0);
    in_a_thread(use_in_thread, heap);
    int bell = ipcheap_endpoint_descriptor(p.in);
    EXPECT(bell >= LAST);
    send_and_receive(&p, heap, 100);
    expect_sound(heap);
    EXPECT_EQ(seen_alive(&is_open), 1);
    pair_release(&p);
    ipcheap_release(heap);
    EXPECT_EQ(seen_alive(&is_open), 0);
    EXPECT(!is_open);
    expect_untouched();
    EXPECT_EQ(fcntl(LAST, F_GETFD), -1);
    EXPECT_EQ(unlink(path), 0);
}

static void a_file_that_is_not_the_heaps_is_not_taken_for_it(void) {
    int fd = new_file();
    ipcheap_heap *heap = attach(fd);
    EXPECT_EQ(unlink(path), 0);
    close(new_file()); /* a heap, but another one */
    take_numbers();
    ipcheap_record record = {0};
    int file = ipcheap_heap_file(heap);
    if (file < 0) { /* without the privilege to open what is mapped */
        EXPECT_EQ(file, IPCHEAP_DESCRIPTOR_LOST);
        EXPECT_EQ(ipcheap_allocate(heap, 8 * MIB, &record), IPCHEAP_DESCRIPTOR_LOST);
    } else {
        struct stat theirs, ours;
        EXPECT_EQ(stat(path, &theirs), 0);
        EXPECT_EQ(fstat(file, &ours), 0);
        EXPECT(theirs.st_ino != ours.st_ino);
    }
    ipcheap_release(heap);
    expect_untouched();
    EXPECT_EQ(unlink(path), 0);
}

/* As on a file system that maps another file: the lock goes with the descriptor. */
static void participants_whose_lock_is_lost_refuse_every_call(void) {
    int fd = new_file();
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 8);
    ipcheap_record held, record;
    EXPECT_EQ(ipcheap_allocate(heap, 100, &held), 0);
    os_let_go(&heap->live.hold);
    take_numbers();
    bool is_open;
    EXPECT_EQ(seen_alive(&is_open), 0);
    in_a_thread(use_in_thread, heap);
    EXPECT_EQ(ipcheap_try_receive(p.in, &record), IPCHEAP_DESCRIPTOR_LOST);
    EXPECT_EQ(ipcheap_free(heap, &held), IPCHEAP_DESCRIPTOR_LOST);
    pair_release(&p);
    ipcheap_endpoint *again = claim(heap, &p.channel, IPCHEAP_CONSUMER);
    EXPECT_EQ(ipcheap_try_receive(again, &record), IPCHEAP_PEER_DIED);
    ipcheap_endpoint_release(again);
    ipcheap_recovery report;
    EXPECT_EQ(ipcheap_recover(heap, &report), 0);
    EXPECT_EQ(statistics(heap).records, 0);
    expect_sound(heap);
    ipcheap_release(heap);
    expect_untouched();
    EXPECT_EQ(unlink(path), 0);
}

static void a_poller_of_the_programs_is_not_closed(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 8);
    int bell = ipcheap_endpoint_descriptor(p.in);
    EXPECT(bell > 2);
    int end[2];
    EXPECT_EQ(pipe(end), 0);
    int poller = epoll_create1(0); /* the same kind of thing under the same number */
    EXPECT_EQ(dup2(poller, bell), bell);
    struct epoll_event event = {.events = EPOLLOUT};
    EXPECT_EQ(epoll_ctl(bell, EPOLL_CTL_ADD, end[1], &event), 0);
    EXPECT(ipcheap_endpoint_descriptor(p.in) != bell);
    send_and_receive(&p, heap, 100);
    pair_release(&p);
    ipcheap_release(heap);
    EXPECT_EQ(epoll_wait(bell, &event, 1, 0), 1);
    EXPECT_EQ(event.events, EPOLLOUT);
    close(fd);
}

/* Two handles of one process ---------------------------------------------------------------- */

/* Sends records of one handle on a channel of the other, and back. */
static void exchange(uint64_t nbytes, bool received) {
    int fd = new_segment(16 * MIB);
    ipcheap_heap *one = attach(fd), *other = attach(fd);
    EXPECT_EQ(ipcheap_same(one, other), 1);
    struct pair in = pair_of(one, 1, 4), out = pair_of(other, 2, 4);
    for (unsigned char i = 0; i < 20; i++) {
        ipcheap_record record;
        EXPECT_EQ(ipcheap_allocate(one, nbytes, &record), 0);
        memset(record.data, i, nbytes);
        if (received) {
            EXPECT_EQ(ipcheap_try_send(in.out, &record), 0);
            EXPECT_EQ(ipcheap_try_receive(in.in, &record), 0);
        }
        EXPECT_EQ(ipcheap_try_send(out.out, &record), IPCHEAP_RECORD);
        EXPECT_EQ(ipcheap_adopt(other, one, &record), 0);
        EXPECT_EQ(ipcheap_free(one, &record), IPCHEAP_RECORD);
        if (i % 3 == 0) {
            EXPECT_EQ(ipcheap_free(other, &record), 0);
            continue;
        }
        if (i % 3 == 1) { /* and back */
            EXPECT_EQ(ipcheap_adopt(one, other, &record), 0);
            EXPECT_EQ(ipcheap_adopt(other, one, &record), 0);
        }
        EXPECT_EQ(ipcheap_try_send(out.out, &record), 0);
        EXPECT_EQ(ipcheap_try_receive(out.in, &record), 0);
        EXPECT_EQ(record.nbytes, nbytes);
        for (uint64_t k = 0; k < nbytes; k++) EXPECT_EQ(((unsigned char *)record.data)[k], i);
        EXPECT_EQ(ipcheap_free(other, &record), 0);
    }
    expect_sound(one);
    pair_release(&in);
    pair_release(&out);
    EXPECT_EQ(statistics(one).records, 0);
    EXPECT_EQ(statistics(other).in_use, 0);
    ipcheap_release(one);
    expect_sound(other);
    ipcheap_release(other);
    close(fd);
}

static void handles_of_one_process_exchange_records(void) {
    exchange(64, false);
    exchange(64, true);
    exchange(100000, false);
    exchange(100000, true);
}

static void handles_on_different_heaps_do_not(void) {
    int fd = new_segment(MIB), another = new_segment(MIB);
    ipcheap_heap *one = attach(fd), *other = attach(another);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(one, 64, &record), 0);
    EXPECT_EQ(ipcheap_same(one, other), 0);
    EXPECT_EQ(ipcheap_adopt(other, one, &record), IPCHEAP_RECORD);
    EXPECT_EQ(ipcheap_free(one, &record), 0);
    ipcheap_release(one);
    ipcheap_release(other);
    close(fd);
    close(another);
}

/* Each in a child, which loses its descriptors. */
static void apart(void (*test)(void)) {
    pid_t pid = fork_child();
    if (pid == 0) {
        test();
        _exit(0);
    }
    expect_success(pid);
}

int main(void) {
    apart(a_heap_goes_on_when_its_descriptors_are_closed);
    apart(a_file_that_is_not_the_heaps_is_not_taken_for_it);
    apart(participants_whose_lock_is_lost_refuse_every_call);
    apart(a_poller_of_the_programs_is_not_closed);
    handles_of_one_process_exchange_records();
    handles_on_different_heaps_do_not();
    return 0;
}
