/* check_channels.c - participants, directory and sides agree with what they lead to. */

#include "base/os.h"
#include "observe/check.h"

typedef unsigned long long number;

/* Sides ---------------------------------------------------------------------------------- */

/* Checks that the holder of a side is a participant whose death would be noticed. */
static void check_seat(struct check *c, uint32_t index, struct channel *channel, int side,
                       const char *name) {
    for (int look = 0; look < LOOKS; look++) {
        uint64_t holder = get_acquire(&channel->seats[side].holder); /* pairs with claim() */
        if (side_state(holder) != SIDE_OPEN || may_hold(c->heap, holder)) return;
        if (look < LOOKS - 1) continue;
        if (get_acquire(&channel->seats[side].holder) == holder) /* pairs with claim() */
            fault(c, "the %s side of channel %u is held by nobody (%llx)", name, index,
                  (number)holder);
    }
}

/* Checks that a side's marks are in order; the side moves them one by one. */
static void check_marks(struct check *c, uint32_t index, const struct side *side,
                        const char *name) {
    for (int look = 0; look < LOOKS; look++) {
        int wrong = 0;
        uint64_t newest = get_acquire(&side->marks[0]); /* pairs with side_mark() */
        for (int i = 1; i < MARKS; i++) {
            uint64_t newer = get(&side->marks[i - 1]), older = get(&side->marks[i]);
            uint64_t apart = (mark_seconds(newer) - mark_seconds(older)) & MARK_SECONDS;
            if (older && (!newer || apart > MARK_SECONDS / 2)) wrong = i;
        }
        if (!wrong) return;
        if (look == LOOKS - 1 && get(&side->marks[0]) == newest)
            fault(c, "mark %d of the %s side of channel %u is younger than the one before it",
                  wrong, name, index);
        os_pause();
    }
}

static const struct kind_check *const kind_checks[KINDS] = {
    [IPCHEAP_RECORD_CHANNEL] = &record_check, [IPCHEAP_STATIC_SEGMENT] = &static_check,
    [IPCHEAP_STREAM] = &stream_kind_check,    [IPCHEAP_STORE] = &store_kind_check,
    [IPCHEAP_BUS] = &bus_kind_check,
};

static const struct kind_check *check_of(const struct channel *channel) {
    uint32_t kind = get(&channel->kind);
    return kind < KINDS ? kind_checks[kind] : NULL;
}

bool channel_accounts_for(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    if (tag_kind(tag) != TAG_SENT && tag_kind(tag) != TAG_PART) return false;
    const struct channel *channel = channel_at(heap, tag_channel(tag));
    const struct kind_check *kind = channel ? check_of(channel) : NULL;
    return kind && kind->accounts_for && kind->accounts_for(heap, tag, offset);
}

bool channel_leads_to(ipcheap_heap *heap, uint64_t tag, uint64_t offset) {
    const struct channel *channel = channel_at(heap, tag_channel(tag));
    if (!channel || get(&channel->state) >> 62 == CHANNEL_FREE) return false;
    uint64_t part = tag_position(tag);
    if (part < PARTS) return get(&channel->parts[part]) == offset;
    const struct kind_check *kind = check_of(channel);
    return kind && kind->leads_to && kind->leads_to(heap, tag_channel(tag), part, offset);
}

/* The directory -------------------------------------------------------------------------- */

static void check_entry(struct check *c, uint32_t index, struct channel *channel) {
    const struct kind_check *kind = check_of(channel);
    if (!kind) {
        fault(c, "channel %u is of no known kind", index);
        return;
    }
    kind->check(c, index, channel);
    for (int side = 0; side < 2; side++) {
        if (!kind->sides[side]) continue;
        check_seat(c, index, channel, side, kind->sides[side]);
        check_marks(c, index, &channel->sides[side], kind->sides[side]);
    }
}

/* Checks that a look-up by a channel's key finds this channel. */
static void check_key(struct check *c, uint32_t index, struct channel *channel) {
    ipcheap_key key;
    ipcheap_channel found;
    channel_key(channel, &key);
    if (ipcheap_find_channel(c->heap, &key, &found) || found.index != index)
        fault(c, "channel %u cannot be found by its id", index);
}

static void check_free_entries(struct check *c, uint32_t free_entries) {
    ipcheap_heap *heap = c->heap;
    uint32_t listed = 0, link = get(&heap->header->free_entry);
    for (; link && listed <= free_entries; listed++) {
        struct channel *channel = channel_at(heap, link - 1);
        if (!channel || get(&channel->state) >> 62 != CHANNEL_FREE) {
            fault(c, "the list of free channels leads to channel %u, which is not free", link - 1);
            return;
        }
        link = get(&channel->next_free);
    }
    if (listed != free_entries)
        fault(c, "%u channels are free, and %u are listed", free_entries, listed);
}

static void check_directory_memory(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint64_t word = get(&heap->header->table), offset = word & ((UINT64_C(1) << 56) - 1);
    uint64_t table_bytes = UINT64_C(4) << (word >> 56 & 63);
    if (word &&
        !run_is(heap, offset, KIND_SYSTEM, part_tag(NO_CHANNEL, DIRECTORY_TABLE), table_bytes))
        fault(c, "the table of the directory is not its own");
    for (uint32_t i = 0; i < DIRECTORY_CHUNKS; i++) {
        uint64_t chunk = get(&heap->header->chunks[i]);
        uint64_t bytes = ((uint64_t)FIRST_CHUNK << i) * sizeof(struct channel);
        if (chunk && !run_is(heap, chunk, KIND_SYSTEM, part_tag(NO_CHANNEL, i), bytes))
            fault(c, "chunk %u of the directory is not its own", i);
    }
}

static void check_directory(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint32_t entries = get(&heap->header->entries), living = 0, free_entries = 0;
    for (uint32_t index = 0; index < entries; index++) {
        struct channel *channel = channel_at(heap, index);
        if (!channel) {
            fault(c, "channel %u of %u has no descriptor", index, entries);
            return;
        }
        switch (get_acquire(&channel->state) >> 62) { /* pairs with directory_add() */
        case CHANNEL_LIVE:
            living++;
            check_key(c, index, channel);
            check_entry(c, index, channel);
            break;
        case CHANNEL_REMOVED: /* it is dropped when its last side closes */
            check_entry(c, index, channel);
            break;
        case CHANNEL_FREE:
            free_entries++;
            break;
        default:
            fault(c, "channel %u is half-made", index);
        }
    }
    uint32_t counted = get(&heap->header->channels);
    if (living != counted) fault(c, "the directory counts %u channels and has %u", counted, living);
    check_free_entries(c, free_entries);
}

/* Participants --------------------------------------------------------------------------- */

/* True if a label has no control characters and is filled up with zeroes. */
static bool label_is_text(const struct participant_slot *record) {
    uint64_t words[LABEL_WORDS];
    for (int i = 0; i < LABEL_WORDS; i++) words[i] = get(&record->label[i]);
    const unsigned char *text = (const unsigned char *)words;
    size_t length = 0;
    while (length < sizeof words && text[length] >= 0x20 && text[length] != 0x7F) length++;
    for (size_t i = length; i < sizeof words; i++)
        if (text[i]) return false;
    return true;
}

static void check_participants(struct check *c) {
    ipcheap_heap *heap = c->heap;
    uint32_t used = get(&heap->header->slots_used);
    if (used > PARTICIPANTS) {
        fault(c, "%u participant slots are in use, and there are %u", used, PARTICIPANTS);
        return;
    }
    for (uint32_t slot = 0; slot < used; slot++) {
        const struct participant_slot *record = participant_record(heap, slot);
        if (!record) {
            fault(c, "participant slot %u is in use and has no memory", slot);
            return;
        }
        uint64_t state = get_acquire(&record->word) & 0xFF; /* pairs with slot_fill() */
        if (state != SLOT_FREE && state != SLOT_LIVE && state != SLOT_KEEPER)
            fault(c, "participant slot %u is in no known state", slot);
        if ((state == SLOT_LIVE || state == SLOT_KEEPER) && !label_is_text(record))
            fault(c, "the label of participant slot %u is no text", slot);
    }
}

void check_channels(struct check *c) {
    check_participants(c);
    check_directory_memory(c);
    check_directory(c);
}
