"""transformers' Trainer in several processes, with a growth.

torchrun --nproc-per-node 2 -m tests.helpers.growing_trainer DIRECTORY STEP
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ckptgrow import TrainerGrowthCallback
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.trainers import trainer


def main(directory: Path, step: int) -> None:
    callback = TrainerGrowthCallback(at_step=step, width=2)
    made = trainer(directory, perturbed_gpt2().float(), 2 * step, callbacks=[callback])
    made.train()
    found = {"step": made.state.global_step, "grown": str(callback.grown_checkpoint), "processes": made.args.world_size}
    (directory / f"found-{made.args.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
