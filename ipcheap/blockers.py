"""Chains of waits in a snapshot: which participant waits for which, and who could end it.

Pure Python over a Snapshot: nothing here looks at a heap.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._arguments import ChannelId
    from .results import Holding, ParticipantView, SideView, Snapshot, Wait

    # The fields of a Blocker, in order.
    Found = tuple[
        str | None, ChannelId | None, str | None, float | None, str | None, str, bool, str
    ]

_STUCK = frozenset({"dead", "stopped", "stopped by a debugger"})
_ROOM = frozenset({"producer", "writer"})


def blockers_of(snapshot: Snapshot) -> list[Found]:
    """Return the fields of each Blocker, those that wait for a root first."""
    return _Chains(snapshot).found()


def is_stuck(snapshot: Snapshot, holding: Holding, older: float) -> bool:
    """Whether no participant moves what is in a holding."""
    if holding.how == "static" or (holding.oldest is not None and holding.oldest[0] < older):
        return False
    if holding.oldest is not None and holding.how != "pending":
        return True
    states = {each.key: each.state for each in snapshot.participants}
    return holding.holder is None or states.get(holding.holder, "dead") in _STUCK


def name_of(participant: ParticipantView) -> str:
    """Return the name of a participant with its process, and its thread if that is another."""
    pid, thread = participant.pid, participant.thread
    where = f"{pid}/{thread}" if thread and thread != pid else str(pid)
    return f"{participant.label or 'an unknown program'} ({where})"


class _Chains:
    """The waits of a snapshot as a graph from participant to participant."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._views = {each.key: each for each in snapshot.participants}
        self._channels = {(type(each.id), each.id): each for each in snapshot.channels}

    def found(self) -> list[Found]:
        """Return the fields of all blockers."""
        found: list[tuple[bool, int, Found]] = []
        behind: dict[str | None, set[str]] = {}
        for each in self._snapshot.participants:
            if each.state == "dead":
                continue  # it waits for nothing any more
            for wait in each.waits:
                end, cycle = self._end(each, wait)
                if cycle or self._counts(wait, end):
                    behind.setdefault(end, set()).add(each.key)
        for each in self._snapshot.participants:
            if each.state == "dead":
                continue
            for wait in each.waits:
                end, cycle = self._end(each, wait)
                if not cycle and not self._counts(wait, end):
                    continue
                row = self._row(each, wait, end, cycle, len(behind.get(end, ())))
                found.append((not row[6], -len(behind.get(end, ())), row))
        found.sort(key=lambda each: each[:2])
        return self._lock() + [row for _, _, row in found]

    # The graph ----------------------------------------------------------------------------

    def _is_stuck(self, key: str | None) -> bool:
        return key is None or key not in self._views or self._views[key].state in _STUCK

    def _end(self, waiting: ParticipantView, wait: Wait) -> tuple[str | None, list[Wait] | None]:
        """Follow a wait to its end: the last participant, or the waits of a cycle."""
        seen = [waiting.key]
        path = [wait]
        key = wait.for_
        while key is not None and not self._is_stuck(key):
            if key in seen:
                is_cycle = key == waiting.key and len(waiting.waits) == 1
                return key, path if is_cycle else None
            further = self._views[key].waits
            # One that waits for several things is held up by none of them alone.
            if len(further) != 1:
                return key, None
            seen.append(key)
            path.append(further[0])
            key = further[0].for_
        return key, None

    def _counts(self, wait: Wait, end: str | None) -> bool:
        """Whether a wait is a blockage: an idle consumer's is not."""
        if wait.side == "listener" or (wait.side == "reader" and self._is_store(wait.channel)):
            return wait.for_ is not None and self._is_stuck(wait.for_)
        if wait.side in _ROOM or self._is_stuck(end):
            return True
        # The chain may end at a participant that holds up somebody in between.
        key = wait.for_
        for _ in self._snapshot.participants:
            if key is None or key == end:
                return False
            (further,) = self._views[key].waits
            if further.side in _ROOM:
                return True
            key = further.for_
        return True

    def _is_store(self, channel: ChannelId) -> bool:
        view = self._channels.get((type(channel), channel))
        return view is not None and view.kind == "store"

    # Words --------------------------------------------------------------------------------

    def _name(self, key: str | None) -> str:
        if key is None or key not in self._views:
            return "an unknown participant"
        return name_of(self._views[key])

    def _row(
        self,
        each: ParticipantView,
        wait: Wait,
        end: str | None,
        cycle: list[Wait] | None,
        count: int,
    ) -> Found:
        reason, because = self._reason(wait, cycle, count)
        waits_for = "room" if wait.side in _ROOM else "records"
        text = f"{name_of(each)} waits for {waits_for} in {wait.channel!r}: {because}"
        is_root = self._is_first(each, cycle) if cycle else wait.for_ == end
        return (each.key, wait.channel, wait.side, wait.since, wait.for_, reason, is_root, text)

    def _is_first(self, each: ParticipantView, cycle: list[Wait]) -> bool:
        return each.key == min(wait.for_ for wait in cycle if wait.for_ is not None)

    def _reason(self, wait: Wait, cycle: list[Wait] | None, count: int) -> tuple[str, str]:
        if cycle is not None:
            return "cycle", self._cycle_text(cycle)
        if wait.for_ is None:
            return "absent", self._absent_text(wait)
        name = self._name(wait.for_)
        stuck = self._stuck_text(wait.for_, count)
        if stuck is not None:
            return stuck
        if wait.side not in _ROOM:
            return "empty", f"{name} has sent nothing, because it waits itself"
        view = self._channels[type(wait.channel), wait.channel]
        if getattr(view, "blocked", None) == "held":
            return "held", (
                f"all {view.capacity} slots are full, and the oldest record is held by {name}: it "
                "must free it, keep() it or receive on, or the channel must be larger"
            )
        pending = getattr(view, "pending", 0)
        return "slow", f"{name} has {pending:,} to receive"

    def _stuck_text(self, key: str, count: int) -> tuple[str, str] | None:
        view = self._views.get(key)
        if view is None or view.state == "dead":
            return "dead", (
                f"{self._name(key)} died: a waiting participant recovers it within half a second; "
                "or run `ipcheap doctor --repair`"
            )
        if view.state not in _STUCK:
            return None
        others = f", and {count} participants wait for it" if count > 1 else ""
        how = "" if view.state == "stopped" else " by a debugger"
        way = f"kill -CONT {view.pid}" if view.state == "stopped" else "continue it there"
        return "stopped", f"{name_of(view)} is stopped{how}{others}: {way}"

    def _absent_text(self, wait: Wait) -> str:
        view = self._channels.get((type(wait.channel), wait.channel))
        other = "consumer" if wait.side == "producer" else "reader"
        if wait.side not in _ROOM:
            other = "producer" if wait.side == "consumer" else "writer"
        side: SideView | None = getattr(view, other, None)
        state = "" if side is None else _HOW.get(side.state, "")
        does = "receives from it" if wait.side in _ROOM else "sends to it"
        return f"nobody {does}{state.format(other)}; start a {other}"

    def _cycle_text(self, cycle: list[Wait]) -> str:
        last = cycle[-1].for_
        words = [self._name(last)]
        for wait in cycle:
            words += [repr(wait.channel), self._name(wait.for_)]
        return " → ".join(words) + ": each waits for the next"

    def _lock(self) -> list[Found]:
        lock = self._snapshot.lock
        if lock is None or not (lock.contended or lock.state in _STUCK):
            return []
        name = self._name(lock.holder)
        text = f"{name} holds the heap lock"
        if lock.state == "dead":
            text += " and died: the next participant that needs the lock recovers it"
        elif lock.state in _STUCK and lock.holder in self._views:
            view = self._views[lock.holder]
            way = f"kill -CONT {view.pid}" if lock.state == "stopped" else "continue it there"
            text += f" and is {lock.state}: {way}"
        elif lock.contended:
            text += ", and others wait for it"
        return [(None, None, None, None, lock.holder, "lock", True, text)]


_HOW = {
    "never": " (no {} has claimed it)",
    "closed": " (the {} has closed)",
    "died": " (the {} has died)",
}
