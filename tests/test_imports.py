"""What `import ipcheap` and a first message import, and what is imported later."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import sysconfig

import pytest

import ipcheap
from ipcheap import testing

# Each takes as long to import as everything that a first message needs, or imports such a module.
# Records and static segments do not need them, either; arrays, objects and asyncio need some.
HEAVY = {
    "argparse",
    "ast",
    "asyncio",
    "cffi",
    "ctypes",
    "dataclasses",
    "enum",
    "inspect",
    "json",
    "logging",
    "multiprocessing",
    "numpy",
    "pathlib",
    "pickle",
    "re",
    "selectors",
    "socket",
    "subprocess",
    "struct",
    "posix_ipc",
    "sysv_ipc",
    "tempfile",
    "threading",
    "typing",
}

# So does each of these. What finds the package of an editable install imports them too. So only the
# package's own import statements count.
HEAVY_HERE = {"collections", "contextlib", "functools", "operator", "warnings"}

FIRST_MESSAGE = """
import builtins, sys
find, by_us = builtins.__import__, set()

def note(name, names=None, *rest):
    if names and names.get("__name__", "").startswith("ipcheap"):
        by_us.add(name.partition(".")[0])
    return find(name, names, *rest)

builtins.__import__ = note
before = set(sys.modules)
import ipcheap

with ipcheap.Heap.create(sys.argv[1], "1MiB") as heap:
    heap.add_record_channel("frames")
    with heap.consumer("frames") as consumer, heap.producer("frames") as producer:
        producer.send(b"first")
        assert consumer.recv() == b"first"
        producer.send_record(producer.allocate_record(5))
        consumer.recv_record().free()
        try:
            consumer.recv(timeout=0)
        except TimeoutError:
            pass
    heap.add_static_segment("state", 64).atomic(0).store(1)
    heap.unlink()
{more}
print(*(set(sys.modules) - before - {not_ours} | by_us))
"""

LATER = {
    "Barrier": "sync",
    "BarrierTimeout": "sync",
    "Codec": "codec",
    "EndpointStatistics": "results",
    "Event": "sync",
    "HeapInfo": "results",
    "HeapStatistics": "results",
    "Lock": "sync",
    "Participant": "results",
    "RecoveryReport": "results",
    "Sealed": "_sealed",
    "StreamStatistics": "results",
    "heaps": "_outside",
    "sealed": "_sealed",
    "wait": "waiting",
}


def imported(heap_name: str, more: str = "") -> set[str]:
    """Return what a new interpreter imports for a first message and for what comes after."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            FIRST_MESSAGE.format(more=more, not_ours=HEAVY_HERE),
            heap_name,
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=testing.PATIENCE,
        check=True,
    )
    return set(done.stdout.split())


def test_a_first_message_imports_nothing_heavy(heap_name: str) -> None:
    found = imported(heap_name)
    assert {"ipcheap.heap", "ipcheap.producer", "ipcheap.consumer"} < found
    assert found & (HEAVY | HEAVY_HERE) == set()
    assert found & {f"ipcheap.{module}" for module in LATER.values()} == set()


def test_results_import_nothing_heavy(heap_name: str) -> None:
    found = imported(heap_name, more="ipcheap.HeapInfo, ipcheap.Participant")
    assert "ipcheap.results" in found
    assert found & HEAVY == set()


def test_a_heavy_import_would_be_seen(heap_name: str) -> None:
    more = "import dataclasses; dataclasses.fields(ipcheap.HeapInfo)"
    assert {"dataclasses", "inspect"} < imported(heap_name, more) & HEAVY
    assert "collections" in imported(heap_name, more="heap.channels")


@pytest.mark.parametrize(("name", "module"), LATER.items())
def test_a_name_that_comes_later_is_the_one_of_its_module(name: str, module: str) -> None:
    namespace = vars(ipcheap)
    namespace.pop(name, None)  # another test may have imported it
    assert name in dir(ipcheap)
    found = getattr(ipcheap, name)
    assert found is getattr(importlib.import_module(f"ipcheap.{module}"), name)
    assert namespace[name] is found  # kept for the next access


ANOTHER_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters  # Python 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

def make():
    if sys.version_info >= (3, 13):
        return interpreters.create("legacy")
    return interpreters.create(**({"isolated": False} if sys.version_info >= (3, 12) else {}))

def refused(other):
    try:
        said = interpreters.run_string(other, "import ipcheap")
    except interpreters.RunFailedError as error:
        said = error
    print("ImportError" in str(said) and REFUSAL in str(said))

def use():
    import ipcheap
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("c", 4)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"hello")
            with consumer.recv_record(timeout=1) as record:
                print(type(record) is ipcheap.Record and bytes(record) == b"hello")

for who in ORDER:
    if who == "main":
        use()
    else:
        other = make()
        refused(other)
        refused(other)
        interpreters.destroy(other)
"""


# Free-threaded Python refuses by itself, in any subinterpreter and in these words.
REFUSAL = (
    "does not support loading in subinterpreters"
    if sysconfig.get_config_var("Py_GIL_DISABLED")
    else "main interpreter"
)


@pytest.mark.parametrize("order", [("main", "other", "main"), ("other", "main", "other", "main")])
def test_a_subinterpreter_is_refused_and_spoils_nothing(order: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"ORDER = {order}\nREFUSAL = {REFUSAL!r}\n{ANOTHER_INTERPRETER}",
        ],
        capture_output=True,
        text=True,
        timeout=testing.PATIENCE,
    )
    answers = order.count("main") + 2 * order.count("other")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["True"] * answers


def test_all_names_are_there_and_no_others() -> None:
    assert set(ipcheap.__all__) <= set(dir(ipcheap))
    namespace: dict[str, object] = {}
    exec("from ipcheap import *", namespace)
    assert set(ipcheap.__all__) == namespace.keys() - {"__builtins__"}
    with pytest.raises(AttributeError, match="has no attribute 'HeapInformation'"):
        getattr(ipcheap, "HeapInformation")  # noqa: B009


def test_results_pickle(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel(1)
        with heap.producer(1) as producer:
            results = [
                heap.statistics(),
                producer.statistics(),
                heap.recover(),
                *heap.participants(),
                *(info for info in ipcheap.heaps() if info.name == heap_name),
            ]
        heap.unlink()
    assert {type(result).__name__ for result in results} == {
        "HeapStatistics",
        "EndpointStatistics",
        "RecoveryReport",
        "Participant",
        "HeapInfo",
    }
    assert pickle.loads(pickle.dumps(results)) == results
