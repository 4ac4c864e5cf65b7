"""Stand-ins for objects of foreign classes: they run nothing, and can be written back as the objects that they were."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator

ABSENT = object()


class Named(type):
    """The type of stand-ins for named classes and functions; calling one makes an `Opaque` that remembers the call."""

    named: tuple[str, str]

    def __call__(cls, *args: object, **kwargs: object) -> Opaque:
        made: Opaque = type.__call__(cls, *args)
        made.is_call = True
        return made


class Opaque(metaclass=Named):
    """An object as its pickle describes it: what was called with what, its state, and what was put into it."""

    named = ("", "")
    args: tuple[object, ...]
    is_call: bool

    def __new__(cls, *args: object, **kwargs: object) -> Opaque:
        made = super().__new__(cls)
        made.args, made.is_call = args, False
        made.state = ABSENT
        made.listed = []
        made.entries = []
        return made

    state: object
    listed: list[object]
    entries: list[tuple[object, object]]

    def __setstate__(self, state: object) -> None:
        self.state = state

    def append(self, item: object) -> None:
        """As pickles do with lists."""
        self.listed.append(item)

    def extend(self, items: list[object]) -> None:
        """As pickles do with lists."""
        self.listed.extend(items)

    def __setitem__(self, key: object, value: object) -> None:
        self.entries.append((key, value))

    def with_state(self, state: object) -> Opaque:
        """The same object in another state."""
        made = type(self).__new__(type(self), *self.args)
        made.is_call, made.listed, made.entries, made.state = self.is_call, self.listed, self.entries, state
        return made

    def parts(self) -> Iterator[tuple[object, object]]:
        """What it holds, by keys for messages."""
        yield "arguments", self.args
        if self.state is not ABSENT:
            yield from self.state.items() if isinstance(self.state, dict) else [("state", self.state)]
        yield from enumerate(self.listed)
        yield from self.entries

    def as_pickled(self) -> tuple[object, ...]:
        """What `__reduce__` of the true object returned."""
        function = type(self) if self.is_call else vars(copyreg)["__newobj__"]
        args = self.args if self.is_call else (type(self), *self.args)
        state = None if self.state is ABSENT else self.state
        return function, args, state, iter(self.listed), iter(self.entries)
