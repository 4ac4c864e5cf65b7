"""The trainers' own files as their options, wrappers and habits make them: the fixtures, saved again in that way."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import save

from tests.helpers.distributed import flat, tree_of
from tests.helpers.trainer_files import TRAINERS, trained_llama

Rename = Callable[[str], str]
LAYERS = re.compile(r"^(.*?\b(?:layers|h|blocks)\.\d+)\.")


def in_layers(word: str) -> Rename:
    return lambda name: LAYERS.sub(rf"\1.{word}.", name, count=1)


NAMES: Mapping[str, Rename] = {
    "DDP": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "DDP, compiled": lambda name: f"module._orig_mod.{name}",
    "Fabric's": lambda name: f"_forward_module.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{in_layers('_fsdp_wrapped_module')(name)}",
    "checkpointed activations": in_layers("_checkpoint_wrapped_module"),
    "layers compiled": in_layers("_orig_mod"),
    "FSDP, checkpointed activations": lambda name: (
        f"_fsdp_wrapped_module.{in_layers('_fsdp_wrapped_module._checkpoint_wrapped_module')(name)}"
    ),
    "a user's module": lambda name: f"net.{name}",
}


@dataclass(frozen=True)
class Variant:
    """How a file is made of one trainer's; `has_optimizer`: whether it still has one."""

    make: Callable[[Path], Path]
    config: Path | None = None
    dialect: str | None = None
    has_optimizer: bool = True


def copied(source: Path, directory: Path) -> Path:
    target = directory / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
    return target


def resaved(path: Path, change: Callable[[Any], Any]) -> Path:
    """A file of torch.save, changed."""
    torch.save(change(torch.load(path, weights_only=False)), path)
    return path


def redistributed(path: Path, change: Callable[[Any], Any]) -> Path:
    """A distributed checkpoint, changed."""
    tree = change(tree_of(path))
    for old in (*path.glob("*.distcp"), path / ".metadata"):
        old.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the one process that this is
        save(tree, checkpoint_id=path, no_dist=True)
    return path


def renamed(rename: Rename, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {rename(name): one for name, one in tensors.items()}


def without_optimizer(tree: Any) -> Any:
    return {key: one for key, one in tree.items() if not key.startswith("optim")}


def named(optimizer: Any, rename: Rename) -> Any:
    """An optimizer's parameters by their new names, where it has any."""
    groups = [
        {**group, "params": [rename(one) if isinstance(one, str) else one for one in group["params"]]}
        for group in optimizer["param_groups"]
    ]
    state = {rename(key) if isinstance(key, str) else key: one for key, one in optimizer["state"].items()}
    return {**optimizer, "state": state, "param_groups": groups}


def flat_named(optimizer: Mapping[str, Any], rename: Rename, names: set[str]) -> dict[str, Any]:
    """The same of an optimizer whose entries are `state.NAME.ENTRY` and `param_groups.NAME.OPTION`."""

    def key_of(key: str) -> str:
        for start in ("state.", "param_groups."):
            name, _, last = key.removeprefix(start).rpartition(".")
            if key.startswith(start) and name in names:
                return f"{start}{rename(name)}.{last}"
        return key

    return {key_of(key): one for key, one in optimizer.items()}


def torch_file(source: str, *, file: str = "", keys: tuple[str, ...] = ("model",)) -> Callable[[Rename], Variant]:
    """Renames the model's tensors in a file of torch.save, where the optimizer calls parameters by number."""

    def variant(rename: Rename) -> Variant:
        def change(tree: Any) -> Any:
            for key in keys:
                tree[key] = renamed(rename, tree[key])
            return tree if keys else renamed(rename, tree)

        def make(directory: Path) -> Path:
            path = copied(TRAINERS / source, directory)
            resaved(path / file if file else path, change)
            return path

        return Variant(make)

    return variant


def composers(rename: Rename, file: str = "llama.pt") -> Variant:
    def change(tree: Any) -> Any:
        state = tree["state"]
        state["model"] = renamed(rename, state["model"])
        state["optimizers"] = {key: named(one, rename) for key, one in state["optimizers"].items()}
        return tree

    return Variant(lambda directory: resaved(copied(TRAINERS / "composer" / file, directory), change))


def distributed(source: str, model: str, optimizer: str, folder: str = "") -> Callable[[Rename], Variant]:
    config = TRAINERS / source / ".." / "config.json"

    def variant(rename: Rename) -> Variant:
        def change(tree: Any) -> Any:
            own = tree[model] if model else {key: one for key, one in tree.items() if "." in key}
            others = {key: one for key, one in tree.items() if key not in own and key not in (model, optimizer)}
            names = {*own, *(key.rpartition(".")[0].removeprefix("state.") for key in tree[optimizer])}
            found = renamed(rename, own)
            entries = flat_named(tree[optimizer], rename, names)
            return {**others, **({model: found} if model else found), optimizer: entries}

        def make(directory: Path) -> Path:
            path = copied(TRAINERS / source, directory)
            redistributed(path / folder, change)
            return path

        return Variant(make, config=config.resolve() if config.is_file() else None)

    return variant


WRAPPED: Mapping[str, Callable[[Rename], Variant]] = {
    "nanogpt": torch_file("nanogpt/ckpt.pt"),
    "litgpt": torch_file("litgpt/llama", file="lit_model.pth"),
    "torchtune": torch_file("torchtune/llama3", file="model-00001-of-00001.bin", keys=()),
    "composer": composers,
    "composer-mpt": lambda rename: composers(rename, "mpt.pt"),
    "torchtitan": distributed("torchtitan/step-5", "", "optimizer"),
    "olmo-core": distributed("olmo_core/llama", "model", "optim", "model_and_optim"),
}


def names_in(path: Path) -> set[str]:
    """The names of all tensors, those of optimizers too, as torch reads them."""
    files = [path] if path.is_file() else [one for end in (".pt", ".pth", ".bin") for one in path.glob(f"*{end}")]
    trees = [torch.load(one, weights_only=False) for one in files]
    trees += [tree_of(one.parent) for one in path.rglob(".metadata") if any(one.parent.glob("*.distcp"))]
    return {".".join(map(str, keys)) for tree in trees for keys, _ in flat(tree)}


def of_torchtitan(directory: Path, dtype: torch.dtype) -> Path:
    """The last step, saved with `last_save_model_only` and `export_dtype`."""

    def weights(tree: Any) -> Any:
        own = {key: one for key, one in tree.items() if key.startswith(("tok_", "layers", "norm", "lm_head"))}
        return {key: one.to(dtype) for key, one in own.items()}

    return redistributed(copied(TRAINERS / "torchtitan" / "step-5", directory), weights)


def of_torchtune(directory: Path) -> Path:
    """An epoch as torchtune 0.6 lays it out: the recipe's state beside it, once for all epochs."""
    source, epoch, recipe = TRAINERS / "torchtune" / "llama3", directory / "epoch_0", directory / "recipe_state"
    shutil.copytree(source, epoch)
    recipe.mkdir()
    (epoch / "recipe_state.pt").rename(recipe / "recipe_state.pt")
    return epoch


def composers_weights(directory: Path) -> Path:
    def weights(tree: Any) -> Any:
        return {"state": {key: tree["state"][key] for key in ("model", "integrations")}}

    return resaved(copied(TRAINERS / "composer" / "llama.pt", directory), weights)


def composers_shards(directory: Path) -> Path:
    """A sharded checkpoint of FSDP: the whole tree, distributed."""
    tree = torch.load(TRAINERS / "composer" / "llama.pt", weights_only=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the one process that this is
        save({**tree, "rng": [{"python": 1}]}, checkpoint_id=directory / "ep0-ba5", no_dist=True)
    return directory / "ep0-ba5"


def changed(source: str, file: str, change: Callable[[Any], Any]) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        path = copied(TRAINERS / source, directory)
        resaved(path / file if file else path, change)
        return path

    return make


def trainers_pickles(directory: Path) -> Path:
    """What the Trainer writes with `safe_serialization=False`."""
    path = trained_llama(directory / "checkpoint-3", torch.float32)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def litgpts_adapter(directory: Path) -> Path:
    path = copied(TRAINERS / "litgpt" / "llama", directory)
    (path / "lit_model.pth").rename(path / "lit_model.pth.lora")
    return path


def olmo_cores_weights(directory: Path) -> Path:
    path = copied(TRAINERS / "olmo_core" / "llama", directory)
    redistributed(path / "model_and_optim", without_optimizer)
    return path


def with_adapter(directory: Path) -> Path:
    path = copied(TRAINERS / "torchtune" / "llama3", directory)
    torch.save({"layers.0.attn.q_proj.lora_a.weight": torch.zeros(2, 16)}, path / "adapter_0.pt")
    return path


def megatrons_mixture(directory: Path) -> Path:
    """The names that Megatron-core 0.16 gives the experts of a grouped product."""
    path = copied(TRAINERS / "megatron" / "llama", directory)

    def with_experts(tree: Any) -> Any:
        start = "decoder.layers.mlp."
        kept = {key: one for key, one in tree.items() if isinstance(one, torch.Tensor) and f"{start}linear" not in key}
        shapes = {"router.weight": (2, 4, 16), "experts.experts.linear_fc1.weight": (2, 4, 48, 16)}
        return {**kept, **{start + name: torch.zeros(shape) for name, shape in shapes.items()}}

    return redistributed(path, with_experts)


TITANS = TRAINERS / "torchtitan" / "config.json"
WEIGHTS: Mapping[str, Variant] = {
    "torchtitan": Variant(lambda directory: of_torchtitan(directory, torch.float32), TITANS, has_optimizer=False),
    "torchtitan bf16": Variant(lambda directory: of_torchtitan(directory, torch.bfloat16), TITANS, has_optimizer=False),
    "composer": Variant(composers_weights, has_optimizer=False),
    "olmo-core": Variant(olmo_cores_weights, has_optimizer=False),
    "litgpt": Variant(changed("litgpt/llama", "lit_model.pth", lambda tree: tree["model"]), has_optimizer=False),
    "nanogpt": Variant(changed("nanogpt/ckpt.pt", "", without_optimizer), has_optimizer=False),
    "Trainer, pickled": Variant(trainers_pickles),
    "torchtune, an adapter beside": Variant(with_adapter),
}
REFUSED: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "torchtune's epoch": (of_torchtune, "its optimizer lies in ../recipe_state/recipe_state.pt"),
    "torchtune's run": (lambda directory: of_torchtune(directory).parent, "is no checkpoint but holds epoch_0"),
    "composer's shards": (composers_shards, "is Composer's sharded checkpoint, expected its whole one"),
    "litgpt's adapter": (litgpts_adapter, "litgpt merge_lora"),
    "litgpt's file": (
        lambda directory: copied(TRAINERS / "litgpt" / "llama", directory) / "lit_model.pth",
        "where model_config.yaml lies",
    ),
    "olmo-core's folder": (
        lambda directory: copied(TRAINERS / "olmo_core" / "llama", directory) / "model_and_optim",
        "where config.json lies",
    ),
    "megatron's experts": (megatrons_mixture, "is a mixture of Megatron's"),
}
