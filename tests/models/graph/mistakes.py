"""What must fail: the same protocol with one mistake."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..steps import get, put
from .even import _catch_up
from .setups import (
    END,
    MARKED,
    MERGED,
    NUMBERS,
    counted,
    evenly,
    many_of_two,
    of_two,
    some_of_one,
    unevenly,
)
from .uneven import (
    _commit,
    _release,
    _restore,
    _send_on,
    _unit,
    put_state,
    take,
)
from .words import MARK, Note, World, commit, forward, free, next_record, other_note, positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model
    from ..steps import Steps


def nothing(*_: Any) -> Steps:
    """Do nothing."""
    yield from ()


def free_before_sending(taken: Any) -> Steps:
    for channel, index in taken:
        yield from free(channel, index)
    return True


def commit_in_place(note: Note) -> Steps:
    selector = yield get(("selector",))
    for i, word in enumerate(note.words()):
        yield put(("note", selector, i), word)


def commit_after_freeing(w: World, note: Note, state: Any, held: Any) -> Steps:
    yield from _release(held)
    return (yield from _commit(w, note, state, ()))


def send_on_without_a_note(
    _w: World, _n: Note, _f: Any, edge: int, item: Any, record: tuple[int, int]
) -> Steps:
    yield from forward(edge, item, *record)
    return True


def went_on_by_the_other_note(w: World, note: Note, freed: tuple[int, ...]) -> Steps:
    other = yield from other_note(w)
    return freed[note.channel] > other.freed[note.channel]


def complete_without_marks(w: World, note: Note) -> Steps:
    note = note._replace(flags=0, out=(yield from positions(w)))
    yield from commit(note)
    return note


def count_before_channel(number: int, channel: int) -> Steps:
    yield put(("picked",), number + 1)
    yield put(("pick", number), channel)


def free_the_state_first(state: Any) -> Steps:
    yield put(("states",), ())
    yield from put_state(state)


def reading(**how: Any) -> dict[str, Any]:
    """Return how a worker takes records."""
    return {"takes": partial(take, reads=partial(next_record, **how))}


ENDED: dict[str, Any] = {"edges": 2, "ended": (1,)}
STATES: dict[str, Any] = {"edges": 2, "turns": "many", "checkpoint": 2, "finish": END}
TWO = ((1, 2, 3),), ((1, 2, 3),)
IN_MARKS = ((MARK, 1, 2), (4, MARK)), ((0, MARK), (1, MARK), (MARK, 2))
TURNED: dict[str, Any] = {"edges": 2, "turns_in": "one", "turns": "many"}
ORIGINS: dict[str, Any] = {"kernel": counted, "edges": 2, "deal": "free", "checkpoint": 3}

CONTROLS: dict[str, Callable[[], Model]] = {
    "even: freed before it is sent": partial(
        evenly, "", NUMBERS, edges=2, begins=free_before_sending
    ),
    "even: an input without an output not counted": partial(
        evenly, "", NUMBERS, kernel=some_of_one, counts_nothing=nothing
    ),
    "even: one edge counted for all": partial(
        evenly, "", NUMBERS, edges=2, catch_up=partial(_catch_up, least=max)
    ),
    "even: the input counted that was freed least": partial(
        evenly, "", *TWO, kernel=of_two, edges=2, catch_up=partial(_catch_up, of=min)
    ),
    "note: written in place": partial(
        unevenly, "", NUMBERS, edges=2, commits=partial(_commit, commits=commit_in_place)
    ),
    "note: after the inputs are freed": partial(
        unevenly, "", NUMBERS, edges=2, commits=commit_after_freeing
    ),
    "forward: without a note": partial(
        unevenly, "", NUMBERS, edges=2, unit=partial(_unit, send_on=send_on_without_a_note)
    ),
    "forward: a note that is not withdrawn": partial(
        unevenly,
        "",
        NUMBERS,
        **ENDED,
        unit=partial(_unit, send_on=partial(_send_on, withdraws=nothing)),
    ),
    "forward: a note that the next worker does not withdraw": partial(
        unevenly, "", NUMBERS, edges=2, restore=partial(_restore, withdraws=nothing)
    ),
    "forward: judged by the other note": partial(
        unevenly,
        "",
        *IN_MARKS,
        kernel=many_of_two,
        **TURNED,
        restore=partial(_restore, went=went_on_by_the_other_note),
    ),
    "forward: completed without its marks": partial(
        unevenly, "", MARKED, **TURNED, restore=partial(_restore, complete=complete_without_marks)
    ),
    "picks: none": partial(unevenly, "", MERGED, **ORIGINS, **reading(log=nothing)),
    "picks: counted before they are written": partial(
        unevenly, "", MERGED, **ORIGINS, **reading(log=count_before_channel)
    ),
    "picks: counted again when they are repeated": partial(
        unevenly, "", MERGED, **ORIGINS, **reading(logs_again=True)
    ),
    "snapshots: the old one freed first": partial(
        unevenly, "", NUMBERS, **STATES, commits=partial(_commit, puts=free_the_state_first)
    ),
    "snapshots: after the inputs are freed": partial(
        unevenly, "", NUMBERS, **STATES, commits=commit_after_freeing
    ),
    "snapshots: freed before the end is noted": partial(
        unevenly, "", NUMBERS, **STATES, ends=nothing
    ),
}
