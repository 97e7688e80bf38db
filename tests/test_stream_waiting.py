"""Streams: sleeping and waking, watermarks and descriptors, asyncio, rings on one event loop."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import stream_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from stream_sides import Streams


def is_readable(side: Any) -> bool:
    return bool(select.select([side], [], [], 0)[0])


# Sleeping and waking --------------------------------------------------------------------------


def test_one_wake_up_for_many_portions(streams: Streams) -> None:
    """Neither side looks, wakes or sleeps once for each portion."""
    stream = streams.heap.add_stream("s", 2000)
    counts: list[ipcheap.StreamStatistics] = []

    def write() -> None:
        with stream.writer() as writer:
            for _ in range(100):
                writer.write(bytes(10))
                time.sleep(0.001)
            counts.append(writer.statistics())

    thread = threading.Thread(target=write)
    with stream.reader() as reader:
        thread.start()
        assert len(reader.read(1000, timeout=peers.PATIENCE)) == 1000
        counts.append(reader.statistics())
        thread.join()
    written, read = counts if counts[0].writes == 100 else counts[::-1]
    assert written.wakes <= 1
    assert read.parks <= 3  # the sleeps that end every half second, to run signal handlers


def test_room_for_many_items_is_one_wake_up(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 1000)
    counts: list[int] = []

    def read() -> None:
        with stream.reader() as reader:
            for _ in range(50):
                reader.read(10)
                time.sleep(0.001)
            counts.append(reader.statistics().wakes)

    with stream.writer() as writer:
        writer.write(bytes(1000))
        thread = threading.Thread(target=read)
        thread.start()
        with writer.window(500, peers.PATIENCE):
            pass
        thread.join()
        assert writer.statistics().parks <= 3
    assert counts[0] <= 1


def test_the_kernel_sees_one_sleep_and_one_wake_up(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace, here = tmp_path / "trace", str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import stream_workers as w; w.drip_here()"
    done = subprocess.run(
        [strace, "-f", "-qq", "-e", "trace=futex", "-o", trace, sys.executable, "-P", "-c", code],
        env=os.environ | {"IPCHEAP_SPIN": "never", "IPCHEAP_DOZE": "never"},
        timeout=peers.PATIENCE,
        capture_output=True,
        text=True,
    )
    if "ptrace" in done.stderr:
        pytest.skip("processes cannot be traced here")
    assert done.returncode == 0, done.stderr
    calls = [line for line in trace.read_text().splitlines() if "_PRIVATE" not in line]
    waits = [line for line in calls if "FUTEX_WAIT" in line]
    wakes = [line for line in calls if "FUTEX_WAKE" in line]
    assert len(wakes) == 1, wakes
    assert 1 <= len(waits) <= 3, waits  # a sleep ends every half second, to run signal handlers


def test_ends_wake_whatever_is_waited_for(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 1000)
    for stream_position, end in ((3, "close"), (6, "reset"), (9, "die")):
        with stream.reader() as reader:
            work = {
                "close": stream_workers.claim_and_close,
                "reset": stream_workers.claim_and_reset,
                "die": stream_workers.claim_and_die,
            }[end]
            with peers.run(work, stream) as peer:
                reader.wait_peer(peers.PATIENCE)
                if end != "reset":
                    assert reader.read(400, timeout=peers.PATIENCE) == bytes(3)
                with pytest.raises(ipcheap.PeerDied if end == "die" else ipcheap.ChannelClosed):
                    reader.read(400, timeout=peers.PATIENCE)
                assert reader.position == stream_position
                peer.wait()


def test_removal_wakes_whatever_is_waited_for(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 1000)
    with stream.reader() as reader:
        reader.watermark = 400
        with peers.run(stream_workers.claim_and_remove, stream) as peer:
            reader.wait_peer(peers.PATIENCE)
            with pytest.raises(ipcheap.EndpointClosed):
                reader.read(400, timeout=peers.PATIENCE)
            peer.result()
        assert is_readable(reader)
        assert ipcheap.wait([reader], 0) == [reader]


# Watermarks and descriptors ---------------------------------------------------------------------


def test_a_writer_is_ready_with_room_for_its_watermark(streams: Streams) -> None:
    writer, reader = streams(100)
    assert writer.watermark == reader.watermark == 1
    writer.watermark = 50
    assert is_readable(writer)
    writer.write(bytes(51))
    assert not is_readable(writer)
    assert ipcheap.wait([writer], 0) == []
    reader.read(1)
    assert is_readable(writer)
    assert ipcheap.wait([writer], 0) == [writer]
    writer.write(bytes(10))
    assert not is_readable(writer)
    writer.watermark = 40  # setting it brings the descriptor up to date
    assert is_readable(writer)
    for value, error in ((0, ValueError), (-1, ValueError), (51, ValueError), (1.0, TypeError)):
        with pytest.raises(error):
            writer.watermark = value  # type: ignore[assignment]
    assert writer.watermark == 40


def test_a_watermark_affects_no_call(streams: Streams) -> None:
    writer, reader = streams(100)
    reader.watermark = writer.watermark = 50
    writer.write(bytes(3))
    assert len(reader.read(3)) == 3
    assert reader.watermark == 50
    writer.write(bytes(2))

    async def main() -> bytes:
        return bytes(await asyncio.wait_for(reader.aread(2), peers.PATIENCE))

    assert asyncio.run(main()) == bytes(2)
    with pytest.raises(TimeoutError):
        reader.read(timeout=0.01)


def test_a_descriptor_tells_a_level(streams: Streams) -> None:
    writer, reader = streams(100)
    assert not is_readable(reader)
    writer.write(bytes(3))
    for _ in range(3):
        assert is_readable(reader)
    reader.read(2)
    assert is_readable(reader)
    reader.read(1)
    assert not is_readable(reader)
    reader.watermark = 50
    writer.close()
    assert is_readable(reader)  # an end to report
    assert ipcheap.wait([reader], 0) == [reader]
    with pytest.raises(ipcheap.ChannelClosed):
        reader.read()


def test_a_death_makes_the_descriptor_readable(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100)
    with stream.reader() as reader:
        reader.watermark = 30
        with peers.run(stream_workers.claim_and_die, stream) as peer:
            select.select([reader], [], [], peers.PATIENCE)
            peer.wait()
            peers.until(lambda: is_readable(reader))
        assert ipcheap.wait([reader], peers.PATIENCE) == [reader]


# Ring buffers with an event descriptor, as others have them -----------------------------------


def test_an_empty_ring_calls_nothing_back(streams: Streams) -> None:
    writer, reader = streams(10)
    calls: list[bytes | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(reader.fileno(), lambda: calls.append(reader.try_read()))
        await asyncio.sleep(0.05)
        assert calls == []
        writer.write(b"a")
        await asyncio.sleep(0.05)
        assert calls == [b"a"]
        await asyncio.sleep(0.05)
        assert calls == [b"a"]
        loop.remove_reader(reader.fileno())

    asyncio.run(main())
    assert reader.try_read() is None


@pytest.mark.parametrize("dtype", ["u1", "V5", ("i4", (3,))], ids=str)
def test_three_items_in_a_ring_of_three(streams: Streams, dtype: Any) -> None:
    writer, reader = streams(3, dtype=dtype)
    size = writer.itemsize
    for turn in range(50):
        items = [bytes([turn, n] * size)[:size] for n in range(3)]
        for item in items:
            assert writer.try_write(item) == 1
        assert writer.try_write(items[0]) == writer.room == 0
        assert bytes(reader.read(2)) + bytes(reader.read(1)) == b"".join(items)
        writer.write(items[0])
        assert reader.skip() == 1


def test_400_are_sent_and_300_taken_at_a_time(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 1024)
    with (
        stream.reader() as reader,
        peers.run(stream_workers.send_400_at_a_time, stream, 300) as peer,
    ):
        digest, total = hashlib.sha256(), 0
        for block in reader.blocks(300, timeout=peers.PATIENCE):
            digest.update(block)
            total += len(block)
        assert total == 400 * 300
        assert digest.hexdigest() == peer.result()


def test_eight_rings_on_one_event_loop(streams: Streams) -> None:
    heap = streams.heap
    made = [heap.add_stream(f"ring {n}", 256) for n in range(8)]
    readers = [stream.reader() for stream in made]

    async def take(reader: ipcheap.StreamReader) -> bytes:
        got = b""
        async for block in reader.blocks():
            got += bytes(block)
        return got

    async def main() -> list[bytes]:
        return await asyncio.gather(*map(take, readers))

    with peers.run(stream_workers.send_to_all, made, 5000) as peer:
        got = asyncio.run(main())
        sent = peer.result()
    assert [hashlib.sha256(each).hexdigest() for each in got] == sent
    for reader in readers:
        reader.close()


def test_eight_rings_in_one_wait(streams: Streams) -> None:
    made = [streams(64) for _ in range(8)]
    for n, (writer, reader) in enumerate(made):
        reader.watermark = 1 + n
        writer.write(bytes(4))
    readers = [reader for _, reader in made]
    assert ipcheap.wait(readers, 0) == readers[:4]


# asyncio ------------------------------------------------------------------------------------------


def test_coroutines_on_one_side_wait_for_what_each_asks_for(streams: Streams) -> None:
    writer, reader = streams(100)

    async def main() -> None:
        few = asyncio.ensure_future(reader.aread(1))
        await asyncio.sleep(0.01)
        many = asyncio.ensure_future(reader.aread(30))
        await asyncio.sleep(0.01)
        writer.write(b"x")
        assert await asyncio.wait_for(few, peers.PATIENCE) == b"x"
        reader.watermark = 2
        writer.write(bytes(10))
        await asyncio.sleep(0.02)
        assert not many.done()
        writer.write(bytes(20))
        assert len(await asyncio.wait_for(many, peers.PATIENCE)) == 30
        assert reader.watermark == 2

    asyncio.run(main())
    writer.write(b"x")
    assert not is_readable(reader)
    writer.write(b"x")
    assert is_readable(reader)


def test_what_is_cancelled_has_taken_nothing(streams: Streams) -> None:
    writer, reader = streams(100)
    full, _ = streams(10)
    full.write(bytes(10))
    buffer = bytearray(30)

    async def window(side: Any, n: int) -> None:
        async with side.window(n):
            raise AssertionError

    async def main() -> None:
        for make in (
            lambda: reader.aread(30),
            lambda: reader.areadinto(buffer),
            lambda: window(reader, 30),
            lambda: anext(reader.blocks(30)),
            lambda: window(full, 5),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await make()
            task = asyncio.ensure_future(make())
            await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    writer.write(bytes(20))
    asyncio.run(main())
    assert (reader.position, reader.available, full.position) == (0, 20, 10)
    assert reader.read(20) == bytes(20)  # no window is open


@types.coroutine
def stopped_at(
    coroutine: Coroutine[Any, Any, Any], nth: int, early: bool
) -> Generator[Any, None, tuple[BaseException | None, Any]]:
    """Cancel a coroutine at its nth suspension: what it raised, if it had not ended, and returned.

    If `early`, while what it waits for is not done, otherwise just after it was done.
    """
    for step in itertools.count():
        try:
            waited_for = coroutine.send(None)
        except StopIteration as done:
            return None, done.value
        if step < nth or not early:
            yield waited_for
        if step == nth:
            try:
                coroutine.throw(asyncio.CancelledError())
            except asyncio.CancelledError as reason:
                return reason, None
            raise AssertionError("it went on")
    return None, None


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("call", ["aread", "areadinto", "window", "blocks", "timed window"])
def test_a_read_cancelled_at_any_await_takes_nothing(
    streams: Streams, call: str, early: bool
) -> None:
    writer, reader = streams(16, dtype="u4")
    blocks = reader.blocks(7)
    stopped = 0

    async def feed() -> None:
        for start in range(0, 2000, 5):
            await writer.awrite(range(start, start + 5))
            await asyncio.sleep(0.0002)

    async def take() -> list[int]:
        if call == "aread":
            return list((await reader.aread(12, at_least=7)).tolist())
        if call == "areadinto":
            buffer = np.empty(7, "u4")
            return list(buffer[: await reader.areadinto(buffer)].tolist())
        if call == "blocks":
            return list((await anext(blocks)).tolist())
        async with reader.window(7, peers.PATIENCE if "timed" in call else None) as window:
            return list(window.tolist())

    async def main() -> list[int]:
        nonlocal stopped
        feeder = asyncio.ensure_future(feed())
        got: list[int] = []
        turns = itertools.count()
        while len(got) < 1900:
            turn, position = next(turns), reader.position
            reason, items = await stopped_at(take(), turn % 3, early)
            if reason is None:
                got += items
            else:
                stopped += 1
                assert call == "blocks" or reader.position == position
                await asyncio.sleep(0)
        feeder.cancel()
        return got

    got = asyncio.run(main())
    assert got == [*range(len(got))]
    assert stopped > 20
    blocks.close()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("call", ["awrite", "window"])
def test_a_write_cancelled_at_any_await_says_what_is_written(
    streams: Streams, call: str, early: bool
) -> None:
    writer, reader = streams(16, dtype="u4")
    got: list[int] = []

    async def drain() -> None:
        while True:
            got.extend((await reader.aread(at_least=3)).tolist())
            await asyncio.sleep(0)

    async def write(items: range) -> None:
        if call == "awrite":
            assert await writer.awrite(items) == len(items)
            return
        async with writer.window(8) as window:
            window[:] = items[:8]

    async def main() -> int:
        drainer = asyncio.ensure_future(drain())
        sent = stopped = 0
        turns = itertools.count()
        while sent < 1500 or stopped <= 20:
            turn, items = next(turns), range(sent, sent + 40)
            reason, _ = await stopped_at(write(items), turn % 6, early)
            if reason is None:
                sent += len(items) if call == "awrite" else 8
            else:
                stopped += 1
                sent += reason.done if call == "awrite" else 0  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            assert writer.position == sent
        drainer.cancel()
        return sent

    sent = asyncio.run(main())
    rest = reader.try_read()
    got += [] if rest is None else rest.tolist()
    assert got == [*range(sent)]


def test_the_timeout_of_a_window_counts(streams: Streams) -> None:
    _, reader = streams(100)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="channel 0"):
            async with reader.window(30, 0.02):
                raise AssertionError
        with pytest.raises(TimeoutError, match="channel 0"):
            await anext(reader.blocks(30, timeout=0.02))

    asyncio.run(main())


def test_an_async_window_commits_and_releases_like_another(streams: Streams) -> None:
    writer, reader = streams(100, dtype="i4", backlog=3)

    async def main() -> None:
        async with writer.window(10) as window:
            window[:] = range(10)
            writer.commit(4)
        with pytest.raises(KeyError):
            async with writer.window(10):
                raise KeyError
        assert writer.position == 4
        async with reader.window(at_least=2) as window:
            assert window.tolist() == [0, 1, 2, 3]
            reader.release(3)
        async with reader.window(overlap=2, raw=True) as raw:
            assert np.frombuffer(raw, "i4").tolist() == [1, 2, 3]
        assert reader.position == 4

    asyncio.run(main())


def test_awaiting_gives_other_tasks_a_turn(streams: Streams) -> None:
    writer, reader = streams(100)
    turns = [0]

    async def count() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.ensure_future(count())
        for _ in range(1000):
            await writer.awrite(b"x")
            await reader.aread(1)
        task.cancel()

    asyncio.run(main())
    assert turns[0] >= 10


def test_what_is_left_and_the_end_reach_coroutines(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(b"abc")

    async def main() -> None:
        waiting = asyncio.ensure_future(reader.aread(40))
        await asyncio.sleep(0.01)
        writer.close()
        assert await asyncio.wait_for(waiting, peers.PATIENCE) == b"abc"
        with pytest.raises(ipcheap.ChannelClosed):
            await reader.aread()

    asyncio.run(main())
