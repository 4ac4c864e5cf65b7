"""What a conversion can write, and which families each kind has a way of saying."""

from __future__ import annotations

from dataclasses import dataclass

from ckptgrow.choices import Target, words_of
from ckptgrow.dialects.dialect import Dialect, Home
from ckptgrow.dialects.known_dialects import DIALECTS

FORMS = {
    **{"lightning": "Lightning's .ckpt", "huggingface": "a directory with config.json and model.safetensors"},
    **{"dcp": "a directory of torch's distributed checkpoints", "torch": "a file of torch.save"},
    **{"torch-files": "a directory with files of torch.save", "megatron": "a directory of torch_dist"},
}


@dataclass(frozen=True)
class TargetKind:
    """What a conversion writes, and which families it has a way of saying: none are named where it has of all."""

    form: str
    families: tuple[str, ...]


def kinds_of_targets() -> dict[str, TargetKind]:
    """Every word for a target, in the order of the choice."""
    return {to: TargetKind(FORMS[kind_of(to)], families_of(to)) for to in words_of(Target)}


def homes_of(to: str) -> list[Home]:
    """Where each dialect of a trainer keeps a checkpoint's parts; none where the word is no trainer's."""
    return [one.home for one in _dialects_of(to) if one.home is not None]


def families_of(to: str) -> tuple[str, ...]:
    """The families that a trainer has a way of saying."""
    return tuple(sorted({name for one in _dialects_of(to) for name in one.model_types}))


def kind_of(to: str) -> str:
    """The kind of file or directory that a conversion writes."""
    if to == "composer":
        return "torch"
    return next((home.kind for home in homes_of(to)), to)


def _dialects_of(to: str) -> list[Dialect]:
    return [one for one in DIALECTS.values() if one.home is not None and one.trainer.lower() == to]
