/* check_static.c - static segments have memory of their own, and a living initialiser. */

#include "observe/check.h"

typedef unsigned long long number;

/* Checks that a user is a process whose death would be noticed, or was: its slot has had it. */
static void check_user(struct check *c, uint32_t index, uint64_t word) {
    if (word == 0) return;
    uint32_t slot = tag_slot(word), generation = tag_generation(word);
    if (tag_kind(word) != TAG_OWN || !participant_has_been(c->heap, slot, generation))
        fault(c, "static segment %u is used by nobody (%llx)", index, (number)word);
}

static void check_users(struct check *c, uint32_t index, const struct channel *channel) {
    uint64_t offset = get(&channel->parts[USERS_PART]);
    for (int i = 0; i < USERS; i++) check_user(c, index, get(&channel->users[i]));
    if (offset == 0) return;
    if (!run_is(c->heap, offset, KIND_SYSTEM, part_tag(index, USERS_PART), USERS_BYTES)) {
        fault(c, "the table of users of static segment %u is not its own", index);
        return;
    }
    const shared64 *table = at_offset(c->heap, offset);
    for (int i = 0; i < PARTICIPANTS; i++) check_user(c, index, get(&table[i]));
}

static void check_static(struct check *c, uint32_t index, struct channel *channel) {
    uint64_t ready = get(&channel->ready);
    if (!run_is(c->heap, get(&channel->parts[0]), KIND_STATIC, part_tag(index, 0),
                get(&channel->shape)))
        fault(c, "the memory of static segment %u is not its own", index);
    bool initialised = ready == 0 || ready == STATIC_READY;
    if (!initialised && (tag_kind(ready) != TAG_OWN || !may_hold(c->heap, ready)))
        fault(c, "static segment %u is being initialised by nobody (%llx)", index, (number)ready);
    check_users(c, index, channel);
}

const struct kind_check static_check = {.check = check_static};
