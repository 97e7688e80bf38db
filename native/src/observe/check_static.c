/* check_static.c - static segments have memory of their own, and a living initialiser. */

#include "observe/check.h"

typedef unsigned long long number;

static void check_static(struct check *c, uint32_t index, struct channel *channel) {
    uint64_t ready = get(&channel->ready);
    if (!run_is(c->heap, get(&channel->parts[0]), KIND_STATIC, part_tag(index, 0),
                get(&channel->shape)))
        fault(c, "the memory of static segment %u is not its own", index);
    bool initialised = ready == 0 || ready == STATIC_READY;
    if (!initialised && (tag_kind(ready) != TAG_OWN || !may_own(c->heap, ready)))
        fault(c, "static segment %u is being initialised by nobody (%llx)", index, (number)ready);
}

const struct kind_check static_check = {.check = check_static};
