"""Descriptors of endpoints: readable while there is something to do, for any poller."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import peers
import pytest
import seccomp
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOTS = 4


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", SLOTS)
        yield heap


# Asking for a descriptor again brings it in line, which is left to the other calls here.
_descriptors: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


def readable(endpoint: ipcheap.Producer | ipcheap.Consumer, seconds: float = 0.0) -> bool:
    if endpoint not in _descriptors:
        _descriptors[endpoint] = endpoint.fileno()
    poll = select.poll()
    poll.register(_descriptors[endpoint], select.POLLIN)
    return poll.poll(seconds * 1000) != []


def pipes_of(heap_name: str) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"ipcheap.{heap_name}~")]


# Any poller ---------------------------------------------------------------------------------


def by_select(fd: int) -> Callable[[float], bool]:
    return lambda seconds: bool(select.select([fd], [], [], seconds)[0])


def by_poll(fd: int) -> Callable[[float], bool]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda seconds: bool(poll.poll(seconds * 1000))


def by_epoll(fd: int) -> Callable[[float], bool]:
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN)
    return lambda seconds: bool(epoll.poll(seconds))


def by_selector(fd: int) -> Callable[[float], bool]:
    selector = selectors.DefaultSelector()
    selector.register(fd, selectors.EVENT_READ)
    return lambda seconds: bool(selector.select(seconds or -1))


@pytest.mark.parametrize("poller", [by_select, by_poll, by_epoll, by_selector])
def test_it_is_readable_while_there_is_something_to_do(
    heap: ipcheap.Heap, poller: Callable[[int], Callable[[float], bool]]
) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        to_receive, to_send = poller(consumer.fileno()), poller(producer.fileno())
        for turn in range(40):
            count = 1 + turn % SLOTS
            assert (to_receive(0), to_send(0)) == (False, True)
            for number in range(count):
                producer.send(bytes([number]))
                assert to_receive(0)
                assert to_receive(0), "it is a level, not an edge"
            assert to_send(0) == (count < SLOTS)
            for number in range(count):
                assert to_receive(0)
                assert consumer.recv() == bytes([number])
                assert to_send(0)
    gc.collect()


def test_other_ways_to_wait_in_between_do_not_disturb_it(heap: ipcheap.Heap) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        consumer.fileno()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                consumer.recv(timeout=0.001)
            assert ipcheap.wait([consumer], timeout=0.001) == []
            assert consumer.try_recv_record() is None
            assert not readable(consumer)
            producer.send(b"")
            assert ipcheap.wait([consumer], timeout=0) == [consumer]
            assert readable(consumer)
            consumer.recv_record().free()
            assert not readable(consumer)


def test_a_held_record_is_no_reason_to_be_readable(heap: ipcheap.Heap) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        for _ in range(SLOTS):
            producer.send(b"")
        held = consumer.recv_records(SLOTS)
        assert not readable(consumer)
        assert readable(producer)  # the oldest has been detached
        producer.send(b"")
        assert not readable(producer)
        assert readable(consumer)
        thread = threading.Thread(target=held[1].free)  # any thread may free records
        thread.start()
        assert readable(producer, peers.PATIENCE)
        thread.join()
        producer.send(b"")
        assert readable(consumer)
        assert len(held) == SLOTS


def free_all(records: list[ipcheap.Record]) -> None:
    while records:
        records.pop().free()


def test_records_freed_by_other_threads_wake_a_polled_producer(heap: ipcheap.Heap) -> None:
    count = 2000
    fresh: list[ipcheap.Record] = []
    done = threading.Event()

    def free_them() -> None:
        while not (done.is_set() and not fresh):
            free_all(fresh)

    freers = [threading.Thread(target=free_them) for _ in range(2)]

    def consume() -> None:
        with heap.consumer("c") as consumer:
            for _ in range(count):
                fresh.append(consumer.recv_record(timeout=peers.PATIENCE))

    consumer = threading.Thread(target=consume)
    with heap.producer("c") as producer:
        for thread in (*freers, consumer):
            thread.start()
        for _ in range(count):
            record = producer.allocate_record(8)
            while not producer.try_send_record(record):
                assert readable(producer, peers.PATIENCE)
        consumer.join()
        done.set()
        for thread in freers:
            thread.join()
    assert heap.statistics().records == 0


# Other processes ----------------------------------------------------------------------------


def send_with_pauses(heap: ipcheap.Heap, count: int, seed: int) -> None:
    chance = random.Random(seed)
    with heap.producer("c", timeout=peers.PATIENCE) as producer:
        producer.wait_peer(peers.PATIENCE)
        for number in range(count):
            while True:
                record = producer.allocate_record(8)
                record.view[:] = number.to_bytes(8, "little")
                if producer.try_send_record(record):
                    break
                record.free()
                assert readable(producer, peers.PATIENCE)
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.0005)


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_no_edge_is_lost_between_two_processes_that_poll(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    count = 2000
    with kinds.made(kind, heap_name, tmp_path) as heap:
        heap.add_record_channel("c", SLOTS)
        with peers.run(send_with_pauses, heap, count, 5) as peer, heap.consumer("c") as consumer:
            for number in range(count):
                while True:
                    record = consumer.try_recv_record()
                    if record is not None:
                        break
                    assert readable(consumer, peers.PATIENCE)
                with record:
                    assert workers.number_of(record.view) == number
            peer.result()
            assert readable(consumer), "the end is something, too"


def claim_and_listen(heap: ipcheap.Heap, side: str) -> None:
    endpoint: Any = getattr(heap, side)("c", timeout=peers.PATIENCE)
    peers.say("claimed")
    peers.listen()
    endpoint.close()
    peers.say("closed")
    peers.listen()


@pytest.mark.parametrize("ours", ["producer", "consumer"])
@pytest.mark.parametrize("kill", [False, True], ids=["closes", "dies"])
def test_it_becomes_readable_when_the_other_side(heap: ipcheap.Heap, ours: str, kill: bool) -> None:
    theirs = "consumer" if ours == "producer" else "producer"
    mine: Any = getattr(heap, ours)("c")
    with mine, peers.run(claim_and_listen, heap, theirs) as peer:
        assert peer.hear() == "claimed"
        if ours == "producer":
            for _ in range(SLOTS):
                mine.send(b"")
        else:
            assert mine.try_recv_record() is None
        assert not readable(mine)
        if kill:
            peer.kill()
        else:
            peer.tell("close")
        assert readable(mine, peers.PATIENCE)
        with pytest.raises(ipcheap.PeerDied if kill else ipcheap.ChannelClosed):
            mine.try_recv_record() if ours == "consumer" else mine.send(b"", timeout=0)
        assert readable(mine)
        if not kill:
            peer.tell("end")


def test_a_new_other_side_is_watched_for_its_death_too(heap: ipcheap.Heap) -> None:
    with heap.consumer("c") as consumer:
        for _ in range(2):
            consumer.fileno()
            with peers.run(claim_and_listen, heap, "producer") as peer:
                assert peer.hear() == "claimed"
                assert consumer.try_recv_record() is None
                assert not readable(consumer)
                peer.kill()
                assert readable(consumer, peers.PATIENCE)
                with pytest.raises(ipcheap.PeerDied):
                    consumer.try_recv_record()


def send_one(heap_name: str, user: int) -> None:
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    with ipcheap.Heap.attach(heap_name) as heap, heap.producer("c") as producer:
        peers.say(os.getuid())
        peers.listen()
        producer.send(b"from another")
        peers.listen()


def test_another_user_who_may_open_the_heap_may_ring(heap_name: str) -> None:
    user = 65534 if os.geteuid() == 0 else 0  # without root: our own user
    with ipcheap.Heap.create(heap_name, "1MiB", mode=0o666) as heap:
        heap.add_record_channel("c", SLOTS)
        with peers.run(send_one, heap_name, user) as peer, heap.consumer("c") as consumer:
            assert peer.hear() == (user or os.getuid())
            assert not readable(consumer)
            peer.tell("send")
            assert readable(consumer, peers.PATIENCE)
            assert consumer.recv() == b"from another"
            peer.tell("end")


ELSEWHERE = """
import os, sys, ipcheap
with ipcheap.Heap.attach(sys.argv[1]) as heap, heap.producer("c") as producer:
    assert os.getpid() < 10, "not in a namespace of its own"
    print("claimed", flush=True)
    sys.stdin.readline()
    producer.send(b"from elsewhere")
    sys.stdin.readline()
    os.kill(os.getpid(), 9)
    os.abort()  # who is first of a namespace is not killed by itself
"""


def test_another_pid_namespace_is_heard_and_its_death_is_noticed(heap: ipcheap.Heap) -> None:
    tool = shutil.which("unshare")
    if tool is None or subprocess.run([tool, "-pf", "true"], capture_output=True).returncode:
        pytest.skip("no PID namespace can be made here")
    command = [tool, "-pf", "--kill-child", "sh", "-c", '"$@"; :', "sh"]
    command += [sys.executable, "-P", "-c", ELSEWHERE, heap.name or ""]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        heap.consumer("c") as consumer,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"claimed\n"
            assert consumer.try_recv_record() is None
            assert not readable(consumer)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert readable(consumer, peers.PATIENCE)
            assert consumer.recv() == b"from elsewhere"
            assert not readable(consumer)
            process.stdin.write(b"\n")
            process.stdin.flush()
            while True:  # it looks whenever a process closes the heap
                assert readable(consumer, peers.PATIENCE)
                try:
                    assert consumer.try_recv_record() is None
                except ipcheap.PeerDied:
                    break
        finally:
            process.kill()


# Its pipe -----------------------------------------------------------------------------------


def test_there_is_a_pipe_only_when_asked_for(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.send(b"")
        consumer.recv()
        assert pipes_of(heap_name) == []
        assert consumer.fileno() == consumer.fileno()
        (name,) = pipes_of(heap_name)
        status = os.stat(f"/dev/shm/{name}")
        assert (stat.S_ISFIFO(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o600)
        assert name not in [f"ipcheap.{info.name}" for info in ipcheap.heaps()]
        producer.fileno()
        assert len(pipes_of(heap_name)) == 2
    assert pipes_of(heap_name) == []
    with pytest.raises(ipcheap.EndpointClosed):
        consumer.fileno()


def ask_for_it(heap: ipcheap.Heap) -> None:
    consumer = heap.consumer("c")
    consumer.fileno()
    peers.say("armed")
    peers.listen()
    consumer.close()


def test_what_the_dead_leave_goes_with_recovery(heap: ipcheap.Heap, heap_name: str) -> None:
    with peers.run(ask_for_it, heap) as peer:
        assert peer.hear() == "armed"
        peer.kill()
        peer.wait()
    assert len(pipes_of(heap_name)) == 1
    heap.recover()
    assert pipes_of(heap_name) == []


@pytest.mark.parametrize("shm", ["posix", "sysv", "file"])
def test_what_the_dead_leave_goes_with_the_name(shm: str, heap_name: str, tmp_path: Path) -> None:
    with kinds.made(kinds.Kind(shm, "futex"), heap_name, tmp_path) as heap:
        heap.add_record_channel("c", SLOTS)
        with peers.run(ask_for_it, heap) as peer:
            assert peer.hear() == "armed"
            peer.kill()
            peer.wait()
        folder = tmp_path if shm == "file" else Path("/dev/shm")
        (folder / f"{heap_name}~note").touch()  # is not one of ours
        assert [path for path in folder.glob(f"*{heap_name}~*") if path.is_fifo()]
        heap.unlink()
        left = list(folder.glob(f"*{heap_name}~*"))
        (folder / f"{heap_name}~note").unlink()
        assert [path.name for path in left] == [f"{heap_name}~note"]


def ring_when_told(heap: ipcheap.Heap) -> None:
    with heap.producer("c", timeout=peers.PATIENCE) as producer:
        peers.say("claimed")
        while peers.listen() == "send":
            producer.send(b"")


def test_it_works_on_when_the_heap_has_lost_its_name(heap: ipcheap.Heap, heap_name: str) -> None:
    with peers.run(ring_when_told, heap) as peer:
        with heap.consumer("c") as consumer:
            assert peer.hear() == "claimed"
            assert not readable(consumer)
            heap.unlink()
            assert pipes_of(heap_name) == []
            peer.tell("send")
            assert readable(consumer, peers.PATIENCE)
            consumer.recv()
        with ipcheap.Heap.create(heap_name, "1MiB"), heap.consumer("c") as consumer:
            assert not readable(consumer)
            assert pipes_of(heap_name) == [], "that name is another heap's now"
            peer.tell("send")
            assert readable(consumer, peers.PATIENCE)
            consumer.recv()
        peer.tell("end")


def test_a_file_under_its_name_is_not_touched(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.consumer("c") as consumer:
        consumer.fileno()
        (name,) = pipes_of(heap_name)
    squatter = Path("/dev/shm", name)
    squatter.write_text("mine")
    try:
        with peers.run(ring_when_told, heap) as peer, heap.consumer("c") as consumer:
            assert peer.hear() == "claimed"
            assert not readable(consumer)
            peer.tell("send")
            assert readable(consumer, peers.PATIENCE)
            peer.tell("end")
        assert squatter.read_text() == "mine"
    finally:
        squatter.unlink()


def test_a_byte_that_comes_late_does_not_stay(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        assert not readable(consumer)
        (name,) = pipes_of(heap_name)
        fd = os.open(f"/dev/shm/{name}", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"xx")  # as from a waker that was stopped on its way
        os.close(fd)
        assert readable(consumer)
        assert consumer.try_recv_record() is None
        assert not readable(consumer)
        producer.send(b"")
        assert readable(consumer)


def ring_without_descriptors(heap: ipcheap.Heap) -> None:
    with heap.producer("c", timeout=peers.PATIENCE) as producer:
        peers.say("claimed")
        peers.listen()
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        producer.send(b"unheard")
        for fd in taken:
            os.close(fd)
        producer.send(b"heard")
        peers.say("sent")
        peers.listen()


def test_a_waker_without_a_free_descriptor_leaves_ringing_to_the_next(heap: ipcheap.Heap) -> None:
    with peers.run(ring_without_descriptors, heap) as peer, heap.consumer("c") as consumer:
        assert peer.hear() == "claimed"
        assert not readable(consumer)
        peer.tell("send")
        assert readable(consumer, peers.PATIENCE)
        assert peer.hear() == "sent"
        assert consumer.recv_many() == [b"unheard", b"heard"]
        peer.tell("end")


def claim_and_wait_without_pidfd(heap: ipcheap.Heap) -> None:
    seccomp.refuse("pidfd_open")
    with heap.consumer("c", timeout=peers.PATIENCE) as consumer:
        consumer.fileno()
        peers.say("armed")
        while True:
            assert readable(consumer, peers.PATIENCE)
            try:
                assert consumer.try_recv_record() is None
            except ipcheap.PeerDied:
                return


def test_a_death_is_noticed_where_there_is_no_pidfd(heap: ipcheap.Heap) -> None:
    with (
        peers.run(claim_and_listen, heap, "producer") as victim,
        peers.run(claim_and_wait_without_pidfd, heap) as peer,
    ):
        assert victim.hear() == "claimed"
        assert peer.hear() == "armed"
        victim.kill()
        peer.result()


# Closing and forking ------------------------------------------------------------------------


def test_a_closed_endpoint_leaves_the_selector_that_had_it(heap: ipcheap.Heap) -> None:
    with select.epoll() as epoll, heap.producer("c") as producer:
        consumer = heap.consumer("c")
        epoll.register(consumer, select.EPOLLIN)
        producer.send(b"")
        assert epoll.poll(0)
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            peers.until(lambda: "S" in Path(f"/proc/{child}/stat").read_text().split()[2])
            consumer.close()
            assert epoll.poll(0.05) == [], "the child has a copy of its descriptor"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_forked_child_closes_the_heap_and_the_parent_goes_on_polling(heap: ipcheap.Heap) -> None:
    with select.epoll() as epoll, heap.producer("c") as producer, heap.consumer("c") as consumer:
        epoll.register(consumer, select.EPOLLIN)
        assert epoll.poll(0) == []
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    consumer.fileno()
                except ipcheap.WrongProcess:
                    heap.close()
                    code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert epoll.poll(0) == []
        producer.send(b"")
        assert epoll.poll(0) == [(consumer.fileno(), select.EPOLLIN)]


def test_it_is_of_the_thread_that_claimed_the_endpoint(heap: ipcheap.Heap) -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            consumer.fileno()
        except ipcheap.WrongThread as error:
            errors.append(error)

    with heap.consumer("c") as consumer:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(errors) == 1
