"""The files in a checkpoint's directory beside its weights and optimizers, however these are stored.

The config, schedulers and the loss scaler are understood. Other files (tokenizer, generation config, random states,
`training_args.bin`, which is a pickle of code) are copied as bytes. The same weights in other files, and directories,
stay behind. A Trainer finds its place in the data by `trainer_state.json`'s `global_step`, so that stays as it is;
where growth moved the schedule's clock, `ckptgrow.json` says to which step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.carried_files import Carried
from ckptgrow.formats.checked_parts import checked_schedulers, checked_step
from ckptgrow.formats.checkpoint import Checkpoint, Order, RunPosition
from ckptgrow.formats.growth_log import GrowthHistory, growth_log
from ckptgrow.formats.model_cards import CARD, has_own_card
from ckptgrow.storage.archives import archive, archive_writing
from ckptgrow.storage.files.archive_signs import is_archive
from ckptgrow.storage.files.json_files import (
    LARGEST_LOG,
    Json,
    read_config,
    read_json,
    write_config,
    write_json,
    write_text,
)
from ckptgrow.storage.files.tensor_writing import FileLayout
from ckptgrow.storage.tensors import LazyTensor, is_lazy
from ckptgrow.storage.tree import Tree

CONFIG, TRAINER_STATE, GROWTH, SCALER = "config.json", "trainer_state.json", "ckptgrow.json", "scaler.pt"
UNDERSTOOD = (CONFIG, GROWTH)
# the same weights in another form (of before the growth, so they would contradict the grown ones)
OTHER_WEIGHTS = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|h5|msgpack|ot|onnx|gguf|ggml)|(pytorch_)?model.*\.bin(\.index\.json)?"
    r"|adapter_(model|\d+)\.(pt|bin)"
)
CODE = "training_args.bin"  # a pickle of the Trainer's classes, never opened
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar", ".npz", ".npy")
RANDOM_STATES = re.compile(r"(rng_state|random_states|sampler|dl_state_dict).*")
# a process's own part of a state, as accelerate's FSDP writes with LOCAL_STATE_DICT or without DCP
OF_ONE_PROCESS = re.compile(r"(pytorch_model_fsdp|optimizer).*_rank\d+\.bin")


@dataclass(frozen=True, kw_only=True)
class Files:
    """How the files of each part are called, in order, and the weights' own metadata."""

    weights: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    order: Order = "module"


def part_files(path: Path, part: str) -> tuple[str, ...]:
    """The files of a part (`optimizer`, `scheduler`): PART.pt as the Trainer writes it; PART.bin, PART_1.bin and so on
    as accelerate does. In order; raises CheckpointError where there are both.
    """
    pattern = re.compile(rf"{part}(?:_(\d+))?\.(pt|bin)")
    found = [match for one in path.iterdir() if (match := pattern.fullmatch(one.name))]
    if len({match[2] for match in found}) > 1:
        names = listing(match[0] for match in found)
        raise CheckpointError(f"{path}: holds {names}, expected one kind of {part}; remove the one that is not meant")
    return tuple(match[0] for match in sorted(found, key=lambda match: int(match[1] or 0)))


def read_beside(path: Path, kind: str, stored: Collection[str], files: Files) -> Checkpoint:
    """All but the weights and optimizers, which lie in `stored`.

    Raises CheckpointError where a file is malformed, or is one process's part of a state.
    """
    trainer_state = read_json(path / TRAINER_STATE, LARGEST_LOG) if (path / TRAINER_STATE).exists() else {}
    log = read_json(path / GROWTH) if (path / GROWTH).exists() else {}
    scaler = read_state(path / SCALER) if (path / SCALER).exists() else None
    own = (CARD,) if has_own_card(path) else ()
    carried = others_in(path, {*UNDERSTOOD, *own, *files.schedulers, *stored})
    states = [read_state(path / name) for name in files.schedulers]
    epoch = trainer_state.get("epoch")
    with at(path):
        schedulers = checked_schedulers(states)
        growth = growth_log(log)
        global_step = checked_step(growth.get("global_step", trainer_state.get("global_step")))
    return Checkpoint(
        path=path,
        kind=kind,
        tensors={},
        config=read_config(path / CONFIG) if (path / CONFIG).exists() else None,
        schedulers=schedulers,
        scaler=scaler,
        position=RunPosition(
            global_step, epoch if isinstance(epoch, int | float) else None, data=trainer_state.get("global_step")
        ),
        growth=GrowthHistory(growth),
        carried=carried,
        layout=files,
    )


def files_of(checkpoint: Checkpoint) -> Files:
    """The names of a directory's files as they were read; empty where the checkpoint was of another kind."""
    return checkpoint.layout if isinstance(checkpoint.layout, Files) else Files()


RECIPE = "../recipe_state/recipe_state.pt"  # from a directory of torchtune's with the weights of an epoch


def others_in(path: Path, known: Collection[str]) -> Carried:
    """Everything else in a directory. Links are followed, for the hub's
    cache is made of them.

    Raises CheckpointError for what is not a plain file, and for one process's part of a state.
    """
    everything = sorted(path.iterdir())
    others = [one for one in everything if one.name not in known]
    special = [one.name for one in everything if not one.is_file() and not one.is_dir()]
    if special:
        raise CheckpointError(
            f"{path}: {listing(special)} is a broken link or no plain file, expected files; mend or remove it"
        )
    parts = [one.name for one in others if OF_ONE_PROCESS.fullmatch(one.name)]
    if parts:
        raise CheckpointError(
            f"{path}: {listing(parts)} holds one process's part of a state, expected FSDP's FULL_STATE_DICT, or "
            "SHARDED_STATE_DICT through torch.distributed.checkpoint; save it again as one of these"
        )
    left_behind = tuple(one.name for one in others if one.is_dir() or OTHER_WEIGHTS.fullmatch(one.name))
    left_behind += _of_all_epochs(path)
    files = tuple(one.name for one in others if one.name not in left_behind)
    contents = _contents_of(path, files)
    may_hold = [name for name in files if name not in contents and name != CODE and not RANDOM_STATES.fullmatch(name)]
    unreadable = tuple(name for name in may_hold if name.endswith(PICKLES) or is_archive(path / name))
    return Carried(directory=path, files=files, contents=contents, unreadable=unreadable, left_behind=left_behind)


def _of_all_epochs(path: Path) -> tuple[str, ...]:
    """The recipe's state that torchtune keeps once for its directories `epoch_N`, the optimizer's moments among it."""
    is_epoch = path.name.startswith("epoch_") and not (path / Path(RECIPE).name).is_file()
    return (RECIPE,) if is_epoch and (path / RECIPE).is_file() else ()


def write_beside(checkpoint: Checkpoint, path: Path) -> list[FileLayout]:
    """Copies what is carried and writes the config; schedulers and the loss scaler are to be filled."""
    carried = checkpoint.carried
    carried.copy_to(path)
    if checkpoint.config is not None:
        write_config(path / CONFIG, checkpoint.config)
    if checkpoint.optimizers and checkpoint.position.global_step is not None and TRAINER_STATE not in carried.files:
        write_json(path / TRAINER_STATE, _trainer_state(checkpoint))
    schedulers = named_files(files_of(checkpoint).schedulers, "scheduler.pt", checkpoint.schedulers, path)
    outlines = [archive_writing.outline(*one) for one in schedulers]
    if checkpoint.scaler is not None and SCALER not in carried.files:
        outlines.append(archive_writing.outline(dict(checkpoint.scaler), path / SCALER))
    return outlines


def named_files(
    names: Sequence[str], default: str, states: Sequence[Mapping[str, Tree]], path: Path
) -> list[tuple[dict[str, Tree], Path]]:
    """Each state of a part with its file: called as those that were read, else the only one as the Trainer calls it."""
    chosen = names if len(names) == len(states) else (default,) * len(states[:1])
    return [(dict(state), path / name) for name, state in zip(chosen, states, strict=True)]


def write_growth(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the history, when all that it was grown from has been read."""
    log, source = checkpoint.growth.log, checkpoint.growth.source
    if log:
        text = json.dumps(log, indent=2) + "\n"
        write_text(path / GROWTH, text.replace(source.placeholder, source.value()) if source else text)


def read_state(path: Path) -> dict[str, Tree]:
    """A state dict that torch saved; raises CheckpointError where it is none."""
    tree = archive.read(path)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds a {type(tree).__name__}, expected a state dict")
    return tree


def read_tensors(path: Path) -> dict[str, LazyTensor]:
    """Reads a state dict that holds only tensors; raises CheckpointError for anything else."""
    tree = archive.read(path)
    entries = tree if isinstance(tree, dict) else {}
    tensors = {str(name): tensor for name, tensor in entries.items() if is_lazy(tensor)}
    if not isinstance(tree, dict) or len(tensors) < len(tree):
        raise CheckpointError(f"{path}: expected a state dict, names with tensors alone")
    return tensors


def _contents_of(path: Path, files: Sequence[str]) -> dict[str, Tree]:
    """What carried archives hold, as far as it can be known without running their code."""
    contents: dict[str, Tree] = {}
    for name in files:
        if name != CODE and is_archive(path / name):
            try:
                contents[name] = archive.read(path / name)
            except CheckpointError:
                continue  # another kind of zip, or one of code: bytes
    return contents


def _trainer_state(checkpoint: Checkpoint) -> dict[str, Json]:
    """The least that `Trainer.train(resume_from_checkpoint=…)` needs."""
    return {
        "epoch": float(checkpoint.position.epoch or 0),
        "global_step": checkpoint.position.global_step,
        "log_history": [],
        "train_batch_size": 1,  # unknown; the Trainer only compares it with its own
        "stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {}}},
    }
