"""Examine heaps from outside: stale, half-made or broken ones, and dead participants.

`survey` lists the heaps. `examine` looks at one, and with `repair` repairs it as far as nothing is
lost that a process may still want. What it finds is a `Finding`, whose text names the way out.

Examining a heap makes this process a participant for a moment: `check()` takes the heap lock, and
taking it from a dead owner rebuilds the indices. Nothing else changes.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
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

    `what` is "unreadable", "half-made", "half-removed", "copy", "stale", "dead" or
    "broken". `text` is a
    sentence, and `remedy` the way out. `mended` is true if it has been repaired, `hopeless` if
    doctor cannot repair it.
    """

    what: str
    text: str
    remedy: str = ""
    mended: bool = False
    hopeless: bool = False


@dataclass
class Examination:
    """What was found about one heap."""

    name: str
    path: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    participants: list[Participant] = field(default_factory=list[Participant])
    findings: list[Finding] = field(default_factory=list[Finding])
    recovery: RecoveryReport | None = None

    @property
    def code(self) -> int:
        """The state of the heap now: 0 healthy, 1 something is left to do, 2 doctor cannot help."""
        if any(finding.hopeless for finding in self.findings):
            return FAILED
        return HEALTHY if all(finding.mended for finding in self.findings) else FOUND


def survey() -> tuple[list[str], list[str]]:
    """Return the plain names of heaps, complete or not, sorted.

    The second list has the names of those whose files the caller may not open.
    """
    return _outside.names()


def describe(name: str) -> ipcheap.HeapInfo | None:
    """Return what can be seen of a heap from outside, by name or path; None if that is nothing."""
    return _outside.describe(name)


def examine(name: str, *, repair: bool = False) -> Examination:
    """Examine one heap, by name or path; with `repair` also repair it."""
    seen = Examination(name, _outside.path_of(name))
    try:
        seen.findings += _look_from_outside(seen, repair=repair)
        if not seen.findings:
            seen.findings += _look_inside(seen, repair=repair)
    except ipcheap.HeapBusy as error:
        seen.findings.append(
            Finding(
                "unreadable", str(error), "continue or end the process that holds it", hopeless=True
            )
        )
    except (ipcheap.Error, OSError) as error:
        seen.findings.append(Finding("unreadable", str(error), hopeless=True))
    return seen


# From outside -----------------------------------------------------------------------------------


def _look_from_outside(seen: Examination, *, repair: bool) -> Iterator[Finding]:
    """Yield what is wrong with the kernel objects, before they are mapped."""
    try:
        state = _outside.state_of(seen.name)
    except ipcheap.HeapNotFound:
        seen.facts["state"] = "absent"
        raise
    seen.facts["state"] = state
    if state == "foreign":
        text = f"{seen.path} is not a heap, or a heap of another format"
        yield Finding("unreadable", text, "it was left untouched", hopeless=True)
    elif state in _HALF:
        what, text, remedy = _HALF[state]
        mended = repair and _outside.clear_away(seen.name)
        if mended:
            remedy = "its remains have been removed"
        elif repair:
            remedy = "a process still uses what is left of it; end that first, if it is not needed"
        yield Finding(what, text, remedy, mended=mended)


_HALF = {
    "half-made": (
        "half-made",
        "its creator died before it was ready",
        "Heap.create() or Heap.open() creates it anew; `ipcheap rm` or --repair removes the rest",
    ),
    "note": (
        "half-made",
        "there is a creator's note, but no heap",
        "--repair removes the note and what it lists",
    ),
    "half-removed": (
        "half-removed",
        "the process that removed it died, or a reboot or ipcrm removed its System V memory",
        "Heap.create() or Heap.open() creates it anew; `ipcheap rm` or --repair removes the rest",
    ),
}


# From inside ------------------------------------------------------------------------------------


def _look_inside(seen: Examination, *, repair: bool) -> Iterator[Finding]:
    if seen.facts["state"] not in ("ready", "copy"):
        return
    info = _outside.describe(seen.name)
    if info is not None:
        seen.facts |= {
            "shm": info.shm,
            "sem": info.sem,
            "capacity": info.capacity,
            "committed": info.committed,
            "mode": f"{stat.S_IMODE(info.mode):04o}",
            "owner": owner_of(info),
            "created": info.created,
        }
        if seen.facts["state"] == "copy":
            yield Finding(
                "copy",
                f"{seen.path} is a copy of a heap's file, and not the heap",
                f"no process can use it; `rm {seen.path}` removes it",
            )
        elif info.stale:
            yield Finding(
                "stale",
                "no process has it open; records may wait in it for a later consumer",
                f"`ipcheap rm {seen.name}` removes it, if no consumer will come for them",
            )
    with _opened(seen) as heap:
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
        remedy = (
            "recovered"
            if repair
            else "--repair recovers it, or the next process that needs it does"
        )
        yield Finding("dead", text, remedy, mended=repair)
    for fault in faults:
        mended = repair and fault not in left
        remedy = "mended" if mended else _BROKEN if repair else "--repair tries to repair it"
        yield Finding("broken", fault, remedy, mended, hopeless=repair and not mended)
    for fault in left:
        if fault not in faults:
            yield Finding("broken", fault, _BROKEN, hopeless=True)


def _opened(seen: Examination) -> Heap:
    if seen.facts["state"] == "ready":
        return Heap.attach(seen.name)
    segment = _outside.open_copy(seen.name)
    try:
        return Heap(segment)
    finally:
        segment.close()


def remove_unused(name: str) -> None:
    """Remove a heap; HeapBusy if a process has it open."""
    _outside.remove_unused(name)


_BROKEN = "save what you need of it and remove the heap: a stray write has damaged it"


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
    """Return the state of a heap in a few words."""
    if seen.code == FAILED:
        return "cannot be helped"
    if seen.code == FOUND:
        return "needs attention"
    if seen.facts.get("state") == "being made":
        return "being made"
    return "mended" if seen.findings else "healthy"


def recovery_text(report: RecoveryReport) -> str:
    """Return what a recovery did, in words."""
    text = (
        f"recovered {report.participants} dead participants with {report.endpoints} endpoints; "
        f"freed {report.blocks} blocks ({sizes.show(report.bytes)}); "
        f"{report.redelivered} records will be redelivered"
    )
    if report.channels:
        places = ", ".join(f"{count} on {name!r}" for name, count in report.channels.items())
        text += f" ({places})"
    return text


def as_json(seen: Examination) -> dict[str, Any]:
    """Return all that was found, as JSON types."""
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


def owner_of(info: ipcheap.HeapInfo) -> str:
    """Return the owner and the group of a heap, by name where they have one: "alice:video"."""
    user, group = str(info.uid), str(info.gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(info.uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(info.gid).gr_name
    return f"{user}:{group}"


def who(participant: Participant) -> str:
    """Return the name of a participant."""
    where = ", in another PID namespace" if participant.elsewhere else ""
    name = participant.name or "an unknown participant"
    return f"{name} (pid {participant.pid}, thread {participant.thread}{where})"
