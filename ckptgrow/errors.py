"""What can go wrong, as one tree; each message is one line that says where, what was found and what to do.

CkptgrowError
├── RequestError        the command or call asks for something that cannot be
├── CheckpointError     a file is damaged, incomplete or of an unknown kind
│   └── UnsafePickleError   a pickle that would import or run code
├── ClaimError          tensors and the family's table do not match
├── OptimizerError      optimizer state that cannot be matched or is not understood
├── ConfigError         an architecture's config is missing or contradicts the tensors
├── DataError           training, evaluation or curve data that cannot be used
└── MissingDependencyError   an extra of the package is not installed
"""

from __future__ import annotations

from collections.abc import Iterable


class CkptgrowError(Exception):
    """Base of all errors that a user can cause and mend; commands turn them into one line and exit 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class RequestError(CkptgrowError):
    """The request itself cannot be met, whatever the files hold."""


class CheckpointError(CkptgrowError):
    """A checkpoint is damaged, incomplete or of an unknown kind."""


class UnsafePickleError(CheckpointError):
    """A pickle names code that it would import or run; it was not run."""


class ClaimError(CkptgrowError):
    """A tensor that no table claims, or a claim that no tensor meets."""


class OptimizerError(CkptgrowError):
    """Optimizer state that does not belong to the parameters, or is not understood."""


class ConfigError(CkptgrowError):
    """An architecture's config is missing, unknown, or contradicts the tensors."""


class DataError(CkptgrowError):
    """Data (tokens, passages, learning curves) that cannot be used."""


class MissingDependencyError(CkptgrowError):
    """A command needs packages of an extra that is not installed."""


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
