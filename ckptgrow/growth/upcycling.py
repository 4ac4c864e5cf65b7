"""More experts in a mixture: m copies of each, m times as many of them chosen for every token.

With m copies of every row of the router, a token that chose K of E experts chooses their m·K copies, each with 1/m of
the weight, whether the router's probabilities are those of all experts or of the chosen ones alone:

    Σ over the chosen    p_e / m · expert_e(x)  taken m times  =  Σ p_e · expert_e(x)

So the function stays as it is, for every token whose chosen experts are not tied with others. The gradients of each
copy, and of its row of the router, are 1/m of the old ones. Copies stay equal for ever unless they are told apart:
"split" deals every weight of `down_proj` out to the copies, which are summed behind it (`spaces.split`).

With K as it was the function would change: K of the m·K equal ones are chosen, and the others' probabilities are lost.

Source: derived here; copies of experts with the router's rows: "Expert Upcycling", arXiv 2604.19835, which trains
through the change that K as it was makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ckptgrow.choices import ExpertSeparation
from ckptgrow.errors import RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.growing import Source
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.progress import Progress, silent
from ckptgrow.spaces.growth import copies, identities, shrunken_copies
from ckptgrow.spaces.layers import Layer
from ckptgrow.spaces.split import MOST_COPIES, MOST_SPREAD, WHOLE
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes

EXPERTS, ROUTED = "experts", "routed"  # spaces: of the router's choices, and of what is summed by their weights
CHOSEN = "num_experts_per_tok"  # the config field of how many are chosen for a token, in every family
RHO = 1.0  # nothing is known of steps saved


def experts(
    source: Source,
    target: str | Path | None,
    *,
    experts: int,
    experts_per_token: int | None = None,
    separate: ExpertSeparation = "split",
    spread: float | None = None,
    seed: int = 0,
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Gives a mixture `experts` experts in each of its layers, a whole multiple of what it has, by copies of each; as
    many times as many are chosen for every token, which `experts_per_token` may say.

    The function stays the same, and moments become those that the grown model would have gathered (exactly, without
    separation). `separate` "split" tells the copies apart, exactly in every dtype where their number is a power of two,
    with `spread` how unequally as in `ckptgrow.width`; "none" leaves them equal.

    Raises RequestError for a model without experts, and for numbers by which its function would change; CkptgrowError
    for what is wrong with the source.
    """
    request = request or StateRequest()
    _check(separate, spread, request)
    plan = _Plan(
        experts=experts,
        experts_per_token=experts_per_token,
        separate=separate,
        spread=WHOLE if spread is None and separate == "split" else spread or 0.0,
        seed=seed,
    )
    return grow(source, target, plan.operator, request, progress)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    experts: int
    experts_per_token: int | None
    separate: ExpertSeparation
    spread: float
    seed: int

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for numbers that this model cannot have."""
        size, num_copies = self._copies(old)
        check_exact(old, EXPERTS)
        config = {**with_sizes(old, self._sizes(old)), CHOSEN: num_copies * int(old.config[CHOSEN])}
        growths = identities(old.sizes)
        growths[EXPERTS], growths[ROUTED] = copies(size, self.experts), shrunken_copies(size, self.experts)
        record = {
            "operator": "experts",
            EXPERTS: self.experts,
            "experts_per_token": config[CHOSEN],
            "separate": self.separate,
            "spread": self.spread,
            "seed": self.seed,
        }
        return Operator(
            growths=growths,
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config=config,
            trapped=self.separate == "none",
            rho=RHO,
            separate=self.separate,
            spread=self.spread,
            seed=self.seed,
            notes=[
                f"{num_copies} copies of each expert, {config[CHOSEN]} of {self.experts} chosen for each token: "
                f"{num_copies} times the work of the experts"
            ],
            record=cast(OperatorRecord, cast(object, record)),
        )

    def _sizes(self, old: Architecture) -> Mapping[str, int]:
        return {**old.sizes, EXPERTS: self.experts, ROUTED: self.experts}

    def _copies(self, old: Architecture) -> tuple[int, int]:
        """How many experts there are, and of how many copies each becomes."""
        if EXPERTS not in old.sizes:
            raise RequestError(
                f"{old.where}: {old.family.model_type} has no experts, expected a mixture; a dense model cannot become "
                "one here"
            )
        size, chosen = old.sizes[EXPERTS], old.config.get(CHOSEN)
        num_copies = self.experts // size
        if self.experts % size or num_copies < 2:
            raise RequestError(
                f"⟦experts {self.experts}⟧: expected a whole multiple of the old number, {size}, for each one's copies "
                "must be chosen together"
            )
        if num_copies > MOST_COPIES:
            raise RequestError(f"⟦experts {self.experts}⟧: expected at most {MOST_COPIES} copies of each of {size}")
        if not isinstance(chosen, int) or isinstance(chosen, bool):
            raise RequestError(f"{old.where}: its config says {CHOSEN} {chosen!r}, expected a whole number")
        if self.experts_per_token not in (None, num_copies * chosen):
            raise RequestError(
                f"⟦experts_per_token {self.experts_per_token}⟧: the function stays only where all {num_copies} copies "
                f"of each of the {chosen} experts that a token chose are chosen, expected {num_copies * chosen}; leave "
                "it out"
            )
        return size, num_copies


def _check(separate: ExpertSeparation, spread: float | None, request: StateRequest) -> None:
    """Raises RequestError for what contradicts itself."""
    if spread is not None and separate == "none":
        raise RequestError(f"⟦spread {spread:g}⟧: is of ⟦separate split⟧, expected that; leave it out")
    if spread is not None and not 0 < spread <= MOST_SPREAD:
        raise RequestError(f"⟦spread {spread:g}⟧: expected a number above 0, up to {MOST_SPREAD:g}")
    if request.fresh_moments != "zero":
        raise RequestError(
            f"⟦fresh_moments {request.fresh_moments}⟧: says of ⟦how pad⟧ in width, expected none of it; leave it out"
        )
