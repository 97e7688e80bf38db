"""What ipcheap.testing promises to users who test their own programs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ipcheap
from ipcheap import testing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

HERE = Path(__file__)


def divide(a: int, b: int) -> float:
    return a / b


def echo() -> None:
    while (word := testing.listen()) != "enough":
        testing.say(word)


def hold(heap: ipcheap.Heap) -> None:
    kept = heap.allocate_record(100)
    testing.say(kept.nbytes)
    testing.listen()


def module_name() -> tuple[str, int]:
    return __name__, os.getpid()


class Outer:
    @staticmethod
    def inner() -> str:
        return "found"


# Names and heaps --------------------------------------------------------------------------


def test_names_are_unique_and_begin_as_asked() -> None:
    names = {testing.unique_name("mine") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(f"mine.{os.getpid()}.") for name in names)


@pytest.mark.parametrize("shm", ["posix", "sysv", "memfd"])
def test_a_temporary_heap_is_gone_afterwards(shm: str) -> None:
    with testing.temporary_heap("1MiB", shm=shm, sem="posix") as heap:
        assert (heap.shm, heap.sem, heap.capacity) == (shm, "posix", 1 << 20)
        name = heap.name
        assert name is None or testing.heaps_left(name) == [name]
    assert heap.closed
    assert name is None or testing.heaps_left(name) == []


def test_a_temporary_heap_may_be_unlinked_early() -> None:
    with testing.temporary_heap() as heap:
        heap.unlink()


def keep_record_in_temporary_heap(kept: list[ipcheap.Record]) -> None:
    with testing.temporary_heap("1MiB") as heap:
        kept.append(heap.allocate_record(100))


def test_a_record_left_in_use_is_a_leak() -> None:
    kept: list[ipcheap.Record] = []
    with pytest.raises(testing.Leak, match=r"1 records are in use, 0 were before; \+"):
        keep_record_in_temporary_heap(kept)
    name = re.findall("heap '(.*)'", repr(kept[0]))[0]
    assert testing.heaps_left(name) == []


def leaks(heap: ipcheap.Heap, work: Callable[[], object]) -> bool:
    """Return whether a piece of work leaks while its result is kept."""
    try:
        with testing.no_leaks(heap):
            kept = work()
    except testing.Leak:
        return True
    del kept
    return False


def test_a_view_that_lives_on_is_a_leak() -> None:
    def use(keep: bool) -> object:
        record = heap.allocate_record(100)
        view = record.view
        record.free()
        return view if keep else None

    with testing.temporary_heap("1MiB") as heap:
        assert leaks(heap, lambda: use(keep=True))
        assert not leaks(heap, lambda: use(keep=False))


def test_a_record_that_waits_in_a_channel_is_a_leak() -> None:
    with testing.temporary_heap("1MiB") as heap:
        heap.add_record_channel("c", 8)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            assert leaks(heap, lambda: producer.send(b"x"))
            assert not leaks(heap, consumer.recv)


def test_segments_and_what_was_there_before_are_none() -> None:
    with testing.temporary_heap("1MiB") as heap, heap.allocate_record(100):
        assert not leaks(heap, lambda: heap.add_static_segment("s", 5000))


def test_what_a_cycle_keeps_is_none() -> None:
    with testing.temporary_heap("1MiB") as heap:
        cycle: list[Any] = [heap.allocate_record(100)]
        cycle.append(cycle)
        del cycle


def test_what_the_dead_held_is_none() -> None:
    with testing.temporary_heap("1MiB") as heap, testing.run(hold, heap) as peer:
        assert peer.hear() == 100
        peer.kill()
        peer.wait()


def fail_in_temporary_heap() -> None:
    with testing.temporary_heap("1MiB") as heap, testing.no_leaks(heap):
        _record = heap.allocate_record(100)
        divide(1, 0)


def test_an_exception_in_the_block_is_what_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_in_temporary_heap()


# Peers ------------------------------------------------------------------------------------


def test_a_peer_gives_back_what_its_function_returns_or_raises() -> None:
    assert testing.call(divide, 6, b=3) == 2.0
    with testing.run(divide, 1, 0) as peer:
        with pytest.raises(ZeroDivisionError) as caught:
            peer.result()
        assert "in a peer" in caught.value.__notes__[0]
        assert peer.wait() == 0


def test_peers_talk() -> None:
    with testing.run(echo) as peer:
        for word in ("one", 2, b"three"):
            peer.tell(word)
            assert peer.hear() == word
        assert peer.alive
        peer.tell("enough")
        assert peer.result() is None
        with pytest.raises(EOFError):
            peer.hear()


def test_a_killed_peer_has_a_negative_exit_code() -> None:
    with testing.run(echo) as peer:
        peer.kill()
        assert peer.wait() == -signal.SIGKILL
        with pytest.raises(RuntimeError, match="ended with -9"):
            peer.result()
        peer.kill()  # a second time does nothing


def test_a_stopped_peer_is_stopped_when_the_call_returns() -> None:
    with testing.run(testing.listen) as peer:
        for _ in range(20):
            peer.kill(signal.SIGSTOP)
            stats = list(Path(f"/proc/{peer.pid}/task").glob("*/stat"))
            assert {stat.read_text().rpartition(")")[2].split()[0] for stat in stats} == {"T"}
            peer.kill(signal.SIGCONT)
        peer.tell("go")


def test_one_that_dies_by_itself_looks_killed() -> None:
    with testing.run(testing.die, signal.SIGTERM) as peer:
        assert peer.wait() == -signal.SIGTERM


def test_leaving_the_block_ends_the_peer() -> None:
    with testing.run(echo) as peer:
        pid = peer.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_waiting_for_a_peer_has_an_end() -> None:
    with testing.run(echo) as peer:
        for wait in (peer.hear, peer.result, peer.wait):
            with pytest.raises(TimeoutError):
                wait(0.01)
    with pytest.raises(TimeoutError):
        testing.until(lambda: False, 0.01)
    assert testing.until(lambda: [1]) == [1]


def test_a_function_is_found_by_its_name() -> None:
    assert testing.call(Outer.inner) == "found"
    name, pid = testing.call(module_name)
    assert name in (__name__, HERE.stem)
    assert pid != os.getpid()


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_peer_may_be_made_by_any_method(method: str) -> None:
    with testing.run_by(method, divide, 1, 2) as peer:
        assert peer.result() == 0.5


def test_a_function_inside_another_is_refused() -> None:
    with pytest.raises(ValueError, match="module level"):
        testing.run(lambda: None)


def test_what_belongs_into_a_peer_is_refused_elsewhere() -> None:
    for use in (testing.listen, lambda: testing.say("hello")):
        with pytest.raises(RuntimeError, match="not a peer"):
            use()


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_module_of_a_package_is_imported_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("WORD = 'relative'\n")
    (package / "work.py").write_text("from . import WORD\ndef word(): return WORD, __name__\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("some_package.work")
    assert testing.call(work.word) == ("relative", "some_package.work")


def test_another_module_of_the_same_name_is_not_mistaken_for_it(tmp_path: Path) -> None:
    (tmp_path / "peers.py").write_text("def where(): return __file__\n")
    module = load(tmp_path / "peers.py", "peers")
    assert testing.call(module.where) == str(tmp_path / "peers.py")


SCRIPT = """
from ipcheap import testing

def double(n):
    return 2 * n

if __name__ == "__main__":
    print(testing.call(double, 21))
"""


def test_a_script_may_run_its_own_functions(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=testing.PATIENCE)
    assert done.stdout == "42\n", done.stderr


# The fixtures -----------------------------------------------------------------------------

USER_TEST = """
import ipcheap

def test_one(heap, heap_name):
    assert heap.name == heap_name
    print("name:", heap_name)

def test_two(heap_name):
    ipcheap.Heap.create(heap_name, "1MiB").close()
    print("name:", heap_name)
"""


def test_the_fixtures_work_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["ipcheap.pytest_plugin"]\n')
    (tmp_path / "test_user.py").write_text(USER_TEST)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    names = [line.split("name: ")[1] for line in done.stdout.splitlines() if "name: " in line]
    assert len(names) == 2
    assert [name for name in names if testing.heaps_left(name)] == []
