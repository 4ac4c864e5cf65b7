"""The records that growths leave: complete, linked to the small checkpoint, and in agreement with what is measured.

Records are checked, never believed. A step that no record mentions was not moved by a growth. A rule, a kind of copies
or a layer map that the numbers contradict is a problem of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np

from ckptgrow.families.family import Family
from ckptgrow.spaces.layers import NEW_LAYERS, LayerKind
from ckptgrow.storage.fingerprint import Fingerprint, flat_value
from ckptgrow.verification.coordinates import ROWS, added_coordinates, are_kept
from ckptgrow.verification.layer_origins import is_layer_map, is_zero_in, misfit_of
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.tensor_blocks import Tensors
from ckptgrow.verification.trees import differences, is_count, text

Record = Mapping[str, Any]
Check = Callable[[Any], bool]
EXPERTS = "experts"  # a space, and the operator that makes it larger
UNITS = ("heads", "kv_heads", "ffn", "dense_ffn")  # spaces that grow, besides those of the residual stream
RECIPES = ("zero-copy", "zero-random", "random-zero")  # of what copies nothing
PARTS = ("optimizer", "schedule", "new")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_step(value: Any) -> bool:
    return value is None or is_count(value)


def are_steps(value: Any) -> TypeGuard[list[int | None]]:
    """Whether a value has the form of a record's `step`: a list of the steps before and after, None if unknown."""
    return isinstance(value, list) and len(value) == 2 and all(map(_is_step, value))


def _is_strength(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < math.inf


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, str) and is_count(value[one]) for one in value)


def _are_runs(value: Any) -> bool:
    """Whether a value has the form of coordinates by space, as runs [start, stop)."""
    if not isinstance(value, Mapping) or not all(isinstance(runs, list) for runs in value.values()):
        return False
    found = [run for runs in value.values() for run in runs]
    return all(isinstance(run, list) and len(run) == 2 and all(map(is_count, run)) for run in found)


def _are_lists(value: Any) -> bool:
    """Whether a value has the form of old rows for each of some new ones."""
    return isinstance(value, list) and all(isinstance(one, list) and all(map(is_count, one)) for one in value)


def _choice(*choices: str) -> Check:
    return lambda value: value in choices


OF_ALL: Mapping[str, Check] = {
    "lr_rule": _choice("keep", "mup"),
    "step": are_steps,
    "rewarm": is_count,
    "reset": lambda value: isinstance(value, list) and all(one in PARTS for one in value),
    "drop": _are_names,
    "sizes": _are_sizes,
    "version": _is_text,
    "torch": _is_text,
    "source_sha256": lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None,
}
FIELDS: Mapping[str, Mapping[str, Check]] = {
    "width": {
        "factor": lambda value: value is None or (is_count(value) and value > 1),
        "how": _choice("diagonal", "tile", "pad"),
        "separate": _choice("split", "noise", "none"),
        "noise": _is_strength,
        "spread": _is_strength,
        "seed": is_count,
        **OF_ALL,
    },
    "depth": {"new": _choice(*NEW_LAYERS), "layers": is_layer_map, **OF_ALL},
    "vocab": {
        "vocab": is_count,
        "init": _choice("mean", "pieces", "copy"),
        "pad_to": is_count,
        "kept": are_kept,
        "pieces": _are_lists,
        **OF_ALL,
    },
    "experts": {
        "experts": is_count,
        "experts_per_token": is_count,
        "separate": _choice("split", "none"),
        "spread": _is_strength,
        "seed": is_count,
        **OF_ALL,
    },
    "positions": {"position": is_count, "new_positions": _choice("copy", "interpolate"), "kept": are_kept, **OF_ALL},
}
OPTIONAL: Mapping[str, Check] = {
    "fresh_moments": _choice("zero", "mean", "rare", "blend"),
    "tokenizer": _is_text,
    "old_tokenizer": _is_text,
    "seed": is_count,
    "fresh": lambda value: value is None or value in RECIPES,
    "schedule": _is_text,
    "moments": _choice("algebra", "unscaled"),
    "moment_rounding": _is_strength,
    "source_config": lambda value: isinstance(value, Mapping) and isinstance(value.get("model_type"), str),
    "new_coordinates": _are_runs,
    "wd_rule": _choice("trajectory", "sqrt", "keep"),
    **dict.fromkeys(("dense", "to"), _is_text),
    "shards": lambda value: is_count(value) and value > 0,
    "router_noise": _is_strength,
    **dict.fromkeys(("residual", *UNITS), is_count),
}


@dataclass(frozen=True)
class Declared:
    """What the records of the growths since the small checkpoint say."""

    records: tuple[Record, ...]

    @classmethod
    def of(cls, records: Sequence[Any]) -> Declared:
        """From the records in a file; those that are not mappings are left out, and `history_problems` names them."""
        return cls(tuple(one for one in records if isinstance(one, Mapping)))

    @cached_property
    def reset(self) -> frozenset[str]:
        """The parts that the user left out so that they begin anew."""
        return frozenset(str(part) for record in self.records for part in _listed(record.get("reset")))

    @property
    def source_config(self) -> Mapping[str, Any] | None:
        """The small model's config, where the growth was given one beside the checkpoint."""
        return self.records[0].get("source_config") if self.records else None

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Tensors, keys and files that the user left out."""
        return tuple(str(name) for record in self.records for name in _listed(record.get("drop")))

    @property
    def schedule(self) -> str | None:
        """The function of a schedule that the user named last, as `NAME:key=number,…`."""
        return next((str(one["schedule"]) for one in reversed(self.records) if one.get("schedule")), None)

    @cached_property
    def widths(self) -> tuple[Record, ...]:
        """The growths in width."""
        return tuple(record for record in self.records if record.get("operator") == "width")

    @cached_property
    def rated(self) -> tuple[Record, ...]:
        """The growths that change learning rates under rule `mup`."""
        return tuple(
            one for one in self.records if one.get("operator") in ("width", EXPERTS) or one.get("new") == "ode"
        )

    @property
    def decay_rule(self) -> str:
        """By which rule weight decay follows learning rates under `mup`; growths of several are refused elsewhere."""
        return next((str(one["wd_rule"]) for one in self.rated if "wd_rule" in one), "trajectory")

    @property
    def mup_share(self) -> float | None:
        """The power of the measured ratios by which learning rates changed, where growths had different rules.

        It is the share that growths with rule `mup` have in the sum of all factors' logarithms. None where all growths
        had one rule, or where a growth did not have a whole factor.
        """
        rules = {record.get("lr_rule") for record in self.rated}
        if len(rules) < 2:
            return None
        logs = [
            (math.log(factor), record.get("lr_rule"))
            for record in self.rated
            if is_count(factor := record.get("factor")) and factor > 1
        ]
        if len(logs) < len(self.rated):
            return None
        return sum(log for log, rule in logs if rule == "mup") / sum(log for log, _ in logs)


def history_problems(pair: Pair, declared: Declared) -> list[str]:
    """What is wrong with the grown checkpoint's history, apart from learning rates and the separation of copies."""
    old, new = pair.small.checkpoint.history, pair.grown.checkpoint.history
    problems = list(differences(new[: len(old)], old, ("history",)))
    found = new[len(old) :]
    if not found:
        return [*problems, *_of_no_growth(pair)]
    for index, record in enumerate(found, start=len(old)):
        problems += _record_problems(record, f"history[{index}]")
    if not problems:
        problems += [*_entry_problems(pair, found), *_step_problems(pair, found), *_size_problems(pair, found)]
        problems += [*_layer_problems(pair, found), *_source_problems(pair, found[0])]
        problems += _coordinate_problems(pair, found)
    return problems


def _of_no_growth(pair: Pair) -> Iterator[str]:
    has_grown = len(pair.layers) != len({layer.source for layer in pair.layers}) or any(
        not growth.is_identity for growth in pair.growths.values()
    )
    if has_grown:
        yield "the history has no record of the growth, expected one"
    elif pair.has_moved:
        old, new = pair.small.checkpoint.position.global_step, pair.grown.checkpoint.position.global_step
        yield f"global_step is {new}, expected {old}: no record tells that it was moved"


def _record_problems(record: Any, where: str) -> Iterator[str]:
    if not isinstance(record, Mapping) or record.get("operator") not in FIELDS:
        yield f"{where} is {text(record)}, expected the record of a growth"
        return
    fields = FIELDS[record["operator"]]
    for name, check in fields.items():
        if name not in record:
            yield f"{where}[{name!r}] is missing"
        elif not check(record[name]):
            yield f"{where}[{name!r}] is {text(record[name])}, which no growth writes"
    for name in record.keys() - fields.keys() - {"operator"}:
        if name not in OPTIONAL or not OPTIONAL[name](record[name]):
            yield f"{where}[{name!r}] is {text(record[name])}, which no growth writes"
    for name, kind in (("noise", "noise"), ("spread", "split")):
        if record["operator"] in ("width", EXPERTS) and (record.get("separate") == kind) != bool(record.get(name)):
            yield f"{where} says separate {text(record.get('separate'))} and {name} {text(record.get(name))}"


def _entry_problems(pair: Pair, found: Sequence[Record]) -> Iterator[str]:
    """What stands beside the records: the version of the last growth, the step, and the new warm-up from there."""
    entry, last = pair.grown.checkpoint.growth.log, found[-1]
    step = pair.grown.checkpoint.position.global_step
    rewarm = {"start": step, "steps": last["rewarm"]} if last["rewarm"] and step is not None else None
    expected = {"version": last["version"], "history": entry.get("history"), "rewarm": rewarm, "global_step": step}
    if "config" in entry:
        expected["config"] = entry["config"]  # judged with all configs
    yield from differences(dict(entry), expected, ("ckptgrow",))


def _step_problems(pair: Pair, found: Sequence[Record]) -> Iterator[str]:
    steps = [tuple(record["step"]) for record in found]
    old, new = pair.small.checkpoint.position.global_step, pair.grown.checkpoint.position.global_step
    if steps[0][0] != old:
        yield f"the history begins at step {steps[0][0]}, expected {old} as the small checkpoint"
    if steps[-1][1] != new:
        yield f"global_step is {new}, expected {steps[-1][1]} as the history has it"
    for before, after in pairwise(steps):
        if before[1] != after[0]:
            yield f"the history goes on from step {after[0]}, expected {before[1]}, where the growth before it ended"


def _size_problems(pair: Pair, found: Sequence[Record]) -> Iterator[str]:
    """Whether the sizes that follow from the records are those of the grown config."""
    old, new = (one.architecture.sizes for one in (pair.small, pair.grown))
    for space in sorted(new.keys() | found[-1]["sizes"].keys()):
        if found[-1]["sizes"].get(space) != new.get(space):
            yield f"the history says {space} {found[-1]['sizes'].get(space)}, expected {new.get(space)}"
    expected = dict(old)
    growing = {*pair.grown.family.residual, *pair.grown.family.units}
    widths = [one for one in found if one["operator"] == "width"]
    for record in widths:
        if record["factor"] is not None:
            expected |= {space: size * record["factor"] for space, size in expected.items() if space in growing}
        expected |= {space: record[space] for space in ("residual", *UNITS) if space in record}
    asked = {space for record in found for space in ("residual", *UNITS) if space in record}
    only_factors = all(one["factor"] is not None for one in widths)
    judged = growing & new.keys() if only_factors else asked & new.keys()
    if all(one["factor"] is None for one in widths):
        judged |= (growing & new.keys()) - _following(asked, pair.grown.family)
    of_rows = {space: record[space] for record in found for space in (*ROWS.values(), EXPERTS) if space in record}
    expected |= {space: size for space, size in of_rows.items() if space in new}
    judged |= {*ROWS.values(), EXPERTS} & new.keys()
    for space in sorted(judged):
        if expected[space] != new[space]:
            yield f"the size of {space} is {new[space]}, expected {expected[space]} by the history"


def _coordinate_problems(pair: Pair, found: Sequence[Record]) -> Iterator[str]:
    """The coordinates that each growth added are those that its sizes leave, in every space."""
    for record, expected in zip(found, added_coordinates(pair.small, pair.grown), strict=True):
        told = record.get("new_coordinates", {})
        for space in sorted(told.keys() | expected.keys()):
            if space not in expected or told.get(space) != _runs(np.flatnonzero(expected[space]).tolist()):
                yield (
                    f"the history says that coordinates {text(told.get(space))} of {space} are new, which its sizes "
                    "contradict"
                )


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as runs [start, stop)."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return runs


def _following(asked: set[str], family: Family) -> set[str]:
    """The spaces whose sizes follow from those that were asked for."""
    following = {"heads", "kv_heads"} if asked & {"heads", "kv_heads"} else set[str]()
    return following | ({*family.residual, *family.units} if "residual" in asked else set())


def _layer_problems(pair: Pair, found: Sequence[Record]) -> Iterator[str]:
    """Whether the records' layer maps, applied one after the other, lead from the small model to the grown one.

    Layers that they make as identities must be identities. All other weights are judged by these maps elsewhere.
    """
    num_layers = len({one.source for one in pair.layers})
    for record in found:
        if record["operator"] == "depth":
            if misfit := misfit_of(record["layers"], num_layers):
                yield f"the history's layers {text(record['layers'])} {misfit}"
                return
            kinds = {kind for _, kind in record["layers"]} - {"old"}
            if kinds - {record["new"]}:
                yield f"the history's layers are {' and '.join(sorted(kinds))}, expected {record['new']} as it says"
            num_layers = len(record["layers"])
    if num_layers != len(pair.layers):
        yield f"there are {len(pair.layers)} layers, expected {num_layers} by the history"
        return
    for index, layer in enumerate(pair.layers):
        for kind in sorted(layer.zeroed):
            if not _is_identity(pair, index, kind):
                yield f"layer {index} is not {kind}, expected it by the history"


def _is_identity(pair: Pair, index: int, kind: LayerKind) -> bool:
    """Whether all tensors of a layer are zero that are zero in identity layers of a kind."""
    links = [link for link in pair.links.values() if link.grown.layer == index and is_zero_in(kind, link.grown)]
    return not any(Tensors.of(pair, link).has_entries() for link in links)


def _source_problems(pair: Pair, first: Record) -> Iterator[str]:
    value = Fingerprint(pair.small.stored).value()
    if first["source_sha256"] != value and first["source_sha256"] != flat_value(pair.small.stored):
        yield (
            f"the history grew a checkpoint whose tensors have sha256 {first['source_sha256'][:12]}…, expected the "
            f"small one's {value[:12]}…"
        )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
