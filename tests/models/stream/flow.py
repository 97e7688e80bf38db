"""Writing, reading, windows and resets: flow.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.park import unpark
from ..park.recover import heap_lock, heap_unlock
from ..park.words import OPEN
from ..steps import full_fence, get, get_acquire, put, put_release, when
from .endpoint import side_taken
from .position import items_now, items_seen, look_at_peer, notice_cut, notify, set_position
from .waiting import bell_settle, endpoint_why_not
from .words import (
    NONE,
    READER,
    WOULD_BLOCK,
    WRITER,
    Own,
    StreamEndpoint,
    X,
    atomic_thread_fence,
    compare,
    from_ring,
    has_notified,
    is_over,
    publishing,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps, View

MOST_RETRIES = 2


@replaceable
def advance(e: StreamEndpoint, o: Own, items: int) -> Steps:
    o = o._replace(position=o.position + items)
    yield put_release(("position", e.side), o.position, publishing(e))
    yield from notify(e, o)
    yield from has_notified(e)
    o, _ = yield from bell_settle(e, o)
    return o


def why_not(e: StreamEndpoint, o: Own, items: int) -> Steps:
    return (yield from endpoint_why_not(e, o._replace(need=items)))


@replaceable
def give_room_back(e: StreamEndpoint, o: Own) -> Steps:
    state, _ = yield get_acquire(("holder", X, READER))
    cut = yield get(("cut",))
    if state == OPEN or cut <= (yield get(("position", READER))):
        return
    yield from heap_lock(e.base.me)
    yield from cut_for_nobody(e, cut)
    yield from heap_unlock()


@replaceable
def find(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    """Return the endpoint, and how many items it found or why it found too few."""
    while True:
        if items_seen(e, o) < many:
            o = yield from look_at_peer(e, o)
        if e.side == READER:
            o = yield from notice_cut(e, o)
        if items_seen(e, o) >= few:
            return o, min(items_seen(e, o), many)
        why = yield from why_not(e, o, few)
        if why == WOULD_BLOCK:
            o, again = yield from bell_settle(e, o)
            if again:
                continue
        if is_over(why):
            if e.side == WRITER:
                yield from give_room_back(e, o)
            o = yield from look_at_peer(e, o)
            if e.side == READER:
                o = yield from notice_cut(e, o)
            there = items_seen(e, o)
            if there >= few or (there > 0 and e.side == READER):
                return o, min(there, many)
        if why:
            return o, why


# Writing ------------------------------------------------------------------------------------------


@replaceable
def spoil(e: StreamEndpoint, o: Own, items: int) -> Steps:
    end = o.position + items
    if end <= e.cells or end - e.cells <= (yield get(("floor",))):
        return
    yield put_release(("floor",), end - e.cells)
    yield atomic_thread_fence("seq_cst")


@replaceable
def into_ring(e: StreamEndpoint, first: int, count: int) -> Steps:
    for k in range(first, first + count):
        yield put(("cell", k % e.cells), k)


@replaceable
def write_items(e: StreamEndpoint, o: Own, count: int) -> Steps:
    if e.overwrite:
        yield from spoil(e, o, count)
    yield from into_ring(e, o.position, count)
    return (yield from advance(e, o, count))


def ipcheap_stream_write(e: StreamEndpoint, o: Own, count: int) -> Steps:
    """Return the endpoint, and how many items were written or why none."""
    if not e.overwrite:
        o, room = yield from find(e, o, 1, count)
        if isinstance(room, int):
            o = yield from write_items(e, o, room)
        return o, room
    end = o.position + count
    while o.position < end:
        o = yield from write_items(e, o, min(max(e.capacity // 4, 1), end - o.position))
    return o, count


# Reading ------------------------------------------------------------------------------------------


def oldest_kept(e: StreamEndpoint, o: Own) -> Steps:
    oldest = max(o.position - e.backlog, (yield get(("cut",))))
    oldest = max(oldest, (yield get(("base",))))
    if not e.overwrite:
        return oldest
    return max(oldest, (yield get_acquire(("floor",))))


@replaceable
def kept(e: StreamEndpoint, o: Own, wanted: int) -> Steps:
    if wanted == 0:
        return 0
    oldest = yield from oldest_kept(e, o)
    return min(wanted, o.position - oldest) if oldest < o.position else 0


@replaceable
def lose_until(e: StreamEndpoint, o: Own, position: int) -> Steps:
    if position <= o.position:
        return o
    o = o._replace(lost=o.lost + position - o.position)
    return (yield from set_position(e, o, position))


@replaceable
def copy_whole(e: StreamEndpoint, first: int, items: int) -> Steps:
    """Return the copy; None if the writer has overtaken it."""
    found = yield from from_ring(e, first, items)
    yield atomic_thread_fence("acquire")
    return found if (yield get(("floor",))) <= first else None


@replaceable
def find_whole(e: StreamEndpoint, o: Own, few: int, many: int, ended: bool = False) -> Steps:
    while True:
        o = yield from look_at_peer(e, o)
        o = yield from notice_cut(e, o)
        first = max(o.position, (yield get_acquire(("floor",))), o.seen - e.capacity)
        there = max(0, o.seen - first)
        if o.overtaken >= 2 and there > 0:
            first = o.seen - min(there, max(few, e.capacity // 4, 1))
            there = o.seen - first
        if there >= few or (ended and there > 0):
            o = yield from lose_until(e, o, first)
            return o, min(there, many)
        why = yield from why_not(e, o, few)
        if why == WOULD_BLOCK:
            o, again = yield from bell_settle(e, o)
            if again:
                continue
        if is_over(why) and not ended:
            ended = True
            continue
        if why:
            return o, why


def copy_found(e: StreamEndpoint, o: Own, few: int, many: int, overlap: int) -> Steps:
    """Return the endpoint, how many items were copied, and after how many older ones."""
    for _ in range(MOST_RETRIES):
        o, items = yield from find_whole(e, o, few, many)
        if not isinstance(items, int):
            return o, items, 0
        back = yield from kept(e, o, overlap)
        found = yield from copy_whole(e, o.position - back, back + items)
        if found is not None:
            compare(e, o.position - back, found)
            return o._replace(overtaken=0), items, back
        o = o._replace(overtaken=min(2, o.overtaken + 1))
    return o, WOULD_BLOCK, 0


@replaceable
def ipcheap_stream_read(
    e: StreamEndpoint, o: Own, few: int, many: int, skips: bool = False
) -> Steps:
    if not e.overwrite:
        o, count = yield from find(e, o, few, many)
        if isinstance(count, int) and not skips:
            compare(e, o.position, (yield from from_ring(e, o.position, count)))
    elif not skips:
        o, count, _ = yield from copy_found(e, o, few, many, 0)
    else:
        o, count = yield from find_whole(e, o, few, many)
    if isinstance(count, int):
        o = yield from advance(e, o, count)
    return o, count


@replaceable
def ipcheap_stream_peek(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    if e.overwrite:
        o, count, _ = yield from copy_found(e, o, few, many, 0)
    else:
        o, count = yield from find(e, o, few, many)
    if isinstance(count, int) and not e.overwrite:
        compare(e, o.position, (yield from from_ring(e, o.position, count)))
    o, _ = yield from bell_settle(e, o)
    return o, count


def ipcheap_stream_history(e: StreamEndpoint, o: Own, many: int) -> Steps:
    """Return the endpoint, and how many items before the position were copied."""
    o = yield from notice_cut(e, o)
    o, _ = yield from bell_settle(e, o)
    while True:
        count = yield from kept(e, o, many)
        if count == 0:
            return o, 0
        first = o.position - count
        if e.overwrite:
            found = yield from copy_whole(e, first, count)
            if found is None:
                continue
        else:
            found = yield from from_ring(e, first, count)
        compare(e, first, found)
        return o, count


# Windows ------------------------------------------------------------------------------------------


def open_copy(e: StreamEndpoint, o: Own, few: int, many: int, overlap: int) -> Steps:
    o, there = yield from find_whole(e, o, few, many)
    if not isinstance(there, int):
        return o, there, 0
    return (yield from copy_found(e, o, few, there, overlap))


def ipcheap_window_open(e: StreamEndpoint, o: Own, few: int, many: int, overlap: int) -> Steps:
    """Return the endpoint, how many items the window has, and how many older ones before them."""
    if e.side == READER and e.overwrite:
        o, items, back = yield from open_copy(e, o, few, many, overlap)
    else:
        o, items = yield from find(e, o, few, many)
        if not isinstance(items, int):
            return o, items, 0
        if e.side == WRITER and e.overwrite:
            yield from spoil(e, o, items)
        back = yield from kept(e, o, overlap)
    if isinstance(items, int):
        o = o._replace(window=o.position)
    return o, items, back


@replaceable
def ipcheap_window_close(e: StreamEndpoint, o: Own, items: int) -> Steps:
    begin, o = o.window, o._replace(window=NONE)
    if e.side == WRITER and items > 0 and e.copies:
        yield from into_ring(e, o.position, items)
    if e.side == READER:
        o = yield from notice_cut(e, o)
    if items > 0 and o.position == begin:
        o = yield from advance(e, o, items)
    else:
        o, _ = yield from bell_settle(e, o)
    return o


# Resets -------------------------------------------------------------------------------------------


def ask_taken(view: View) -> Any:
    """Return whether a living process holds the reader's side."""
    return {}, view["holder", X, READER][0] == OPEN


@replaceable
def cut_for_nobody(e: StreamEndpoint, cut: int) -> Steps:
    yield from side_taken(e.base, READER)
    if (yield when("is the reader's side taken?", ask_taken)):
        return
    if cut > (yield get(("position", READER))):
        yield put_release(("position", READER), cut)


@replaceable
def reset_by_writer(e: StreamEndpoint, o: Own) -> Steps:
    yield from heap_lock(e.base.me)
    resets = yield when("notes that it resets", ask_resets)
    ghosts = publishing(e, (("resets",), (*resets, o.position)))
    yield put_release(("cut",), o.position, ghosts)
    yield full_fence()
    yield from unpark(X, READER)
    yield from cut_for_nobody(e, o.position)
    yield from heap_unlock()
    return o


def ask_resets(view: View) -> Any:
    return {}, view["resets",]


@replaceable
def reset_by_reader(e: StreamEndpoint, o: Own) -> Steps:
    o = yield from look_at_peer(e, o)
    o = yield from notice_cut(e, o)
    yield put(("base",), o.seen)
    o = o._replace(dropped=o.dropped + o.seen - o.position)
    o = yield from set_position(e, o, o.seen)
    yield from notify(e, o)
    return o


def returns(view: View, position: int) -> Any:
    return {("reset",): position}, None


def ipcheap_stream_reset(e: StreamEndpoint, o: Own) -> Steps:
    o = yield from (reset_by_writer(e, o) if e.side == WRITER else reset_by_reader(e, o))
    yield from has_notified(e)
    yield when("reset() has returned", returns, o.position)
    o, _ = yield from bell_settle(e, o)
    return o


# Looking ------------------------------------------------------------------------------------------


@replaceable
def ipcheap_stream_ready(e: StreamEndpoint, o: Own) -> Steps:
    """Return the endpoint, and how many items there are, or room for how many."""
    if e.side == READER:
        o = yield from notice_cut(e, o)
    else:
        yield from give_room_back(e, o)
    o, _ = yield from bell_settle(e, o)
    return o, (yield from items_now(e, o))


FLOW, STREAM = "stream/flow.c", "stream/stream.c"
LOCK = frozenset({"heap_lock", "heap_unlock", "unpark", "side_taken"})
FENCES = frozenset({"atomic_thread_fence", "from_ring"})
# In C these calls also refuse a stream that was removed or poisoned.
REFUSAL = frozenset({"endpoint_why_not"})
MIRRORS = (
    Mirror(FLOW, advance, ignored=frozenset({"operations"})),
    Mirror(FLOW, why_not),
    Mirror(FLOW, give_room_back),
    Mirror(FLOW, find),
    Mirror(FLOW, spoil, calls=FENCES),
    Mirror(FLOW, write_items, calls=frozenset({"into_ring"})),
    Mirror(FLOW, ipcheap_stream_write, ignored=REFUSAL),
    Mirror(FLOW, oldest_kept),
    Mirror(FLOW, kept),
    Mirror(FLOW, lose_until),
    Mirror(FLOW, copy_whole),
    Mirror(FLOW, find_whole),
    Mirror(FLOW, copy_found),
    Mirror(FLOW, ipcheap_stream_read),
    Mirror(FLOW, ipcheap_stream_peek),
    Mirror(FLOW, ipcheap_stream_history),
    Mirror(FLOW, open_copy),
    Mirror(FLOW, ipcheap_window_open, ignored=REFUSAL),
    Mirror(FLOW, ipcheap_window_close),
    Mirror(FLOW, cut_for_nobody, aliases=(("released", "position"),)),
    Mirror(FLOW, reset_by_writer, calls=LOCK),
    Mirror(FLOW, reset_by_reader),
    Mirror(FLOW, ipcheap_stream_reset, ignored=REFUSAL),
    Mirror(STREAM, ipcheap_stream_ready, ignored=REFUSAL),
)
