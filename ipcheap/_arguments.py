"""Checks of arguments: sizes, names, IDs, timeouts, permission bits."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

ChannelId: TypeAlias = int | str
Size: TypeAlias = int | str

_UNITS = {
    "": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)},
    "KB": 1000,
    "kiB": 1024,
}
_UNIT_LETTERS = "".join(_UNITS)
_NAME_MARKS = str.maketrans(dict.fromkeys("._-", "0"))

SMALLEST_CAPACITY = 64 << 10
LARGEST_ID = 2**63 - 1
LONGEST_ID = 48
LONGEST_FILE_NAME = 255 - 17  # bytes; a pipe beside it is NAME~0123456789abcdef
LONGEST_PATH = 4095 - 24  # bytes: native/src/base/pipe.c

_FOREVER = float("inf")


def whole_number(value: object, what: str) -> int:
    """Return an integer; TypeError for anything else, and for a bool."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an integer, not bool")
    import operator  # slow to import, and not needed for an int

    try:
        return operator.index(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}") from None


def count(value: object, what: str, least: int = 0) -> int:
    """Return an integer; ValueError if it is below `least`."""
    number = whole_number(value, what)
    if number < least:
        raise ValueError(f"{what} must be at least {least}, not {number}")
    return number


def size(value: Size, what: str = "size") -> int:
    """Return bytes, given as an integer or as a string such as "64MiB", "1.5GiB" or "10kB"."""
    if not isinstance(value, str):
        return count(value, what)
    text = value.strip()
    number = text.rstrip(_UNIT_LETTERS)
    unit = _UNITS.get(text[len(number) :])
    number = number.rstrip()
    if unit is None or not all(map(_is_digits, number.split(".", 1))):
        raise ValueError(f'{what} must be bytes, or a string like "64MiB" or "10kB", not {value!r}')
    return int(float(number) * unit) if "." in number else int(number) * unit


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def capacity(value: Size) -> int:
    """Return the size of a heap in bytes; ValueError below 64 KiB."""
    number = size(value, "capacity")
    if number < SMALLEST_CAPACITY:
        raise ValueError(f"capacity must be at least 64 KiB, not {number} bytes")
    return number


def show_size(nbytes: int) -> str:
    """Return a number of bytes as text, such as "63.1 MiB"."""
    if nbytes < 1024:
        return f"{nbytes} bytes"
    power = min((nbytes.bit_length() - 1) // 10, 5)
    return f"{nbytes / 1024**power:.1f} {'KMGTP'[power - 1]}iB"


def is_path(name: str) -> bool:
    """Whether a heap's name is a path."""
    return "/" in name


def heap_name(name: object) -> str:
    """Return a heap's name, a plain one or an absolute path.

    ValueError or TypeError if it is neither.
    """
    if not isinstance(name, str):
        raise TypeError(f"a heap's name must be a str, not {type(name).__name__}")
    if is_path(name):
        parts = name.split("/")
        if parts[-1] in ("", ".") or ".." in parts or "\0" in name:
            raise ValueError(f"heap path {name!r} must name a file and must not contain '..'")
        path = name if name[0] == "/" else os.path.abspath(name)
        folder, _, file = os.fsencode(path).rpartition(b"/")
        if len(file) > LONGEST_FILE_NAME or len(folder) + len(file) > LONGEST_PATH:
            raise ValueError(
                f"heap path {path!r} is too long: its file name may have {LONGEST_FILE_NAME} bytes "
                f"and all of it {LONGEST_PATH}, because pipes and a note lie beside the file"
            )
        return path
    if not _is_plain_name(name):
        raise ValueError(
            f"heap name {name!r} must be 1 to 200 characters from A-Z a-z 0-9 . _ - "
            "and must not start with a dot"
        )
    return name


def _is_plain_name(name: str) -> bool:
    rest = name.translate(_NAME_MARKS)
    return 1 <= len(name) <= 200 and rest.isascii() and rest.isalnum() and name[0] != "."


def choice(value: object, what: str, among: tuple[str, ...]) -> str:
    """Return one of the given words; ValueError for another, TypeError for no str."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if value not in among:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, among))}, not {value!r}")
    return value


def file_mode(value: object) -> int:
    """Return permission bits; ValueError outside 0 to 0o777, or without the owner's own two."""
    number = whole_number(value, "mode")
    if not 0 <= number <= 0o777:
        raise ValueError(f"mode must be permission bits like 0o600, not {number:#o}")
    if number & 0o600 != 0o600:
        raise ValueError(
            f"mode must let the owner read and write (0o600), not {number:#o}: every participant "
            "writes to the heap"
        )
    return number


def channel_id(value: object) -> ChannelId:
    """Return a channel's ID: an int from 0 to 2**63 - 1, or a str of 1 to 48 UTF-8 bytes."""
    if isinstance(value, str):
        if not 1 <= len(value.encode()) <= LONGEST_ID:
            raise ValueError(f"channel ID {value!r} must be 1 to {LONGEST_ID} bytes of UTF-8")
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"a channel's ID must be an int or a str, not {type(value).__name__}")
    number = whole_number(value, "a channel's ID")
    if not 0 <= number <= LARGEST_ID:
        raise ValueError(f"channel ID {number} must be 0 to 2**63 - 1")
    return number


def timeout(value: float | None) -> float:
    """Return seconds, infinity for None; ValueError if negative, TypeError if not a number."""
    if value is None:
        return _FOREVER
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        try:
            value = float(value.__float__())
        except AttributeError:
            kind = type(value).__name__
            raise TypeError(f"timeout must be seconds or None, not {kind}") from None
    if not value >= 0:
        raise ValueError(
            f"timeout must be seconds, at least 0, or None to wait indefinitely, not {value!r}"
        )
    return float(value)
