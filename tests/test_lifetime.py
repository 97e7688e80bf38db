"""Views keep their memory alive, whatever is freed, closed, forked or killed meanwhile.

Also under AddressSanitizer: tests/asan.sh.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]

# Everything in any order ----------------------------------------------------------------------

SLOTS, MOST = 8, 24
sizes = st.sampled_from([1, 16, 100, 1000, 5000, 40_000])
numbers = st.integers(0, 1 << 16)
WAYS: dict[str, Callable[[ipcheap.Record], Any]] = {
    "view": lambda record: record.view,
    "slice": lambda record: record[:],
    "array": lambda record: record.array("u1"),
}
LOOKS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda thing: thing,
    "memoryview": memoryview,
    "tail": lambda thing: thing[len(thing) // 2 :],
    "stride": lambda thing: np.asarray(thing)[::3],
    "dlpack": lambda thing: np.from_dlpack(np.asarray(thing)),
    "matrix": lambda thing: np.asarray(thing).reshape(1, -1, 1)[0],
    "cast": lambda thing: np.frombuffer(thing, "V1").view("u1"),
}


@dataclass(eq=False)
class Held:
    """A record that we hold, its bytes, and the attachment that it came through."""

    record: ipcheap.Record
    expected: bytes
    heap: ipcheap.Heap


@dataclass(eq=False)
class View:
    """An object that aliases a record, and what it must show; None once the record was sent."""

    thing: Any
    expected: bytes | None
    of: Held | None


def let_a_cycle_have(thing: object) -> None:
    """Leave the object to the garbage collector."""
    ring: list[Any] = [thing]
    ring.append(ring)


def let_a_thread_drop(things: list[Any]) -> None:
    thread = threading.Thread(target=things.clear)
    thread.start()
    thread.join()


def pattern(size: int, number: int) -> bytes:
    return bytes((number + i * 7) & 0xFF for i in range(min(size, 500))).ljust(size, b"\xaa")


class Lifetimes(RuleBasedStateMachine):
    """Records and views of them, against copies of what they must show."""

    heap: ipcheap.Heap
    producer: ipcheap.Producer
    consumer: ipcheap.Consumer

    def __init__(self) -> None:
        super().__init__()
        name = f"test.{os.getpid()}.{secrets.token_hex(4)}"
        self.onlooker = ipcheap.Heap.create(name, "16MiB")
        self.onlooker.add_record_channel("a", SLOTS)
        self.records: list[Held] = []
        self.views: list[View] = []
        self.underway: list[tuple[str, bytes]] = []
        self.attach()

    def attach(self) -> None:
        """Attach once more, as another process would."""
        self.heap = ipcheap.Heap.attach(str(self.onlooker.name))
        self.claim()

    def claim(self) -> None:
        self.producer, self.consumer = self.heap.producer("a"), self.heap.consumer("a")

    def pick(self, number: int) -> Held:
        return self.records[number % len(self.records)]

    # Making and sending

    @precondition(lambda self: len(self.records) < MOST)
    @rule(size=sizes, number=numbers, kind=st.sampled_from(["plain", "array", "heap"]))
    def allocate(self, size: int, number: int, kind: str) -> None:
        if kind == "array":
            record = self.producer.allocate_array(size, "u1")
        else:
            maker = self.heap if kind == "heap" else self.producer
            record = maker.allocate_record(size)
        expected = pattern(size, number)
        record.view[:] = expected
        self.records.append(Held(record, expected, self.heap))

    @precondition(lambda self: self.records)
    @rule(number=numbers)
    def send(self, number: int) -> None:
        held = self.pick(number)
        kind = "array" if held.record._export().form else "plain"
        # Also one of a heap object that has been closed: it is a record of the same heap.
        if self.producer.try_send_record(held.record):
            self.records.remove(held)
            self.underway.append((kind, held.expected))
            for view in self.views:
                if view.of is held:
                    view.expected = view.of = None

    @rule(sizes=st.lists(sizes, max_size=3), number=numbers)
    def send_object(self, sizes: list[int], number: int) -> None:
        arrays = [np.frombuffer(pattern(size, number), "u1") for size in sizes]
        try:
            self.producer.send_object(arrays, timeout=0)
        except TimeoutError:
            return
        self.underway.append(("object", b"".join(pattern(size, number) for size in sizes)))

    # Receiving

    def expects(self, *kinds: str) -> bool:
        """Return whether a record of that kind comes next, and can be received."""
        if not self.underway:
            return False
        if self.consumer.statistics().held == SLOTS:
            return False
        return self.underway[0][0] in kinds

    @precondition(lambda self: len(self.records) < MOST)
    @rule()
    def receive(self) -> None:
        if self.expects("plain", "array", "object"):
            kind, expected = self.underway.pop(0)
            record = self.consumer.recv_record(timeout=5)
            if kind != "object":
                self.records.append(Held(record, expected, self.heap))

    @rule(look=st.sampled_from(sorted(LOOKS)))
    def receive_array(self, look: str) -> None:
        if self.expects("array"):
            _, expected = self.underway.pop(0)
            self.add_view(self.consumer.recv_array(timeout=5), look, expected, None)
        elif self.expects("plain", "object"):
            with pytest.raises(ipcheap.RecordError):
                self.consumer.recv_array(timeout=5)

    @rule()
    def receive_object(self) -> None:
        if self.expects("object"):
            _, expected = self.underway.pop(0)
            got = self.consumer.recv_object(timeout=5)
            assert b"".join(array.tobytes() for array in got) == expected
            for array in got:
                self.views.append(View(array, array.tobytes(), None))

    # Views

    def add_view(self, thing: Any, look: str, expected: bytes, of: Held | None) -> None:
        seen = LOOKS[look](thing)
        shown = LOOKS[look](np.frombuffer(expected, "u1")) if look != "dlpack" else expected
        self.views.append(View(seen, bytes(shown), of))

    @precondition(lambda self: self.records and len(self.views) < 3 * MOST)
    @rule(number=numbers, way=st.sampled_from(sorted(WAYS)), look=st.sampled_from(sorted(LOOKS)))
    def look(self, number: int, way: str, look: str) -> None:
        held = self.pick(number)
        thing = WAYS[way](held.record)
        self.add_view(thing, look, held.expected, held)

    @precondition(lambda self: self.views and len(self.views) < 3 * MOST)
    @rule(number=numbers)
    def slice_a_view(self, number: int) -> None:
        view = self.views[number % len(self.views)]
        if view.expected is not None:
            half = view.thing[len(view.thing) // 2 :]
            self.views.append(View(half, bytes(half), view.of))

    @precondition(lambda self: self.views)
    @rule(number=numbers, how=st.sampled_from(["drop", "thread", "cycle", "release"]))
    def drop_a_view(self, number: int, how: str) -> None:
        things = [self.views.pop(number % len(self.views)).thing]
        if how == "thread":
            let_a_thread_drop(things)
        elif how == "cycle":
            let_a_cycle_have(things.pop())
        elif how == "release" and isinstance(things[0], memoryview):
            with contextlib.suppress(BufferError):  # a slice of it is alive
                things[0].release()

    # Records

    @precondition(lambda self: self.records)
    @rule(number=numbers, how=st.sampled_from(["free", "drop", "thread", "cycle", "keep", "with"]))
    def be_done_with(self, number: int, how: str) -> None:
        held = self.pick(number)
        if how == "keep":
            held.record.keep()
            return
        self.records.remove(held)
        if how == "free":
            held.record.free()
        elif how == "with":
            with held.record:
                pass
        elif how == "cycle":
            let_a_cycle_have(held.record)
        elif how == "thread":
            things: list[Any] = [held.record]
            del held.record
            let_a_thread_drop(things)
        else:
            del held.record

    # Ends

    @rule()
    def collect(self) -> None:
        gc.collect()

    @rule()
    def close_endpoints(self) -> None:
        self.consumer.close()
        self.producer.close()
        self.claim()

    @rule()
    def close_heap(self) -> None:
        self.heap.close()
        self.attach()

    @rule()
    def fork(self) -> None:
        pid = os.fork()
        if pid == 0:  # drops everything, and must free nothing
            try:
                self.records.clear()
                self.views.clear()
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    @invariant()
    def everything_shows_what_it_must(self) -> None:
        for view in self.views:
            assert view.expected is None or bytes(view.thing) == view.expected
        for held in self.records:
            assert bytes(held.record) == held.expected

    def teardown(self) -> None:
        try:
            assert self.onlooker.check() == []
            self.heap.close()
            self.everything_shows_what_it_must()
            self.records.clear()
            self.views.clear()
            gc.collect()
            with self.onlooker.consumer("a") as consumer:
                assert consumer.pending == len(self.underway)
                for _, expected in self.underway:
                    got = consumer.recv(timeout=5)
                    assert got == expected or got[:4] == b"obj1"
            assert self.onlooker.statistics().in_use == 0
            assert self.onlooker.check() == []
        finally:
            self.onlooker.unlink()
            self.onlooker.close()


EXAMPLES = int(os.environ.get("IPCHEAP_LIFETIME_EXAMPLES", "25"))
TestLifetimes = Lifetimes.TestCase
TestLifetimes.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
TestLifetimes.pytestmark = [pytest.mark.timeout(60 + 12 * EXAMPLES)]  # type: ignore[attr-defined]


# Death ------------------------------------------------------------------------------------------


def send_and_die(heap: ipcheap.Heap) -> None:
    producer = heap.producer("a")
    for n in range(3):
        with producer.loan(100_000, "u1") as lent:
            lent[:] = n
    producer.send_object({"n": 3, "frame": np.full(100_000, 3, "u1")})
    peers.die()


def test_views_outlive_the_peer_that_made_them(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "16MiB")
    heap.add_record_channel("a", 8)
    consumer = heap.consumer("a")
    with peers.run(send_and_die, heap) as peer:
        peer.wait()
    arrays = [consumer.recv_array(timeout=5) for _ in range(3)]
    arrays.append(consumer.recv_object(timeout=5)["frame"])
    with pytest.raises(ipcheap.PeerDied):
        consumer.recv_array(timeout=5)
    heap.recover()
    consumer.close()
    heap.close()
    heap.unlink()
    del heap, consumer
    gc.collect()
    for n, array in enumerate(arrays):
        assert (array == n).all()
        array += 1
        assert (array == n + 1).all()


def test_what_a_dead_holder_had_is_redelivered_to_the_next(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("a", 8)
        with heap.producer("a") as producer:
            for n in range(3):
                producer.send_object({"n": n, "frame": np.full(10_000, n)})
            with peers.run(hold_and_die, heap) as peer:
                peer.wait()
            with heap.consumer("a", timeout=5) as consumer:
                again = [consumer.recv_object(timeout=5) for _ in range(3)]
                assert [each["n"] for each in again] == [0, 1, 2]
                assert all((each["frame"] == each["n"]).all() for each in again)
                del again
        assert heap.statistics().in_use == 0


def hold_and_die(heap: ipcheap.Heap) -> None:
    consumer = heap.consumer("a")
    kept = [consumer.recv_object(timeout=5) for _ in range(2)]
    assert len(kept) == 2
    peers.die()


# The end of the interpreter ----------------------------------------------------------------------

PREAMBLE = """
import atexit, gc, sys, threading
import numpy as np, ipcheap
heap = ipcheap.Heap.attach(sys.argv[1])
producer, consumer = heap.producer("a"), heap.consumer("a")
def receive():
    with producer.loan((100, 100), "f8") as lent:
        lent[:] = 7
    return consumer.recv_array()
def check(array):
    assert (np.asarray(array) == 7).all()
"""

ENDINGS = {
    "globals": "array = receive(); view = memoryview(array)[3:]; record = heap.allocate_record(9)",
    "a slice alone": "part = receive()[5:, 1:][::2]; del consumer, producer, heap",
    "a cycle": "a = [receive()]; a.append(a); del a",
    "an object that outlives all": """
class Last:
    def __init__(self): self.array = receive()
    def __del__(self): check(self.array)
sys.last = Last()
""",
    "atexit": "array = receive(); atexit.register(check, array[2:])",
    "closed before": "array = receive(); heap.close(); check(array)",
    "closed after": "array = receive(); atexit.register(lambda: (heap.close(), check(array)))",
    "a thread": """
def keep():
    mine = heap.allocate_record(10).view
    done.set()
    stop.wait()
    mine[:] = bytes(10)
done, stop = threading.Event(), threading.Event()
thread = threading.Thread(target=keep)
thread.start()
done.wait()
array = receive()
stop.set()
""",
    "a daemon": """
def churn():
    while True:
        view = heap.allocate_record(1000).view
        done.set()
        view[:] = bytes(1000)
done = threading.Event()
threading.Thread(target=churn, daemon=True).start()
done.wait()
array = receive()
""",
    "a daemon that waits": """
def wait():
    with heap.consumer("b") as other:
        done.set()
        other.recv_array()
done = threading.Event()
threading.Thread(target=wait, daemon=True).start()
done.wait()
array = receive()
""",
    "sys.exit with an error": "array = receive(); sys.exit(0)",
    "an object's arrays": """
producer.send_object({"x": np.full(1000, 7), "y": np.full(10, 7)})
got = consumer.recv_object(); del got["x"]
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_quietly_whatever_lives(heap_name: str, ending: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("a", 8)
        heap.add_record_channel("b", 8)
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-X",
                "faulthandler",
                "-c",
                PREAMBLE + ENDINGS[ending],
                heap_name,
            ],
            env={**os.environ, "MALLOC_PERTURB_": "165"},  # overwrites what is freed
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        peers.until(lambda: heap.recover() is not None and heap.statistics().participants == 1)
        assert heap.statistics().in_use == 0
        assert heap.check() == []


GARBAGE = {
    "record": "heap.allocate_record(800).array('f8')",
    "static segment": "heap.add_static_segment('s', 64)",
    "view": "heap.add_static_segment('s', 64).view",
    "cell": "heap.add_static_segment('s', 64).atomic(0)",
    "lock": "ipcheap.Lock(heap.add_static_segment('s', 64), 0)",
    "endpoints": "(producer := heap.producer('a')).send(b'x'), producer, heap.consumer('a')",
    "message": "(i := heap.add_bus('b').listen()), heap.bus('b').post(b'x'), i.recv()",
    "stream": "heap.add_stream('w', 4096).writer(), (r := heap.stream_reader('w')), r.peek(0)",
    "store": "(w := heap.add_store('t').writer()), w.put(1, b'x'), heap.store_reader('t').get(1)",
}
CYCLE = """
import gc, sys, ipcheap
gc.disable()
class Cycle: pass
def cycle():
    made = Cycle()
    made.itself = made
    heap = ipcheap.Heap.create(None, "8MiB", shm="memfd")
    heap.add_record_channel("a", 8)
    if sys.argv[1] == "promoted":
        gc.collect()
    made.things = {things}
    return made
kept = cycle()
if sys.argv[1] != "exit":
    del kept
    gc.collect()
"""


@pytest.mark.parametrize("when", ["now", "promoted", "exit"])
@pytest.mark.parametrize("what", GARBAGE)
def test_a_heap_and_what_needs_it_may_be_garbage_together(what: str, when: str) -> None:
    # The finalizers of a cycle are called in any order. MALLOC_PERTURB_ overwrites what is freed.
    done = subprocess.run(
        [
            sys.executable,
            *("-P", "-W", "ignore::ResourceWarning", "-X", "faulthandler"),
            *("-c", CYCLE.format(things=GARBAGE[what]), when),
        ],
        env={**os.environ, "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Debugging ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("debugging")
def test_debugging_reports_records_never_freed() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("a", 4)
        with heap.producer("a") as producer, heap.consumer("a") as consumer:
            record = producer.allocate_record(8)
            here = rf"{__file__}:\d+, was never freed"
            with pytest.warns(ResourceWarning, match=here):
                del record
            producer.send(b"a")
            record = consumer.recv_record()
            with pytest.warns(ResourceWarning, match=here):
                del record
            # None of these is a mistake.
            producer.send(b"b")
            next(iter(consumer)).free()
            producer.send_object(np.arange(3))
            consumer.recv_object()
            with producer.loan(3, "u1") as lent:
                lent[:] = 1
            consumer.recv_array()
            producer.send_record(producer.allocate_record(1))
            with consumer.recv_record():
                pass
        assert heap.statistics().in_use == 0


def run_debugging(heap_name: str, program: str) -> str:
    chosen = ("PYTHONWARNINGS", "PYTHONDEVMODE")  # with either, the package adds no filter
    environment = {name: text for name, text in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, heap_name],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment | {"IPCHEAP_DEBUG": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_environment_turns_debugging_on(heap_name: str) -> None:
    program = PREAMBLE + (
        "record = heap.allocate_record(9)\n"
        "view = record.view\n"
        "try:\n    producer.send_record(record)\n"
        "except BufferError as error:\n    print(error, file=sys.stderr)\n"
        "del view\n"
    )
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("a", 8)
        said = run_debugging(heap_name, program)
        assert "made at <string>:" in said
        assert "has live views" in said
        assert said.count("was never freed") == 1
        assert "Exception ignored" not in said
        # By default nothing is reported.
        program = PREAMBLE + "heap.allocate_record(9); array = receive()\n"
        assert "was never freed" in run_debugging(heap_name, program)
        quiet = subprocess.run(
            [sys.executable, "-P", "-c", program, heap_name], capture_output=True, timeout=60
        )
        assert (quiet.returncode, quiet.stderr) == (0, b"")


# Threads -----------------------------------------------------------------------------------------


def test_many_threads_drop_views_while_the_ring_turns(heap_name: str) -> None:
    """Arrays die in other threads while their consumer receives, closes and is claimed again."""
    received = 0
    with ipcheap.Heap.create(heap_name, "32MiB") as heap:
        heap.add_record_channel("a", 64)
        bins: list[list[Array]] = [[] for _ in range(3)]
        done = threading.Event()

        def drop(mine: list[Array]) -> None:
            while not done.is_set() or mine:
                while mine:
                    array = mine.pop()
                    assert (array == array[0]).all()
                time.sleep(0.0001)

        threads = [threading.Thread(target=drop, args=(mine,)) for mine in bins]
        for thread in threads:
            thread.start()
        with heap.producer("a") as producer:
            for turn in range(40):
                with heap.consumer("a") as consumer:
                    for n in range(50):
                        with producer.loan(1000 * (1 + n % 9), "u1", timeout=30) as lent:
                            lent[:] = n + turn
                        bins[n % 3].append(consumer.recv_array(timeout=30))
                        received += 1
        done.set()
        for thread in threads:
            thread.join()
        assert received == 2000
        peers.until(lambda: heap.statistics().in_use == 0)
        assert heap.check() == []


def fill(record: ipcheap.Record, data: bytes, begun: threading.Event) -> None:
    begun.set()
    record[:] = data


@pytest.mark.parametrize("end", ["free", "drop", "keep", "consumer"])
def test_a_record_may_go_while_it_is_being_filled(heap_name: str, end: str) -> None:
    """A long copy releases the GIL; other threads are done with the record before it ends."""
    nbytes = 24 << 20
    with ipcheap.Heap.create(heap_name, "128MiB") as heap:
        heap.add_record_channel("a", 4)
        for number in range(1, 9):
            data, begun = bytes([number]) * nbytes, threading.Event()
            with heap.producer("a") as producer, heap.consumer("a") as consumer:
                producer.send_record(producer.allocate_record(nbytes))
                record = consumer.recv_record()
                thread = threading.Thread(target=fill, args=(record, data, begun))
                thread.start()
                begun.wait()
                time.sleep(0.0002 * number)
                if end == "free":
                    record.free()
                elif end == "keep":
                    record.keep()
                elif end == "consumer":
                    consumer.close()
                del record
                thread.join()
                del thread
            assert heap.check() == []
        gc.collect()
        assert heap.statistics().in_use == 0
