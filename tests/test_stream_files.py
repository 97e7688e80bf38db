"""Streams of bytes as files: buffered, raw, text, and what takes files."""

from __future__ import annotations

import array
import csv
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import stream_workers
from stream_sides import killed

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_sides import Streams


def test_files_are_io_s_own(streams: Streams) -> None:
    writer, reader = streams()
    made: list[tuple[Any, type[Any]]] = [
        (writer.makefile(), io.BufferedWriter),
        (writer.makefile("wb"), io.BufferedWriter),
        (writer.makefile("wb", 0), io.RawIOBase),
        (writer.makefile("w"), io.TextIOWrapper),
        (reader.makefile(), io.BufferedReader),
        (reader.makefile("rb", buffering=16), io.BufferedReader),
        (reader.makefile("rb", buffering=0), io.RawIOBase),
        (reader.makefile("r", encoding="latin-1"), io.TextIOWrapper),
    ]
    for file, kind in made:
        assert isinstance(file, kind)
        assert file.readable() != file.writable()
        assert not file.seekable()
        for call in (file.fileno, file.tell):
            with pytest.raises(io.UnsupportedOperation):
                call()
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
        assert not file.isatty()
    text = made[-1][0]
    assert text.encoding == "latin-1"


@pytest.mark.parametrize("dtype", ["u1", "i1", "S1", "?", "V1", [("x", "u1")]], ids=str)
def test_one_byte_items_make_files(streams: Streams, dtype: Any) -> None:
    writer, reader = streams(100, dtype=dtype)
    with writer.makefile("w") as file:
        file.write("text")
    with reader.makefile("r") as source:
        assert source.read() == "text"


@pytest.mark.parametrize("dtype", ["u2", "S2", ("u1", (2,)), [("x", "u1"), ("y", "u1")]], ids=str)
def test_wider_items_make_none(streams: Streams, dtype: Any) -> None:
    for side in streams(100, dtype=dtype):
        with pytest.raises(TypeError, match="items of one"):
            side.makefile()


def test_other_modes_are_refused(streams: Streams) -> None:
    writer, reader = streams()
    for side, own, other in ((writer, "w", "r"), (reader, "r", "w")):
        make: Any = side.makefile
        for mode in (other, f"{other}b", f"{own}t", f"{own}+", f"b{own}", "a", "x", "", f"{own}U"):
            with pytest.raises(ValueError, match="mode"):
                make(mode)
        options: list[dict[str, Any]] = [
            {"encoding": "utf-8"},
            {"errors": "strict"},
            {"newline": ""},
        ]
        for option in options:
            with pytest.raises(ValueError, match="text"):
                make(f"{own}b", **option)
        with pytest.raises(ValueError, match="unbuffered"):
            make(own, 0)
        with pytest.raises(ValueError, match="buffer size"):
            make(f"{own}b", -5)
        with pytest.raises(TypeError):
            make(own, -1, "utf-8")
        with pytest.raises(LookupError):
            make(own, encoding="no encoding")
        assert not side.closed


def test_closing_flushes_and_closes_the_endpoint(streams: Streams) -> None:
    writer, reader = streams()
    file = writer.makefile()
    file.write(b"abc")
    assert reader.available == 0  # it is buffered
    file.flush()
    assert reader.available == 3
    file.write(b"def")
    file.close()
    file.close()
    assert writer.closed
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")
    source = reader.makefile()
    assert source.read() == b"abcdef"
    assert source.read() == source.read(1) == b""
    source.close()
    assert reader.closed


def test_a_flush_that_fails_still_closes(streams: Streams) -> None:
    writer, reader = streams(10)
    file = writer.makefile()
    writer.write(bytes(10))
    reader.close()
    file.write(b"abc")
    with pytest.raises(ipcheap.ChannelClosed):
        file.close()
    assert writer.closed
    assert file.closed


def test_what_is_read_ahead_is_released(streams: Streams) -> None:
    writer, reader = streams(1000)
    writer.write(bytes(range(200)))
    assert reader.makefile("rb", 64).read(10) == bytes(range(10))
    assert writer.statistics().read == 64
    with streams.heap.stream_reader(0) as successor:
        assert successor.read(1) == bytes([64])


@pytest.mark.parametrize("mode", ["rb", "r", "raw"])
def test_a_death_is_no_end_of_file(streams: Streams, mode: str) -> None:
    stream = streams.heap.add_stream("s", 1000)
    killed(lambda: stream.writer().write(b"one\ntwo"))
    reader = stream.reader()
    file: Any = reader.makefile("rb", 0) if mode == "raw" else reader.makefile(mode)
    assert file.readline() in (b"one\n", "one\n")
    with pytest.raises(ipcheap.PeerDied):
        file.read()
    if mode != "r":  # which keeps what it has decoded
        with pytest.raises(ipcheap.PeerDied):
            file.read(1)
    file.close()


# The raw file -------------------------------------------------------------------------------------


def test_a_raw_file_reads_what_there_is(streams: Streams) -> None:
    writer, reader = streams()
    file: Any = reader.makefile("rb", 0)
    writer.write(b"abcdef")
    assert file.read(100) == b"abcdef"
    writer.write(b"ghijkl")
    buffer = bytearray(4)
    assert file.readinto(buffer) == 4
    assert file.readinto(bytearray()) == 0
    assert file.read(0) == b""
    writer.close()
    assert file.readall() == b"kl"
    assert file.read(1) == file.readall() == b""
    assert file.readinto(buffer) == 0
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")


def test_a_raw_file_writes_what_fits(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    writer = stream.writer()
    file: Any = writer.makefile("wb", 0)
    assert file.write(b"abcdefg") == 7
    assert file.write(array.array("I", [0, 0])) == 3
    assert file.write(b"") == 0
    with pytest.raises(io.UnsupportedOperation):
        file.read(1)

    def read() -> None:
        with stream.reader() as reader:
            time.sleep(0.05)
            got.append(reader.read(4))

    got: list[bytes] = []
    thread = threading.Thread(target=read)
    stream.reader().close()
    with pytest.raises(ipcheap.ChannelClosed):
        file.write(b"x")  # no room, and no reader that would make some
    assert writer.position == 10
    thread.start()
    writer.wait_peer(peers.PATIENCE)
    assert file.write(b"xyz!..") == 4  # waits for one byte of room, returns a short count
    thread.join()
    assert got == [b"abcd"]
    assert writer.position == 14
    file.close()


def flush_until_interrupted(file: Any) -> None:
    """Flush as far as there is room."""

    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(InterruptedError):
            file.flush()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_buffered_file_writes_nothing_twice(streams: Streams) -> None:
    """Not even if a flush is interrupted after a part was written."""
    writer, reader = streams(10)
    file = writer.makefile("wb", 100)
    file.write(bytes(range(25)))
    flush_until_interrupted(file)
    assert reader.read() == bytes(range(10))
    flush_until_interrupted(file)
    assert reader.read() == bytes(range(10, 20))
    file.close()
    assert reader.read() == bytes(range(20, 25))


# What takes files -------------------------------------------------------------------------------


def archive(file: Any) -> None:
    with tarfile.open(fileobj=file, mode="w|") as tar:
        info = tarfile.TarInfo("member")
        info.size = 1000
        tar.addfile(info, io.BytesIO(b"m" * 1000))


def members(file: Any) -> list[str]:
    with tarfile.open(fileobj=file, mode="r|") as tar:
        names = tar.getnames()
    file.read()
    return names


VALUE = {"x": [*range(1000)], "y": "z" * 1000}
ROWS = [["a", "b,c"], ["1", "2\n3"]]
ARRAY = np.arange(1000.0)
TAKERS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any], Any]] = {
    "pickle": ("b", lambda file: pickle.dump(VALUE, file), pickle.load, VALUE),
    "json": ("", lambda file: json.dump(VALUE, file), json.load, VALUE),
    "csv": ("", lambda file: csv.writer(file).writerows(ROWS), lambda f: [*csv.reader(f)], ROWS),
    "tarfile": ("b", archive, members, ["member"]),
    "numpy": (
        "b",
        lambda file: np.lib.format.write_array(file, ARRAY),
        lambda file: np.lib.format.read_array(file).tolist(),
        ARRAY.tolist(),
    ),
}


@pytest.mark.parametrize("name", TAKERS)
def test_what_takes_files_takes_streams(streams: Streams, name: str) -> None:
    letter, write, read, result = TAKERS[name]
    stream = streams.heap.add_stream("s", 256)

    def work() -> None:
        with stream.writer().makefile(f"w{letter}") as file:
            write(file)

    thread = threading.Thread(target=work)
    with stream.reader().makefile(f"r{letter}") as file:
        thread.start()
        assert read(file) == result
        assert not file.read()
        thread.join()


def test_a_subprocess_does_not_take_the_descriptor_for_data(streams: Streams) -> None:
    _, reader = streams()
    with pytest.raises(io.UnsupportedOperation):
        subprocess.run([sys.executable, "-c", ""], stdin=reader.makefile(), check=False)


def test_lines_appear_when_they_are_complete(streams: Streams) -> None:
    writer, reader = streams(1000)
    file = writer.makefile("w", 1)
    file.write("half")
    assert reader.available == 0
    print(" a line", file=file)
    assert reader.read() == b"half a line\n"
    file.close()


def test_newlines_and_errors_are_those_of_text_files(streams: Streams) -> None:
    writer, reader = streams(1000)
    with writer.makefile("w", encoding="ascii", errors="replace", newline="\r\n") as file:
        file.write("ä\n")
    with reader.makefile("r", newline="") as source:
        assert source.read() == "?\r\n"


def test_a_file_s_end_is_seen_while_the_reader_waits(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100)
    with (
        stream.reader().makefile() as file,
        peers.run(stream_workers.write_once, stream, b"last") as peer,
    ):
        assert file.read() == b"last"
        peer.result()


def test_the_descriptor_of_an_endpoint_is_no_file(streams: Streams) -> None:
    writer, _ = streams()
    with pytest.raises(OSError, match="for waiting") as raised:
        os.fstat(writer.makefile().fileno())
    assert isinstance(raised.value, io.UnsupportedOperation)
