"""Messages: what listeners of a bus receive."""

from __future__ import annotations

from . import record
from ._core import ffi, lib, use_messages
from ._failures import error
from ._participants import participant_of
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .results import Participant


class Message(Record):
    """A record that was posted on a bus: all its listeners share the same bytes.

    It is read-only. `free()` releases it, which is the acknowledgement that a broadcast waits for;
    so does the end of a `with` block, and a step of an iteration. Views that live on keep the
    memory. `keep()` acknowledges it as well, and keeps the bytes until `free()`. The memory goes
    back to the heap when the last listener is done. A message may be sent or posted on: without a
    copy if no other listener needs it, else as one copy; either releases it.
    """

    __slots__ = ()

    @property
    def position(self) -> int:
        """Its position on the bus: they count from 0, without a gap."""
        return int(self._position)

    @property
    def sender(self) -> Participant:
        """The participant that posted it; `state` is its present state."""
        if self._fate in record.ENDED:
            raise self._refusal(lib.PY_ENDED, "used")
        holder = ffi.new("ipcheap_holder *")
        core = ffi.cast("ipcheap_record *", self._address)
        handle = self._source.handle
        code = lib.ipcheap_message_sender(handle.pointer, core, holder)
        if code:
            raise error(code, handle, self._source.channel)
        return participant_of(holder)

    def __repr__(self) -> str:
        of = self._where()
        if self._fate in record.ENDED:
            return f"<Message {self.position} of {of}, {self._fate}>"
        return f"<Message {self.position} of {of}, {self.nbytes} bytes>"


class _DebugMessage(Message):
    """A message that remembers where it was received and reports that it was never freed."""

    __slots__ = ("_made", "_reported")

    _made: str
    _reported: bool

    def __del__(self) -> None:
        record.report(self)


def _debug(on: bool) -> None:
    use_messages(_DebugMessage if on else Message)


record.also_debugged.append(_debug)
_debug(record.debugging())
