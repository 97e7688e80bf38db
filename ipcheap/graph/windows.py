"""Edges with `window=`: a stream from one worker to one, of which the kernel gets exact windows.

The sender adds the stream when it has the first array, and so knows the type of its items. The
positions of the two sides are the log: docs/design/graph.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelBusy, ChannelClosed, ChannelNotFound, EndpointClosed, PeerDied

from .items import apart, numpy_module
from .reader import Ended, wait_for_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing

    from ipcheap import Heap, Producer, Record, Stream, StreamReader, StreamWriter

    from .board import Board
    from .here import Here
    from .ledger import Ledger
    from .plan import Edge

    Array = numpy.typing.NDArray[Any]

_LOOK = 0.1  # seconds between looks for a stream that nobody has added yet, or for its end
_DEAD = 0.02  # seconds between looks at a stream whose sender has gone and left half a window


class Window:
    """A window as a worker takes it; it is a record of the form of an array."""

    __slots__ = ("_array", "_reader")

    form = "array"

    def __init__(self, reader: WindowReader, array: Array) -> None:
        self._reader = reader
        self._array = array

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(self._array.nbytes)

    @property
    def view(self) -> memoryview:
        """Its items in the stream, which are others as soon as it is freed."""
        return self._array.data

    def array(self) -> Array:
        """Return an array of its own, which may be kept."""
        return self._array.copy()

    def free(self) -> None:
        """Release the items up to where the next window begins."""
        self._reader._free()


class WindowReader:
    """Receives windows of a stream; it has the interface of a Reader.

    A window that was received stays in the stream until it is freed, in the order of receiving.
    """

    is_ordered: bool = True
    has_marks: bool = False
    has_turns: bool = False
    most_held: int = 1
    receives: Callable[[], Any] | None = None

    def __init__(
        self, heap: Heap, channels: list[tuple[Edge, int]], worker: int, board: Board
    ) -> None:
        ((edge, sender),) = channels
        self.channels = channels
        self.channel: int = 0
        self.taken: int = 0
        self._heap = heap
        self._edge = edge
        self._channel = edge.channel(sender, worker)
        self._board = board
        self._patience = _LOOK if edge.is_fed else None
        self._side: StreamReader | None = None
        self._held = 0  # windows that were received and not freed

    @property
    def source(self) -> str:
        """The origin of the windows."""
        return self._edge.label

    def close(self) -> None:
        """Give the stream back; what fills no window stays in it."""
        if self._side is not None:
            self._side.close()

    def freed(self) -> list[int]:
        """Return how many windows are done, by the position in the stream."""
        if stream_of(self._heap, self._channel) is None:
            return [0]
        return [self._claimed().position // self._edge.hop]

    def resume(self, taken: int, number: int) -> None:
        """Go on where the worker before this one was, which the stream knows."""
        del number
        self.taken = taken

    def receive(self, channel: int) -> Any:
        """Return the next window."""
        del channel
        return self.next()

    def next(self) -> Any:
        """Return the next window; Ended if there are not enough items for another one."""
        edge, side = self._edge, self._claimed()
        before = self._held * edge.hop
        while True:
            is_over = self._is_over()
            try:
                with side.window(before + edge.window, 0 if is_over else self._patience) as items:
                    side.release(0)  # the position says what is done, and nothing moves below it
            except ChannelClosed:
                raise Ended from None
            except PeerDied:
                self._wait_for_writer()
                continue
            except TimeoutError:
                if is_over:
                    raise Ended from None
                continue
            if len(items) == before + edge.window:
                self._held += 1
                self.taken += 1
                return Window(self, items[before:])
            if is_over:
                raise Ended
            self._wait_for_writer()

    def _free(self) -> None:
        assert self._side is not None
        self._side.skip(self._edge.hop)
        self._held -= 1

    def _claimed(self) -> StreamReader:
        """Return the reading side, as soon as there is a stream; Ended if there will be none."""
        while self._side is None:
            is_over = self._is_over()
            try:
                patience = _DEAD if is_over else _LOOK
                self._side = self._heap.stream_reader(self._channel, patience)
            except ChannelNotFound:
                if self._board.is_aborted:
                    raise
                if is_over:
                    raise Ended from None
            except ChannelBusy:
                pass  # the worker before this one is not recovered yet
        return self._side

    def _is_over(self) -> bool:
        """Whether nothing more will be written."""
        edge, board = self._edge, self._board
        if edge.is_fed:
            return board.is_closed(edge.source)
        return board.has_finished(edge.source, 0)

    def _wait_for_writer(self) -> None:
        """Wait a moment for a new sender: the last one has gone, and left half a window."""
        assert self._side is not None
        wait_for_peer(self._side, _DEAD)


class WindowWriter:
    """Writes arrays to a stream; it has the interface of a Writer.

    `position` and `ahead` count the items of the stream, so that half an array is completed.
    """

    direct: Producer | None = None

    def __init__(
        self, heap: Heap, edge: Edge, number: int, worker: int, ledger: Ledger, here: Here
    ) -> None:
        self.edge = edge
        self.ahead: int = 0
        self.lends = True  # which it never does: arrays are written
        self.position: int = 0
        self.producers: dict[int, Any] = {}
        self._heap = heap
        self._channel = edge.channel(worker, 0)
        self._number = number
        self._ledger = ledger
        self._here = here
        self._side: StreamWriter | None = None
        self._is_ended = False

    def close(self) -> None:
        """End the edge: its reader gets what was written, then an end."""
        if self._side is not None:
            self._side.close()

    def resume(self) -> None:
        """Go on where the worker before this one was, by the position in the stream."""
        stream = stream_of(self._heap, self._channel)
        if stream is not None:
            self._side = stream.writer(None)
            self.position = self._side.position
            self._ledger.reach(self._number, self.position)

    @property
    def is_read(self) -> bool:
        """Whether the worker that reads it has not ended."""
        edge = self.edge
        return not (self._is_ended or self._here._board.has_finished(edge.target, 0))

    def has_room(self, value: Any, timeout: float | None) -> bool:
        """Wait for as much room as can be waited for; return whether that took `timeout` seconds.

        A larger array still waits in `put`.
        """
        items, side = len(self._array_of(value)), self._side
        if side is None or not items or self._is_ended:
            return True
        side.watermark = min(items, (side.capacity + 1) // 2)
        return bool(ipcheap.wait([side], timeout))

    def put(self, value: Any, turn: int, record: Record | None = None) -> bool:
        """Write the items of an array, without those that were written before.

        Returns False: neither is the array gone, nor its `record`.
        """
        del turn, record
        array = self._array_of(value)
        if self._side is None:
            self._side = self._begin(array)
        self._insist_on_type(array, self._side)
        left = array[self.ahead :]
        self.ahead = max(self.ahead - len(array), 0)
        if len(left) and not self._is_ended:
            self._write(left, self._side)
        return False

    def nothing(self, turn: int) -> None:
        """Do nothing: no array, no items."""

    def mark(self, turn: int) -> None:
        """Do nothing: windows know no turns."""

    # Inside -----------------------------------------------------------------------------------

    def _write(self, array: Array, side: StreamWriter) -> None:
        """Write an array, also beyond the death of a reader."""
        done = 0
        while True:
            try:
                side.write(array[done:])
            except PeerDied as error:
                done += error.done
                wait_for_peer(side)
            except ChannelClosed:
                self._is_ended = True  # its reader has returned before the end
                break
            else:
                break
        self.position = side.position
        self._ledger.reach(self._number, self.position)

    def _array_of(self, value: Any) -> Array:
        """Return an array of items for an array, or for a number, which is one item."""
        np = numpy_module()
        value = apart(value)
        kinds: Any = (np.ndarray, np.generic, int, float, complex)
        if not isinstance(value, kinds):
            raise TypeError(
                f"kernel {self.edge.target!r} takes windows of arrays, and kernel "
                f"{self.edge.source!r} gave it {type(value).__name__}: give arrays or numbers"
            )
        return np.atleast_1d(value)  # type: ignore[no-any-return]

    def _begin(self, array: Array) -> StreamWriter:
        """Add the stream for items such as those of an array, and claim it."""
        shape = array.shape[1:]
        capacity = max(self.edge.slots, 2 * len(array))
        stream = self._here._room(
            lambda: self._heap.add_stream(
                self._channel, capacity, dtype=(array.dtype, shape) if shape else array.dtype
            )
        )
        if self._here._board.is_aborted:  # perhaps since before it was added: nobody removes it
            raise EndpointClosed(f"channel {self._channel!r}: the graph has ended")
        return stream.writer(None)

    def _insist_on_type(self, array: Array, side: StreamWriter) -> None:
        dtype = side.dtype
        if array.dtype != dtype.base or array.shape[1:] != dtype.shape:
            raise TypeError(
                f"kernel {self.edge.target!r} takes windows of what kernel {self.edge.source!r} "
                f"gave first, items of {_items(dtype.base, dtype.shape)}, and now it gave "
                f"{_items(array.dtype, array.shape[1:])}"
            )


def _items(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{dtype!r} of shape {shape}" if shape else repr(dtype)


def stream_of(heap: Heap, channel: str) -> Stream | None:
    """Return the stream of an edge; None if its sender has had no array yet."""
    try:
        found: Any = heap.channel(channel)
    except ChannelNotFound:
        return None
    return found  # type: ignore[no-any-return]


def counts_of(heap: Heap, edge: Edge, written: int, done: int) -> tuple[int, int]:
    """Return how many items are pending on an edge, and its capacity."""
    stream = stream_of(heap, edge.channel(0, 0))
    capacity = stream.capacity if stream is not None else edge.slots
    return max(written - done * edge.hop, 0), capacity
