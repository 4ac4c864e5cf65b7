"""The demo's plan, small enough for a minute on two cores, and the model from scratch that it is compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptgrow.recipes.model_sizes import grown_config, size_of

SMALL_STEPS, LARGE_STEPS = 300, 200
BATCH, SEQLEN, WARMUP = 16, 64, 20  # sequences a step, tokens a sequence, steps
SMALL: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "vocab_size": 256,
    "max_position_embeddings": SEQLEN,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TRAIN: Mapping[str, Any] = {"val_every": 20, "val_sequences": 128, "log_every": 10, "save_every": 1000}


@dataclass(frozen=True)
class DemoPlan:
    """Where the plan and the large model's config lie, and for how many steps scratch is trained."""

    plan: Path
    large: Path
    scratch_steps: int


def write_demo_plan(directory: Path) -> DemoPlan:
    """Small, then twice as wide; from scratch, the large model gets as much compute as both stages together.

    Compute is counted with the head here, 6 · parameters · tokens: of models as small as these it is a large part.
    """
    stages = [
        {"steps": SMALL_STEPS, "batch_size": BATCH, "seqlen": SEQLEN, "warmup": WARMUP},
        {"operator": "width", "factor": 2, "steps": LARGE_STEPS},
    ]
    plan = {"config": SMALL, "train": TRAIN, "evaluate": {"perplexity": "val"}, "stages": stages}
    large = grown_config(SMALL, "width", {"factor": 2})
    small_size, large_size = (size_of(one).total for one in (SMALL, large))
    steps = math.ceil((small_size * SMALL_STEPS + large_size * LARGE_STEPS) / large_size)
    found = DemoPlan(directory / "plan.json", directory / "large.json", steps)
    found.plan.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    found.large.write_text(json.dumps(large, indent=2) + "\n", encoding="utf-8")
    return found


def scratch_words(plan: DemoPlan, data: Path, out: Path) -> list[str]:
    """The command that trains the large model from scratch, with the run's own options."""
    options = [word for name, value in TRAIN.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    sizes = ["--batch-size", str(BATCH), "--seqlen", str(SEQLEN), "--warmup-steps", str(WARMUP)]
    places = ["--data", str(data), "--out", str(out), "--config", str(plan.large)]
    return ["train", *places, "--train-steps", str(plan.scratch_steps), "--schedule", "wsd", *sizes, *options]
