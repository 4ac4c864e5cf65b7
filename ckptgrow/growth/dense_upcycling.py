"""A mixture out of a dense model: R copies of its blocks, each in G parts, of which every token has some.

The dense model is restated as a mixture of G experts that are parts of its blocks, all of them chosen with equal
weights (`state.mixture_terms`); then these are copied. Expert r · G + g is part g of copy r. The router has one row for
each copy, the same for its G parts, so that a token that has K = k · G experts has all parts of k copies, with weights
that sum to 1 over the copies and are equal within each:

    Σ over the copies r that are chosen    p_r Σ_g 1/G · G · part_g(x)  =  Σ_r p_r · block(x)  =  block(x)

This holds for any router without ties between copies, and only where the weights are normalised over what is chosen,
as the mixture's config says then. A copy's gradients are those of the tokens that it was chosen for, times its weight;
they sum to the old gradient, so each copy's first moment is 1/R of the old one, and its second 1/(k · R) where the
gradients of tokens are uncorrelated.

Where the family has an expert that every token has, the whole block becomes this one, and the others begin silent: then
any numbers will do.

Source: Komatsuzaki et al., "Sparse Upcycling", arXiv 2212.05055 (copies of whole blocks); He et al., "Upcycling Large
Language Models into Mixture of Experts", arXiv 2410.07524 (parts of blocks, by one row of the router for all parts of a
copy; their factor, on all three matrices, is not exact); the factors and moments are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ckptgrow.errors import RequestError
from ckptgrow.formats.growth_log import OperatorRecord
from ckptgrow.growth.operator import Operator, Routers
from ckptgrow.growth.request import StateRequest
from ckptgrow.growth.rho import RHO
from ckptgrow.spaces.growth import chosen_copies, identities
from ckptgrow.spaces.layers import Layer
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.grown_config import with_sizes
from ckptgrow.state.mixture_config import SHARED_FFN, mixture_architecture
from ckptgrow.state.mixture_of_dense import as_mixture

EXPERTS, ROUTED = "experts", "routed"  # spaces: of the router's choices, and of what is summed by their weights
USUAL_CHOICE = 2  # copies that a token has, where nobody says


@dataclass(frozen=True, kw_only=True)
class MixturePlan:
    """What is asked of a dense model; None: what is usual. See `upcycling.experts`."""

    experts: int
    experts_per_token: int | None
    to: str | None
    shards: int | None
    router_noise: float | None
    seed: int

    @property
    def num_parts(self) -> int:
        """Into how many parts each block is cut."""
        return 1 if self.shards is None else self.shards

    def check_unasked(self, old: Architecture) -> None:
        """Raises RequestError where something is asked for, for the model is a mixture already."""
        asked = {"to": self.to, "shards": self.shards, "router_noise": self.router_noise}
        for name, value in asked.items():
            if value is not None:
                raise RequestError(
                    f"⟦{name} {value}⟧: {old.where} is a mixture already ({old.family.model_type}), expected a dense "
                    "model; leave it out"
                )

    def check_carried(self, old: Architecture, told_apart: str, request: StateRequest) -> None:
        """Raises RequestError for other options that mean nothing where a dense model becomes a mixture."""
        if told_apart:
            raise RequestError(
                f"⟦{told_apart}⟧: {old.where} is a dense model, of whose copies a token has only some, so that none of "
                "them can be dealt a part of the others' weights; leave it out: different tokens tell them apart"
            )
        if request.rates == "mup":
            raise RequestError(
                "⟦lr_rule mup⟧: the copies see different tokens, so that no learning rate keeps the small run's "
                "course, expected ⟦lr_rule keep⟧"
            )

    def operator(self, old: Architecture) -> Operator:
        """The operator on a model; raises RequestError for numbers that this model cannot have."""
        mixture = mixture_architecture(old, self.to, self.num_parts)
        has_shared = SHARED_FFN in mixture.sizes
        chosen, deviation = self._chosen(has_shared=has_shared), self._deviation(mixture)
        growths = identities(mixture.sizes)
        num_chosen = max(1, chosen // self.num_parts)
        growths[EXPERTS], growths[ROUTED] = chosen_copies(self.num_parts, self.experts, num_chosen)
        sizes = {**mixture.sizes, EXPERTS: self.experts, ROUTED: self.experts}
        record = {
            "operator": "experts",
            EXPERTS: self.experts,
            "experts_per_token": chosen,
            "separate": "none",
            "spread": 0.0,
            "seed": self.seed,
            "dense": old.family.model_type,
            "to": mixture.family.model_type,
            "shards": self.num_parts,
            "router_noise": deviation,
        }
        return Operator(
            growths=growths,
            layers=[Layer(index, "old") for index in range(old.num_layers)],
            config={**with_sizes(mixture, sizes), mixture.family.choice.chosen: chosen},
            trapped=deviation == 0 and self.experts > self.num_parts,
            rho=RHO["experts"],
            seed=self.seed,
            restates=lambda state: as_mixture(state, mixture),
            routers=Routers(deviation, self.num_parts),
            notes=self._notes(mixture, chosen, has_shared=has_shared),
            record=cast(OperatorRecord, cast(object, record)),
        )

    def _chosen(self, *, has_shared: bool) -> int:
        """How many experts a token has; raises RequestError for numbers by which the function would change."""
        parts = self.num_parts
        if self.experts % parts:
            raise RequestError(
                f"⟦experts {self.experts}⟧: expected a whole multiple of ⟦shards {parts}⟧, for every copy of a block "
                "has all its parts"
            )
        chosen = self.experts_per_token or min(self.experts, USUAL_CHOICE * parts)
        if chosen > self.experts:
            raise RequestError(f"⟦experts_per_token {chosen}⟧: expected at most the number of experts, {self.experts}")
        if chosen % parts and not has_shared:
            raise RequestError(
                f"⟦experts_per_token {chosen}⟧: the function stays only where a token has all {parts} parts of a "
                f"block, expected a whole multiple of ⟦shards {parts}⟧"
            )
        if self.router_noise == 0 and chosen < self.experts:
            raise RequestError(
                f"⟦router_noise 0⟧: with equal rows of the router every token would have the same {chosen} of "
                f"{self.experts} experts, expected a number above 0; leave it out"
            )
        return chosen

    def _deviation(self, mixture: Architecture) -> float:
        """The standard deviation of the router's rows: the one with which such a model begins, where nobody says."""
        usual = mixture.config.get("initializer_range", 0.02)
        return float(usual if self.router_noise is None else self.router_noise)

    def _notes(self, mixture: Architecture, chosen: int, *, has_shared: bool) -> list[str]:
        name, num_copies = mixture.family.model_type, self.experts // self.num_parts
        size = mixture.sizes["ffn"]
        if has_shared:
            return [
                f"{name}: the dense block is the expert that every token has; {self.experts} others of {size} units "
                f"begin silent, {chosen} of them chosen for each token"
            ]
        parts = f"in {self.num_parts} parts" if self.num_parts > 1 else "whole"
        notes = [
            f"{name}: {num_copies} copies of each dense block, {parts}; {chosen} of {self.experts} experts chosen for "
            f"each token: {chosen // self.num_parts} times the work of the block"
        ]
        if chosen < self.experts:
            first = ", so that the first gradient of the router is zero" if self.num_parts == 1 else ""
            notes.append(
                f"copies are equal{first}: they part by the tokens that each of them sees. Train with "
                "output_router_logits, so that the balancing loss spreads the tokens"
            )
        return notes
