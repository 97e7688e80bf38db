"""The options of a kernel, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ipcheap import Record

from . import kernels as forms
from .errors import GraphError
from .names import NAME

if TYPE_CHECKING:
    from .plan import Kernel, Ref


def check_counts(what: str, **counts: object) -> None:
    """Raise GraphError unless all are numbers from 1 on."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise GraphError(f"{what}: {name} must be at least 1, not {count!r}")


def check_switches(what: str, **switches: object) -> None:
    """Raise GraphError unless all are True or False."""
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise GraphError(f"{what}: {name} is True or False, not {switch!r}")


def check_places(what: str, on: Any, resources: Any) -> None:
    """Raise GraphError unless these can be hosts and what they must have."""
    hosts = [on] if isinstance(on, str) else on
    if hosts is not None and not (
        isinstance(hosts, Sequence)
        and all(isinstance(host, str) and host for host in cast("Sequence[object]", hosts))
    ):
        raise GraphError(f"{what}: on is a host or a list of hosts, not {on!r}")
    if resources is not None and not (
        isinstance(resources, Mapping)
        and all(
            isinstance(number, int | float)
            for number in cast("Mapping[object, object]", resources).values()
        )
    ):
        raise GraphError(
            f'{what}: resources is numbers by name, as {{"GPU": 1}}, not {resources!r}'
        )


def slots_of(what: str, slots: int | None, batch: Any, checkpoint: Any) -> tuple[int, int]:
    """Return the slots of a channel and the inputs between snapshots, 0 for none."""
    for name, count in ("batch", batch), ("checkpoint", checkpoint or 0):
        if not isinstance(count, int) or count < 0:
            raise GraphError(f"{what}: {name} must be a number of items, not {count!r}")
    given = 16 if slots is None else slots
    check_counts(what, slots=given)
    given = 1 << (given - 1).bit_length()
    most = max(batch, checkpoint or 0)
    if slots is None:
        while most > given // 2:
            given *= 2
    elif most > max(given // 2, 1):
        raise GraphError(
            f"{what}: batch and checkpoint are at most half of slots, {max(given // 2, 1)}, not "
            f"{most}: leave out slots, or give {2 * most}"
        )
    if checkpoint is None:
        checkpoint = max(min(given // 2, 64), 1)
    return given, checkpoint


def cpus_of(what: str, cpus: Any) -> tuple[frozenset[int], ...]:
    """Return the sets of CPUs that are dealt to the processes."""
    if cpus is None:
        return ()
    if isinstance(cpus, set | frozenset):
        sets: list[Any] = [cpus]
    else:
        sets = list(cpus) if hasattr(cpus, "__iter__") else [cpus]
    for one in sets:
        if not isinstance(one, set | frozenset) or not one:
            raise GraphError(f"{what}: cpus is a set of numbers or a list of sets, not {cpus!r}")
    return tuple(frozenset(one) for one in sets)


def outputs_of(what: str, outputs: Sequence[Any] | None) -> tuple[str, ...]:
    """Return the names of the outputs."""
    if outputs is None:
        return ()
    names = tuple(outputs)
    if isinstance(outputs, str) or not names or len(set(names)) < len(names):
        raise GraphError(f"{what}: outputs is a list of different names, not {outputs!r}")
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise GraphError(
                f"{what}: {name!r} is no name of an output: that has 1 to 18 of A-Z a-z 0-9 _ - "
                "and does not begin with a digit or '-'"
            )
    return names


def check_windows(
    what: str, refs: tuple[tuple[Ref, ...], ...], window: int | None, hop: int | None, full: str
) -> None:
    """Raise GraphError for options of edges of other kinds that exclude each other."""
    if hop is not None and window is None:
        raise GraphError(f"{what}: hop is the distance of windows: say window, too")
    if window is None and full != "latest":
        return
    if len(refs) != 1 or len(refs[0]) != 1:
        raise GraphError(f"{what}: window and full='latest' are for kernels with one input")
    if window is not None:
        if full == "latest":
            raise GraphError(f"{what}: window does not go with full='latest'")
        if full == "drop":
            raise GraphError(f"{what}: window does not go with full='drop': a stream loses nothing")
        check_counts(what, window=window, hop=window if hop is None else hop)
        if hop is not None and hop > window:
            raise GraphError(f"{what}: hop is at most window, which is {window}, not {hop}")


def check_edge(kernel: Kernel, source: Kernel) -> None:
    """Raise GraphError for a kernel whose only input cannot be an edge of another kind."""
    what = f"kernel {kernel.name!r}"
    option = "window" if kernel.window else "full='latest'"
    if kernel.batch:
        raise GraphError(f"{what}: batch does not go with {option}: collect items in the kernel")
    if kernel.key is not None:
        raise GraphError(f"{what}: key does not go with {option}: every worker gets all there is")
    if forms.wanted(forms.input_hints(kernel.call, 1)[0]) is Record:
        raise GraphError(
            f"{what} is annotated to get a Record, which {option} has none of: annotate the array "
            "or memoryview instead"
        )
    if kernel.window:
        if kernel.workers > 1:
            raise GraphError(
                f"{what}: window is for a kernel with one worker, because a stream has one reader, "
                f"not {kernel.workers}. Let it return its windows, and spread the work behind it"
            )
        if source.workers > 1:
            raise GraphError(
                f"{what}: a stream has one writer, and kernel {source.name!r} has "
                f"{source.workers} workers: put a kernel with one worker in between, which returns "
                "what it is given"
            )
        return
    if kernel.inplace:
        raise GraphError(
            f"{what}: inplace does not go with full='latest', because others see the same item: "
            "change a copy"
        )
    if "slots" in kernel.options:
        raise GraphError(f"{what}: full='latest' keeps one item: leave out slots")
    if kernel.checkpoint > 1:
        raise GraphError(
            f"{what}: checkpoint is 1 with full='latest', because an item that was replaced "
            "since the last snapshot is not redelivered"
        )
