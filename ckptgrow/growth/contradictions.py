"""Options of a growth that cannot be, or contradict each other, whatever the checkpoint: told before it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptgrow.choices import GrowthOperator
from ckptgrow.errors import RequestError
from ckptgrow.growth.growth_options import DepthOptions, ExpertsOptions, PositionsOptions, VocabOptions, WidthOptions
from ckptgrow.growth.request import StateRequest
from ckptgrow.ranges import check
from ckptgrow.spaces.growth import MOST_COPIES

SIZES = ("ffn", "heads", "kv_heads")  # of width, beside hidden


def check_options(operator: GrowthOperator, options: Mapping[str, Any], request: StateRequest) -> None:
    """Raises RequestError for options of a growth, by their names, that cannot be."""
    CHECKS[operator](options, request)
    request.check()


def check_width(asked: WidthOptions, request: StateRequest) -> None:
    """Raises RequestError for numbers out of their range and for what contradicts itself."""
    for name in ("factor", "hidden", *SIZES, "spread", "noise"):
        check(name, asked.get(name))
    factor, hidden, how, fresh = asked.get("factor"), asked.get("hidden"), asked.get("how"), asked.get("fresh")
    if factor is not None and hidden is not None:
        raise RequestError(f"⟦factor {factor}⟧ and ⟦hidden {hidden}⟧ exclude each other; choose one")
    if hidden is not None and how != "pad":
        raise RequestError(f"⟦hidden {hidden}⟧: copies come whole, expected ⟦factor K⟧, or ⟦how pad⟧ with it")
    if how != "pad" and request.fresh_moments != "zero":
        raise RequestError(f"⟦fresh_moments {request.fresh_moments}⟧: copies have exact moments; give ⟦how pad⟧")
    if how == "pad" and request.rates == "mup":
        raise RequestError("⟦lr_rule mup⟧: new coordinates copy nothing, so no old lr changes; use ⟦lr_rule keep⟧")
    if fresh is not None and how != "pad":
        raise RequestError(f"⟦fresh {fresh}⟧: says how what copies nothing begins; leave it out, or give ⟦how pad⟧")
    _check_separation(asked)


def _check_separation(asked: WidthOptions) -> None:
    """Raises RequestError where what tells copies apart contradicts itself, or there are none."""
    noise, separate, spread = asked.get("noise", "auto"), asked.get("separate"), asked.get("spread")
    given = {space for space in ("hidden", *SIZES) if asked.get(space) is not None}
    alone = asked.get("factor") is None and given == {"kv_heads"}
    if (asked.get("how") == "pad" or alone) and (noise not in ("auto", 0) or separate not in (None, "none")):
        found = f"⟦noise {noise}⟧" if separate is None else f"⟦separate {separate}⟧"
        if asked.get("how") == "pad":
            raise RequestError(f"{found}: ⟦how pad⟧ makes no copies that it could tell apart; leave it out")
        raise RequestError(f"{found}: key heads' copies serve different queries, which tells them apart; leave it out")
    factor, pads = asked.get("factor"), asked.get("how") == "pad"
    kind = separate or ("split" if noise == "auto" else "noise" if noise else "none")
    if noise != "auto" and (noise > 0) != (kind == "noise"):
        raise RequestError(f"⟦separate {kind}⟧ and ⟦noise {noise:g}⟧ contradict each other; choose one")
    if kind == "split" and not pads and factor is not None:
        check_copies(f"factor {factor}", factor)
    if spread is not None and (kind != "split" or alone or asked.get("how") == "pad"):
        raise RequestError(f"⟦spread {spread:g}⟧: says how ⟦separate split⟧ deals weights out; leave it out")


def check_copies(option: str, num_copies: int) -> None:
    """Raises RequestError for more copies of a coordinate than weights can be dealt out to."""
    if num_copies > MOST_COPIES:
        raise RequestError(
            f"⟦{option}⟧: {num_copies} copies of a coordinate, expected at most {MOST_COPIES}, to which ⟦separate "
            "split⟧ deals weights out; grow twice, or use ⟦how pad⟧"
        )


def check_depth(asked: DepthOptions, request: StateRequest) -> None:
    """Raises RequestError for options that contradict each other."""
    said = {f"factor {asked.get('factor')}": "factor", "layers": "layers", f"every {asked.get('every')}": "every"}
    given = [words for words, name in said.items() if asked.get(name) is not None]
    if len(given) > 1:
        raise RequestError(f"⟦{given[0]}⟧ and ⟦{given[1]}⟧ exclude each other; choose one")
    check("factor", asked.get("factor"))
    check("every", asked.get("every"))


def check_vocab(asked: VocabOptions, request: StateRequest) -> None:
    """Raises RequestError for what contradicts itself."""
    size, tokenizer = asked.get("size"), asked.get("tokenizer")
    if (size is None) == (tokenizer is None):
        raise RequestError("⟦size N⟧ or ⟦tokenizer NAME⟧ says how many rows the vocabulary has, expected one of them")
    check("size", size)
    check("pad_to", asked.get("pad_to"))
    if asked.get("init") == "pieces" and tokenizer is None:
        raise RequestError("⟦init pieces⟧: is of tokens' texts, expected ⟦tokenizer NAME⟧ beside it; use ⟦init mean⟧")
    _check_plain(request)


def check_positions(asked: PositionsOptions, request: StateRequest) -> None:
    """Raises RequestError for a size out of its range, and for options that mean nothing here."""
    _check_plain(request)
    check("size", asked.get("size"))


def check_experts(asked: ExpertsOptions, request: StateRequest) -> None:
    """Raises RequestError for what contradicts itself."""
    for name in ("experts", "experts_per_token", "shards", "spread", "router_noise"):
        check(name, asked.get(name))
    spread = asked.get("spread")
    if spread is not None and asked.get("separate") == "none":
        raise RequestError(f"⟦spread {spread:g}⟧: is of ⟦separate split⟧, expected that; leave it out")
    _check_no_fresh_moments(request)


def _check_plain(request: StateRequest) -> None:
    """Raises RequestError for what means nothing where no coordinate is copied or scaled."""
    if request.rates == "mup":
        raise RequestError("⟦lr_rule mup⟧: no old lr changes where rows are added; use ⟦lr_rule keep⟧")
    _check_no_fresh_moments(request)


def _check_no_fresh_moments(request: StateRequest) -> None:
    if request.fresh_moments != "zero":
        raise RequestError(
            f"⟦fresh_moments {request.fresh_moments}⟧: says of ⟦how pad⟧ in width, expected none of it; leave it out"
        )


CHECKS: Mapping[GrowthOperator, Callable[[Any, StateRequest], None]] = {
    "width": check_width,
    "depth": check_depth,
    "vocab": check_vocab,
    "positions": check_positions,
    "experts": check_experts,
}
