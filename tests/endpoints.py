"""Every kind of endpoint, described alike for test_endpoints.py, and what other processes do.

A new kind is one entry in `ROLES` for each of its endpoints. `SIDES` has also what stands in for
another side that has no endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import peers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@dataclass(frozen=True)
class Role:
    """An endpoint of some kind, in a channel that is small enough to fill."""

    name: str
    other: str  # the name of the endpoint on the other side
    add: Callable[[ipcheap.Heap, Any], Any]  # the channel; the same as before if it exists
    of_heap: Callable[..., Any]  # claims an endpoint: heap, id, timeout
    of_channel: Callable[..., Any]  # the same of a channel: channel, timeout
    act: Callable[..., Any]  # one of the calls that may wait: endpoint, timeout
    attempt: Callable[[Any], bool]  # the same without waiting; whether there was something to do
    coroutine: Callable[[Any], Coroutine[Any, Any, Any]]
    # Sends two things where one is too much; the exception has `done`. None: no call does that.
    send_many: Callable[[Any, float | None], Any] | None = None
    side: str = ""  # as errors call it; "" for the name
    shared: bool = False  # whether any number of them may be claimed
    waits: bool = True  # whether calls may have to wait for the other side
    size: str = "capacity"  # the attribute of the channel that is 2
    sized: bool = True  # whether the endpoint has it, too
    has_peer: bool = True  # whether the other side is claimed
    removed: type[ipcheap.Error] = ipcheap.EndpointClosed  # what its calls raise after removal

    @property
    def text(self) -> str:
        """What errors call it."""
        return self.side or self.name

    @property
    def sends(self) -> bool:
        """Whether it makes something for the other side to do, without anything to do itself."""
        return self.send_many is not None or not self.waits

    @property
    def counted(self) -> dict[str, int]:
        """What its statistics say at any time."""
        return {"capacity": 2} if self.size == "capacity" and self.sized else {}

    def stall(self, endpoint: Any) -> None:
        """Act until the next call would have to wait."""
        while self.attempt(endpoint):
            pass


def _attempt_record(consumer: ipcheap.Consumer | ipcheap.Listener) -> bool:
    record = consumer.try_recv_record()
    if record is not None:
        record.free()
    return record is not None


def _attempt_to_send(producer: ipcheap.Producer) -> bool:
    record = producer.allocate_record(1)
    if producer.try_send_record(record):
        return True
    record.free()
    return False


def _send_too_many(producer: ipcheap.Producer, timeout: float | None) -> int:
    return producer.send_many([b"x"] * 3, timeout)


def _add_record(heap: ipcheap.Heap, id: Any) -> ipcheap.RecordChannel:
    return heap.add_record_channel(id, 2)


def _add_stream(heap: ipcheap.Heap, id: Any) -> ipcheap.Stream:
    return heap.add_stream(id, 2)


def _add_store(heap: ipcheap.Heap, id: Any) -> ipcheap.Store:
    return heap.add_store(id, depth=2)


def _add_bus(heap: ipcheap.Heap, id: Any) -> ipcheap.Bus:
    return heap.add_bus(id, 2, history=2)


class Poster:
    """What posts on a bus: nothing that is claimed."""

    def __init__(self, bus: ipcheap.Bus) -> None:
        self.post = bus.post
        self.apost = bus.apost

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


async def _put_in_a_coroutine(writer: ipcheap.StoreWriter) -> int:
    return writer.put("key", b"x")


ROLES = {
    role.name: role
    for role in (
        Role(
            name="producer",
            other="consumer",
            add=_add_record,
            of_heap=ipcheap.Heap.producer,
            of_channel=ipcheap.RecordChannel.producer,
            act=lambda producer, timeout: producer.send(b"x", timeout),
            attempt=_attempt_to_send,
            coroutine=lambda producer: producer.asend(b"x"),
            send_many=_send_too_many,
        ),
        Role(
            name="consumer",
            other="producer",
            add=_add_record,
            of_heap=ipcheap.Heap.consumer,
            of_channel=ipcheap.RecordChannel.consumer,
            act=lambda consumer, timeout: consumer.recv(timeout),
            attempt=_attempt_record,
            coroutine=lambda consumer: consumer.arecv(),
        ),
        Role(
            name="writer",
            other="reader",
            add=_add_stream,
            of_heap=ipcheap.Heap.stream_writer,
            of_channel=ipcheap.Stream.writer,
            act=lambda writer, timeout: writer.write(b"x", timeout),
            attempt=lambda writer: writer.try_write(b"x") > 0,
            coroutine=lambda writer: writer.awrite(b"x"),
            send_many=lambda writer, timeout: writer.write(b"xxx", timeout),
        ),
        Role(
            name="reader",
            other="writer",
            add=_add_stream,
            of_heap=ipcheap.Heap.stream_reader,
            of_channel=ipcheap.Stream.reader,
            act=lambda reader, timeout: reader.read(1, timeout),
            attempt=lambda reader: reader.try_read(1) is not None,
            coroutine=lambda reader: reader.aread(1),
        ),
        Role(
            name="store writer",
            other="store reader",
            add=_add_store,
            of_heap=ipcheap.Heap.store_writer,
            of_channel=ipcheap.Store.writer,
            act=lambda writer, _: writer.put("key", b"x"),
            attempt=lambda writer: writer.put("key", b"x") > 0,
            coroutine=_put_in_a_coroutine,
            side="writer",
            waits=False,
            size="depth",
        ),
        Role(
            name="store reader",
            other="store writer",
            add=_add_store,
            of_heap=ipcheap.Heap.store_reader,
            of_channel=ipcheap.Store.reader,
            act=lambda reader, timeout: bytes(reader.next(timeout)),
            attempt=lambda reader: reader.try_next() is not None,
            coroutine=lambda reader: reader.anext(),
            side="reader",
            shared=True,
            size="depth",
        ),
        Role(
            name="listener",
            other="poster",
            add=_add_bus,
            of_heap=lambda heap, id, timeout=0.0: heap.bus(id, timeout).listen(),
            of_channel=lambda bus, _=0.0: bus.listen(history=1),
            act=lambda listener, timeout: listener.recv(timeout),
            attempt=_attempt_record,
            coroutine=lambda listener: listener.arecv(),
            shared=True,
            sized=False,
            has_peer=False,
            removed=ipcheap.ChannelClosed,
        ),
    )
}

SIDES = ROLES | {
    "poster": Role(
        name="poster",
        other="listener",
        add=_add_bus,
        of_heap=lambda heap, id, timeout=0.0: Poster(heap.bus(id, timeout)),
        of_channel=lambda bus, _=0.0: Poster(bus),
        act=lambda poster, timeout: poster.post(b"x", timeout),
        attempt=lambda poster: poster.post(b"x", 0) >= 0,
        coroutine=lambda poster: poster.apost(b"x"),
        waits=False,
    )
}


# In other processes ---------------------------------------------------------------------------


def hold(heap: ipcheap.Heap, name: str) -> None:
    """Claim an endpoint of channel "c"; act and close it when asked to."""
    role = SIDES[name]
    with heap, role.of_heap(heap, "c", peers.PATIENCE) as endpoint:
        peers.say("claimed")
        while True:
            what = peers.listen()
            if what == "act":
                role.act(endpoint, peers.PATIENCE)
            elif what == "close":
                endpoint.close()
            else:
                return
            peers.say("done")


def end_without_closing(heap: ipcheap.Heap, name: str) -> None:
    """Claim an endpoint of channel "c" and end normally, with it open."""
    globals()["_kept_open"] = ROLES[name].of_heap(heap, "c", peers.PATIENCE)


def use_channel(channel: Any, name: str) -> tuple[Any, ...]:
    """Claim an endpoint of a channel that was pickled, and act."""
    role = ROLES[name]
    with role.of_channel(channel, peers.PATIENCE) as endpoint:
        role.act(endpoint, peers.PATIENCE)
        return channel.id, getattr(channel, role.size)
