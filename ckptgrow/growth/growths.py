"""Every way to grow a checkpoint, by the word for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ckptgrow.choices import GrowthOperator
from ckptgrow.growth.deepening import depth
from ckptgrow.growth.lengthening import positions
from ckptgrow.growth.request import GrowthResult
from ckptgrow.growth.upcycling import experts
from ckptgrow.growth.vocabulary import vocab
from ckptgrow.growth.widening import width

GROWTHS: Mapping[GrowthOperator, Callable[..., GrowthResult]] = {
    "width": width,
    "depth": depth,
    "vocab": vocab,
    "positions": positions,
    "experts": experts,
}
