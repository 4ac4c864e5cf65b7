"""What `width` and `depth` have in common: options, the progress bar, the sentence about the result, the JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ckptgrow.choices import Part, StepWord, words_of
from ckptgrow.commands import _options as options
from ckptgrow.commands._screen import Advance, Screen
from ckptgrow.commands._spelling import spelled
from ckptgrow.commands._values import byte_size, chosen_by_commas
from ckptgrow.errors import RequestError

if TYPE_CHECKING:
    from ckptgrow.growth.request import GrowthResult, StateRequest, StepChoice

TRAPPED = (
    "the grown model is trapped: its copies get equal gradients and stay equal for ever, so it computes nothing the "
    "small one could not. Train with dropout, or grow with --separate split (changes no output)"
)


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """The options that say how the training state is carried over."""

    lr_rule: options.LrRuleOption = "keep"
    step: options.StepOption = "keep"
    schedule: options.ScheduleOption = ""
    rewarm: options.RewarmOption = 0
    reset: options.ResetOption = ""
    moments: options.MomentsOption = "algebra"
    config: options.ConfigOption = None
    dialect: options.DialectOption = None
    param_order: options.ParamOrderOption = None
    drop: options.DropOption = None
    allow_nonfinite: options.AllowNonfiniteOption = False
    max_shard_size: options.MaxShardSizeOption = "5GB"
    force: options.ForceOption = False

    def request(self, **others: Any) -> StateRequest:
        """What they ask for, and `others`, which one operator has alone; raises RequestError where a value is wrong."""
        from ckptgrow.growth.request import StateRequest

        return StateRequest(
            lr_rule=self.lr_rule,
            step=_step_choice(self.step),
            schedule=self.schedule,
            rewarm=self.rewarm,
            reset=_reset_parts(self.reset),
            moments=self.moments,
            config=self.config,
            dialect=self.dialect,
            param_order=self.param_order,
            drop=tuple(self.drop or ()),
            allow_nonfinite=self.allow_nonfinite,
            max_shard_bytes=byte_size("--max-shard-size", self.max_shard_size),
            force=self.force,
            **others,
        )


def _step_choice(value: str) -> StepChoice:
    """The value of --step: `keep`, `auto`, or a number of steps; raises RequestError for others."""
    if value in words_of(StepWord):
        return cast("StepWord", value)
    try:
        step = int(value)
    except ValueError as error:
        raise RequestError(f"--step {value}: expected keep, auto or a whole number") from error
    if step < 0:
        raise RequestError(f"--step {value}: expected a step from 0 on")
    return step


def _reset_parts(value: str) -> tuple[Part, ...]:
    """The parts of --reset, which commas separate; raises RequestError for unknown ones."""
    return cast("tuple[Part, ...]", chosen_by_commas("--reset", value, words_of(Part)))


def show(
    run: Callable[[Callable[[int], Advance]], GrowthResult],
    source: Path,
    screen: Screen,
    verb: str,
    measured: Callable[[GrowthResult], list[str]] = lambda done: [],
) -> None:
    """Runs a growth with a progress bar and tells what it did, with the notes that `measured` makes on the result."""
    with screen.progress_later(f"{verb} {source.name}") as progress:
        done = run(progress)
    done = replace(done, notes=tuple(map(spelled, (*done.notes, *measured(done)))))
    screen.say(_sentence(done, source))
    for note in done.notes:
        screen.say(f"note: {note}")
    if done.trapped:
        screen.warn(TRAPPED)
    screen.result(_as_json(done))


def _sentence(done: GrowthResult, source: Path) -> str:
    changes = ", ".join(
        f"{name} {done.old[name]} → {size}" for name, size in done.new.items() if done.old.get(name) != size
    )
    old, new = done.num_parameters
    step = "" if done.step[0] == done.step[1] else f", step {done.step[0]} → {done.step[1]}"
    return f"{source} → {done.out}: {changes}; {old:,} → {new:,} parameters; lr rule {done.lr_rule}{step}."


def _as_json(done: GrowthResult) -> Mapping[str, object]:
    return {
        "out": str(done.out),
        "old": done.old,
        "new": done.new,
        "num_parameters": list(done.num_parameters),
        "trapped": done.trapped,
        "lr_rule": done.lr_rule,
        "step": list(done.step),
        "notes": list(done.notes),
    }
