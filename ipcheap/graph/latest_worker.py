"""Workers of kernels that read an edge of `full="latest"`."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from .latest import LatestReader
from .ledger import note_of
from .uneven import FlowWorker, UnevenWorker

if TYPE_CHECKING:
    from .ledger import Note


class LatestWorker(UnevenWorker):
    """Calls a kernel with the newest item, and commits which one that was.

    The next worker goes on with an item that is newer. What the kernel had sent of the one in work
    is not taken back: that item may be another one by now.
    """

    def _call(self, call: Any, items: list[Any], taken: list[Any], turn: int) -> None:
        (_, channel, item) = taken[0]
        senders = len(self._reader.channels)
        self._here._calls = (item.version - 1) * senders + channel
        super()._call(call, items, taken, turn)

    def _commit(self) -> None:
        self._note.freed = list(self._reader.seen)
        super()._commit()

    def _restore(self) -> Note:
        note = self._ledger.note()
        data = self._state.get() if self._state is not None else None
        if data is not None:
            words, state = pickle.loads(data)
            self._object.restore(state)
            note = note_of(words, self._shape)
        self._reader.seen = list(note.freed)
        for writer in self._writers:
            writer.resume()
        return note

    @property
    def _reader(self) -> LatestReader:
        (reader,) = self._readers
        assert isinstance(reader, LatestReader)
        return reader


class LatestFlowWorker(FlowWorker):
    """Calls a flow function, once; it begins with the newest item."""

    def _restore(self) -> Note:
        for writer in self._writers:
            writer.resume()
        return self._note
