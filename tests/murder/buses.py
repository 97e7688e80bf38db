"""The children that post on buses and listen to them, and what they must hear there."""

from __future__ import annotations

import contextlib
import select
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import ipcheap

from .bus_notes import (
    BROADCAST,
    LIMITED,
    LINES,
    PASSING,
    WHOLE,
    WORKS,
    BusNotes,
    life_of,
    name_of,
    number_of,
)
from .notes import size_for
from .victims import PATIENCE, Worker
from .words import insist

if TYPE_CHECKING:
    from collections.abc import Callable


LARGEST = 256 << 10
LATE = 1.5  # seconds that a call may return after its deadline, on a busy machine
CLERKS = 2  # listeners that hear everything, and are not killed
AROUND = "around"  # a channel of the one that posts what it has received
MANY = (1, 4, 20, 200)  # messages that a listener holds

_R = TypeVar("_R")


def message_of(name: int) -> bytes:
    """Return a message's content: its name, repeated; a whole number of times."""
    nbytes = size_for(name, LARGEST)
    return name.to_bytes(8, "little") * (nbytes // 8)


def check(message: ipcheap.Record, name: int, when: str) -> None:
    insist(bytes(message) == message_of(name), f"{message!r} of {name:x} has changed {when}")


def ends(worker: Worker) -> bool:
    """Return whether this work ends now, perhaps to be replaced."""
    return worker.stopping or worker.resigns()


class User:
    """A work that uses buses: its notes, and what its calls have in common."""

    def __init__(self, worker: Worker, part: int) -> None:
        self.worker = worker
        self.dice = worker.dice
        self.heap = worker.heap
        self.notes: BusNotes = worker.notes.buses
        self.number = worker.number * WORKS + part
        self.life = self.notes.life(self.number)

    def timed(self, timeout: float, call: Callable[[], _R]) -> _R:
        """Make a call with a timeout, which it must keep."""
        stops, begin = self.notes.stops[self.worker.number], time.monotonic()
        try:
            return call()
        finally:
            late = time.monotonic() - begin - timeout
            if stops % 2 == 0 and self.notes.stops[self.worker.number] == stops:
                insist(late < LATE, f"a call returned {late:.3f} s after its timeout, {timeout} s")
                if late >= 0:
                    self.notes.late[min(39, int(late * 1e6).bit_length())] += 1


# Posting ------------------------------------------------------------------------------------


class Poster(User):
    """A writer of one bus."""

    def __init__(self, worker: Worker, part: int, line: int) -> None:
        super().__init__(worker, part)
        self.line = line
        self.bus = LINES[line].add(worker.heap)
        self.life.line = line + 1
        self.at = 0
        while self.notes.clerks[0] < CLERKS:
            worker.obey()
            worker.nap()

    def turn(self) -> None:
        """Post something, in one of the ways."""
        ways: tuple[Callable[[float], None], ...] = (
            self.post,
            self.post,
            self.post_record,
            self.post_record,
            self.post_many,
            self.broadcast,
            self.drain,
        )
        try:
            self.dice.choice(ways)(self.worker.patience())
        except ipcheap.HeapFull:
            self.worker.nap()
        except TimeoutError:
            self.notes.waits[0] += 1
            self.worker.nap()

    def begin(self, count: int = 1, *, broadcast: bool = False) -> list[int]:
        """Note that messages will be posted; return their names."""
        self.life.begun = self.at + count
        return [
            name_of(self.number, number, broadcast=broadcast)
            for number in range(self.at, self.at + count)
        ]

    def posted(self, names: list[int], position: int | None, before: int) -> None:
        """Note that they were posted, the last of them at a position, if that is known."""
        if position is not None:
            insist(
                position >= before,
                f"bus {self.line}: {names[-1]:x} got position {position}, although a post that "
                f"had returned before it began got {before - 1}",
            )
            forwarder = self.number + 1 if self.life.forwards else 0
            self.notes.put_name(self.line, position, names[-1], forwarder)
            self.notes.returned[self.line] = position + 1
        self.at += len(names)
        self.life.posted = self.at

    def post(self, timeout: float) -> None:
        names, before = self.begin(), self.notes.returned[self.line]
        data = message_of(names[0])
        self.posted(names, self.timed(timeout, lambda: self.bus.post(data, timeout)), before)

    def post_record(self, timeout: float) -> None:
        names, before = self.begin(), self.notes.returned[self.line]
        with self.record(names[0]) as record:
            position = self.timed(timeout, lambda: self.bus.post_record(record, timeout))
        self.posted(names, position, before)

    def record(self, name: int) -> ipcheap.Record:
        content = message_of(name)
        record = self.bus.allocate_record(len(content))
        record.view[:] = content
        return record

    def post_many(self, timeout: float) -> None:
        names = self.begin(self.dice.randrange(1, 12))
        before = self.notes.returned[self.line]
        data, done = [message_of(name) for name in names], 0
        try:
            done = self.timed(timeout, lambda: self.bus.post_many(data, timeout))
            insist(done == len(names), f"{done} of {len(names)} were posted, without an error")
        except (TimeoutError, ipcheap.HeapFull) as error:
            done = getattr(error, "done", 0)
            raise
        finally:
            self.posted(names[:done], None, before)

    def broadcast(self, timeout: float) -> None:
        """Broadcast, and check what the report says."""
        names, before = self.begin(broadcast=True), self.notes.returned[self.line]
        begun = time.monotonic_ns()
        self.life.until = begun + int(timeout * 1e9)
        nowait = self.dice.random() < 0.1
        try:
            if self.dice.random() < 0.5:
                data = message_of(names[0])
                report = self.timed(
                    timeout, lambda: self.bus.broadcast(data, timeout, nowait=nowait)
                )
            else:
                with self.record(names[0]) as record:
                    report = self.timed(
                        timeout, lambda: self.bus.broadcast_record(record, timeout, nowait=nowait)
                    )
        except ipcheap.ChannelBusy:
            insist(nowait, "a broadcast that may wait raised ChannelBusy")
            return
        self.posted(names, report.position, before)
        self.life.returned = self.at
        self.judge(report, begun)

    def drain(self, timeout: float) -> None:
        begun, before = time.monotonic_ns(), self.notes.returned[self.line]
        report = self.timed(timeout, lambda: self.bus.drain(timeout))
        insist(report.position >= before - 1, f"a drain to {report.position}, not to {before - 1}")
        self.judge(report, begun, drained=True)

    def judge(self, report: ipcheap.BroadcastReport, begun: int, *, drained: bool = False) -> None:
        """Check the report of a call that had begun then with what is written down."""
        notes, slow = self.notes, len(report.slow)
        insist(report.listeners == report.released + report.gone + slow, f"{report} is wrong")
        notes.reports[0] += not slow
        notes.reports[1] += bool(slow)
        notes.reports[2] += bool(report.gone)
        for participant in report.slow:
            reaped = notes.reaped[notes.children[participant.pid or 0]]
            insist(not 0 < reaped < begun, f"{participant} was dead before this began: {report}")
        debtors = [] if slow else notes.debtors(self.line, report.position, before=drained)
        insist(
            not debtors,
            f"bus {self.line}: {report} is complete, but {debtors}",
        )


def post(worker: Worker, part: int, line: int) -> bool:
    """Post in all ways."""
    poster = Poster(worker, part, line)
    while not ends(worker):
        poster.turn()
        if worker.dice.random() < 0.5:
            worker.nap()
    return worker.stopping


# Listening ----------------------------------------------------------------------------------


class Session(User):
    """A listener, and what it must hear."""

    def __init__(
        self,
        worker: Worker,
        part: int,
        line: int,
        *,
        ear: int | None = None,
        lossy: bool = False,
        history: int = 0,
    ) -> None:
        super().__init__(worker, part)
        self.line = line
        self.bus = LINES[line].add(worker.heap)
        self.lossy = lossy
        self.ear = None if ear is None else self.notes.ears[ear]
        # What it holds: the messages, their names, and whether their release has begun.
        self.held: list[tuple[ipcheap.Message, int]] = []
        self.kept: list[tuple[ipcheap.Message, int]] = []
        self.elsewhere: list[Future[None]] = []
        self.last_broadcast: tuple[int, int] | None = None
        self.last_of: dict[int, int] = {}
        least = self.bus.statistics().posted
        self.listener = self.bus.listen(history=history, lossy=lossy)
        self.most = self.bus.statistics().posted
        # It begins somewhere from `least` to `most`, or with what the history has.
        self.least, self.history = least, history
        self.next: int | None = None
        self.missed = self.lost = 0  # said to be lost since the last message, and in all
        # Of those that a lossy one has lost, how many would have come next; and how many of those
        # that were lost before its second call may be that, too.
        self.ahead = self.doubt = 0
        self.here = 0  # all below had been posted before the present call
        if self.ear:
            self.ear.releasing, self.ear.bound, self.ear.line = 0, self.most, line
            self.ear.session = worker.number << 32 | worker.dice.randrange(1, 1 << 32)

    def receive(self) -> bool:
        """Take what comes; return whether there was something."""
        self.here, timeout = self.notes.returned[self.line], self.worker.patience()
        ways: tuple[Callable[[float], list[ipcheap.Message]], ...] = (
            self.one,
            self.one,
            self.some,
            self.by_descriptor,
            self.among,
        )
        try:
            messages = self.timed(timeout, lambda: self.dice.choice(ways)(timeout))
        except TimeoutError:
            messages = []
        except ipcheap.MessagesLost as lost:
            insist(not self.lossy, "a lossy listener got MessagesLost")
            insist(LINES[self.line].patience is not None, f"lost {lost.count} of bus {self.line}")
            insist(lost.count > 0, "MessagesLost with nothing lost")
            self.missed += lost.count
            self.notes.lost[self.line] += lost.count
            return True
        if not messages:
            self.judge_nothing()
        if self.lossy and messages:
            self.judge_losses(messages)
        for message in messages:
            self.judge(message)
        return bool(messages)

    def one(self, timeout: float) -> list[ipcheap.Message]:
        return [self.listener.recv_record(timeout)]

    def some(self, timeout: float) -> list[ipcheap.Message]:
        return self.listener.recv_records(self.dice.randrange(1, 10), timeout)

    def by_descriptor(self, timeout: float) -> list[ipcheap.Message]:
        return self.when(bool(select.select([self.listener], [], [], timeout)[0]))

    def among(self, timeout: float) -> list[ipcheap.Message]:
        return self.when(bool(ipcheap.wait([self.listener], timeout)))

    def when(self, ready: bool) -> list[ipcheap.Message]:
        """Receive after a wait, which must have noticed what had been posted before it."""
        message = self.listener.try_recv_record()
        if message is None:
            return []
        insist(
            ready or message.position >= self.here,
            f"bus {self.line}: {message!r} was posted before the wait, which was not ready",
        )
        return [message]

    def judge(self, message: ipcheap.Message) -> None:
        """Check that this message had to come now, and note it."""
        position, notes = message.position, self.notes
        name = int.from_bytes(message.view[:8], "little")
        what = f"bus {self.line}: message {name:x} at {position}"
        if self.next is None:
            self.judge_first(position, what)
        else:
            due = self.next + self.missed
            insist(
                position >= due if self.lossy else position == due,
                f"{what} came, not {self.next}, after {self.missed} that are said to be lost",
            )
        self.next, self.missed = position + 1, 0
        life, number = life_of(name), number_of(name)
        if self.line != LIMITED:
            insist(number > self.last_of.get(life, -1), f"{what} came after its successor")
            self.last_of[life] = number
        if self.line != PASSING:
            forwarder = self.forwarder_of(message, life)
            notes.put_name(self.line, position, name, forwarder)
        if self.line == WHOLE and name & BROADCAST:
            self.judge_turn(name, position)
        notes.heard[self.line] += 1
        self.held.append((message, name))
        check(message, name, "before it was received")

    def judge_losses(self, messages: list[ipcheap.Message]) -> None:
        """Check that what did not come before and between these messages is counted as lost.

        `lost` also counts what is gone and would have come next.
        """
        lost = self.listener.lost - self.lost
        self.lost += lost
        self.notes.lost[self.line] += lost
        first, last = messages[0].position, messages[-1].position
        gone = last - first + 1 - len(messages)
        if self.next is None:
            self.missed = self.doubt = lost - gone
        else:
            insist(
                first >= self.next + self.ahead,
                f"bus {self.line}: {first} came, although {self.ahead} from {self.next} on are "
                "said to be lost",
            )
            gone += first - self.next
            self.ahead += lost - gone
        insist(
            self.ahead + self.doubt >= 0 <= self.doubt,
            f"bus {self.line}: {gone} did not come up to {last}, of which {lost} were counted",
        )

    def judge_nothing(self) -> None:
        """Check that all that was posted before the call has been received or lost."""
        if self.next is None:
            return
        lost = self.missed
        if self.lossy:
            lost = self.listener.lost - self.lost + self.ahead + self.doubt
        insist(
            self.next + lost >= self.here,
            f"bus {self.line}: nothing came at {self.next}, {lost} were lost, but {self.here} "
            "had been posted",
        )

    def judge_first(self, position: int, what: str) -> None:
        begin = position - self.missed
        insist(begin <= self.most, f"{what} came first, but {self.most} should have")
        insist(begin >= self.least - self.history, f"{what} is older than the listener")

    def forwarder_of(self, message: ipcheap.Message, life: int) -> int:
        """Check who has posted it: 0 for its author, or the life of a forwarder, + 1."""
        sender = self.notes.children[message.sender.pid or 0]
        if sender == life // WORKS:
            return 0
        forwarder = sender * WORKS
        insist(
            self.line == LIMITED and self.notes.life(forwarder).forwards == 1,
            f"{message!r} of life {life} was posted by child {sender}",
        )
        return forwarder + 1

    def judge_turn(self, name: int, position: int) -> None:
        """Check that the turn of the broadcast before this one is over."""
        before, self.last_broadcast = self.last_broadcast, (name, position)
        if before is None:
            return
        name, position = before
        debtors, life = self.notes.debtors(self.line, position), self.notes.life(life_of(name))
        if life.returned > number_of(name) or self.notes.ended[life_of(name) // WORKS]:
            return
        insist(
            not debtors or time.monotonic_ns() >= life.until,
            f"bus {self.line}: a broadcast came after that at {position}, but {debtors}",
        )

    # Releasing.

    def settle(self, chosen: int) -> tuple[ipcheap.Message, int]:
        """Note that one of the held messages is being released, and return it."""
        message, name = self.held.pop(chosen)
        if self.ear:
            self.ear.begin(message.position)
            rest = min((message.position for message, _ in self.held), default=self.next or 0)
            self.ear.releasing = rest
        return message, name

    def release(self, others: ThreadPoolExecutor | None = None) -> None:
        """Release one in some way."""
        dice = self.dice
        message, name = self.settle(dice.randrange(len(self.held)) if dice.random() < 0.3 else 0)
        way = dice.random()
        if way < 0.1:
            message.keep()
            self.kept.append((message, name))
        elif way < 0.2:
            view = message.view
            message.free()
            insist(
                bytes(view) == message_of(name), "a view has changed after its message was freed"
            )
            view.release()
        elif way < 0.4 and others:
            self.elsewhere.append(others.submit(finish, message, name, keep=way < 0.3))
        else:
            check(message, name, "while it was held")
            message.free()
        while len(self.kept) > 5 or (self.kept and dice.random() < 0.1):
            message, name = self.kept.pop(0)
            check(message, name, "while it was kept")
            message.free()
        while len(self.elsewhere) > 20:
            self.elsewhere.pop(0).result(PATIENCE)

    def close(self) -> None:
        """Close the listener, and release what it held afterwards."""
        if self.ear:
            self.ear.session = 0
        if not self.lossy and LINES[self.line].patience is None:
            insist(self.listener.lost == 0, f"a listener lost {self.listener.lost} messages")
        self.listener.close()
        for future in self.elsewhere:
            future.result(PATIENCE)
        self.worker.nap()
        for message, name in self.held + self.kept:
            check(message, name, "after its listener had closed")
            message.free()


def finish(message: ipcheap.Message, name: int, *, keep: bool) -> None:
    """Release a message in another thread."""
    if keep:
        message.keep()
    check(message, name, "while another thread had it")
    message.free()


def listen(
    worker: Worker, part: int, line: int, *, ear: int | None = None, lossy: bool = False
) -> bool:
    """Listen again and again: receive, hold some, and release them in any order."""
    dice = worker.dice
    with ThreadPoolExecutor(1) as others:
        while not ends(worker):
            history = dice.randrange(LINES[line].history + 1)
            session = Session(worker, part, line, ear=ear, lossy=lossy, history=history)
            most, turns = dice.choice(MANY), dice.randrange(1, 500)
            for _ in range(turns):
                if ends(worker):
                    break
                came = session.receive()
                while session.held and (
                    len(session.held) >= most or dice.random() < (0.4 if came else 0.9)
                ):
                    session.release(others)
                if dice.random() < 0.02:
                    worker.nap()
            session.close()
    return worker.stopping


def record_all(worker: Worker, part: int, line: int) -> bool:
    """Receive everything, from before the first message is posted to after the last one."""
    session = Session(worker, part, line)
    insist(line != WHOLE or session.most == 0, "messages were posted before the clerk came")
    worker.notes.buses.clerks[0] += 1
    while worker.notes.stop[0] < 2 or session.listener.pending:
        worker.obey()
        session.receive()
        while session.held:
            session.release()
    session.close()
    return True


# Both ---------------------------------------------------------------------------------------


def talk(worker: Worker, part: int, line: int) -> bool:
    """Post and listen in one thread, which never waits for its own listener."""
    poster = Poster(worker, part, line)
    while not ends(worker):
        session = Session(worker, part, line)
        for _ in range(worker.dice.randrange(1, 200)):
            if ends(worker):
                break
            poster.turn()
            while session.receive():
                while session.held and worker.dice.random() < 0.9:
                    session.release()
            worker.nap()
        session.close()
    return worker.stopping


def forward(worker: Worker, part: int, ear: int) -> bool:
    """Post on the second bus what comes on the first one, directly or by way of a channel."""
    heap, dice = worker.heap, worker.dice
    poster = Poster(worker, part, LIMITED)
    poster.life.forwards = 1
    channel = heap.add_record_channel(AROUND, 8)
    with channel.producer(PATIENCE) as producer, channel.consumer(PATIENCE) as consumer:
        while consumer.pending:  # of one that was killed
            consumer.recv_record(timeout=0).free()
        while not ends(worker):
            session = Session(worker, part, WHOLE, ear=ear)
            for _ in range(dice.randrange(1, 500)):
                if ends(worker):
                    break
                session.receive()
                while session.held and dice.random() < 0.7:
                    if dice.random() < 0.3:
                        session.release()
                        continue
                    around = (producer, consumer) if dice.random() < 0.5 else None
                    _hand_on(session, poster, around)
            session.close()
    return worker.stopping


def _hand_on(
    session: Session,
    poster: Poster,
    around: tuple[ipcheap.Producer, ipcheap.Consumer] | None,
) -> None:
    message, name = session.settle(0)
    record: ipcheap.Record = message
    try:
        if around:
            around[0].send_record(message, timeout=0)
            record = around[1].recv_record(timeout=0)
            check(record, name, "on a channel")
            record.keep()
        poster.begin()
        before, timeout = poster.notes.returned[LIMITED], poster.worker.patience()
        position = poster.timed(timeout, lambda: poster.bus.post_record(record, timeout))
        poster.posted([name], position, before)
    except (TimeoutError, ipcheap.HeapFull):
        check(record, name, "although it could not be handed on")
        record.free()


# Removal ------------------------------------------------------------------------------------

REMOVED = (ipcheap.ChannelNotFound, ipcheap.ChannelClosed)


def remove(worker: Worker, part: int) -> bool:
    """Use a bus that is removed all the time, and remove it."""
    user = User(worker, part)
    while not ends(worker):
        act: Callable[[User], Any] = worker.dice.choice((post_there, listen_there, remove_it))
        with contextlib.suppress(ipcheap.HeapFull, TimeoutError, *REMOVED):
            act(user)
        worker.nap()
    return worker.stopping


def post_there(user: User) -> None:
    bus = LINES[PASSING].add(user.heap)

    def post(call: Callable[[bytes, float], object]) -> None:
        user.life.begun += 1
        data = message_of(name_of(user.number, user.life.begun, broadcast=False))
        timeout = user.worker.patience()
        user.timed(timeout, lambda: call(data, timeout))

    for _ in range(user.dice.randrange(1, 30)):
        post(bus.broadcast if user.dice.random() < 0.2 else bus.post)


def listen_there(user: User) -> None:
    dice, part = user.dice, user.number % WORKS
    session = Session(user.worker, part, PASSING, history=dice.randrange(LINES[PASSING].history))
    try:
        for _ in range(dice.randrange(1, 30)):
            session.receive()
            while len(session.held) > 3:
                session.release()
    finally:
        session.close()


def remove_it(user: User) -> None:
    if user.dice.random() < 0.3:
        with contextlib.suppress(ipcheap.ChannelBusy):
            user.heap.remove_channel(LINES[PASSING].id, force=user.dice.random() < 0.7)
