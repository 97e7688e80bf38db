"""What the commands that look at heaps share: finding heaps, looking twice, and words for views."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import sizes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

NOTHING, FOUND, FAILED = 0, 1, 2
SCHEMA = 1
BETWEEN = 0.1  # seconds between two looks

_FOLDER = "/dev/shm"
_PREFIX = "ipcheap."


# Which heaps --------------------------------------------------------------------------------


@dataclass
class Sight:
    """The observers of the heaps that a command looks at.

    `others` names the heaps that the caller may not read. `code` is 2 if one that was named could
    not be looked at.
    """

    observers: dict[str, ipcheap.Observer] = field(default_factory=dict[str, ipcheap.Observer])
    others: list[str] = field(default_factory=list[str])
    code: int = NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for observer in self.observers.values():
            observer.close()


def sight_of(names: list[str]) -> Sight:
    """Return observers of those heaps, or of all that can be found if none is named."""
    return _named(names) if names else _all()


def _named(names: list[str]) -> Sight:
    sight = Sight()
    for name in dict.fromkeys(names):
        try:
            sight.observers[name] = ipcheap.observe(name)
        except PermissionError:
            sight.others.append(name)
            sight.code = FAILED
        except (ipcheap.Error, OSError, ValueError) as error:
            print(f"ipcheap: {error}", file=sys.stderr)
            sight.code = FAILED
    return sight


def _all() -> Sight:
    sight = Sight()
    known: set[tuple[int, int]] = set()
    for name in [*_plain_names(), *_nameless()]:
        is_plain = "/" not in name
        try:
            observer = ipcheap.observe(name)
        except PermissionError:
            if is_plain:
                sight.others.append(name)
            continue
        except (ipcheap.Error, OSError, ValueError):
            continue  # half-made, or no heap
        with contextlib.suppress(OSError):
            status = os.stat(observer.path)
            if (status.st_dev, status.st_ino) not in known:
                known.add((status.st_dev, status.st_ino))
                sight.observers[name] = observer
                continue
        observer.close()
    return sight


def _plain_names() -> list[str]:
    """Return the names of the heaps in /dev/shm."""
    with contextlib.suppress(OSError):
        files = os.listdir(_FOLDER)
        return sorted(
            file.removeprefix(_PREFIX)
            for file in files
            if file.startswith(_PREFIX) and "~" not in file
        )
    return []


def _nameless() -> Iterator[str]:
    """Yield what may be memfd and file heaps of processes, as far as the caller may look."""
    with contextlib.suppress(OSError):
        for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
            with contextlib.suppress(OSError, ValueError):
                mapped = _mapped(pid)
                if mapped:
                    yield from _descriptors(pid, mapped)


def _mapped(pid: int) -> set[str]:
    """Return the files of which a process has a large shared mapping for writing."""
    found: set[str] = set()
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            span, rights, _, _, _, *path = line.rstrip("\n").split(None, 5)
            if rights.startswith("rw-s") and path and not path[0].startswith(("/dev/", "/SYSV")):
                low, _, high = span.partition("-")
                if int(high, 16) - int(low, 16) >= 1 << 20:
                    found.add(path[0])
    return found


def _descriptors(pid: int, mapped: set[str]) -> Iterator[str]:
    """Yield a name for each descriptor of a process that leads to such a file."""
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{entry}")
            if target in mapped:
                yield f"memfd:{pid}/{entry}" if target.startswith("/memfd:") else target


# Looking ------------------------------------------------------------------------------------


@dataclass
class Look:
    """A heap as two looks have seen it, or why it could not be seen."""

    name: str
    before: ipcheap.Snapshot
    now: ipcheap.Snapshot

    @property
    def dead(self) -> list[ipcheap.ParticipantView]:
        """The participants that have died and are not recovered."""
        return [each for each in self.now.participants if each.state == "dead"]

    def blockers(self) -> list[ipcheap.Blocker]:
        """Return those of the second look that stood in the first as well, with nothing moved."""
        earlier = {(b.waiting, b.channel, b.side, b.blocker) for b in self.before.blockers()}
        return [
            each
            for each in self.now.blockers()
            if (each.waiting, each.channel, each.side, each.blocker) in earlier
            and self._stands(each)
        ]

    def _stands(self, blocker: ipcheap.Blocker) -> bool:
        """Whether what was waited for has not come between the two looks."""
        if blocker.reason == "lock":  # one that moves is only busy
            lock = self.now.lock
            return lock is not None and lock.state != "alive"
        if blocker.reason not in ("held", "slow", "empty") or blocker.channel is None:
            return True
        try:
            return _moved(self.before.channel(blocker.channel)) == _moved(
                self.now.channel(blocker.channel)
            )
        except KeyError:
            return False


def look_twice(sight: Sight) -> list[Look]:
    """Look at all heaps, and again a moment later: what has moved meanwhile is not blocked."""
    before = {name: observer.snapshot() for name, observer in sight.observers.items()}
    time.sleep(BETWEEN if before else 0)
    return [
        Look(name, before[name], observer.snapshot()) for name, observer in sight.observers.items()
    ]


def _moved(view: Any) -> tuple[object, ...]:
    names = ("sent", "received", "held", "written", "read", "version", "posted")
    return tuple(getattr(view, name, None) for name in names)


# Words --------------------------------------------------------------------------------------


def amount(records: int, nbytes: int) -> str:
    """Return a count and a size for a table; a dash for nothing."""
    return f"{records:,}  {sizes.show(nbytes)}" if records or nbytes else "–"


def place_of(participant: ipcheap.ParticipantView) -> str:
    """Return the process of a participant, and its thread if that is another."""
    pid, thread = participant.pid, participant.thread
    return f"{pid}/{thread}" if thread and thread != pid else str(pid)


def label_of(participant: ipcheap.ParticipantView) -> str:
    """Return the name of a participant."""
    return participant.label or "(unknown)"


def lines_about(look: Look) -> list[str]:
    """Return what is wrong with a heap itself, in sentences."""
    dead = [
        f"{label_of(each)} ({place_of(each)}) has died and is not recovered yet: the next "
        f"participant that needs it does that, or `ipcheap doctor --repair {look.name}`"
        for each in look.dead
    ]
    return dead + [f"corrupt: {text}" for text in look.now.unreadable]


def tell_others(sight: Sight) -> None:
    """Print which heaps the caller may not read."""
    for name in sight.others:
        print(f"{name}: belongs to another user; you may not read it")


# JSON ---------------------------------------------------------------------------------------


def document(command: str, sight: Sight, heaps: list[dict[str, Any]], code: int) -> dict[str, Any]:
    """Return the document that a command prints with --json."""
    return {
        "ipcheap": importlib.metadata.version("ipcheap"),
        "schema": SCHEMA,
        "command": command,
        "taken": time.time(),
        "heaps": heaps,
        "not ours": sight.others,
        "code": code,
    }


def as_json(thing: ipcheap.Blocker | ipcheap.Holding) -> dict[str, Any]:
    """Return a result as JSON types."""
    fields = dataclasses.asdict(thing)
    for name in ("oldest", "newest"):
        if name in fields:
            fields[name] = _age(fields[name])
    return fields


def _age(age: tuple[float, float] | None) -> dict[str, float] | None:
    return None if age is None else {"at_least": age[0], "at_most": age[1]}
