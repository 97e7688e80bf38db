"""Streams of bytes as files, buffered by `io`.

Imported on first use, because importing `io` whole takes its time.
"""

from __future__ import annotations

import io

from .errors import ChannelClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from .stream import StreamEndpoint

_FOREVER = float("inf")


class StreamFile(io.RawIOBase):
    """The raw file of one side of a stream. It follows `io.RawIOBase`: counts may be short."""

    def __init__(self, endpoint: Any, letter: str) -> None:
        self._endpoint = endpoint
        self._letter = letter
        self._owns_endpoint = True

    def readable(self) -> bool:
        """Return whether it is a reader's."""
        return self._letter == "r"

    def writable(self) -> bool:
        """Return whether it is a writer's."""
        return self._letter == "w"

    def fileno(self) -> int:
        """Raise UnsupportedOperation: the endpoint's descriptor is no way to its data."""
        raise io.UnsupportedOperation("the descriptor of a stream is for waiting, not for data")

    def readinto(self, buffer: Any) -> int:
        """Read what is there, at least one byte; 0 at the end of the stream."""
        if not self.readable():
            raise io.UnsupportedOperation("a writer's file is not readable")
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        try:
            return int(self._endpoint.readinto(view, at_least=1))
        except ChannelClosed:
            return 0

    def write(self, data: Any) -> int:
        """Wait for one byte of room, write what fits, return how much that was."""
        if not self.writable():
            raise io.UnsupportedOperation("a reader's file is not writable")
        view = memoryview(data).cast("B")
        while len(view):
            done = int(self._endpoint.try_write(view))
            if done:
                return done
            code = self._endpoint._sleep(1, _FOREVER)
            if code:
                raise self._endpoint._error(code)
        return 0

    def close(self) -> None:
        """Close the endpoint."""
        if not self.closed:
            try:
                super().close()
            finally:
                if self._owns_endpoint:
                    self._endpoint.close()

    def abandon(self) -> None:
        """Leave the endpoint open: no file could be made of this one."""
        self._owns_endpoint = False


def make(
    endpoint: StreamEndpoint,
    mode: str,
    letter: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """Return a file of a stream's side, as `open` would."""
    if endpoint.itemsize != 1:
        raise TypeError(
            f"{endpoint!r} has items of {endpoint.itemsize} bytes; files are for items of one"
        )
    if mode not in (letter, f"{letter}b"):
        raise ValueError(f"mode must be {letter + 'b'!r} or {letter!r}, not {mode!r}")
    text = "b" not in mode
    if not text and (encoding is not None or errors is not None or newline is not None):
        raise ValueError("encoding, errors and newline are for files of text")
    if text and buffering == 0:
        raise ValueError("a file of text cannot be unbuffered")
    raw = StreamFile(endpoint, letter)
    try:
        return _wrapped(raw, letter, text, buffering, encoding, errors, newline)
    except BaseException:
        raw.abandon()
        raise


def _wrapped(
    raw: StreamFile,
    letter: str,
    text: bool,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    if buffering == 0:
        return raw  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
    size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
    buffered: Any = io.BufferedReader(raw, size) if letter == "r" else io.BufferedWriter(raw, size)
    if not text:
        return buffered  # type: ignore[no-any-return]
    return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
