"""What growth carries along: every key, file and counter is the small one's, but for those that growth declares."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from typing import Any

from ckptgrow.checkpoints.directory import TRAINER_STATE
from ckptgrow.checkpoints.loops import with_step
from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.checkpoints.texts import read_json
from ckptgrow.families.state import TrainingState
from ckptgrow.verification.history import dropped
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences

# Of a Trainer's state: the best checkpoint so far was of the small model.
CLEARED = {"best_model_checkpoint", "best_metric", "best_global_step"}


def carried_problems(pair: Pair) -> list[str]:
    """What is missing, new or changed."""
    return [*_dtypes(pair), *_buffers(pair), *_values(pair), *_keys(pair), *_files(pair)]


def _dtypes(pair: Pair) -> Iterator[str]:
    small, grown = pair.small.checkpoint.tensors, pair.grown.checkpoint.tensors
    for name, link in pair.links.items():
        old, new = small[link.small.name].dtype, grown[name].dtype
        if new != old:
            yield f"{name} is {new}, expected {old} as in the small checkpoint"


def _buffers(pair: Pair) -> Iterator[str]:
    """Buffers outside of layers are as they were."""
    old, new = (_buffers_of(state) for state in (pair.small, pair.grown))
    yield from differences(old, new, ("buffers",))


def _buffers_of(state: TrainingState) -> dict[str, LazyTensor]:
    outside = (one.name for one in state.claim.tensors if one.is_buffer and one.layer is None)
    return {name: state.checkpoint.tensors[name] for name in outside}


def _values(pair: Pair) -> Iterator[str]:
    small, grown = pair.small.checkpoint, pair.grown.checkpoint
    if small.data_position != grown.data_position:
        yield "the data position was moved, expected it as in the small checkpoint"
    for name in ("epoch", "precision", "scaler"):
        yield from differences(getattr(small, name), getattr(grown, name), (name,))


def _keys(pair: Pair) -> Iterator[str]:
    step, was_moved = pair.grown.checkpoint.global_step, pair.has_moved
    left = dropped(pair)
    expected, found = (_comparable(state.checkpoint.rest) for state in (pair.small, pair.grown))
    expected = {key: value for key, value in expected.items() if key not in left}
    if was_moved and step is not None and "loops" in expected:
        expected["loops"] = with_step(expected["loops"], step)
    if was_moved and "global_step" in expected:
        expected["global_step"] = step
    yield from differences(expected, found, ())


def _comparable(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is understood elsewhere, and without the config among the hyper-parameters."""
    found = {key: value for key, value in rest.items() if value is not None}
    parameters = found.get("hyper_parameters", {})
    if isinstance(parameters, dict):
        found["hyper_parameters"] = {key: value for key, value in parameters.items() if key != "config"}
    elif hasattr(parameters, "__dict__"):
        found["hyper_parameters"] = {key: value for key, value in vars(parameters).items() if key != "config"}
    if not found.get("hyper_parameters"):
        found.pop("hyper_parameters", None)
    return found


def _files(pair: Pair) -> Iterator[str]:
    small, grown = pair.small.checkpoint.carried, pair.grown.checkpoint.carried
    for name in sorted({*small.files} - {*grown.files} - dropped(pair)):
        yield f"the file {name} is missing, expected it as beside the small checkpoint"
    for name in sorted({*grown.files} - {*small.files}):
        yield f"the file {name} stands beside the grown checkpoint alone"
    for name in sorted({*small.files} & {*grown.files}):
        if name == TRAINER_STATE:
            old, new = (read_json(one.directory / name) for one in (small, grown))
            yield from differences(_cleared(old, new), new, (name,))
        elif not filecmp.cmp(small.directory / name, grown.directory / name, shallow=False):
            yield f"the file {name} differs from the small checkpoint's"


def _cleared(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A Trainer's state without its best checkpoint, which the grown run does not have."""
    return {**old, **{key: None for key in CLEARED & old.keys() if new.get(key) is None}}
