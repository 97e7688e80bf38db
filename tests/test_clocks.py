"""No wait depends on a clock that can be set. native/tests/test_clocks.c tries it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What waits until a time of the wall clock, or reads that clock.
SETTABLE = re.compile(
    r"\bCLOCK_REALTIME\b|\bsem_timedwait\(|\bpthread_(?:cond|mutex|rwlock)_timed\w+\("
    r"|\bmq_timed\w+\(|\bFUTEX_CLOCK_REALTIME\b|\bgettimeofday\(|\btime\.time\(|\btime\(NULL\)"
)
# When a heap was created, a participant joined, or a chunk was put or held, for people to read.
ALLOWED = (
    "uint64_t os_wall_clock(void) { return (uint64_t)clock_ns(CLOCK_REALTIME); }",
    (
        "def wall_clock() -> float:\n"
        '    """Return the time in seconds since the epoch."""\n'
        "    import time\n\n    return time.time()\n"
    ),
)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^\s*#[^\n]*", re.DOTALL | re.MULTILINE)


def uses(text: str) -> list[str]:
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return SETTABLE.findall(COMMENT.sub("", text))


def test_only_the_time_of_creation_is_read_from_a_clock_that_can_be_set() -> None:
    sources = [
        *(ROOT / "native" / "src").rglob("*.[ch]"),
        *(ROOT / "native" / "bindings").rglob("*.[ch]"),
        *(file for file in (ROOT / "ipcheap").rglob("*.py") if "tools" not in file.parts),
    ]
    assert len(sources) > 50
    assert {file.name: found for file in sources if (found := uses(file.read_text()))} == {}
    assert ALLOWED[0] in (ROOT / "native" / "src" / "base" / "os.c").read_text()
    assert ALLOWED[1] in (ROOT / "ipcheap" / "chunk.py").read_text()


def test_a_use_of_such_a_clock_is_seen() -> None:
    assert uses("int f(void) { return sem_timedwait(s, &until); }") == ["sem_timedwait("]
    assert uses("end = time.time() + 5") == ["time.time("]
    assert uses("/* unlike sem_timedwait() */ return time.monotonic()") == []
