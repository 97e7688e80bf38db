"""What lives on when the interpreter ends says nothing, and ends its channels."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ipcheap import testing

KEPT = """
import builtins, sys, threading, warnings
import ipcheap
warnings.simplefilter("ignore", ResourceWarning)

def everything():
    heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
    heap.add_record_channel("c", 4)
    producer, consumer = heap.producer("c"), heap.consumer("c")
    producer.send(b"x")
    record = consumer.recv_record()
    segment = heap.add_static_segment("s", 64)
    bus = heap.add_bus("b")
    listener = bus.listen()
    bus.post_many([b"x", b"y", b"z"])
    message, kept = listener.recv_records(2)
    kept.keep()
    return [
        heap, producer, consumer, record, record.view, segment, segment.atomic(0), bus, listener,
        message, message.view, kept, kept.view,
    ]

class Cycle:
    pass
"""

IN_BUILTINS = "builtins.kept = everything()"
IN_A_CYCLE = "cycle = Cycle(); cycle.me = cycle; cycle.kept = everything()"
IN_A_THREAD = """
local, ready = threading.local(), threading.Event()

def work():
    local.kept = everything()
    ready.set()
    threading.Event().wait()

threading.Thread(target=work, daemon=True).start()
ready.wait()
"""
# As an interpreter does with modules that are still referred to in the end.
AFTER_THE_MODULES = """
class Last:
    def __init__(self):
        self.kept = everything()

    def __del__(self, modules=[m for n, m in sys.modules.items() if n.startswith("ipcheap.")]):
        for module in modules:
            names = vars(module)
            for name in list(names):
                if not name.startswith("__"):
                    names[name] = None
        self.kept.clear()

builtins.kept = Last()
"""


@pytest.mark.parametrize(
    "program",
    [IN_BUILTINS, IN_A_CYCLE, IN_A_THREAD, AFTER_THE_MODULES],
    ids=["builtins", "cycle", "thread", "after the modules"],
)
def test_an_end_with_open_endpoints_is_silent(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", KEPT + program],
        capture_output=True,
        text=True,
        timeout=testing.PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
