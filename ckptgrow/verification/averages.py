"""Other copies of the weights: averages under another prefix, tied heads, and layers made from old ones.

An average is a model of its own. Each of its tensors must have the structure of its weight. Summed over the copies of
its inputs it is the small average times the weight's own factor, and its copies differ from each other by the same
terms as the weight's copies do. With W' = a ∘ W + N (a the shares of the copies, N noise), an average A that grew in
the same way has A' − W' = a ∘ (A − W): every entry of it is an entry of A − W times a share. Without noise the share is
the one that the weight's own entry shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

import numpy as np
import torch

from ckptgrow.errors import listing
from ckptgrow.state.claim import Claimed
from ckptgrow.state.opening import TrainingState
from ckptgrow.state.streamed_model import streamed_model
from ckptgrow.storage.tensors import InMemory, LazyTensor, is_lazy, num_elements, whole
from ckptgrow.verification.carried import DIRECTORIES
from ckptgrow.verification.dense_mixtures import begun_routers
from ckptgrow.verification.kept_tokens import KeptTokens
from ckptgrow.verification.magnitude import largest, relative
from ckptgrow.verification.optimizers import step_rule
from ckptgrow.verification.pair import Link, Pair
from ckptgrow.verification.precision import TOLERANCES, coarsest, rounding, smallest
from ckptgrow.verification.samples import logits_of, sample_batches
from ckptgrow.verification.summed_weights import SUMS, summed_difference
from ckptgrow.verification.tensor_blocks import BlockTensors, Tensors
from ckptgrow.verification.threads import in_threads
from ckptgrow.verification.trees import same_tensor
from ckptgrow.verification.weights import WeightScale

Scales = Mapping[str, WeightScale]


def average_problems(pair: Pair, weights: Scales) -> list[str]:
    """What is wrong with other copies of the weights, with buffers, and with layers that were made from old ones."""
    return [
        *_instance_problems(pair, weights),
        *_point_problems(pair, weights),
        *(_function_problems(pair) if pair.is_padded and not pair.is_stretched else ()),
        *_tied_problems(pair.grown, pair.small),
        *_buffer_problems(pair),
        *_fresh_problems(pair, weights),
    ]


def _router_problems(pair: Pair, average: Link, name: str) -> Iterator[str]:
    """A router that comes from nothing in the small model begins in an average as it does in the model."""
    found, own = (whole(pair.grown.checkpoint.tensors[one]) for one in (average.grown.name, name))
    if not torch.equal(found, own.to(found.dtype)):
        yield f"{average.grown.name} is another router than {name}, expected the same where it begins"


def instances_of(state: TrainingState) -> dict[str, dict[str, Claimed]]:
    """The parameters of every copy of the model besides the model itself, by prefix and name in the module."""
    model, found = state.claim.tensors[0].prefix, dict[str, dict[str, Claimed]]()
    for one in state.claim.tensors:
        if one.prefix != model and not one.is_buffer and one.name not in state.claim.tied:
            found.setdefault(one.prefix, {})[one.canonical] = one
    return found


def _instance_problems(pair: Pair, weights: Scales) -> Iterator[str]:
    small, grown = instances_of(pair.small), instances_of(pair.grown)
    for prefix in sorted(small.keys() ^ grown.keys()):
        what, how = ("missing", "them") if prefix in small else ("additional", "none")
        yield f"the copy of the weights under {prefix} is {what}, expected {how} as in the small checkpoint"
    for prefix in sorted(small.keys() & grown.keys()):
        both = {
            name: (small[prefix].get(link.small.canonical), grown[prefix].get(link.grown.canonical))
            for name, link in pair.links.items()
        }
        averages = {
            name: replace(pair.links[name], small=old, grown=new)
            for name, (old, new) in both.items()
            if old is not None and new is not None
        }
        begun = begun_routers(pair) & averages.keys()
        problems = _problems_by_name(pair, {name: averages[name] for name in averages.keys() - begun}, weights)
        problems = {**problems, **{name: list(_router_problems(pair, averages[name], name)) for name in begun}}
        for name, (old, new) in both.items():
            if (old is None) != (new is None):
                lost = pair.links[name].grown.canonical
                yield f"the copy of the weights under {prefix} has {'no' if new is None else 'a'} {lost}"
            yield from problems.get(name, ())


def _point_problems(pair: Pair, weights: Scales) -> Iterator[str]:
    """What is wrong with entries of optimizers' records that are other points in the space of weights.

    They grow as averages do: schedule-free optimizers' z, and where Prodigy began.
    """
    for small, grown in zip(pair.small.optimizers, pair.grown.optimizers, strict=False):
        for name, record in grown.state.items():
            link = pair.links[name]
            old, group = small.state.get(link.small.name, {}), small.group_of.get(link.small.name)
            rule = step_rule(group.options, old) if group else None
            for key in rule.weights if rule else ():
                before, after = old.get(key), record.get(key)
                if not is_lazy(before) or not is_lazy(after) or bool(before.shape) != bool(after.shape):
                    if before is not after:
                        yield f"{key} of {name} is {_kind(after)}, expected {_kind(before)}"
                elif before.shape:
                    tensors = Tensors.beside(pair, link, before, after)
                    yield from _problems_of(pair, name, tensors, weights, f"{key} of {name}")


def _kind(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if is_lazy(value) else "missing" if value is None else str(value)


def _problems_by_name(pair: Pair, averages: Mapping[str, Link], weights: Scales) -> dict[str, list[str]]:
    found = in_threads(
        lambda name: list(
            _problems_of(pair, name, Tensors.of(pair, averages[name]), weights, averages[name].grown.name)
        ),
        [*averages],
        lambda name: num_elements(pair.grown.checkpoint.tensors[name]),
    )
    return dict(zip(averages, found, strict=True))


def _problems_of(pair: Pair, name: str, tensors: Tensors, weights: Scales, label: str) -> Iterator[str]:
    """What is wrong with one tensor of an average, judged by the weight that it is an average of."""
    weight = Tensors.of(pair, pair.links[name])
    if tensors.new.dtype != tensors.old.dtype:
        yield f"{label} is {tensors.new.dtype}, expected {tensors.old.dtype} as in the small checkpoint"
    if weight.link.is_new_layer and not weight.has_entries():
        if tensors.has_entries():
            yield f"{label} is not zero, expected it as the weight of a new layer that adds nothing"
        return
    scale = weights.get(name)
    factor = 1.0 if scale is None or scale.factor is None else scale.factor
    size = max(
        1e-30,
        *(largest(part.small) for part in tensors.parts()),
        *(largest(part.grown) for part in weight.parts()),
    )
    difference = summed_difference(tensors, factor, pair.num_growths)
    if difference.is_wrong:
        error = difference.largest / size
        yield f"{label} differs from the small average by {error:.1e} of its largest value"
    elif (apart := _apart(pair, weight, tensors, factor, size)) is not None:
        yield (
            f"{label}: its copies are told apart otherwise than the weight's, by "
            f"{apart / size:.1e} of its largest value"
        )


def _apart(pair: Pair, weight: Tensors, average: Tensors, factor: float, size: float) -> float | None:
    """How far an entry of an average less its weight is from a share of its source at most; None where all are near
    enough.
    """
    unit, link = pair.num_growths * rounding(weight.new.dtype), weight.link
    counts = {int(count) for axis in link.in_axes for count in np.unique(link.growths[axis].num_copies)}
    are_near, worst = True, 0.0
    for of_weight, of_average in zip(weight.parts(), average.parts(), strict=True):
        apart = _separation_errors(of_weight, of_average, factor, unit, counts)
        left = sum((_left_in(one.stored, pair.num_growths) for one in (of_average, of_weight)), start=torch.zeros(()))
        are_near = are_near and bool((apart <= left + SUMS * rounding(torch.float64) * size).all())
        worst = max(worst, largest(apart))
    return None if are_near else worst


def _left_in(stored: torch.Tensor, num_growths: int) -> torch.Tensor:
    """The largest error of each entry that was rounded once in each growth."""
    return num_growths * (rounding(stored.dtype) * stored.double().abs() + smallest(stored.dtype))


def _function_problems(pair: Pair) -> Iterator[str]:
    """What is wrong with averages after padding, where new coordinates have no source to be compared with.

    An average, run as a model, must compute what it computed before.
    """
    kept = KeptTokens.of(pair)
    batches = sample_batches(pair.small, 1, None, kept and kept.small)
    for prefix in sorted(instances_of(pair.small).keys() & instances_of(pair.grown).keys()):
        small, grown = (_logits(pair, state, prefix, batches[0]) for state in (pair.small, pair.grown))
        dtype = coarsest(tensor.dtype for tensor in pair.grown.checkpoint.tensors.values())
        if not (error := relative(grown, small)) <= TOLERANCES[dtype]:
            yield f"the copy of the weights under {prefix} computes something else: logits differ by {error:.1e}"


def _logits(pair: Pair, state: TrainingState, prefix: str, tokens: torch.Tensor) -> torch.Tensor:
    tensors = tuple(one for one in state.claim.tensors if one.prefix == prefix)
    claim = replace(state.claim, tensors=tensors)
    model, kept = streamed_model(state.checkpoint, claim, state.config, torch.float64).module, KeptTokens.of(pair)
    if kept is not None:
        kept.restrict(model, is_grown=state is pair.grown)
    with torch.no_grad():
        return logits_of(model, tokens)


def _separation_errors(
    weight: BlockTensors, average: BlockTensors, factor: float, unit: float, counts: Set[int]
) -> torch.Tensor:
    """How far each entry of an average less its weight is from the nearest share of its source, in one block.

    `unit` is the largest relative error of a weight's entry, `counts` has the numbers of copies that inputs have.
    """
    of_weight, of_average = (weight.link.spread(part.small * factor) for part in (weight, average))
    apart, spread = average.grown - weight.grown, of_average - of_weight
    if not weight.link.in_axes:
        return (apart - spread).abs()
    own = torch.where(of_weight == 0, torch.inf, weight.grown / of_weight)
    # what one copy's share was rounded by is in the others', which may be smaller: all sum to the whole
    rounded = unit * (1 + (max(counts) - 1) * own.abs()) * 2 * (of_weight.abs() + of_average.abs())
    nearest = ((apart - own * spread).abs() - rounded).clamp(min=0).nan_to_num(nan=torch.inf)
    shares = sorted({1 / share for count in counts for share in range(1, count + 1) if count % share == 0} | {0.0})
    for share in shares:
        torch.minimum(nearest, (apart - share * spread).abs(), out=nearest)
    return nearest


def _tied_problems(grown: TrainingState, small: TrainingState) -> Iterator[str]:
    """Whether tied tensors are stored twice where they were before, in their dtypes; directories store them once.

    Whoever reads the checkpoint has made sure that the two are equal.
    """
    if small.checkpoint.kind in DIRECTORIES:
        return
    old, new = ({_pattern(state, name) for name in state.claim.tied} for state in (small, grown))
    if old != new:
        yield f"tied tensors stored twice are {listing(new) or 'none'}, expected {listing(old) or 'none'}"
    dtypes = {_pattern(small, name): small.checkpoint.tensors[name].dtype for name in small.claim.tied}
    for name in grown.claim.tied:
        found, expected = grown.checkpoint.tensors[name].dtype, dtypes.get(_pattern(grown, name))
        if expected not in (None, found):
            yield f"{name} is {found}, expected {expected} as in the small checkpoint"


def _pattern(state: TrainingState, name: str) -> str:
    claimed = next(one for one in state.claim.tensors if one.name == name)
    return claimed.prefix + claimed.pattern


def _buffer_problems(pair: Pair) -> Iterator[str]:
    """Buffers, and the counters of averages, must be equal; a new layer has those of the layer it was made from, and
    copies of an expert have its entry of a bias of the choice.
    """
    small = {(one.prefix, one.canonical): one for one in pair.small.claim.tensors if one.is_buffer}
    seen: set[tuple[str, str]] = set()
    for one in (one for one in pair.grown.claim.tensors if one.is_buffer):
        source = (
            one.pattern if one.layer is None else one.pattern.replace("{layer}", str(pair.layers[one.layer].source))
        )
        old = small.get((one.prefix, source))
        seen.add((one.prefix, source))
        if old is None:
            yield f"the buffer {one.name} is additional, expected none as in the small checkpoint"
        elif not same_tensor(pair.grown.checkpoint.tensors[one.name], _copied(pair, old)):
            yield f"the buffer {one.name} is another than the small checkpoint's"
    for prefix, canonical in sorted(small.keys() - seen):
        yield f"the buffer {small[prefix, canonical].name} is missing, expected it as in the small checkpoint"


def _copied(pair: Pair, old: Claimed) -> LazyTensor:
    """A small buffer as the grown model has it: an entry for each copy where it has one for each expert."""
    tensor = pair.small.checkpoint.tensors[old.name]
    axes = [axis.growth(pair.growths) for axis in old.layout.axes]
    if all(axis.is_identity for axis in axes):
        return tensor
    return InMemory(whole(tensor)[torch.from_numpy(axes[0].source)])


def _fresh_problems(pair: Pair, weights: Scales) -> Iterator[str]:
    """A layer that was made from an old one must equal it, apart from the tensors that were set to zero."""
    origin = {link.small.name: name for name, link in pair.links.items() if link.is_of_old_weights}
    for name, link in pair.links.items():
        if not link.is_new_layer or link.small.name not in origin:
            continue
        tensors = Tensors.of(pair, link)
        if not tensors.has_entries():
            continue
        factor = weights[origin[link.small.name]].factor or 0.0
        difference = summed_difference(tensors, factor, pair.num_growths)
        if difference.is_wrong:
            error = difference.largest / max(difference.largest_small, 1e-30)
            yield f"{name}: differs from the layer it was made from by {error:.1e} of its largest value"
