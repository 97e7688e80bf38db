"""Workers of sources, and of functions with one output per input: the rings' counts are the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .items import goes_on, is_mark, item_of
from .reader import Ended
from .worker import Worker, acknowledge

if TYPE_CHECKING:
    from ipcheap import Record


class SourceWorker(Worker):
    """Sends what a source gives; after a kill it goes on with the item that was not sent yet."""

    def _work(self) -> None:
        kernel, writers, board, here = self._kernel, self._writers, self._board, self._here
        position = 0
        params = dict(kernel.params)
        if self._again and writers:
            for writer in writers:
                writer.resume()
            if kernel.resumes:
                position = min(writer.position for writer in writers)
                for writer in writers:
                    writer.ahead = writer.position - position
        if kernel.resumes:
            params["resume"] = position + params.get("resume", 0)
        items = kernel.call(**params)
        if not isinstance(items, Iterable):
            raise TypeError(
                f"the source {kernel.name!r} returned {type(items).__name__}, which is no iterable"
            )
        by_port = self._by_port()
        workers, worker = kernel.workers, self._worker
        iterator = iter(items)
        try:
            for value in iterator:
                if value is None:
                    continue
                here.sequence = position * workers + worker
                for number, one, _ in self._outputs(value, by_port):
                    writers[number].put(one, position)
                position += 1
                if board.state or (writers and not any(writer.is_read for writer in writers)):
                    break
        finally:
            for closable in (iterator, items):
                if hasattr(closable, "close"):
                    closable.close()


class EvenWorker(Worker):
    """Calls a function for each input, and sends what it returns.

    It commits nothing: records sent less inputs freed tells the next worker how far it was.
    """

    def _work(self) -> None:
        readers, writers, here = self._readers, self._writers, self._here
        kernel = self._kernel
        done = self._catch_up() if self._again else 0
        call = self._set_up()
        worker, workers = self._worker, kernel.workers
        skips = kernel.on_error == "skip"
        wanted, inplace = self._wanted, kernel.inplace
        single = len(readers) == 1 and len(readers[0].channels) == 1
        reader, want = readers[0], wanted[0]
        here.source = reader.channels[0][0].label
        last = len(writers) - 1
        while True:
            try:
                if single:
                    channel, record = 0, reader.receive(0)
                    records = None
                elif len(readers) == 1:
                    channel, record = reader.next()
                    here.source = reader.channels[channel][0].label
                    records = None
                else:
                    records = [one.next()[1] for one in readers]
                    record = records[0]
            except Ended:
                return
            here.sequence = done * workers + worker
            value: Any = None
            if self._skip and self._is_to_skip(done):
                self._count_skipped()
            elif records is None:
                if not reader.has_marks or not is_mark(record):
                    item = item_of(record, want, inplace)
                    try:
                        value = call(item)
                    except Exception as error:
                        if not skips:
                            raise
                        self._leave_out(error)
            else:
                items = [item_of(one, wanted[n], inplace) for n, one in enumerate(records)]
                item = items[0]
                try:
                    value = call(*items)
                except Exception as error:
                    if not skips:
                        raise
                    self._leave_out(error)
                for one, its in zip(records, items, strict=True):
                    if value is its:
                        record, item = one, its
            gone: Record | None = None
            if value is None:
                for writer in writers:
                    writer.nothing(done)
            else:
                for number, writer in enumerate(writers):
                    if number != last or value is not item or not goes_on(value, item):
                        writer.put(value, done)
                    elif writer.put(value, done, record):
                        gone = record
            done += 1
            item = value = items = None
            if records is None:
                if gone is None:
                    acknowledge(record)
            else:
                for one in records:
                    if one is not gone:
                        acknowledge(one)

    def _catch_up(self) -> int:
        """Free what the worker before this one had done; return how many turns that are."""
        freed = [self._freed(entry) for entry in range(len(self._readers))]
        done = max(sum(counts) for counts in freed)
        for reader, counts in zip(self._readers, freed, strict=True):
            count = sum(counts)
            reader.resume(count, count)
            for _ in range(done - count):
                reader.next()[1].free()
        for writer in self._writers:
            writer.resume()
            writer.ahead = max(writer.position - done, 0)
        while self._writers and min(writer.ahead for writer in self._writers) > 0:
            for reader in self._readers:
                reader.next()[1].free()
            for writer in self._writers:
                writer.ahead -= 1
            done += 1
        return done
