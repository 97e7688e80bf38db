"""Killing workers of a run at random: a test of whether kernels survive that."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from typing import TYPE_CHECKING, Self

from ipcheap import ChannelNotFound, HeapClosed

from .errors import GraphError
from .graph import Node
from .watch import Processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .runner import Run


class Murder:
    """Kills processes of a run from a thread, from the beginning of a block to its end.

    `kills` is how many it has killed.
    """

    def __init__(
        self,
        run: Run,
        seed: int,
        every: tuple[float, float],
        kernels: Sequence[Node | str] | None,
    ) -> None:
        watch = run._watch
        if not isinstance(watch, Processes):
            raise ValueError("runner='threads' has no processes that could be killed")
        names = [k.name for k in run._plan.kernels.values() if not k.is_caller]
        chosen = [one.name if isinstance(one, Node) else one for one in kernels or names]
        if unknown := [name for name in chosen if name not in names]:
            raise GraphError(f"{unknown[0]!r} is no kernel of this run: it has {', '.join(names)}")
        self.kills: int = 0
        self._watch = watch
        self._chosen = frozenset(chosen)
        self._every = every
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill, name="graph murder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._over.wait(self._random.uniform(*self._every)):
            try:
                victims = self._watch.victims(self._chosen)
            except (HeapClosed, ChannelNotFound):
                return  # the run has ended
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(victims), signal.SIGKILL)
                    self.kills += 1
