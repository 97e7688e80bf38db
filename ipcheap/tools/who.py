"""`ipcheap who`: which participant has what, and which waits for which."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ipcheap import sizes
from ipcheap.tools import looking
from ipcheap.tools.screen import human_age, print_table

if TYPE_CHECKING:
    import argparse

    import ipcheap

_MOST_CHANNELS = 3  # that a cell of the table names


def run(arguments: argparse.Namespace) -> int:
    """Show who has what, once, or again and again with --watch."""
    with looking.sight_of(arguments.name) as sight:
        while True:
            code = _show(sight, as_json=arguments.json)
            if arguments.watch is None:
                return code
            sys.stdout.flush()
            time.sleep(arguments.watch)
            if not arguments.json:
                print()


def _show(sight: looking.Sight, *, as_json: bool) -> int:
    looks = looking.look_twice(sight)
    blockers = {look.name: look.blockers() for look in looks}
    worries = any(look.dead or look.now.unreadable or blockers[look.name] for look in looks)
    code = max(sight.code, looking.FOUND if worries else looking.NOTHING)
    if as_json:
        heaps: list[dict[str, Any]] = [
            look.now.as_dict()
            | {"blockers": [looking.as_json(each) for each in blockers[look.name]]}
            for look in looks
        ]
        print(json.dumps(looking.document("who", sight, heaps, code)))
        return code
    for number, look in enumerate(looks):
        if number:
            print()
        _tell(look, blockers[look.name])
    looking.tell_others(sight)
    return code


def _tell(look: looking.Look, blockers: list[ipcheap.Blocker]) -> None:
    seen = look.now
    in_use = sizes.show(seen.usage.in_use if seen.usage else 0)
    count = len(seen.participants)
    print(
        f"{look.name}: {in_use} of {sizes.show(seen.capacity)} in use by {count} "
        f"participant{'s' * (count != 1)}; seen in {seen.seconds * 1e3:.1f} ms"
    )
    if seen.participants:
        print()
        heads = ("participant", "pid/thread", "state", "cpu", "owns", "holds", "sends", "receives")
        rows = [_row(look, each) for each in seen.participants]
        print_table((*heads, "since"), rows, "lllrrrllr")
    print()
    lines = [each.text for each in blockers] + looking.lines_about(look)
    for line in lines or ["nobody waits for anybody who does not move"]:
        print(line)


def _row(look: looking.Look, each: ipcheap.ParticipantView) -> list[str]:
    seen = look.now
    state = "waiting" if each.state == "alive" and each.waits else each.state
    return [
        looking.label_of(each),
        looking.place_of(each) + " (elsewhere)" * each.elsewhere,
        state,
        "?" if each.cpu is None else f"{each.cpu:.0%}",
        _amount(seen, each.key, "owned"),
        _amount(seen, each.key, "held"),
        _channels(seen, each.key, ("producer", "writer")),
        _channels(seen, each.key, ("consumer", "reader", "readers", "listeners")),
        human_age(seen.taken - each.since),
    ]


def _amount(seen: ipcheap.Snapshot, key: str, how: str) -> str:
    found = [each for each in seen.holdings if each.holder == key and each.how == how]
    return looking.amount(sum(h.records for h in found), sum(h.nbytes for h in found))


def _channels(seen: ipcheap.Snapshot, key: str, sides: tuple[str, ...]) -> str:
    """Return the channels of which a participant holds one of those sides."""
    found: list[str] = []
    for view in seen.channels:
        for name in sides:
            side: Any = getattr(view, name, ())
            parties: tuple[Any, ...] = side if name in ("readers", "listeners") else (side,)
            if any(getattr(party, "holder", None) == key for party in parties):
                found.append(str(view.id))
                break
    more = f" … {len(found) - _MOST_CHANNELS} more" if len(found) > _MOST_CHANNELS else ""
    return ", ".join(found[:_MOST_CHANNELS]) + more or "–"
