"""`ipcheap doctor`: what it finds, what it repairs, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apart
import kinds
import peers
import pytest
import stream_workers
import workers

import ipcheap
from ipcheap._core import lib
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("ipcheap")  # -m would find the checkout
CHANNELS_AT = 268  # in a heap's header: the number of channels, an index


def command(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [COMMAND, "doctor", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def facts(*arguments: str) -> Any:
    code, output = command("--json", *arguments)
    seen = json.loads(output)
    assert seen["code"] == code
    (heap,) = seen["heaps"]
    return heap


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("numbers", 64)
        yield heap


@contextlib.contextmanager
def bytes_of(name: str) -> Iterator[mmap.mmap]:
    with open(f"/dev/shm/ipcheap.{name}", "r+b") as file, mmap.mmap(file.fileno(), 0) as raw:
        yield raw


def test_a_heap_in_use_is_healthy(heap: ipcheap.Heap, heap_name: str) -> None:
    heap.allocate_record(100).free()
    code, text = command(heap_name)
    assert code == 0
    assert text.startswith(f"{heap_name}: healthy\n")
    assert str(os.getpid()) in text
    seen = facts(heap_name)
    assert (seen["state"], seen["verdict"], seen["findings"]) == ("ready", "healthy", [])
    assert (seen["capacity"], seen["channels"], seen["mode"]) == (1 << 20, 1, "0600")
    assert [p["pid"] for p in seen["participants"]] == [os.getpid()]
    assert heap.statistics().participants == 1  # nothing of the doctor stays


def test_what_is_not_there_cannot_be_looked_at(heap_name: str) -> None:
    code, text = command(heap_name)
    assert code == 2
    assert f"there is no heap '{heap_name}'" in text
    assert command("--repair", heap_name) == (code, text)
    assert not os.path.exists(f"/dev/shm/ipcheap.{heap_name}")


def test_what_is_not_a_heap_is_left_untouched(heap_name: str) -> None:
    path = Path(f"/dev/shm/ipcheap.{heap_name}")
    path.write_text("a letter")
    try:
        code, text = command("--repair", heap_name)
        assert code == 2
        assert "is not a heap" in text
        assert path.read_text() == "a letter"
    finally:
        path.unlink()


def test_a_heap_that_may_not_be_opened_is_said_to_be_so(heap: ipcheap.Heap) -> None:
    assert heap.name
    with peers.run_by("fork", examine_as_somebody_else, heap.name) as peer:
        code, text, ours, others = peer.result()
    assert code == 2
    assert "Permission denied" in text
    assert heap.name in others
    assert heap.name not in ours


def examine_as_somebody_else(name: str) -> tuple[int, str, list[str], list[str]]:
    doctor.examine(name)  # so that everything is imported
    if os.getuid() == 0:
        os.setuid(65534)
    else:
        os.chmod(f"/dev/shm/ipcheap.{name}", 0)
    seen = doctor.examine(name)
    return seen.code, seen.findings[0].text, *doctor.survey()


def test_the_dead_are_named_and_with_repair_recovered(heap: ipcheap.Heap) -> None:
    assert heap.name
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 10)
        with peers.run(workers.receive_and_die, heap, "numbers", 5, [0, 1]) as peer:
            peer.hear()
            assert peer.wait() == -signal.SIGKILL
            code, text = command(heap.name)
            assert code == 1
            assert f"pid {peer.pid}" in text
            assert "has died and is not yet recovered" in text
            assert "--repair" in text
            code, text = command(heap.name)  # looking changes nothing
            assert code == 1
        seen = facts("--repair", heap.name)
        assert (seen["code"], seen["verdict"]) == (0, "mended")
        assert [f["what"] for f in seen["findings"]] == ["dead"]
        assert seen["findings"][0]["text"].endswith("has died")
        assert not [p for p in seen["participants"] if p["state"] == "dead"]
        assert seen["recovery"]["channels"] == {"numbers": 3}
        assert seen["recovery"]["redelivered"] == 3
        assert command(heap.name)[0] == 0
        assert heap.recover().participants == 0
        with heap.consumer("numbers") as consumer:
            assert [workers.number_of(d) for d in consumer.recv_many()] == list(range(2, 10))


def test_repair_says_in_words_what_it_did(heap: ipcheap.Heap) -> None:
    assert heap.name
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 3)
    with peers.run(workers.receive_and_die, heap, "numbers", 2, []) as peer:
        peer.hear()
        peer.wait()
    code, text = command("--repair", heap.name)
    assert code == 0
    assert text.startswith(f"{heap.name}: mended\n")
    assert "recovered 1 dead participants with 1 endpoints" in text
    assert "2 records will be redelivered (2 on 'numbers')" in text


def test_a_heap_that_nobody_has_open_is_named_and_kept(heap_name: str) -> None:
    workers.send_and_leave(heap_name, 10)
    for options in ((), ("--repair",)):
        code, text = command(*options, heap_name)
        assert code == 1
        assert "stale: no process has it open" in text
        assert f"ipcheap rm {heap_name}" in text
    with ipcheap.Heap.attach(heap_name) as heap, heap.consumer("numbers") as consumer:
        workers.take_numbers(consumer, 10)


def test_a_wrong_index_is_rebuilt(heap: ipcheap.Heap) -> None:
    assert heap.name
    with bytes_of(heap.name) as raw:
        assert struct.unpack_from("I", raw, CHANNELS_AT) == (1,)
        struct.pack_into("I", raw, CHANNELS_AT, 77)
        code, text = command(heap.name)
        assert code == 1
        assert "broken: the directory counts 77 channels and has 1" in text
        code, text = command("--repair", heap.name)
        assert (code, "mended" in text) == (0, True)
        assert struct.unpack_from("I", raw, CHANNELS_AT) == (1,)
    assert command(heap.name)[0] == 0


def test_what_nobody_can_mend_is_said_to_be_so(heap: ipcheap.Heap) -> None:
    assert heap.name
    record = heap.allocate_record(100)
    of_ours, nobodys = 1 << 62 | 1 << 12, 1 << 62 | 5 << 12 | 9
    stamp = ((1 << 18) - 1) << 44  # the second in which it was tagged
    with bytes_of(heap.name) as raw:
        # Twice in the metadata: first as the tag of the slab's pages, then of the block.
        words = struct.unpack_from(f"{(4 << 20) // 8}Q", raw[: 4 << 20])
        _, at = (8 * n for n, word in enumerate(words) if word & ~stamp == of_ours)
        mine = raw[at : at + 8]
        raw[at : at + 8] = struct.pack("Q", nobodys)
        assert command(heap.name)[0] == 1
        code, text = command("--repair", heap.name)
        assert code == 2
        assert "belong to nobody" in text
        assert "cannot be helped" in text
        raw[at : at + 8] = mine
    record.free()
    assert command(heap.name)[0] == 0


def test_a_dead_side_of_a_stream_is_named_and_recovered(heap: ipcheap.Heap) -> None:
    assert heap.name
    stream = heap.add_stream("flow", 1000)
    with peers.run(stream_workers.write_until_killed, heap, "flow") as peer:
        pid = peer.pid
        with stream.reader() as reader:
            reader.wait_peer(peers.PATIENCE)
        peer.kill()
        peer.wait()
    code, text = command(heap.name)
    assert code == 1
    assert f"pid {pid}" in text
    assert "has died and is not yet recovered" in text
    seen = facts("--repair", heap.name)
    assert (seen["code"], seen["verdict"], seen["channels"]) == (0, "mended", 2)
    assert seen["recovery"]["endpoints"] == 1
    assert command(heap.name)[0] == 0
    with stream.reader() as reader:
        reader.skip()
        with pytest.raises(ipcheap.PeerDied):
            reader.read(timeout=0)


def test_a_stream_with_impossible_positions_is_broken(heap: ipcheap.Heap) -> None:
    assert heap.name
    stream = heap.add_stream("flow", 1000)
    with stream.writer() as writer, stream.reader() as reader:
        while writer.position < 77_770:
            writer.write(bytes(777))
            reader.read()
        written, released = struct.pack("Q", writer.position), struct.pack("Q", 12)
    with bytes_of(heap.name) as raw:
        at = raw.find(written)  # the writer's side comes first
        raw[at : at + 8] = released
        for options, expected in (((), 1), (("--repair",), 2)):
            code, text = command(*options, heap.name)
            assert code == expected
            assert "released more items than were written (12 written" in text
        raw[at : at + 8] = written
    assert command(heap.name)[0] == 0


def test_a_heap_that_is_being_made_is_not_half_made(heap_name: str) -> None:
    fd = os.open(f"/dev/shm/ipcheap.{heap_name}", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        assert lib.py_lock_creation(fd, 0) == 0
        for options in ((), ("--repair",)):
            assert command(*options, heap_name) == (0, f"{heap_name}: being made\n")
        os.close(fd)
        fd = -1
        code, text = command(heap_name)
        assert code == 1
        assert "half-made: its creator died before it was ready" in text
        assert command("--repair", heap_name)[0] == 0
        assert not os.path.exists(f"/dev/shm/ipcheap.{heap_name}")
    finally:
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize("kind", kinds.NAMED[::4], ids=str)
def test_what_a_killed_creator_left_is_found_and_repaired(kind: kinds.Kind, tmp_path: Path) -> None:
    found = kinds.call_apart(apart.kill_creators_and_repair, *kind, str(tmp_path))
    assert found["half-made"] > 10
    assert found["ready"] > 0


@pytest.mark.parametrize("kind", kinds.NAMED, ids=str)
def test_an_unlink_killed_anywhere_is_completed_by_the_next_process(
    kind: kinds.Kind, tmp_path: Path
) -> None:
    assert kinds.call_apart(apart.kill_removers_everywhere, *kind, str(tmp_path)) > 10


def test_without_a_name_all_heaps_are_looked_at(tmp_path: Path) -> None:
    first, repair, again = kinds.call_apart(apart.examine_everything, str(tmp_path))
    states = {heap["name"]: (heap["state"], heap["code"]) for heap in first[1]["heaps"]}
    assert states == {
        "foreign": ("foreign", 2),
        "half": ("half-made", 1),
        "left": ("ready", 1),
        "lost": ("half-removed", 1),
        "noted": ("note", 1),
        "used": ("ready", 0),
    }
    verdicts = {heap["name"]: heap["verdict"] for heap in repair[1]["heaps"]}
    assert verdicts == {
        "foreign": "cannot be helped",
        "half": "mended",
        "left": "needs attention",
        "lost": "mended",
        "noted": "mended",
        "used": "healthy",
    }
    assert [heap["name"] for heap in again[1]["heaps"]] == ["foreign", "left", "used"]
    assert (first[0], repair[0], again[0]) == (2, 2, 2)
