"""Explores every interleaving of a few small processes over shared words.

A process is a generator of steps (steps.py), each of them one transition. With `tso`, stores go
through a first-in-first-out buffer of their process, as on x86. A process sees its own stores
immediately; others see them when they are flushed, at any later time. Fences and
read-modify-writes wait for their process's own buffer; membarrier flushes the buffers of others.
With `kills`, mortal processes may die before any step.

A generator's future follows from its position and its local variables. So each process is turned
into a table, (local state, result) -> local state, filled on demand, and the exploration itself is
a look-up. This requires two things of a process: its locals are hashable, and the position of a
`for` loop follows from its locals.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .steps import Index, Step, View, Violation, stuck

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from .steps import Memory, Name, Steps


# Processes ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A program, and whether it may be killed."""

    name: str
    body: Callable[[], Steps]
    mortal: bool = False


def hashable(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else value


def standing(generator: Any) -> Hashable:
    """Return everything that a suspended generator's future depends on."""
    frames = []
    while generator is not None and getattr(generator, "gi_frame", None) is not None:
        frame = generator.gi_frame
        names = tuple((k, hashable(v)) for k, v in frame.f_locals.items())
        frames.append((generator.__name__, frame.f_lasti, names))
        generator = generator.gi_yieldfrom
    return tuple(frames)


class Table:
    """A process as a table: number of a local state and a result -> number of the next."""

    DONE, DEAD = -1, -2

    def __init__(self, process: Process, nothing: frozenset[str], private: frozenset[str]) -> None:
        self.process = process
        self.private = private  # words that concern no other process
        self.nothing = nothing  # kinds of steps that do nothing
        self.steps: list[Step] = []
        self.alone: list[bool] = []  # whether each of them concerns nobody else
        self.reached: list[tuple[int, Any]] = []  # from which state, with which result
        self.numbers: dict[Hashable, int] = {}
        self.next: dict[tuple[int, Any], int | str] = {}
        self.start = self.enter(-1, None)

    def replay(self, number: int) -> tuple[Steps, Step]:
        """Return a fresh generator that is in a local state."""
        results: list[Any] = []
        while number >= 0:
            number, result = self.reached[number]
            results.append(result)
        results.pop()
        generator = self.process.body()
        step = self.skip(generator, next(generator))
        for result in reversed(results):
            step = self.skip(generator, generator.send(result))
        return generator, step

    def skip(self, generator: Steps, step: Step) -> Step:
        while step.kind in self.nothing:
            step = next(generator)
        return step

    def enter(self, before: int, result: Any) -> int:
        """Go one step further than `before`, and return the number of the next state."""
        try:
            if before < 0:
                generator = self.process.body()
                step = self.skip(generator, next(generator))
            else:
                generator, _ = self.replay(before)
                step = self.skip(generator, generator.send(result))
        except StopIteration:
            return self.DONE
        key = standing(generator)
        if key not in self.numbers:
            self.numbers[key] = len(self.steps)
            self.steps.append(step)
            self.alone.append(self.concerns_nobody(step))
            self.reached.append((before, result))
        return self.numbers[key]

    def concerns_nobody(self, step: Step) -> bool:
        if step.kind in ("choose", "now"):
            return True
        return step.kind in ("load", "store") and self.is_private(step.name)

    def is_private(self, name: Name) -> bool:
        return (name[0] if isinstance(name, tuple) else name) in self.private

    def after(self, number: int, result: Any) -> int:
        """Return the state that a result leads to; Violation if the process reports one."""
        found = self.next.get((number, result))
        if found is None:
            try:
                found = self.enter(number, result)
            except Violation as violation:
                found = str(violation)
            self.next[number, result] = found
        if isinstance(found, str):
            raise Violation(found)
        return found


def slept_on(step: Step) -> tuple[tuple[Name, Any], ...]:
    """Return the words that a step sleeps on, with the values that it expects."""
    return step.value if step.kind == "sleep any" else ((step.name, step.value),)


# Exploration ----------------------------------------------------------------------------------


def nothing_wrong(_: View) -> str | None:
    """Accept every state."""
    return None


@dataclass(frozen=True)
class Model:
    """Processes, the words they share, and what must hold."""

    name: str
    processes: tuple[Process, ...]
    memory: dict[Name, Any]
    always: Callable[[View], str | None] = nothing_wrong
    # What is done, and must hold, when no process can go on.
    last: Callable[[], Steps] | None = None
    finally_: Callable[[View], str | None] = nothing_wrong
    kills: int = 0
    tso: bool = False
    # Words that only one living process looks at. Its steps on them, like its choices, need not be
    # interleaved with the steps of others: whatever the others do, they can do before. Nor are its
    # stores to them buffered.
    private: frozenset[str] = frozenset()
    # Those of them of which it does not matter whether a death comes before a store or after it.
    inert: frozenset[str] = frozenset()


@dataclass
class Report:
    """The result of an exploration."""

    model: str
    states: int = 0
    transitions: int = 0
    ends: int = 0
    violation: str | None = None
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.violation or 'holds'}"]
        return "\n".join(lines + [f"  {line}" for line in self.trace])


class State(NamedTuple):
    """Memory, buffers and processes at one moment."""

    memory: Memory
    buffers: tuple[tuple[tuple[int, Any], ...], ...]
    at: tuple[int, ...]
    asleep: tuple[bool, ...]


def swap(row: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*row[:index], value, *row[index + 1 :])


class Explorer:
    """Explore breadth first, so that a violation is reported with a shortest trace."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.names = list(model.memory)
        self.index = Index(self.names)
        nothing = frozenset({"nothing"} if model.tso else {"nothing", "fence"})
        self.tables = [Table(process, nothing, model.private) for process in model.processes]
        self.number = {p.name: i for i, p in enumerate(model.processes)}
        self.lonely: Explorer | None = None

    def run(self, limit: int = 1_000_000) -> Report:
        report = Report(self.model.name)
        count = len(self.tables)
        start = self.settled(
            State(
                tuple(self.model.memory.values()),
                ((),) * count,
                tuple(table.start for table in self.tables),
                (False,) * count,
            )
        )
        # States have numbers, because looking one up takes the hash of all words. `came` is the
        # state that each was reached from, and how: written out only if there is a violation.
        numbers, states = {start: 0}, [start]
        came: list[tuple[int, tuple[object, ...]]] = [(-1, ())]
        # Backwards, without kills: the states before each state, and those in which all is over.
        before: list[list[int]] = [[]]
        over: list[int] = []
        line: tuple[object, ...] = ()
        at = 0
        try:
            while at < len(states):
                if len(states) > limit:
                    raise Violation(f"more than {limit} states")
                quiet = True
                for actor, label, kind, move in self.moves(states[at]):
                    line = (actor, label)
                    report.transitions += 1
                    following = self.settled(move())
                    number = numbers.setdefault(following, len(states))
                    known = number < len(states)
                    if not known:
                        states.append(following)
                        came.append((at, line))
                        before.append([])
                    if kind != "kill":
                        quiet = False
                        before[number].append(at)
                    broken = None if known else self.model.always(self.view(following.memory))
                    if broken:
                        at, line = number, ()
                        raise Violation(broken)
                if quiet:
                    report.ends += 1
                    line = ("in the end",)
                    self.end(states[at])
                    over.append(at)
                at, line = at + 1, ()
            lost = self.first_without_end(before, over)
            if lost is not None:
                at = lost
                raise Violation(
                    stuck("from here on no end is reached", self.view(states[at].memory))
                )
        except Violation as violation:
            report.violation = str(violation)
            lines = [line]
            while at > 0:
                at, line = came[at]
                lines.append(line)
            report.trace = [": ".join(map(str, line)) for line in reversed(lines) if line]
        report.states = len(states)
        return report

    def view(self, memory: Memory) -> View:
        return View(self.index, memory)

    @staticmethod
    def first_without_end(before: list[list[int]], over: list[int]) -> int | None:
        """Return a state from which processes can go on indefinitely but never reach an end."""
        good, todo = set(over), list(over)
        while todo:
            for state in before[todo.pop()]:
                if state not in good:
                    good.add(state)
                    todo.append(state)
        return next((state for state in range(len(before)) if state not in good), None)

    # Moves -----------------------------------------------------------------------------------

    def moves(self, state: State) -> list[tuple[str, object, str, Callable[[], State]]]:
        """Return all moves to try next: process, step, kind, and what makes the state after it."""
        for i, table in enumerate(self.tables):
            if state.at[i] >= 0 and table.alone[state.at[i]]:
                return self.moves_of(state, (i,))
        return self.moves_of(state, range(len(self.tables)))

    def settled(self, state: State) -> State:
        """Let processes execute what concerns nobody else and can come out in one way only."""
        i = 0
        while i < len(self.tables):
            table, at = self.tables[i], state.at[i]
            if at < 0 or not table.alone[at]:
                i += 1
                continue
            step = table.steps[at]
            mortal = table.process.mortal and step.kind == "store" and self.model.kills
            inert = step.kind == "store" and step.name[0] in self.model.inert
            outcomes = [] if mortal and not inert else self.outcomes(state, i, step)
            if len(outcomes) != 1:
                i += 1
                continue
            state = outcomes[0]()
        return state

    def moves_of(
        self, state: State, which: Iterable[int]
    ) -> list[tuple[str, object, str, Callable[[], State]]]:
        found: list[tuple[str, object, str, Callable[[], State]]] = []
        dead = state.at.count(Table.DEAD)
        for i in which:
            table = self.tables[i]
            name, at = table.process.name, state.at[i]
            if state.buffers[i]:
                where, value = state.buffers[i][0]
                flushed = Step("flush", self.names[where], value)
                found.append((name, flushed, "flush", partial(self.flush, state, i, 1)))
            if at < 0:
                continue
            step = table.steps[at]
            # Death before a load is equivalent to death after it.
            may_die = table.process.mortal and at != table.start and step.kind != "load"
            if may_die and dead < self.model.kills:
                found.append((name, "KILLED", "kill", partial(self.kill, state, i)))
            for move in self.outcomes(state, i, step):
                found.append((name, step, "step", move))
        return found

    def flush(self, state: State, i: int, count: int) -> State:
        memory = list(state.memory)
        for where, value in state.buffers[i][:count]:
            memory[where] = value
        buffers = swap(state.buffers, i, state.buffers[i][count:])
        return State(tuple(memory), buffers, state.at, state.asleep)

    def kill(self, state: State, i: int) -> State:
        # No process sees a death before the kernel has finished with it: buffers are empty then.
        state = self.flush(state, i, len(state.buffers[i]))
        memory = state.memory
        alive = self.index.get(("alive", self.tables[i].process.name))
        if alive is not None:
            memory = swap(memory, alive, False)
        at, asleep = swap(state.at, i, Table.DEAD), swap(state.asleep, i, False)
        return State(memory, state.buffers, at, asleep)

    def advance(self, state: State, i: int, result: Any) -> State:
        at = swap(state.at, i, self.tables[i].after(state.at[i], result))
        return State(state.memory, state.buffers, at, state.asleep)

    def outcomes(self, state: State, i: int, step: Step) -> list[Callable[[], State]]:
        """Return the ways in which a step can go on now; none if it has to wait."""
        match step.kind:
            case "load":
                return [lambda: self.advance(state, i, self.load(state, i, step.name))]
            case "store":
                return [lambda: self.advance(self.store(state, i, step), i, None)]
            case "choose":
                return [partial(self.advance, state, i, o) for o in step.value]
            case "when" | "now":
                return self.when(state, i, step)
        if state.asleep[i]:
            timed = step.also and step.also(self.view(state.memory))
            return [lambda: self.wake(state, i, "timed out")] if timed else []
        if state.buffers[i]:
            return []  # every other step waits for the process's own stores
        match step.kind:
            case "fence":
                return [lambda: self.advance(state, i, None)]
            case "interrupt":
                other = self.number[step.name]
                whole = len(state.buffers[other])
                return [lambda: self.advance(self.flush(state, other, whole), i, None)]
            case "sleep" | "sleep any":
                return [lambda: self.fall_asleep(state, i, step)]
            case "wake":
                return self.wakes(state, i, step)
            case _:
                return [lambda: self.change(state, i, step)]

    def load(self, state: State, i: int, name: Name) -> Any:
        where = self.index[name]
        for written, value in reversed(state.buffers[i]):
            if written == where:
                return value
        return state.memory[where]

    def store(self, state: State, i: int, step: Step) -> State:
        if self.model.tso and not self.tables[i].is_private(step.name):
            longer = (*state.buffers[i], (self.index[step.name], step.value))
            buffers = swap(state.buffers, i, longer)
            state = State(state.memory, buffers, state.at, state.asleep)
        else:
            memory = swap(state.memory, self.index[step.name], step.value)
            state = state._replace(memory=memory)
        for ghost, value in step.also:
            state = state._replace(memory=swap(state.memory, self.index[ghost], value))
        return state

    def change(self, state: State, i: int, step: Step) -> State:
        where = self.index[step.name]
        old = new = state.memory[where]
        match step.kind:
            case "exchange":
                new = step.value
            case "add":
                new = old + step.value
            case "or":
                new = old | step.value
            case "and":
                new = old & step.value
            case "if":
                new = step.value if old == step.also else old
            case _:
                raise ValueError(step.kind)
        return self.advance(state._replace(memory=swap(state.memory, where, new)), i, old)

    def when(self, state: State, i: int, step: Step) -> list[Callable[[], State]]:
        do, arguments = step.value
        found = do(self.view(state.memory), *arguments)
        if found is None:
            return []
        stores, result = found
        memory = state.memory
        for name, value in stores.items():
            memory = swap(memory, self.index[name], value)
        return [lambda: self.advance(state._replace(memory=memory), i, result)]

    def fall_asleep(self, state: State, i: int, step: Step) -> State:
        if any(state.memory[self.index[name]] != value for name, value in slept_on(step)):
            return self.advance(state, i, "changed")
        return state._replace(asleep=swap(state.asleep, i, True))

    def wake(self, state: State, i: int, result: str) -> State:
        return self.advance(state._replace(asleep=swap(state.asleep, i, False)), i, result)

    def rouse(self, state: State, i: int, j: int) -> State:
        return self.advance(self.wake(state, j, "woken"), i, 1)

    def wakes(self, state: State, i: int, step: Step) -> list[Callable[[], State]]:
        sleepers = [
            j
            for j, table in enumerate(self.tables)
            if state.asleep[j]
            and any(name == step.name for name, _ in slept_on(table.steps[state.at[j]]))
        ]
        if not sleepers:
            return [lambda: self.advance(state, i, 0)]
        return [partial(self.rouse, state, i, j) for j in sleepers]

    # The end ---------------------------------------------------------------------------------

    def end(self, state: State) -> None:
        """Check a state in which no process can go on."""
        view = self.view(state.memory)
        for i, table in enumerate(self.tables):
            if state.at[i] < 0:
                continue
            step = table.steps[state.at[i]]
            if not (step.kind == "when" and step.also):
                verb = "sleeps indefinitely" if state.asleep[i] else "is stuck"
                raise Violation(stuck(f"{table.process.name} {verb}: {step}", view))
        if self.model.last is not None:
            view = self.alone(self.model.last, state.memory)
        broken = self.model.finally_(view)
        if broken:
            raise Violation(stuck(broken, view))

    def alone(self, body: Callable[[], Steps], memory: Memory) -> View:
        """Run one more process alone."""
        if self.lonely is None:
            words = dict.fromkeys(self.index)
            self.lonely = Explorer(Model("the last", (Process("the last", body),), words))
        table = self.lonely.tables[0]
        state = State(memory, ((),), (table.start,), (False,))
        while state.at[0] >= 0:
            step = table.steps[state.at[0]]
            outcomes = self.lonely.outcomes(state, 0, step)
            if not outcomes:
                raise Violation(stuck(f"the last is stuck: {step}", self.view(state.memory)))
            state = outcomes[0]()
        return self.view(state.memory)


def explore(model: Model) -> Report:
    """Visit every state of a model and report the first violation."""
    # A million tuples stay alive: the garbage collector would scan them repeatedly for nothing.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return Explorer(model).run()
    finally:
        if collecting:
            gc.enable()
