"""The directory of a heap: find channels by ID, claim their sides, remove them."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._failures import error, holder_text
from ._handle import close_at_exit
from ._timing import LOOK_AGAIN, deadline_of, in_nanoseconds, time_left
from .errors import ChannelNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .channel import Channel

# The class of each kind of channel, by the core's number. The kind's module enters it.
KINDS: dict[int, type[Channel]] = {}

_MOST_NAMES = 4  # how many users of a segment an error names


def key_of(channel_id: ChannelId) -> CData:
    """Return the core's key for an ID."""
    key = ffi.new("ipcheap_key *")
    if isinstance(channel_id, str):
        text = channel_id.encode()
        lib.ipcheap_key_text(key, text, len(text))
    else:
        lib.ipcheap_key_int(key, channel_id)
    return key


def id_of(key: CData) -> ChannelId:
    """Return the ID that a key of the core stands for."""
    raw = bytes(ffi.buffer(key.bytes, key.length))
    if key.kind == lib.IPCHEAP_KEY_TEXT:
        return raw.decode(errors="replace")
    return int.from_bytes(raw, "little")


def _is_ready(handle: Handle, entry: CData) -> bool:
    """Whether a channel is ready for use. In a damaged heap its kind may be any number."""
    return entry.kind in KINDS and KINDS[entry.kind]._is_ready(handle, entry)


def _sides(entry: CData) -> Mapping[int, str]:
    return KINDS[entry.kind]._sides if entry.kind in KINDS else {}


class Directory:
    """The channels of one heap, looked up through this process's hold on it."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @property
    def handle(self) -> Handle:
        """The hold on the heap; HeapClosed if that has been closed."""
        return self._handle.opened()

    def __iter__(self) -> Iterator[ChannelId]:
        handle = self.handle
        cursor, key = ffi.new("uint32_t *"), ffi.new("ipcheap_key *")
        entry = ffi.new("ipcheap_channel *")
        while handle.check(lib.ipcheap_next_channel(handle.pointer, cursor, key, entry)) == 1:
            if _is_ready(handle, entry):
                yield id_of(key)

    def find(self, channel_id: ChannelId, deadline: float) -> CData:
        """Return the core's entry of a channel that is ready; ChannelNotFound at the deadline."""
        entry, key = ffi.new("ipcheap_channel *"), key_of(channel_id)
        handle = self.handle
        pointer = handle.pointer
        if lib.ipcheap_find_channel(pointer, key, entry) == 0 and _is_ready(handle, entry):
            return entry

        def attempt() -> int:
            code = int(lib.ipcheap_find_channel(pointer, key, entry))
            if code == 0 and not _is_ready(handle, entry):
                return lib.IPCHEAP_CHANNEL_NOT_FOUND
            return code

        self.check(self.repeat(attempt, (lib.IPCHEAP_CHANNEL_NOT_FOUND,), deadline), channel_id)
        return entry

    def claim(
        self,
        id: ChannelId,
        kind: int,
        side: int,
        timeout: float | None,
        accept: Callable[[CData], None] | None = None,
        only: CData | None = None,
    ) -> tuple[Handle, ChannelId, CData]:
        """Claim a side of a channel of that kind for this thread; return its endpoint's arguments.

        Waits `timeout` seconds for the channel and the side, then raises ChannelNotFound, or
        ChannelBusy with the holder's name. ChannelTypeError for a channel of another kind. `accept`
        may raise instead of having a side of that entry claimed. `only` is the entry of the one
        channel that will do: ChannelNotFound as soon as that has been removed.
        """
        channel_id = _arguments.channel_id(id)
        handle, key = self.handle, key_of(channel_id)
        entry, place = ffi.new("ipcheap_channel *"), ffi.new("ipcheap_endpoint **")
        close_at_exit()

        def attempt() -> int:
            if only is not None:
                entry[0] = only[0]
            elif code := int(lib.ipcheap_find_channel(handle.pointer, key, entry)):
                return code
            if entry.kind != kind:
                return lib.IPCHEAP_CHANNEL_TYPE
            try:
                if accept is not None:
                    accept(entry)
            except ChannelNotFound:  # removed since it was found
                return lib.IPCHEAP_CHANNEL_NOT_FOUND
            return int(lib.py_claim(handle.pointer, entry, side, place))

        patient = [lib.IPCHEAP_CHANNEL_BUSY]
        if only is None:
            patient.append(lib.IPCHEAP_CHANNEL_NOT_FOUND)
        code = self.repeat(attempt, patient, deadline_of(timeout))
        if code == lib.IPCHEAP_CHANNEL_NOT_FOUND and only is not None:
            raise ChannelNotFound(
                f"channel {channel_id!r} of {handle} has been removed; if there is another of that "
                "ID, heap.channel() returns it"
            )
        if code == lib.IPCHEAP_CHANNEL_BUSY:
            raise self._busy(channel_id, entry, (side,))
        self.check(code, channel_id, wanted=f"not {KINDS[kind]._noun}")
        return handle, channel_id, place[0]

    def remove(self, id: ChannelId, force: bool) -> None:
        """Remove a channel; ChannelBusy if others use it and `force` is false."""
        channel_id = _arguments.channel_id(id)
        handle, key = self.handle, key_of(channel_id)
        code = lib.py_remove_channel(handle.pointer, key, force)
        if code == lib.IPCHEAP_CHANNEL_BUSY:
            entry = ffi.new("ipcheap_channel *")
            if lib.ipcheap_find_channel(handle.pointer, key, entry) == 0:
                others = KINDS[entry.kind]._others(handle, entry) if entry.kind in KINDS else []
                way = "; force=True closes them"
                raise self._busy(channel_id, entry, tuple(_sides(entry)), others, way)
        self.check(code, channel_id)

    def repeat(self, attempt: Callable[[], int], patient: Collection[int], deadline: float) -> int:
        """Try until the result is none of `patient`, or the deadline passes; return the result.

        It tries again whenever the directory has changed, and every LOOK_AGAIN seconds.
        """
        pointer = self.handle.pointer
        while True:
            seen = lib.ipcheap_directory_version(pointer)
            code = attempt()
            left = time_left(deadline)
            if code not in patient or left <= 0:
                return code
            nanoseconds = in_nanoseconds(min(left, LOOK_AGAIN))
            waited = lib.py_wait_directory(pointer, seen, nanoseconds)
            if waited not in (0, lib.IPCHEAP_TIMED_OUT, lib.IPCHEAP_INTERRUPTED):
                return int(waited)

    def check(
        self, code: int, channel_id: ChannelId, asked: int | None = None, wanted: str = "not that"
    ) -> int:
        """Return `code` if it is not an error; otherwise raise its exception.

        `asked` is the number of bytes that the call needed, `wanted` what the channel had to be.
        """
        if code >= 0:
            return int(code)
        is_there = ""
        if code == lib.IPCHEAP_CHANNEL_TYPE:
            is_there = f"{self._describe(channel_id)}, {wanted}"
        raise error(code, self._handle, channel_id, asked=asked, holder=is_there)

    def _describe(self, channel_id: ChannelId) -> str:
        entry = ffi.new("ipcheap_channel *")
        if lib.ipcheap_find_channel(self.handle.pointer, key_of(channel_id), entry):
            return "of another kind"
        return KINDS[entry.kind]._describe(entry) if entry.kind in KINDS else "of another kind"

    def _busy(
        self,
        channel_id: ChannelId,
        entry: CData,
        sides: tuple[int, ...],
        others: Iterable[str] = (),
        way_out: str = "",
    ) -> Exception:
        holder = ffi.new("ipcheap_holder *")
        names = _sides(entry)
        held: list[str] = []
        for side in sides:
            code = lib.ipcheap_side_holder(self.handle.pointer, entry, side, holder)
            if code >= 0 and holder.pid:
                held.append(f"the {names[side]} side is held by {holder_text(holder)}")
        held += others
        way_out = way_out if held else ""
        held += self._users(entry)
        text = (" and ".join(held) or "a side is held by a living participant") + way_out
        return error(lib.IPCHEAP_CHANNEL_BUSY, self._handle, channel_id, holder=text)

    def _users(self, entry: CData) -> list[str]:
        """Return who uses a static segment, as a part of a sentence; nothing if nobody does."""
        cursor, holder = ffi.new("uint32_t *"), ffi.new("ipcheap_holder *")
        names: list[str] = []
        while lib.ipcheap_next_user(self.handle.pointer, entry, cursor, holder) == 1:
            names.append(holder_text(holder))
        if not names:
            return []
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        text = (
            f"it is used by {', '.join(names[:_MOST_NAMES])}{more}; force=True removes it now, "
            "and its memory stays until they are done"
        )
        return [text]
