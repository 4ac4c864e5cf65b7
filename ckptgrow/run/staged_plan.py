"""What a staged training is asked to do: the plan, as files have it.

A plan that `ckptgrow plan law --out` wrote is one; its expectations (`loss`, `compute`, …) are shown beside what the
run measures. Options of training, growth and verification are those of the commands, by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ckptgrow.choices import OperatorName, ScheduleKind, StepWord
from ckptgrow.recipes.typed_values import Options, said
from ckptgrow.verification.verify_settings import VerifySettings

PROBE = "probe"
Keep = Literal["all", "ends", "newest"]


def verify_options() -> Options:
    """Every option of `ckptgrow verify`."""
    return Options(get_type_hints(VerifySettings))


@dataclass(frozen=True, kw_only=True)
class GrowWhen:
    """When a stage ends, where its own learning curve decides."""

    when: Literal["slope"] = said("'slope': where the validation loss falls so slowly that growing pays.")
    tau: float | Literal["auto"] = said(
        "The slope d log loss / d log compute at which to grow; 'auto' is the staged-training paper's for the next "
        "stage's operator.",
        "auto",
    )
    at_most: int = said("Optimizer steps of the stage at most, where the slope never gets there.")


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What is measured of a stage's last checkpoint, besides the validation loss that training logs."""

    perplexity: tuple[str, ...] = said("Files whose loss by token is measured; 'val' is the data's own val.bin.", ())
    tasks: tuple[str, ...] = said("Tasks of lm-eval, by their names there.", ())
    data: Mapping[str, str] = said("Local files by task, for lambada_openai and wikitext.", dict)
    tokenizer: str | None = said("A tokenizer's name, directory or 'bytes' [default: the data's].", None)
    limit: float | None = said("Documents of each task at most, or a share below 1.", None)
    num_fewshot: int | None = said("Examples before each question.", None)
    batch_size: int | Literal["auto"] = said("Sequences at once.", "auto")


@dataclass(frozen=True, kw_only=True)
class PlannedProbe:
    """How the recipe of a growth is chosen, where a stage says `recipe: probe`."""

    candidates: tuple[str, ...] = said(
        "Names in the operator's table, or recipes as typed: 'width --reset new' [default: all of the table].", ()
    )
    budget: str = said("FLOPs, or a share of those that the run has spent by then, as 2%.", "2%")
    steps: tuple[int, ...] = said("Steps at which the better half goes on, instead of a budget.", ())
    seeds: int = said("Draws of each recipe that draws.", 1)
    seed: int = said("The first draw's seed.", 0)
    sequences: int = said("Held-out sequences to compare by.", 256)


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One model: how it comes to be, and how it is trained."""

    name: str = said("The stage's directory in the run's [default: stage-1, stage-2, …].", "")
    operator: OperatorName | None = said("How it grows out of the stage before; none for the first.", None)
    factor: int | None = said("How many times as wide or deep [default: 2, where the recipe gives no sizes].", None)
    recipe: Mapping[str, Any] | Literal["probe"] = said(
        "Options of the growth, as `ckptgrow width` and `depth` have them; or 'probe': short trainings choose them.",
        dict,
    )
    probe: PlannedProbe = said("How they do, where the recipe is 'probe'.", PlannedProbe)
    restart_step: int | StepWord | None = said(
        "The schedule's step to go on from after the growth: a number, 'auto' or 'keep' [default: keep].", None
    )
    rewarm: int | None = said(
        "Steps over which the learning rate rises again after the growth [default: 3 % of the run's, none for "
        "probed recipes].",
        None,
    )
    steps: int | None = said("Optimizer steps of this stage.", None)
    grow: GrowWhen | None = said("When to grow to the next stage, instead of a number of steps.", None)
    until_loss: float | None = said("End earlier, at the validation whose loss is at most so many nats.", None)
    batch_size: int | None = said("Sequences a step, over all devices [default: those of the stage before].", None)
    micro_batch: int | None = said("Sequences a device has at once, at most [default: 32].", None)
    seqlen: int | None = said("Tokens a sequence.", None)
    learning_rate: float | None = said("Peak learning rate [default: by size, then that of the stage before].", None)
    schedule: ScheduleKind | None = said(
        "The learning rate's course [default: constant, and wsd in the last stage, which decays].", None
    )
    warmup: int | None = said("Steps of warm-up, counted from the first stage's beginning.", None)
    warmup_share: float | None = said("The same as a share of the steps up to this stage's end.", None)
    train: Mapping[str, Any] = said("Options of `ckptgrow train` for this stage alone.", dict)
    evaluate: Evaluations | None = said("What is evaluated at the stage's end [default: the plan's].", None)
    model: Mapping[str, Any] = said("Expected sizes, as a planner wrote them; shown, not executed.", dict)
    tokens: float | None = said("Expected tokens of the stage; shown, not executed.", None)
    loss: float | None = said("Expected loss at its end in nats; shown, not executed.", None)
    compute: float | None = said("Expected FLOPs; shown, not executed.", None)
    commands: tuple[str, ...] = said("The same by hand, as a planner wrote them; not executed.", ())


@dataclass(frozen=True, kw_only=True)
class StagedPlan:
    """A staged training."""

    stages: tuple[PlannedStage, ...] = said("The models, one after the other.")
    version: int = said("Of this format.", 1)
    config: str | Mapping[str, Any] | None = said("The first model: a transformers config, or its file.", None)
    size: str | None = said("The first model: one of the staged-training script's sizes, as GPT2_base.", None)
    checkpoint: str | None = said("A checkpoint that the first stage goes on from, instead of a new model.", None)
    init_from: str | None = said("A checkpoint whose weights alone the first stage begins with.", None)
    data: str | Mapping[str, float] | None = said(
        "A directory that `ckptgrow data` wrote, or several with their weights, where --data does not say.", None
    )
    train: Mapping[str, Any] = said("Options of `ckptgrow train` for all stages.", dict)
    verify: Mapping[str, Any] = said("Options of `ckptgrow verify` for all growths.", dict)
    evaluate: Evaluations | None = said("What is evaluated at every stage's end.", None)
    keep: Keep = said(
        "Which checkpoints stay: 'all', the 'ends' of all stages, or of the 'newest' stage alone, once the next one "
        "is verified and trained.",
        "all",
    )
    slurm: Mapping[str, Any] = said("Options of sbatch for --slurm, as partition or time.", dict)
    law: str | None = said("The scaling law of the planner; shown, not executed.", None)
    lr_rule: str | None = said("The planner's rule of learning rates; shown, not executed.", None)
    compute: float | None = said("Expected FLOPs in all; shown, not executed.", None)
    compute_alone: float | None = said("Expected FLOPs of the last model from scratch; shown, not executed.", None)
    saving: float | None = said("Expected share saved; shown, not executed.", None)

    def after(self, number: int) -> PlannedStage | None:
        """The stage behind one, counted from 0; None behind the last."""
        return self.stages[number + 1] if number + 1 < len(self.stages) else None


def path_beside(plan: Path, name: str) -> Path:
    """A file that a plan names: relative to the plan."""
    return plan.parent / name
