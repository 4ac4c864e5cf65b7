"""A real FSDP training in two processes, saved and loaded by accelerate's own functions; run by `test_accelerate`.

    torchrun --nproc-per-node 2 -m tests.helpers.fsdp_run save|load VERSION STATE_DICT_TYPE DIRECTORY WIDTH

`save` trains a few steps, saves into DIRECTORY, and goes on; `load` begins from what lies there, in a model of WIDTH
times the size, its parameters in the groups that DIRECTORY.groups.json lists. Either writes the losses that it went on
with to DIRECTORY.losses.json.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import load_fsdp_model, load_fsdp_optimizer, save_fsdp_model, save_fsdp_optimizer
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from tests.helpers.gpt2 import perturbed_gpt2, token_batches, train

NUM_STEPS = 4


def sharded(model: Any, version: int) -> Any:
    if version == 1:
        cpu = torch.device("cpu")
        policy = ModuleWrapPolicy({GPT2Block})
        return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=cpu)
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def main() -> None:
    """See the module's head."""
    warnings.simplefilter("ignore")
    phase, version, kind, directory, width = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, state_dict_type=kind)
    accelerator = Accelerator(cpu=True)
    model = perturbed_gpt2(n_embd=12 * width, n_head=3 * width, n_inner=20 * width)
    model = sharded(model, version)
    names = Path(f"{directory}.groups.json")
    named = {name.replace("_fsdp_wrapped_module.", ""): one for name, one in model.named_parameters()}
    groups = json.loads(names.read_text(encoding="utf-8")) if names.exists() else [list(named)]
    parameters = [{"params": [named[name] for name in group]} for group in groups]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.1)
    if phase == "load":
        load_fsdp_model(plugin, accelerator, model, directory)
        load_fsdp_optimizer(plugin, accelerator, optimizer, model, directory)
    else:
        train(model, optimizer, token_batches(NUM_STEPS, seed=1))
        save_fsdp_model(plugin, accelerator, model, directory)
        save_fsdp_optimizer(plugin, accelerator, optimizer, model, directory)
    losses = train(model, optimizer, token_batches(NUM_STEPS, seed=2))
    if dist.get_rank() == 0:
        Path(f"{directory}.losses.json").write_text(json.dumps(losses), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
