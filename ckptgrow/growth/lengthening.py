"""Growing the number of positions: new rows of a learned table, or the config alone where positions are computed.

    copy           old positions keep their rows, and new ones begin as copies of the old ones in turn: nothing that is
                   as long as before changes. Their moments are zero.
    interpolate    the old table is stretched over the new number, row j at place j (n − 1)/(n' − 1) of the old one, its
                   moments as well. This changes the function.

Rotary positions have no rows: only the config's longest sequence changes, never their scaling.

Source of the stretched table: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ckptgrow.choices import NewPositions
from ckptgrow.errors import ConfigError, RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.contradictions import check_positions
from ckptgrow.growth.growing import Source
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.growth.vocabulary import kept_runs
from ckptgrow.progress import Progress, silent
from ckptgrow.spaces.growth import FRESH, Blends, Growth, identities
from ckptgrow.spaces.layers import Layer
from ckptgrow.state.architecture import Architecture, config_errors
from ckptgrow.state.grown_config import with_aliases, with_sizes

TABLE = "position"  # the space
INDEPENDENT = ("default", "linear")  # kinds of rotary positions that do not ask for the longest sequence
WITH_ORIGINAL = ("llama3",)  # and one that asks for that of the first training, where it says it
COMPUTED = "positions are computed, their scaling stays, and what lies beyond the old length is as untrained as before"
STRETCHED = (
    "positions were stretched, so the function changes at every length; ⟦new copy⟧ changes nothing at old lengths"
)


def positions(
    source: Source,
    target: str | Path | None,
    *,
    size: int,
    new: NewPositions = "copy",
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Gives a checkpoint `size` positions: those of its learned table, as `new` says (see the module's head), or in the
    config alone.

    Raises RequestError for sizes that cannot be, and where sequences of the old lengths would change although
    positions are computed; CkptgrowError for what is wrong with the source.
    """
    request = request or StateRequest()
    check_positions({"size": size}, request)
    return grow(source, target, _Plan(size, new).operator, request, progress)


@dataclass(frozen=True)
class _Plan:
    size: int
    new: NewPositions

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for a number of positions that this model cannot have."""
        check_exact(old, "positions")
        growths = identities(old.sizes)
        if TABLE not in old.sizes:
            note = f"{old.family.longest} of the config alone: {COMPUTED}"
            return self._operator(old, growths, self._longer(old), [note])
        if self.size <= old.sizes[TABLE]:
            raise RequestError(f"⟦size {self.size}⟧: expected more than the old size, {old.sizes[TABLE]}")
        first = old.family.unused_positions
        make = _extended if self.new == "copy" else _stretched
        growths[TABLE] = make(old.sizes[TABLE], self.size, first)
        config = with_sizes(old, {**old.sizes, TABLE: self.size})
        return self._operator(old, growths, config, [] if self.new == "copy" else [STRETCHED])

    def _operator(
        self, old: Architecture, growths: Mapping[str, Growth], config: Mapping[str, Any], notes: list[str]
    ) -> Operator:
        kept = kept_runs(growths[TABLE]) if TABLE in growths else []
        record = {"operator": "positions", TABLE: self.size, "new_positions": self.new, "kept": kept}
        return Operator(
            growths=growths,
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config=config,
            trapped=False,
            rho=RHO["positions"],
            fresh_moments="zero" if self.new == "copy" else "blend",
            is_of_config=TABLE not in growths,
            notes=notes,
            record=cast(OperatorRecord, cast(object, record)),
        )

    def _longer(self, old: Architecture) -> dict[str, Any]:
        """The config with a longer longest sequence; raises RequestError where that is none, or changes old lengths."""
        full, longest = _completed(old), old.family.longest
        if old.family.head == "image" or longest not in _defaults(old) or not isinstance(full.get(longest), int):
            raise RequestError(f"{old.where}: {old.family.model_type} has no number of positions that could grow")
        if self.new != "copy":
            raise RequestError(f"⟦new {self.new}⟧: is of a learned table, expected copy, for positions are computed")
        if self.size <= full[longest]:
            raise RequestError(f"⟦size {self.size}⟧: expected more than the old size, {full[longest]}")
        for rotary in _rotary(full.get("rope_parameters")):
            kind = rotary["rope_type"]
            has_own = kind in WITH_ORIGINAL and "original_max_position_embeddings" in _said(old, rotary)
            if kind not in INDEPENDENT and not has_own:
                raise RequestError(
                    f"{old.where}: its rotary positions are of the kind {kind}, which depends on {longest}, so old "
                    "lengths would change, expected default or linear ones"
                )
        return with_aliases(old.family, {**old.config, longest: self.size})


def _extended(size: int, new_size: int, first: int) -> Growth:
    """Old rows where they were, behind them copies of those from `first` on, in turn."""
    places = np.arange(new_size)
    source = np.where(places < size, places, FRESH)
    number = np.where(places < size, FRESH, (places - first) % (size - first))
    copied = Blends.of_means(number, [np.array([one]) for one in range(first, size)])
    return _table(source, size, copied)


def _stretched(size: int, new_size: int, first: int) -> Growth:
    """The rows from `first` on at equal distances over the new number; those at whole places are old ones."""
    steps, new_steps = size - first - 1, new_size - first - 1
    places = np.arange(new_steps + 1) * steps
    below, rest = places // max(1, new_steps), places % max(1, new_steps)
    source = np.concatenate([np.arange(first), np.where(rest == 0, below + first, FRESH)])
    between = np.flatnonzero(rest)
    number = np.full(new_size, FRESH)
    number[first + between] = np.arange(len(between))
    shares = rest[between] / new_steps
    sources = tuple(np.array([one, one + 1]) + first for one in below[between].tolist())
    weights = tuple(np.array([1 - share, share]) for share in shares.tolist())
    return _table(source, size, Blends(number, sources, weights))


def _table(source: Any, size: int, blends: Blends) -> Growth:
    ones = np.ones(len(source))
    return Growth(source=source, write=ones, read=ones, num_old=size, written_as=blends, read_as=blends)


def _rotary(node: Any) -> Iterator[Mapping[str, Any]]:
    """The parameters of rotary positions, of one kind of layers or of several."""
    if not isinstance(node, Mapping):
        return
    tree = cast(Mapping[str, Any], node)
    if "rope_type" in tree:
        yield tree
    for one in tree.values():
        yield from _rotary(one)


def _said(old: Architecture, rotary: Mapping[str, Any]) -> set[str]:
    """The parameters that the config itself says, under this or its older name."""
    given = [*_rotary(old.config.get("rope_parameters")), *_rotary(old.config.get("rope_scaling"))]
    return {name for one in given if one["rope_type"] == rotary["rope_type"] for name in one}


def _defaults(old: Architecture) -> dict[str, Any]:
    """The fields that transformers' class of the config knows: others say nothing of the model."""
    from transformers import AutoConfig

    return AutoConfig.for_model(old.family.model_type).to_dict()


def _completed(old: Architecture) -> dict[str, Any]:
    """The config with transformers' defaults."""
    from transformers import AutoConfig

    # deep: transformers writes into what is inside
    fields = deepcopy({key: value for key, value in old.config.items() if key != "model_type"})
    try:
        return AutoConfig.for_model(old.family.model_type, **fields).to_dict()
    except config_errors() as error:
        raise ConfigError(f"{old.where}: transformers refuses its config ({error})") from error
