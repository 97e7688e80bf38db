"""Bridges: two heaps, and records that cross from one to the other exactly once, in order."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import bridge_workers
import numpy as np
import peers
import pytest
from bridge_workers import TOKEN, Losses, in_thread, item
from cutting import BACK, FORTH, Proxy

import ipcheap
from ipcheap.graph import bridge
from ipcheap.graph.bridge import Listener, Sender
from ipcheap.graph.link import DESERTED, ENDED, BridgeLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = peers.PATIENCE


class Hosts(NamedTuple):
    """Two heaps, as on two hosts."""

    near: ipcheap.Heap
    far: ipcheap.Heap

    def add(self, channel_id: str, capacity: int) -> None:
        """Add a channel of that ID to both."""
        for heap in self:
            heap.add_record_channel(channel_id, capacity)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Return two heaps; nothing may be left in them, and no thread."""
    threads = threading.active_count()
    with (
        ipcheap.Heap.create(None, "64MiB", shm="memfd") as near,
        ipcheap.Heap.create(None, "64MiB", shm="memfd") as far,
    ):
        yield Hosts(near, far)
        for heap in (near, far):
            assert heap.check() == []
            for channel_id in list(heap.channels):
                heap.remove_channel(channel_id)
            assert heap.statistics().in_use == 0
    assert threading.active_count() == threads


@contextlib.contextmanager
def bridged(
    hosts: Hosts, channel_id: str, patience: float = 20.0, address: str = "127.0.0.1"
) -> Iterator[tuple[Sender, Losses]]:
    """Bridge a channel; on leaving, the bridge must have ended, or been lost or aborted."""
    losses = Losses()
    listener = Listener(address, TOKEN, losses, patience)
    try:
        listener.receive(hosts.far, channel_id)
        sender = Sender(hosts.near, channel_id, address, listener.port, TOKEN, losses, patience)
        sender.start()
        yield sender, losses
        assert sender.join(PATIENCE)
        assert listener.join(PATIENCE)
    finally:
        listener.close()
        assert listener.join(PATIENCE)


def receive_all(heap: ipcheap.Heap, channel_id: str) -> list[bytes]:
    """Return copies of all records until the end."""
    found: list[bytes] = []
    with heap.consumer(channel_id) as consumer:
        while True:
            try:
                found += consumer.recv_many(timeout=PATIENCE)
            except ipcheap.ChannelClosed:
                return found


# What crosses -------------------------------------------------------------------------------

ORDERS: tuple[Literal["C", "F"], ...] = ("C", "F")
DTYPES: list[Any] = [
    "?", "i1", ">u2", "<i4", ">i8", "<f2", "f8", "c16", "S5", "U3", "V7", "M8[ns]", "m8[s]",
    [("a", "<i4"), ("b", ">f8", (2, 3))],
    np.dtype({"names": ["x", "y"], "formats": ["u1", "f8"], "offsets": [0, 16], "itemsize": 24}),
    np.dtype([("pad", "u1"), ("d", "f8")], align=True),
]  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_all_forms_arrive_as_they_were_sent(hosts: Hosts, address: str) -> None:
    hosts.add("x", 8)
    arrays = [np.zeros((3, 5), dtype) for dtype in DTYPES]
    arrays += [np.zeros(()), np.zeros((0, 3)), np.arange(200_000.0)]
    rng = random.Random(7)
    contents = [rng.randbytes(array.nbytes) for array in arrays]  # also of what lies between fields
    objects: list[Any] = [None, {"a": [1, "2"]}, {"big": np.arange(100_000), "small": np.ones(3)}]

    def produce() -> None:
        with hosts.near.producer("x") as producer:
            producer.send(b"")
            producer.send(b"some bytes")
            producer.send(bytes(5_000_000))
            for order in ORDERS:
                for array, content in zip(arrays, contents, strict=True):
                    record = producer.allocate_array(array.shape, array.dtype, order=order)
                    record[:] = content
                    producer.send_record(record, PATIENCE)
            for thing in objects:
                producer.send_object(thing, PATIENCE)

    with bridged(hosts, "x", address=address) as (_, losses):
        thread = in_thread(produce)
        with hosts.far.consumer("x") as consumer:
            assert consumer.recv(PATIENCE) == b""
            assert consumer.recv(PATIENCE) == b"some bytes"
            assert consumer.recv(PATIENCE) == bytes(5_000_000)
            for order in ORDERS:
                for array, content in zip(arrays, contents, strict=True):
                    record = consumer.recv_record(PATIENCE)
                    got = record.array()
                    assert (got.shape, got.dtype) == (array.shape, array.dtype)
                    assert got.flags.f_contiguous if order == "F" else got.flags.c_contiguous
                    assert bytes(record) == content
                    del got
                    record.free()
            for thing in objects:
                np.testing.assert_equal(consumer.recv_object(PATIENCE), thing)
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.recv(PATIENCE)
        thread.join()
    assert losses.all == []


@pytest.mark.parametrize("capacity", [1, 2, 16, 512])
def test_items_arrive_in_order(hosts: Hosts, capacity: int) -> None:
    hosts.add("x", capacity)
    count = 600 * min(capacity, 8)
    with bridged(hosts, "x") as (_, losses):
        thread = in_thread(bridge_workers.produce, hosts.near, "x", count)
        assert receive_all(hosts.far, "x") == [item(number) for number in range(count)]
        thread.join()
    assert losses.all == []


def test_an_end_without_records(hosts: Hosts) -> None:
    hosts.add("x", 4)
    hosts.near.producer("x").close()
    with bridged(hosts, "x") as (_, losses):
        assert receive_all(hosts.far, "x") == []
    assert losses.all == []


# Back-pressure, and ends that are none ------------------------------------------------------


def test_a_slow_reader_slows_the_source(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses):
        with hosts.near.producer("x") as producer, hosts.far.consumer("x") as consumer:
            for number in range(8):
                producer.send(item(number), PATIENCE)
            with pytest.raises(TimeoutError):
                producer.send(b"one too many", 0.3)
            assert consumer.recv(PATIENCE) == item(0)
            producer.send(item(8), PATIENCE)
            with pytest.raises(TimeoutError):
                producer.send(b"one too many", 0.3)
            assert producer.statistics().detached == 0  # it would not be redelivered
        assert receive_all(hosts.far, "x") == [item(number) for number in range(1, 9)]
    assert losses.all == []


def test_a_full_ring_is_no_lost_host(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.add("x", 2)
    broken: list[str] = []
    broke = bridge._End._broke
    monkeypatch.setattr(
        bridge._End, "_broke", lambda *args: (broken.append(str(args[1])), broke(*args))
    )
    with bridged(hosts, "x", patience=0.8) as (_, losses):
        with hosts.near.producer("x") as producer:
            for _ in range(4):
                producer.send(bytes(4_000_000), PATIENCE)
            time.sleep(4)
        assert [len(data) for data in receive_all(hosts.far, "x")] == 4 * [4_000_000]
    assert (losses.all, broken) == ([], [])


def test_records_are_freed_when_they_have_arrived(hosts: Hosts) -> None:
    hosts.add("x", 8)
    with bridged(hosts, "x"), hosts.near.producer("x") as producer:
        for number in range(5):
            producer.send(item(number), PATIENCE)
        peers.until(lambda: hosts.far.channel("x").counts().sent == 5)
        peers.until(lambda: hosts.near.channel("x").counts().freed == 5)
        producer.close()
        assert len(receive_all(hosts.far, "x")) == 5


def test_a_consumer_that_has_closed_closes_the_sending_side(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses), hosts.near.producer("x") as producer:
        hosts.far.consumer("x").close()
        with pytest.raises(ipcheap.ChannelClosed):
            for number in range(100):
                producer.send(item(number), PATIENCE)
    assert losses.all == []


def test_a_dead_consumer_is_waited_for(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses):
        with peers.run(hold_some, hosts.far) as peer:
            assert peer.hear() == "ready"
            thread = in_thread(bridge_workers.produce, hosts.near, "x", 50)
            assert peer.hear() == "held"
            peer.kill()
            peer.wait()
        time.sleep(0.2)
        assert receive_all(hosts.far, "x") == [item(number) for number in range(50)]
        thread.join()
    assert losses.all == []


def hold_some(heap: ipcheap.Heap) -> None:
    """Receive two records and keep them."""
    with heap, heap.consumer("x") as consumer:
        peers.say("ready")
        held = [consumer.recv_record(PATIENCE) for _ in range(2)]
        peers.say("held")
        peers.listen()
        del held


def test_a_dead_producer_is_no_end(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses):
        with peers.run(send_and_die, hosts.near) as peer:
            peer.wait()
        with hosts.far.consumer("x") as consumer:
            assert [consumer.recv(PATIENCE) for _ in range(3)] == [item(n) for n in range(3)]
            with pytest.raises(TimeoutError):
                consumer.recv(0.3)
        with hosts.near.producer("x") as producer:
            producer.send(item(3), PATIENCE)
        assert receive_all(hosts.far, "x") == [item(3)]
    assert losses.all == []


def send_and_die(heap: ipcheap.Heap) -> None:
    """Send three items, and be killed."""
    producer = heap.producer("x")
    for number in range(3):
        producer.send(item(number))
    peers.die()
