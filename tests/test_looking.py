"""`ipcheap who` and `ipcheap leaks`, as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import observed
import peers
import pytest

import ipcheap
from ipcheap.tools import looking

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("ipcheap")  # -m would find the checkout


def command(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def facts(*arguments: str) -> Any:
    code, output, errors = command(*arguments, "--json")
    assert errors == ""
    seen = json.loads(output)
    assert seen["code"] == code
    assert (seen["schema"], seen["command"]) == (1, arguments[0])
    return seen


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", 4)
        yield heap
        assert heap.check() == []


@pytest.mark.parametrize("verb", ["who", "leaks"])
def test_a_quiet_heap_is_nothing_to_worry_about(
    verb: str, heap: ipcheap.Heap, heap_name: str
) -> None:
    with heap.producer("c") as producer, heap.consumer("c"):
        producer.send(b"x" * 1000)
        record = heap.allocate_record(100_000)
        before = observed.bytes_of(f"/dev/shm/ipcheap.{heap_name}")
        code, output, errors = command(verb, heap_name)
        assert (code, errors) == (0, "")
        seen = facts(verb, heap_name)
        assert observed.bytes_of(f"/dev/shm/ipcheap.{heap_name}") == before
        (found,) = seen["heaps"]
        assert found["usage"]["records"] == 2
        assert found["blockers" if verb == "who" else "leaks"] == []
        if verb == "who":
            assert "nobody waits for anybody who does not move" in output
            row = next(line for line in output.splitlines()[1:] if f" {os.getpid()} " in line)
            assert row.split()[-4:-2] == ["c", "c"]
        else:
            assert output.startswith(f"{heap_name}: all of")
        record.free()


def test_the_root_and_the_way_out_are_named(heap: ipcheap.Heap, heap_name: str) -> None:
    with (
        peers.run(observed.fill, heap, "c") as producer,
        peers.run(observed.hold_some, heap, "c", 2) as consumer,
    ):
        consumer.hear()
        peers.until(lambda: heap.snapshot().blockers())
        code, output, _ = command("who", heap_name)
        assert code == 1
        assert "the oldest record is held by" in output
        consumer.kill(signal.SIGSTOP)
        code, output, _ = command("who", heap_name)
        assert code == 1
        assert f"kill -CONT {consumer.pid}" in output.splitlines()[-1]
        (found,) = facts("who", heap_name)["heaps"]
        (blocker,) = found["blockers"]
        assert (blocker["reason"], blocker["root"]) == ("stopped", True)
        keys = {each["key"]: each["pid"] for each in found["participants"]}
        assert keys[blocker["waiting"]] == producer.pid
        assert keys[blocker["blocker"]] == consumer.pid
        code, output, _ = command("leaks", heap_name)
        assert code == 1
        assert "2 holdings" in output
        assert "stopped" in output
        consumer.kill(signal.SIGCONT)


def test_a_dead_participant_is_something_to_worry_about(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer, peers.run(observed.hold_some, heap, "c", 1) as consumer:
        producer.send(b"x")
        consumer.hear()
        consumer.kill()
        consumer.wait()
        code, output, _ = command("who", heap_name)
        assert code == 1
        assert "has died and is not recovered yet" in output
        heap.recover()
        assert command("who", heap_name)[0] == 0


def test_traffic_is_no_blockage(heap: ipcheap.Heap, heap_name: str) -> None:
    with (
        peers.run(observed.fill, heap, "c") as producer,
        peers.run(observed.drain, heap, "c") as consumer,
    ):
        producer.hear()
        consumer.hear()
        for _ in range(3):
            code, output, _ = command("who", heap_name)
            assert code == 0, output
            assert command("leaks", heap_name)[0] == 0


def test_what_nobody_receives_is_a_leak(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer:
        producer.send_many([b"x" * 100] * 3)
        code, output, _ = command("leaks", heap_name)
        assert code == 1
        assert "(nobody receives)" in output
        (found,) = facts("leaks", heap_name)["heaps"]
        (leak,) = found["leaks"]
        assert (leak["how"], leak["channel"], leak["records"]) == ("pending", "c", 3)
        assert leak["oldest"] is None


def test_what_grew_is_shown(heap: ipcheap.Heap, heap_name: str) -> None:
    records = [heap.allocate_record(1000)]
    process = subprocess.Popen(
        [COMMAND, "leaks", heap_name, "--for", "2"], stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        records.append(heap.allocate_record(1000))
        time.sleep(0.05)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "owned grew by" in output
    for record in records:
        record.free()


def test_heaps_without_a_name_are_found(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with (
        ipcheap.Heap.create(None, "16MiB", shm="memfd") as nameless,
        ipcheap.Heap.create(str(path), "16MiB", shm="file") as file,
    ):
        name = nameless.snapshot().name
        sight = looking.sight_of([])
        with sight:
            assert {name, str(path)} <= set(sight.observers)
        (found,) = facts("who", name)["heaps"]
        assert found["identity"] == nameless.identity
        (found,) = facts("who", str(path))["heaps"]
        assert found["identity"] == file.identity


def test_what_cannot_be_looked_at_is_code_2(heap: ipcheap.Heap, heap_name: str) -> None:
    code, output, errors = command("who", "no.such.heap", heap_name)
    assert code == 2
    assert "no.such.heap" in errors
    assert output.startswith(heap_name)
    assert command("leaks", "a b")[0] == 2
    assert command("who", "--watch", "0")[0] == 2


def test_a_heap_of_another_user_is_not_ours(heap: ipcheap.Heap, heap_name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    program = (
        "import os, sys, ipcheap, ipcheap.blockers\n"
        "from argparse import Namespace\n"
        "from ipcheap.tools import looking, who\n"
        "[getattr(ipcheap, name) for name in ipcheap.__all__]\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(who.run(Namespace(name=sys.argv[1:], json=False, watch=None)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, heap_name],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{heap_name}: belongs to another user; you may not read it\n2\n"


def test_a_corrupt_heap_is_seen_as_far_as_it_goes(heap_name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", 4)
        copy.write_bytes(Path(f"/dev/shm/ipcheap.{heap_name}").read_bytes())
    os.truncate(copy, 8192)
    code, output, _ = command("who", str(copy))
    assert code == 1
    assert "corrupt: " in output


def test_watching_repeats_until_it_is_interrupted(heap: ipcheap.Heap, heap_name: str) -> None:
    heap.allocate_record(10).free()
    with subprocess.Popen(
        [COMMAND, "who", "--json", "--watch", "0.1", heap_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [line for line in (process.stdout.readline() for _ in range(6)) if line.strip()]
        assert all(json.loads(line)["heaps"] for line in lines)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
