/* One word of a heap has a value that no participant writes: who gets an error, what goes on. */

#include "memory/extent.h"
#include "record/endpoint.h"
#include "testing.h"

enum { SLOTS = 8 };

static int send_bytes(ipcheap_heap *heap, ipcheap_endpoint *out, uint64_t nbytes) {
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
    int error = ipcheap_try_send(out, &record);
    if (error) EXPECT_EQ(ipcheap_free(heap, &record), 0);
    return error;
}

static void expect_to_work(ipcheap_heap *heap, struct pair *p) {
    for (int i = 0; i < 3 * SLOTS; i++) {
        ipcheap_record record;
        EXPECT_EQ(send_bytes(heap, p->out, 100), 0);
        EXPECT_EQ(ipcheap_try_receive(p->in, &record), 0);
        EXPECT_EQ(record.nbytes, 100);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
}

static void expect_to_work_anew(ipcheap_heap *heap, uint64_t id) {
    ipcheap_key key;
    EXPECT_EQ(ipcheap_key_int(&key, id), 0);
    EXPECT_EQ(ipcheap_remove_channel(heap, &key, 1), 0);
    struct pair p = pair_of(heap, id, SLOTS);
    expect_to_work(heap, &p);
    pair_release(&p);
}

/* Rings ---------------------------------------------------------------------------------- */

static void a_broken_slot_stops_its_channel_and_no_other(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair broken = pair_of(heap, 1, SLOTS), whole = pair_of(heap, 2, SLOTS);
    ipcheap_record record;
    ipcheap_endpoint *again;
    EXPECT_EQ(send_bytes(heap, broken.out, 100), 0);
    put(&record_endpoint(broken.in)->slots[0].word,
        ring_word(5, SLOT_FULL, heap->geometry.data_at));
    EXPECT_EQ(ipcheap_try_receive(broken.in, &record), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_receive(broken.in, &record, -1), IPCHEAP_CORRUPT);
    EXPECT_EQ(send_bytes(heap, broken.out, 100), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_wait_peer(broken.out, -1), IPCHEAP_CORRUPT);
    expect_to_work(heap, &whole);
    pair_release(&broken);
    EXPECT_EQ(ipcheap_claim(heap, &broken.channel, IPCHEAP_CONSUMER, &again), IPCHEAP_CORRUPT);
    expect_to_work_anew(heap, 1);
    expect_to_work(heap, &whole);
    pair_release(&whole);
    ipcheap_release(heap);
    close(fd);
}

static void receive_until_told(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *in = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_receive(in, &record, -1), IPCHEAP_CORRUPT);
    ipcheap_endpoint_release(in);
}

static void a_sleeper_on_a_broken_ring_is_woken_with_an_error(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *out = claim(heap, &channel, IPCHEAP_PRODUCER);
    pid_t pid = run_peer(fd, receive_until_told);
    while (get(&out->channel->seats[IPCHEAP_CONSUMER].parked) == 0) usleep(1000);
    put(&record_endpoint(out)->slots[0].word, UINT64_C(3) << 40);
    expect_success(pid);
    EXPECT_EQ(send_bytes(heap, out, 100), IPCHEAP_CORRUPT);
    ipcheap_endpoint_release(out);
    ipcheap_release(heap);
    close(fd);
}

static void a_length_beyond_the_record_is_not_believed(void) {
    static const uint64_t lengths[] = {MIB / 2, MIB, UINT64_C(1) << 40, UINT64_MAX};
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    for (uint64_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct pair p = pair_of(heap, i, SLOTS);
        ipcheap_record record;
        EXPECT_EQ(send_bytes(heap, p.out, 100), 0);
        put(&record_endpoint(p.in)->slots[0].size, lengths[i]);
        uint64_t nbytes;
        uint32_t form;
        if (i % 2) EXPECT_EQ(ipcheap_peek(p.in, &nbytes, &form), IPCHEAP_CORRUPT);
        EXPECT_EQ(ipcheap_try_receive(p.in, &record), IPCHEAP_CORRUPT);
        pair_release(&p);
    }
    ipcheap_release(heap);
    close(fd);
}

static void a_slot_that_names_another_record_does_not_give_it_away(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS), other = pair_of(heap, 2, SLOTS);
    ipcheap_record mine, record;
    EXPECT_EQ(ipcheap_allocate(heap, 5000, &mine), 0);
    for (int i = 0; i < 3; i++) EXPECT_EQ(send_bytes(heap, p.out, 100), 0);
    for (uint64_t i = 0; i < 3; i++)
        put(&record_endpoint(p.in)->slots[i].word, ring_word(0, SLOT_FULL, mine.offset));
    EXPECT_EQ(ipcheap_try_receive(p.in, &record), 0);
    EXPECT_EQ(ipcheap_keep(heap, &record), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_try_send(other.out, &record), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_free(heap, &mine), 0); /* still ours */
    expect_to_work(heap, &other);
    pair_release(&p);
    pair_release(&other);
    ipcheap_release(heap);
    close(fd);
}

/* What a consumer writes into a slot that it releases is checked before it is believed. */
static void a_slot_that_comes_back_may_name_anything(void) {
    const uint64_t offsets[] = {0, PAGE, UINT64_C(1) << 32, OFFSET_UNITS << 6 & ~(PAGE - 1)};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        int fd = new_segment(64 * MIB);
        ipcheap_heap *heap = attach(fd);
        struct pair p = pair_of(heap, 1, SLOTS);
        for (int n = 0; n < SLOTS - 1; n++) EXPECT_EQ(send_bytes(heap, p.out, 100), 0);
        put(&record_endpoint(p.in)->slots[0].word, ring_word(1, SLOT_RELEASED, offsets[i]));
        EXPECT_EQ(send_bytes(heap, p.out, 100), 0); /* and looks at the next slot */
        EXPECT_EQ(send_bytes(heap, p.out, 100), 0);
        pair_release(&p);
        ipcheap_release(heap);
        close(fd);
    }
}

/* An extent that was sent is freed by its consumer, never by the producer. */
static void an_extent_that_comes_back_is_let_lie(void) {
    int fd = new_segment(64 * MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    ipcheap_record record;
    EXPECT_EQ(send_bytes(heap, p.out, 100000), 0);
    EXPECT_EQ(ipcheap_try_receive(p.in, &record), 0);
    put_release(&record_endpoint(p.in)->slots[0].word, ring_word(1, SLOT_RELEASED, record.offset));
    expect_to_work(heap, &p);
    pair_release(&p);
    expect_to_work_anew(heap, 1);
    ipcheap_release(heap);
    close(fd);
}

static void a_position_that_lies_is_found_out_by_the_next_claim(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    ipcheap_endpoint *again;
    expect_to_work(heap, &p);
    struct channel *channel = p.out->channel;
    pair_release(&p);
    put(&channel->sides[IPCHEAP_PRODUCER].position, 1000);
    EXPECT_EQ(ipcheap_claim(heap, &p.channel, IPCHEAP_PRODUCER, &again), IPCHEAP_CORRUPT);
    expect_to_work_anew(heap, 1);
    ipcheap_release(heap);
    close(fd);
}

static void a_holder_who_never_was_keeps_no_side(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    ipcheap_record record;
    ipcheap_recovery recovery;
    EXPECT_EQ(ipcheap_allocate(other, 100, &record), 0);
    struct participant *living = other->members;
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    struct channel *descriptor = channel_at(heap, channel.index);
    put(&descriptor->seats[IPCHEAP_PRODUCER].holder, own_tag(living->slot, living->generation + 5));
    ipcheap_endpoint *out = claim(heap, &channel, IPCHEAP_PRODUCER);
    EXPECT_EQ(send_bytes(heap, out, 100), 0);
    EXPECT_EQ(ipcheap_recover(heap, &recovery), 0);
    EXPECT_EQ(recovery.participants, 0);
    EXPECT_EQ(ipcheap_free(other, &record), 0); /* its owner was not taken for dead */
    expect_sound(heap);
    ipcheap_endpoint_release(out);
    ipcheap_release(other);
    ipcheap_release(heap);
    close(fd);
}

/* What the whole heap shares ----------------------------------------------------------------- */

static void produce_until_killed(ipcheap_heap *heap) {
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    claim(heap, &channel, IPCHEAP_PRODUCER);
    pause();
}

/* Nobody knows how to recover what the channel holds; its sides end all the same. */
static void a_dead_holder_keeps_no_side_of_a_channel_of_no_kind(uint32_t kind) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_channel channel = record_channel(heap, 1, SLOTS);
    ipcheap_endpoint *in = claim(heap, &channel, IPCHEAP_CONSUMER);
    ipcheap_record record;
    pid_t pid = run_peer(fd, produce_until_killed);
    EXPECT_EQ(ipcheap_wait_peer(in, 10000000000), 0);
    put(&in->channel->kind, kind);
    EXPECT_EQ(kill(pid, SIGKILL), 0);
    EXPECT_EQ(waitpid(pid, NULL, 0), pid);
    EXPECT_EQ(ipcheap_receive(in, &record, 10000000000), IPCHEAP_PEER_DIED);
    EXPECT_EQ(statistics(heap).recoveries, 1);
    ipcheap_endpoint_release(in);
    expect_to_work_anew(heap, 1);
    ipcheap_release(heap);
    close(fd);
}

/* Words that name nobody keep no segment, and a user goes on whatever the words beside it say. */
static void users_who_never_were_keep_no_segment(void) {
    static const uint64_t words[] = {1, UINT64_MAX, UINT64_C(1) << 62 | 0xFFF,
                                     UINT64_C(1) << 62 | 7u << 12};
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd), *other = attach(fd);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        ipcheap_key key;
        ipcheap_channel handle;
        void *data;
        EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
        EXPECT_EQ(ipcheap_add_static_segment(heap, &key, 4096, &handle), 1);
        EXPECT_EQ(ipcheap_static_ready(heap, &handle, 1), 0);
        struct channel *channel = channel_at(heap, handle.index);
        put(&channel->users[0], words[i]);
        EXPECT_EQ(ipcheap_check(heap, NULL, NULL), 1);
        EXPECT_EQ(ipcheap_static_hold(other, &handle, &data), 0);
        for (int j = 1; j < USERS; j++) put(&channel->users[j], words[i]);
        put(&channel->parts[USERS_PART], i * 4096 + i);
        EXPECT_EQ(ipcheap_remove_channel(heap, &key, 0), 0);
        EXPECT_EQ(ipcheap_static_removed(other, &handle), 1);
        memset(data, 1, 4096);
        EXPECT_EQ(ipcheap_static_release(other, &handle), 0);
        expect_sound(heap);
        EXPECT_EQ(statistics(heap).in_use, 0);
    }
    ipcheap_release(other);
    ipcheap_release(heap);
    close(fd);
}

static void roots_of_the_directory_are_found_again(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 7, SLOTS);
    for (uint64_t id = 100; id < 300; id++) record_channel(heap, id, SLOTS);
    EXPECT_EQ(send_bytes(heap, p.out, 100), 0);
    for (int i = 0; i < 2; i++) put(&heap->header->chunks[i], 12345);
    put(&heap->header->table, UINT64_C(30) << 56 | 64);
    put(&heap->header->channels, 0xFFFFFFF0);
    put(&heap->header->free_entry, 1);
    ipcheap_heap *late = attach(fd);
    ipcheap_key key;
    ipcheap_channel found;
    ipcheap_recovery recovery;
    EXPECT_EQ(ipcheap_key_int(&key, 7), 0);
    EXPECT_EQ(ipcheap_find_channel(late, &key, &found), IPCHEAP_CHANNEL_NOT_FOUND);
    EXPECT_EQ(ipcheap_recover(late, &recovery), 0);
    EXPECT_EQ(ipcheap_find_channel(late, &key, &found), 0);
    EXPECT_EQ(statistics(late).channels, 201);
    expect_sound(late);
    ipcheap_release(late);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_try_receive(p.in, &record), 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    expect_to_work(heap, &p);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void a_channel_in_use_is_not_given_twice(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    put(&heap->header->entries, 0);
    put(&heap->header->free_entry, p.channel.index + 1);
    for (uint64_t id = 2; id < 6; id++)
        EXPECT(record_channel(heap, id, SLOTS).index != p.channel.index);
    expect_to_work(heap, &p);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void links_that_run_in_a_circle_are_rebuilt(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record records[40];
    for (int i = 0; i < 40; i++) EXPECT_EQ(ipcheap_allocate(heap, 12288, &records[i]), 0);
    for (int i = 0; i < 40; i += 2) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    uint32_t link = 0;
    struct extent_walk walk = extent_walk_of(heap, DATA_ZONE);
    while (extent_step(heap, &walk)) {
        struct page *page = &heap->pages[walk.first];
        if (walk.state != PAGE_FREE) continue;
        put(&page->child, link ? link : (uint32_t)walk.first + 1);
        put(&page->next, (uint32_t)walk.first + 1);
        put(&page->previous, (uint32_t)walk.first + 1);
        link = (uint32_t)walk.first + 1;
    }
    for (int i = 1; i < 40; i += 2) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    for (int i = 0; i < 40; i++) EXPECT_EQ(ipcheap_allocate(heap, 12288, &records[i]), 0);
    for (int i = 0; i < 40; i++) EXPECT_EQ(ipcheap_free(heap, &records[i]), 0);
    EXPECT(extents_index_valid(heap));
    EXPECT_EQ(statistics(heap).in_use, 0);
    ipcheap_release(heap);
    close(fd);
}

static void bits_that_free_what_is_free_do_not_count(void) {
    enum { COUNT = 600 };
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record records[COUNT];
    EXPECT_EQ(ipcheap_allocate(heap, 64, &records[0]), 0);
    uint32_t granule = (uint32_t)((records[0].offset - heap->geometry.data_at) >>
                                  heap->geometry.slab_shift);
    struct slab *slab = slab_at(heap, granule);
    for (int i = 1; i < COUNT; i++) {
        /* All except the block that is in use: the bits of the others lie. */
        if (i % 50 == 1) put(&slab->remote[0], ~UINT64_C(1));
        EXPECT_EQ(ipcheap_allocate(heap, 64, &records[i]), 0);
        for (int k = 0; k < i && i < 60; k++) EXPECT(records[k].offset != records[i].offset);
    }
    ipcheap_release(heap);
    close(fd);
}

static void a_lock_that_nobody_holds_is_taken_over(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 64, &record), 0);
    const uint32_t words[] = {1,
                              UINT32_MAX,
                              0x1FFF,
                              0x80000000,
                              heap->members->lock_word,
                              heap->members->lock_word + (5u << 13)};
    for (uint32_t i = 0; i < sizeof words / sizeof *words; i++) {
        put(&heap->header->lock, words[i]);
        EXPECT_EQ(ipcheap_allocate(heap, 100000, &record), 0);
        EXPECT_EQ(ipcheap_free(heap, &record), 0);
    }
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

static void heads_that_do_not_add_up_are_told_to_those_who_need_them(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, SLOTS);
    expect_to_work(heap, &p);
    ipcheap_record record, large;
    ipcheap_recovery recovery;
    EXPECT_EQ(ipcheap_allocate(heap, 100000, &record), 0);
    uint64_t page = (record.offset - heap->geometry.data_at) >> PAGE_SHIFT;
    put(&heap->pages[page].word, page_word(PAGE_USED, KIND_RECORD, UINT64_C(1) << 40));
    put(&heap->header->lock, 0x1FFF); /* and the owner of the lock is dead */
    /* The participant that takes over the lock rebuilds what it can of the indices, and goes on. */
    for (uint64_t id = 2; id < 4; id++) {
        struct pair more = pair_of(heap, id, SLOTS);
        expect_to_work(heap, &more);
        pair_release(&more);
    }
    expect_to_work(heap, &p);
    EXPECT_EQ(ipcheap_allocate(heap, 900000, &large), IPCHEAP_CORRUPT);
    EXPECT(ipcheap_check(heap, NULL, NULL) > 0);
    EXPECT_EQ(ipcheap_recover(heap, &recovery), IPCHEAP_CORRUPT);
    EXPECT_EQ(ipcheap_wait(p.in, 1000), IPCHEAP_TIMED_OUT);
    expect_to_work(heap, &p);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void another_capacity_is_another_format(void) {
    int fd = new_segment(8 * MIB);
    ipcheap_heap *heap = attach(fd), *other = NULL;
    put(&heap->header->capacity, MIB);
    EXPECT_EQ(ipcheap_attach(fd, -1, &other), IPCHEAP_FORMAT_MISMATCH);
    ipcheap_record record;
    EXPECT_EQ(ipcheap_allocate(heap, 6 * MIB, &record), 0); /* read only when attaching */
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    ipcheap_release(heap);
    close(fd);
}

static void a_segment_that_is_lied_about_is_not_written_beyond(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_key key;
    ipcheap_channel channel;
    EXPECT_EQ(ipcheap_key_int(&key, 1), 0);
    EXPECT_EQ(ipcheap_add_static_segment(heap, &key, 5000, &channel), 1);
    EXPECT_EQ(ipcheap_static_ready(heap, &channel, 0), 0);
    struct channel *descriptor = channel_at(heap, channel.index);
    uint64_t memory = get(&descriptor->parts[0]);
    put(&descriptor->parts[0], memory + (UINT64_C(1) << 40));
    EXPECT_EQ(ipcheap_add_static_segment(heap, &key, 0, &channel), IPCHEAP_CORRUPT);
    put(&descriptor->parts[0], memory);
    put(&descriptor->shape, UINT64_C(1) << 40);
    EXPECT_EQ(ipcheap_add_static_segment(heap, &key, 0, &channel), IPCHEAP_CORRUPT);
    EXPECT(ipcheap_static_data(heap, &channel) == NULL);
    ipcheap_release(heap);
    close(fd);
}

int main(void) {
    a_broken_slot_stops_its_channel_and_no_other();
    a_sleeper_on_a_broken_ring_is_woken_with_an_error();
    a_length_beyond_the_record_is_not_believed();
    a_slot_that_names_another_record_does_not_give_it_away();
    a_slot_that_comes_back_may_name_anything();
    an_extent_that_comes_back_is_let_lie();
    a_position_that_lies_is_found_out_by_the_next_claim();
    a_holder_who_never_was_keeps_no_side();
    a_dead_holder_keeps_no_side_of_a_channel_of_no_kind(0);
    a_dead_holder_keeps_no_side_of_a_channel_of_no_kind(IPCHEAP_STATIC_SEGMENT);
    a_dead_holder_keeps_no_side_of_a_channel_of_no_kind(UINT32_MAX);
    users_who_never_were_keep_no_segment();
    roots_of_the_directory_are_found_again();
    a_channel_in_use_is_not_given_twice();
    links_that_run_in_a_circle_are_rebuilt();
    bits_that_free_what_is_free_do_not_count();
    a_lock_that_nobody_holds_is_taken_over();
    heads_that_do_not_add_up_are_told_to_those_who_need_them();
    another_capacity_is_another_format();
    a_segment_that_is_lied_about_is_not_written_beyond();
    return 0;
}
