"""`ipcheap bus`, as a shell sees it: arguments, exit codes, commands, signals, start-up."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
import psutil
import pytest

import ipcheap
from ipcheap.tools import bus_arguments, commands
from ipcheap.tools.bus_arguments import Mode, Usage, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("ipcheap")  # -m would find the checkout
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "bus" / "service"
LIMIT = 60.0
TEXT = "$(touch x); \" `touch x` ' * \\n"  # no shell must see it as anything but text

# The tests may be a shell's background job, which ignores Ctrl-C, as its children do.
FOREGROUND = ("env", "--default-signal=INT,PIPE,TERM,HUP")


def bus(
    *arguments: str | bytes | Path, input: bytes = b"", cwd: Path | None = None, **environment: str
) -> tuple[int, bytes, str]:
    """Run `ipcheap bus`; return the exit code, the output, and the messages."""
    done = subprocess.run(
        [*FOREGROUND, COMMAND, "bus", *arguments],
        input=input,
        capture_output=True,
        timeout=LIMIT,
        cwd=cwd,
        env=os.environ | environment,
    )
    messages = done.stderr.decode()
    assert "Traceback" not in messages
    return done.returncode, done.stdout, messages


def listeners(name: str) -> list[dict[str, Any]]:
    code, output, _ = bus("listeners", "--json", name)
    assert code == 0
    found: list[dict[str, Any]] = json.loads(output)
    return found


@contextlib.contextmanager
def running(
    *arguments: str | bytes, name: str, cwd: Path | None = None, count: int = 1, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ipcheap bus` with a verb that listens, until the bus has `count` listeners."""
    process = subprocess.Popen(
        [*FOREGROUND, COMMAND, "bus", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=os.environ | environment,
    )
    try:
        with ipcheap.Heap.attach(name.partition(":")[0]) as heap:
            heap.bus("bus").wait_listeners(count, timeout=LIMIT)
        yield process
    finally:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    output, messages = process.communicate(timeout=LIMIT)
    assert b"Traceback" not in messages
    return process.returncode, output, messages.decode()


@pytest.fixture
def name(heap_name: str) -> str:
    """Return the name of a new bus."""
    assert bus("create", "--capacity", "16", "--history", "8", heap_name) == (0, b"", "")
    return heap_name


# Arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["-x", "create", "--size", "1MiB", "B"],
        ["create", "-x", "--size=1MiB", "B"],
        ["--size", "1MiB", "create", "-x", "--", "B"],
        ["create", "B", "-x", "--size", "1MiB"],
    ],
)
def test_options_stand_before_or_after_the_verb(words: list[str]) -> None:
    found = parse(words)
    assert (found.verb, found.exclusive, found.size, found.heap) == ("create", True, 1 << 20, "B")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["B", "--post"], "--post"),
        (["B", "--"], "--"),
        (["B", "-n"], "-n"),
        (["B", "--help"], "--help"),
        (["B", "--", "-n"], "-n"),
        (["--", "B", "-n"], "-n"),
        (["B", "-"], "-"),
        (["B"], None),
        (["B", "--json", "text"], "text"),
        (["B", "text", "--json"], "text"),
    ],
)
def test_the_only_argument_after_the_bus_is_the_message(
    words: list[str], message: str | None
) -> None:
    found = parse(["broadcast", *words])
    assert (found.message, found.help, found.post, found.nowait) == (message, False, False, False)


def test_exec_takes_the_rest_of_the_line() -> None:
    found = parse(["listen", "--hold", "B", "--exec", "cat", "-n", "--", "--jobs"])
    assert found.command == ["cat", "-n", "--", "--jobs"]
    assert (found.hold, found.jobs) == (True, 64)


@pytest.mark.parametrize(
    ("text", "heap", "id"),
    [
        ("B", "B", "bus"),
        ("B:alarms", "B", "alarms"),
        ("B:7", "B", 7),
        ("B:a:b", "B:a", "b"),
        ("./B", "./B", "bus"),
        ("/run/x/B:007", "/run/x/B", 7),
        ("B:\u0667", "B", "\u0667"),
    ],
)
def test_a_bus_has_the_name_of_a_heap_and_an_id(text: str, heap: str, id: int | str) -> None:
    found = parse(["remove", text])
    assert (found.bus, found.heap, found.id) == (text, heap, id)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("640", 0o600, 0o660),
        ("111", 0o600, 0o666),
        ("0", 0o666, 0),
        ("4600", 0o666, 0o600),
        ("ug", 0o606, 0o660),
        ("=ug", 0o606, 0o660),
        ("u=g", 0o606, 0o060),
        ("+g", 0o600, 0o660),
        ("+go-o", 0o600, 0o660),
        ("-o", 0o666, 0o660),
        ("-go+g", 0o666, 0o660),
        ("u+g-u", 0o606, 0o060),
        ("=", 0o640, 0o640),
        ("-g=u", 0o666, 0o600),
    ],
)
def test_a_mode_is_read_from_left_to_right(text: str, before: int, after: int) -> None:
    assert Mode(text).applied(stat.S_IFREG | before) == after


@pytest.mark.parametrize("text", ["", "a", "u+r", "8", "0o640", "rw", "u g", "-1"])
def test_anything_else_is_no_mode(text: str) -> None:
    with pytest.raises(Usage, match="mode"):
        Mode(text)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bus"],
        ["create", "A", "B"],
        ["create", "-n", "B"],
        ["-x", "broadcast", "B", "text"],
        ["create", "--frobnicate", "B"],
        ["create", "--size"],
        ["create", "--size", "much", "B"],
        ["create", "--size", "9" * 400 + ".5", "B"],
        ["create", "--patience", "nan", "B"],
        ["create", "--patience=-1", "B"],
        ["create", "--capacity", "0", "B"],
        ["create", "--capacity", "9" * 5000, "B"],
        ["create", "--mode", "u", "B"],
        ["create", "-x=1", "B"],
        ["create", "B:"],
        ["create", ":x"],
        ["remove"],
        ["remove", "-x", "B"],
        ["listen"],
        ["listen", "B", "cat", "dog"],
        ["listen", "B", "cat", "--exec", "dog"],
        ["listen", "--exec", "cat"],
        ["listen", "B", "--exec"],
        ["listen", "B", "--exec=cat"],
        ["listen", "--count", "0", "B"],
        ["listen", "--json", "--null", "B"],
        ["listen", "--json", "B", "cat"],
        ["wait", "--count", "1", "B"],
        ["broadcast"],
        ["broadcast", "B", "two", "words"],
        ["broadcast", "--timeout", "soon", "B", "text"],
        ["chmod", "660"],
        ["chmod", "u+r", "B"],
        ["chmod", "-x", "B"],
        ["chown", "", "B"],
        ["chown", ":users", "B"],
        ["chown", "root:", "B"],
        ["chown", "root:a:b", "B"],
        ["chgrp", "a:b", "B"],
        ["listeners", "B", "C"],
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_what_is_not_understood_is_refused(words: list[str]) -> None:
    with pytest.raises(Usage):
        parse(words)


def test_what_is_not_understood_is_exit_code_2() -> None:
    for words in (["creat", "B"], ["create", "-n", "B"], ["chmod", "a", "B"], []):
        code, output, messages = bus(*words)
        assert (code, output) == (2, b"")
        assert messages.startswith("ipcheap: bus: ")


def test_each_verb_has_help() -> None:
    code, output, _ = bus("--help")
    assert code == 0
    for verb, described in bus_arguments.VERBS.items():
        assert f"\n  {verb} ".encode() in output
        code, text, _ = bus(verb, "--help")
        assert code == 0
        assert text.startswith(f"usage: ipcheap bus {verb} ".encode())
        assert all(f"\n  {flag} ".encode() in text for flag in described.options)


# create and remove ------------------------------------------------------------------------


def test_a_bus_is_created_once(heap_name: str) -> None:
    assert bus("create", heap_name) == (0, b"", "")
    assert bus("create", heap_name) == (0, b"", "")
    for words in (["-x", "create"], ["create", "-x"]):
        code, _, messages = bus(*words, heap_name)
        assert code == 1
        assert heap_name in messages
    assert bus("create", "-x", f"{heap_name}:other") == (0, b"", "")
    with ipcheap.Heap.attach(heap_name) as heap:
        assert set(heap.channels) == {"bus", "other"}
        assert (heap.capacity, heap.shm) == (64 << 20, "posix")
    (info,) = (info for info in ipcheap.heaps() if info.name == heap_name)
    assert stat.S_IMODE(info.mode) == 0o600


def test_a_bus_is_created_as_it_is_asked_for(heap_name: str) -> None:
    options = ("--size", "1MiB", "--capacity", "30", "--history", "5", "--patience", "1.5")
    assert bus("create", *options, "--mode", "640", f"{heap_name}:7")[0] == 0
    with ipcheap.Heap.attach(heap_name) as heap:
        made = heap.bus(7)
        assert (heap.capacity, made.capacity, made.history, made.patience) == (1 << 20, 32, 5, 1.5)
    (info,) = (info for info in ipcheap.heaps() if info.name == heap_name)
    assert stat.S_IMODE(info.mode) == 0o660
    assert bus("create", f"{heap_name}:7")[0] == 0
    assert bus("create", "--capacity", "64", f"{heap_name}:7")[0] == 1


def test_without_a_name_the_name_is_random() -> None:
    made = []
    for _ in range(2):
        code, output, _ = bus("create")
        assert code == 0
        made.append(output.decode().removesuffix("\n"))
    assert made[0] != made[1]
    for name in made:
        assert re.fullmatch(r"[\w.-]+", name)
        assert bus("remove", name) == (0, b"", "")


def test_a_path_names_a_heap_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audio"
    assert bus("create", "./audio", cwd=tmp_path) == (0, b"", "")
    assert path.is_file()
    assert bus("broadcast", path, "text") == (0, b"", "")
    assert bus("remove", path) == (0, b"", "")
    assert list(tmp_path.iterdir()) == []


def test_a_heap_is_not_left_behind_if_its_bus_cannot_be(heap_name: str) -> None:
    code, _, messages = bus("create", "--capacity", "4", "--history", "5", heap_name)
    assert code == 1
    assert "history" in messages
    assert not any(info.name == heap_name for info in ipcheap.heaps())


def test_removing_takes_the_heap_along_if_nothing_else_is_in_it(name: str) -> None:
    assert bus("create", f"{name}:other")[0] == 0
    assert bus("remove", name) == (0, b"", "")
    assert bus("remove", name)[0] == 1
    assert bus("remove", f"{name}:other") == (0, b"", "")
    assert bus("create", name)[0] == 0
    assert bus("remove", name) == (0, b"", "")
    assert not any(info.name == name for info in ipcheap.heaps())


def test_only_a_bus_is_removed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("bus")
        assert bus("remove", heap_name)[0] == 1
        assert "bus" in heap.channels


def test_no_such_bus_is_exit_code_1(heap_name: str) -> None:
    verbs = (
        ["remove", heap_name],
        ["listen", heap_name],
        ["wait", heap_name, "true"],
        ["broadcast", heap_name, "text"],
        ["chmod", "600", heap_name],
        ["chown", "0", heap_name],
        ["chgrp", "0", heap_name],
        ["listeners", heap_name],
    )
    for words in verbs:
        code, output, messages = bus(*words)
        assert (code, output) == (1, b"")
        assert heap_name in messages
    with ipcheap.Heap.create(heap_name, "1MiB"):
        for words in verbs:
            assert bus(*words)[0] == 1


def test_a_name_that_no_heap_can_have_is_exit_code_1() -> None:
    assert bus("create", "two words")[0] == 1
    assert bus("broadcast", "..", "text")[0] == 1


# Printing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "end"), [((), b"\n"), (("--null",), b"\0")])
def test_messages_are_printed(option: tuple[str, ...], end: bytes, name: str) -> None:
    with running("listen", *option, "--count", "4", name, name=name) as process:
        sent = [b"", b"text", b"a\0b\xff\n", os.urandom(300_000)]
        for message in sent:  # the last one is printed when somebody reads it
            assert bus("broadcast", "--post", name, input=message)[0] == 0
        assert result(process) == (0, b"".join(message + end for message in sent), "")


def test_each_message_is_printed_immediately(name: str) -> None:
    with running("listen", name, name=name) as process:
        assert process.stdout is not None
        for text in ("one", "two"):
            assert bus("broadcast", name, text)[0] == 0
            assert process.stdout.readline() == f"{text}\n".encode()


def test_messages_are_printed_as_json(name: str) -> None:
    with running("listen", "--json", "--count", "3", name, name=name) as process:
        for message in (b"text \xc3\xa4\n", b"\xff\0", b""):
            assert bus("broadcast", name, input=message)[0] == 0
        code, output, _ = result(process)
    first, second, third = map(json.loads, output.splitlines())
    assert code == 0
    assert first.keys() == {"position", "sender", "bytes", "text"}
    assert (first["position"], first["bytes"], first["text"]) == (0, 8, "text ä\n")
    assert first["sender"].keys() == {"pid", "name"}
    assert isinstance(first["sender"]["pid"], int)
    assert second.keys() == {"position", "sender", "bytes", "base64"}
    assert base64.b64decode(second["base64"]) == b"\xff\0"
    assert (third["position"], third["text"]) == (2, "")


def test_a_listener_may_begin_with_the_history(name: str) -> None:
    for number in range(5):
        assert bus("broadcast", name, str(number))[0] == 0
    assert bus("listen", "--history", "3", "--count", "3", name)[1] == b"2\n3\n4\n"
    assert bus("wait", "--history", "1", name) == (0, b"4\n", "")
    code, _, messages = bus("listen", "--history", "9", name)
    assert code == 1
    assert "history" in messages


# Commands ---------------------------------------------------------------------------------

SHOW = 'printf "%s|" "${msg-unset}"; cat; printf "|%s|%s\n" "$IPCHEAP_BUS" "$IPCHEAP_POSITION"'


@pytest.mark.parametrize("option", [(), ("--hold",)])
def test_a_command_gets_the_message(option: tuple[str, ...], name: str, tmp_path: Path) -> None:
    with running("listen", *option, "--count", "1", name, SHOW, name=name, msg="old") as process:
        assert bus("broadcast", name, "hello")[0] == 0
        assert result(process) == (0, f"hello|hello|{name}|0\n".encode(), "")


@pytest.mark.parametrize(
    "command",
    [
        ('printf %s "$msg" >out; cat >in',),
        ("--exec", "sh", "-c", 'printf %s "$msg" >out; cat >in'),
        ("--hold", 'printf %s "$msg" >out; cat >in'),
    ],
)
@pytest.mark.parametrize("text", [TEXT, "-n", "a\nb\n", "\udcff\u20ac", ""])
def test_no_text_becomes_part_of_a_command(
    text: str, command: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    words = ("wait", *command[:-1], name, command[-1])
    if command[0] == "--exec":
        words = ("wait", name, *command)
    with running(*words, name=name, cwd=tmp_path) as process:
        assert bus("broadcast", name, os.fsencode(text))[0] == 0
        assert result(process) == (0, b"", "")
    assert (tmp_path / "out").read_bytes() == os.fsencode(text)
    assert (tmp_path / "in").read_bytes() == os.fsencode(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    ("message", "is_set"),
    [
        (b"a\0b", False),
        (b"x" * (64 << 10), True),
        (b"x" * ((64 << 10) + 1), False),
        (os.urandom(1 << 20), False),
    ],
    ids=["NUL", "64 KiB", "more", "1 MiB"],
)
def test_what_a_variable_cannot_contain_is_on_standard_input(
    message: bytes, is_set: bool, name: str, tmp_path: Path
) -> None:
    command = 'cat >in; printf %s "${msg+set}"'
    with running("wait", name, command, name=name, cwd=tmp_path, msg="old") as process:
        assert bus("broadcast", name, input=message)[0] == 0
        assert result(process) == (0, b"set" * is_set, "")
    assert (tmp_path / "in").read_bytes() == message


def test_a_command_learns_the_sender(name: str) -> None:
    with (
        running("wait", name, 'echo "$IPCHEAP_SENDER"', name=name) as process,
        ipcheap.Heap.attach(name) as heap,
    ):
        heap.bus("bus").post(b"from here")
        assert result(process)[1] == b"%d\n" % os.getpid()


def test_a_program_is_run_without_a_shell(name: str) -> None:
    arguments = ("$msg", "a b", "--count", "*")
    with running("wait", name, "--exec", "printf", "%s|", *arguments, name=name) as process:
        assert bus("broadcast", name, "x")[0] == 0
        assert result(process) == (0, b"$msg|a b|--count|*|", "")


def test_a_program_that_is_not_there_ends_the_listener(name: str) -> None:
    with running("listen", name, "--exec", "/no/such/program", name=name) as process:
        assert bus("broadcast", name, "x")[0] == 0
        code, _, messages = result(process)
        assert code == 1
        assert "/no/such/program" in messages


def test_a_message_is_released_when_its_command_has_been_started(name: str, tmp_path: Path) -> None:
    command = "while ! [ -e go ]; do sleep 0.05; done; echo done"
    with running("wait", name, command, name=name, cwd=tmp_path) as process:
        assert bus("broadcast", "--timeout", str(LIMIT), name, "x")[0] == 0
        (tmp_path / "go").touch()
        assert result(process) == (0, b"done\n", "")


def test_with_hold_a_broadcast_waits_for_all_commands(name: str, tmp_path: Path) -> None:
    command = 'sleep 0.2; echo "$msg" >>done'
    words = ("listen", "--hold", name, command)
    with (
        running(*words, name=name, cwd=tmp_path),
        running(*words, name=name, cwd=tmp_path, count=2),
    ):
        for count in (2, 4):
            code, output, _ = bus("broadcast", "--json", name, "x")
            assert code == 0
            assert (tmp_path / "done").read_text() == "x\n" * count
            report = json.loads(output)
            assert (report["listeners"], report["released"], report["slow"]) == (2, 2, [])


def test_with_hold_commands_run_one_at_a_time(name: str, tmp_path: Path) -> None:
    command = 'mkdir alone || echo "not alone"; sleep 0.1; rmdir alone'
    with running("listen", "--hold", "--count", "3", name, command, name=name, cwd=tmp_path) as p:
        for number in range(3):
            assert bus("broadcast", "--post", name, str(number))[0] == 0
        assert result(p) == (0, b"", "")


@pytest.mark.parametrize(
    ("command", "option", "code"),
    [
        ("exit 7", (), 0),
        ("exit 7", ("--hold",), 1),
        ("kill -9 $$", ("--hold",), 1),
        ("true", ("--hold",), 0),
    ],
)
def test_wait_with_hold_fails_if_its_command_failed(
    command: str, option: tuple[str, ...], code: int, name: str
) -> None:
    with running("wait", *option, name, command, name=name) as process:
        assert bus("broadcast", name, "x")[0] == 0
        assert result(process) == (code, b"", "")


def test_a_listener_goes_on_after_a_command_that_failed(name: str) -> None:
    with running("listen", "--hold", "--count", "2", name, 'echo "$msg"; exit 1', name=name) as p:
        for text in ("a", "b"):
            assert bus("broadcast", name, text)[0] == 0
        assert result(p) == (0, b"a\nb\n", "")


def test_only_so_many_commands_run_at_a_time(name: str, tmp_path: Path) -> None:
    command = 'echo "$$" >>pids; while ! [ -e go ]; do sleep 0.05; done'
    words = ("listen", "--jobs", "2", "--count", "4", name, command)
    pids = tmp_path / "pids"
    with running(*words, name=name, cwd=tmp_path) as process:
        for _ in range(2):
            assert bus("broadcast", name, "x")[0] == 0
        code, _, messages = bus("broadcast", "--timeout", "0.3", name, "third")
        assert code == 3
        assert str(process.pid) in messages
        assert bus("broadcast", "--post", name, "fourth")[0] == 0
        peers.until(lambda: len(pids.read_text().split()) == 2)
        (tmp_path / "go").touch()
        assert result(process) == (0, b"", "")
    assert len(pids.read_text().split()) == 4


def test_no_ended_command_stays_a_zombie(name: str) -> None:
    with running("listen", name, "true", name=name) as process:
        for _ in range(3):
            assert bus("broadcast", name, "x")[0] == 0
        peers.until(lambda: psutil.Process(process.pid).children() == [])


def test_the_commands_have_ended_when_the_listener_ends(name: str, tmp_path: Path) -> None:
    command = "sleep 0.3; echo $msg >>done"
    with running("listen", "--count", "2", name, command, name=name, cwd=tmp_path) as process:
        for text in ("a", "b"):
            assert bus("broadcast", name, text)[0] == 0
        assert result(process)[0] == 0
    assert sorted((tmp_path / "done").read_text().split()) == ["a", "b"]


def test_a_command_finds_signals_as_they_were(name: str) -> None:
    command = "grep -E 'Sig(Ign|Blk)' /proc/self/status"
    with running("wait", name, command, name=name) as process:
        assert bus("broadcast", name, "x")[0] == 0
        blocked, ignored = result(process)[1].split()[1::2]
    assert int(blocked, 16) == 0
    assert not int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGCHLD - 1)


# What is handled --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("* volume-*", ["0 volume-changed x\n"]), ("?", ["a", "*"]), ("[!a]", ["*"]), ("[*]", ["*"])],
)
def test_only_messages_that_match_are_handled(pattern: str, matches: list[str], name: str) -> None:
    words = ("listen", "--null", "--match", pattern, "--count", str(len(matches)), name)
    with running(*words, name=name) as process:
        for message in (b"0 volume", b"a", b"ab", b"0 volume-changed x\n", b"*", b"\xff\xff"):
            bus("broadcast", name, input=message)
        assert result(process) == (0, b"".join(f"{m}\0".encode() for m in matches), "")


def test_wait_ends_with_the_first_message_that_matches(name: str) -> None:
    with running("wait", "--match", "y*", name, name=name) as process:
        for text in ("x", "yes", "yet"):
            assert bus("broadcast", name, text)[0] == 0
        assert result(process) == (0, b"yes\n", "")


@pytest.mark.parametrize("verb", ["listen", "wait"])
def test_no_message_in_time_is_exit_code_1(verb: str, name: str) -> None:
    began = time.monotonic()
    code, output, messages = bus(verb, "--timeout", "0.3", name)
    assert (code, output) == (1, b"")
    assert "0.3 s" in messages
    assert time.monotonic() - began > 0.3


def test_messages_that_do_not_match_do_not_count_as_in_time(name: str) -> None:
    with running("wait", "--match", "y", "--timeout", "1.5", name, name=name) as process:
        until = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < until:
            assert bus("broadcast", name, "x")[0] == 0
        assert result(process)[0] == 1


def test_a_removed_bus_ends_listen_but_fails_wait(name: str) -> None:
    with (
        running("listen", name, name=name) as forever,
        running("wait", name, name=name, count=2) as once,
    ):
        assert bus("remove", name) == (0, b"", "")
        assert result(forever) == (0, b"", "")
        code, _, messages = result(once)
        assert code == 1
        assert name in messages


def test_lost_messages_are_reported(heap_name: str, tmp_path: Path) -> None:
    assert bus("create", "--capacity", "4", "--patience", "0", heap_name)[0] == 0
    command = 'echo "$msg" >>got; while ! [ -e go ]; do sleep 0.05; done'
    log = tmp_path / "got"
    with running("listen", "--hold", heap_name, command, name=heap_name, cwd=tmp_path) as process:
        lines = "".join(f"{number}\n" for number in range(20)).encode()
        assert bus("broadcast", "--post", heap_name, "first")[0] == 0
        peers.until(log.exists)
        assert bus("broadcast", "--post", "--lines", heap_name, input=lines)[0] == 0
        (tmp_path / "go").touch()
        peers.until(lambda: log.read_text().endswith("\n19\n"))
        process.send_signal(signal.SIGINT)
        code, _, messages = result(process)
    assert code == 130
    reported = map(int, re.findall(r"lost messages: (\d+)", messages))
    assert sum(reported) == 21 - len(log.read_text().split()) > 0


def test_a_lossy_listener_makes_nobody_wait(name: str, tmp_path: Path) -> None:
    command = "while ! [ -e go ]; do sleep 0.05; done"
    words = ("listen", "--lossy", "--hold", "--count", "1", name, command)
    with running(*words, name=name, cwd=tmp_path) as process:
        for _ in range(2):
            code, output, _ = bus("broadcast", "--json", name, "x")
            assert (code, json.loads(output)["listeners"]) == (0, 0)
        (tmp_path / "go").touch()
        assert result(process)[0] == 0


# Readiness --------------------------------------------------------------------------------


def test_ready_is_run_when_nothing_can_be_missed(name: str) -> None:
    ready = 'ipcheap bus broadcast --post "$IPCHEAP_BUS" "from ready"'
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    assert bus("wait", "--ready", ready, name, PATH=path) == (0, b"from ready\n", "")


@contextlib.contextmanager
def supervised(address: str) -> Iterator[tuple[socket.socket, str]]:
    """Listen as systemd does; return the socket and the value of $NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(address)
        there.settimeout(LIMIT)
        yield there, address.replace("\0", "@")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_nothing_can_be_missed(
    abstract: bool, name: str, tmp_path: Path
) -> None:
    address = f"\0{name}" if abstract else str(tmp_path / "notify")
    with (
        supervised(address) as (there, variable),
        running("wait", name, name=name, NOTIFY_SOCKET=variable) as process,
    ):
        assert there.recv(100) == b"READY=1"
        assert bus("broadcast", name, "x")[0] == 0
        assert result(process) == (0, b"x\n", "")


def test_a_supervisor_that_is_gone_is_reported(name: str, tmp_path: Path) -> None:
    code, output, messages = bus(
        "wait", "--timeout", "0.1", name, NOTIFY_SOCKET=str(tmp_path / "gone")
    )
    assert (code, output) == (1, b"")
    assert "$NOTIFY_SOCKET" in messages


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_script_is_started_again_when_it_was_killed(
    number: signal.Signals, heap_name: str, tmp_path: Path
) -> None:
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    with supervised(str(tmp_path / "notify")) as (there, variable):
        environment = {"NOTIFY_SOCKET": variable, "BUS_AUDIO": heap_name, "PATH": path}
        for _ in range(2):
            with subprocess.Popen(
                [*FOREGROUND, EXAMPLE / "volume"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | environment,
            ) as script:
                try:
                    assert there.recv(100) == b"READY=1"
                    for text in ("0 volume-changed 45%", "0 another-thing 1"):
                        assert bus("broadcast", heap_name, text) == (0, b"", "")
                finally:
                    script.send_signal(number)
                assert script.communicate(timeout=LIMIT) == (b"volume: 45%\n", b"")
            assert script.returncode == -number
            assert bus("broadcast", heap_name, "nobody is there") == (0, b"", "")


# broadcast --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-",)])
def test_standard_input_is_sent_unchanged(words: tuple[str, ...], name: str) -> None:
    data = b"\0 two\nlines\n" + os.urandom(200_000)
    assert bus("broadcast", name, *words, input=data) == (0, b"", "")
    assert bus("wait", "--null", "--history", "1", name)[1] == data + b"\0"


def test_every_line_is_a_message(name: str) -> None:
    code, output, _ = bus("broadcast", "--lines", "--json", name, input=b"a\n\nb \r\nlast")
    assert code == 0
    assert [json.loads(line)["position"] for line in output.splitlines()] == [0, 1, 2, 3]
    received = bus("listen", "--null", "--history", "4", "--count", "4", name)[1]
    assert received == b"a\0\0b \r\0last\0"
    assert bus("broadcast", "--lines", name, "c\nd\n")[0] == 0
    assert bus("listen", "--history", "2", "--count", "2", name)[1] == b"c\nd\n"
    assert bus("broadcast", "--lines", name, input=b"") == (0, b"", "")


def test_a_line_is_sent_when_it_comes(name: str) -> None:
    with (
        running("listen", name, name=name) as listener,
        subprocess.Popen([COMMAND, "bus", "broadcast", "--lines", name], stdin=-1) as sender,
    ):
        assert listener.stdout is not None
        assert sender.stdin is not None
        for text in (b"one\n", b"two\n"):
            sender.stdin.write(text)
            sender.stdin.flush()
            assert listener.stdout.readline() == text
        sender.stdin.close()
        assert sender.wait(LIMIT) == 0


def test_the_report_is_printed_as_json(name: str) -> None:
    code, output, messages = bus("broadcast", "--json", name, "x")
    assert (code, messages) == (0, "")
    nobody = {"position": 0, "listeners": 0, "released": 0, "gone": 0, "slow": []}
    assert json.loads(output) == nobody
    with running("listen", name, name=name):
        one = json.loads(bus("broadcast", "--json", name, "x")[1])
        assert one == nobody | {"position": 1, "listeners": 1, "released": 1}
        assert json.loads(bus("broadcast", "--post", "--json", name, "x")[1]) == {"position": 2}


def test_a_slow_listener_is_named_and_the_exit_code_is_3(name: str, tmp_path: Path) -> None:
    command = "while ! [ -e go ]; do sleep 0.05; done; echo $msg"
    words = ("listen", "--hold", "--count", "2", name, command)
    with running(*words, name=name, cwd=tmp_path) as process:
        code, output, messages = bus("broadcast", "--json", "--timeout", "0.3", name, "first")
        report = json.loads(output)
        assert code == 3
        assert str(process.pid) in messages
        assert [slow["pid"] for slow in report["slow"]] == [process.pid]
        assert (report["listeners"], report["released"]) == (1, 0)
        lines = b"second\n"
        assert bus("broadcast", "--lines", "--timeout", "0.1", name, input=lines)[0] == 3
        (tmp_path / "go").touch()
        assert result(process) == (0, b"first\nsecond\n", "")


def test_a_killed_listener_holds_nobody_up(name: str) -> None:
    with running("listen", "--hold", name, "sleep 60", name=name) as process:
        slow = subprocess.Popen([COMMAND, "bus", "broadcast", "--json", name, "x"], stdout=-1)
        with slow:
            peers.until(lambda: bool(psutil.Process(process.pid).children()))
            (child,) = psutil.Process(process.pid).children()
            assert slow.poll() is None
            process.kill()
            output, _ = slow.communicate(timeout=LIMIT)
            child.kill()
        report = json.loads(output)
        assert (slow.returncode, report["gone"], report["slow"]) == (0, 1, [])


def test_with_n_a_busy_bus_is_exit_code_1(name: str, tmp_path: Path) -> None:
    command = "while ! [ -e go ]; do sleep 0.05; done"
    words = ("listen", "--hold", "--count", "1", name, command)
    with running(*words, name=name, cwd=tmp_path) as process:
        first = subprocess.Popen([COMMAND, "bus", "broadcast", name, "first"])
        with first:
            peers.until(lambda: bool(psutil.Process(process.pid).children()))
            for option in (["-n", "broadcast"], ["broadcast", "-n"]):
                code, _, messages = bus(*option, name, "second")
                assert code == 1
                assert str(first.pid) in messages
            code, _, _ = bus("broadcast", "--timeout", "0.2", name, "third")
            assert code == 1
            (tmp_path / "go").touch()
            assert first.wait(LIMIT) == 0
        assert result(process)[0] == 0


def test_with_post_and_n_a_full_bus_is_exit_code_1(heap_name: str, tmp_path: Path) -> None:
    assert bus("create", "--capacity", "2", heap_name)[0] == 0
    command = "while ! [ -e go ]; do sleep 0.05; done"
    words = ("listen", "--hold", heap_name, command)
    with running(*words, name=heap_name, cwd=tmp_path) as process:
        codes = [bus("broadcast", "--post", "-n", heap_name, "x")[0] for _ in range(2)]
        codes += [bus("broadcast", "--post", "-n", heap_name, "x")[0] for _ in range(3)]
        assert codes[:2] == [0, 0]
        assert codes[-1] == 1
        began = time.monotonic()
        code, _, messages = bus("broadcast", "--post", "--timeout", "0.3", heap_name, "x")
        assert code == 1
        assert time.monotonic() - began > 0.3
        assert str(process.pid) in messages
        (tmp_path / "go").touch()


def test_a_broadcast_may_wait_for_listeners(name: str) -> None:
    code, output, _ = bus("broadcast", "--await", "1", "--timeout", "0.3", name, "x")
    assert (code, output) == (1, b"")
    sender = subprocess.Popen(
        [COMMAND, "bus", "broadcast", "--await", "2", "--json", name, "x"], stdout=-1
    )
    with sender, running("wait", name, name=name) as one:
        assert sender.poll() is None
        with running("wait", name, name=name) as two:  # it gets what is sent immediately, and ends
            output, _ = sender.communicate(timeout=LIMIT)
            assert json.loads(output)["listeners"] == 2
            assert (result(one), result(two)) == ((0, b"x\n", ""), (0, b"x\n", ""))


# chmod, chown, chgrp, listeners -----------------------------------------------------------


def mode_of(name: str) -> str:
    (info,) = (info for info in ipcheap.heaps() if info.name == name)
    return f"{stat.S_IMODE(info.mode):o}"


def test_permissions_are_changed(name: str) -> None:
    for change, mode in (("640", "660"), ("-g", "600"), ("ugo", "666"), ("+o-g", "606")):
        assert bus("chmod", change, name) == (0, b"", "")
        assert mode_of(name) == mode
    assert bus("chmod", "--", "-o", name)[0] == 0
    assert mode_of(name) == "600"
    assert bus("chmod", "u+w", name)[0] == 2


def test_the_owner_and_the_group_are_changed(name: str) -> None:
    uid, gid = str(os.getuid()), str(os.getgid())
    for words in (["chown", uid], ["chown", f"{uid}:{gid}"], ["chgrp", gid]):
        assert bus(*words, name) == (0, b"", "")
    for words in (["chown", "no-such-user"], ["chgrp", "no-such-group"]):
        code, _, messages = bus(*words, name)
        assert code == 1
        assert words[1] in messages


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_root_gives_a_bus_away(name: str) -> None:
    path = f"/dev/shm/ipcheap.{name}"
    assert bus("chown", "nobody", name)[0] == 0
    assert Path(path).owner() == "nobody"
    assert Path(path).stat().st_gid == os.getgid()
    assert bus("chown", "0:1234", name)[0] == 0
    assert (Path(path).stat().st_uid, Path(path).stat().st_gid) == (0, 1234)
    assert bus("chgrp", "0", name)[0] == 0
    assert (Path(path).stat().st_uid, Path(path).stat().st_gid) == (0, 0)


def test_listeners_are_shown(name: str) -> None:
    assert listeners(name) == []
    with running("listen", name, name=name) as process:
        assert bus("broadcast", name, "x")[0] == 0
        with running("listen", "--lossy", name, name=name, count=2) as lossy:
            found = {listener["pid"]: listener for listener in listeners(name)}
            assert found.keys() == {process.pid, lossy.pid}
            assert [found[p.pid]["lossy"] for p in (process, lossy)] == [False, True]
            assert [found[p.pid]["joined"] for p in (process, lossy)] == [0, 1]
            head, *lines = bus("listeners", name)[1].decode().splitlines()
            assert head.split()[:2] == ["listener", "pid"]
            assert len(lines) == 2


# Signals and closed files -----------------------------------------------------------------


@pytest.mark.parametrize("command", [(), ("sleep 60",)])
def test_ctrl_c_ends_a_listener_with_130(command: tuple[str, ...], name: str) -> None:
    with running("listen", "--hold", name, *command, name=name) as process:
        if command:
            assert bus("broadcast", "--timeout", "0.1", name, "x")[0] == 3
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        for child in children:
            child.kill()
        assert result(process) == (130, b"", "")


def test_ctrl_c_ends_a_broadcast_with_130(name: str) -> None:
    with running("listen", "--hold", name, "sleep 60", name=name) as listener:
        process = subprocess.Popen(
            [*FOREGROUND, COMMAND, "bus", "broadcast", name, "x"], stderr=subprocess.PIPE
        )
        with process:
            peers.until(lambda: bool(psutil.Process(listener.pid).children()))
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=LIMIT)[1] == b""
            assert process.returncode == 130
        for child in psutil.Process(listener.pid).children():
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_listener_like_any_process(number: signal.Signals, name: str) -> None:
    with running("listen", name, name=name) as process:
        process.send_signal(number)
        assert process.wait(LIMIT) == -number
        code, output, _ = bus("broadcast", "--json", name, "x")
        assert (code, json.loads(output)["slow"]) == (0, [])


def test_a_closed_output_ends_a_listener_like_any_process(name: str) -> None:
    with running("listen", name, name=name) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert bus("broadcast", name, "x")[0] == 0
        assert process.wait(LIMIT) == -signal.SIGPIPE


def shell(script: str, *arguments: str | Path, cwd: Path | None = None, path: str = "") -> str:
    """Run a script by sh, in which `bus` is the alias of the documentation."""
    environment = {"PATH": f"{path}{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f"alias bus='ipcheap bus'\n{script}", "sh", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LIMIT,
        cwd=cwd,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_without_standard_files_a_command_fails_or_does_its_work(name: str) -> None:
    script = """
        bus broadcast "$1" x <&- >&- 2>&-; echo $?
        bus broadcast "$1" <&- 2>/dev/null; echo $?
        bus wait --history 1 "$1" >&- 2>/dev/null; echo $?
        bus wait --history 1 "$1" >/dev/full 2>/dev/null; echo $?
        bus wait --history 1 "$1" 'cat; echo " $msg"' <&- 2>&-; echo $?
        bus remove "$1-missing" 2>&-; echo $?
    """
    assert shell(script, name).split("\n") == ["0", "1", "1", "1", "x x", "0", "1", ""]


# The shell examples of the original -------------------------------------------------------


def test_the_original_s_commands_run_with_the_alias(tmp_path: Path) -> None:
    script = r"""
        bus create "$1"
        bus create "$1" && echo again
        bus create -x "$1" 2>/dev/null || echo exists $?
        bus -x create "$1" 2>/dev/null || echo exists $?
        [ -f "$1" ] && echo file
        bus listen "$1" 'echo "heard: $msg" >>log' &
        listener=$!
        until [ "$(bus listeners "$1" | wc -l)" = 2 ]; do sleep 0.1; done
        bus wait "$1" 'echo "once: $msg" >>once' &
        until [ "$(bus listeners "$1" | wc -l)" = 3 ]; do sleep 0.1; done
        bus broadcast "$1" '0 volume-changed *'
        bus broadcast -n "$1" "$(printf '%d ready' $$)" && echo sent
        bus -n broadcast "$1" '$(touch x)' && echo sent
        bus chmod 640 "$1"; stat -c %a "$1"
        bus chmod +o-g "$1"; stat -c %a "$1"
        bus chgrp "$(id -g)" "$1" && bus chown "$(id -u):$(id -g)" "$1" && echo owned
        bus remove "$1"
        wait $listener; echo ended $?
        [ -e "$1" ] || echo gone
        bus broadcast "$1" x 2>/dev/null; echo $?
        bus frobnicate "$1" 2>/dev/null; echo $?
        sed 's/[0-9][0-9]* ready/N ready/' log | sort
        cat once
        ls
    """
    path = tmp_path / "example-bus"
    assert shell(script, path, cwd=tmp_path).splitlines() == [
        "again",
        "exists 1",
        "exists 1",
        "file",
        "sent",
        "sent",
        "660",
        "606",
        "owned",
        "ended 0",
        "gone",
        "1",
        "2",
        "heard: $(touch x)",
        "heard: 0 volume-changed *",
        "heard: N ready",
        "once: 0 volume-changed *",
        "log",
        "once",
    ]


def test_a_script_named_bus_serves_programs_that_run_bus(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "bus": 'exec ipcheap bus "$@"',
        "monitor": 'if [ $# = 1 ]; then echo "shown: ${1#* }"; exit; fi\n'
        'exec bus listen --hold "$BUS" "\'$0\' \\"\\${msg}\\""',
        "change": "exec bus broadcast --await 1 \"$BUS\" '0 volume-changed *'",
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    script = """
        unalias bus
        export BUS="$1"
        bus create "$BUS"
        monitor & change; change
        bus remove "$BUS"
        wait
    """
    output = shell(script, tmp_path / "example-bus", path=f"{tools}:")
    assert output == "shown: volume-changed *\n" * 2


# The documentation ------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "bus-shell.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_happens(heap_name: str, tmp_path: Path) -> None:
    """Run the commands of the page in one shell; each block prints what stands there."""
    blocks = CONSOLE.findall(PAGE.read_text().replace(" audio", f" {heap_name}"))
    assert len(blocks) >= 6
    lines = [line for block in blocks for line in [*block.splitlines(), "$ echo END"]]
    output = shell("\n".join(line[2:] for line in lines if line.startswith("$ ")), cwd=tmp_path)
    printed = [block.split("\n") for block in output.split("END\n")]
    for block, seen in zip(blocks, printed, strict=False):
        wanted = [line for line in block.split("\n") if not line.startswith("$ ")]
        assert len(seen) == len(wanted)
        for pattern, line in zip(wanted, seen, strict=True):
            assert re.fullmatch(re.escape(pattern).replace("…", ".+"), line)


# Completion -------------------------------------------------------------------------------

COMPLETE = r"""
    eval "$1"; shift
    function=$(complete -p ipcheap | sed 's/.* -F \([^ ]*\) .*/\1/')
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    $function 2>/dev/null
    printf '%s\n' "${COMPREPLY[@]}"
"""


def completion(shell_name: str) -> str:
    done = subprocess.run(
        [COMMAND, "--print-completion", shell_name], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_verbs_options_and_heaps(name: str) -> None:
    pytest.importorskip("shtab")
    script = completion("bash")

    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", COMPLETE, "bash", script, "ipcheap", *words],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0
        return done.stdout.split()

    assert completed("bu") == ["bus"]
    assert completed("bus", "li") == ["listen", "listeners"]
    assert completed("bus", "broadcast", "--p") == ["--post"]
    part = name[:-3]
    for words in (["bus", "remove"], ["bus", "listen", "--jobs", "3"], ["bus", "chmod", "660"]):
        assert completed(*words, part) == [name]
    assert completed("rm", part) == [name]
    assert completed("bus", "listen", f"{EXAMPLE}/volume.") == [f"{EXAMPLE}/volume.service"]


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "tcsh"])
def test_other_shells_have_completion_too(shell_name: str) -> None:
    pytest.importorskip("shtab")
    script = completion(shell_name)
    assert "/dev/shm" in script
    for verb in bus_arguments.VERBS:
        assert verb in script
    if shutil.which(shell_name):
        subprocess.run([shell_name, "-n"], input=script, text=True, check=True, timeout=LIMIT)


def test_without_shtab_completion_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="1"):
        commands.parser().parse_args(["--print-completion", "bash"])
    assert "ipcheap[cli]" in capsys.readouterr().err


# Start-up ---------------------------------------------------------------------------------

# What a broadcast must not import: each takes a millisecond or more.
HEAVY = {
    "argparse",
    "asyncio",
    "ctypes",
    "inspect",
    "json",
    "multiprocessing",
    "numpy",
    "pathlib",
    "re",
    "rich",
    "shtab",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
}


def test_a_broadcast_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; before = set(sys.modules); sys.argv[1:1] = ['bus', 'broadcast']\n"
        "from ipcheap.tools.cli import main; code = main()\n"
        "print(*set(sys.modules) - before); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, name, "text"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0
    found = set(done.stdout.split())
    assert "ipcheap.tools.bus" in found
    assert found & HEAVY == set()
    assert "ipcheap.tools.commands" not in found
