"""`plan.yaml`: the stages of a plan with the commands that run them, and the first model's config beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.errors import MissingDependencyError
from ckptgrow.planning.law_plan import LawPlan, Stage
from ckptgrow.planning.operators import Growth
from ckptgrow.planning.shapes import Shape, shapes

MICRO_BATCH = 32  # sequences: what `ckptgrow train` takes by default
VERSION = 1


@dataclass(frozen=True)
class RunSettings:
    """What commands need beside the plan: prepared data, tokens a sequence, steps of re-warm-up, the rule's name."""

    data: str
    seqlen: int
    rewarm: int
    lr_rule: str


def plan_file(path: Path, plan: LawPlan, settings: RunSettings) -> tuple[Path, Path]:
    """Writes `plan.yaml` and the first stage's config; returns both paths.

    Raises ValueError where growths are of any ratio, which no operator makes.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("--out needs `pip install 'ckptgrow[plan]'`") from error
    growths = _growths(plan)
    models = shapes(plan.stages[0].params, growths)
    config = path.with_name(path.stem + ".config.json")
    stages = [
        _stage(number, stage, shape, settings, config, is_last=number == len(plan.stages))
        for number, (stage, shape) in enumerate(zip(plan.stages, models, strict=True), start=1)
    ]
    tree = {
        "version": VERSION,
        "law": plan.law.name,
        "lr_rule": settings.lr_rule,
        "compute": float(plan.compute),
        "compute_alone": float(plan.compute_alone),
        "saving": round(plan.saving, 4),
        "config": config.name,
        "stages": stages,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        json.dumps(models[0].gpt2_config(settings.seqlen, _vocabulary(Path(settings.data))), indent=2) + "\n",
        encoding="utf-8",
    )
    path.write_text(yaml.safe_dump(tree, sort_keys=False, width=2**20), encoding="utf-8")
    return path, config


def _vocabulary(data: Path) -> int:
    """Of prepared data that are there already, else GPT-2's."""
    try:
        return int(json.loads((data / "meta.json").read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        from ckptgrow.families.architecture import GPT2_VOCABULARY  # with it comes torch

        return GPT2_VOCABULARY


def _growths(plan: LawPlan) -> list[Growth]:
    found = [one.growth for one in plan.stages[1:]]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        raise ValueError("a growth is of any ratio, which no operator makes")
    return known


def _stage(
    number: int, stage: Stage, shape: Shape, settings: RunSettings, config: Path, *, is_last: bool
) -> dict[str, object]:
    micro, accumulation = batches(stage.batch_tokens, settings.seqlen)
    growth = stage.growth
    return {
        "name": f"stage-{number}",
        "operator": None if growth is None else growth.operator,
        "factor": None if growth is None else growth.factor,
        "model": {"params": shape.params, "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads},
        "batch_size": micro * accumulation,
        "seqlen": settings.seqlen,
        "restart_step": stage.restart_step,
        "steps": stage.steps,
        "rewarm": 0 if growth is None else settings.rewarm,
        "learning_rate": round(stage.learning_rate, 9),
        "loss": round(stage.loss, 4),
        "compute": float(stage.compute),
        "commands": [shlex.join(one) for one in _commands(number, stage, settings, config, is_last=is_last)],
    }


def _commands(
    number: int, stage: Stage, settings: RunSettings, config: Path, *, is_last: bool
) -> Sequence[Sequence[str]]:
    micro, accumulation = batches(stage.batch_tokens, settings.seqlen)
    sizes = ["--batch-size", str(micro), "--grad-accum", str(accumulation), "--seqlen", str(settings.seqlen)]
    # a stage that will be grown stays at its peak; the last one ends with a decay
    course = ["--lr", f"{stage.learning_rate:.6g}", "--schedule", "wsd" if is_last else "constant"]
    common = ["--train-steps", str(stage.last_step), *sizes, *course]
    train = ["ckptgrow", "train", "--data", settings.data, "--out", f"stage-{number}"]
    if stage.growth is None:
        return [[*train, "--config", config.name, *common]]
    grown = f"stage-{number}.ckpt"
    return [*_growing(stage.growth, number, stage, settings, grown), [*train, "--resume", grown, *common]]


def _growing(growth: Growth, number: int, stage: Stage, settings: RunSettings, grown: str) -> list[list[str]]:
    """Width before depth; the last growth moves the schedule."""
    trained = f"stage-{number - 1}/checkpoints/last.ckpt"
    schedule = ["--step", str(stage.restart_step), "--rewarm", str(settings.rewarm)]
    factor = ["--factor", str(growth.factor)]
    if growth.operator != "both":
        return [["ckptgrow", growth.operator, trained, grown, *factor, *schedule]]
    wide = f"stage-{number}-wide.ckpt"
    return [["ckptgrow", "width", trained, wide, *factor], ["ckptgrow", "depth", wide, grown, *factor, *schedule]]


def batches(tokens: float, seqlen: int) -> tuple[int, int]:
    """Sequences a micro-batch, and micro-batches a step, that come nearest to so many tokens a step."""
    sequences = max(1, round(tokens / seqlen))
    if sequences <= MICRO_BATCH:
        return sequences, 1
    return MICRO_BATCH, max(1, round(sequences / MICRO_BATCH))
