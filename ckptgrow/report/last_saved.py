"""What the last checkpoint of a run says of itself: by the description beside it, else by the checkpoint."""

from __future__ import annotations

from pathlib import Path

from ckptgrow.run.train_job import opened
from ckptgrow.train.run_directory import CHECKPOINTS, LAST, LastSaved, described


def last_saved(directory: Path) -> LastSaved:
    """Of a directory of `ckptgrow train` that has saved."""
    return described(directory) or _in_checkpoint(directory / CHECKPOINTS / LAST)


def _in_checkpoint(last: Path) -> LastSaved:
    """Of a run of an earlier version, or of a copy with other times."""
    from ckptgrow.recipes.model_sizes import size_of
    from ckptgrow.state.run_data import DATA, SHA256

    tree = opened(last)
    arguments = tree["hyper_parameters"]
    size = size_of(arguments["config"])
    return LastSaved(
        parameters=size.total,
        without_embeddings=size.without_embeddings,
        step=int(tree["global_step"]),
        data=str(arguments.get(DATA, {}).get(SHA256, "")),
        history=(tree.get("ckptgrow") or {}).get("history", ()),
    )
