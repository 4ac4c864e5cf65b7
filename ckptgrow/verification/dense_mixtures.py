"""Mixtures that were made of a dense model, by the record: what the dense state is as a mixture, and routers, which
come from nothing in it.

That the mixture computes what the dense model does, and that gradients follow, is not taken from this restatement: the
logits and the gradients are those of the real dense model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.errors import RequestError
from ckptgrow.state.mixture_config import mixture_architecture
from ckptgrow.state.mixture_of_dense import as_mixture
from ckptgrow.state.mixture_terms import ROUTER
from ckptgrow.state.opening import TrainingState
from ckptgrow.storage.tensors import whole
from ckptgrow.verification.coordinates import growths_since, mixture_record
from ckptgrow.verification.pair import Link, Pair, applied
from ckptgrow.verification.precision import rounding
from ckptgrow.verification.trees import is_count
from ckptgrow.verification.weights import WeightScale

HALF = 0.5  # the mantissa of powers of two
LIKE = 0.1  # relative, of the standard deviation of draws that were rounded
SCATTER = 4.0  # standard deviations, in units of 1/√(2 · draws)


def restated(small: TrainingState, grown: TrainingState) -> TrainingState:
    """The small state as what was copied: a mixture, where the record says that the grown one was made of a dense one.

    Raises RequestError where there were other growths too, or the record names other families than the
    checkpoints are of.
    """
    record = mixture_record(small, grown)
    if record is None or small.family is grown.family:
        return small
    if len(growths_since(small, grown)) > 1:
        raise RequestError(
            f"{grown.where}: was grown in other ways too since {small.where}, a dense model, expected that it became a "
            "mixture alone; verify each growth on its own"
        )
    named = [record.get("dense"), record.get("to")]
    if named != [small.family.model_type, grown.family.model_type] or not is_count(record.get("shards")):
        raise RequestError(
            f"{grown.where}: its history says that {named[0]} became {named[1]}, expected {small.family.model_type} "
            f"and {grown.family.model_type}"
        )
    return as_mixture(small, mixture_architecture(small.architecture, str(record["to"]), int(record["shards"]) or 1))


def is_router(link: Link) -> bool:
    """Whether a parameter is a router."""
    return link.grown.layout.text == ROUTER


def begun_routers(pair: Pair) -> set[str]:
    """The grown names of routers that come from nothing in the small model."""
    return {name for name, link in pair.links.items() if is_router(link)} if pair.small.dense is not None else set()


def restating_rounds(pair: Pair) -> bool:
    """Whether dense weights were rounded as they became experts', times a number of parts that is no power of two."""
    terms = pair.small.terms
    return terms is not None and any(math.frexp(one.part.factor)[0] != HALF for one in terms.terms)


def with_routers(pair: Pair, scales: Mapping[str, WeightScale]) -> dict[str, WeightScale]:
    """The scales of weights, of routers by their own rule."""
    record: Mapping[str, Any] = mixture_record(pair.small, pair.grown) or {}
    return {**scales, **{name: _router_scale(pair, pair.links[name], record) for name in begun_routers(pair)}}


def _router_scale(pair: Pair, link: Link, record: Mapping[str, Any]) -> WeightScale:
    """A new router: one row for all parts of one copy, of draws as large as the record says."""
    router, shards = whole(applied(pair.grown, link.grown)), int(record["shards"])
    rows = router[::shards]
    apart = float((router - rows.repeat_interleave(shards, 0)).abs().max())
    deviation = float(record.get("router_noise", math.nan))
    found = float(rows.square().mean().sqrt())
    left = deviation * (LIKE + SCATTER / math.sqrt(2 * rows.numel())) + rounding(torch.float64)
    is_right = apart == 0 and abs(found - deviation) <= left and (deviation == 0) == (found == 0)
    error = max(apart, abs(found - deviation) if not is_right else 0.0)
    return WeightScale(None, error, 0.0 if is_right else math.inf)
