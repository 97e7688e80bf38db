"""`ipcheap leaks`: what no participant moves."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ipcheap import sizes
from ipcheap.tools import looking
from ipcheap.tools.screen import print_table

if TYPE_CHECKING:
    import argparse

    import ipcheap

    Growth = dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Show what no participant moves; with --for also what grows meanwhile."""
    with looking.sight_of(arguments.name) as sight:
        first = {name: observer.snapshot() for name, observer in sight.observers.items()}
        if arguments.seconds is not None:
            time.sleep(arguments.seconds)
        last = {name: observer.snapshot() for name, observer in sight.observers.items()}
        found = {name: _standing(first[name], seen) for name, seen in last.items()}
        growth = {
            name: [] if arguments.seconds is None else _growth(first[name], seen)
            for name, seen in last.items()
        }
        worries = any(found.values()) or any(seen.unreadable for seen in last.values())
        code = max(sight.code, looking.FOUND if worries else looking.NOTHING)
        if arguments.json:
            heaps = [
                seen.as_dict()
                | {
                    "leaks": [looking.as_json(each) for each in found[name]],
                    "growth": growth[name],
                }
                for name, seen in last.items()
            ]
            print(json.dumps(looking.document("leaks", sight, heaps, code)))
            return code
        for name, seen in last.items():
            _tell(name, seen, found[name], growth[name], arguments.seconds)
        looking.tell_others(sight)
        return code


def _standing(before: ipcheap.Snapshot, now: ipcheap.Snapshot) -> list[ipcheap.Holding]:
    """Return the holdings that nobody moves at the end, and nobody did at the beginning."""
    earlier = {(each.how, each.holder, each.channel) for each in before.leaks()}
    return [each for each in now.leaks() if (each.how, each.holder, each.channel) in earlier]


def _growth(before: ipcheap.Snapshot, now: ipcheap.Snapshot) -> list[Growth]:
    """Return the holdings that have grown, the fastest first."""
    earlier = {(each.how, each.holder, each.channel): each for each in before.holdings}
    found: list[Growth] = []
    for each in now.holdings:
        then = earlier.get((each.how, each.holder, each.channel))
        records = each.records - (then.records if then else 0)
        nbytes = each.nbytes - (then.nbytes if then else 0)
        if records > 0 and nbytes > 0:
            found.append(
                {
                    "how": each.how,
                    "holder": each.holder,
                    "channel": each.channel,
                    "records": records,
                    "nbytes": nbytes,
                }
            )
    return sorted(found, key=lambda each: (-each["nbytes"], -each["records"]))


def _tell(
    name: str,
    seen: ipcheap.Snapshot,
    found: list[ipcheap.Holding],
    growth: list[Growth],
    seconds: float | None,
) -> None:
    in_use = seen.usage.in_use if seen.usage else 0
    if found:
        total = sum(each.nbytes for each in found)
        print(
            f"{name}: no participant moves {len(found)} holding{'s' * (len(found) != 1)}: "
            f"{sizes.show(total)} of {sizes.show(in_use)} in use"
        )
        print()
        rows = [
            [
                each.how,
                _holder(seen, each.holder, each.how),
                f"{each.records:,}",
                sizes.show(each.nbytes),
                "" if each.channel is None else repr(each.channel),
                each.form if each.form != "unknown" else "",
            ]
            for each in found
        ]
        print_table(("what", "holder", "records", "size", "of", ""), rows, "llrrll")
    else:
        print(f"{name}: all of {sizes.show(in_use)} in use has a participant that can move it")
    for each in growth:
        channel = "" if each["channel"] is None else f" in {each['channel']!r}"
        print(
            f"{_holder(seen, each['holder'], each['how'])}: {each['how']}{channel} grew by "
            f"{each['records']:,} records ({sizes.show(each['nbytes'])}) while watched for "
            f"{seconds:g} s"
        )
    for text in seen.unreadable:
        print(f"corrupt: {text}")


def _holder(seen: ipcheap.Snapshot, key: str | None, how: str) -> str:
    if key is None:
        return "(nobody receives)" if how == "pending" else "(nobody)"
    try:
        view = seen.participant(key)
    except KeyError:
        return "(gone)"
    state = f", {view.state}" if view.state != "alive" else ""
    return f"{looking.label_of(view)} {looking.place_of(view)}{state}"
