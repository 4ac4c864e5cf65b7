"""An optimizer's state as its file has it: groups and records whose parameters are called by number or by name.

torch numbers parameters, and may write `param_names` beside the numbers; consolidated and sharded states of FSDP have
the names in the numbers' place. Who the parameters are in the model is found out by `state.optimizer_state`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeGuard

from ckptgrow.errors import CheckpointError, at, listing
from ckptgrow.formats.bitsandbytes_records import as_bitsandbytes, as_torchs, block_of, wrapping_of
from ckptgrow.formats.checked_parts import listed
from ckptgrow.storage.tensors import is_lazy
from ckptgrow.storage.tree import Tree

Key = int | str
KeyedBy = Literal["number", "name"]
KeptAs = Literal["torch", "bitsandbytes", "bitsandbytes, bare", "flat"]
Record: TypeAlias = Mapping[str, Any]  # the entries of a parameter: tensors, numbers
Options: TypeAlias = Mapping[str, Any]  # of a group: numbers, switches, betas


@dataclass(frozen=True)
class RawGroup:
    """The options of a group (lr, betas, …) and the keys of its parameters, in order; `names` are what the file calls
    them, which are the keys themselves where it has no numbers, and None where it does not say.
    """

    options: Options
    keys: tuple[Key, ...]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RawOptimizer:
    """See the module's head; `records` are by the keys of the groups, `other` is what stands beside groups and
    records. `kept_as`: in torch's form; in bitsandbytes', wrapped or not; or as flat parameters, or others with one
    step for all.
    """

    groups: tuple[RawGroup, ...]
    records: Mapping[Key, Record]
    other: Mapping[str, Tree] = field(default_factory=dict[str, Tree])
    kept_as: KeptAs = "torch"

    @property
    def has_group_steps(self) -> bool:
        """Whether the file has one step for all parameters of a group."""
        return self.kept_as == "flat"

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of all parameters, in the optimizer's order."""
        return tuple(key for group in self.groups for key in group.keys)

    @property
    def keyed_by(self) -> KeyedBy:
        """What the parameters' keys are."""
        return "name" if self.keys and all(isinstance(key, str) for key in self.keys) else "number"

    def check_owners(self) -> None:
        """Raises CheckpointError for records of parameters in no group, and for parameters in two."""
        stray = set(self.records) - set(self.keys)
        if stray or len(set(self.keys)) != len(self.keys):
            raise CheckpointError(f"state of {listing(stray or self.keys)}, expected each in one of its groups")

    def to_torch(self) -> dict[str, Tree]:
        """The form of `torch.optim.Optimizer.state_dict()`, by number or by name as this is."""
        has_numbers = self.keyed_by == "number"
        groups = [
            {
                **group.options,
                "params": list(group.keys),
                **({"param_names": list(group.names)} if has_numbers and group.names is not None else {}),
            }
            for group in self.groups
        ]
        records = {key: self._written(record) for key, record in self.records.items()}
        return {**self.other, "state": records, "param_groups": groups}

    def _written(self, record: Record) -> dict[str, Tree]:
        if self.kept_as in ("bitsandbytes", "bitsandbytes, bare"):
            return as_bitsandbytes(record, self.kept_as)
        return dict(record)


def raw_optimizers(values: Tree) -> tuple[RawOptimizer, ...]:
    """Optimizers in a list, or none; raises CheckpointError as `raw_optimizer` does."""
    found: list[RawOptimizer] = []
    for index, value in enumerate(listed(values, "optimizer states")):
        with at(f"optimizer {index}"):
            found.append(raw_optimizer(value))
    return tuple(found)


def raw_optimizer(value: Tree) -> RawOptimizer:
    """An optimizer's state as torch writes it, or with names for numbers.

    Raises CheckpointError for anything else, and for an option that growth and schedules compute with and that is no
    number.
    """
    state = value if isinstance(value, dict) else {}
    groups, records = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list):
        raise CheckpointError("has no param_groups with params, expected torch's state")
    if not isinstance(records, dict) or not all(map(_is_record, records.values())):
        raise CheckpointError("has no state of records, expected torch's state")
    found = tuple(map(_group, groups))
    other = {key: one for key, one in state.items() if key not in ("state", "param_groups")}
    own = _records(found, records)
    wrapping = wrapping_of(own)
    if wrapping is not None:
        block, options = block_of(own), {key: group.options for group in found for key in group.keys}
        own = {key: as_torchs(record, options.get(key, {}), block) for key, record in own.items()}
    optimizer = RawOptimizer(found, own, other, wrapping or "torch")
    if optimizer.keyed_by == "name":
        optimizer.check_owners()
    return optimizer


def _group(value: Tree) -> RawGroup:
    if not _is_record(value) or not isinstance(value.get("params"), list):
        raise CheckpointError("has no param_groups with params, expected torch's state")
    keys, names = tuple(value["params"]), value.get("param_names")
    _check_options(value)
    if keys and all(isinstance(key, str) for key in keys):
        names = keys
    elif names is not None and not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"param_names are {str(names)[:40]}, expected the parameters' names")
    told = ("params",) if names is None else ("params", "param_names")
    options = {key: one for key, one in value.items() if key not in told}
    return RawGroup(options, keys, None if names is None else tuple(names))


def _records(groups: tuple[RawGroup, ...], records: Mapping[Key, Tree]) -> dict[Key, Record]:
    """Records by the groups' keys, though theirs be names, or numbers that a distributed checkpoint turned into
    text.
    """
    keys = {key for group in groups for key in group.keys}
    named: dict[str, Key] = {
        name: key
        for group in groups
        if len(group.names or ()) == len(group.keys)
        for key, name in zip(group.keys, group.names or (), strict=True)
    }
    spelt: dict[Key, Key] = {**named, **{str(key): key for key in keys}, **{key: key for key in keys}}
    return {spelt.get(key, key): record for key, record in records.items() if _is_record(record)}


def _check_options(group: Options) -> None:
    """Raises CheckpointError where an option that growth and schedules compute with is not a number."""
    for key in ("lr", "initial_lr", "eps", "weight_decay", "momentum"):
        if not _is_option(group.get(key, 0.0)):
            raise CheckpointError(f"{key} is {str(group[key])[:40]}, expected a finite number from 0 on")
    betas = group.get("betas", ())
    if not isinstance(betas, list | tuple) or not all(map(_is_option, betas)):
        raise CheckpointError(f"betas are {str(betas)[:40]}, expected finite numbers from 0 on")


def _is_option(value: Tree) -> bool:
    """A number that can be; tensors, None and transformers' pairs of ε are told elsewhere."""
    if isinstance(value, list | tuple):
        return all(map(_is_option, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0 <= value < math.inf
    return value is None or is_lazy(value)


def _is_record(record: Tree) -> TypeGuard[Record]:
    return isinstance(record, dict) and all(isinstance(key, str) for key in record)
