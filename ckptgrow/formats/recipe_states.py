"""torchtune's directories in Hugging Face's form: `config.json`, weights in transformers' names, and `recipe_state.pt`,
which holds the optimizer, the counts of steps and epochs, and the rest of the recipe's state.

Source: torchtune, `training/checkpointing/_checkpointer.py` (`FullModelHFCheckpointer`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ckptgrow.errors import at
from ckptgrow.formats.checked_parts import checked_step
from ckptgrow.formats.checkpoint import Checkpoint, RunPosition
from ckptgrow.formats.huggingface import HuggingFaceFormat
from ckptgrow.formats.raw_optimizers import raw_optimizer
from ckptgrow.formats.sidecar_files import read_state
from ckptgrow.progress import Advance
from ckptgrow.storage.files.targets import DEFAULT_SHARD_BYTES

RECIPE, OPTIMIZER, STEP, EPOCH = "recipe_state.pt", "optimizer", "steps_run", "epochs_run"
TORCHTUNE = "torchtune"


@dataclass(frozen=True)
class RecipeStateFormat:
    """See the module's head; `max_shard_bytes` is the largest file of weights that is written."""

    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    kind: str = TORCHTUNE

    def recognises(self, path: Path) -> bool:
        """A directory of Hugging Face's with a recipe's state."""
        return (path / RECIPE).is_file() and HuggingFaceFormat().recognises(path)

    def read(self, path: Path) -> Checkpoint:
        """Reads a directory; raises CheckpointError where a file is missing or malformed."""
        beside = HuggingFaceFormat().read(path)
        recipe = read_state(path / RECIPE)
        with at(path / RECIPE):
            optimizers = (raw_optimizer(recipe[OPTIMIZER]),) if OPTIMIZER in recipe else ()
            position = RunPosition(checked_step(recipe.get(STEP)), _count(recipe.get(EPOCH)))
        return replace(
            beside,
            kind=self.kind,
            optimizers=optimizers,
            position=position,
            rest={key: value for key, value in recipe.items() if key != OPTIMIZER},
            carried=beside.carried.without({RECIPE}),
        )

    def write(self, checkpoint: Checkpoint, path: Path, advance: Advance) -> None:
        """Writes the directory again."""
        recipe = dict(checkpoint.rest)
        if checkpoint.optimizers:
            recipe = {OPTIMIZER: checkpoint.optimizers[0].to_torch(), **recipe}
        if STEP in recipe:
            recipe[STEP] = checkpoint.position.global_step
        weights = replace(checkpoint, optimizers=())
        HuggingFaceFormat(self.max_shard_bytes).write_with(weights, path, advance, {RECIPE: recipe})


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
