"""A model whose parameters, gradients and moments lie in shards on all devices (FSDP2), matrices of blocks cut among
neighbouring devices too (tensor parallel): by torch's `fully_shard` and `parallelize_module`, in Lightning's strategy.

Checkpoints are those of one device: whole tensors, gathered and written by the first process, and read by all.

Sources: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277; Shoeybi et
al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism", arXiv 1909.08053, for
which matrices are cut by columns and which by rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.optim import Optimizer

from ckptgrow.errors import RequestError, listing

REPLICAS, PARTS = "data_parallel", "tensor_parallel"  # the axes of Lightning's mesh
CUTS: Mapping[str, type[ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
}  # transformers' words
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
LAYERS = "layers.*."


class Sharded(ModelParallelStrategy):
    """`num_parts` neighbouring devices share a model's matrices, and all share its parameters.

    Loads what the run's own reader gives, as all other strategies do: Lightning's would load the file before the run
    could change it.
    """

    def __init__(self, num_replicas: int, num_parts: int) -> None:
        super().__init__(num_replicas, num_parts, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """That the trainer hands the optimizers' states over."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the checkpoint's reader gives, in every process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each device takes its shards of whole tensors."""
        assert self.model is not None
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=WHOLE)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each device takes its shards of whole states, which stand by their numbers in the groups."""
        assert self.model is not None
        names = _names(self.model)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, _by_names(state, optimizer, names), options=WHOLE)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state as torch's optimizers write it, by numbers in the groups, in the first process."""
        assert self.model is not None
        optimizer = getattr(optimizer, "optimizer", optimizer)  # within Lightning's
        return _by_numbers(get_optimizer_state_dict(self.model, optimizer, options=WHOLE))


def shard(model: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Cuts a transformers model, in place, over a mesh of the axes `REPLICAS` and `PARTS`.

    Every block is gathered alone while it computes; embedding, head and last norm with the model.
    """
    if mesh[PARTS].size() > 1:
        _cut(model, mesh[PARTS])
    names = frozenset[str](getattr(model, "_no_split_modules", None) or ())
    for block in [one for one in model.modules() if type(one).__name__ in names]:
        fully_shard(block, mesh=mesh[REPLICAS])
    fully_shard(model, mesh=mesh[REPLICAS])


def check_cut(model: torch.nn.Module, num_parts: int) -> None:
    """Raises RequestError where a model cannot be cut into `num_parts` by transformers' plan for its family."""
    config = cast(Any, model).config
    where = f"⟦tensor_parallel {num_parts}⟧"
    plan = _plan(model)
    foreign = sorted({one for one in plan.values() if one not in CUTS})
    if not plan or foreign:
        found = f"a plan with {listing(foreign)}" if plan else "no plan"
        raise RequestError(
            f"{where}: transformers has {found} for {config.model_type}, expected one of columns and rows alone; "
            "leave it out: ⟦strategy fsdp⟧ shards any model"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        size = getattr(config, name, None)
        if size is not None and size % num_parts:
            raise RequestError(f"{where}: the model's {name} is {size}, expected a multiple of {num_parts}")


def squared_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The sum of squares of what this device adds to a sum over all devices, float64: whole tensors, shards once."""
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device if tensors else None)
    for one in tensors:
        if isinstance(one, DTensor):
            copies = _num_copies(one)
            total += one.to_local().detach().double().square().sum() / copies
        else:
            total += one.detach().double().square().sum()
    return total


def _num_copies(tensor: DTensor) -> int:
    """How many devices of the whole world hold the same shard."""
    mesh, placements = tensor.device_mesh, tensor.placements
    replicated = math.prod(mesh.size(axis) for axis, one in enumerate(placements) if one.is_replicate())
    return replicated * torch.distributed.get_world_size() // mesh.size()


def _cut(model: torch.nn.Module, mesh: DeviceMesh) -> None:
    layers = cast(Any, model).base_model.layers
    for layer in layers:
        plan: dict[str, ParallelStyle] = {name.removeprefix(LAYERS): CUTS[cut]() for name, cut in _plan(model).items()}
        parallelize_module(layer, mesh, plan)


def _plan(model: torch.nn.Module) -> dict[str, str]:
    """transformers' plan for the matrices of a block, by their names in the model below the head."""
    plan = getattr(cast(Any, model).config, "base_model_tp_plan", None) or {}
    return {name: cut for name, cut in plan.items() if name.startswith(LAYERS)}


def _names(model: torch.nn.Module) -> dict[int, str]:
    return {id(one): name for name, one in model.named_parameters()}


def _by_numbers(state: Mapping[str, Any]) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    for group in state.get("param_groups", ()):
        begin = len(numbers)
        numbers |= {name: begin + place for place, name in enumerate(group["params"])}
        groups.append({**group, "params": list(range(begin, len(numbers)))})
    return {"state": {numbers[name]: one for name, one in state.get("state", {}).items()}, "param_groups": groups}


def _by_names(state: Mapping[str, Any], optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    by_number: dict[int, str] = {}
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        found = [names[id(one)] for one in own["params"]]
        by_number |= dict(zip(group["params"], found, strict=True))
        groups.append({**group, "params": found})
    return {"state": {by_number[number]: one for number, one in state["state"].items()}, "param_groups": groups}
