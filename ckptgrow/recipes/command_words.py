"""What a job would be as a command, word by word, for whoever does it by hand and for launchers; and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptgrow.errors import RequestError

COMMAND = "ckptgrow"
# options of `ckptgrow train` that are not fields by the same name
SPELLED = {"eps": "adam_epsilon", "num_nodes": "nodes"}
BETAS = ("adam_beta1", "adam_beta2")
GROWING = {"warmup_bsz": "batch_tokens", "warmup_seq": "sequence_tokens"}


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
        elif option == "growing":
            found += [word for one, tokens in GROWING.items() for word in _option(one, getattr(value, tokens))]
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


def options_in_words(words: Sequence[str], where: str) -> dict[str, Any]:
    """The options among a command's words, by their Python names; whole numbers, numbers and lists by commas as such.

    Raises RequestError for a word that is no option's.

    >>> options_in_words(["--factor", "2", "--reset", "new", "--rewarm-new", "1.3,250", "--compile"], "train")
    {'factor': 2, 'reset': 'new', 'rewarm_new': (1.3, 250), 'compile': True}
    """
    fields = {spelling: name for name, spelling in SPELLED.items()}
    found: dict[str, Any] = {}
    waiting = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            raise RequestError(f"{where}: has the word {word}, expected options and their values, as --factor 2")
        name = word.removeprefix("--").replace("-", "_")
        has_value = bool(waiting) and not waiting[0].startswith("--")
        found[fields.get(name, name)] = _read(waiting.pop(0)) if has_value else True
    if BETAS[0] in found and BETAS[1] in found:
        found["betas"] = (found.pop(BETAS[0]), found.pop(BETAS[1]))
    return found


def _read(text: str) -> Any:
    if "," in text:
        return tuple(_read(one) for one in text.split(","))
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
