"""More experts in a mixture: m copies of each, m times as many of them chosen for every token.

With m copies of every row of the router, a token that chose K of E experts chooses their m·K copies, each with 1/m of
the weight, whether the router's probabilities are those of all experts or of the chosen ones alone:

    Σ over the chosen    p_e / m · expert_e(x)  taken m times  =  Σ p_e · expert_e(x)

So the function stays as it is, for every token whose chosen experts are not tied with others. Where scores are each
expert's own and are not divided by the sum of those chosen, p_e stays p_e, and the copies' last matrices have 1/m of
the old one instead. A bias that is added to scores for the choice alone stays beside scores of its own, and shrinks
to 1/m beside shares of all experts' sum. Experts that are chosen within groups are copied with their groups, m times as
many of which are chosen.

The gradients of each copy, and of its row of the router, are 1/m of the old ones. Copies stay equal for ever unless
they are told apart: "split" deals every weight of `down_proj` out to the copies, which are summed behind it
(`spaces.split`).

With K as it was the function would change: K of the m·K equal ones are chosen, and the others' probabilities are lost.

Source: derived here; copies of experts with the router's rows: "Expert Upcycling", arXiv 2604.19835, which trains
through the change that K as it was makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from ckptgrow.choices import ExpertSeparation
from ckptgrow.errors import RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.contradictions import check_experts
from ckptgrow.growth.dense_upcycling import EXPERTS, ROUTED, MixturePlan
from ckptgrow.growth.growing import Source
from ckptgrow.growth.growth_options import ExpertsOptions
from ckptgrow.growth.operator import Operator
from ckptgrow.growth.pipeline import grow
from ckptgrow.growth.refusals import check_exact
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.progress import Progress, silent
from ckptgrow.spaces.growth import MOST_COPIES, Growth, copies, identities, shrunken_copies
from ckptgrow.spaces.layers import Layer
from ckptgrow.spaces.split import WHOLE
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes
from ckptgrow.state.layer_kinds import layers_with
from ckptgrow.state.mixture_config import has_experts

CHOICE = "choice"  # the space of a bias that is added to scores for the choice alone
OF_EXPERTS = (EXPERTS, ROUTED, CHOICE)


def experts(
    source: Source,
    target: str | Path | None,
    *,
    experts: int,
    experts_per_token: int | None = None,
    to: str | None = None,
    shards: int | None = None,
    router_noise: float | None = None,
    separate: ExpertSeparation | None = None,
    spread: float | None = None,
    seed: int = 0,
    request: StateRequest | None = None,
    progress: Progress = silent,
) -> GrowthResult:
    """Gives a mixture more experts, or makes one of a dense model; the function stays the same.

    A mixture gets `experts` experts in each of its layers, a whole multiple of what it has, by copies of each; as many
    times as many are chosen for every token, which `experts_per_token` may say. Moments become those that the grown
    model would have gathered (exactly, without separation). `separate` "split", the default, tells the copies apart,
    exactly in every dtype where their number is a power of two, with `spread` how unequally as in `ckptgrow.width`;
    "none" leaves them equal.

    A dense model becomes a mixture of the family `to`, by default the first whose other parts are the same: `experts`
    copies of each feed-forward block, or of `shards` equal parts of it, by default 1. Of these a token has
    `experts_per_token`, by default 2 · `shards`. Routers begin with normal draws of standard deviation `router_noise`,
    by default the family's own, and with moments of no gradient; experts with their share of the old moments, exactly
    where all are chosen (see `dense_upcycling`).

    Raises RequestError for a model that has no experts and cannot get any, and for numbers by which its function would
    change; CkptgrowError for what is wrong with the source.
    """
    request = request or StateRequest()
    numbers = ExpertsOptions(experts=experts, experts_per_token=experts_per_token, shards=shards, spread=spread)
    check_experts({**numbers, "router_noise": router_noise, "separate": separate}, request)
    of_mixture = _Plan(
        experts=experts,
        experts_per_token=experts_per_token,
        separate=separate or "split",
        spread=WHOLE if spread is None and separate != "none" else spread or 0.0,
        seed=seed,
    )
    of_dense = MixturePlan(
        experts=experts,
        experts_per_token=experts_per_token,
        to=to,
        shards=shards,
        router_noise=router_noise,
        seed=seed,
    )
    told_apart = _told_apart(separate, spread)
    return grow(source, target, partial(_operator, of_mixture, of_dense, told_apart, request), request, progress)


def _operator(
    of_mixture: _Plan, of_dense: MixturePlan, told_apart: str, request: StateRequest, old: Architecture
) -> Operator:
    """The operator on a mixture, or on a dense model; raises RequestError for options that say nothing of it."""
    if has_experts(old.family):
        of_dense.check_unasked(old)
        return of_mixture.operator(old)
    of_dense.check_carried(old, told_apart, request)
    return of_dense.operator(old)


def _told_apart(separate: ExpertSeparation | None, spread: float | None) -> str:
    """The option by which copies shall be told apart by their weights; "" where none asks for it."""
    if spread is not None:
        return f"spread {spread:g}"
    return "separate split" if separate == "split" else ""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    experts: int
    experts_per_token: int | None
    separate: ExpertSeparation
    spread: float
    seed: int

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for numbers that this model cannot have."""
        check_exact(old, EXPERTS)
        _, num_copies = self._copies(old)
        chosen = num_copies * int(old.config[old.family.choice.chosen])
        config = {**with_sizes(old, self._sizes(old)), old.family.choice.chosen: chosen, **_groups(old, num_copies)}
        growths = identities(old.sizes) | _copied(old, self.experts)
        record = {
            "operator": "experts",
            EXPERTS: self.experts,
            "experts_per_token": chosen,
            "separate": self.separate,
            "spread": self.spread,
            "seed": self.seed,
        }
        return Operator(
            growths=growths,
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config=config,
            trapped=self.separate == "none",
            rho=RHO["experts"],
            separate=self.separate,
            spread=self.spread,
            seed=self.seed,
            notes=[
                f"{num_copies} copies of each expert, {chosen} of {self.experts} chosen for each token: "
                f"{num_copies} times the work of the experts"
            ],
            record=cast(OperatorRecord, cast(object, record)),
        )

    def _sizes(self, old: Architecture) -> Mapping[str, int]:
        return {**old.sizes, **{space: self.experts for space in OF_EXPERTS if space in old.sizes}}

    def _copies(self, old: Architecture) -> tuple[int, int]:
        """How many experts there are, and of how many copies each becomes."""
        if not _has_experts(old):
            raise RequestError(f"{old.where}: this {old.family.model_type} has no experts, expected some in a layer")
        size, field = old.sizes[EXPERTS], old.family.choice.chosen
        chosen = old.config.get(field)
        num_copies = self.experts // size
        if self.experts % size or num_copies < 2:
            raise RequestError(
                f"⟦experts {self.experts}⟧: expected a whole multiple of the old number, {size}, for each one's copies "
                "must be chosen together"
            )
        if num_copies > MOST_COPIES:
            raise RequestError(f"⟦experts {self.experts}⟧: expected at most {MOST_COPIES} copies of each of {size}")
        if not isinstance(chosen, int) or isinstance(chosen, bool):
            raise RequestError(f"{old.where}: its config says {field} {chosen!r}, expected a whole number")
        if self.experts_per_token not in (None, num_copies * chosen):
            raise RequestError(
                f"⟦experts_per_token {self.experts_per_token}⟧: the function stays only where all {num_copies} copies "
                f"of each of the {chosen} experts that a token chose are chosen, expected {num_copies * chosen}; leave "
                "it out"
            )
        return size, num_copies


def _has_experts(old: Architecture) -> bool:
    """Whether any layer has experts by the config, in a family whose models may have none."""
    rows = [one for one in old.family.parameters if EXPERTS in one.layout and old.holds(one.when)]
    return any(layers_with(old.family, old.config, one.layers, old.stack_layers(one.name)) for one in rows)


def _copied(old: Architecture, num_experts: int) -> dict[str, Growth]:
    """How what is chosen grows, what is summed by its weights, and a bias of the choice."""
    size, choice = old.sizes[EXPERTS], old.family.choice
    plain, shrunken = copies(size, num_experts), shrunken_copies(size, num_experts)
    are_weights_shared = choice.scores == "softmax" or old.holds(choice.normalised)
    grown = {EXPERTS: plain, ROUTED: shrunken if are_weights_shared else plain}
    return grown | ({CHOICE: shrunken if choice.scores == "softmax" else plain} if CHOICE in old.sizes else {})


def _groups(old: Architecture, num_copies: int) -> dict[str, int]:
    """The fields of groups of experts: as many copies of each group, and as many times as many chosen; none where all
    experts lie in one.
    """
    fields = old.family.choice.groups or ()
    numbers = {field: old.config.get(field) for field in fields}
    if not fields or numbers[fields[0]] in (None, 1):
        return {}
    return {field: num_copies * number for field, number in numbers.items() if isinstance(number, int)}
