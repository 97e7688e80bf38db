"""The board of a run: a byte for its state, and one for each input and worker that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcheap import StaticSegment

    from .plan import Plan

GO, DRAIN, ABORT = 0, 1, 2


class Board:
    """What all workers look at."""

    def __init__(self, segment: StaticSegment, plan: Plan) -> None:
        self.bytes: memoryview = segment.view
        names = [kernel.name for kernel in plan.kernels.values() if kernel.form == "input"]
        self._inputs = {name: 1 + n for n, name in enumerate(names)}
        workers = [worker for process in plan.processes for worker in process.workers]
        self._workers = {worker: 1 + len(names) + n for n, worker in enumerate(workers)}

    @staticmethod
    def nbytes(plan: Plan) -> int:
        """How many bytes a board has."""
        inputs = sum(kernel.form == "input" for kernel in plan.kernels.values())
        return 1 + inputs + sum(len(process.workers) for process in plan.processes)

    @property
    def state(self) -> int:
        """GO, DRAIN or ABORT."""
        return self.bytes[0]

    @state.setter
    def state(self, state: int) -> None:
        if self.bytes[0] != ABORT:
            self.bytes[0] = state

    @property
    def is_aborted(self) -> bool:
        """Whether the graph ends without working off what is under way."""
        return self.bytes[0] == ABORT

    def close_input(self, name: str) -> None:
        """Say that an input gets no more items."""
        self.bytes[self._inputs[name]] = 1

    def is_closed(self, name: str) -> bool:
        """Whether an input gets no more items."""
        return bool(self.bytes[self._inputs[name]] or self.bytes[0])

    def finish(self, name: str, worker: int) -> None:
        """Say that a worker has ended."""
        self.bytes[self._workers[name, worker]] = 1

    def has_finished(self, name: str, worker: int) -> bool:
        """Whether a worker has ended."""
        return bool(self.bytes[self._workers[name, worker]])
