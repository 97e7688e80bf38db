"""What other processes do in tests; each function here is run in one by `peers`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import numpy as np
import peers

import ipcheap
from ipcheap import doctor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

BATCH = 1024


def numbers(first: int, count: int) -> list[bytes]:
    """Return so many records of 8 bytes, each with its number."""
    raw = np.arange(first, first + count, dtype="<u8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


def number_of(data: bytes | memoryview) -> int:
    """Return the number that a record holds."""
    return int.from_bytes(data, "little")


def take_numbers(consumer: ipcheap.Consumer, count: int, step: int = 1, first: int = 0) -> None:
    """Receive so many numbers; they must come in order, none missing and none twice."""
    got = 0
    while got < count:
        batch = consumer.recv_many(BATCH, timeout=peers.PATIENCE)
        seen = np.frombuffer(b"".join(batch), dtype="<u8")
        begin = first + step * got
        expected = np.arange(begin, begin + step * len(batch), step, dtype="<u8")
        assert np.array_equal(seen, expected), f"at {got}: {seen[:4]}, not {expected[:4]}"
        got += len(batch)
    assert got == count


def all_numbers(consumer: ipcheap.Consumer) -> Iterator[int]:
    """Receive numbers until that ends in an error."""
    while True:
        for data in consumer.recv_many(timeout=peers.PATIENCE):
            yield number_of(data)


def give_numbers(producer: ipcheap.Producer, first: int, count: int) -> None:
    """Send so many numbers."""
    for at in range(first, first + count, BATCH):
        batch = numbers(at, min(BATCH, first + count - at))
        assert producer.send_many(batch, timeout=peers.PATIENCE) == len(batch)


# Conformance ------------------------------------------------------------------------------


def describe(heap: ipcheap.Heap) -> dict[str, Any]:
    """Return what a heap says of itself."""
    names = ("name", "capacity", "shm", "sem", "identity", "closed")
    return {name: getattr(heap, name) for name in names}


def attach_and_describe(name: str) -> dict[str, Any]:
    """Attach by name."""
    with ipcheap.Heap.attach(name) as heap:
        return describe(heap)


def echo(heap: ipcheap.Heap) -> int:
    """Forward what comes in on one channel on another, untouched; return how many."""
    count = 0
    with heap, heap.consumer("there", 10) as consumer, heap.producer("back", 10) as producer:
        while True:
            try:
                record = consumer.recv_record(timeout=peers.PATIENCE)
            except ipcheap.ChannelClosed:
                return count
            producer.send_record(record, timeout=peers.PATIENCE)
            count += 1


def churn(heap: ipcheap.Heap, seed: int, rounds: int) -> int:
    """Allocate and free large records, which takes the heap's lock; return how many."""
    dice = random.Random(seed)
    held: list[tuple[ipcheap.Record, int]] = []
    with heap:
        peers.say("ready")
        peers.listen()
        for turn in range(rounds):
            record = heap.allocate_record(dice.randrange(33 << 10, 200 << 10))
            mark = seed << 32 | turn
            record.view[:8] = record.view[-8:] = mark.to_bytes(8, "little")
            held.append((record, mark))
            if len(held) > 8:
                record, mark = held.pop(dice.randrange(len(held)))
                assert number_of(record.view[:8]) == number_of(record.view[-8:]) == mark
                record.free()
        for record, mark in held:
            assert number_of(record.view[:8]) == number_of(record.view[-8:]) == mark
            record.free()
    return rounds


def count_under_lock(heap: ipcheap.Heap, rounds: int) -> None:
    """Count in plain memory that a lock guards, when all are there and the start is given."""
    with heap:
        segment = heap.channel("shared", timeout=10)
        assert isinstance(segment, ipcheap.StaticSegment)
        ipcheap.Barrier(segment, 64, 3).wait(peers.PATIENCE)
        assert ipcheap.Event(segment, 128).wait(peers.PATIENCE)
        lock, total = ipcheap.Lock(segment, 192), segment.array("u8")[:1]
        for _ in range(rounds):
            with lock:
                total[0] += 1
        segment.atomic(8, "i8").fetch_sub(rounds)


def hold_records_until_killed(heap: ipcheap.Heap) -> None:
    """Allocate small and large ones."""
    held = [heap.allocate_record(nbytes) for nbytes in (8, 100, 5000, 100_000, 3_000_000)]
    peers.say(len(held))
    peers.listen()


def make_use_and_unlink(shm: str, sem: str, folder: str) -> dict[str, list[str]]:
    """Return the kernel's objects before, while there was a heap, and after; and its folder."""
    kind = kinds.Kind(shm, sem)
    seen = {"before": kinds.kernel_objects()}
    place = kind.place("here", folder)
    with ipcheap.Heap.create(place, "1MiB", shm=shm, sem=sem) as heap:
        heap.add_record_channel("c", 8)
        with heap.producer("c") as producer:
            producer.send(b"x")
        seen["while"] = kinds.kernel_objects() + os.listdir(folder)
        heap.unlink()
        if place is not None:
            try:
                ipcheap.Heap.attach(place)
            except ipcheap.HeapNotFound:
                pass
            else:
                raise AssertionError("still there")
        with heap.consumer("c") as consumer:
            assert consumer.recv(timeout=1) == b"x"
        heap.allocate_record(100_000).free()
    del heap, producer, consumer  # and the mapping with them
    seen["after"] = kinds.kernel_objects()
    seen["folder"] = os.listdir(folder)
    return seen


# Streams of records -----------------------------------------------------------------------


def produce_numbers(heap: ipcheap.Heap, channel: int | str, count: int) -> None:
    """Send numbers from 0."""
    with heap, heap.producer(channel, timeout=10) as producer:
        give_numbers(producer, 0, count)


def produce_records(heap: ipcheap.Heap, channel: str, count: int) -> None:
    """Send numbers that were written in place."""
    with heap, heap.producer(channel, timeout=10) as producer:
        for first in range(0, count, 64):
            records = producer.allocate_records(8, 64)
            for number, record in enumerate(records, first):
                record.view[:] = number.to_bytes(8, "little")
            assert producer.send_records(records, timeout=peers.PATIENCE) == 64


def consume_with_two_threads(heap: ipcheap.Heap, count: int) -> list[int]:
    """Receive even numbers in one thread and odd ones in another; return how many."""
    got = [0, 0]
    wrong: list[BaseException] = []

    def work(side: int) -> None:
        try:
            with heap.consumer(side, timeout=10) as consumer:
                take_numbers(consumer, count // 2, step=2, first=side)
                got[side] = count // 2
                try:
                    consumer.recv(timeout=peers.PATIENCE)
                except ipcheap.ChannelClosed:
                    return
                raise AssertionError("more than was sent")
        except BaseException as error:
            wrong.append(error)

    with heap:
        threads = [threading.Thread(target=work, args=(side,)) for side in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]
    return got


# Beginnings and ends ----------------------------------------------------------------------


def send_and_leave(name: str, count: int) -> None:
    """Make the heap, send, and close everything."""
    with ipcheap.Heap.create(name, "1MiB") as heap:
        heap.add_record_channel("numbers", 1024)
        with heap.producer("numbers") as producer:
            give_numbers(producer, 0, count)


def attach_when_it_comes(name: str) -> int:
    """Wait for a heap."""
    peers.say("waiting")
    with ipcheap.Heap.attach(name, timeout=peers.PATIENCE) as heap:
        return heap.identity


def consume_when_it_comes(heap: ipcheap.Heap, channel: str) -> bytes:
    """Wait for a channel."""
    with heap:
        peers.say("waiting")
        with heap.consumer(channel, timeout=peers.PATIENCE) as consumer:
            return consumer.recv(timeout=peers.PATIENCE)


def race_to_open(places: list[tuple[str, str, str]]) -> list[int]:
    """Open the heaps one by one, when told when; return their identities."""
    found = []
    for turn, (place, shm, sem) in enumerate(places):
        peers.say("ready")
        start = peers.listen()
        while time.monotonic() < start:
            pass
        with ipcheap.Heap.open(place, f"{turn + 1}MiB", shm=shm, sem=sem) as heap:
            found.append(heap.identity)
            heap.add_static_segment("arrived", 8).atomic(0).fetch_add(1)
            peers.say("in")
            peers.listen()
    return found


def send_then_die(heap: ipcheap.Heap, channel: str, count: int, spare: int = 0) -> None:
    """Send numbers, allocate records that are never sent, and get killed."""
    producer = heap.producer(channel, timeout=10)
    give_numbers(producer, 0, count)
    _spare = [producer.allocate_record(5000 * (turn + 1)) for turn in range(spare)]
    peers.say("sent")
    peers.die()


def send_for_ever(heap: ipcheap.Heap, channel: str) -> None:
    """Send numbers until killed; say so when the first ones went."""
    producer = heap.producer(channel, timeout=10)
    for first in itertools.count(0, 16):
        producer.send_many(numbers(first, 16))
        if first == 0:
            peers.say("begun")


def receive_and_die(heap: ipcheap.Heap, channel: str, received: int, freed: list[int]) -> None:
    """Receive, free some of it, keep nothing, and get killed."""
    consumer = heap.consumer(channel, timeout=10)
    records = [consumer.recv_record(timeout=peers.PATIENCE) for _ in range(received)]
    for at in freed:
        records[at].free()
    peers.say([number_of(record.view) for at, record in enumerate(records) if at not in freed])
    peers.die()


def hold_side(heap: ipcheap.Heap, channel: str, side: str) -> None:
    """Claim a side and hold it until told to close it."""
    with heap, getattr(heap, side)(channel, timeout=10) as endpoint:
        peers.say(threading.get_native_id())
        peers.listen()
        endpoint.close()
        peers.say("closed")
        peers.listen()


def receive_and_end(heap: ipcheap.Heap, channel: str, count: int) -> list[int]:
    """Receive some, then end without closing anything, by returning."""
    consumer = heap.consumer(channel, timeout=10)
    return [number_of(data) for data in consumer.recv_many(count, timeout=peers.PATIENCE)]


def exit_without_closing(heap: ipcheap.Heap, channel: str) -> None:
    """Send one record and end the ordinary way, with the producer open."""
    producer = heap.producer(channel, timeout=10)
    producer.send(b"last")
    peers.say("sent")
    globals()["_kept_open"] = producer


def kill_creators_everywhere(shm: str, sem: str, folder: str) -> int:
    """Have creators killed before each line that they run; look what the next one finds.

    To be called where nobody else has kernel objects. Returns how many were killed.
    """
    place = kinds.Kind(shm, sem).place("half", folder)
    assert place is not None
    ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem).close()  # all is imported
    ipcheap.unlink(place)
    line = -1
    while _dies_creating(place, shm, sem, line := line + 1):
        try:
            found = ipcheap.Heap.attach(place)
        except ipcheap.HeapNotFound:
            found = None
        with found or ipcheap.Heap.open(place, "1MiB", shm=shm, sem=sem) as heap:
            assert (heap.shm, heap.sem) == (shm, sem), line
            assert heap.capacity == (1 << 20 if found is None else 64 << 10), line
            record = heap.allocate_record(40_000)
            record.view[:] = b"\1" * 40_000
            record.free()
            assert heap.check() == [], line
        ipcheap.unlink(place)
        del heap, found, record  # and with them the mapping
        left = kinds.kernel_objects() + os.listdir(folder)
        assert left == [], f"killed at line {line}: {left} is left over"
    ipcheap.unlink(place)
    return line


def kill_creators_and_unlink(shm: str, sem: str, folder: str) -> int:
    """Have creators killed before each line; `unlink` alone must clear up after them."""
    place = kinds.Kind(shm, sem).place("half", folder)
    assert place is not None
    ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem).close()
    ipcheap.unlink(place)
    line = -1
    while _dies_creating(place, shm, sem, line := line + 1):
        kinds.forget(place)
        left = kinds.kernel_objects() + os.listdir(folder)
        assert left == [], f"killed at line {line}: {left} is left over"
    ipcheap.unlink(place)
    return line


def kill_creators_and_repair(shm: str, sem: str, folder: str) -> dict[str, int]:
    """Have creators killed before each line; `doctor --repair` alone must clear up after them.

    Returns how often it found what.
    """
    place = kinds.Kind(shm, sem).place("half", folder)
    assert place is not None
    ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem).close()
    ipcheap.unlink(place)
    line, found = -1, dict.fromkeys(("absent", "half-made", "half-removed", "ready"), 0)
    while _dies_creating(place, shm, sem, line := line + 1):
        state = doctor.examine(place).facts["state"]
        found[state] += 1
        if state in ("half-made", "half-removed"):
            assert doctor.examine(place).code == 1, line
            seen = doctor.examine(place, repair=True)
            assert (seen.code, doctor.verdict(seen)) == (0, "mended"), line
        if state == "ready":
            ipcheap.unlink(place)
        left = kinds.kernel_objects() + os.listdir(folder)
        assert left == [], f"killed at line {line}: {left} is left over"
    ipcheap.unlink(place)
    return found


def kill_removers_everywhere(shm: str, sem: str, folder: str) -> int:
    """Have removers killed before each line; whoever comes next must get on with it.

    Returns how many were killed.
    """
    place = kinds.Kind(shm, sem).place("half", folder)
    assert place is not None
    line = -1
    while True:
        line += 1
        ipcheap.Heap.open(place, "64KiB", shm=shm, sem=sem).close()
        died = _dies_at_line(line, lambda: ipcheap.unlink(place))
        with contextlib.suppress(ipcheap.HeapNotFound):
            ipcheap.Heap.attach(place).close()
        if line % 3 == 0:
            with ipcheap.Heap.open(place, "64KiB", shm=shm, sem=sem) as heap:
                heap.allocate_record(40_000).free()
                assert heap.check() == [], line
        elif line % 3 == 1:
            state = doctor.examine(place, repair=True).facts["state"]
            assert state == "ready" or not os.path.exists(place), line
        kinds.forget(place)
        left = kinds.kernel_objects() + os.listdir(folder)
        assert left == [], f"killed at line {line}: {left} is left over"
        if not died:
            return line


def examine_everything(folder: str) -> list[Any]:
    """Make one of each kind of trouble; return what `ipcheap doctor --json` says of all, twice."""
    with ipcheap.Heap.create("used", "1MiB"):
        ipcheap.Heap.create("left", "1MiB").close()
        os.close(os.open("/dev/shm/ipcheap.half", os.O_CREAT | os.O_RDWR, 0o600))
        os.close(os.open("/dev/shm/.ipcheap.noted.making", os.O_CREAT | os.O_RDWR, 0o600))
        ipcheap.Heap.create("lost", "1MiB", shm="sysv").close()
        Path("/dev/shm/ipcheap.foreign").write_text("something else")
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            subprocess.run(["ipcrm", "-m", line.split()[1]], check=True)
        seen = []
        for options in ((), ("--repair",), ()):
            command = [Path(sys.executable).with_name("ipcheap"), "doctor", "--json", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.stderr == "", done.stderr
            seen.append([done.returncode, json.loads(done.stdout)])
    return seen


def _dies_creating(place: str, shm: str, sem: str, line: int) -> bool:
    """Fork a creator that is killed before it runs its line of that number."""
    return _dies_at_line(line, lambda: ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem))


def _dies_at_line(line: int, act: Callable[[], object]) -> bool:
    """Fork somebody who is killed before he runs that line of the package's own modules."""
    pid = os.fork()
    if pid == 0:
        left = line

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if "/ipcheap/_" not in frame.f_code.co_filename:
                return None
            if event == "line":
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace

        sys.settrace(trace)
        act()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


# Sizes and mistakes -----------------------------------------------------------------------


def check_record(heap: ipcheap.Heap, channel: str, mark: int) -> tuple[int, int]:
    """Receive a record all of whose 8-byte words are `mark`, the rest its lowest byte."""
    with (
        heap,
        heap.consumer(channel, timeout=10) as consumer,
        consumer.recv_record(timeout=peers.PATIENCE) as record,
    ):
        nbytes, array = record.nbytes, record.array()
        words = array[: nbytes // 8 * 8].view("<u8")
        assert (words == mark).all()
        assert (array[nbytes // 8 * 8 :] == mark & 255).all()
        address = int(array.ctypes.data)
        del words, array
    return nbytes, address % 64


def fill_a_small_file_system() -> dict[str, Any]:
    """Allocate until the file system is full, use all of it, free, and go on."""
    kept: dict[str, Any] = {}
    with ipcheap.Heap.create("full", "1GiB") as heap:
        heap.add_record_channel("c", 64)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"before")
            records: list[ipcheap.Record] = []
            for nbytes in (1 << 20, 100_000, 5000, 64):
                try:
                    while True:
                        records.append(heap.allocate_record(nbytes))
                except ipcheap.HeapFull as error:
                    kept[f"refused {nbytes}"] = str(error)
            kept["records"] = len(records)
            kept["bytes"] = sum(record.nbytes for record in records)
            for mark, record in enumerate(records):
                record.view[:] = bytes([mark % 251]) * record.nbytes  # no SIGBUS
            for name, add in (
                ("channel", lambda: heap.add_record_channel("large", 1 << 20).producer()),
                ("segment", lambda: heap.add_static_segment("segment", 1 << 20)),
                ("send", lambda: producer.send(bytes(1 << 20), timeout=0)),
                ("send_many", lambda: producer.send_many([bytes(1 << 20)], timeout=0)),
            ):
                try:
                    add()
                except ipcheap.HeapFull as error:
                    kept[f"refused {name}"] = str(error)
            kept["names"] = sorted(map(str, heap.channels))
            kept["check when full"] = heap.check()
            for mark, record in enumerate(records):
                assert bytes(record) == bytes([mark % 251]) * record.nbytes
            assert consumer.recv(timeout=0) == b"before"
            for record in records[::2]:
                record.free()
            for turn in range(2000):
                producer.send(turn.to_bytes(8, "little") * 2000, timeout=0)
                assert consumer.recv(timeout=0) == turn.to_bytes(8, "little") * 2000
            for record in records[1::2]:
                record.free()
            del record, records
            heap.trim()
            kept["left"] = (heap.statistics().records, heap.statistics().committed)
            big = heap.allocate_record(kept["bytes"] // 2)
            big.view[:] = b"\5" * big.nbytes
            big.free()
            kept["check at last"] = heap.check()
    ipcheap.unlink("full")
    kept["objects"] = kinds.kernel_objects()
    return kept


def fill_rings_of_a_small_file_system() -> list[str]:
    """Add channels until there is no room left, then fill the ring of each."""
    names: list[str] = []
    with ipcheap.Heap.create("rings", "1GiB") as heap:
        with contextlib.suppress(ipcheap.HeapFull):
            for turn in range(1000):
                heap.add_record_channel(str(turn), 1 << 15)
                heap.consumer(str(turn)).close()
                names.append(str(turn))
        assert len(names) < 32, "a thousand rings of 512 KiB in 16 MiB"
        heap.remove_channel(names.pop())  # room for the records
        for name in names:
            with heap.producer(name) as producer, heap.consumer(name) as consumer:
                for first in range(0, 1 << 15, BATCH):
                    give_numbers(producer, first, BATCH)
                    take_numbers(consumer, BATCH, first=first)
        check = heap.check()
    assert len(names) >= 8, names
    return check


def fill_while_others_take_the_room(nbytes: int) -> dict[str, Any]:
    """Somebody else's file fills the file system between one record and the next."""
    kept: dict[str, Any] = {}
    with ipcheap.Heap.create("squeezed", "1GiB") as heap:
        first = heap.allocate_record(nbytes)
        first.view[:] = b"a" * nbytes
        with open("/dev/shm/stranger", "wb", buffering=0) as stranger:
            try:
                while True:
                    stranger.write(bytes(4096))
            except OSError:
                pass
        try:
            heap.allocate_record(8 * nbytes)
        except ipcheap.HeapFull as error:
            kept["refused"] = str(error)
        first.view[:] = b"b" * nbytes
        os.unlink("/dev/shm/stranger")
        second = heap.allocate_record(8 * nbytes)
        second.view[:] = b"c" * second.nbytes
        assert bytes(first) == b"b" * nbytes
        kept["check"] = heap.check()
    return kept


def create_where_there_is_little_room(kind: list[str], folder: str) -> list[tuple[int, str]]:
    """Create heaps while /dev/shm grows from one page; return what happened at which size."""
    shm, sem = kind
    place = kinds.Kind(shm, sem).place("small", folder)
    assert place is not None
    happened = []
    for pages in itertools.chain(range(1, 40), range(40, 400, 20)):
        subprocess.run(["mount", "-o", f"remount,size={pages * 4096}", "/dev/shm"], check=True)
        try:
            heap = ipcheap.Heap.create(place, "64MiB", shm=shm, sem=sem)
        except ipcheap.HeapFull as error:
            happened.append((pages, str(error)))
            left = [name for name in kinds.kernel_objects() if name != folder]
            assert left == [], f"{pages} pages: {left} is left over"
            continue
        with heap:
            try:
                heap.allocate_record(64).free()
                assert heap.check() == []
            except ipcheap.HeapFull as error:
                happened.append((pages, str(error)))
            else:
                happened.append((pages, ""))
        ipcheap.unlink(place)
        del heap
    return happened


# Forks ------------------------------------------------------------------------------------


def use_in_child(heap: ipcheap.Heap) -> list[int]:
    """Receive what the parent sends, and answer, by endpoints of one's own."""
    with heap.consumer("down", 10) as consumer, heap.producer("up", 10) as producer:
        found = []
        for record in consumer:
            found.append(number_of(record.view))
            producer.send(bytes(record))
    return found


def pid_and_identity(heap: ipcheap.Heap) -> tuple[int, int]:
    """Return who this is and which heap it has."""
    heap.allocate_record(100).free()
    return os.getpid(), heap.identity


def add_channel(heap: ipcheap.Heap, name: str) -> str:
    """Add a channel and return its name."""
    heap.add_record_channel(name, 4)
    return name


# Static segments --------------------------------------------------------------------------


def race_to_initialise(heap: ipcheap.Heap, rounds: int) -> int:
    """Add segments as others do; return how often this one initialised."""
    mine = 0

    def initialise(view: memoryview) -> None:
        nonlocal mine
        mine += 1
        half = len(view) // 2
        view[:half] = b"a" * half
        time.sleep(0.002)
        view[half:] = b"b" * half

    for turn in range(rounds):
        peers.say("ready")
        start = peers.listen()
        while time.monotonic() < start:
            pass
        segment = heap.add_static_segment(turn, 4096, initialise)
        assert bytes(segment.view) == b"a" * 2048 + b"b" * 2048, "not complete"
    return mine


def die_while_initialising(heap: ipcheap.Heap, name: str) -> None:
    """Get killed half-way through an initialiser."""

    def initialise(view: memoryview) -> None:
        view[:100] = b"x" * 100
        peers.say("half")
        peers.die()

    heap.add_static_segment(name, 4096, initialise)


def hammer_cells(heap: ipcheap.Heap, rounds: int) -> None:
    """Change cells that others change too."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    up, down = segment.atomic(0, "u4"), segment.atomic(8, "i8")
    odd, claims = segment.atomic(16, "u8"), segment.atomic(24, "i4")
    peers.say("ready")
    peers.listen()
    for _ in range(rounds):
        up.fetch_add(3)
        down.fetch_sub(1)
        odd.fetch_xor(1 << 63 | 5)
        while True:
            seen = claims.load()
            if claims.compare_exchange(seen, seen + 1):
                break


def wait_for_change(heap: ipcheap.Heap, offset: int, dtype: str, value: int) -> bool:
    """Wait until a cell is no longer this."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    return segment.atomic(offset, dtype).wait(value, timeout=peers.PATIENCE)


def wait_for_event(heap: ipcheap.Heap) -> bool:
    """Wait for the event."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    return ipcheap.Event(segment, 0).wait(peers.PATIENCE)


def pass_barriers(heap: ipcheap.Heap, parties: int, rounds: int) -> list[int]:
    """Count rounds that nobody may be ahead in; return the order of arrival in each."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    barrier = ipcheap.Barrier(segment, 0, parties)
    arrived = segment.atomic(64)
    orders = []
    for turn in range(rounds):
        arrived.fetch_add(1)
        orders.append(barrier.wait(peers.PATIENCE))
        assert arrived.load() >= (turn + 1) * parties, "somebody is not there yet"
    return orders


def die_with_lock(heap: ipcheap.Heap) -> None:
    """Get killed with the lock held."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    ipcheap.Lock(segment, 0).acquire()
    peers.say("locked")
    peers.listen()


def hold_lock_for_a_while(heap: ipcheap.Heap) -> None:
    """Hold the lock until told."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    with ipcheap.Lock(segment, 0):
        peers.say("locked")
        peers.listen()
    peers.say("released")


def break_barrier(heap: ipcheap.Heap) -> str:
    """Wait at a barrier where nobody else comes, or that another breaks."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    try:
        ipcheap.Barrier(segment, 0, 3).wait(peers.PATIENCE)
    except threading.BrokenBarrierError as error:
        return type(error).__name__
    return "passed"
