"""Where DeepSpeed's files lie, and which of them belong together.

Source: DeepSpeed 0.19.8, `runtime/engine.py` (`_get_ckpt_name`, `_get_zero_ckpt_name`); Lightning,
`strategies/deepspeed.py` (`save_checkpoint`).
"""

from __future__ import annotations

import re
from pathlib import Path

from ckptgrow.errors import CheckpointError, listing

TAGS = ("latest", "latest_universal")  # files that name the folder of the state
LIGHTNINGS = "checkpoint"  # the folder in a checkpoint of Lightning's
MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
RANK = re.compile(r"(?:\w+?_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
OF_PARTS_OF_A_MODEL = re.compile(r".*expert_\d+.*|layer_\d+.*|expp_rank.*")


def folders_in(path: Path) -> list[str]:
    """The folders of a directory that hold a state; the directory itself is called ''."""
    tagged = [(path / tag).read_text().strip() for tag in TAGS if (path / tag).is_file()]
    candidates = dict.fromkeys([*tagged, LIGHTNINGS, ""])
    return [one for one in candidates if _is_inside(path, one) and _holds_state(path / one)]


def _is_inside(path: Path, name: str) -> bool:
    return name == "" or (Path(name).name == name and name not in (".", ".."))


def _holds_state(folder: Path) -> bool:
    return folder.is_dir() and any(MODEL.fullmatch(one.name) for one in folder.iterdir())


def state_folder(path: Path) -> str:
    """The folder that holds the state; raises CheckpointError where two do."""
    found = folders_in(path)
    if len(found) != 1:
        raise CheckpointError(f"{path}: {listing(found)} each hold a state, expected one; remove what is not meant")
    return found[0]


def files_in(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of model states, and those of the processes' partitions, in the order of the processes.

    Raises CheckpointError where one is missing, or where several hold parts of one model.
    """
    names = sorted(one.name for one in folder.iterdir())
    models = {name: match for name in names if (match := MODEL.fullmatch(name))}
    ranks = {name: match for name in names if (match := RANK.fullmatch(name))}
    parted = [name for name, match in {**models, **ranks}.items() if int(match[2])]
    parted += [name for name in names if OF_PARTS_OF_A_MODEL.fullmatch(name)]
    if parted:
        raise CheckpointError(
            f"{listing(parted)} holds a part of the model, expected no tensor or pipeline parallelism and no experts"
        )
    return _ordered(models), _ordered(ranks)


def _ordered(found: dict[str, re.Match[str]]) -> tuple[str, ...]:
    numbers = {name: int(match[1] or 0) for name, match in found.items()}
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise CheckpointError(f"{listing(found)} are not those of all processes, expected one of each")
    return tuple(sorted(numbers, key=numbers.__getitem__))
