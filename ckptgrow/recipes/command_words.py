"""What a job would be as a command, word by word: for whoever does it by hand, and for launchers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = "ckptgrow"
# options of `ckptgrow train` that are not fields by the same name
SPELLED = {"eps": "adam_epsilon", "num_nodes": "nodes"}
BETAS = ("adam_beta1", "adam_beta2")


def words_of_command(name: str, arguments: Sequence[str | Path], options: Mapping[str, Any]) -> list[str]:
    """A command with its options; None and False are left out.

    >>> words_of_command("width", ["a.ckpt", "b.ckpt"], {"factor": 2, "reset": ("optimizer",)})
    ['ckptgrow', 'width', 'a.ckpt', 'b.ckpt', '--factor', '2', '--reset', 'optimizer']
    """
    found = [COMMAND, *name.split(), *map(str, arguments)]
    for option, value in options.items():
        if option == "betas":
            for one, number in zip(BETAS, value, strict=True):
                found += _option(one, number)
        elif option == "drop":
            found += [word for one in value for word in _option(option, one)]
        else:
            found += _option(SPELLED.get(option, option), value)
    return found


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False or value == ():
        return []
    if value is True:
        return [flag]
    if isinstance(value, float):
        return [flag, repr(value)]
    return [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
