"""Where a tree that torch saved keeps the parts of a training state, whoever wrote it.

Optimizers, schedulers, loss scaling and averages of the weights are known by their form, wherever they lie. The model
and the step are known by the words that people use for them. What is not a place is carried as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ckptgrow.errors import CheckpointError, listing
from ckptgrow.formats.checkpoint import Order
from ckptgrow.formats.pickled_configs import config_in
from ckptgrow.storage.tensors import Stored, is_lazy
from ckptgrow.storage.tree import Keys, node_at, path_text

# The first word that is there counts.
MODEL_WORDS = (
    *("model", "model_state_dict", "state_dict", "model_state", "module", "net", "network", "weights", "params"),
    "parameters",
)
STEP_PLACES: tuple[Keys, ...] = (
    *((word,) for word in ("global_step", "global_steps", "step", "steps", "step_count", "num_steps", "current_step")),
    *((word,) for word in ("iter_num", "iteration", "iterations", "iter", "it", "steps_run")),
    *(("train_state", "step"), ("trainer_state", "global_step"), ("state", "timestamp", "Timestamp", "batch")),
)
EPOCH_PLACES: tuple[Keys, ...] = (
    *(("epoch",), ("current_epoch",), ("epochs_run",)),
    ("state", "timestamp", "Timestamp", "epoch"),
)
INTEGRATED = ("state", "integrations", "huggingface", "model", "config")  # Composer's: the content, and whose class
COUNTERS = ("n_averaged", "initted", "step")  # torch's AveragedModel counts in the first, ema-pytorch in the others
SHADOWS = "shadow_params"  # of diffusers' EMAModel: the average's tensors in the order of the model's parameters
DEEPEST = 4  # keys that lead to a part; deeper ones are parts of something else


@dataclass(frozen=True, kw_only=True)
class Places:
    """The keys that lead to each part; () is the top itself, None a part that is not there.

    `config_object` is what lay at `config`; `lists` are the averages that are lists of tensors.
    """

    model: Keys = ("model",)
    averages: tuple[Keys, ...] = ()
    lists: tuple[Keys, ...] = ()
    optimizers: tuple[Keys, ...] = ()
    schedulers: tuple[Keys, ...] = ()
    scaler: Keys | None = None
    step: Keys | None = None
    epoch: Keys | None = None
    config: Keys | None = None
    config_object: Any = None
    order: Order = "file"

    @property
    def taken(self) -> tuple[Keys, ...]:
        """All places but the top."""
        several = (self.model, *self.averages, *self.lists, *self.optimizers, *self.schedulers)
        return tuple(one for one in (*several, self.scaler, self.step, self.config) if one)

    def prefix_of(self, average: Keys) -> str:
        """What stands before the names of an average's tensors among those of the model."""
        return "".join(f"{key}." for key in average)


def found_in(tree: Mapping[str, Any], roots: Sequence[Keys] = ((),)) -> Places:
    """The places of a tree's parts; `roots` are the tops of its files.

    Raises CheckpointError where it has no model, or several things that could be one.
    """
    nodes = list(_dicts(tree, ()))
    optimizers = tuple(keys for keys, node in nodes if is_optimizer(node))
    schedulers = tuple(keys for keys, node in nodes if _is_scheduler(node))
    inside = [*optimizers, *schedulers]
    others = [(keys, node) for keys, node in nodes if not any(keys[: len(one)] == one for one in inside)]
    models = [keys for keys, node in others if keys and _is_state_dict(node)]
    model = _model(tree, models)
    return Places(
        model=model,
        averages=tuple(one for one in models if one != model and _is_average(tree, model, one)),
        lists=tuple((*keys, SHADOWS) for keys, node in others if SHADOWS in node and _shadowed(tree, model, node)),
        optimizers=optimizers,
        schedulers=_outermost(schedulers),
        scaler=next((keys for keys, node in others if _is_scaler(node)), None),
        step=_counter(tree, roots, STEP_PLACES),
        epoch=_counter(tree, roots, EPOCH_PLACES),
        config=next((keys for keys in (*_configs(tree, ()), *_integrated(tree)) if keys), None),
    )


def model_tensors(tree: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The model's tensors by name, and behind them those of its averages, each under the keys that lead to it."""
    own = {str(name): one for name, one in node_at(tree, places.model).items() if is_lazy(one)}
    for average in places.averages:
        prefix = places.prefix_of(average)
        own |= {prefix + str(name): one for name, one in node_at(tree, average).items()}
    for keys in places.lists:
        names = _shadowed(tree, places.model, node_at(tree, keys[:-1]))
        own |= {places.prefix_of(keys) + name: one for name, one in zip(names, node_at(tree, keys), strict=True)}
    return own


def _shadowed(tree: Mapping[str, Any], model: Keys, node: Mapping[Any, Any]) -> list[str]:
    """The names of the tensors in a list that follows the model's parameters; empty where it does not.

    Parameters that are tied are in it once, under the first of their names.
    """
    own: dict[str, Any] = {str(name): one for name, one in node_at(tree, model).items() if is_lazy(one)}
    shadows: Any = node[SHADOWS]
    firsts: dict[object, str] = {}
    for name, one in own.items():
        firsts.setdefault((one.path, one.offset) if isinstance(one, Stored) else name, name)
    names = list(firsts.values())
    if not isinstance(shadows, list) or not all(map(is_lazy, shadows)):
        return []
    return names if [own[name].shape for name in names] == [one.shape for one in shadows] else []


def _dicts(node: Any, keys: Keys) -> Iterator[tuple[Keys, dict[Any, Any]]]:
    """All dicts of a tree that could be parts, outer ones first."""
    if isinstance(node, dict):
        yield keys, cast(dict[Any, Any], node)
    if len(keys) < DEEPEST and not is_optimizer(node) and not _is_state_dict(node):
        for key, value in _items(node):
            yield from _dicts(value, (*keys, key))


def _items(node: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(node, dict):
        yield from cast(dict[object, Any], node).items()
    elif isinstance(node, list | tuple):
        yield from enumerate(cast(Sequence[Any], node))


def is_optimizer(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("param_groups"), list) and "state" in node


def _is_scheduler(node: Any) -> bool:
    return isinstance(node, dict) and "last_epoch" in node and bool({"_step_count", "base_lrs", "_last_lr"} & {*node})


def _is_scaler(node: Mapping[Any, Any]) -> bool:
    return {"scale", "growth_factor", "backoff_factor"} <= node.keys()


def _is_state_dict(node: Any) -> bool:
    """Whether a node is a module's: tensors by dotted names, and nothing else."""
    return isinstance(node, dict) and any("." in str(key) for key in node) and all(map(is_lazy, node.values()))


def _model(tree: Mapping[str, Any], models: Sequence[Keys]) -> Keys:
    """The state dict that is the model's."""
    if any(is_lazy(value) for value in tree.values()) and any("." in key for key in tree):
        return ()
    for word in MODEL_WORDS:
        called = [keys for keys in models if word in map(_stem, keys)]
        if called:
            return min(called, key=len)
    if len(models) == 1:
        return models[0]
    what = f"{listing(map(path_text, models))} could each be the model" if models else f"{listing(tree)} and no model"
    raise CheckpointError(
        f"holds {what}, expected its tensors by name under one of {', '.join(MODEL_WORDS[:6])}, or at the top; save it "
        "again so"
    )


def _stem(key: object) -> str:
    """A key, or what a file is called."""
    return str(key).rpartition(".")[0] or str(key)


def _is_average(tree: Mapping[str, Any], model: Keys, other: Keys) -> bool:
    """Whether a state dict has the model's tensors, under its names or under one prefix more."""
    own: dict[str, Any] = {name: one for name, one in node_at(tree, model).items() if is_lazy(one)}
    theirs = [name for name in node_at(tree, other) if name.rpartition(".")[2] not in COUNTERS]
    if own.keys() == {*theirs} or {name.partition(".")[2] for name in own} == {*theirs}:
        return True
    copies: dict[str, set[str]] = {}  # ema-pytorch keeps the model beside its average, each under a word
    for name in theirs:
        copies.setdefault(name.partition(".")[0], set()).add(name.partition(".")[2])
    return bool(copies) and all(own.keys() == names for names in copies.values())


def _counter(tree: Mapping[str, Any], roots: Sequence[Keys], places: Sequence[Keys]) -> Keys | None:
    """The first place of a count."""
    for keys in ((*root, *place) for place in places for root in roots):
        value = node_at(tree, keys)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return keys
    return None


def _configs(node: Any, keys: Keys) -> Iterator[Keys]:
    """Transformers' configs, outer ones first: mappings with a model_type, or transformers' objects."""
    if config_in(node) is not None or (isinstance(node, dict) and isinstance(node.get("model_type"), str)):
        yield keys
    elif len(keys) < DEEPEST and isinstance(node, dict) and not is_optimizer(node) and not _is_state_dict(node):
        for key, value in cast(dict[object, Any], node).items():
            yield from _configs(value, (*keys, key))


def _integrated(tree: Mapping[str, Any]) -> Iterator[Keys]:
    """Transformers' config where Composer puts it: that of other classes has fields of their own."""
    node = node_at(tree, INTEGRATED)
    if isinstance(node, dict) and str(node.get("class")).startswith("transformers."):
        yield (*INTEGRATED, "content")


def _outermost(places: Sequence[Keys]) -> tuple[Keys, ...]:
    """Those that do not lie inside another: a chain's schedulers are part of it."""
    return tuple(
        one for one in places if not any(len(other) < len(one) and one[: len(other)] == other for other in places)
    )
