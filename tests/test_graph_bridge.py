"""Bridges: two heaps, and records that cross from one to the other exactly once, in order."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import bridge_workers
import numpy as np
import peers
import pytest
from bridge_workers import TOKEN, Losses, in_thread, item
from cutting import BACK, FORTH, Proxy

import ipcheap
from ipcheap import testing
from ipcheap.graph.bridge import Listener, Sender
from ipcheap.graph.bridge_end import End
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
        receive_rest(consumer, found)
    return found


def receive_rest(consumer: ipcheap.Consumer, found: list[bytes]) -> None:
    """Append copies of all further records until the end."""
    while True:
        try:
            found += consumer.recv_many(timeout=PATIENCE)
        except ipcheap.ChannelClosed:
            return
        except ipcheap.PeerDied:
            consumer.wait_peer(PATIENCE)


def counts(heap: ipcheap.Heap, channel_id: str) -> ipcheap.ChannelCounts:
    """Return what has passed through a channel."""
    channel = heap.channel(channel_id)
    assert isinstance(channel, ipcheap.RecordChannel)
    return channel.counts()


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
    rest: list[bytes] = []
    with bridged(hosts, "x") as (_, losses), hosts.far.consumer("x") as consumer:
        with hosts.near.producer("x") as producer:
            for number in range(8):
                producer.send(item(number), PATIENCE)
            with pytest.raises(TimeoutError):
                producer.send(b"one too many", 0.3)
            assert consumer.recv(PATIENCE) == item(0)
            producer.send(item(8), PATIENCE)
            with pytest.raises(TimeoutError):
                producer.send(b"one too many", 0.3)
            assert producer.statistics().detached == 0  # it would not be redelivered
        receive_rest(consumer, rest)
    assert rest == [item(number) for number in range(1, 9)]
    assert losses.all == []


def test_a_full_ring_is_no_lost_host(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.add("x", 2)
    broken: list[str] = []
    monkeypatch.setattr(End, "_broke", lambda *args: broken.append(str(args[1])))
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
        peers.until(lambda: counts(hosts.far, "x").sent == 5)
        peers.until(lambda: counts(hosts.near, "x").freed == 5)
        producer.close()
        assert len(receive_all(hosts.far, "x")) == 5


def test_a_consumer_that_has_closed_closes_the_sending_side(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses), hosts.near.producer("x") as producer:
        hosts.far.consumer("x").close()
        with pytest.raises(ipcheap.ChannelClosed):
            producer.send_many([b"never received"] * 100, PATIENCE)
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


# Cut connections ----------------------------------------------------------------------------


def exchange(hosts: Hosts, channel_id: str, cuts: dict[tuple[int, int], int]) -> Proxy:
    """Send six records over connections that are cut; all must arrive exactly once."""
    hosts.add(channel_id, 4)
    losses = Losses()

    def produce() -> None:
        with hosts.near.producer(channel_id) as producer:
            producer.send(b"first", PATIENCE)
            producer.send(b"", PATIENCE)
            with producer.loan((2, 3), "<i2", PATIENCE, order="F") as array:
                array[:] = 7
            producer.send_object(("object", 1), PATIENCE)
            producer.send(b"", PATIENCE)
            producer.send(b"last", PATIENCE)

    listener = Listener("127.0.0.1", TOKEN, losses)
    with Proxy(listener.port, cuts) as proxy, hosts.far.consumer(channel_id) as consumer:
        listener.receive(hosts.far, channel_id)
        sender = Sender(hosts.near, channel_id, "127.0.0.1", proxy.port, TOKEN, losses)
        sender.start()
        thread = in_thread(produce)
        assert consumer.recv(PATIENCE) == b"first"
        assert consumer.recv(PATIENCE) == b""
        array = consumer.recv_array(PATIENCE)
        assert array.shape == (2, 3)
        assert array.dtype == np.dtype("<i2")
        assert array.flags.f_contiguous
        assert (array == 7).all()
        del array
        assert consumer.recv_object(PATIENCE) == ("object", 1)
        assert consumer.recv(PATIENCE) == b""
        assert consumer.recv(PATIENCE) == b"last"
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(PATIENCE)
        thread.join()
        assert sender.join(PATIENCE)
        assert listener.join(PATIENCE)
    listener.close()
    assert listener.join(PATIENCE)
    assert losses.all == []
    assert counts(hosts.near, channel_id).freed == 6
    assert counts(hosts.far, channel_id).sent == 6
    for heap in hosts:
        heap.remove_channel(channel_id)
        assert heap.statistics().in_use == 0
    return proxy


@pytest.mark.parametrize("direction", [FORTH, BACK])
def test_a_connection_is_cut_after_every_byte(hosts: Hosts, direction: int) -> None:
    at = whole = 0
    while whole < 3:  # how much is sent depends on how many records a batch gets
        proxy = exchange(hosts, f"x{at}", {(0, direction): at})
        assert proxy.connections <= 2
        whole += proxy.connections == 1
        at += 1
    assert at > (200 if direction == FORTH else 16)


@pytest.mark.parametrize("direction", [FORTH, BACK])
def test_two_connections_are_cut_after_any_byte(hosts: Hosts, direction: int) -> None:
    rng = random.Random(direction)
    for turn in range(60):
        most = 300 if direction == FORTH else 40
        cuts = [rng.randrange(most), rng.randrange(most)]
        exchange(hosts, f"x{turn}", {(n, direction): cuts[n] for n in range(2)})


def test_connections_are_cut_at_random_times(hosts: Hosts) -> None:
    hosts.add("x", 64)
    losses = Losses()
    listener = Listener("127.0.0.1", TOKEN, losses)
    rng = random.Random(3)
    with Proxy(listener.port) as proxy:
        listener.receive(hosts.far, "x")
        sender = Sender(hosts.near, "x", "127.0.0.1", proxy.port, TOKEN, losses)
        sender.start()
        count = 20_000
        source = in_thread(bridge_workers.produce, hosts.near, "x", count)
        found: list[bytes] = []
        reader = in_thread(lambda: found.extend(receive_all(hosts.far, "x")))
        while reader.is_alive():
            reader.join(rng.uniform(0, 0.05))
            proxy.cut_all()
        assert found == [item(number) for number in range(count)]
        source.join()
        assert sender.join(PATIENCE)
        assert listener.join(PATIENCE)
        assert proxy.connections > 3
    listener.close()
    assert listener.join(PATIENCE)
    assert losses.all == []


# Killed processes ---------------------------------------------------------------------------


class Mortal:
    """A process at one end of a bridge, which is killed and started again."""

    def __init__(self, start: Callable[[], peers.Peer[Any]]) -> None:
        self.start = start
        self.peer = start()
        self.kills = 0

    def kill(self) -> None:
        """Kill the process, and start another one."""
        if self.peer.alive:
            self.peer.kill()
        if self.peer.wait() == -signal.SIGKILL:
            self.kills += 1
            self.peer = self.start()


def killing(hosts: Hosts, seed: int, whom: str, seconds: float) -> tuple[int, int]:
    """Kill the processes at either end for a while; return how many records came, and kills."""
    hosts.add("x", 16)
    rng = random.Random(seed)
    found: list[bytes] = []
    stop = threading.Event()
    count = 0

    def produce() -> None:
        nonlocal count
        with hosts.near.producer("x") as producer:
            while not stop.is_set():
                try:
                    producer.send(item(count), timeout=4 * PATIENCE)
                    count += 1
                except ipcheap.PeerDied:
                    producer.wait_peer(PATIENCE)

    with Proxy(0) as proxy, contextlib.ExitStack() as stack:

        def receive() -> peers.Peer[Any]:
            peer = peers.run(bridge_workers.receive, hosts.far, ["x"])
            stack.enter_context(peer)
            proxy.target = peer.hear()
            return peer

        def send() -> peers.Peer[Any]:
            peer = peers.run(bridge_workers.send, hosts.near, ["x"], proxy.port)
            stack.enter_context(peer)
            peer.hear()
            return peer

        ends = {"receiver": Mortal(receive), "sender": Mortal(send)}
        source = in_thread(produce)
        reader = in_thread(lambda: found.extend(receive_all(hosts.far, "x")))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(rng.uniform(0, 0.2))
            ends[whom if whom in ends else rng.choice(list(ends))].kill()
        stop.set()
        source.join()
        reader.join(4 * PATIENCE)
        assert ends["sender"].peer.result(PATIENCE) == []
        ends["receiver"].peer.tell("enough")
        assert ends["receiver"].peer.result(PATIENCE) == []
    assert found == [item(number) for number in range(count)]
    return count, sum(end.kills for end in ends.values())


@pytest.mark.parametrize("whom", ["sender", "receiver", "either"])
def test_killed_ends_lose_and_repeat_nothing(hosts: Hosts, whom: str) -> None:
    count, kills = killing(hosts, seed=len(whom), whom=whom, seconds=8)
    assert count > 100
    assert kills > 3


STEP = 17  # every call takes minutes


def fill(heap: ipcheap.Heap, channel_id: str) -> list[bytes]:
    """Send all there is to send; return it."""
    items = [b"", b"one", bytes(20_000), b"", b"four", b"five"]
    with heap.producer(channel_id) as producer:
        producer.send_many(items)
    return items


def test_a_sender_killed_before_any_call_is_continued() -> None:
    kills = 0
    with (
        testing.temporary_heap("16MiB") as near,
        testing.temporary_heap("16MiB") as far,
        peers.run(bridge_workers.fork_ends) as peer,
    ):
        assert near.name is not None
        losses = Losses()
        listener = Listener("127.0.0.1", TOKEN, losses)
        for at in itertools.count(3, STEP):
            channel_id = f"x{at}"
            hosts = Hosts(near, far)
            hosts.add(channel_id, 8)
            items = fill(near, channel_id)
            listener.receive(far, channel_id)
            peer.tell((near.name, channel_id, at, listener.port))
            ended = peer.hear()
            if ended == -signal.SIGKILL:
                kills += 1
                peer.tell((near.name, channel_id, None, listener.port))
                assert peer.hear() == 0
            assert receive_all(far, channel_id) == items
            assert counts(near, channel_id).freed == len(items)
            for heap in hosts:
                assert heap.check() == []
                heap.remove_channel(channel_id)
                assert heap.statistics().in_use == 0
            if ended == 0:
                break
        listener.close()
        assert listener.join(PATIENCE)
        peer.tell(None)
        peer.result()
    assert losses.all == []
    assert kills > 150 // STEP


def test_a_receiver_killed_before_any_call_is_continued() -> None:
    kills = 0
    with (
        testing.temporary_heap("16MiB") as near,
        testing.temporary_heap("16MiB") as far,
        peers.run(bridge_workers.fork_ends) as peer,
        Proxy(0) as proxy,
    ):
        assert far.name is not None
        losses = Losses()
        for at in itertools.count(3, STEP):
            channel_id = f"x{at}"
            hosts = Hosts(near, far)
            hosts.add(channel_id, 8)
            items = fill(near, channel_id)
            sender = Sender(near, channel_id, "127.0.0.1", proxy.port, TOKEN, losses)
            peer.tell((far.name, channel_id, at, None))
            proxy.target = peer.hear()
            sender.start()
            ended = peer.hear()
            if ended == -signal.SIGKILL:
                kills += 1
                peer.tell((far.name, channel_id, None, None))
                proxy.target = peer.hear()
                assert peer.hear() == "ended"
            assert sender.join(PATIENCE)
            peer.tell("enough")
            assert peer.hear() == 0
            assert receive_all(far, channel_id) == items
            for heap in hosts:
                assert heap.check() == []
                heap.remove_channel(channel_id)
                assert heap.statistics().in_use == 0
            if ended == "ended":
                break
        peer.tell(None)
        peer.result()
    assert losses.all == []
    assert kills > 150 // STEP


def test_a_sender_in_the_same_process_replaces_one_that_ended(hosts: Hosts) -> None:
    hosts.add("x", 4)
    hosts.near.producer("x").close()
    losses = Losses()
    with bridged(hosts, "x") as (sender, _):
        assert sender.join(PATIENCE)
        # The end is confirmed again: the process may have been killed before it knew.
        again = Sender(hosts.near, "x", "127.0.0.1", 1, TOKEN, losses, 0.3)
        again.start()
        assert again.join(PATIENCE)
    assert losses.all == []


def test_a_receiver_finds_that_the_end_has_come(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with hosts.near.producer("x") as producer:
        producer.send(b"only")
    with bridged(hosts, "x"):
        pass
    losses = Losses()
    listener = Listener("127.0.0.1", TOKEN, losses, 0.3)
    listener.receive(hosts.far, "x")
    assert listener.join(PATIENCE)
    with call(listener.port, "x") as sock:
        assert answer(sock) == 1 | ENDED
        assert sock.recv(1) == b""
    listener.close()
    assert listener.join(PATIENCE)
    assert losses.all == []
    assert receive_all(hosts.far, "x") == [b"only"]


# Strangers, and other mistakes --------------------------------------------------------------


def call(port: int, channel_id: str, token: bytes = TOKEN) -> socket.socket:
    """Connect as a sending host does."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.sendall(token + bytes([len(channel_id)]) + channel_id.encode())
    return sock


def answer(sock: socket.socket) -> int:
    """Return the next answer."""
    (word,) = struct.unpack("<Q", sock.recv(8, socket.MSG_WAITALL))
    return int(word)


@contextlib.contextmanager
def listening(hosts: Hosts, patience: float = 20.0) -> Iterator[tuple[Listener, Losses]]:
    """Receive a channel whose sending host is the test itself."""
    hosts.add("x", 4)
    losses = Losses()
    listener = Listener("127.0.0.1", TOKEN, losses, patience)
    try:
        listener.receive(hosts.far, "x")
        yield listener, losses
    finally:
        listener.close()
        assert listener.join(PATIENCE)


def is_closed(sock: socket.socket) -> bool:
    """Whether the other end has closed, without a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "hello",
    [
        bytes(32) + b"\x01x",
        TOKEN[:31] + b"\xff" + b"\x01x",
        TOKEN + b"\x01y",
        TOKEN + b"\x00",
        TOKEN + b"\x02\xff\xfe",
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        os.urandom(5000),
    ],
)
def test_strangers_are_turned_away(hosts: Hosts, hello: bytes) -> None:
    with listening(hosts) as (listener, losses):
        with socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(hello)
            assert is_closed(sock)
        with call(listener.port, "x") as sock:
            assert answer(sock) == 0
    assert losses.all == []


def test_a_caller_that_says_nothing_is_not_waited_for(hosts: Hosts) -> None:
    with listening(hosts, patience=0.5) as (listener, _), contextlib.ExitStack() as stack:
        begun = time.monotonic()
        socks = []
        for said in (b"", TOKEN[:5], TOKEN, TOKEN + b"\x05x"):
            sock = socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE)
            socks.append(stack.enter_context(sock))
            sock.sendall(said)
        assert all(map(is_closed, socks))
        assert time.monotonic() - begun < 5


def test_many_callers_do_not_keep_the_sender_out(hosts: Hosts) -> None:
    with listening(hosts) as (listener, _), contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        with call(listener.port, "x") as sock:
            assert answer(sock) == 0
        peers.until(lambda: len(listener._callers) <= 65)


def batch(sizes: list[int], extra: bytes = b"", count: int | None = None) -> bytes:
    """Return the head of a batch."""
    count = len(sizes) if count is None else count
    return struct.pack(f"<II{len(sizes)}Q", count, len(extra), *sizes) + extra


@pytest.mark.parametrize(
    "said",
    [
        batch([], count=65),
        batch([], count=0xFFFFFFFF),
        struct.pack("<II", 1, 0xFFFFFFFF),
        batch([1 << 40]),
        batch([0xFFFFFFFFFFFFFFFF]),
        batch([4], struct.pack("<H", 4) + b"what") + b"data",
        batch([4], struct.pack("<H", 40) + b"ara1") + b"data",
        batch([4], struct.pack("<H", 40) + bytes(40)) + b"data",
        batch([4], b"x"),
        batch([30000], struct.pack("<H", 1) + b"x"),
    ],
)
def test_nonsense_ends_the_bridge(hosts: Hosts, said: bytes) -> None:
    with listening(hosts) as (listener, losses), call(listener.port, "x") as sock:
        assert answer(sock) == 0
        sock.sendall(said)
        assert is_closed(sock)
        assert losses.any.wait(PATIENCE)
        ((channel_id, error),) = losses.all
        assert channel_id == "x"
        assert isinstance(error, BridgeLost)
        peers.until(lambda: "x" not in hosts.far.channels)


def test_a_second_connection_replaces_the_first(hosts: Hosts) -> None:
    with listening(hosts) as (listener, _), call(listener.port, "x") as first:
        assert answer(first) == 0
        first.sendall(batch([1, 1]) + b"a")  # the second record never comes
        with call(listener.port, "x") as second:
            assert answer(second) == 0
            assert is_closed(first)
            second.sendall(batch([1, 1]) + b"ab")
            assert answer(second) == 2
            second.sendall(batch([1, 1, 1]) + b"cde")  # the ring has four slots
            assert answer(second) == 4
            with call(listener.port, "x") as third:
                assert answer(third) == 4
                assert is_closed(second)
                third.sendall(batch([0]) + batch([]))
                with hosts.far.consumer("x") as consumer:
                    assert consumer.recv_many(4, PATIENCE) == [b"a", b"b", b"c", b"d"]
                    assert consumer.recv(PATIENCE) == b""
                    with pytest.raises(ipcheap.ChannelClosed):
                        consumer.recv(PATIENCE)
                while (word := answer(third)) == 4:
                    pass
                assert word == 5
                assert answer(third) == 5 | ENDED


@contextlib.contextmanager
def answering(*words: int) -> Iterator[int]:
    """Be a receiving host that answers this; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with sock, contextlib.suppress(OSError):
                        sock.recv(34, socket.MSG_WAITALL)
                        for word in words:
                            sock.sendall(struct.pack("<Q", word))
                            time.sleep(0.1)
                        while sock.recv(4096):
                            pass

        thread = in_thread(serve)
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("words", [(3,), (0, 3), (2, 1), (1 | ENDED,), (1 << 61,)])
def test_an_answer_that_cannot_be_ends_the_bridge(hosts: Hosts, words: tuple[int, ...]) -> None:
    hosts.add("x", 4)
    losses = Losses()
    with hosts.near.producer("x") as producer, answering(*words) as port:
        producer.send_many([b"a", b"b"])
        sender = Sender(hosts.near, "x", "127.0.0.1", port, TOKEN, losses)
        sender.start()
        assert sender.join(PATIENCE)
    ((_, error),) = losses.all
    assert isinstance(error, BridgeLost)
    assert "x" not in hosts.near.channels


def test_a_deserted_answer_closes_the_sending_side(hosts: Hosts) -> None:
    hosts.add("x", 4)
    losses = Losses()
    with hosts.near.producer("x") as producer, answering(1 | ENDED | DESERTED) as port:
        producer.send_many([b"a", b"b", b"c"])
        sender = Sender(hosts.near, "x", "127.0.0.1", port, TOKEN, losses)
        sender.start()
        assert sender.join(PATIENCE)
        assert counts(hosts.near, "x").consumer == "closed"
    assert losses.all == []


def test_what_is_no_channel_or_address_is_refused(hosts: Hosts) -> None:
    losses = Losses()
    hosts.near.add_static_segment("static", 64)
    hosts.add("x", 4)
    with pytest.raises(ipcheap.ChannelNotFound):
        Sender(hosts.near, "none", "127.0.0.1", 1, TOKEN, losses)
    with pytest.raises(TypeError):
        Sender(hosts.near, "static", "127.0.0.1", 1, TOKEN, losses)
    with pytest.raises(ValueError, match="IP address"):
        Sender(hosts.near, "x", "example.invalid", 1, TOKEN, losses)
    with pytest.raises(ValueError, match="32 bytes"):
        Listener("127.0.0.1", b"short", losses)
    with listening(hosts) as (listener, _), pytest.raises(ValueError, match="already"):
        listener.receive(hosts.far, "x")


# Aborts, and lost hosts ---------------------------------------------------------------------


def test_removed_channels_end_both_sides_quietly(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses), hosts.near.producer("x") as producer:
        for number in range(8):
            producer.send(item(number), PATIENCE)
        for heap in hosts:
            heap.remove_channel("x", force=True)
    assert losses.all == []


def test_removed_channels_end_idle_bridges(hosts: Hosts) -> None:
    hosts.add("x", 4)
    with bridged(hosts, "x") as (_, losses):
        peers.until(lambda: counts(hosts.near, "x").consumer == "open")
        for heap in hosts:
            heap.remove_channel("x", force=True)
    assert losses.all == []


@pytest.mark.parametrize("busy", [False, True])
def test_closing_is_an_abort_and_no_end(hosts: Hosts, busy: bool) -> None:
    hosts.add("x", 4)
    losses = Losses()
    listener = Listener("127.0.0.1", TOKEN, losses)
    listener.receive(hosts.far, "x")
    sender = Sender(hosts.near, "x", "127.0.0.1", listener.port, TOKEN, losses)
    sender.start()
    with hosts.far.consumer("x") as consumer, hosts.near.producer("x") as producer:
        producer.send(b"one", PATIENCE)
        assert consumer.recv(PATIENCE) == b"one"
        if busy:
            for number in range(1, 8):
                producer.send(item(number), PATIENCE)
        sender.close()
        listener.close()
        assert sender.join(PATIENCE)
        assert listener.join(PATIENCE)
        with pytest.raises(ipcheap.EndpointClosed):
            deque(iter(lambda: consumer.recv(PATIENCE), None), maxlen=0)
        with pytest.raises(ipcheap.EndpointClosed):
            producer.send(b"two", PATIENCE)
    assert losses.all == []


def test_a_host_that_cannot_be_reached_is_lost(hosts: Hosts) -> None:
    hosts.add("x", 4)
    losses = Losses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with hosts.near.producer("x") as producer:
        producer.send(b"one")
        begun = time.monotonic()
        sender = Sender(hosts.near, "x", "127.0.0.1", port, TOKEN, losses, 0.5)
        sender.start()
        assert sender.join(PATIENCE)
        assert 0.4 < time.monotonic() - begun < 3
        with pytest.raises(ipcheap.EndpointClosed):
            producer.send(b"two")
    ((channel_id, error),) = losses.all
    assert channel_id == "x"
    assert isinstance(error, BridgeLost)
    assert "no connection to 127.0.0.1 port" in str(error)
    assert "refused" in str(error)


def test_a_host_that_does_not_call_is_lost(hosts: Hosts) -> None:
    with listening(hosts, 0.5) as (listener, losses), hosts.far.consumer("x") as consumer:
        with pytest.raises(ipcheap.EndpointClosed):
            consumer.recv(PATIENCE)
        assert listener.join(PATIENCE)
    ((channel_id, error),) = losses.all
    assert channel_id == "x"
    assert "no connection from the sending host for 0.5 s" in str(error)


# Two network namespaces ---------------------------------------------------------------------


def ip(*arguments: str) -> None:
    """Call ip; skip the test if that is not allowed here."""
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no ip command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")


class Network(NamedTuple):
    """Two network namespaces, joined by a cable."""

    near: str
    far: str
    address: str

    def plug(self, state: str) -> None:
        """Plug the cable in ("up") or out ("down"): nobody is told anything."""
        ip("-n", self.far, "link", "set", "cable", state)
        if state == "up" and ":" in self.address:  # that went with the link
            ip("-n", self.far, "addr", "replace", f"{self.address}/64", "dev", "cable", "nodad")


@pytest.fixture(params=["10.97.13.2", "fd97:13::2"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """Make two network namespaces."""
    made = testing.unique_name("ipcheap")[:40]
    near, far = f"{made}-near", f"{made}-far"
    width = ["nodad"] if ":" in request.param else []
    try:
        for name in (near, far):
            ip("netns", "add", name)
        ip("-n", near, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", far)
        for name, last in ((near, "1"), (far, "2")):
            net = "/64" if width else "/24"
            ip("-n", name, "addr", "add", request.param[:-1] + last + net, "dev", "cable", *width)
            ip("-n", name, "link", "set", "cable", "up")
        yield Network(near, far, request.param)
    finally:
        for name in (near, far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.parametrize("outage", [0.0, 0.5, None])
def test_a_bridge_between_network_namespaces(
    hosts: Hosts, network: Network, outage: float | None
) -> None:
    hosts.add("x", 16)
    patience = 2.0
    how: dict[str, Any] = {"address": network.address, "patience": patience}
    with (
        peers.run(
            bridge_workers.receive, hosts.far, ["x"], namespace=network.far, **how
        ) as receiver,
        peers.run(
            bridge_workers.send, hosts.near, ["x"], receiver.hear(), namespace=network.near, **how
        ) as sender,
        hosts.near.producer("x") as producer,
        hosts.far.consumer("x") as consumer,
    ):
        for number in range(100):
            producer.send(item(number), PATIENCE)
            assert consumer.recv(PATIENCE) == item(number)
        if outage != 0:
            network.plug("down")
            producer.send(item(100), PATIENCE)
        if outage is None:
            begun = time.monotonic()
            ((_, near_lost),) = sender.result()
            assert "no connection" in near_lost
            receiver.tell("enough")
            ((_, far_lost),) = receiver.result()
            assert "no connection" in far_lost
            assert patience - 0.5 < time.monotonic() - begun < 2 * patience
            return
        if outage:
            time.sleep(outage)
            network.plug("up")
            assert consumer.recv(PATIENCE) == item(100)
        for number in range(200, 300):
            producer.send(item(number), PATIENCE)
            assert consumer.recv(PATIENCE) == item(number)
        producer.close()
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(PATIENCE)
        assert sender.result() == []
        receiver.tell("enough")
        assert receiver.result() == []
