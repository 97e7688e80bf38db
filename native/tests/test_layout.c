/* The words of the layout that several kinds share: tags, stamps, the shape of a bus. */
#include "channel/side.h"
#include "endpoint/endpoint.h"
#include "memory/block.h"
#include "segment/clock.h"
#include "testing.h"

static void a_bus_is_described_by_one_word(void) {
    uint64_t shape = bus_shape(24, UINT64_C(1) << 24, PATIENCE_UNLIMITED);
    EXPECT_EQ(shape_log(shape), 24);
    EXPECT_EQ(shape_history(shape), 1 << 24);
    EXPECT_EQ(shape_patience(shape), PATIENCE_UNLIMITED);
    EXPECT(bus_shape(0, 0, 0) != 0);
}

/* Tags and seats --------------------------------------------------------------------------- */

static void tags_of_four_kinds_do_not_meet(void) {
    uint64_t own = own_tag(PARTICIPANTS - 1, UINT32_MAX);
    uint64_t sent = sent_tag(NO_CHANNEL - 1, POSITION_MASK), part = part_tag(NO_CHANNEL, 5);
    EXPECT_EQ(tag_kind(TAG_FREE), TAG_FREE);
    EXPECT_EQ(tag_kind(own), TAG_OWN);
    EXPECT_EQ(tag_kind(sent), TAG_SENT);
    EXPECT_EQ(tag_kind(part), TAG_PART);
    EXPECT_EQ(tag_channel(sent), NO_CHANNEL - 1);
    EXPECT_EQ(tag_position(sent), POSITION_MASK);
    EXPECT_EQ(tag_channel(part), NO_CHANNEL);
    EXPECT_EQ(tag_position(part), 5);
}

static void a_stamp_hides_nothing_of_its_owner(void) {
    uint64_t own = own_tag(PARTICIPANTS - 1, UINT32_MAX), stamp = stamp_of(UINT64_MAX);
    EXPECT_EQ(stamp, STAMP_MASK);
    EXPECT_EQ(own & stamp, 0);
    EXPECT_EQ(tag_owner(own | stamp), own);
    EXPECT_EQ(tag_kind(own | stamp), TAG_OWN);
    EXPECT_EQ(tag_slot(own | stamp), PARTICIPANTS - 1);
    EXPECT_EQ(tag_generation(own | stamp), UINT32_MAX);
    EXPECT_EQ(stamp_of(1), UINT64_C(1) << STAMP_SHIFT);
}

static void a_mark_has_a_position_and_a_second(void) {
    uint64_t mark = mark_word(POSITION_MASK, MARK_SECONDS);
    EXPECT_EQ(mark_position(mark), POSITION_MASK);
    EXPECT_EQ(mark_seconds(mark), MARK_SECONDS);
}

/* The clock ------------------------------------------------------------------------------- */

static void the_clock_goes_forward_only(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    shared64 *clock = &heap->header->clock;
    uint64_t now = stamp_of((uint64_t)(clock_now(heap) / SECOND));
    EXPECT(get(clock) == now || get(clock) + stamp_of(1) == now);
    put(clock, (now - stamp_of(100)) & STAMP_MASK);
    clock_tick(heap);
    EXPECT(((get(clock) - now) & STAMP_MASK) <= stamp_of(2));
    put(clock, (now + stamp_of(100)) & STAMP_MASK);
    clock_tick(heap);
    EXPECT_EQ(get(clock), (now + stamp_of(100)) & STAMP_MASK);
    ipcheap_release(heap);
    close(fd);
}

static void what_is_allocated_is_stamped(uint64_t nbytes) {
    int fd = new_segment(4 * MIB);
    ipcheap_heap *heap = attach(fd);
    ipcheap_record record;
    struct place place;
    EXPECT_EQ(ipcheap_allocate(heap, nbytes, &record), 0);
    EXPECT(place_find(heap, record.offset, &place));
    uint64_t now = stamp_of((uint64_t)(clock_now(heap) / SECOND)), tag = get(place.tag);
    EXPECT(((now - (tag & STAMP_MASK)) & STAMP_MASK) <= stamp_of(2));
    EXPECT(tag_owner(tag) != tag || (tag & STAMP_MASK) == 0);
    EXPECT_EQ(ipcheap_free(heap, &record), 0);
    expect_sound(heap);
    ipcheap_release(heap);
    close(fd);
}

/* A side that sleeps every second for ten minutes: where it stood lately, and longer ago. */
static void marks_lie_further_apart_the_older_they_are(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    struct pair p = pair_of(heap, 1, 8);
    struct side *side = own_side(p.in);
    uint64_t now = 0;
    for (uint64_t second = 0; second < 600; second++) {
        put(&side->position, 7 * second);
        side_sleeps(heap, side);
        EXPECT(get(&side->since) != 0);
        side_wakes(side);
        heap->boot_offset -= SECOND;
        now = mark_seconds(get(&side->marks[0]));
    }
    EXPECT_EQ(get(&side->since), 0);
    EXPECT_EQ(mark_position(get(&side->marks[0])), 7 * 599);
    for (int i = 1; i < MARKS; i++) {
        uint64_t mark = get(&side->marks[i]), back = (now - mark_seconds(mark)) & MARK_SECONDS;
        EXPECT(back >= (UINT64_C(1) << (i - 1)) && back <= UINT64_C(2) << i);
        EXPECT_EQ(mark_position(mark), 7 * (599 - back));
    }
    expect_sound(heap);
    put(&side->marks[3], mark_word(1, now + 5));
    EXPECT(ipcheap_check(heap, NULL, NULL) == 1);
    pair_release(&p);
    ipcheap_release(heap);
    close(fd);
}

static void the_header_knows_its_file(void) {
    int fd = new_segment(MIB);
    ipcheap_heap *heap = attach(fd);
    EXPECT_EQ(get(&heap->header->inode), os_file_inode(fd));
    EXPECT(get(&heap->header->inode) != 0);
    ipcheap_release(heap);
    close(fd);
}

/* Some processes have a guard there: a store to it would raise SIGSEGV. */
static void the_gap_belongs_to_nothing(void) {
    for (uint64_t capacity = 64 << 10; capacity <= UINT64_C(1) << 44; capacity += capacity / 7) {
        struct geometry g;
        EXPECT(geometry_of(capacity, &g));
        uint64_t pages = (g.data_at - g.always) / PAGE;
        EXPECT(g.metabits_at + round_up(pages, 64) / 8 <= g.gap_at);
        EXPECT(g.gap_at % PAGE == 0 && g.gap_at + PAGE == g.always);
        EXPECT(g.always <= g.participants_at);
    }
}

int main(void) {
    the_gap_belongs_to_nothing();
    tags_of_four_kinds_do_not_meet();
    a_stamp_hides_nothing_of_its_owner();
    a_mark_has_a_position_and_a_second();
    a_bus_is_described_by_one_word();
    the_clock_goes_forward_only();
    what_is_allocated_is_stamped(100);
    what_is_allocated_is_stamped(100000);
    marks_lie_further_apart_the_older_they_are();
    the_header_knows_its_file();
    return 0;
}
