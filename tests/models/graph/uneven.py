"""A worker that commits by notes or snapshots how far it is (uneven.py and snapshots.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import Violation, get, put
from .words import (
    FINISHED,
    FORWARD,
    ITSELF,
    MARK,
    Note,
    Reading,
    World,
    after,
    commit,
    counts,
    forward,
    free,
    next_record,
    note_of,
    other_note,
    picks,
    positions,
    send,
    valid_note,
    withdraw,
)

if TYPE_CHECKING:
    from ..steps import Steps

Records = tuple[tuple[int, int], ...]


# Outputs ------------------------------------------------------------------------------------


def put_item(ahead: tuple[int, ...], edge: int, value: Any) -> Steps:
    """Send an item, or not if it was sent before; return what the edges are ahead then."""
    if ahead[edge]:
        return (*ahead[:edge], ahead[edge] - 1, *ahead[edge + 1 :])
    yield from send(edge, value)
    return ahead


def mark(w: World, ahead: tuple[int, ...]) -> Steps:
    """End a turn on all edges."""
    for edge in range(w.edges):
        ahead = yield from put_item(ahead, edge, MARK)
    return ahead


def _send_on(
    w: World,
    note: Note,
    freed: tuple[int, ...],
    edge: int,
    item: Any,
    record: tuple[int, int],
    *,
    commits: Any = commit,
    withdraws: Any = withdraw,
) -> Steps:
    """Send an input as the last output of a unit; return whether it was sent."""
    before = freed[record[0]]
    out = yield from positions(w)
    yield from commits(
        note._replace(flags=FORWARD, edge=edge, channel=record[0], before=before, out=out)
    )
    if edge not in w.ended:
        yield from forward(edge, item, *record)
        return True
    yield from lose(edge)
    yield from withdraws()
    return False


def lose(edge: int) -> Steps:
    """Count an item for a reader that has ended."""
    lost = yield get(("without", edge))
    yield put(("without", edge), lost + 1)


# Snapshots ----------------------------------------------------------------------------------


def put_state(state: Any) -> Steps:
    """Make another state the last one."""
    states = yield get(("states",))
    yield put(("states",), (*states, state))
    yield put(("states",), (state,))


def get_state() -> Steps:
    """Return the last state; None if there is none."""
    states = yield get(("states",))
    if len(states) > 1:
        yield put(("states",), states[-1:])
    return states[-1] if states else None


def close_state() -> Steps:
    """Free the last state."""
    yield put(("states",), ())


# Work ---------------------------------------------------------------------------------------


def _release(held: Records) -> Steps:
    """Free inputs."""
    for channel, index in held:
        yield from free(channel, index)


def _commit(
    w: World, note: Note, state: Any, held: Records, *, commits: Any = commit, puts: Any = put_state
) -> Steps:
    """Make all that was done so far done for good, and free its inputs."""
    note = note._replace(out=(yield from positions(w)))
    if w.checkpoint:
        yield from puts((note.words(), state))
    else:
        yield from commits(note)
    yield from _release(held)
    return note


def _finish(w: World, note: Note, state: Any, ahead: tuple[int, ...], held: Records) -> Steps:
    """Send what is to be sent at the end."""
    if w.finish is not None:
        if w.checkpoint and not state:
            raise Violation("the state is lost")
        for edge, value in w.finish:
            ahead = yield from put_item(ahead, edge, (value, state))
        if w.turns == "many":
            yield from mark(w, ahead)
        note = note._replace(turns=note.turns + 1)
    note = note._replace(flags=FINISHED)
    return (yield from _commit(w, note, state, held))


def _complete(w: World, note: Note) -> Steps:
    """Complete a unit whose last output has been sent, and was its input."""
    if not w.has_turns and w.turns == "many":
        at = yield from positions(w)
        for edge in range(w.edges):
            if at[edge] - note.out[edge] == (edge == note.edge):
                yield from send(edge, MARK)
    note = note._replace(flags=0, out=(yield from positions(w)))
    yield from commit(note)
    return note


def went_on(_: World, note: Note, freed: tuple[int, ...]) -> Steps:
    """Return whether the input of a unit went on."""
    yield from ()
    return freed[note.channel] > note.before


def _restore(
    w: World, *, complete: Any = _complete, withdraws: Any = withdraw, went: Any = went_on
) -> Steps:
    """Return note, state, what the edges are ahead, and the readings."""
    note = yield from valid_note(w)
    state: Any = 0
    data = (yield from get_state()) if w.checkpoint else None
    if data is not None:
        words, state = data
        note = note_of(w, words)
    freed = yield from counts(w)
    if note.flags & FORWARD:
        if (yield from went(w, note, freed)):
            note = yield from complete(w, note)
        else:
            other = yield from other_note(w)
            yield from withdraws()
            note = other
    readings: tuple[Reading, ...] = ()
    for entry in range(len(w.inputs)):
        for channel in w.channels(entry):
            count = freed[channel]
            while count < note.freed[channel]:
                here = yield get(("here", channel))
                yield from free(channel, here[0])
                count += 1
        number = sum(note.freed[channel] for channel in w.channels(entry))
        script = (yield from picks(number)) if w.has_log else ()
        readings = (*readings, Reading(note.taken[entry], number, script))
    at = yield from positions(w)
    ahead = tuple(a - b for a, b in zip(at, note.out, strict=True))
    if min(ahead) < 0:
        raise Violation("an edge is behind the note")
    return note, state, ahead, readings


def take(w: World, readings: tuple[Reading, ...], *, reads: Any = next_record) -> Steps:
    """Return readings one unit further, and its records, also marks; None at the end."""
    taken: Records = ()
    for entry in range(len(w.inputs)):
        while True:
            found = yield from reads(w, entry, readings[entry])
            if found is None:
                return None
            readings = (*readings[:entry], found[0], *readings[entry + 1 :])
            taken = (*taken, found[1:])
            if len(w.inputs) == 1 or w.records[found[1]][found[2]] != MARK:
                break
    return readings, taken


def after_unit(w: World, note: Note, taken: Records, readings: tuple[Reading, ...]) -> Note:
    """Return the note of a unit as if it were complete."""
    is_mark = all(w.records[channel][index] == MARK for channel, index in taken)
    freed = list(note.freed)
    for channel, _ in taken:
        freed[channel] += 1
    return note._replace(
        flags=0,
        units=note.units + 1,
        turns=note.turns + (not w.has_turns or is_mark),
        freed=tuple(freed),
        taken=tuple(reading.taken for reading in readings),
    )


def _unit(
    w: World,
    note: Note,
    state: Any,
    ahead: tuple[int, ...],
    readings: tuple[Reading, ...],
    taken: Records,
    *,
    send_on: Any = _send_on,
) -> Steps:
    """Call the kernel once, and send what it gives; return note, state, ahead and what is held."""
    turns, freed = note.turns, note.freed
    note = after_unit(w, note, taken, readings)
    live = tuple(one for one in taken if w.records[one[0]][one[1]] != MARK)
    items = tuple(w.records[channel][index] for channel, index in live)
    gone = None
    if live:
        state += 1
        values = w.kernel(*items)
        number = 0
        while number < len(values):
            edge, value = values[number]
            number += 1
            if value == ITSELF and number == len(values) and not ahead[edge] and not w.checkpoint:
                if (yield from send_on(w, note, freed, edge, items[-1], live[-1])):
                    gone = live[-1]
            elif edge in w.ended and not ahead[edge]:
                yield from lose(edge)
            else:
                value = items[-1] if value == ITSELF else value
                value = (value, state) if w.checkpoint else value
                ahead = yield from put_item(ahead, edge, value)
    if w.turns == "many" and note.turns > turns:
        ahead = yield from mark(w, ahead)
    return note, state, tuple(one for one in taken if one != gone), ahead


def worker(
    w: World,
    before: str | None,
    *,
    restore: Any = _restore,
    takes: Any = take,
    unit: Any = _unit,
    commits: Any = _commit,
    finish: Any = _finish,
    ends: Any = commit,
) -> Steps:
    """Work until the inputs end."""
    yield from after(before)
    if (yield get(("finished",))):
        return
    note, state, ahead, readings = yield from restore(w)
    held: Records = ()
    while not note.flags & FINISHED:
        found = yield from takes(w, readings)
        if found is None:
            break
        readings, taken = found
        note, state, rest, ahead = yield from unit(w, note, state, ahead, readings, taken)
        held += rest
        if len(held) >= w.checkpoint:
            if any(ahead):
                raise Violation("what was sent before is not sent again")
            note = yield from commits(w, note, state, held)
            held = ()
    if not note.flags & FINISHED:
        note = yield from finish(w, note, state, ahead, held)
    if w.checkpoint:
        yield from ends(note)
        yield from close_state()
    yield put(("finished",), True)
