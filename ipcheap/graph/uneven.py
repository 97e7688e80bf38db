"""Workers of all other kernels, which commit by notes or snapshots how far they are."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from ipcheap import EndpointClosed, HeapClosed

from . import kernels as forms
from .items import apart, goes_on, is_mark, item_of
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
        # Whether a turn is any number of calls, and ends with a mark.
        edges_in = plan.into[kernel.name]
        self._has_turns = len(edges_in) == 1 and edges_in[0][0].turns == "many" and not kernel.batch
        self._has_marks = any(edges[0].turns != "item" for edges in edges_in)
        # Whether an input may be sent: it may not if others see it, too.
        self._may_go_on = all(edge.is_of_records for of in self._channels for edge, _ in of)
        edges = len(self._edges)
        self._freed_before: list[int] = []  # records of each channel, before the unit in work
        self._note = Note([0] * number, [0] * len(self._bases), [0] * edges)

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
        self.check_aborted()
        if not note.flags & FINISHED:
            self._finish()
        self._release()
        if self._state is not None:
            self._ledger.commit(note)  # for a next worker that finds no snapshot any more

    def _take(self) -> list[tuple[int, int, Record]]:
        """Return an item of each input, as (input, channel, record), and the marks before them.

        Of a single input a mark comes alone: it is a turn, or the end of one.
        """
        readers = self._readers
        taken: list[tuple[int, int, Record]] = []
        for entry, reader in enumerate(readers):
            marks = 0
            while True:
                record = reader.next()
                taken.append((entry, reader.channel, record))
                if len(readers) == 1 or not reader.has_marks or not is_mark(record):
                    break
                marks += 1
                if marks == reader.most_held:
                    self._pass_marks(entry, taken[-marks:])
                    del taken[-marks:]
                    marks = 0
        return taken

    def _pass_marks(self, entry: int, marks: list[tuple[int, int, Record]]) -> None:
        """Commit marks before an item: more of them than a ring has slots may follow."""
        note = self._note
        for _, channel, record in marks:
            note.freed[self._bases[entry] + channel] += 1
            self._held.append(record)
        note.taken[entry] = self._readers[entry].taken
        self._commit()

    def _take_batch(self, batch: int) -> tuple[list[tuple[int, int, Record]], bool]:
        reader = self._readers[0]
        taken: list[tuple[int, int, Record]] = []
        while len(taken) < batch:
            try:
                record = reader.next()
            except Ended:
                return taken, True
            taken.append((0, reader.channel, record))
        return taken, False

    def _unit(self, call: Any, taken: list[tuple[int, int, Record]]) -> None:
        """Call the kernel once, send what it gives, and commit that."""
        kernel, readers, writers, note = self._kernel, self._readers, self._writers, self._note
        self._here._calls = note.units
        turn = note.turns
        live = taken
        if self._has_marks:
            live = [one for one in taken if not readers[one[0]].has_marks or not is_mark(one[2])]
        ends_turn = not (self._has_turns and live)
        skipped = kernel.on_error == "skip" and self._begins(note.units)
        # From here on the note describes this unit as if it were complete. It is committed when
        # that is so, or when only an input has yet to go on.
        note.units += 1
        note.turns += ends_turn
        note.flags = 0
        self._freed_before = note.freed.copy()
        for entry, channel, _ in taken:
            note.freed[self._bases[entry] + channel] += 1
        for entry, reader in enumerate(readers):
            note.taken[entry] = reader.taken
        if skipped:
            self._count_skipped()
            for writer in writers:
                writer.ahead = 0  # what the call had sent before the process died
        elif live:
            items = [item_of(one[2], self._wanted[one[0]], kernel.inplace) for one in live]
            try:
                self._call(call, items, live, turn)
            except Exception as error:
                if kernel.on_error != "skip" or isinstance(error, (EndpointClosed, HeapClosed)):
                    raise
                self._leave_out(error)
            items.clear()
        if ends_turn:
            for writer in writers:
                if writer.edge.turns == "many":
                    writer.mark(turn)
        for _, _, record in taken:
            if record is not self._gone:
                self._held.append(record)
        self._gone = None
        taken.clear()
        live.clear()
        if self._state is None or skipped or len(self._held) >= kernel.checkpoint:
            self._commit()

    def _call(
        self, call: Any, items: list[Any], taken: list[tuple[int, int, Record]], turn: int
    ) -> None:
        """Call the kernel and send its outputs; an input may go on as the last one."""
        kernel, writers = self._kernel, self._writers
        values: Iterable[Any]
        if kernel.batch:
            value = call(items)
            several = forms.is_list(value) and len(value) == len(items)
            values = value if several or forms.is_generator_result(value) else (value,)
        else:
            value = call(*items)
            values = value if forms.is_generator_result(value) else (value,)
        may_go_on = self._may_go_on and not kernel.batch and self._state is None
        waiting: tuple[int, Any] | None = None  # an input that was given, if it is the last output
        for value in values:
            if waiting is not None:
                writers[waiting[0]].put(apart(waiting[1]), turn)
                waiting = None
            if value is None:
                continue
            for number, one, is_last in self._outputs(value):
                if not any(one is item for item in items):
                    writers[number].put(one, turn)
                elif is_last and may_go_on:
                    waiting = number, one
                else:
                    writers[number].put(apart(one), turn)
        if waiting is None:
            return
        number, one = waiting
        n = next(n for n, item in enumerate(items) if item is one)
        writer = writers[number]
        if writer.edge.window or writer.ahead or not goes_on(one, items[n]):
            writer.put(apart(one), turn)
        else:
            entry, channel, record = taken[n]
            self._send_on(number, one, turn, self._bases[entry] + channel, record)

    def _send_on(self, number: int, item: Any, turn: int, channel: int, record: Record) -> None:
        """Send an input as the last output of a unit.

        That frees it. Whether it did tells the next worker which of the two notes is valid: that
        of this unit, or the one before.
        """
        note = self._note
        note.flags = FORWARD
        note.edge, note.channel = number, channel
        note.before = self._freed_before[channel]
        note.out = [writer.position for writer in self._writers]
        self._ledger.commit(note)
        note.flags = 0
        if self._writers[number].put(item, turn, record):
            self._gone = record
        else:
            self._ledger.withdraw()

    def _commit(self) -> None:
        """Make all that was done so far done for good, and free its inputs."""
        note, state = self._note, self._state
        note.out = [writer.position for writer in self._writers]
        for writer in self._writers:
            writer.ahead = 0
        if state is not None:
            data = pickle.dumps((note.words(), self._object.snapshot()), 5)
            self._here._room(lambda: state.put(data))
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
            for value in values:
                if value is not None:
                    for number, one, _ in self._outputs(value):
                        self._writers[number].put(one, note.turns)
            for writer in self._writers:
                if writer.edge.turns == "many":
                    writer.mark(note.turns)
            note.turns += 1
        note.flags = FINISHED
        self._commit()

    # After a kill -----------------------------------------------------------------------------

    def _restore(self) -> Note:
        """Return where the worker before this one was, and take back what it left half done."""
        note = self._ledger.note()
        data = self._state.get() if self._state is not None else None
        if data is not None:
            words, state = pickle.loads(data)
            self._object.restore(state)
            note = note_of(words, self._shape)
        for writer in self._writers:
            writer.resume()
        freed = self._count_freed()
        if note.flags & FORWARD:
            if freed[note.channel] > note.before:
                self._complete(note)
            else:
                self._ledger.withdraw()
                note = self._ledger.note()
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

    def _complete(self, note: Note) -> None:
        """Complete a unit whose last output has been sent, and was its input."""
        if not self._has_turns:
            for number, writer in enumerate(self._writers):
                sent = writer.position - note.out[number] - (number == note.edge)
                if writer.edge.turns == "many" and not sent:
                    writer.mark(note.turns - 1)
        note.flags = 0
        note.out = [writer.position for writer in self._writers]
        self._ledger.commit(note)

    def _count_freed(self) -> list[int]:
        """Return how many records of each channel are done, of all inputs."""
        return [count for entry in range(len(self._readers)) for count in self._freed(entry)]


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
        values = call(*flows)
        if values is None:
            return
        outputs = cast("Iterable[object]", values) if isinstance(values, Iterable) else (values,)
        for value in outputs:
            if value is not None:
                for number, one, _ in self._outputs(value):
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
                    note.freed[base + reader.channel] += 1
                    note.taken[entry] = reader.taken
                    if kernel.restartable:
                        self._ledger.commit(note)
                    acknowledge(held.pop())
                try:
                    record = reader.next()
                except Ended:
                    self.check_aborted()
                    raise StopIteration from None
                held.append(record)
                if not reader.has_marks or not is_mark(record):
                    here._reader = reader
                    here._calls = note.units
                    note.units += 1
                    return item_of(record, want, kernel.inplace)

        return receive
