"""Cold start: import, create and first message, minus the time of a bare interpreter."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from workloads.workload import Figure, Workload

FOLDER = Path(__file__).resolve().parents[1]

BARE = """
import time
print(time.monotonic_ns())
"""

FIRST_MESSAGE = """
import peers
peer = peers.load({key!r})(1, 64, 8)
receiver, sender = peer.receiver(0), peer.sender(0)
while not sender.ready():
    pass
sender.send(bytes(64))
assert receiver.recv() == bytes(64)
import time
print(time.monotonic_ns())
sender.close()
receiver.close()
peer.close()
"""


def started(script):
    """Return the milliseconds from the start of an interpreter to the time it prints."""
    usual = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=FOLDER,  # where `import peers` finds the peers
        env=usual,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if not done.stdout:
        raise RuntimeError(done.stderr[-500:])
    return (int(done.stdout.split()[0]) - begin) / 1e6


class ColdStart(Workload):
    """Both ends are in one process, so that no second interpreter is counted."""

    key = "cold-start"
    title = "cold start: import, create, first message"
    figures = (
        Figure("over_ms", "over a bare interpreter", "ms", more=False),
        Figure("bare_ms", "bare interpreter", "ms", more=False),
    )

    def run(self, key, peer, seconds):
        script = FIRST_MESSAGE.format(key=key)
        started(script)  # compiles the modules and warms up the page cache
        bare, whole = [], []
        end = time.monotonic() + seconds
        while not whole or time.monotonic() < end:
            bare.append(started(BARE))
            whole.append(started(script))
        bare_ms = statistics.median(bare)
        return {"over_ms": statistics.median(whole) - bare_ms, "bare_ms": bare_ms}


WORKLOADS = (ColdStart(),)
