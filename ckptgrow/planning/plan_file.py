"""Writes `plan.yaml`: the stages of a plan with the commands that run them; beside it the first model's config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.planning.executed import Executed, executed
from ckptgrow.planning.law_plan import LawPlan, Stage
from ckptgrow.planning.operators import GrowthStep
from ckptgrow.planning.shapes import Shape, shapes
from ckptgrow.state.original_config import GPT2_VOCABULARY

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the commands need besides the plan.

    `data`: the directory of prepared data; `seqlen`: tokens in a sequence; `rewarm`: steps of a new warm-up after
    growth, None for as many as `train` takes by itself; `lr_rule`: the name of the rule for learning rates; `warmup`:
    the first stage's warm-up, from its steps.
    """

    data: str
    seqlen: int
    rewarm: int | None
    lr_rule: str
    warmup: Callable[[int], int]


def plan_file(path: Path, plan: LawPlan, settings: RunSettings) -> tuple[Path, Path]:
    """Writes `plan.yaml` and the first stage's config; returns both paths.

    Raises ValueError where a growth has a ratio that no operator makes, and RequestError where a stage cannot be
    executed as planned; then nothing is written.
    """
    import yaml

    growths = _growths(plan)
    models = shapes(plan.stages[0].params, growths)
    config = path.with_name(path.stem + ".config.json")
    runs = _executed(plan, settings)
    stages = [
        _stage(number, (stage, run, shape), settings, config, is_last=number == len(plan.stages))
        for number, (stage, run, shape) in enumerate(zip(plan.stages, runs, models, strict=True), start=1)
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
    """The size of the vocabulary: that of the prepared data if they exist, else GPT-2's."""
    try:
        return int(json.loads((data / "meta.json").read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return GPT2_VOCABULARY


def _growths(plan: LawPlan) -> list[GrowthStep]:
    found = [one.growth for one in plan.stages[1:]]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        raise ValueError("a growth is of any ratio, which no operator makes")
    return known


def _executed(plan: LawPlan, settings: RunSettings) -> list[Executed]:
    first = executed(1, plan.stages[0], settings.seqlen, 0, 0)
    warmup = settings.warmup(first.steps)
    return [
        executed(number, stage, settings.seqlen, warmup, settings.rewarm)
        for number, stage in enumerate(plan.stages, start=1)
    ]


def _stage(
    number: int, parts: tuple[Stage, Executed, Shape], settings: RunSettings, config: Path, *, is_last: bool
) -> dict[str, object]:
    stage, run, shape = parts
    growth = stage.growth
    commands = _commands(number, growth, run, settings, config, is_last=is_last)
    return {
        "name": f"stage-{number}",
        "operator": None if growth is None else growth.operator,
        "factor": None if growth is None else growth.factor,
        "model": {"params": shape.params, "layers": shape.layers, "hidden": shape.hidden, "heads": shape.heads},
        "batch_size": run.sequences,
        "seqlen": run.seqlen,
        "restart_step": run.restart_step,
        "steps": run.steps,
        "tokens": run.tokens,
        "warmup": run.warmup,
        **({} if run.rewarm is None else {"rewarm": run.rewarm}),
        "learning_rate": run.learning_rate,
        "loss": round(stage.loss, 4),
        "compute": float(stage.compute),
        "commands": [shlex.join(one) for one in commands],
    }


def _commands(
    number: int, growth: GrowthStep | None, run: Executed, settings: RunSettings, config: Path, *, is_last: bool
) -> Sequence[Sequence[str]]:
    sizes = ["--batch-size", str(run.micro), "--grad-accum", str(run.accumulation), "--seqlen", str(run.seqlen)]
    # a stage that will be grown stays at its peak; the last one ends with a decay
    course = ["--lr", f"{run.learning_rate:.6g}", "--schedule", "wsd" if is_last else "constant"]
    common = ["--train-steps", str(run.last_step), "--warmup-steps", str(run.warmup), *sizes, *course]
    train = ["ckptgrow", "train", "--data", settings.data, "--out", f"stage-{number}"]
    if growth is None:
        return [[*train, "--config", config.name, *common]]
    grown = f"stage-{number}.ckpt"
    rise = ["--rewarm", "0"] if run.rewarm == 0 else []
    return [*_growing(growth, number, run, grown), [*train, "--resume", grown, *common, *rise]]


def _growing(growth: GrowthStep, number: int, run: Executed, grown: str) -> list[list[str]]:
    """The commands of a growth: width before depth, and the last of them moves the schedule."""
    trained = f"stage-{number - 1}/checkpoints/last.ckpt"
    schedule = ["--step", str(run.restart_step), *(["--rewarm", str(run.rewarm)] if run.rewarm else [])]
    factor = ["--factor", str(growth.factor)]
    if growth.operator != "both":
        return [["ckptgrow", growth.operator, trained, grown, *factor, *schedule]]
    wide = f"stage-{number}-wide.ckpt"
    return [["ckptgrow", "width", trained, wide, *factor], ["ckptgrow", "depth", wide, grown, *factor, *schedule]]
