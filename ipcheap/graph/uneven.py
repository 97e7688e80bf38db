"""Workers of all other kernels, which commit by notes or snapshots how far they are."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipcheap import EndpointClosed, HeapClosed

from . import kernels as forms
from .items import goes_on, is_mark, item_of
from .kernels import Flow
from .ledger import FINISHED, FORWARD, Note, note_of
from .reader import Ended
from .snapshots import Snapshots, state_channel
from .worker import Worker, aborting, acknowledge

if TYPE_CHECKING:
    from ipcheap import Record

    from .plan import Kernel, Plan


class UnevenWorker(Worker):
    """Calls a generator function, an object, or a kernel with several outputs or batches."""

    def __init__(self, plan: Plan, kernel: Kernel, *of: Any, **how: Any) -> None:
        super().__init__(plan, kernel, *of, **how)
        self._held: list[Record] = []  # inputs that are done, but not yet for good
        self._gone: Record | None = None  # the input that went on as an output
        self._state: Snapshots | None = None
        self._bases: list[int] = []  # the number of the first channel of each input
        number = 0
        for count in self._shape.channels:
            self._bases.append(number)
            number += count
        edges = len(self._edges)
        self._note = Note([0] * number, [0] * len(self._bases), [0] * edges, [0] * edges)

    def claim(self) -> None:
        """Claim the channels, also that of the snapshots; Aborted if the graph has ended."""
        super().claim()
        if self._kernel.checkpoint:
            with aborting(self._board):
                self._state = Snapshots(self._heap, state_channel(self._kernel.name, self._worker))

    def _close(self) -> None:
        super()._close()
        if self._state is not None:
            self._state.close()

    def _is_to_skip(self) -> bool:
        """Whether a call is to be left out; remember otherwise that it is the one in work."""
        unit = self._note.units + 1
        if self._state is None or (self._skip and self._ledger.begun == unit):
            return super()._is_to_skip()
        self._ledger.begun = unit
        return False

    def _work(self) -> None:
        kernel, note = self._kernel, self._note
        call = self._set_up()
        if self._again:
            note = self._note = self._restore()
        batch = kernel.batch
        while not note.flags & FINISHED:
            try:
                if batch:
                    taken, ended = self._take_batch(batch)
                    if taken:
                        self._unit(call, taken)
                    if ended:
                        break
                else:
                    self._unit(call, self._take())
            except Ended:
                break
        if not note.flags & FINISHED:
            self._finish()
        self._release()

    def _take(self) -> list[tuple[int, int, Record]]:
        """Return an item of each input, as (input, channel, record), and the marks before them.

        Of a single input a mark comes alone: it is a turn, or the end of one.
        """
        readers = self._readers
        taken: list[tuple[int, int, Record]] = []
        for entry, reader in enumerate(readers):
            while True:
                record = reader.next()
                taken.append((entry, reader.channel, record))
                if len(readers) == 1 or not reader.has_marks or not is_mark(record):
                    break
        return taken

    def _take_batch(self, batch: int) -> tuple[list[tuple[int, int, Record]], bool]:
        reader = self._readers[0]
        taken: list[tuple[int, int, Record]] = []
        items = 0
        while items < batch:
            try:
                record = reader.next()
            except Ended:
                return taken, True
            taken.append((0, reader.channel, record))
            if not reader.has_marks or not is_mark(record):
                items += 1
        return taken, False

    def _unit(self, call: Any, taken: list[tuple[int, int, Record]]) -> None:
        """Call the kernel once, send what it gives, and commit that."""
        kernel, readers, writers, note = self._kernel, self._readers, self._writers, self._note
        here = self._here
        entry, channel, record = taken[0]
        reader = readers[entry]
        here._calls = note.units
        turn = note.turns
        live = [one for one in taken if not readers[one[0]].has_marks or not is_mark(one[2])]
        many = reader.has_turns and not kernel.batch and len(readers) == 1
        if self._is_to_skip():
            self._count_skipped()
        elif live:
            items = [item_of(one[2], self._wanted[one[0]], kernel.inplace) for one in live]
            try:
                self._call(call, items, live, turn)
            except Exception as error:
                if kernel.on_error != "skip" or isinstance(error, (EndpointClosed, HeapClosed)):
                    raise
                self._leave_out(error)
            items.clear()
        if not many or len(live) < len(taken):
            for writer in writers:
                if writer.edge.turns == "many":
                    writer.mark(turn)
            note.turns += 1
        note.units += 1
        note.flags = 0
        for entry, channel, record in taken:
            note.freed[self._bases[entry] + channel] += 1
            if record is not self._gone:
                self._held.append(record)
        self._gone = None
        del record
        taken.clear()
        live.clear()
        if self._state is None or len(self._held) >= kernel.checkpoint:
            self._commit()

    def _call(
        self, call: Any, items: list[Any], taken: list[tuple[int, int, Record]], turn: int
    ) -> None:
        """Call the kernel and send its outputs; an input may go on as the last one."""
        kernel, writers = self._kernel, self._writers
        if kernel.batch:
            value = call(items)
            if forms.is_generator_result(value):
                values: Iterable[Any] = value
            elif isinstance(value, (list, tuple)) and len(value) == len(items):
                values = value
            else:
                values = (value,)
        else:
            value = call(*items)
            values = value if forms.is_generator_result(value) else (value,)
        by_port = self._by_port()
        may_go_on = not kernel.batch and self._state is None
        waiting: list[tuple[int, Any]] = []  # an input that was given, if it is the last output
        for value in values:
            for number, one in waiting:
                writers[number].put(one, turn)
            waiting.clear()
            if value is None:
                continue
            for number, one, is_last in self._outputs(value, by_port):
                if is_last and may_go_on and any(one is item for item in items):
                    waiting.append((number, one))
                else:
                    writers[number].put(one, turn)
        for number, one in waiting:
            n = next(n for n, item in enumerate(items) if item is one)
            record = taken[n][2]
            if writers[number].ahead or not goes_on(one, items[n]):
                writers[number].put(one, turn)
                continue
            note = self._note
            note.flags, note.edge = FORWARD, number
            note.channel = self._bases[taken[n][0]] + taken[n][1]
            note.at = [writer.position for writer in writers]
            self._ledger.commit(note)
            if writers[number].put(one, turn, record):
                self._gone = record

    def _commit(self) -> None:
        """Make all that was done so far done for good, and free its inputs."""
        note, state = self._note, self._state
        for entry, reader in enumerate(self._readers):
            note.taken[entry] = reader.taken
        note.out = [writer.position for writer in self._writers]
        for writer in self._writers:
            writer.ahead = 0
        if state is not None:
            state.put(pickle.dumps((note.words(), self._object.snapshot()), 5))
        else:
            self._ledger.commit(note)
        self._release()

    def _release(self) -> None:
        for record in self._held:
            acknowledge(record)
        self._held.clear()

    def _finish(self) -> None:
        note = self._note
        if self._object is not None and hasattr(self._object, "finish"):
            value = self._object.finish()
            values = value if forms.is_generator_result(value) else (value,)
            by_port = self._by_port()
            for value in values:
                if value is not None:
                    for number, one, _ in self._outputs(value, by_port):
                        self._writers[number].put(one, note.turns)
            for writer in self._writers:
                if writer.edge.turns == "many":
                    writer.mark(note.turns)
            note.turns += 1
        note.flags = FINISHED
        self._commit()

    def _restore(self) -> Note:
        """Return where the worker before this one was, and take back what it left half done."""
        if self._state is not None:
            data = self._state.get()
            if data is None:
                words = [0] * self._shape.note
            else:
                words, state = pickle.loads(data)
                self._object.restore(state)
            note = note_of(words, self._shape)
        else:
            note = self._ledger.note()
        for writer in self._writers:
            writer.resume()
        freed = [count for entry in range(len(self._readers)) for count in self._freed(entry)]
        if note.flags & FORWARD and freed[note.channel] > note.freed[note.channel]:
            self._complete(note, freed)
        note.flags &= FINISHED
        for entry, reader in enumerate(self._readers):
            base = self._bases[entry]
            numbers = range(base, base + len(reader.channels))
            for number in numbers:
                for _ in range(note.freed[number] - freed[number]):
                    reader.receive(number - base).free()
            reader.resume(note.taken[entry], sum(note.freed[number] for number in numbers))
        for number, writer in enumerate(self._writers):
            writer.ahead = writer.position - note.out[number]
        return note

    def _complete(self, note: Note, freed: list[int]) -> None:
        """Complete a unit whose last output has been sent, and was its input."""
        turn = note.turns
        ends_turn = not (len(self._readers) == 1 and self._readers[0].has_turns)
        for number, writer in enumerate(self._writers):
            sent = writer.position - note.at[number] - (number == note.edge)
            if ends_turn and writer.edge.turns == "many" and sent < 1:
                writer.mark(turn)
        for entry, reader in enumerate(self._readers):
            base = self._bases[entry]
            if len(self._readers) > 1:
                # One record of each input: that of a turn, or whose channel is logged.
                reader.resume(
                    note.taken[entry], sum(note.freed[base : base + len(reader.channels)])
                )
                if base <= note.channel < base + len(reader.channels):
                    note.freed[note.channel] += 1
                    channel = note.channel - base
                else:
                    record = reader.next()
                    channel = reader.channel
                    note.freed[base + channel] += 1
                    record.free()
                    freed[base + channel] += 1
                    note.taken[entry] = reader.taken
                    continue
            else:
                note.freed[note.channel] += 1
            if reader.is_ordered and not reader.has_turns:
                note.taken[entry] += 1
        note.units += 1
        note.turns += ends_turn
        note.flags = 0
        note.out = [writer.position for writer in self._writers]
        self._ledger.commit(note)


class FlowWorker(UnevenWorker):
    """Calls a flow function, once."""

    def _work(self) -> None:
        call = self._set_up()
        readers, writers = self._readers, self._writers
        if self._again:
            note = self._note = self._restore()
            for writer in writers:
                writer.ahead = 0
            note.flags = 0
        flows = [Flow(self._receiver(entry)) for entry in range(len(readers))]
        by_port = self._by_port()
        values = call(*flows)
        if values is None:
            return
        if not isinstance(values, Iterable):
            values = (values,)
        for value in values:
            if value is not None:
                for number, one, _ in self._outputs(value, by_port):
                    writers[number].put(one, 0)
        self._release()

    def _receiver(self, entry: int) -> Any:
        """Return the function that returns the next item of a flow, and acknowledges the last."""
        reader, want, here = self._readers[entry], self._wanted[entry], self._here
        base, note, kernel = self._bases[entry], self._note, self._kernel
        held: list[Record] = []

        def receive() -> Any:
            while True:
                if held:
                    if kernel.restartable:
                        note.taken[entry] = reader.taken
                        self._ledger.commit(note)
                    acknowledge(held.pop())
                try:
                    record = reader.next()
                except Ended:
                    raise StopIteration from None
                note.freed[base + reader.channel] += 1
                held.append(record)
                if not reader.has_marks or not is_mark(record):
                    here._reader = reader
                    here._calls = note.units
                    note.units += 1
                    return item_of(record, want, kernel.inplace)

        return receive
