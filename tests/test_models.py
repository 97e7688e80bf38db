"""The models hold, the mistakes are found, and the models match the C sources.

`python -m models`, in this directory, prints what is explored; docs/design/models.md says what
that shows and what it does not.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from models import FAMILIES, bus, mirror, park, ring, store, stream
from models.explorer import Model, Process, explore
from models.graph import ties
from models.steps import Violation, get, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.steps import Steps


def of(table: str) -> list[Any]:
    """Return all models of a kind, named for pytest."""
    return [
        pytest.param(make, id=f"{family.__name__.rpartition('.')[2]}: {name}")
        for family in FAMILIES
        for name, make in getattr(family, table).items()
    ]


# The explorer itself: two processes that each add one; some orders end with 2 ---------------


def add(name: str) -> Steps:
    seen = yield get(name)
    yield put(name, seen + 1)


def test_all_orders_are_explored() -> None:
    two = (Process("a", lambda: add("n")), Process("b", lambda: add("n")))
    seen = set()
    explore(Model("two", two, {"n": 0}, finally_=lambda view: seen.add(view["n"])))
    assert seen == {1, 2}


def test_a_buffered_store_is_seen_late() -> None:
    def body(mine: str, other: str) -> Steps:
        yield put(mine, 1)
        found = yield get(other)
        yield put(f"{mine} saw", found)

    def both_missed(view: Any) -> str | None:
        return "missed" if (view["x saw"], view["y saw"]) == (0, 0) else None

    processes = (Process("x", lambda: body("x", "y")), Process("y", lambda: body("y", "x")))
    memory: dict[Any, Any] = {"x": 0, "y": 0, "x saw": None, "y saw": None}
    assert explore(Model("sc", processes, memory, finally_=both_missed)).violation is None
    report = explore(Model("tso", processes, memory, finally_=both_missed, tso=True))
    assert report.violation is not None


def test_a_trace_tells_who_did_what() -> None:
    def fails() -> Steps:
        yield put("n", 7)
        if (yield get("n")) == 7:
            raise Violation("seven")

    report = explore(Model("one", (Process("a", fails),), {"n": 0}))
    assert str(report) == "one: seven\n  a: n = 7\n  a: reads n"


# The protocols -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", of("MODELS"))
def test_it_holds(make: Callable[[], Model]) -> None:
    report = explore(make())
    assert report.violation is None, str(report)
    assert report.states > 100
    assert report.ends > 0


@pytest.mark.parametrize("make", of("CONTROLS"))
def test_the_mistake_is_found(make: Callable[[], Model]) -> None:
    report = explore(make())
    assert report.violation is not None
    assert len(report.trace) > 2


# The sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_it_is_a_model_of_these_sources(family: Any) -> None:
    assert mirror.faults(family.MIRRORS) == []


def test_the_graph_s_models_are_of_these_sources() -> None:
    assert ties.faults() == []


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("even.py", "                    acknowledge(record)\n", "                    pass\n"),
        ("even.py", "writer.nothing(done)\n                    continue", "continue"),
        ("ledger.py", "        self._words[at] = number + 1\n", ""),
        ("ledger.py", "self._words[0] = other", "pass"),
        ("uneven.py", "            self._ledger.withdraw()\n", "            pass\n"),
        ("uneven.py", "self._ledger.commit(note)\n        self._release()", "self._release()"),
        ("uneven.py", "            acknowledge(record)\n", "            pass\n"),
        ("writer.py", "self._ledger.pass_by(self._number)", "pass"),
        ("snapshots.py", "        self._take()\n\n    def", "\n    def"),
        ("worker.py", "        self._board.finish(self._kernel.name, self._worker)\n", ""),
    ],
)
def test_a_changed_step_of_a_graph_is_noticed(
    file: str, before: str, after: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(ties.SOURCES, tmp_path / "graph")
    change(copy / file, before, after)
    assert len(ties.faults(sources=copy)) >= 1


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return shutil.copytree(mirror.SOURCES, tmp_path / "src")


def change(source: Path, before: str, after: str) -> None:
    text = source.read_text()
    assert before in text
    source.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("family", "file", "before", "after"),
    [
        (ring, "record/send.c", "put_release(tag,", "put(tag,"),
        (ring, "record/send.c", "    put(&side->record.intent, 0);\n", ""),
        (ring, "record/send.c", "void fill_slot(", "void fill_the_slot("),
        (ring, "record/recover.c", "ring_collect(r->me, index);", ""),
        (park, "endpoint/notify.h", "compiler_fence();", ""),
        (park, "channel/wake.h", "    full_fence();\n}", "}"),
        (park, "channel/wake.h", "if (UNLIKELY(!os_membarrier()))", "if (heap)"),
        (park, "endpoint/park.c", "put(word, PARKED_HERE);", "put_release(word, PARKED_HERE);"),
        (park, "channel/wake.c", "put_add(&record->knock, 1);", ""),
        (park, "endpoint/bell.c", "    os_pipe_ring(b->pipe.fd);\n", ""),
        (park, "endpoint/bell.c", "sleeper_fence(e->heap);", "full_fence();"),
        (park, "endpoint/bell.c", "bool late = has_late_byte(b),", "bool late = false,"),
        (
            park,
            "heap/wait_any.c",
            "    gather(g);\n    lie_down(g);",
            "    lie_down(g); gather(g);",
        ),
        (park, "heap/wait_any.c", "put(&e->seat->parked, PARKED_AMONG);", ""),
        (park, "endpoint/endpoint.c", "atomic_fetch_or(&e->use, ENDPOINT_CLOSING)", "e->use"),
        (park, "channel/side.c", "bell_ring(r->heap, &channel->seats[!side], NULL);", ""),
        (stream, "stream/flow.c", "put_release(&side->position,", "put(&side->position,"),
        (stream, "stream/flow.c", "compiler_fence(); /* pairs with sleeper_fence() */", ""),
        (stream, "stream/flow.c", "    notify(e);\n    bell_settle(&e->base);", ""),
        (stream, "stream/flow.c", "    atomic_thread_fence(memory_order_acquire);", ""),
        (stream, "stream/flow.c", "    if (e->stream.overwrite) spoil(e, count);\n", ""),
        (stream, "stream/flow.c", "error = is_writer(e) ? give_room_back(e) : 0;", "error = 0;"),
        (stream, "stream/flow.c", "    if (!is_writer(e)) notice_cut(e);\n    /* A reset", "/*"),
        (stream, "stream/flow.c", "    put(&words_of_stream(e)->base, e->seen);\n", ""),
        (stream, "stream/stream.c", "if (!is_writer(e)) follow_cut(channel);", ""),
        (stream, "stream/stream.c", "put(wanted, position);", "put_release(wanted, position);"),
        (
            stream,
            "stream/stream.c",
            "    e->in_window = false;\n",
            "follow_cut(endpoint->channel);",
        ),
        (stream, "stream/stream.c", "    bell_settle(endpoint);\n    return (int64_t)", "return "),
        (stream, "endpoint/bell.c", "wants = endpoint_want(e);", "wants = false;"),
        (stream, "endpoint/park.c", "        endpoint_want(e);\n", ""),
        (
            stream,
            "heap/wait_any.c",
            "    if (idle) before_waiting(g); /* after lying down: as in park() */\n",
            "",
        ),
        (store, "store/holds.h", "compiler_fence(); /* pairs with the membarrier", "/*"),
        (store, "store/holds.h", "fences))) full_fence();", "fences))) {}"),
        (store, "store/collect.c", "    if (!fence_readers(s)) return freed;\n", ""),
        (store, "store/collect.c", "    store_turn(s);\n", ""),
        (store, "store/collect.c", "    look_at_holds(s, l);\n", ""),
        (store, "store/collect.c", "put(&s->root->collector, me->tag);", ""),
        (
            store,
            "store/changes.c",
            "put_release(&slot->word, chunk_word(CHUNK_PREP",
            "put(&slot->word, (",
        ),
        (store, "store/changes.c", "    put(&slot->died, parcel->from);\n", ""),
        (store, "store/changes.c", "put_and(&e->base.channel->flags, ~", "(void)(~"),
        (store, "store/commit.c", "put(&slot->died, 0); /* it", "/*"),
        (
            store,
            "store/commit.c",
            "put_release(&s->root->head, head);",
            "put(&s->root->head, head);",
        ),
        (store, "store/commit.c", "    put(&slot->older, change->newest);\n", ""),
        (store, "store/commit.c", "    wake_readers(e);\n", ""),
        (store, "store/lists.c", "    store_turn(s);\n    if (cell)", "    if (cell)"),
        (store, "store/cells.c", "    bell_tell(s, &cell->bell);\n", ""),
        (store, "store/bells.c", "if (seen & BELL_POLLING) wake_seats(s);", ""),
        (store, "store/reader.c", "go_back(h, key, word, head, look);", "FOUND;"),
        (store, "store/next.c", "    int error = reader_follow(e);\n    if (error)", "    if (0)"),
        (store, "store/tables.c", "put_release(&s->root->pieces, s->pieces + 1);", ""),
        (store, "store/recover.c", "cell_undo(s, slot, head);", ";"),
        (store, "store/recover.c", "        log_complete(&s);\n", ""),
        (store, "store/store.c", "    bell_poll(&e->store.root->bell);\n", ""),
        (
            store,
            "store/wait.c",
            "*there = key_there(e, wait);\n    bool stays = reader_cell",
            "bool stays = cell_",
        ),
        (
            bus,
            "bus/post.c",
            "    put_release(letter->tag, message_tag(bus, q));",
            "    put(letter->tag, q);",
        ),
        (bus, "bus/post.c", "        put(&record->from, letter->from);\n", ""),
        (bus, "bus/post.c", "    if (LIKELY(!error)) bus_tell(&p->bus);\n", ""),
        (
            bus,
            "bus/reclaim.c",
            "        settle_floor(bus);\n        if (!message",
            "        if (!message",
        ),
        (
            bus,
            "bus/reclaim.c",
            "    full_fence(); /* of two that release",
            "    /* of two that release",
        ),
        (bus, "bus/reclaim.c", "    if (m->apart) put(&me->record->letting, m->block);\n", ""),
        (bus, "bus/receive.c", "put(hold, hold_of(HOLD_HELD, m));", "put_release(hold, 1);"),
        (bus, "bus/receive.c", "put_release(&side->position, to);", "put(&side->position, to);"),
        (bus, "bus/listeners.c", "    full_fence(); /* what a writer", "    /* what a writer"),
        (bus, "bus/recover.c", "if (apart) payload_undo(r, bus, block, from);", ";"),
        (bus, "bus/recover.c", "    listeners_tidy(bus);", "    ;"),
        (bus, "bus/wake.c", "put_add(wake, 1);", ""),
        (bus, "channel/wake.c", "return pull_it(heap, seat, NULL);", "return true;"),
        (bus, "bus/wake.c", "    if (!os_membarrier()) put(", "    if (bus) put("),
        (bus, "bus/wake.h", "compiler_fence(); /* pairs with the membarrier in listener", "/*"),
        (bus, "bus/broadcast.c", "if (!put_if(&root->turn_until, &until,", "if (!other("),
        (
            bus,
            "bus/broadcast.c",
            "put_exchange(&root->turn_waiters, 1);",
            "put(&root->turn_waiters, 1);",
        ),
        (bus, "bus/view.c", "if (!os_membarrier() &&", "if (!me &&"),
        (bus, "bus/channel.c", "inside ? bus_stay(me, &e->bus) : 0;", "0;"),
    ],
)
def test_a_change_of_the_sources_is_noticed(
    sources: Path, family: Any, file: str, before: str, after: str
) -> None:
    change(sources / file, before, after)
    found = mirror.faults(family.MIRRORS, sources)
    assert found
    assert file in found[0]


def test_a_comment_and_a_rename_of_locals_are_not(sources: Path) -> None:
    before, after = "put(&side->record.intent, 0);", "/* put(x, 1) */ put(&s->record.intent, 0);"
    change(sources / "record/send.c", before, after)
    assert mirror.faults(ring.MIRRORS, sources) == []
