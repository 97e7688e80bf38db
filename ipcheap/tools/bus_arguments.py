"""The arguments of `ipcheap bus`: the table that its parser, its help and completion read.

argparse has neither options before a verb nor arguments that begin with a dash, and importing it
takes as long as a broadcast.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Usage(Exception):
    """The arguments are not understood."""


class Arguments:
    """What the arguments say. An option that is not given has the value that stands here."""

    verb: str = ""
    help: bool = False
    bus: str = ""  # HEAP[:ID], as it was given
    heap: str = ""
    id: int | str = "bus"
    with_id: bool = False  # the ID was given
    # create
    exclusive: bool = False
    size: int = 64 << 20
    capacity: int | None = None
    patience: float | None = None
    mode: int = 0o600
    # create, listen, wait
    history: int | None = None
    # listen, wait
    count: int | None = None
    hold: bool = False
    lossy: bool = False
    match: str | None = None
    ready: str | None = None
    jobs: int = 64
    null: bool = False
    command: list[str] | None = None
    # broadcast
    nowait: bool = False
    await_: int | None = None
    post: bool = False
    lines: bool = False
    message: str | None = None
    # several
    timeout: float | None = None
    json: bool = False
    # chmod, chown, chgrp
    change: Mode | None = None
    owner: int | str | None = None
    group: int | str | None = None


# Values -----------------------------------------------------------------------------------


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def natural(text: str, least: int = 0) -> int:
    """Return a whole number of `least` or more."""
    if not _digits(text) or len(text) > 20 or int(text) < least:
        raise Usage(f"not a whole number of {least} or more: {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of 1 or more."""
    return natural(text, 1)


def seconds(text: str) -> float:
    """Return seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise Usage(f"not a number of seconds of 0 or more: {text!r}")
    return value


def size(text: str) -> int:
    """Return the bytes of an argument such as 16384, 16KiB or 8MiB."""
    from ipcheap import sizes

    try:
        return sizes.parse(text)
    except (ValueError, OverflowError) as error:
        raise Usage(error) from None


def octal(text: str) -> int:
    """Return permission bits: any bit of a class grants that class all that a heap needs."""
    if not text or text.strip("01234567"):
        raise Usage(f"not an octal number: {text!r}")
    number = int(text, 8)
    return sum(6 << shift for shift in (6, 3, 0) if number >> shift & 7)


class Mode:
    """A change of permissions: `clear` is taken away, then `grant` is added."""

    def __init__(self, text: str) -> None:
        self.clear: int = 0
        self.grant: int = 0
        if text and not text.strip("01234567"):
            self.clear, self.grant = 0o777, octal(text)
            return
        if not text or text.strip("ugo=+-"):
            raise Usage(f"not a mode: {text!r}; give an octal number, or u g o with = + -")
        operator = "="
        for letter in text:
            if letter in "=+-":
                operator = letter
                continue
            shift = {"u": 6, "g": 3, "o": 0}[letter]
            if operator == "=":  # only what comes after it
                self.clear, self.grant, operator = 0o777, 0, "+"
            self.clear |= 7 << shift
            self.grant &= ~(7 << shift)
            if operator == "+":
                self.grant |= 6 << shift

    def applied(self, mode: int) -> int:
        """Return the permission bits that a mode has after the change."""
        return (mode & 0o777 & ~self.clear) | self.grant


def _one(text: str, what: str) -> int | str:
    if not text or ":" in text:
        raise Usage(f"not a {what}: {text!r}")
    return natural(text) if _digits(text) else text


# The table --------------------------------------------------------------------------------


class Option:
    """An option: where its value goes, and how its text is read; a flag has no value."""

    __slots__ = ("flag", "help", "name", "read", "value")

    def __init__(
        self,
        flag: str,
        help: str,
        value: str = "",
        read: Callable[[str], object] = str,
        name: str = "",
    ) -> None:
        self.flag: str = flag
        self.help: str = help
        self.value: str = value
        self.read: Callable[[str], object] = read
        self.name: str = name or flag.strip("-")


class Verb:
    """A verb: its options, its operands, and how many of those must be there."""

    __slots__ = ("help", "least", "operands", "options")

    def __init__(self, help: str, operands: tuple[str, ...], least: int, *options: str) -> None:
        self.help: str = help
        self.operands: tuple[str, ...] = operands
        self.least: int = least
        self.options: tuple[str, ...] = options


OPTIONS = {
    option.flag: option
    for option in (
        Option("-x", "fail if the bus exists", name="exclusive"),
        Option("--size", "address space of a new heap (64MiB)", "SIZE", size),
        Option("--capacity", "how many messages it has places for (256)", "N", positive),
        Option(
            "--history",
            "how many messages are kept for, or fetched by, late listeners",
            "N",
            natural,
        ),
        Option(
            "--patience", "after how long writers pass a listener that is too slow", "S", seconds
        ),
        Option("--mode", "permissions of a new heap (600)", "OCTAL", octal),
        Option("--count", "end after N messages", "N", positive),
        Option("--hold", "release a message when its command has ended, one at a time"),
        Option("--lossy", "make nobody wait: lose messages instead"),
        Option("--match", "ignore messages that do not match a shell pattern", "GLOB"),
        Option("--ready", "run once nothing can be missed any more", "COMMAND"),
        Option("--timeout", "give up after S seconds", "S", seconds),
        Option("--jobs", "how many commands run at a time (64)", "N", positive),
        Option("--json", "print JSON"),
        Option("--null", "end each message with a NUL instead of a newline"),
        Option("--exec", "run a program, without a shell; takes the rest of the line", "PROGRAM"),
        Option("-n", "fail instead of waiting for a turn or for room", name="nowait"),
        Option("--await", "first wait for N listeners", "N", natural, name="await_"),
        Option("--post", "do not wait until the listeners have released the message"),
        Option("--lines", "every line is a message"),
    )
}

_HOW = (
    "--hold",
    "--lossy",
    "--history",
    "--match",
    "--ready",
    "--timeout",
    "--jobs",
    "--json",
    "--null",
    "--exec",
)

VERBS = {
    "create": Verb("create a bus", ("BUS",), 0, "-x", "--size", "--capacity", "--history",
                   "--patience", "--mode"),
    "remove": Verb("remove a bus, and its heap if nothing else is in it", ("BUS",), 1),
    "listen": Verb("handle every message", ("BUS", "COMMAND"), 1, *_HOW, "--count"),
    "wait": Verb("handle one message", ("BUS", "COMMAND"), 1, *_HOW),
    "broadcast": Verb("send a message to all listeners", ("BUS", "MESSAGE"), 1, "-n", "--timeout",
                      "--await", "--post", "--lines", "--json"),
    "chmod": Verb("change the permissions", ("MODE", "BUS"), 2),
    "chown": Verb("change the owner", ("OWNER[:GROUP]", "BUS"), 2),
    "chgrp": Verb("change the group", ("GROUP", "BUS"), 2),
    "listeners": Verb("show the listeners", ("BUS",), 1, "--json"),
}  # fmt: skip


# The parser -------------------------------------------------------------------------------


def parse(words: list[str]) -> Arguments:
    """Return what the arguments say; raise Usage if they are not understood.

    Options stand before or after the verb, and `--` ends them. The only argument after the BUS of
    `broadcast` is the message, whatever it looks like: a script may broadcast any text.
    """
    arguments, words = Arguments(), list(words)
    given: list[str] = []
    operands: list[str] = []
    open = True  # options may still come
    while words:
        word = words.pop(0)
        verb = VERBS.get(arguments.verb)
        if open and verb is not None and _is_message(arguments.verb, operands, words):
            open = False
        if open and word == "--":
            open = False
        elif open and word in ("-h", "--help"):
            arguments.help = True
        elif open and word[:1] == "-" and word != "-" and (verb is None or verb.options):
            given.append(_option(arguments, word, words, operands))
        elif verb is None:
            arguments.verb = word
            if word not in VERBS:
                raise Usage(f"no such verb: {word!r}")
        else:
            operands.append(word)
    if not arguments.help:
        _check(arguments, given, operands)
    return arguments


def _is_message(verb: str, operands: list[str], words: list[str]) -> bool:
    return verb == "broadcast" and len(operands) == 1 and not words


def _option(arguments: Arguments, word: str, words: list[str], operands: list[str]) -> str:
    """Read an option; return its flag."""
    flag, equals, text = word.partition("=")
    option = OPTIONS.get(flag)
    if option is None or (flag == "--exec" and equals):
        raise Usage(f"no such option: {word!r}")
    if not option.value:
        if equals:
            raise Usage(f"{flag} has no value")
        setattr(arguments, option.name, True)
        return flag
    if not equals:
        if not words:
            raise Usage(f"{flag} needs {option.value}")
        if flag == "--exec":
            if not operands:
                raise Usage("--exec takes the rest of the line, so it comes last, after BUS")
            arguments.command = words[:]
            words.clear()
            return flag
        text = words.pop(0)
    try:
        setattr(arguments, option.name, option.read(text))
    except Usage as error:
        raise Usage(f"{flag}: {error}") from None
    return flag


def _check(arguments: Arguments, given: list[str], operands: list[str]) -> None:
    """Give the operands their names; raise Usage if something does not belong together."""
    if not arguments.verb:
        raise Usage("which verb?")
    verb = VERBS[arguments.verb]
    for flag in given:
        if flag not in verb.options:
            raise Usage(f"{arguments.verb} has no option {flag}")
    if len(operands) < verb.least:
        raise Usage(f"{arguments.verb} needs {verb.operands[len(operands)]}")
    if len(operands) > len(verb.operands):
        raise Usage(f"too many arguments: {operands[len(verb.operands)]!r}")
    named = dict(zip(verb.operands, operands, strict=False))
    if "BUS" in named:
        _set_bus(arguments, named["BUS"])
    arguments.message = named.get("MESSAGE")
    if "MODE" in named:
        arguments.change = Mode(named["MODE"])
    if "OWNER[:GROUP]" in named:
        owner, colon, group = named["OWNER[:GROUP]"].partition(":")
        arguments.owner = _one(owner, "user")
        arguments.group = _one(group, "group") if colon else None
    if "GROUP" in named:
        arguments.group = _one(named["GROUP"], "group")
    if "COMMAND" in named:
        if arguments.command is not None:
            raise Usage("COMMAND and --exec exclude each other")
        arguments.command = ["sh", "-c", named["COMMAND"]]
    if arguments.json and arguments.null:
        raise Usage("--json and --null exclude each other")
    if arguments.command is not None and (arguments.json or arguments.null):
        raise Usage("--json and --null print messages, and a command gets them instead")


def _set_bus(arguments: Arguments, text: str) -> None:
    heap, colon, id = text.rpartition(":")
    arguments.bus = text
    if not colon:
        arguments.heap = text
    else:
        arguments.heap, arguments.with_id = heap, True
        arguments.id = natural(id) if _digits(id) else id
    if not arguments.heap or arguments.id == "":
        raise Usage(f"not the name of a bus, HEAP or HEAP:ID: {text!r}")


# The help ---------------------------------------------------------------------------------


def synopsis(name: str) -> str:
    """Return the line that shows how a verb is called."""
    verb = VERBS[name]
    parts = [f"[{flag} {OPTIONS[flag].value}".rstrip() + "]" for flag in verb.options]
    if "--exec" in verb.options:
        parts.remove("[--exec PROGRAM]")
    for number, operand in enumerate(verb.operands):
        parts.append(operand if number < verb.least else f"[{operand}]")
    if "--exec" in verb.options:
        parts[-1] = "[COMMAND | --exec PROGRAM ARG...]"
    return " ".join(["ipcheap bus", name, *parts])


def help_text(name: str) -> str:
    """Return the help of a verb, or of all of them."""
    if name not in VERBS:
        lines = ["usage: ipcheap bus VERB ...", ""]
        lines += [f"  {name:<11}{verb.help}" for name, verb in VERBS.items()]
        lines += ["", "BUS is HEAP[:ID]: a heap's name, or a path with a slash; the ID is `bus`."]
        lines += ["Exit codes: 0 done, 1 failed, 2 not understood, 3 not released in time."]
        return "\n".join(lines)
    lines = [f"usage: {synopsis(name)}", "", f"{VERBS[name].help}".capitalize() + ".", ""]
    for flag in VERBS[name].options:
        lines.append(f"  {flag + ' ' + OPTIONS[flag].value:<18}{OPTIONS[flag].help}")
    return "\n".join(lines).rstrip()
