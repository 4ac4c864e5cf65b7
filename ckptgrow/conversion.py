"""Between formats, with parameters, moments and steps bit for bit; what the target cannot hold is listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ckptgrow.checkpoints.atomic import appearing, check_space, check_target
from ckptgrow.checkpoints.checkpoint import Advance, Checkpoint
from ckptgrow.checkpoints.formats import writer_of
from ckptgrow.checkpoints.huggingface import DEFAULT_SHARD_BYTES, Carried
from ckptgrow.checkpoints.lightning import fresh_rest
from ckptgrow.checkpoints.optimizer import OptimizerState, ParameterGroup
from ckptgrow.checkpoints.tensors import LazyTensor, num_bytes
from ckptgrow.checkpoints.tree import tensors_in
from ckptgrow.errors import RequestError, listing
from ckptgrow.families.claim import Claimed
from ckptgrow.families.model import class_name
from ckptgrow.families.state import TrainingState, open_state

Target = Literal["lightning", "huggingface"]
TARGETS: tuple[Target, ...] = ("lightning", "huggingface")
LIGHTNING_PREFIX = "model."  # where most modules keep their transformers model
HEADROOM = 1.02


@dataclass(frozen=True)
class Converted:
    """What a conversion did; `lost` names what the target cannot hold."""

    out: Path
    old_kind: str
    new_kind: str
    num_tensors: int
    lost: tuple[str, ...]


def silent(total: int) -> Advance:
    """No progress."""
    return lambda amount: None


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Target,
    config: Path | None = None,
    param_order: Path | None = None,
    drop: tuple[str, ...] = (),
    force: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Callable[[int], Advance] = silent,
) -> Converted:
    """Writes a checkpoint in another format.

    Tensors get the names that the target's own loaders expect: `model.` and the module's names in Lightning's, the
    module's names in a Hugging Face directory. Optimizer groups carry `param_names` wherever they go.
    Raises RequestError where the target exists, CkptgrowError for what is wrong with the source.
    """
    path, out = Path(source), Path(target)
    check_target(path, out, force=force)
    state = open_state(path, config=config, drop=drop, param_order=param_order)
    if _family_of_kinds(state.checkpoint.kind) == to:
        raise RequestError(f"{path}: is {state.checkpoint.kind} already, expected another kind than --to {to}")
    new, lost = (_as_lightning if to == "lightning" else _as_huggingface)(state)
    total = sum(num_bytes(one) for one in {id(t): t for _, t in tensors_in([new.tensors, new.optimizers])}.values())
    check_space(out, int(total * HEADROOM))
    advance = progress(total)
    with appearing(out) as partial:
        writer_of(new.kind, max_shard_bytes).write(new, partial, advance)
    return Converted(out, state.checkpoint.kind, new.kind, len(new.tensors), tuple(lost))


def _family_of_kinds(kind: str) -> str:
    return "huggingface" if kind == "trainer" else kind


def _as_lightning(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    old = state.checkpoint
    tensors, names = _renamed(state, lambda one: LIGHTNING_PREFIX + one.canonical)
    tie = state.family.tie
    if tie is not None and LIGHTNING_PREFIX + tie.head not in tensors:
        embedding = tensors[LIGHTNING_PREFIX + tie.embedding]
        tensors[LIGHTNING_PREFIX + tie.head] = embedding  # Lightning's state dict names both
    carried = old.rest.files if isinstance(old.rest, Carried) else ()
    return (
        replace(
            old,
            kind="lightning",
            tensors=tensors,
            config=state.config,
            optimizers=_with_names(state.optimizers, names),
            rest=fresh_rest(old.global_step or 0, int(old.epoch or 0)),
        ),
        [f"file {name}" for name in carried],
    )


def _as_huggingface(state: TrainingState) -> tuple[Checkpoint, list[str]]:
    old = state.checkpoint
    if len(old.optimizers) > 1:
        raise RequestError(f"{old.path}: has {len(old.optimizers)} optimizers, expected one: a Trainer holds one")
    tensors, names = _renamed(state, lambda one: one.canonical)
    rest = old.rest if isinstance(old.rest, dict) else {}
    lost = [
        key for key, value in rest.items() if value is not None and key not in ("epoch", "global_step", "state_dict")
    ]
    has_training = bool(old.optimizers)
    trainer_state = {"global_step": old.global_step or 0, "epoch": float(old.epoch or 0), "log_history": []}
    carried = Carried(old.path, (), {}, {"trainer_state.json": trainer_state} if has_training else {})
    return (
        replace(
            old,
            kind="trainer" if has_training else "huggingface",
            tensors=tensors,
            config={
                **state.config,
                "architectures": state.config.get("architectures") or [class_name(state.config, state.where)],
            },
            optimizers=_with_names(state.optimizers, names),
            rest=carried,
        ),
        lost,
    )


def _renamed(state: TrainingState, rename: Callable[[Claimed], str]) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
    names = {one.name: rename(one) for one in state.claim.model}
    others = [one.name for one in state.claim.tensors if one.name not in names]
    if others:
        raise RequestError(f"{state.where}: has a second set of weights ({listing(others)}); leave it out with --drop")
    return {new: state.checkpoint.tensors[old] for old, new in names.items()}, names


def _with_names(optimizers: tuple[OptimizerState, ...], names: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    renamed = (
        OptimizerState(
            tuple(
                ParameterGroup(one.options, tuple(names[n] for n in one.names), has_param_names=True)
                for one in state.groups
            ),
            {names[name]: record for name, record in state.state.items()},
            state.other,
        )
        for state in optimizers
    )
    return tuple(state.to_torch() for state in renamed)
