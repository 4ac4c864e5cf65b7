"""All errors as one tree; each message is one line that says where, what was found, what was expected, what to do.

CkptgrowError
├── RequestError        the command or call asks for something that cannot be
├── CheckpointError     a file is damaged, incomplete or of an unknown kind
│   └── UnsafePickleError   a pickle that would import or run code
├── ClaimError          tensors and the family's table do not match
├── OptimizerError      optimizer state that cannot be matched or is not understood
├── ConfigError         an architecture's config is missing or contradicts the tensors
├── DataError           training, evaluation or curve data that cannot be used
│   └── DivergedError       a loss that is not a finite number
└── MissingDependencyError   an extra of the package is not installed

The function that raises an error knows what was found and what to do; its callers know the place. `at` puts the place
before the message while the error passes through them.

Messages name options by their Python names between ⟦ and ⟧, with a value behind the name: "use ⟦how pad⟧". A caller
from Python reads `use how="pad"`; the commands write `use --how pad` (`commands._spelling`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

OPTION = re.compile(r"⟦([a-z0-9_]+)(?: ([^⟧]*))?⟧")
SWITCHES = ("force", "allow_nonfinite")  # given or not, without a value
SEVERAL = ("reset", "drop", "layers")  # of which there may be several values
_BARE = re.compile(r"[A-Z]+|-?[\d.]+(?:e[+-]?\d+)?")  # what stands for a value, as N; numbers


class Message(str):
    """A sentence that may name options: as text in Python's words, and `marked` for those who write them otherwise.

    >>> print(Message("use ⟦how pad⟧, or ⟦reset optimizer⟧"))
    use how="pad", or reset=("optimizer",)
    """

    marked: str

    def __new__(cls, marked: str) -> Message:
        """A message from a text with marks, or from another message."""
        text = marked.marked if isinstance(marked, Message) else marked
        made = super().__new__(cls, with_options(text, _in_python))
        made.marked = text
        return made


def with_options(marked: str, spell: Callable[[str, str | None], str]) -> str:
    """A text whose marks are replaced by what `spell` returns for an option's name and value (None without one)."""
    return OPTION.sub(lambda found: spell(found[1], found[2]), marked)


def _in_python(name: str, value: str | None) -> str:
    if value is None:
        return f"{name}=True" if name in SWITCHES else name
    if name not in SEVERAL:
        return f"{name}={_quoted(value)}"
    values = [_quoted(one.strip()) for one in value.split(",")]
    return f"{name}=({', '.join(values)}{',' * (len(values) == 1)})"


def _quoted(value: str) -> str:
    return value if _BARE.fullmatch(value) else f'"{value}"'


class CkptgrowError(Exception):
    """The base of all errors that a user can cause and correct; commands turn them into one line and exit code 2."""

    def __init__(self, message: str) -> None:
        marked = message.marked if isinstance(message, Message) else message
        self.message = Message(" ".join(marked.split()))
        super().__init__(self.message)

    @property
    def option(self) -> str | None:
        """The Python name of the option with which the message begins; None where it begins with another place."""
        found = OPTION.match(self.message.marked)
        return found and found[1]

    def put_place(self, place: object) -> None:
        """Puts a place before the message."""
        self.message = Message(" ".join(f"{place}: {self.message.marked}".split()))
        self.args = (self.message,)

    def add(self, more: str) -> None:
        """Puts more behind the message."""
        self.message = Message(" ".join(f"{self.message.marked}; {more}".split()))
        self.args = (self.message,)


def reason_of(error: Exception) -> str:
    """What a caught error says, in a line; of the operating system's without their number and their file's name."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())


class RequestError(CkptgrowError):
    """The request itself cannot be met, whatever the files hold."""


class CheckpointError(CkptgrowError):
    """A checkpoint is damaged, incomplete or of an unknown kind."""


class UnsafePickleError(CheckpointError):
    """A pickle names code that it would import or run; it was not run."""


class ClaimError(CkptgrowError):
    """A tensor that belongs to no row of a family's table, or a row without its tensor."""


class OptimizerError(CkptgrowError):
    """Optimizer state that does not belong to the parameters, or is not understood."""


class ConfigError(CkptgrowError):
    """An architecture's config is missing, unknown, or contradicts the tensors."""


class DataError(CkptgrowError):
    """Data (tokens, passages, learning curves) that cannot be used."""


class DivergedError(DataError):
    """Training came to a loss that is not a finite number."""


class MissingDependencyError(CkptgrowError):
    """A command needs packages of an extra that is not installed."""


@contextmanager
def needs(what: object, extras: str, otherwise: str = "") -> Generator[None]:
    """Where packages of extras are imported: without them `what` cannot be done, and the error says what installs them.

    An import of ckptgrow's own that fails is a fault, and climbs out as it is.

    >>> with needs("plan fit", "plan"):
    ...     raise ModuleNotFoundError(name="scipy")
    Traceback (most recent call last):
    ckptgrow.errors.MissingDependencyError: plan fit needs `pip install 'ckptgrow[plan]'`
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] == __package__:
            raise
        raise MissingDependencyError(f"{what} needs `pip install 'ckptgrow[{extras}]'`{otherwise}") from error


@contextmanager
def at(place: object, kind: type[CkptgrowError] = CkptgrowError) -> Generator[None]:
    """Where the block works: its errors climb out with the place before their message.

    What is raised inside says what was found, not where. Errors about an option stay as they are, for that is their
    place, and so do errors of another `kind`, which a caller may know to say it themselves.

    >>> with at("small.ckpt"), at("optimizer 0"):
    ...     raise OptimizerError("holds 8-bit states")
    Traceback (most recent call last):
    ckptgrow.errors.OptimizerError: small.ckpt: optimizer 0: holds 8-bit states
    """
    try:
        yield
    except kind as error:
        if error.option is None:
            error.put_place(place)
        raise


@contextmanager
def within(place: object) -> Generator[None]:
    """The same for errors about options too: which of many places has an option that cannot be.

    >>> with within("stage-2"):
    ...     raise RequestError("⟦hidden 20⟧: expected at least 24")
    Traceback (most recent call last):
    ckptgrow.errors.RequestError: stage-2: hidden=20: expected at least 24
    """
    try:
        yield
    except CkptgrowError as error:
        error.put_place(place)
        raise


def listing(names: Iterable[object], limit: int = 5) -> str:
    """Names for a message: sorted and cut after `limit`, with a count of what was cut.

    >>> listing(["b", "a"])
    'a, b'
    >>> listing(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    ordered = sorted(names, key=str)
    shown = ", ".join(str(name) for name in ordered[:limit])
    return f"{shown} and {len(ordered) - limit} more" if len(ordered) > limit else shown
