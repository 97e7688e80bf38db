"""Each error is also the built-in that a caller would catch, says what to do, and pickles."""

from __future__ import annotations

import pickle

import pytest

import ipcheap
from ipcheap import errors

BUILT_INS = {
    "HeapExists": FileExistsError,
    "HeapNotFound": FileNotFoundError,
    "HeapFull": MemoryError,
    "HeapClosed": ValueError,
    "HeapBusy": TimeoutError,
    "EndpointClosed": ValueError,
    "ChannelNotFound": KeyError,
    "ChannelTypeError": TypeError,
    "ChannelBusy": BlockingIOError,
    "ChannelExists": FileExistsError,
    "ChannelClosed": EOFError,
    "PeerDied": ConnectionResetError,
    "MessagesLost": BufferError,
    "RecordError": ValueError,
    "WindowError": ValueError,
    "WrongThread": RuntimeError,
    "WrongProcess": RuntimeError,
    "CorruptHeap": ipcheap.Error,
    "FormatMismatch": ipcheap.Error,
}
OS = (OSError, ConnectionError)


@pytest.mark.parametrize(("name", "built_in"), BUILT_INS.items())
def test_an_error_is_the_built_in_too(name: str, built_in: type[Exception]) -> None:
    kind = getattr(ipcheap, name)
    assert issubclass(kind, ipcheap.Error)
    assert issubclass(kind, built_in)


def test_the_list_of_errors_is_whole() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert kinds == {*BUILT_INS, "Error"}


@pytest.mark.parametrize("name", BUILT_INS)
def test_an_error_pickles_with_its_text(name: str) -> None:
    error = getattr(ipcheap, name)("heap 'camera': some text")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) == "heap 'camera': some text"


@pytest.mark.parametrize("name", [name for name, kind in BUILT_INS.items() if kind.__base__ in OS])
def test_an_error_of_the_operating_system_has_its_errno(name: str) -> None:
    error = getattr(ipcheap, name)("some text")
    assert isinstance(OSError(error.errno, "some text"), BUILT_INS[name])
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "some text"


def test_a_missing_heap_is_named(heap_name: str) -> None:
    with pytest.raises(FileNotFoundError, match=heap_name):
        ipcheap.Heap.attach(heap_name)
    with pytest.raises(ipcheap.HeapNotFound, match=heap_name):
        ipcheap.unlink(heap_name)


def test_a_second_heap_of_a_name_is_refused(heap_name: str) -> None:
    with (
        ipcheap.Heap.create(heap_name, "1MiB"),
        pytest.raises(ipcheap.HeapExists, match=rf"{heap_name}.*open"),
    ):
        ipcheap.Heap.create(heap_name, "1MiB")


def test_a_full_heap_says_how_full(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        with heap.allocate_record(700_000), pytest.raises(MemoryError) as caught:
            heap.allocate_record(600_000)
        text = str(caught.value)
        assert heap_name in text
        assert "585.9 KiB asked for" in text
        assert "of 1.0 MiB" in text
        assert "in use" in text


def test_a_missing_channel_has_a_readable_text(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        with pytest.raises(KeyError) as caught:
            heap.channel("nowhere")
        assert str(caught.value).startswith(f"there is no channel 'nowhere' of heap '{heap_name}';")
        with pytest.raises(ipcheap.ChannelNotFound):
            heap.producer("nowhere")


def test_a_producer_hears_of_what_its_consumer_holds(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel(1, 2)
        with heap.producer(1) as producer, heap.consumer(1) as consumer:
            producer.send(b"1")
            producer.send(b"2")
            with pytest.raises(TimeoutError, match="no room in the ring within"):
                producer.send(b"3", timeout=0.01)
            with consumer.recv_record():
                with pytest.raises(TimeoutError, match="the consumer holds the oldest"):
                    producer.send(b"3", timeout=0.01)
                with pytest.raises(TimeoutError, match="the consumer holds the oldest"):
                    producer.send_many([b"3"], timeout=0.01)
            producer.send(b"3", timeout=0.01)


def test_a_taken_side_names_its_holder(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel(3)
        with heap.producer(3), pytest.raises(ipcheap.ChannelBusy) as caught:
            heap.producer(3)
        assert f"channel 3 of heap '{heap_name}': the producer side is held by" in str(caught.value)
        assert "this process" in str(caught.value)
        with heap.consumer(3), pytest.raises(ipcheap.ChannelBusy, match="the consumer side"):
            heap.remove_channel(3)


def test_another_shape_says_which(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("r", 100)
        heap.add_static_segment("s", 100)
        with pytest.raises(ipcheap.ChannelTypeError, match="a record channel of 128 slots, not"):
            heap.add_record_channel("r", 64)
        with pytest.raises(TypeError, match="a static segment of 100 bytes, not a record channel"):
            heap.add_record_channel("s")
        with pytest.raises(TypeError, match="a record channel of 128 slots, not a static segment"):
            heap.add_static_segment("r", 100)
        with pytest.raises(TypeError, match="not a record channel"):
            heap.consumer("s")
        assert heap.add_record_channel("r").capacity == 128
        assert heap.add_record_channel("r", 65).capacity == 128
        assert heap.add_static_segment("s").nbytes == 100


def test_after_close_a_heap_is_closed(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    heap.add_record_channel("a")
    producer = heap.producer("a")
    heap.close()
    heap.close()
    assert heap.closed
    assert producer.closed
    for use in (heap.statistics, heap.trim, heap.check, heap.recover, heap.__enter__):
        with pytest.raises(ipcheap.HeapClosed, match=heap_name):
            use()
    with pytest.raises(ipcheap.HeapClosed):
        heap.allocate_record(1)
    with pytest.raises(ValueError, match="closed"):
        producer.send(b"")


def test_a_closed_endpoint_is_closed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("a")
        with heap.consumer("a") as consumer:
            consumer.close()
            assert consumer.closed
            with pytest.raises(ipcheap.EndpointClosed, match="this consumer is closed"):
                consumer.recv(timeout=0)
