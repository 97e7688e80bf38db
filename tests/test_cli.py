"""The command line, as a shell sees it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
import psutil
import pytest

import ipcheap
from ipcheap.tools import cli, demo, screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = (Path(sys.executable).with_name("ipcheap"),)  # -m would find the checkout
LIMIT = 100.0
SEM = ("futex", "posix", "sysv")

Outcome = tuple[int, str, str]


def ipcheap_command(*arguments: str | Path) -> Outcome:
    result = subprocess.run(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout, result.stderr


def demo_facts(*arguments: str | Path) -> dict[str, Any]:
    code, output, errors = ipcheap_command("demo", "--json", *arguments)
    assert (code, errors) == (0, "")
    facts = json.loads(output)
    assert isinstance(facts, dict)
    assert facts["counts_agree"]
    assert facts["in_use_before"] == facts["in_use_after"]
    return facts


def exists(name: str) -> bool:
    return any(heap.name == name for heap in ipcheap.heaps())


@pytest.fixture
def text_files(tmp_path: Path) -> Path:
    """Make a directory of texts: 450 kB, in all sizes, and things that are not texts."""
    directory = tmp_path / "texts"
    (directory / "deep" / "er").mkdir(parents=True)
    words = itertools.cycle(("alpha", "beta_", "gamma42", "_", "déjà", "x" * 300, "\n", "... "))
    for n, target in enumerate((1, 100, 4095, 4096, 4097, 16384, 100_000, 300_000)):
        text = ""
        while len(text) < target:
            text += f"{next(words)} {n}{len(text)} "
        where = directory / ("deep" if n % 2 else "deep/er") / f"{n}.txt"
        where.write_text(text)
    (directory / "empty").touch()
    (directory / "binary").write_bytes(b"abc\0def")
    (directory / "latin").write_bytes(b"caf\xe9 caf\xe9")
    (directory / "dangling").symlink_to(directory / "nowhere")
    return directory


def words_of(directory: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "binary":
            counts.update(re.findall(r"[A-Za-z0-9_]+", path.read_bytes().decode("latin-1")))
    return counts


# demo -----------------------------------------------------------------------------------


def test_the_demo_counts_the_words(text_files: Path) -> None:
    facts = demo_facts(text_files, "--top", "100000")
    assert dict(facts["top"]) == words_of(text_files)
    assert facts["skipped"] == 2
    assert facts["files"] == 9
    assert facts["records"] >= 9


@pytest.mark.parametrize(
    ("shm", "sem"), list(itertools.product(("posix", "sysv", "file", "memfd"), SEM))
)
def test_the_demo_runs_on_every_kind_of_heap(shm: str, sem: str, text_files: Path) -> None:
    facts = demo_facts(text_files, "--shm", shm, "--sem", sem, "--chunk", "4KiB")
    assert (facts["shm"], facts["sem"]) == (shm, sem)
    assert facts["words"] == words_of(text_files).total()
    if shm != "memfd":
        assert not exists(facts["heap"])


@pytest.mark.parametrize("chunk", ["64", "1000", "40000", "1MiB"])
def test_no_chunk_cuts_a_word(chunk: str, text_files: Path) -> None:
    facts = demo_facts(text_files, "--chunk", chunk)
    assert facts["words"] == words_of(text_files).total()


def test_a_heap_much_smaller_than_the_input_is_enough(text_files: Path) -> None:
    facts = demo_facts(text_files, "--capacity", "64KiB", "--chunk", "2KiB")
    assert facts["bytes"] > 5 * facts["capacity"]


@pytest.mark.parametrize("records", [0, 1, 7, 2000])
def test_the_demo_sends_as_many_records_as_it_is_told(records: int, text_files: Path) -> None:
    facts = demo_facts(text_files, "--records", str(records), "--chunk", "1KiB")
    assert facts["records"] == records
    assert (facts["bytes"] == 0) == (records == 0)


def test_no_words_are_no_problem(tmp_path: Path) -> None:
    facts = demo_facts(tmp_path)
    assert (facts["files"], facts["records"], facts["words"], facts["top"]) == (0, 0, 0, [])


def test_the_demo_tells_its_result_in_lines(text_files: Path) -> None:
    code, output, errors = ipcheap_command("demo", text_files, "--top", "3")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].split() == ["word", "count"]
    assert lines[4] == ""
    assert lines[-1].startswith("counts agree: ")
    assert lines[-2].endswith(": nothing left")
    assert output.isascii()
    assert max(map(len, lines)) < 100


def test_a_wrong_count_fails_the_demo(
    text_files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "expected_counts", lambda *_: Counter({b"other": 1}))
    monkeypatch.setattr(sys, "argv", ["ipcheap", "demo", str(text_files)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.main() == 1
    assert "DO NOT AGREE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("/no/such/file",), "no such file"),
        (("--capacity", "64KiB", "--chunk", "1MiB"), "too small"),
        (("--capacity", "1KiB", "--chunk", "16"), "capacity"),
        (("--name", ".."), "name"),
        (("--name", "a/b"), "name"),
        (("--records", "5", "/dev/null"), "no text"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: tuple[str, ...], text: str) -> None:
    code, output, errors = ipcheap_command("demo", *arguments)
    assert (code, output) == (1, "")
    assert errors.startswith("ipcheap: ")
    assert errors.count("\n") == 1
    assert text in errors


@pytest.mark.parametrize("arguments", [("--records", "-1"), ("--chunk", "0"), ("--shm", "other")])
def test_a_bad_argument_shows_the_usage(arguments: tuple[str, ...]) -> None:
    code, _, errors = ipcheap_command("demo", *arguments)
    assert code == 2
    assert errors.startswith("usage: ")


def test_a_name_that_is_taken_is_left_alone(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "64KiB"):
        code, _, errors = ipcheap_command("demo", "--name", heap_name)
        assert code == 1
        assert heap_name in errors
        assert exists(heap_name)


@contextlib.contextmanager
def endless_demo(name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a demonstration until it counts."""
    arguments = ["demo", "--records", "100000000", "--name", name]
    process = subprocess.Popen(
        # The tests may be a shell's background job, which ignores Ctrl-C, as its children do.
        ["env", "--default-signal=INT", *map(str, COMMAND), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with ipcheap.Heap.attach(name, timeout=30) as heap:
            board = demo.Board(heap)
            peers.until(lambda: board.records.load() > 100 or process.poll() is not None)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()


def kill_child(number: int) -> Callable[[subprocess.Popen[str]], None]:
    def kill(process: subprocess.Popen[str]) -> None:
        # The third child is multiprocessing's tracker.
        spawned = [
            child
            for child in psutil.Process(process.pid).children()
            if any("spawn_main" in argument for argument in child.cmdline())
        ]
        sorted(spawned, key=lambda child: child.pid)[number].kill()

    return kill


@pytest.mark.parametrize(
    ("disturb", "code", "text"),
    [
        pytest.param(interrupt, 130, "ipcheap: interrupted\n", id="interrupted"),
        pytest.param(terminate, 128 + signal.SIGTERM, "", id="terminated"),
        pytest.param(
            kill_child(0), 1, "ipcheap: the producer was killed by SIGKILL\n", id="producer-killed"
        ),
        pytest.param(
            kill_child(1), 1, "ipcheap: the consumer was killed by SIGKILL\n", id="consumer-killed"
        ),
    ],
)
def test_a_demo_that_is_disturbed_cleans_up(
    disturb: Callable[[subprocess.Popen[str]], None], code: int, text: str, heap_name: str
) -> None:
    with endless_demo(heap_name) as process:
        children = psutil.Process(process.pid).children()
        assert len(children) >= 2
        disturb(process)
        output, errors = process.communicate(timeout=LIMIT)
        assert (process.returncode, output, errors) == (code, "", text)
        assert not exists(heap_name)
        assert psutil.wait_procs(children, timeout=10)[1] == []


def test_the_processes_of_a_demo_that_is_killed_end(heap_name: str) -> None:
    with endless_demo(heap_name) as process:
        children = psutil.Process(process.pid).children()
        process.kill()
        assert psutil.wait_procs(children, timeout=10)[1] == []


# ls and rm ------------------------------------------------------------------------------


def test_a_heap_is_listed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1536KiB", sem="posix", mode=0o640) as heap:
        heap.allocate_record(8)
        _, output, _ = ipcheap_command("ls")
        head, *lines = output.splitlines()
        (line,) = (line for line in lines if line.startswith(heap_name + " "))
        columns = re.split(r"\s{2,}", line)
        assert head.split()[:3] == ["name", "shm", "sem"]
        assert columns[:4] == [heap_name, "posix", "posix", "1.5 MiB"]
        assert columns[5:7] == ["1", "0640"]
        assert "stale" not in line
        _, output, _ = ipcheap_command("ls", "--json")
        (facts,) = (heap for heap in json.loads(output) if heap["name"] == heap_name)
        assert facts["capacity"] == 1536 * 1024
        assert facts["participants"] == 1
        assert facts["stale"] is False
        heap.unlink()
    assert heap_name not in ipcheap_command("ls")[1]


def leave_stale(name: str) -> None:
    code = (
        "import os, ipcheap\n"
        f"ipcheap.Heap.create({name!r}, '1MiB').allocate_record(8)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=LIMIT).returncode == -9


def test_a_heap_whose_users_have_died_is_marked_and_removed(heap_name: str) -> None:
    leave_stale(heap_name)
    (line,) = (n for n in ipcheap_command("ls")[1].splitlines() if n.startswith(heap_name + " "))
    assert line.endswith("  stale")
    assert ipcheap_command("rm", heap_name) == (0, f"removed {heap_name}\n", "")
    assert not exists(heap_name)


def test_all_stale_heaps_are_removed_and_no_others(
    heap_name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_stale(heap_name)
    living = f"{heap_name}.living"
    ours = (heap_name, living)
    heaps = ipcheap.heaps
    # Other tests leave stale heaps too, and still need them.
    monkeypatch.setattr(ipcheap, "heaps", lambda: [h for h in heaps() if h.name in ours])
    monkeypatch.setattr(sys, "argv", ["ipcheap", "rm", "--stale"])
    with ipcheap.Heap.create(living, "1MiB") as heap:
        heap.allocate_record(8)
        assert cli.main() == 0
        assert capsys.readouterr().out == f"removed {heap_name}\n"
        assert exists(living)
        heap.unlink()


def test_a_heap_in_use_is_removed_by_force_only(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.allocate_record(8)
        code, output, errors = ipcheap_command("rm", heap_name)
        assert (code, output) == (1, "")
        assert "--force" in errors
        assert exists(heap_name)
        assert ipcheap_command("rm", "--force", heap_name)[0] == 0
        assert not exists(heap_name)


def test_a_heap_that_is_not_there_cannot_be_removed(heap_name: str) -> None:
    missing = f"{heap_name}-missing"
    ipcheap.Heap.create(heap_name, "1MiB").close()
    code, output, errors = ipcheap_command("rm", missing, heap_name)
    assert code == 1
    assert output == f"removed {heap_name}\n"
    assert errors == f"ipcheap: there is no heap {missing!r}\n"


@pytest.mark.parametrize("command", [("rm", "--stal"), ("rm", "--f"), ("doctor", "--rep")])
def test_an_option_that_removes_is_written_out(heap_name: str, command: tuple[str, ...]) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB"):
        code, _, errors = ipcheap_command(*command, heap_name)
        assert code == 2
        assert f"unrecognized arguments: {command[1]}" in errors
        assert exists(heap_name)


def test_a_half_made_heap_has_no_age(heap_name: str) -> None:
    Path(f"/dev/shm/ipcheap.{heap_name}").touch()
    (line,) = (n for n in ipcheap_command("ls")[1].splitlines() if n.startswith(heap_name + " "))
    assert not re.search(r"\d+ d\b", line)
    assert ipcheap_command("rm", heap_name)[0] == 0


def test_rm_wants_to_know_what() -> None:
    code, output, errors = ipcheap_command("rm")
    assert (code, output) == (1, "")
    assert "--stale" in errors


def test_a_heap_in_a_file_that_is_in_use_is_removed_by_force_only(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    with ipcheap.Heap.create(str(path), "1MiB", shm="file") as heap:
        heap.allocate_record(8)
        code, _, errors = ipcheap_command("rm", path)
        assert code == 1
        assert "in use by 1 participant;" in errors
        assert path.exists()
        assert ipcheap_command("rm", "--force", path)[0] == 0


def test_a_file_that_is_no_heap_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear all,\n" * 1000)
    for option in ((), ("--force",)):
        code, output, errors = ipcheap_command("rm", *option, path)
        assert (code, output) == (1, "")
        assert errors.startswith("ipcheap: ")
    assert path.exists()


def test_a_heap_in_a_file_is_removed_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "heap"
    ipcheap.Heap.create(str(path), "1MiB", shm="file").close()
    assert ipcheap_command("rm", path) == (0, f"removed {path}\n", "")
    assert list(tmp_path.iterdir()) == []


# The rest -------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package() -> None:
    version = importlib.metadata.version("ipcheap")
    assert ipcheap_command("--version") == (0, f"ipcheap {version}\n", "")


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("ipcheap")
    result = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0
    for name in ("demo", "ls", "rm", "bus"):
        assert name in result.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d"), (-5, "0 s")],
)
def test_ages_are_written(seconds: float, text: str) -> None:
    assert screen.human_age(seconds) == text
