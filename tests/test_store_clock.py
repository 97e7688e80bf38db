"""When chunks of a store expire: at the same moment for every process, whatever its clock shows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import peers
import pytest
import time_spaces
from time_spaces import TTLS, boot_time, look, put_all

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = 10.0  # seconds that a busy machine may take between a put and a look


@pytest.fixture(scope="module")
def time_namespaces() -> None:
    reason = time_spaces.why_not()
    if reason:
        pytest.skip(reason)


def expect_fresh(found: dict[str, tuple[float, float, float]]) -> None:
    """Expect that the chunks have just been put, at least the one that lives long."""
    assert "long" in found
    for key, (age, rest, wall) in found.items():
        assert 0 <= age < SLOW
        assert TTLS[key] - SLOW < rest <= TTLS[key]
        assert abs(age + rest - TTLS[key]) < 0.2
        assert abs(time.time() - wall) < SLOW


@pytest.mark.usefixtures("time_namespaces")
@pytest.mark.parametrize("ahead", [100_000, None], ids=["ahead", "behind"])
@pytest.mark.parametrize(
    "work",
    [time_spaces.attach_there, time_spaces.inherit_there, time_spaces.unshare_here],
    ids=["attached there", "forked there", "unshared here"],
)
def test_chunks_expire_rightly_in_every_time_namespace(
    heap_name: str, work: Callable[[str, int], None], ahead: int | None
) -> None:
    if ahead is None:
        ahead = -int(boot_time() / 2)
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        here, there = heap.add_store("here"), heap.add_store("there", garbage=0)
        with peers.run(work, heap_name, ahead) as peer, there.writer() as writer:
            clock = peer.hear() - boot_time()
            moved = 0 if work is time_spaces.unshare_here else ahead
            assert abs(clock - moved) < SLOW
            with here.reader() as reader:
                # Put there and read here.
                peer.tell("put")
                peer.hear()
                expect_fresh(look(reader))
                chunk = reader["long"]
                time.sleep(TTLS["short"])
                assert reader.keys() == ["long"]
                assert chunk.live
                # Put here and read there.
                put_all(writer)
                peer.tell("look")
                expect_fresh(peer.hear())
                time.sleep(TTLS["short"])
                peer.tell("keys")
                assert peer.hear() == ["long"]
                # Collected there and here: what has not expired stays.
                for act in ("collect", "trim"):
                    peer.tell(act)
                    peer.hear()
                heap.trim()
                heap.recover()
                writer.put("another", b"")
                peer.tell("keys")
                assert peer.hear() == ["long", "another"]
                assert reader.keys() == ["long"]
                numbers = there.statistics()
                assert (numbers.expired, numbers.dead) == (1, 0)
                assert bytes(chunk) == b"long"
                chunk.release()
            peer.tell("end")
            assert peer.wait() == 0
        assert heap.check() == []


def test_a_store_that_says_nothing_keeps_its_chunks(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer, store.reader() as reader:
            writer.put("a", b"1")
            assert reader["a"].expires_in == float("inf")
            writer.put("a", b"2", ttl=1e300)  # longer than the clock can count
            assert (reader.get_bytes("a"), reader["a"].live) == (b"2", True)
