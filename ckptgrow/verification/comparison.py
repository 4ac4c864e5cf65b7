"""Verification as a whole: both checkpoints are read, both models built, and part after part is compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from ckptgrow.addresses.address import local_path
from ckptgrow.choices import VerifyDtype, VerifyLevel
from ckptgrow.errors import RequestError, listing
from ckptgrow.formats.known_formats import read_checkpoint
from ckptgrow.spaces.growth import Growth
from ckptgrow.spaces.layout import Layout, parse
from ckptgrow.state.opening import TrainingState, open_state, understood
from ckptgrow.verification.asymmetry import weight_asymmetry
from ckptgrow.verification.computing import Computation, Computed, in_memory, layer_by_layer, logits_alone
from ckptgrow.verification.configs import with_fixed_fields
from ckptgrow.verification.contents import judge_contents, left_out
from ckptgrow.verification.coordinates import begun_anew, check_one_rule, growths_between, growths_since
from ckptgrow.verification.dense_mixtures import restated, with_routers
from ckptgrow.verification.factors import disagreements, measured_growths, with_tied_head
from ckptgrow.verification.gradients import gradient_problems
from ckptgrow.verification.history import Declared
from ckptgrow.verification.kept_tokens import KeptTokens
from ckptgrow.verification.layer_origins import matched_layers, recorded_layers
from ckptgrow.verification.levels import SHARE, free_bytes, full_bytes, fullest, layered, not_computed
from ckptgrow.verification.models import loaded
from ckptgrow.verification.moments import has_state, moment_errors, stored_dtypes
from ckptgrow.verification.pair import UNCHANGED, CopiedAxis, Link, Pair
from ckptgrow.verification.precision import STORED_TOLERANCES, TOLERANCES, coarsest
from ckptgrow.verification.report import Asymmetry, Moments, Structure, Trajectory, VerifyReport
from ckptgrow.verification.samples import long_sample, parted, sample_batches
from ckptgrow.verification.scales import Scales
from ckptgrow.verification.trajectory import losses, step_rounding, takes_plain_steps, updates_whole_tensors
from ckptgrow.verification.two_paths import check_apart
from ckptgrow.verification.verify_settings import VerifySettings
from ckptgrow.verification.weights import WeightScale, completed, weight_scales
from ckptgrow.verification.words import sentences

DTYPES: Mapping[VerifyDtype, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}
Stage = Callable[[str], None]


def silent(stage: str) -> None:
    """Tells nobody of the progress."""


def verify(
    small: str | Path,
    grown: str | Path,
    *,
    config: Path | None = None,
    dialect: str | None = None,
    settings: VerifySettings = VerifySettings(),
    stage: Stage = silent,
) -> VerifyReport:
    """Compares a grown checkpoint with the small one: structure, function, gradients, moments, trajectory, asymmetry.

    Nothing is taken from the growth's rules: weights are compared up to a measured factor, gradients are autograd's in
    both transformers models, and the stored moments must scale as those gradients do. What a level below "full" leaves
    out is None in the report, and the sentences say so. `config` is the small one's config.json where neither it nor
    the growth's record has one, `dialect` both trainer's where names do not tell; `stage` hears what is being done.

    Raises a CkptgrowError where the two cannot be compared at all; a difference is a report that did not pass.
    """
    stage("reading both checkpoints")
    pair, declared = _opened(local_path(small), local_path(grown), config, dialect)
    level, short = _level(pair, settings, batches := _batches(pair, settings))
    stage("comparing weights")
    weights = with_routers(pair, weight_scales(pair))
    apart, growths = _agreed(pair, weights)
    weights, settings = completed(weights, pair, growths), replace(settings, level=level)
    run = _computed(pair, weights, growths, batches, settings, stage)
    stage("comparing moments")
    measured = Scales(pair, weights, run.scales)
    structure = _structure(pair, weights, measured, declared, apart)
    report = VerifyReport(
        structure=structure,
        function=run.function,
        moments=_moments(pair, run, measured, settings),
        trajectory=_trajectory(pair, batches, settings, structure, stage) if settings.steps else None,
        asymmetry=run.asymmetry,
        level=level,
        sentences=[],
    )
    how = [layered(full_bytes(pair, DTYPES[settings.dtype], batches))] if run.was_layered else []
    return replace(report, sentences=sentences(report, pair) + not_computed(report, short) + how + left_out(declared))


def _check(settings: VerifySettings) -> None:
    if settings.level is None or settings.level == "full":
        return
    if settings.steps:
        raise RequestError(f"⟦level {settings.level}⟧: takes no optimizer steps, expected no ⟦steps⟧, or ⟦level full⟧")
    if settings.device != "cpu":
        raise RequestError(f"⟦level {settings.level}⟧: works on the CPU, expected no ⟦device⟧, or ⟦level full⟧")


def _level(
    pair: Pair, settings: VerifySettings, batches: Sequence[torch.Tensor]
) -> tuple[VerifyLevel, tuple[int, int] | None]:
    """The level that was asked for, or that memory allows; then, where that is not the fullest, needed and free bytes.

    Trajectories and other devices ask for the full one.
    """
    _check(settings)
    if settings.level is not None or settings.steps or settings.device != "cpu":
        return settings.level or "full", None
    memory = full_bytes(pair, DTYPES[settings.dtype], batches), free_bytes()
    level = fullest(*memory)
    return level, None if level == "full" else memory


def _batches(pair: Pair, settings: VerifySettings) -> list[torch.Tensor]:
    """The samples, of tokens that both models have."""
    kept = KeptTokens.of(pair)
    return sample_batches(pair.small, settings.batches, settings.tokens, kept and kept.small)


def _computed(
    pair: Pair,
    weights: Mapping[str, WeightScale],
    growths: Mapping[str, Growth],
    batches: Sequence[torch.Tensor],
    settings: VerifySettings,
    stage: Stage,
) -> Computed:
    """Builds both models as the level wants them, and compares what they compute; their memory is free afterwards."""
    kept, dtype = KeptTokens.of(pair), DTYPES[settings.dtype]
    long = long_sample((pair.small, pair.grown), settings.tokens, kept and kept.small)
    few, others = parted(batches)
    subject = Computation(
        pair=pair,
        weights=weights,
        growths=growths,
        few=few,
        others=others if long is None else [*others, long],
        dtype=dtype,
        device=settings.device,
    )
    if settings.level != "full":
        if settings.level == "function":
            stage("running both models, layer by layer")
        return logits_alone(subject, is_function=settings.level == "function")
    fits = full_bytes(pair, dtype, batches) <= SHARE * free_bytes()
    run = in_memory if fits or settings.steps or settings.device != "cpu" else layer_by_layer
    found = run(subject, stage)
    return replace(found, asymmetry=found.asymmetry and _judged(pair, found.asymmetry, dtype))


def _judged(pair: Pair, asymmetry: Asymmetry, dtype: torch.dtype) -> Asymmetry:
    """The same, with whether the copies stay alike for good."""
    limit = TOLERANCES[coarsest([dtype, *_weight_dtypes(pair)])]
    has_dropout = any(pair.grown.config.get(field) for field in pair.grown.family.dropout)
    have_other_moments = pair.begins_anew and has_state(pair.grown.optimizers)
    largest = max(asymmetry.weights, asymmetry.gradients or 0.0)
    return replace(asymmetry, trapped=largest <= limit and not has_dropout and not have_other_moments)


def _opened(small: Path, grown: Path, config: Path | None, dialect: str | None) -> tuple[Pair, Declared]:
    """Both checkpoints; the small one without what the history says that the user left out."""
    check_apart(small, grown)
    new, checkpoint = open_state(grown, dialect=dialect), read_checkpoint(small)
    declared = Declared.of(new.checkpoint.history[len(checkpoint.history) :])
    known = {*checkpoint.tensors, *checkpoint.rest, *checkpoint.carried.files, *checkpoint.carried.left_behind}
    dropped = [name for name in declared.dropped if name in known]
    if checkpoint.config is None and config is None and isinstance(declared.source_config, Mapping):
        checkpoint = replace(checkpoint, config=declared.source_config)
    old = understood(checkpoint, config=config, drop=dropped, reset=declared.reset, dialect=dialect)
    pair = open_pair(restated(old, new), new)
    return replace(pair, grown=pair.grown.with_config(with_fixed_fields(pair))), declared


def open_pair(small: TrainingState, grown: TrainingState) -> Pair:
    """Links every grown parameter to the small one that it comes from.

    Raises RequestError where the two are of different families, or the grown one is smaller.
    """
    if small.family is not grown.family:
        raise RequestError(
            f"{grown.where}: is {grown.family.model_type}, expected {small.family.model_type} as {small.where}"
        )
    growths = growths_between(small, grown)
    check_one_rule(small, grown)
    old, new = (state.architecture.num_layers for state in (small, grown))
    if new < old:
        raise RequestError(f"{grown.where}: has {new} layers, expected at least {old}; give the small checkpoint first")
    layers = recorded_layers(growths_since(small, grown), old, new)
    if layers is None:
        layers = matched_layers(small, grown, growths, old, new)
    originals = {one.canonical: one for one in small.claim.parameters}
    links: dict[str, Link] = {}
    anew = begun_anew(small, grown)
    copied = cache(lambda axis: CopiedAxis.of(axis, growths, anew))  # layers are alike
    for one in grown.claim.parameters:
        layer = layers[one.layer] if one.layer is not None else UNCHANGED
        canonical = one.pattern.replace("{layer}", str(layer.source))
        if canonical not in originals:
            raise RequestError(f"{grown.where}: has {one.name}, expected no such parameter as {small.where} has none")
        source = originals[canonical]
        links[one.name] = Link.along_axes(one, source, copied, layer)
    lost = originals.keys() - {link.small.canonical for link in links.values()}
    if lost:
        raise RequestError(f"{grown.where}: has no parameter that comes from {listing(lost)} of {small.where}")
    return Pair(small=small, grown=grown, links=links, growths=growths, layers=layers)


def _moments(pair: Pair, run: Computed, measured: Scales, settings: VerifySettings) -> Moments | None:
    if not has_state(pair.small.optimizers):
        return None
    scales = run.scales
    found = moment_errors(pair, scales, measured)
    # rounding may turn an expert's choice, and its gradients with it
    is_sure = run.function is not None and run.function.passed and settings.dtype == "float64"
    contradicted = gradient_problems(scales) if is_sure else []
    problems = [*contradicted, *found.problems]
    worst = max(found.errors, key=found.errors.__getitem__, default=None)
    error = found.errors[worst] if worst else 0.0
    confirmed = run.true_difference is not None
    worst_gradient = max(scales, key=lambda name: scales[name].error) if confirmed else None
    tolerance = found.tolerance
    return Moments(
        worst_relative_error=error,
        worst_parameter=worst,
        tolerance=tolerance,
        num_compared=len(found.errors),
        gradient_worst_relative_error=scales[worst_gradient].error if worst_gradient else None,
        gradient_worst_parameter=worst_gradient,
        true_gradient_difference=run.true_difference,
        passed=error <= tolerance and not problems,
        problems=problems,
    )


def _agreed(pair: Pair, weights: Mapping[str, WeightScale]) -> tuple[list[str], dict[str, Growth]]:
    """The tensors whose factors do not fit one scale for every space, and the growths on which most tensors agree."""
    factors, layouts = with_tied_head(
        {name: scale.factor and scale.factor / pair.links[name].share for name, scale in weights.items()},
        {name: link.grown.layout for name, link in pair.links.items()},
        pair.growths,
        _tie(pair.grown),
    )
    apart = disagreements(factors, layouts, pair.growths, pair.grown.family.residual)
    return apart, measured_growths(factors, layouts, pair.growths)


def _tie(state: TrainingState) -> tuple[str, Layout] | None:
    """The name of an embedding that is also the head, and the head's layout; None where they are not tied."""
    tie = state.family.tie
    if tie is None or not state.architecture.is_tied:
        return None
    embedding = next((one.name for one in state.claim.parameters if one.canonical == tie.embedding), None)
    head = next((one for one in state.family.parameters if one.name == tie.head), None)
    return (embedding, parse(head.layout)) if embedding and head else None


def _structure(
    pair: Pair, weights: Mapping[str, WeightScale], measured: Scales, declared: Declared, apart: Sequence[str]
) -> Structure:
    worst = max(weights, key=lambda name: (weights[name].roundings, weights[name].error))
    tolerance = STORED_TOLERANCES[coarsest(_weight_dtypes(pair))]
    rates, problems = judge_contents(pair, weights, measured, declared)
    if apart:
        problems.insert(0, f"{apart[0]} has a factor that no one scale for every space explains")
    error = weights[worst].error
    return Structure(
        passed=weights[worst].roundings <= 1 and not problems,
        num_tensors=len(pair.grown.checkpoint.tensors),
        worst_relative_error=error,
        worst_parameter=worst,
        tolerance=tolerance,
        layers=[f"{layer.kind} {layer.source}" for layer in pair.layers],
        lr_rule=rates.rule if rates else None,
        problems=problems,
        has_wrong_weights=weights[worst].roundings > 1,
    )


def _trajectory(
    pair: Pair, batches: Sequence[torch.Tensor], settings: VerifySettings, structure: Structure, stage: Stage
) -> Trajectory | None:
    stage(f"training both for {settings.steps} steps")
    if not has_state(pair.small.optimizers) or not has_state(pair.grown.optimizers):
        return None
    dtype = DTYPES[settings.dtype]
    small, grown = (
        losses(loaded(pair, state, dtype, settings.device), state, batches, settings.steps)
        for state in (pair.small.as_read, pair.grown)
    )
    differences = [abs(a - b) for a, b in zip(small, grown, strict=True)]
    lost = [math.isnan(a) and math.isnan(b) for a, b in zip(small, grown, strict=True)]
    differences = [0.0 if both else one for one, both in zip(differences, lost, strict=True)]
    worst = math.inf if any(map(math.isnan, differences)) else max(differences)
    why = _why_not_judged(pair, structure)
    # each step multiplies rounding: stored float32 states drift apart by their own rounding first
    dtypes = {dtype, *_weight_dtypes(pair), *stored_dtypes(pair.small.optimizers)}
    tolerance = max(10 * TOLERANCES[coarsest(dtypes)], step_rounding(pair.small))
    return Trajectory(
        steps=settings.steps,
        max_abs_loss_diff=worst,
        small=small,
        grown=grown,
        judged=not why,
        tolerance=tolerance,
        passed=bool(why) or worst <= tolerance,
        why=why,
    )


def _why_not_judged(pair: Pair, structure: Structure) -> str:
    if pair.row_record is not None:
        return _why_rows_are_not_judged(pair)
    if pair.is_padded:
        return "new coordinates train at once, so the trajectories part by design"
    if any(layer.kind != "old" for layer in pair.layers):
        return "new layers train at once, so the trajectories part by design"
    if pair.small.dense is not None:
        return "routers are new and train at once, so the trajectories part by design"
    if pair.serves_parts:
        return "copies of key heads serve different queries, so the trajectories part by design"
    if pair.has_copies and structure.lr_rule == "keep":
        return "learning rates were kept, so the grown matrices move faster by design"
    if pair.has_other_decay:
        return "weight decay does not follow the learning rates (--wd-rule), so the trajectories part by design"
    if pair.has_copies and _are_apart(pair):
        return "the copies are told apart, so the trajectories part by design"
    if pair.has_copies and (pair.begins_anew or pair.are_moments_unscaled):
        return "moments are not those that the grown model would have gathered, so the trajectories part by design"
    if pair.has_copies and takes_plain_steps(pair.small):
        return "first steps of RAdam are as large as the gradient, which no learning rate makes equal in both"
    if all(group.options.get("lr") == 0 for one in pair.small.optimizers for group in one.groups):
        return "the learning rates are 0, so nothing moves"
    if pair.has_moved:
        return "the schedule was set to another step, so the trajectories part by design"
    return ""


def _why_rows_are_not_judged(pair: Pair) -> str:
    """On old tokens and positions old entries train alike, where an update of one row does not depend on the others."""
    if pair.is_stretched:
        return "positions were stretched, which changes the function"
    if updates_whole_tensors(pair.small):
        return "its optimizer's updates depend on all rows of a tensor, of which there are others now"
    return "the schedule was set to another step, so the trajectories part by design" if pair.has_moved else ""


def _are_apart(pair: Pair) -> bool:
    """Whether the copies' weights differ."""
    return weight_asymmetry(pair) > STORED_TOLERANCES[coarsest(_weight_dtypes(pair))]


def _weight_dtypes(pair: Pair) -> set[torch.dtype]:
    return {tensor.dtype for state in (pair.small, pair.grown) for tensor in state.checkpoint.tensors.values()}
