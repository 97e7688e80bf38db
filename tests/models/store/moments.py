"""What calls return, compared with what the store was at some moment while they ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import now
from .words import DEAD, FREE, LEAVING, LIVE, NONE, STORED, Store, check

if TYPE_CHECKING:
    from ..steps import Steps, View


def asks(view: View) -> Any:
    """Return the head that calls which have returned have left."""
    return {}, view["done",]


def newest(chain: tuple[int, ...]) -> Any:
    return chain[-1] if chain else NONE


def was_so(view: View, s: Store, keys: str, found: tuple[Any, ...], since: int) -> Any:
    """Return whether at one moment since then all keys had those versions as their newest."""
    for head in range(since, view["head",] + 1):
        moment = view["moment", head]
        if moment is NONE:
            continue
        if all(newest(moment[s.keys.index(k)]) == v for k, v in zip(keys, found, strict=True)):
            return {}, True
    return {}, False


def as_of_one(s: Store, keys: str, found: tuple[Any, ...], since: int) -> Steps:
    """Check that a call which began after that head returns the newest of one moment."""
    if not (yield now("compares", was_so, s, keys, found, since)):
        check(f"{s.me} finds {found} of {keys}, and head {since} was before")


def was_history(view: View, s: Store, key: str, found: tuple[int, ...], since: int) -> Any:
    """Return whether a key had these versions, perhaps without those that have expired."""
    for head in range(since, view["head",] + 1):
        chain = view["moment", head] and view["moment", head][s.keys.index(key)]
        if chain is NONE or not set(found) <= set(chain):
            continue
        if set(chain) - set(found) <= set(view["gone",]) and found == tuple(sorted(found)):
            return {}, True
    return {}, False


# In every state -----------------------------------------------------------------------------------


def held_is_stored(view: View) -> str | None:
    """Check that the bytes of a held chunk are the store's, and no other's."""
    for name in view.names("has"):
        if view[name] is not NONE and view["alive", name[1]]:
            slot, block, version = view[name]
            if view["tag", block] != (STORED, slot):
                return f"block {block}, held by {name[1]}, is {view['tag', block]}"
            if view["word", slot][1] != version:
                return f"slot {slot}, held by {name[1]}, has version {view['word', slot][1]}"
    return None


def cells_lead_on(view: View) -> str | None:
    """Check that a cell leads to a live slot, and a pending one to what is committed."""
    for name in view.names("cell"):
        if name[1] // 10 != view["pieces",] or view[name] is NONE or view[name][1] is NONE:
            continue
        key, slot = view[name]
        state, version = view["word", slot]
        if state == LIVE and version > view["head",]:
            slot = view["older", slot]
            if slot is NONE:
                continue
            state, version = view["word", slot]
        if state != LIVE or view["hash", slot] != key:
            return f"the cell of {key} leads to slot {slot}, which is {state}"
    return None


def always_so(view: View) -> str | None:
    return held_is_stored(view) or cells_lead_on(view)


# In the end ---------------------------------------------------------------------------------------


def probe(view: View, key: str) -> Any:
    """Return the slot of a key as find_cell() does."""
    for name in view.names("cell"):
        if name[1] // 10 != view["pieces",]:
            continue
        if view[name] is NONE:
            return NONE
        if view[name][0] == key and view[name][1] is not NONE:
            return view[name][1]
    return NONE


def accounted(view: View) -> str | None:
    """Check that every slot is free or has what a cell leads to, and every block has one owner."""
    moment = view["moment", view["head",]]
    versions = {version for chain in moment for version in chain} - set(view["gone",])
    live = {}
    for _, slot in view.names("word"):
        state, version = view["word", slot]
        if state in (DEAD, LEAVING):
            return f"slot {slot} was not collected"
        if state == LIVE and view["offset", slot] is not NONE:
            live[version] = slot
            if view["tag", view["offset", slot]] != (STORED, slot):
                return f"slot {slot} has lost its block"
        elif state not in (FREE, LIVE):
            return f"slot {slot} is {state}"
    if set(live) != versions:
        return f"versions {sorted(live)} are live instead of {sorted(versions)}"
    for slot in live.values():
        found = probe(view, view["hash", slot])
        if found is NONE or view["hash", found] != view["hash", slot]:
            return f"no probe finds {view['hash', slot]}"
    stored = {view["offset", slot] for slot in live.values()}
    for _, block in view.names("tag"):
        if (view["tag", block] != FREE) != (block in stored):
            return f"block {block} leaks: {view['tag', block]}"
    return None
