"""Options that several commands share as one parameter: a dataclass whose fields are options of the command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

Answer = TypeVar("Answer")


def takes(parameter: str, group: type) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """A command whose `parameter` is a `group`: Typer sees the fields of that dataclass, annotated as options, there.

    Fields need defaults, since options stand behind what has to be given.
    """
    hints = get_type_hints(group, include_extras=True)
    options = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(group)
    ]
    if any(one.default is MISSING for one in options):
        raise TypeError(f"{group.__name__}: a field has no default")

    def decorate(command: Callable[..., Answer]) -> Callable[..., Answer]:
        @functools.wraps(command)
        def run(**values: Any) -> Answer:
            shared = group(**{one.name: values.pop(one.name) for one in options})
            return command(**values, **{parameter: shared})

        shown: list[inspect.Parameter] = []
        for one in inspect.signature(command, eval_str=True).parameters.values():
            shown += options if one.name == parameter else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        setattr(run, "__signature__", inspect.Signature(shown))  # noqa: B010
        run.__annotations__ = {one.name: one.annotation for one in shown}
        return run

    return decorate
