"""Everything else in a checkpoint: each other key and file is as it was, apart from what a growth says it changes.

the step            of the run, and of the optimizer in Lightning's loops, where the growth set another one
the config          among the hyper-parameters; `configs` judges it
the history         `history` judges it
a Trainer's best    is cleared, because the small run's best checkpoint is not one of the grown run
left out            whatever the user dropped, as the history says
"""

from __future__ import annotations

import filecmp
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ckptgrow.data.token_texts import TOKENIZER_FILES
from ckptgrow.errors import listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.dcp import Keys as DistributedKeys
from ckptgrow.formats.huggingface import SAFETENSORS
from ckptgrow.formats.lightning import GROWTH_KEY
from ckptgrow.formats.sidecar_files import CONFIG, TRAINER_STATE, Files
from ckptgrow.state.run_data import DATA, DIRECTORY, TOKENIZER
from ckptgrow.storage.files.json_files import LARGEST_LOG, read_json
from ckptgrow.storage.pickles.opaque import Opaque
from ckptgrow.storage.tree import with_node
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences
from ckptgrow.verification.vocabularies import GENERATION, Vocabularies

Tree = Mapping[str, Any]
DIRECTORIES = ("huggingface", "trainer", "accelerate")  # one kind of directory, by what lies in it
BEST = ("best_metric", "best_model_checkpoint", "best_global_step")
OPTIMIZER_STEPS = (  # in Lightning's loops, automatic and manual optimization
    ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step"),
    ("epoch_loop.manual_optimization.optim_step_progress",),
)


def carried_problems(pair: Pair) -> list[str]:
    """Every key and file that is not as in the small checkpoint, in sentences."""
    small, grown = pair.small.checkpoint, pair.grown.checkpoint
    kinds = [DIRECTORIES[0] if one.kind in DIRECTORIES else one.kind for one in (small, grown)]
    if kinds[0] != kinds[1]:
        return [f"it is of kind {grown.kind}, expected {small.kind} as the small one; verify before it is converted"]
    problems: list[str] = []
    if small.position.data != grown.position.data:
        problems.append("the data position was moved, expected it as in the small checkpoint")
    problems += _key_problems(pair)
    problems += differences(grown.scaler, small.scaler, ("scaler",))
    problems += _file_problems(pair)
    return [*problems, *_name_problems(small, grown)]


def _key_problems(pair: Pair) -> Iterator[str]:
    small, grown = pair.small.checkpoint, pair.grown.checkpoint
    expected = dict(small.rest)
    step = grown.position.global_step
    if small.position.global_step != step:  # which the history has to tell
        expected |= {"global_step": step} if "global_step" in expected else {}
        expected |= {"loops": _moved_loops(expected["loops"], step)} if "loops" in expected else {}
        counters = small.layout.counters if isinstance(small.layout, DistributedKeys) else ()
        expected |= {name: with_node(expected[name], ("global_step",), step) for name in counters}
    found = dict(grown.rest)
    found.pop(GROWTH_KEY, None)
    expected.pop(GROWTH_KEY, None)
    for name in ("optimizer_states", "lr_schedulers"):  # their places; what is in them is judged by itself
        if expected.get(name, found.get(name)) is None:
            expected.setdefault(name, None)
            found.setdefault(name, None)
    arguments = [_without_config(one.pop("hyper_parameters", None)) for one in (found, expected)]
    arguments[1] = _of_new_tokenizer(arguments[1], Vocabularies.of(pair))
    yield from differences(arguments[0], arguments[1], ("hyper_parameters",))
    for name in found.keys() | expected.keys():
        if name not in found:
            yield f"{name} is missing, expected it as in the small checkpoint"
        elif name not in expected:
            yield f"{name} is additional, expected none as in the small checkpoint"
        else:
            yield from differences(found[name], expected[name], (name,))


def _moved_loops(loops: Any, step: int | None) -> Any:
    """Lightning's loops with every total of optimizer steps set to the run's step; counters of batches stay."""
    if not isinstance(loops, dict) or not isinstance(loops.get("fit_loop"), dict):
        return cast(Any, loops)
    fit_loop = loops["fit_loop"]
    for automatic, *inner in OPTIMIZER_STEPS:
        if automatic in fit_loop and _counted(fit_loop[automatic], inner):
            fit_loop = {**fit_loop, automatic: _with_total(fit_loop[automatic], inner, step)}
    return {**loops, "fit_loop": fit_loop}


def _counted(progress: Any, inner: list[str]) -> bool:
    """Whether these are the steps of the run; a counter of manual steps that never happened is not."""
    return bool(inner) or progress["total"]["completed"] > 0


def _with_total(progress: Any, inner: list[str], step: int | None) -> Any:
    if inner:
        return {**progress, inner[0]: _with_total(progress[inner[0]], inner[1:], step)}
    return {**progress, "total": dict.fromkeys(progress["total"], step)}


def _without_config(arguments: Any) -> Any:
    """Hyper-parameters without the model's config; of a pickled config object only the private fields stay."""
    if isinstance(arguments, Opaque):
        return arguments
    fields = dict(vars(arguments)) if isinstance(arguments, Namespace) else dict(arguments or {})
    config = fields.pop("config", None)
    if isinstance(config, Opaque) and isinstance(config.state, dict):
        state = cast(dict[Any, Any], config.state)
        fields["config"] = {key: value for key, value in state.items() if str(key).startswith("_")}
    elif not isinstance(config, dict | Namespace) and config is not None:
        fields["config"] = config
    return Namespace(**fields) if isinstance(arguments, Namespace) else fields


def _of_new_tokenizer(arguments: Any, vocabularies: Vocabularies | None) -> Any:
    """Hyper-parameters whose record of the run's data names another tokenizer, of which no data are known."""
    data = arguments.get(DATA) if isinstance(arguments, dict) else None
    if vocabularies is None or not isinstance(data, dict):
        return arguments
    kept = {key: value for key, value in cast(dict[str, Any], data).items() if key != DIRECTORY}
    return {**arguments, DATA: {**kept, TOKENIZER: str(vocabularies.record["tokenizer"])}}


def _file_problems(pair: Pair) -> Iterator[str]:
    """What is wrong with files beside the weights, compared byte by byte; a Trainer's state field by field, and files
    that name tokens by the vocabularies.
    """
    small, grown = pair.small.checkpoint, pair.grown.checkpoint
    vocabularies = Vocabularies.of(pair)
    judged_there = set(TOKENIZER_FILES) if vocabularies is not None else set[str]()
    old, new = (set(one.carried.files) - judged_there for one in (small, grown))
    for name in sorted(old - new):
        yield f"the file {name} is missing, expected it as in the small checkpoint"
    for name in sorted(new - old):
        yield f"the file {name} is additional, expected none as in the small checkpoint"
    for name in sorted(old & new):
        before, after = small.carried.directory / name, grown.carried.directory / name
        if name == TRAINER_STATE:
            expected, found = (read_json(path, LARGEST_LOG) for path in (before, after))
            cleared = {key: None if key in BEST else value for key, value in expected.items()}
            yield from differences(found, cleared, (TRAINER_STATE,))
        elif name == GENERATION and vocabularies is not None:
            yield from vocabularies.settings_problems(before, after)
        elif not filecmp.cmp(before, after, shallow=False):
            yield f"the file {name} is another than the small checkpoint's"
    if grown.carried.left_behind:
        yield f"{listing(grown.carried.left_behind)} is additional, expected none: growth leaves such files behind"
    config = grown.path / CONFIG
    if grown.kind not in DIRECTORIES and _is_transformers(small.path / CONFIG) and grown.config is not None:
        yield from differences(read_json(config), dict(grown.config), (CONFIG,))


def _is_transformers(config: Path) -> bool:
    """Whether there is a config, and it is transformers': a trainer's own is judged by what it is read as."""
    return config.is_file() and "model_type" in read_json(config)


def _name_problems(small: Checkpoint, grown: Checkpoint) -> Iterator[str]:
    """What is wrong with the names of the parts' files, and with the metadata of the weights' files."""
    old, new = small.layout, grown.layout
    if not isinstance(old, Files) or not isinstance(new, Files):
        return
    for part in ("optimizers", "schedulers"):
        before, after = getattr(old, part), getattr(new, part)
        if len(before) == len(after) and before != after:
            yield f"the files of {part} are {listing(after)}, expected {listing(before)}"
    if old.weights != new.weights:
        yield f"the weights lie in {listing(new.weights)}, expected {listing(old.weights)}"
    elif SAFETENSORS in new.weights:
        yield from differences(dict(new.metadata), {"format": "pt", **old.metadata}, ("metadata of the weights",))
