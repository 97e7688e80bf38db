"""Which calls into the core keep the GIL, and that they really do.

core.cdef.txt has three parts; here they are compared with core.csrc.c, and with the clock.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import peers
import pytest

import ipcheap
from ipcheap._core import lib

if TYPE_CHECKING:
    from collections.abc import Callable

BINDINGS = Path(__file__).resolve().parents[1] / "native" / "bindings"
PARTS = {
    "keeps": "keeps the GIL",
    "mostly": "keeps the GIL unless it has to sleep",
    "releases": "releases the GIL",
}
RELEASE = "PyEval_SaveThread"
ENTER = "ipcheap_endpoint_enter"


def parts() -> dict[str, set[str]]:
    """Return the functions of each part of the cdef."""
    text = (BINDINGS / "core.cdef.txt").read_text()
    pieces = re.split(r"/\* (keeps the GIL|keeps the GIL unless .*?|releases the GIL) -+ \*/", text)
    found = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return {
        part: set(re.findall(r"^\w[\w *]*?\b(\w+)\(", found[title], re.MULTILINE))
        for part, title in PARTS.items()
    }


def definitions() -> dict[str, str]:
    """Return the functions that the bindings define, with their bodies."""
    text = "".join(source.read_text() for source in sorted(BINDINGS.glob("*.c")))
    found = {
        match[1]: match[2]
        for match in re.finditer(
            r"^\w[\w *]*?\b(\w+)\([^;{]*\) \{(.*?)(?:(?<!\n) |\n)\}$",
            text,
            re.MULTILINE | re.DOTALL,
        )
    }
    found |= {
        f"py_{name}": RELEASE for name in re.findall(r"^RELEASING\(\w+, (\w+)", text, re.MULTILINE)
    }
    found |= {f"py_atomic_{name}": "" for name in re.findall(r"^ATOMIC\((\w+)", text, re.MULTILINE)}
    return found


def keeping() -> set[str]:
    """Return the core's functions that are called with the GIL kept if possible."""
    text = (BINDINGS / "gil.c").read_text()
    found = re.findall(r"^KEEPING\(\w+, (\w+)|^\w+ keeping_(\w+)\(", text, re.MULTILINE)
    return {macro or function for macro, function in found}


def test_every_function_stands_in_one_part() -> None:
    functions = [name for part in parts().values() for name in part]
    assert len(functions) == len(set(functions))
    assert set(functions) == {name for name in dir(lib) if callable(getattr(lib, name))}


def test_what_keeps_the_gil_does_not_release_it() -> None:
    bodies = definitions()
    for name in parts()["keeps"]:
        if not name.startswith("ipcheap_"):
            assert RELEASE not in bodies[name], name
            assert "keeping_" not in bodies[name], name
            assert "releasing_" not in bodies[name], name


def test_what_keeps_it_unless_it_sleeps_goes_through_the_wrapper() -> None:
    bodies = definitions()
    for name in parts()["mostly"]:
        assert RELEASE not in bodies[name], name
        assert not re.search(r"\bipcheap_\w+\(", bodies[name]), name


def test_types_keep_it_unless_they_sleep() -> None:
    """The path of a message releases the GIL to sleep and for a long copy, and never otherwise."""
    called, holding, releasing = set(), set(), set()
    for source in (
        "pool.c",
        "block.c",
        "slice.c",
        "record.c",
        "memory.c",
        "bytes.c",
        "endpoint.c",
        "producer.c",
        "consumer.c",
        "stream.c",
        "chunk.c",
        "store.c",
        "bus.c",
    ):
        text = (BINDINGS / source).read_text()
        called |= set(re.findall(r"\bkeeping_(\w+)\(", text))
        holding |= set(re.findall(r"\bholding_(\w+)\(", text))
        releasing |= set(re.findall(r"\breleasing_(\w+)\(", text))
        bounded = re.findall(r"\bipcheap_\w+\([^)]*\)", text)
        assert set(bounded) <= {
            "ipcheap_array_of(heap, record, &description, NULL)",
            "ipcheap_wait(self->endpoint, 0)",
            "ipcheap_copy(heap, to, from, nbytes)",
            "ipcheap_forks()",
            "ipcheap_clock()",
            "ipcheap_limit_lock(seconds > 0 ? (int64_t)",
            "ipcheap_limit_lock(timeout_ns)",
            "ipcheap_limit_lock(-1)",
            "ipcheap_listener_tell_again(self->side.endpoint)",
            "ipcheap_broadcast_begin(heap_of(self)",
            "ipcheap_broadcast_describe(broadcast, &report)",
            "ipcheap_broadcast_end(broadcast)",
            # Without the GIL, as counted below.
            "ipcheap_await_releases(broadcast, LONGEST_LOOK)",
            "ipcheap_wait(self->side.endpoint, left)",
            "ipcheap_try_broadcast(broadcast, plain->data, plain->nbytes, timeout_ns)",
            "ipcheap_try_post(heap, &channel, plain->data, plain->nbytes, position)",
            "ipcheap_same(self->heap, heap)",
            "ipcheap_stream_lay_out(self->side.endpoint, &self->layout)",
            "ipcheap_view_drop(pane->view)",
            "ipcheap_chunk_describe(held(self)",
            "ipcheap_chunk_key(held(self)",
            "ipcheap_chunk_release(core)",
            "ipcheap_chunk_release(&core)",
            "ipcheap_chunk_release(&chunks[i])",
            "ipcheap_store_key_int(key, number)",
            "ipcheap_store_key_of(key, IPCHEAP_KEY_TEXT, text, (size_t)",
            "ipcheap_store_key_of(key, IPCHEAP_KEY_BYTES, PyBytes_AsString(object)",
        }
        # Copies that are long; and a broadcast waits, and a receiver.
        few = {"bytes.c": 1, "bus.c": 2, "consumer.c": 1}
        assert text.count(RELEASE) == few.get(source, 0), source
    assert called == keeping() - {"endpoint_descriptor"}
    assert {name for name in holding if not name.startswith(("stream_", "window_", "store_"))} == {
        "try_receive_copies"  # its callback makes Python objects
    }
    assert releasing == {
        *("stream_write", "stream_read", "store_put", "store_put_many"),  # long copies
        "store_keys",  # looks at every slot
        "store_wait_for",
    }
    assert RELEASE not in (BINDINGS / "gil.c").read_text().partition("holding_")[2]
    assert RELEASE not in macros()["HOLDING"]


def macros() -> dict[str, str]:
    """Return the macros that define calls of the core, with their bodies."""
    text = (BINDINGS / "gil.h").read_text()
    found = re.finditer(r"^#define (\w+)\((?:.*\\\n)+.*\n", text, re.MULTILINE)
    return {match[1]: match[0] for match in found}


def test_calls_on_an_endpoint_enter_it_where_no_gil_keeps_others_out() -> None:
    """Another thread that closes the heap would close the endpoint in the middle of the call."""
    text = (BINDINGS / "gil.h").read_text()
    assert ENTER in text.partition("int entered_begin(")[2].partition("\n}")[0]
    found = macros()
    for name in ("KEEPING", "RELEASING_ENDPOINT"):
        before, released, after = found[name].partition(RELEASE)
        assert released, name
        assert ENTER in before or "entered_begin(" in before.rpartition("WOULD_SLEEP")[2], name
        assert "endpoint_leave(" in after or "entered_end(" in after, name
    for name in ("KEEPING", "HOLDING"):
        assert re.search(r"FREE_THREADED \? entered_begin\(", found[name]), name
    releasing = re.findall(
        r"^RELEASING\(\w+, (\w+),\s*\(ipcheap_endpoint \*",
        (BINDINGS / "core.csrc.c").read_text(),
        re.MULTILINE,
    )
    # These enter it by themselves; the last one ends its use.
    assert set(releasing) == {"wait", "wait_peer", "stream_wait", "endpoint_close"}


def test_what_releases_the_gil_says_so() -> None:
    bodies = definitions()
    assert RELEASE in macros()["RELEASING"]
    for name in parts()["releases"]:
        assert RELEASE in bodies[name] or "releasing_" in bodies[name], name


def test_nothing_else_calls_what_may_sleep() -> None:
    """A core function that has a wrapper is not in the cdef itself."""
    wrapped = {name.split("_", 1)[1] for part in ("mostly", "releases") for name in parts()[part]}
    wrapped |= keeping()
    assert not {name.removeprefix("ipcheap_") for name in parts()["keeps"]} & wrapped


def mean(call: Callable[[], object], count: int) -> float:
    """Return the mean time of a call, in seconds."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def time_beside_a_busy_thread() -> tuple[float, float]:
    """Return the cost of a call that keeps the GIL, and of one that releases it for 100 us."""
    done = threading.Event()

    def compute() -> None:
        number = 0
        while not done.is_set():
            for _ in range(1000):
                number = (number * 31 + 7) % 1000003

    thread = threading.Thread(target=compute)
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("a")
        with heap.producer("a"), heap.consumer("a") as consumer:
            thread.start()
            keeping = mean(consumer.try_recv_record, 100_000)
            releasing = mean(lambda: lib.py_wait(consumer._pointer, 100_000), 100)
            done.set()
            thread.join()
            return keeping, releasing


def test_a_bounded_call_does_not_wait_for_busy_threads() -> None:
    seen = []
    for _ in range(3):  # the machine may be busy
        keeping, releasing = peers.call(time_beside_a_busy_thread)
        if keeping * 20 < releasing - 0.0002:  # which the call would take by itself
            return
        seen.append(
            f"{keeping * 1e6:.2f} us keeping the GIL, {releasing * 1e6:.2f} us releasing it"
        )
    pytest.fail("; ".join(seen))
