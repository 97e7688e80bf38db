"""Workers of sources, and of functions with one output per input: the rings' counts are the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from ipcheap import ChannelClosed, HeapFull, PeerDied

from .items import goes_on, is_mark, item_of, send
from .reader import Ended
from .worker import Worker, acknowledge

if TYPE_CHECKING:
    from ipcheap import Record


class SourceWorker(Worker):
    """Sends what a source gives; after a kill it goes on with the item that was not sent yet."""

    def _work(self) -> None:
        kernel, writers, board, here = self._kernel, self._writers, self._board, self._here
        position = 0
        # An array is any number of items of a window: then a note tells how many were sent.
        note = self._ledger.note() if any(writer.edge.window for writer in writers) else None
        params = dict(kernel.params)
        if self._again and writers:
            for writer in writers:
                writer.resume()
            if kernel.resumes:
                position = note.units if note else min(writer.position for writer in writers)
                for number, writer in enumerate(writers):
                    writer.ahead = writer.position - (note.out[number] if note else position)
        if kernel.resumes:
            params["resume"] = position + params.get("resume", 0)
        made = kernel.call(**params)
        if not isinstance(made, Iterable):
            raise TypeError(
                f"the source {kernel.name!r} returned {type(made).__name__}, which is no iterable"
            )
        items = cast("Iterable[object]", made)
        only = writers[0] if len(writers) == 1 and not kernel.outputs else None
        # The quick way: to one reader.
        direct = only.direct if only is not None and note is None else None
        state = board.bytes  # its first one is not 0 from the moment on when sources are to end
        iterator = iter(items)
        try:
            for value in iterator:
                if value is None:
                    continue
                here._calls = position
                position += 1
                if direct is not None:
                    try:
                        send(direct, value)
                    except (ChannelClosed, PeerDied, HeapFull):
                        direct = None
                    else:
                        if state[0]:
                            break
                        continue
                if only is not None:
                    only.put(value, position)
                    is_read = only.is_read
                else:
                    left = list(writers)
                    for number, one, _ in self._outputs(value):
                        writers[number].put(one, position)
                        left.remove(writers[number])
                    for writer in left:
                        writer.nothing(position)  # each edge counts each item
                    is_read = not writers or any(writer.is_read for writer in writers)
                if note is not None:
                    note.units, note.out = position, [writer.position for writer in writers]
                    self._ledger.commit(note)
                if state[0] or not is_read:
                    break
        finally:
            for closable in (iterator, items):
                close = getattr(closable, "close", None)
                if close is not None:
                    close()


class EvenWorker(Worker):
    """Calls a function for each input, and sends what it returns.

    It commits nothing: records sent less inputs freed tells the next worker how far it was.
    """

    def _work(self) -> None:
        done = self._catch_up() if self._again else 0
        call = self._set_up()
        if len(self._readers) > 1:
            self._pair(call, done)
        else:
            self._map(call, done)

    def _map(self, call: Any, done: int) -> None:
        """Call the kernel for each item of its only input."""
        (reader,), (want,), writers = self._readers, self._wanted, self._writers
        here, inplace, has_marks = self._here, self._kernel.inplace, reader.has_marks
        skips = self._kernel.on_error == "skip"
        # The quick way: from one sender, and to one reader.
        receive = reader.receives
        last = writers[-1] if writers else None
        direct = last.direct if last is not None and len(writers) == 1 and want is None else None
        while True:
            try:
                record = receive() if receive is not None else reader.next()
            except Ended:
                return
            except (ChannelClosed, PeerDied):
                receive = None
                continue
            here._calls = done
            item = value = None
            if skips and self._begins(done):
                self._count_skipped()
            elif not has_marks or not is_mark(record):
                if want is None and record.form == "bytes":
                    item = bytes(record)
                else:
                    item = item_of(record, want, inplace)
                try:
                    value = call(item)
                except Exception as error:
                    if not skips:
                        raise
                    self._leave_out(error)
            done += 1
            if direct is not None and value is not None and value is not item:
                try:
                    send(direct, value)
                    item = value = None
                    record.free()
                    continue
                except (ChannelClosed, PeerDied, HeapFull):
                    direct = None
            gone = False
            for writer in writers:
                if value is None:
                    writer.nothing(done)
                elif writer is last and value is item and goes_on(value, item):
                    gone = writer.put(value, done, record)
                else:
                    writer.put(value, done)
            item = value = None
            if not gone:
                acknowledge(record)

    def _pair(self, call: Any, done: int) -> None:
        """Call the kernel for one item of each input."""
        readers, writers, kernel = self._readers, self._writers, self._kernel
        while True:
            try:
                records = [reader.next() for reader in readers]
            except Ended:
                break
            self._here._calls = done
            value, items = None, []
            if kernel.on_error == "skip" and self._begins(done):
                self._count_skipped()
            else:
                items = [
                    item_of(record, want, kernel.inplace)
                    for record, want in zip(records, self._wanted, strict=True)
                ]
                try:
                    value = call(*items)
                except Exception as error:
                    if kernel.on_error != "skip":
                        raise
                    self._leave_out(error)
            gone = None
            for number, writer in enumerate(writers, 1):
                if value is None:
                    writer.nothing(done)
                    continue
                one = self._going_on(value, items, records) if number == len(writers) else None
                if writer.put(value, done, one) and one is not None:
                    gone = one
            done += 1
            value = None
            items.clear()
            for record in records:
                if record is not gone:
                    acknowledge(record)

    @staticmethod
    def _going_on(value: Any, items: list[Any], records: list[Record]) -> Record | None:
        """Return the record of the item that the kernel returned, if it may go on."""
        for item, record in zip(items, records, strict=True):
            if goes_on(value, item):
                return record
        return None

    def _catch_up(self) -> int:
        """Free what the worker before this one had done; return how many turns that are."""
        freed = [self._freed(entry) for entry in range(len(self._readers))]
        done = max(sum(counts) for counts in freed)
        for reader, counts in zip(self._readers, freed, strict=True):
            count = sum(counts)
            reader.resume(count, count)
            for _ in range(done - count):
                reader.next().free()
        for writer in self._writers:
            writer.resume()
            writer.ahead = max(writer.position - done, 0)
        while self._writers and min(writer.ahead for writer in self._writers) > 0:
            for reader in self._readers:
                reader.next().free()
            for writer in self._writers:
                writer.ahead -= 1
            done += 1
        return done
