"""Optimizer state with its parameters by name: groups of options, and one record of tensors and numbers a parameter.

torch numbers parameters; who they are is known from `param_names` in the groups, from the orders that real trainers
use (accepted only if every shape fits and all fitting orders agree), or from a file with the names in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptgrow.checkpoints.tensors import LazyTensor
from ckptgrow.errors import OptimizerError, listing

Shape = tuple[int, ...]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class ParameterGroup:
    """Options (lr, betas, …) and the names, in order, of the parameters that they apply to."""

    options: Mapping[str, Any]
    names: tuple[str, ...]
    has_param_names: bool = False

    def with_options(self, **options: Any) -> ParameterGroup:
        """The same group with some options changed."""
        return replace(self, options={**self.options, **options})


@dataclass(frozen=True)
class OptimizerState:
    """One optimizer's state; `state` maps a parameter's name to its record."""

    groups: tuple[ParameterGroup, ...]
    state: Mapping[str, Record]
    other: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters, in the optimizer's order."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The keys that occur in the records, sorted."""
        return tuple(sorted({key for record in self.state.values() for key in record}))

    @property
    def group_of(self) -> Mapping[str, ParameterGroup]:
        """Each parameter's group."""
        return {name: group for group in self.groups for name in group.names}

    def to_torch(self) -> dict[str, Any]:
        """The form of `torch.optim.Optimizer.state_dict()`."""
        number = {name: position for position, name in enumerate(self.names)}
        groups: list[dict[str, Any]] = []
        for group in self.groups:
            entry = {**group.options, "params": [number[name] for name in group.names]}
            if group.has_param_names:
                entry["param_names"] = list(group.names)
            groups.append(entry)
        records = {number[name]: dict(record) for name, record in self.state.items()}
        return {**self.other, "state": dict(sorted(records.items())), "param_groups": groups}


def from_torch(
    raw: Mapping[str, Any], shapes: Mapping[str, Shape], where: str, order: Sequence[str] | None = None
) -> OptimizerState:
    """Names the parameters of a torch optimizer's state dict.

    `shapes` are the trainable parameters in model order; `order` is the user's own list of names.
    Raises OptimizerError where the state does not fit, or fits in ways that disagree.
    """
    if not isinstance(raw.get("state"), dict) or not isinstance(raw.get("param_groups"), list):
        raise OptimizerError(f"{where}: holds {listing(raw)}, expected torch's 'state' and 'param_groups'")
    groups: list[dict[str, Any]] = raw["param_groups"]
    state: dict[Any, dict[str, Any]] = raw["state"]
    numbers = [number for group in groups for number in group["params"]]
    stray = [number for number in state if number not in set(numbers)]
    if stray or len(set(numbers)) != len(numbers):
        raise OptimizerError(f"{where}: state of parameters {listing(stray or numbers)}, expected each in one group")
    names = _named(groups, numbers, state, shapes, where, order)
    name_of = dict(zip(numbers, names, strict=True))
    _check_records(state, name_of, shapes, where)
    kept = {"params", "param_names"}
    named_groups = tuple(
        ParameterGroup(
            {key: value for key, value in group.items() if key not in kept},
            tuple(name_of[number] for number in group["params"]),
            "param_names" in group,
        )
        for group in groups
    )
    other = {key: value for key, value in raw.items() if key not in ("state", "param_groups")}
    return OptimizerState(named_groups, {name_of[number]: record for number, record in state.items()}, other)


def _named(
    groups: Sequence[Mapping[str, Any]],
    numbers: Sequence[Any],
    state: Mapping[Any, Record],
    shapes: Mapping[str, Shape],
    where: str,
    order: Sequence[str] | None,
) -> list[str]:
    if order is not None:
        return _from_list(order, numbers, shapes, f"{where} (--param-order)")
    if all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
        return _from_list(names, numbers, shapes, f"{where} (param_names)")
    sizes = [len(group["params"]) for group in groups]
    fitting = {
        tuple(candidate)
        for candidate in _trainers_orders(shapes, sizes)
        if len(candidate) == len(numbers) and _fits(candidate, numbers, state, shapes)
    }
    if len(fitting) == 1:
        return list(fitting.pop())
    found = f"{len(numbers)} parameters in groups of {listing(sizes)}"
    if not fitting:
        raise OptimizerError(
            f"{where}: {found} fit the model's {len(shapes)} parameters in no order that trainers use, expected one "
            "with equal shapes; list the names in the optimizer's order in a file and pass --param-order FILE"
        )
    raise OptimizerError(
        f"{where}: {found} fit the model in {len(fitting)} orders; pass --param-order FILE to say which"
    )


def _from_list(names: Sequence[str], numbers: Sequence[Any], shapes: Mapping[str, Shape], where: str) -> list[str]:
    resolved = [_resolve(name, shapes) for name in names]
    unknown = [name for name, found in zip(names, resolved, strict=True) if found is None]
    known = [name for name in resolved if name is not None]
    if unknown or len(names) != len(numbers) or len(set(known)) != len(known):
        found = f"unknown {listing(unknown)}" if unknown else f"{len(set(names))} names"
        raise OptimizerError(f"{where}: {found}, expected the name of each of the {len(numbers)} parameters once")
    return known


def _resolve(name: str, shapes: Mapping[str, Shape]) -> str | None:
    """A name as the checkpoint has it: the same, or with a prefix more or less."""
    if name in shapes:
        return name
    matches = [known for known in shapes if known.endswith("." + name) or name.endswith("." + known)]
    return matches[0] if len(matches) == 1 else None


def _trainers_orders(shapes: Mapping[str, Shape], sizes: Sequence[int]) -> Iterable[list[str]]:
    """Orders that real trainers produce: the model's; decay before no decay (by name, or by dimension); reversed."""
    model_order = list(shapes)
    yield model_order
    is_undecayed = {
        "by name": lambda name: name.endswith("bias") or "norm" in name.lower() or ".ln_" in name,
        "by dimension": lambda name: len(shapes[name]) < 2,
    }
    if len(sizes) < 2:
        return
    for undecayed in is_undecayed.values():
        decayed = [name for name in model_order if not undecayed(name)]
        others = [name for name in model_order if undecayed(name)]
        for first, second in ((decayed, others), (others, decayed)):
            if list(sizes) == [len(first), len(second)]:
                yield first + second


def _fits(
    names: Sequence[str], numbers: Sequence[Any], state: Mapping[Any, Record], shapes: Mapping[str, Shape]
) -> bool:
    return all(_record_fits(state.get(number, {}), shapes[name]) for name, number in zip(names, numbers, strict=True))


def _record_fits(record: Record, shape: Shape) -> bool:
    return all(
        value.shape == shape for value in record.values() if isinstance(value, LazyTensor) and len(value.shape) > 0
    )


def _check_records(
    state: Mapping[Any, Record], name_of: Mapping[Any, str], shapes: Mapping[str, Shape], where: str
) -> None:
    for number, record in state.items():
        name = name_of[number]
        for key, value in record.items():
            if isinstance(value, LazyTensor) and value.shape and value.shape != shapes[name]:
                raise OptimizerError(
                    f"{where}: {key} of {name} has shape {list(value.shape)}, expected {list(shapes[name])}"
                )
