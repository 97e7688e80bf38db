"""Bell words, as those that change a store ring them: bells.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.park import unpark
from ..steps import (
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_futex_wake,
    put_if,
    put_or,
)
from .words import COUNT, POLLING, SLEEPING, Store, X, replaceable, table_of

if TYPE_CHECKING:
    from ..steps import Steps


@replaceable
def wake_seats(s: Store) -> Steps:
    for r in s.readers:
        yield from unpark(X, r)


@replaceable
def bell_wake(s: Store, bell: Any) -> Steps:
    while True:
        seen = yield get_acquire(("bell", *bell))
        if not seen & (SLEEPING | POLLING):
            return
        if seen & POLLING:
            yield from wake_seats(s)
        following = (seen + COUNT) & ~(SLEEPING | POLLING)
        if (yield put_if(("bell", *bell), seen, following)) != seen:
            continue
        if seen & SLEEPING:
            while (yield os_futex_wake(("bell", *bell))):
                pass
        return


def bell_tell(s: Store, bell: Any) -> Steps:
    if (yield get(("bell", *bell))) & (SLEEPING | POLLING):
        yield from bell_wake(s, bell)


@replaceable
def bell_fence(s: Store) -> Steps:
    if (yield get(("fences",))):
        yield full_fence()
    yield compiler_fence()


def bell_arm(bell: Any) -> Steps:
    return (yield put_or(("bell", *bell), SLEEPING)) | SLEEPING


def bell_poll(bell: Any) -> Steps:
    seen = yield get(("bell", *bell))
    while (found := (yield put_if(("bell", *bell), seen, (seen + COUNT) | POLLING))) != seen:
        seen = found


@replaceable
def bells_of_cells(s: Store, pieces: int) -> Steps:
    if not (yield get(("keyed",))):
        return
    for i in table_of(s, pieces):
        yield from bell_tell(s, (i,))


@replaceable
def bells_tell_all(s: Store, pieces: int = 1) -> Steps:
    yield from bell_tell(s, ())
    yield from bells_of_cells(s, pieces)
    yield from wake_seats(s)


BELLS = "store/bells.c"
MIRRORS = (
    Mirror(BELLS, wake_seats, calls=frozenset({"unpark"})),
    Mirror(BELLS, bell_wake),
    Mirror("store/bells.h", bell_tell),
    Mirror("store/bells.h", bell_fence),
    Mirror(BELLS, bell_arm),
    Mirror(BELLS, bell_poll),
    Mirror(BELLS, bells_of_cells),
    Mirror(BELLS, bells_tell_all),
)
