"""Corners of a family's configs, drawn at random: whatever sizes, switches and lists its models can have."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from ckptgrow.families.registry import FAMILIES
from tests.helpers.families import CASES, batches, outputs, perturbed

# fields that say nothing of a model's own function, or that only some of transformers' kernels know
LEFT = ("output_", "use_cache", "return_dict", "is_decoder", "is_encoder", "add_cross", "use_mamba", "gradient")
LEFT_FIELDS = ("pretraining_tp", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_encoder_decoder")
ACTIVATIONS = ("relu", "gelu", "silu", "gelu_new", "relu2", "gelu_pytorch_tanh")
MOST = 3  # switches turned at once


def drawn(case: str, number: int) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of a case's family with fields drawn by CKPTGROW_SAMPLE and a number, and these fields.

    Each field is kept whose model builds and computes; so a corner that transformers refuses is drawn anew.
    """
    draw = random.Random(f"{os.environ.get('CKPTGROW_SAMPLE', '0')} {case} {number}")
    fields: dict[str, Any] = {}
    for several in _proposals(case, draw):
        if several and _runs(case, {**fields, **several}):
            fields |= several
    return perturbed(case, **fields), fields


def _runs(case: str, fields: Mapping[str, Any]) -> bool:
    try:
        with torch.no_grad():
            logits = outputs(perturbed(case, **fields), batches(1, seed=2)[0])
    except Exception:  # sizes that transformers' classes do not go together with
        return False
    return bool(logits.isfinite().all()) and float(logits.std()) > 0


@cache
def _config(case: str) -> dict[str, Any]:
    return perturbed(case).config.to_dict()


def _proposals(case: str, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Changes of fields, each of which may be refused by itself."""
    own, sizes = _config(case), FAMILIES[CASES[case][0]].sizes

    def field(space: str) -> str | None:
        name = sizes[space].config if space in sizes else None
        return name if name in own else None

    heads, kv_heads, head, hidden = (field(one) for one in ("heads", "kv_heads", "head", "residual"))
    if heads is not None and hidden is not None:
        num = draw.choice((2, 3, 4, 6))
        of_heads = {heads: num, hidden: 4 * num, **({head: 4} if head is not None else {})}
        shared = {kv_heads: draw.choice([one for one in (1, 2, 3, num) if num % one == 0])} if kv_heads else {}
        yield {**of_heads, **shared}
        yield shared if own.get(str(heads)) == num else {}
        yield {hidden: draw.choice((18, 22, 26, 30))} if head is not None else {}
        yield {head: draw.choice((2, 6, 8))} if head is not None else {}
    for space in ("ffn", "dense_ffn", "shared_ffn"):
        yield {name: draw.choice((13, 15, 17, 21, 25))} if (name := field(space)) is not None else {}
    yield {name: draw.randint(41, 53)} if (name := field("vocab")) is not None else {}
    groups = own.get("n_group") or 1
    yield {name: groups * draw.choice((2, 3))} if (name := field("experts")) is not None else {}
    yield from _of_lists(own, draw)
    yield from _of_words(own, draw)
    switches = [name for name, value in own.items() if isinstance(value, bool) and not _is_left(name)]
    for name in draw.sample(switches, min(MOST, len(switches))):
        yield {name: not own[name]}
    if "tie_word_embeddings" in own:
        yield {"tie_word_embeddings": draw.random() < 0.5}


def _is_left(name: str) -> bool:
    return name in LEFT_FIELDS or name == "tie_word_embeddings" or any(part in name for part in LEFT)


def _of_lists(own: Mapping[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Lists of kinds in another order."""
    for name, value in own.items():
        if "type" in name and isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield {name: draw.sample(value, 2)}


def _of_words(own: Mapping[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Activations, windows and factors."""
    for name, value in own.items():
        if name in ("hidden_act", "activation_function", "hidden_activation", "activation") and value in ACTIVATIONS:
            yield {name: draw.choice(ACTIVATIONS)}
        if "sliding_window" in name and type(value) is int:
            yield {name: draw.choice((3, 4, 7))}
        if type(value) is float and ("multiplier" in name or "scaling" in name or name == "logit_scale"):
            yield {name: draw.choice((0.5, 0.7, 1.5, 2.0))}
        if name.endswith(("eps", "epsilon")) and type(value) is float:
            yield {name: draw.choice((1e-6, 1e-3, 0.1))}
