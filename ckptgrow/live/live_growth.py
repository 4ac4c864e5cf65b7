"""`ckptgrow.grow`: the growth of living objects by the operators that grow checkpoints.

The model, its optimizers and its schedulers are read as a checkpoint in memory, `growth` grows this, and new objects of
the same classes are made of the result. Every number is the one that growth through files gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ckptgrow.choices import (
    Fresh,
    GrowthOperator,
    How,
    NewLayer,
    NewPositions,
    Place,
    RowInit,
    Separation,
    words_of,
)
from ckptgrow.errors import OptimizerError, RequestError, listing
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.growth.growths import GROWTHS
from ckptgrow.growth.request import GrowthResult, StateRequest
from ckptgrow.live.live_state import WHERE, LiveState, unwrapped_model, unwrapped_optimizer, unwrapped_scheduler
from ckptgrow.live.rebuilt_model import rebuilt_model, sources_of
from ckptgrow.live.rebuilt_training import rebuilt_optimizer, rebuilt_scheduler
from ckptgrow.live.rewarming import Rewarming

SHARED = ("seed", "new", "init")  # options that alone ask for no operator
OF_FILES = ("config", "param_order", "dialect", "drop", "force", "max_shard_bytes")  # of a request, about files alone
BY_NUMBER: Mapping[GrowthOperator, str] = {  # what the operator calls the number that is given under its name
    "width": "factor",
    "depth": "factor",
    "vocab": "size",
    "positions": "size",
    "experts": "experts",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class LiveGrowth:
    """What came of a growth in memory: new objects, in the order of the old ones, and the report on it (its `grown` is
    None, as the tensors are in the objects). `rewarmings` let the optimizers' rates rise, where that was asked for.
    """

    model: PreTrainedModel
    optimizers: tuple[Optimizer, ...]
    schedulers: tuple[Any, ...]
    report: GrowthResult
    rewarmings: tuple[Rewarming, ...] = ()

    @property
    def optimizer(self) -> Optimizer | None:
        """The only optimizer, or the first; None where none was given."""
        return self.optimizers[0] if self.optimizers else None

    @property
    def scheduler(self) -> Any:
        """The only scheduler, or the first; None where none was given."""
        return self.schedulers[0] if self.schedulers else None


def grow(
    model: torch.nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    scheduler: Any = None,
    *,
    width: int | None = None,
    depth: int | None = None,
    vocab: int | None = None,
    positions: int | None = None,
    experts: int | None = None,
    hidden: int | None = None,
    ffn: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    how: How | None = None,
    separate: Separation | None = None,
    noise: float | Literal["auto"] | None = None,
    spread: float | None = None,
    fresh: Fresh | None = None,
    layers: Sequence[int] | None = None,
    every: int | None = None,
    place: Place | None = None,
    new: NewLayer | NewPositions | None = None,
    init: RowInit | None = None,
    seed: int | None = None,
    global_step: int | None = None,
    request: StateRequest | None = None,
) -> LiveGrowth:
    """Grows a transformers model in memory, with the optimizers and schedulers that train it: in width by a factor
    (`width`) or to sizes (`hidden`, `ffn`, `heads`, `kv_heads`), in depth (`depth`, `layers`, `every`), or to a number
    of tokens (`vocab`), `positions` or `experts`.

        grown = ckptgrow.grow(model, optimizer, scheduler, width=2)
        model, optimizer, scheduler = grown.model, grown.optimizer, grown.scheduler

    Options, their defaults and all numbers, to the bit, are those of `ckptgrow.width` and so on. What was given is
    left as it is. The new model has the old one's class, dtypes, device, ties, modes, checkpointed gradients
    and frozen parameters (new layers have those of what they are made from); an optimizer its class, defaults and
    groups, of which `lr_rule` "mup" makes more; a scheduler its class, state and functions. Several optimizers, as
    torch's Muon needs, and schedulers are sequences. `global_step`, from which `request.step` moves, is how many steps
    the run took, by default what the scheduler says.

    With `request.rewarm` the rates of the new optimizers rise again over so many of their steps (`Rewarming`), whatever
    the schedule is; `rewarmings` tell how far they are. Without it the rise of an earlier growth ends with this one.

    Wrappers (torch.compile, DistributedDataParallel, accelerate) and hooks are left off: put them around the new
    objects. Options of a request about files are refused, and so is `reset` of what can be left out of the call.

    Raises RequestError for what contradicts itself or cannot be; another CkptgrowError, which names it, for state that
    cannot be carried: sharded or quantised tensors, parameters that are not the model's, ties that are not in
    transformers' config, optimizers and entries that no rule knows.
    """
    given = {
        "width": width, "depth": depth, "vocab": vocab, "positions": positions, "experts": experts, "init": init,
        "hidden": hidden, "ffn": ffn, "heads": heads, "kv_heads": kv_heads, "how": how,
        "separate": separate, "noise": noise, "spread": spread, "fresh": fresh, "layers": layers, "every": every,
        "place": place, "new": new, "seed": seed,
    }  # fmt: skip
    asked = asked_growth(given)
    request = request or StateRequest()
    _check_request(request, has_rates=optimizer is not None)
    old, order = _read(model, optimizer, scheduler, global_step)
    with torch.no_grad():
        return _rising(_rebuilt(old, asked(old.checkpoint(), None, request), order), request.rewarm)


@dataclass(frozen=True)
class AskedGrowth:
    """An operator by its name, and its options."""

    name: GrowthOperator
    options: Mapping[str, Any]

    def __call__(self, source: Checkpoint | Path, target: Path | None, request: StateRequest) -> GrowthResult:
        """Grows a checkpoint, in memory where there is no target."""
        return GROWTHS[self.name](source, target, **self.options, request=request)


def asked_growth(options: Mapping[str, Any]) -> AskedGrowth:
    """What the options of `grow` ask for; raises RequestError where they are of no operator, or of several."""
    factors: dict[GrowthOperator, Any] = {name: options.get(name) for name in GROWTHS}
    others = {key: one for key, one in options.items() if one is not None and key not in words_of(GrowthOperator)}
    own = {name: inspect.signature(one).parameters.keys() for name, one in GROWTHS.items()}
    named: list[GrowthOperator] = [name for name, factor in factors.items() if factor is not None]
    meant = named or [name for name in GROWTHS if any(key in own[name] and key not in SHARED for key in others)]
    if len(meant) != 1:
        raise RequestError(
            f"growth is asked for in {' and '.join(meant) or 'no way'}, expected one: ⟦width 2⟧, sizes as ⟦ffn N⟧, "
            "⟦depth 2⟧, ⟦vocab N⟧, ⟦positions N⟧ or ⟦experts N⟧; grow again for the other"
        )
    name = meant[0]
    strange = [key for key in others if key not in own[name]]
    if strange:
        raise RequestError(f"⟦{strange[0]} {others[strange[0]]}⟧: is not an option of growth in {name}; leave it out")
    return AskedGrowth(name, {**others, BY_NUMBER[name]: factors[name]})


def _check_request(request: StateRequest, *, has_rates: bool) -> None:
    """Raises RequestError for options that are about files or trainers, for they would be left unheard."""
    default = StateRequest()
    unheard = [one.name for one in fields(request) if getattr(request, one.name) != getattr(default, one.name)]
    for name in (name for name in unheard if name in OF_FILES):
        raise RequestError(f"⟦{name} {getattr(request, name)}⟧: is about files, expected none of it here; leave it out")
    if request.rewarm and not has_rates:
        raise RequestError(f"⟦rewarm {request.rewarm}⟧: there are no rates to rise, expected an optimizer")
    left_out = [part for part in request.reset if part != "new"]
    if left_out:
        raise RequestError(f"⟦reset {listing(left_out)}⟧: give grow no {left_out[0]} instead, and build a new one")


def _read(
    model: torch.nn.Module, optimizer: Any, scheduler: Any, global_step: int | None
) -> tuple[LiveState, list[int]]:
    """What is to grow, its schedulers in the order of their optimizers, by which growth finds whose rates each of them
    sets; and the numbers of these schedulers as they were given.

    Raises OptimizerError for schedulers of other optimizers, and for two of one.
    """
    optimizers = tuple(unwrapped_optimizer(one) for one in _several(optimizer))
    schedulers = tuple(unwrapped_scheduler(one) for one in _several(scheduler))
    places = {id(one): place for place, one in enumerate(optimizers)}
    own = [places.get(id(unwrapped_optimizer(one.optimizer))) for one in schedulers]
    for number, place in enumerate(own):
        if place is None or own.index(place) != number:
            found = "sets the rates of an optimizer that was not given" if place is None else "is not its only one"
            raise OptimizerError(f"{WHERE}: scheduler {number} {found}, expected one scheduler for each optimizer")
    order = sorted(range(len(own)), key=lambda number: own[number] or 0)
    state = LiveState(
        model=unwrapped_model(model),
        optimizers=optimizers,
        schedulers=tuple(schedulers[number] for number in order),
        global_step=global_step,
    )
    return state, order


def _rising(grown: LiveGrowth, steps: int) -> LiveGrowth:
    """The same, its optimizers' rates rising over so many steps; over none as it is."""
    return replace(grown, rewarmings=tuple(Rewarming(one, steps) for one in grown.optimizers) if steps else ())


def _several(value: Any) -> Sequence[Any]:
    return () if value is None else cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)


def _rebuilt(old: LiveState, found: GrowthResult, order: Sequence[int]) -> LiveGrowth:
    """New objects of what was grown; their schedulers stand where the old ones did."""
    grown = cast(Checkpoint, found.grown)
    sources = sources_of(found.config, grown.tensors, found.record)
    model = rebuilt_model(old, found.config, grown.tensors, sources)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    pairs = zip(old.optimizers, grown.optimizers, strict=True)
    optimizers = tuple(rebuilt_optimizer(one, raw, parameters) for one, raw in pairs)
    replaced: dict[int, object] = {id(one): new for one, new in zip(old.optimizers, optimizers, strict=True)}
    replaced |= {id(one.optimizer): replaced[id(unwrapped_optimizer(one.optimizer))] for one in old.schedulers}
    replaced[id(old.model)] = model
    made = [rebuilt_scheduler(*one, replaced) for one in zip(old.schedulers, grown.schedulers, strict=True)]
    schedulers = tuple(one for _, one in sorted(zip(order, made, strict=True), key=lambda pair: pair[0]))
    source = grown.growth.source
    record = found.record if source is None else {**found.record, "source_sha256": source.value()}
    report = replace(found, record=record, grown=None)
    return LiveGrowth(model=model, optimizers=optimizers, schedulers=schedulers, report=report)
