"""What the exceptions of a bus say: the heap, the channel, the number and the way out."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MINE = f"'{{program}}' (pid {os.getpid()}, thread {os.getpid()}, this process)"

CALLS: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    # Options
    "history over capacity": (
        lambda s: s.heap.add_bus("x", 4, history=5),
        ValueError,
        (
            "no bus can have capacity=4, history=5: the history is at most the capacity, and that "
            "is at most 2**24 messages"
        ),
    ),
    "capacity": (
        lambda s: s.heap.add_bus("x", 2**24 + 1),
        ValueError,
        (
            "no bus can have capacity=16777217: the history is at most the capacity, and that is "
            "at most 2**24 messages"
        ),
    ),
    "no capacity": (
        lambda s: s.heap.add_bus("x", 0),
        ValueError,
        "capacity must be at least 1, not 0",
    ),
    "patience": (
        lambda s: s.heap.add_bus("x", patience=-1),
        ValueError,
        "patience must be seconds, at least 0, not -1",
    ),
    "patience type": (
        lambda s: s.heap.add_bus("x", patience="1"),
        TypeError,
        "patience must be seconds, not str",
    ),
    "other options": (
        lambda s: s.heap.add_bus("news", 8, patience=1),
        ipcheap.ChannelTypeError,
        (
            "{it} is a bus with capacity=4, history=2, patience=inf, not a bus with capacity=8, "
            "patience=1"
        ),
    ),
    "exclusive": (
        lambda s: s.heap.add_bus("news", exclusive=True),
        ipcheap.ChannelExists,
        "{it} already exists; without exclusive=True it is taken as it is",
    ),
    "other kind": (
        lambda s: s.heap.bus("records"),
        ipcheap.ChannelTypeError,
        "channel 'records' of heap {heap} is a record channel of 4 slots, not a bus",
    ),
    "not there": (
        lambda s: s.heap.bus("nothing"),
        ipcheap.ChannelNotFound,
        "there is no channel 'nothing' of heap {heap}; `heap.channels` lists those that exist",
    ),
    "history": (
        lambda s: s.bus.listen(history=3),
        ValueError,
        "{bus} keeps a history of 2 messages, and 3 were asked for",
    ),
    "negative history": (
        lambda s: s.bus.listen(history=-1),
        ValueError,
        "history must be at least 0, not -1",
    ),
    "listeners": (
        lambda s: s.bus.wait_listeners(3, timeout=0),
        TimeoutError,
        "{it}: there were not 3 listeners within the timeout",
    ),
    # What is posted
    "no bytes": (
        lambda s: s.bus.post("text"),
        TypeError,
        "this call posts bytes-like objects, not str: try post_object()",
    ),
    "objects": (
        lambda s: s.bus.broadcast(np.array([object()])),
        TypeError,
        (
            "the ndarray holds Python objects, whose addresses mean nothing to another "
            "process: try post_object()"
        ),
    ),
    "pieces": (
        lambda s: s.bus.post(np.arange(10)[::2]),
        ValueError,
        "the bytes of a ndarray are not in one piece: post a copy",
    ),
    "no record": (
        lambda s: s.bus.post_record(b""),
        TypeError,
        "this call posts a Record, not bytes",
    ),
    "posted twice": (
        lambda s: [s.bus.post_record(s.record, 0) for _ in "12"],
        ipcheap.RecordError,
        "the record of heap {heap} has been sent and cannot be posted",
    ),
    "freed": (
        lambda s: s.bus.post_record(s.freed),
        ipcheap.RecordError,
        "the record of channel 'news' of heap {heap} has been freed and cannot be posted",
    ),
    "another heap": (
        lambda s: s.post_elsewhere(),
        ipcheap.RecordError,
        (
            "<Record of heap {heap}, 3 bytes> cannot be posted in another heap, heap without a "
            "name: post its bytes"
        ),
    ),
    # What is in the way
    "no room": (
        lambda s: s.fill() or s.bus.post(b"x", timeout=0),
        TimeoutError,
        (
            "{it}: nothing was posted within the timeout, because the listener {me} is 4 messages "
            "behind"
        ),
    ),
    "nowait": (
        lambda s: s.fill() or s.bus.broadcast(b"x", nowait=True),
        ipcheap.ChannelBusy,
        "{it}: nothing was posted, because the listener {me} is 4 messages behind",
    ),
    "own": (
        lambda s: s.fill() or s.bus.post(b"x"),
        ipcheap.RecordError,
        (
            "{it} has no room, because a listener of this thread is a whole log behind, and the "
            "call would wait for it indefinitely; receive first, or give a timeout"
        ),
    ),
    "turn": (
        lambda s: s.while_another_broadcasts(lambda: s.bus.broadcast(b"x", nowait=True)),
        ipcheap.ChannelBusy,
        "{it}: nothing was posted, because it is still the turn of a broadcast of {other}",
    ),
    "turn in time": (
        lambda s: s.while_another_broadcasts(lambda: s.bus.broadcast(b"x", timeout=0)),
        TimeoutError,
        (
            "{it}: nothing was posted within the timeout, because it is still the turn of a "
            "broadcast of {other}"
        ),
    ),
    # Receiving
    "nothing": (
        lambda s: s.listener.recv(0),
        TimeoutError,
        "{it}: nothing was posted within the timeout",
    ),
    "lost": (
        lambda s: s.lose(),
        ipcheap.MessagesLost,
        (
            "channel 'impatient' of heap {heap}: this listener was in the way for too long, and "
            "lost 2 messages"
        ),
    ),
    "closed": (
        lambda s: s.closed.recv(),
        ipcheap.EndpointClosed,
        "{it}: this listener is closed",
    ),
    "used after free": (
        lambda s: bytes(s.freed),
        ipcheap.RecordError,
        "the record of channel 'news' of heap {heap} has been freed and cannot be used",
    ),
    "no array": (
        lambda s: [s.bus.post(b"x"), s.listener.recv_array()],
        ipcheap.RecordError,
        (
            "the next record of {it} is of another kind: recv_array() takes records of "
            "allocate_array() and loan(), recv_object() those of post_object(), recv_record() any"
        ),
    ),
    # Removing
    "in use": (
        lambda s: s.heap.remove_channel("news"),
        ipcheap.ChannelBusy,
        "{it}: {me} listens to it; force=True closes",
    ),
}


class Sides:
    """A bus in some state, with all that the calls need."""

    def __init__(self, heap: ipcheap.Heap) -> None:
        self.heap = heap
        self.other = ""
        heap.add_record_channel("records", 4)
        self.bus = heap.add_bus("news", 4, history=2)
        self.listener, self.closed = self.bus.listen(), self.bus.listen()
        self.closed.close()
        self.bus.post(b"x")
        self.freed = self.listener.recv_record()
        self.freed.free()
        self.record = self.bus.allocate_record(3)

    def fill(self) -> None:
        self.bus.post_many([b"x"] * 4)

    def lose(self) -> None:
        bus = self.heap.add_bus("impatient", 2, patience=0.01)
        with bus.listen() as listener:
            bus.post_many([b"x"] * 4)
            listener.recv()

    def while_another_broadcasts(self, call: Callable[[], object]) -> None:
        started = threading.Event()

        def broadcast() -> None:
            number = threading.get_native_id()
            self.other = f"'{{program}}' (pid {os.getpid()}, thread {number}, this process)"
            started.set()
            self.bus.broadcast(b"x", 10)

        with threads.run(broadcast):
            started.wait()
            while not self.listener.pending:
                time.sleep(0.001)
            time.sleep(0.02)
            try:
                call()
            finally:
                self.listener.recv()

    def post_elsewhere(self) -> None:
        with ipcheap.Heap.create(None, "1MiB", shm="memfd") as other:
            other.add_bus("news").post_record(self.record)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.mark.parametrize("what", CALLS)
def test_what_is_wrong_is_said(heap: ipcheap.Heap, what: str) -> None:
    sides = Sides(heap)
    call, kind, text = CALLS[what]
    with pytest.raises(kind) as raised:
        call(sides)
    expected = text.replace("{me}", MINE).replace("{other}", sides.other)
    program = sides.bus.listeners()[0].participant.name
    for name, value in (
        ("{it}", f"channel 'news' of heap {heap.name!r}"),
        ("{bus}", repr(sides.bus)),
        ("{heap}", repr(heap.name)),
        ("{program}", program),
    ):
        expected = expected.replace(name, value)
    said = str(raised.value)
    assert said.startswith(expected) if what == "in use" else said == expected
    sides.close()


def test_a_full_heap_says_how_much_was_asked_for(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news")
    for call in (bus.post, bus.broadcast):
        with pytest.raises(
            ipcheap.HeapFull,
            match=r"is full: 17\.0 MiB asked for, largest free block .* free some records, or",
        ):
            call(bytes(17 << 20))


def test_an_exception_of_a_codec_names_the_bus(heap: ipcheap.Heap) -> None:
    class Codec:
        @staticmethod
        def encode(obj: Any) -> list[bytes]:
            return [json.dumps(obj).encode()]

        @staticmethod
        def decode(pieces: list[Any]) -> Any:
            return json.loads(bytes(pieces[0])[1:])

    bus = heap.add_bus("news")
    with bus.listen() as listener:
        for call in (bus.post_object, bus.broadcast_object):
            with pytest.raises(TypeError, match="not JSON serializable") as raised:
                call(object(), codec=Codec)
            assert raised.value.__notes__ == [f"The object was to be posted on {bus!r}."]
            del raised
        bus.post_object({"b": 1}, codec=Codec)
        with pytest.raises(json.JSONDecodeError) as read:
            listener.recv_object(codec=Codec)
        assert read.value.__notes__[-1] == f"The object was received by {listener!r}."
        del read
        assert listener.statistics().held == 0


def test_another_thread_and_a_removed_bus_are_named(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news")
    it = f"channel 'news' of {heap.label}"
    with bus.listen() as listener:
        with pytest.raises(ipcheap.WrongThread) as raised:
            threads.call(listener.recv)
        assert str(raised.value) == (
            f"{it}: this listener belongs to thread 'MainThread', which claimed it; claim one in "
            "each thread"
        )
        heap.remove_channel("news", force=True)
        with pytest.raises(ipcheap.ChannelClosed) as closed:
            listener.recv()
        assert str(closed.value) == f"{it}: it was removed"
        with pytest.raises(ipcheap.ChannelNotFound) as missing:
            bus.post(b"x")
        assert str(missing.value) == f"there is no {it}; `heap.channels` lists those that exist"


def test_at_most_four_listeners_are_named(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news")
    listeners = [bus.listen() for _ in range(7)]
    with pytest.raises(ipcheap.ChannelBusy) as raised:
        heap.remove_channel("news")
    assert str(raised.value).count("this process") == 4
    assert "and 3 more listen to it" in str(raised.value)
    for listener in listeners:
        listener.close()


def test_the_new_exceptions_are_what_others_are(heap: ipcheap.Heap) -> None:
    assert issubclass(ipcheap.ChannelExists, FileExistsError)
    assert issubclass(ipcheap.ChannelExists, ipcheap.Error)
    assert issubclass(ipcheap.MessagesLost, BufferError)
    assert issubclass(ipcheap.MessagesLost, ipcheap.Error)
    assert heap.channels == {}
