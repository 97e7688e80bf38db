"""Look at a heap as a stranger: what is stale, half-made, broken, or left by the dead.

`survey` names what there is. `examine` looks at one heap, and with `repair` mends what can be
mended without losing anything that somebody may still want. What it finds is a `Finding`, with
the way out in words.

To look into a heap is to take part in it for a moment: `check()` takes the heap's lock, and
whoever takes it from a dead owner makes the indices again. Else nothing is changed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import Heap, Participant, RecoveryReport, _outside, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

HEALTHY, FOUND, FAILED = 0, 1, 2


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    `what` is "unreadable", "half-made", "half-removed", "stale", "dead" or "broken"; `text` a
    sentence, `remedy` the way out. `mended` tells that it is not so any more; `hopeless`
    that doctor cannot help.
    """

    what: str
    text: str
    remedy: str = ""
    mended: bool = False
    hopeless: bool = False


@dataclass
class Examination:
    """What was seen of one heap."""

    name: str
    path: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    participants: list[Participant] = field(default_factory=list[Participant])
    findings: list[Finding] = field(default_factory=list[Finding])
    recovery: RecoveryReport | None = None

    @property
    def code(self) -> int:
        """How it is now: 0 healthy, 1 something is left to do, 2 doctor cannot help."""
        if any(finding.hopeless for finding in self.findings):
            return FAILED
        return HEALTHY if all(finding.mended for finding in self.findings) else FOUND


def survey() -> tuple[list[str], list[str]]:
    """Return the plain names under which there is something, whole or not.

    Second come those whose files the caller may not open.
    """
    return _outside.names()


def examine(name: str, *, repair: bool = False) -> Examination:
    """Look at one heap, by name or path; mend it if told to."""
    seen = Examination(name, _outside.path_of(name))
    try:
        seen.findings += _look_from_outside(seen, repair=repair)
        if not seen.findings:
            seen.findings += _look_inside(seen, repair=repair)
    except ipcheap.HeapBusy as error:
        seen.findings.append(
            Finding("unreadable", str(error), "continue, or end, whoever holds it", hopeless=True)
        )
    except (ipcheap.Error, OSError) as error:
        seen.findings.append(Finding("unreadable", str(error), hopeless=True))
    return seen


# From outside -----------------------------------------------------------------------------------


def _look_from_outside(seen: Examination, *, repair: bool) -> Iterator[Finding]:
    """Yield what is wrong with the kernel objects, before anybody maps them."""
    try:
        state = _outside.state_of(seen.name)
    except ipcheap.HeapNotFound:
        seen.facts["state"] = "absent"
        raise
    seen.facts["state"] = state
    if state == "foreign":
        text = f"{seen.path} is not a heap, or one of another format"
        yield Finding("unreadable", text, "it was left untouched", hopeless=True)
    elif state in _HALF:
        what, text, remedy = _HALF[state]
        if repair:
            _outside.clear_away(seen.name)
            remedy = "what was left of it has been removed"
        yield Finding(what, text, remedy, mended=repair)


_HALF = {
    "half-made": (
        "half-made",
        "whoever created it died before it was ready",
        "Heap.create() or Heap.open() makes it anew; `ipcheap rm` or --repair removes the rest",
    ),
    "note": (
        "half-made",
        "there is a creator's note, but no heap",
        "--repair removes it, and what it names",
    ),
    "half-removed": (
        "half-removed",
        "whoever removed it died, or its System V memory went by a reboot or ipcrm",
        "Heap.create() or Heap.open() makes it anew; `ipcheap rm` or --repair removes the rest",
    ),
}


# From inside ------------------------------------------------------------------------------------


def _look_inside(seen: Examination, *, repair: bool) -> Iterator[Finding]:
    if seen.facts["state"] != "ready":
        return
    info = _outside.describe(seen.name)
    if info is not None:
        seen.facts |= {
            "shm": info.shm,
            "sem": info.sem,
            "capacity": info.capacity,
            "committed": info.committed,
            "mode": f"{stat.S_IMODE(info.mode):04o}",
            "created": info.created,
        }
        if info.stale:
            yield Finding(
                "stale",
                "nobody has it open; records may wait in it for a later consumer",
                f"`ipcheap rm {seen.name}` removes it, if none is to come",
            )
    with Heap.attach(seen.name) as heap:
        seen.participants = [p for p in heap.participants() if not _is_this(p)]
        dead = [p for p in seen.participants if p.state == "dead"]
        faults = heap.check()
        if repair and (dead or faults):
            seen.recovery = heap.recover()
            seen.participants = [p for p in seen.participants if p not in dead]
            left = heap.check()
        else:
            left = faults
        seen.facts |= _numbers(heap)
    for participant in dead:
        text = f"{who(participant)} has died" + ("" if repair else " and is not yet recovered")
        remedy = "recovered" if repair else "whoever needs what it had recovers it, or --repair"
        yield Finding("dead", text, remedy, mended=repair)
    for fault in faults:
        mended = repair and fault not in left
        remedy = "mended" if mended else _BROKEN if repair else "--repair tries to mend it"
        yield Finding("broken", fault, remedy, mended, hopeless=repair and not mended)
    for fault in left:
        if fault not in faults:
            yield Finding("broken", fault, _BROKEN, hopeless=True)


_BROKEN = "save what you need of it and remove the heap: something wrote where it should not"


def _is_this(participant: Participant) -> bool:
    alive = participant.state != "dead"
    return alive and participant.pid == os.getpid() and not participant.elsewhere


def _numbers(heap: Heap) -> dict[str, Any]:
    numbers = heap.statistics()
    return {
        "in_use": numbers.in_use,
        "records": numbers.records,
        "channels": numbers.channels,
        "recoveries": numbers.recoveries,
    }


# In words ---------------------------------------------------------------------------------------


def verdict(seen: Examination) -> str:
    """Say in a word how a heap is now."""
    if seen.code == FAILED:
        return "cannot be helped"
    if seen.code == FOUND:
        return "needs attention"
    if seen.facts.get("state") == "being made":
        return "being made"
    return "mended" if seen.findings else "healthy"


def recovery_text(report: RecoveryReport) -> str:
    """Say what a recovery did."""
    text = (
        f"recovered {report.participants} dead, who held {report.endpoints} endpoints; freed "
        f"{report.blocks} blocks ({sizes.show(report.bytes)}); "
        f"{report.redelivered} records come again"
    )
    if report.channels:
        places = ", ".join(f"{count} on {name!r}" for name, count in report.channels.items())
        text += f" ({places})"
    return text


def as_json(seen: Examination) -> dict[str, Any]:
    """Return all that was seen, for machines."""
    return {
        "name": seen.name,
        "path": seen.path,
        "code": seen.code,
        "verdict": verdict(seen),
        **seen.facts,
        "participants": [asdict(participant) for participant in seen.participants],
        "findings": [asdict(finding) for finding in seen.findings],
        "recovery": asdict(seen.recovery) if seen.recovery else None,
    }


def who(participant: Participant) -> str:
    """Name a participant."""
    where = ", of another PID namespace" if participant.elsewhere else ""
    name = participant.name or "an unknown participant"
    return f"{name} (pid {participant.pid}, thread {participant.thread}{where})"
