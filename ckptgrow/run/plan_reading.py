"""Plans from files, checked as a whole before anything runs; and the schema by which editors complete them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptgrow.data.directories import directories_in, spelled
from ckptgrow.errors import ConfigError, RequestError, at, reason_of, within
from ckptgrow.recipes.recipe_options import (
    OF_NEW_OPTIMIZERS,
    OF_STAGES,
    OPERATORS,
    growth_options,
    train_fields,
    typed_train_options,
)
from ckptgrow.recipes.typed_values import Options, check_number, made, schema_of_class
from ckptgrow.run.probe_job import ProbeJob
from ckptgrow.run.staged_plan import (
    PROBE,
    Evaluations,
    GrowWhen,
    PlannedProbe,
    PlannedStage,
    StagedPlan,
    path_beside,
    verify_options,
)
from ckptgrow.run.train_job import makes_model, makes_optimizer
from ckptgrow.storage.files.json_files import config_in_file

VERSION = 1
# what the command's function calls otherwise
IN_HELPS = {"eps": "adam_epsilon", "betas": "adam_beta1", "compile": "compile_model"}
FOR_ALL_STAGES = (*OF_STAGES, "reset")  # what no plan's own options of training can be
# the options that stages have under names of their own: their numbers have the same ranges
OPTION_OF = {
    "steps": "train_steps",
    "at_most": "train_steps",
    "micro_batch": "batch_size",
    "restart_step": "step",
    "learning_rate": "lr",
    "warmup": "warmup_steps",
    "tau": "until_slope",
}
FIRST_MODELS = ("config", "size", "checkpoint", "init_from")
Helps = Mapping[str, Mapping[str, str]]  # what options do, by command


def read_plan(path: Path) -> StagedPlan:
    """A plan from YAML or JSON, its first model's config in it and its stages named.

    Raises RequestError that names the field for what cannot be executed, ConfigError for the first model's config.
    """
    with at(path):
        plan = made(StagedPlan, _tree(path), "plan")
        if isinstance(plan.config, str):
            plan = replace(plan, config=_config_beside(path, plan.config))
        for name in ("checkpoint", "init_from"):
            if (file := getattr(plan, name)) is not None:
                plan = replace(plan, **{name: str(path_beside(path, file))})
        if plan.data is not None:
            plan = replace(plan, data=_data(path, plan.data))
        return _whole(plan)


def plan_in(tree: Mapping[str, Any]) -> tuple[StagedPlan, str]:
    """The plan and the data that a run's journal says."""
    fields = {name: value for name, value in tree.items() if name != "data"}
    return _whole(made(StagedPlan, fields, "plan")), str(tree["data"])


def _whole(plan: StagedPlan) -> StagedPlan:
    """Checked, its stages named; raises RequestError."""
    if plan.version != VERSION:
        raise RequestError(f"version: is {plan.version}, expected {VERSION}; this ckptgrow knows no other")
    if not plan.stages:
        raise RequestError("stages: is empty, expected at least one")
    stages = tuple(replace(one, name=one.name or f"stage-{number}") for number, one in enumerate(plan.stages, start=1))
    plan = replace(plan, stages=stages)
    _check(plan)
    return replace(
        plan,
        train=typed_train_options(FOR_ALL_STAGES).checked(plan.train, "train"),
        verify=verify_options().checked(plan.verify, "verify"),
        stages=tuple(_checked(plan, number) for number in range(len(stages))),
    )


def plan_schema(helps: Helps) -> dict[str, Any]:
    """The plan as JSON schema; `helps` say what the options of `width`, `depth`, `train` and `verify` do."""
    tree = schema_of_class(StagedPlan)
    growth: dict[str, Any] = {}
    for operator in ("depth", "width"):
        growth |= _described(growth_options(operator), helps.get(operator, {}))["properties"]
    train, for_all = (
        _described(typed_train_options(without), helps.get("train", {})) for without in (OF_STAGES, FOR_ALL_STAGES)
    )
    stages = schema_of_class(PlannedStage)
    stages["properties"]["train"] = {**train, "description": stages["properties"]["train"]["description"]}
    recipe = {"type": "object", "additionalProperties": False, "properties": growth}
    by_probe = {"enum": [PROBE]}
    said = stages["properties"]["recipe"]["description"]
    stages["properties"]["recipe"] = {"anyOf": [recipe, by_probe], "description": said}
    properties = tree["properties"]
    properties["stages"] = {"type": "array", "items": stages, "description": properties["stages"]["description"]}
    properties["train"] = {**for_all, "description": properties["train"]["description"]}
    verify = _described(verify_options(), helps.get("verify", {}))
    properties["verify"] = {**verify, "description": properties["verify"]["description"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ckptgrow plan", **tree}


def _described(options: Options, helps: Mapping[str, str]) -> dict[str, Any]:
    others = {name: helps[spelled] for name, spelled in IN_HELPS.items() if spelled in helps}
    return Options(options.types, {**others, **helps}).schema()


def _tree(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError("is no text, expected a plan; checkpoints go on by `ckptgrow train --resume`") from error
    except OSError as error:
        raise RequestError(f"cannot be read ({reason_of(error)}), expected a plan") from error
    if path.suffix == ".json":
        try:
            return {name: value for name, value in json.loads(text).items() if name != "$schema"}
        except ValueError as error:
            raise RequestError(f"is not JSON ({error}), expected a plan") from error
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"is not YAML ({reason_of(error)}), expected a plan") from error


def _data(plan: Path, data: str | Mapping[str, float]) -> str:
    """The same in one word, its directories seen from the plan."""
    words = data if isinstance(data, str) else ",".join(f"{one}:{weight!r}" for one, weight in data.items())
    with at("data"):
        return spelled([(path_beside(plan, str(one)), weight) for one, weight in directories_in(words)])


def _config_beside(plan: Path, config: str) -> Mapping[str, Any]:
    with at("config"):
        return config_in_file(path_beside(plan, config))


def _check(plan: StagedPlan) -> None:
    """Raises RequestError for what contradicts itself."""
    models = [name for name in FIRST_MODELS if getattr(plan, name) is not None]
    if len(models) != 1:
        raise RequestError(
            f"the first model is said by {' and '.join(models) or 'nothing'}, expected one of "
            f"{', '.join(FIRST_MODELS[:-1])} and {FIRST_MODELS[-1]}"
        )
    if isinstance(plan.config, Mapping) and "model_type" not in plan.config:
        raise ConfigError("config: has no model_type, expected a transformers config")
    names = [one.name for one in plan.stages]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise RequestError(f"stages[{number}].name: is {name} again, expected a name of its own")
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
            raise RequestError(f"stages[{number}].name: is {name!r}, expected letters, digits, - and _")
    if plan.evaluate is not None:
        _check_numbers(plan.evaluate, "evaluate")
    for number, stage in enumerate(plan.stages):
        _check_stage(plan, number, stage)


def _check_stage(plan: StagedPlan, number: int, stage: PlannedStage) -> None:
    where, is_last = f"stages[{number}]", plan.after(number) is None
    if number == 0 and stage.operator is not None:
        raise RequestError(
            f"{where}.operator: is {stage.operator}, expected none: the first stage grows out of nothing"
        )
    if number > 0 and stage.operator is None:
        raise RequestError(f"{where}: lacks operator, expected width, depth or both")
    if (stage.steps is None) == (stage.grow is None):
        found = "both steps and grow" if stage.steps is not None else "neither steps nor grow"
        raise RequestError(f"{where}: has {found}, expected one of them")
    if stage.grow is not None and is_last:
        raise RequestError(f"{where}.grow: nothing comes behind the last stage, expected steps")
    if stage.warmup is not None and stage.warmup_share is not None:
        raise RequestError(f"{where}: has both warmup and warmup_share, expected one of them")
    _check_numbers(stage, where)
    _check_numbers(stage.probe, f"{where}.probe")
    for place, part in ((f"{where}.grow", stage.grow), (f"{where}.evaluate", stage.evaluate)):
        if part is not None:
            _check_numbers(part, place)


def _check_numbers(part: PlannedStage | PlannedProbe | GrowWhen | Evaluations, where: str) -> None:
    """Raises RequestError for a number that no run can have."""
    for name, value in vars(part).items():
        check_number(OPTION_OF.get(name, name), value, f"{where}.{name}")


def _checked(plan: StagedPlan, number: int) -> PlannedStage:
    """A stage with its options' values as the functions want them."""
    stage, where = plan.stages[number], f"stages[{number}]"
    train = typed_train_options().checked(stage.train, f"{where}.train")
    _check_beginnings(plan, replace(stage, train=train), number)
    known: dict[str, Any] = {}
    for operator in () if stage.operator is None else OPERATORS[stage.operator]:
        known |= growth_options(operator).types
    if stage.recipe and not known:
        raise RequestError(f"{where}.recipe: the first stage does not grow, expected none")
    if isinstance(stage.recipe, Mapping):
        return replace(stage, train=train, recipe=Options(known).checked(stage.recipe, f"{where}.recipe"))
    if stage.operator == "both":
        raise RequestError(f"{where}.recipe: a probe chooses for one operator, expected operator width or depth")
    with within(f"{where}.probe"):
        ProbeJob(number, stage).check()
    return replace(stage, train=train)


def _check_beginnings(plan: StagedPlan, stage: PlannedStage, number: int) -> None:
    """Raises RequestError for a stage's own options that a checkpoint to go on from has decided already."""
    given, where = train_fields(stage.train), f"stages[{number}].train"
    if "recipe" in given and not makes_model(plan, number):
        raise RequestError(f"{where}.recipe: is for a new model, expected it where the first stage makes one")
    if given.get("reset") and (number or plan.checkpoint is None):
        hint = "say it in the stage's recipe" if number else "leave it out"
        raise RequestError(f"{where}.reset: is for a checkpoint that the first stage goes on from; {hint}")
    decided = [name for name in OF_NEW_OPTIMIZERS if name in given]
    if decided and not makes_optimizer(plan, stage, number):
        raise RequestError(
            f"{where}: has {decided[0]}, which the optimizer's groups have already, expected none; say it for all "
            f"stages, or let the optimizer begin anew ({'recipe' if number else 'train'}: {{reset: optimizer}})"
        )
