"""A state from elsewhere as Megatron-core would have saved it, so that Megatron goes on from it.

Weights in half precision get float32 masters of the same values, as Megatron makes them when it starts. The random
states are not there, which the arguments say by `no_save_rng`. Megatron-LM's clock of learning rates counts samples,
which no other trainer does: a clock at its beginning stands there, and its `override_opt_param_scheduler` sets it.

Source: NVIDIA, Megatron-core 0.16.1, `optimizer/optimizer.py` and `optimizer_param_scheduler.py`; Megatron-LM,
`megatron/training/checkpointing.py`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.megatron_format import ARGUMENTS, BACKEND, GROUPED, HEADS, QUERY_GROUPS, MegatronLayout
from ckptgrow.formats.raw_optimizers import RawOptimizer
from ckptgrow.storage.tensors import LazyTensor, cast, is_lazy

CLOCK = "opt_param_scheduler"
LINEARS = ("self_attention.linear_proj", "self_attention.linear_qkv", "mlp.linear_fc1", "mlp.linear_fc2")
EXTRA = tuple(f"decoder.layers.{name}._extra_state" for name in LINEARS)  # empty where nothing is in 8 bits
BACKEND_SAYS = {
    **{"sharded_backend": "torch_dist", "sharded_backend_version": 1},
    **{"common_backend": "torch", "common_backend_version": 1},
}


def as_megatrons(checkpoint: Checkpoint, others: Mapping[str, Any], said: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint with Megatron's names and forms as its writer takes it; `others` is what `common.pt` has besides,
    `said` are the arguments that say the model.
    """
    halves = {
        name: one.dtype for name, one in checkpoint.tensors.items() if one.dtype.itemsize < torch.float32.itemsize
    }
    if not checkpoint.optimizers:
        halves = {}
    place = ("optimizer", "optimizer") if halves else ("optimizer",)
    arguments = _arguments(said, has_optimizer=bool(checkpoint.optimizers))
    rest = {**others, **({"iteration": 0} if checkpoint.position.global_step is None else {}), ARGUMENTS: arguments}
    if checkpoint.optimizers:
        rest[CLOCK] = _clock(checkpoint.optimizers[0])
    return replace(
        checkpoint,
        tensors={name: _float32(one) if name in halves else one for name, one in checkpoint.tensors.items()},
        optimizers=tuple(map(_in_float32, checkpoint.optimizers)) if halves else checkpoint.optimizers,
        schedulers=(),
        rest=rest,
        carried=Carried(files=(BACKEND,), changed={BACKEND: BACKEND_SAYS}),
        layout=MegatronLayout(
            halves=halves,
            extra=dict.fromkeys(EXTRA, ([None],)),
            optimizer=place if checkpoint.optimizers else None,
            arguments=Namespace(**arguments),
        ),
    )


def _arguments(said: Mapping[str, Any], *, has_optimizer: bool) -> dict[str, Any]:
    """Megatron-LM's arguments that say the model, and what is not in the file."""
    return {
        **said,
        GROUPED: said[QUERY_GROUPS] != said[HEADS],
        "no_save_rng": True,
        "no_save_optim": not has_optimizer,
    }


def _clock(optimizer: RawOptimizer) -> dict[str, Any]:
    """What `OptimizerParamScheduler.load_state_dict` reads, of a schedule at its beginning."""
    options = optimizer.groups[0].options
    decay = options.get("weight_decay", 0.0)
    return {
        **{"max_lr": options["max_lr"], "min_lr": options["min_lr"], "num_steps": 0},
        **{"lr_warmup_steps": 0, "lr_decay_style": "constant", "lr_decay_steps": 1},
        **{"start_wd": decay, "end_wd": decay, "wd_incr_style": "constant", "wd_incr_steps": 1},
    }


def _in_float32(optimizer: RawOptimizer) -> RawOptimizer:
    records = {
        key: {entry: _float32(one) if is_lazy(one) and one.shape else one for entry, one in record.items()}
        for key, record in optimizer.records.items()
    }
    return replace(optimizer, records=records)


def _float32(tensor: LazyTensor) -> LazyTensor:
    return tensor if tensor.dtype == torch.float32 else cast(tensor, torch.float32)
