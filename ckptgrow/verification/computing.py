"""What both models compute on the same samples: logits, gradients, and how far the copies differ.

Gradients are taken with both models in memory, or layer by layer (`state.streamed_model`): then those of the small
model go to a file that is gone afterwards, and each of the grown model is compared and dropped as it comes. The results
are the same, but for the order in which a few numbers are added up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ckptgrow.spaces.growth import Growth
from ckptgrow.state.streamed_model import StreamedModel
from ckptgrow.storage.tensors import InMemory, LazyTensor, Stored, bytes_of, num_elements, whole
from ckptgrow.verification.asymmetry import (
    CopyDifference,
    hidden_asymmetry,
    hidden_of_first,
    is_copied,
    last_hidden,
    weight_asymmetry,
)
from ckptgrow.verification.dense_mixtures import begun_routers
from ckptgrow.verification.function import compared
from ckptgrow.verification.gradients import (
    Gradients,
    GradientScale,
    demanded_scales,
    fill_ideal,
    gradient_scale,
    idealise,
    idealised,
    largest_gradient,
)
from ckptgrow.verification.models import loaded_models, streamed, streamed_models
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.precision import computing_in
from ckptgrow.verification.report import Asymmetry, Function
from ckptgrow.verification.samples import logits_of, loss_from
from ckptgrow.verification.threads import in_threads
from ckptgrow.verification.weights import WeightScale

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Stage = Callable[[str], None]
Scales = Mapping[str, GradientScale]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What both models computed, as far as the level goes.

    `function`: the comparison of the logits; `scales`: the factors between the gradients; `asymmetry`: how far the
    copies differ, which is not yet judged; `true_difference`: the largest relative error of a gradient, in the grown
    model as it is; `was_layered`: whether gradients were taken layer by layer.
    """

    function: Function | None
    scales: Scales
    asymmetry: Asymmetry | None
    true_difference: float | None
    was_layered: bool = False


@dataclass(frozen=True, kw_only=True)
class Computation:
    """What is computed: the pair, the scales of its weights and the growths that they show, in `dtype` on `device`.

    `few`: the samples on which gradients are taken; `others`: those on which logits alone are compared.
    """

    pair: Pair
    weights: Mapping[str, WeightScale]
    growths: Mapping[str, Growth]
    few: Sequence[torch.Tensor]
    others: Sequence[torch.Tensor]
    dtype: torch.dtype
    device: str

    @property
    def samples(self) -> Sequence[torch.Tensor]:
        """All of them, those of the gradients first."""
        return [*self.few, *self.others]


def logits_alone(subject: Computation, *, is_function: bool) -> Computed:
    """The function layer by layer, or nothing but what the weights show."""
    pair, function = subject.pair, None
    if is_function:
        function = compared(pair, streamed_models(pair, subject.dtype), subject.samples, subject.weights)
    asymmetry = Asymmetry(weight_asymmetry(pair), None, None, trapped=False) if pair.has_copies else None
    scales = demanded_scales(pair, subject.weights, subject.growths)
    return Computed(function=function, scales=scales, asymmetry=asymmetry, true_difference=None)


def in_memory(subject: Computation, stage: Stage) -> Computed:
    """All of it, with both models and their gradients in memory. Raises RequestError where there is no such device."""
    pair, weights = subject.pair, subject.weights
    stage("building both models")
    models = loaded_models(pair, subject.dtype, subject.device)
    stage("comparing gradients")
    of_small = _Run.of(models.small, subject.few)
    hidden = _Hidden.wanted(subject)
    of_grown = _Run.of(models.grown, subject.few, hidden)
    small = _in_grown_terms(pair, of_small.gradients)
    models.small.zero_grad(set_to_none=True)
    true = _Scales(subject=subject, small=small, scale_of_all=largest_gradient(small)).of_all(of_grown.gradients)
    asymmetry = _asymmetry(subject, models.grown, true, hidden)
    models.grown.zero_grad(set_to_none=True)
    stage("running both models")
    known = of_small.logits, of_grown.logits
    del of_grown
    function = compared(pair, models, subject.samples, weights, known)
    scales = true
    if pair.has_copies:
        idealise(models.grown, pair, weights, begun_routers(pair))
        of_ideal = _Run.of(models.grown, subject.few)
        scales = _Scales(subject=subject, small=small, scale_of_all=true.scale_of_all, of_copies=False).of_all(
            of_ideal.gradients
        )
    return Computed(function=function, scales=scales.found, asymmetry=asymmetry, true_difference=true.largest_error)


def layer_by_layer(subject: Computation, stage: Stage) -> Computed:
    """The same with the weights and gradients of one layer in memory at a time, on the CPU."""
    pair, weights, dtype = subject.pair, subject.weights, subject.dtype
    models = streamed_models(pair, dtype)
    with tempfile.NamedTemporaryFile() as file:
        stage("taking the small model's gradients, layer by layer")
        kept = _GradientFile(Path(file.name))
        logits = [_passed(streamed(pair, pair.small, dtype), subject.few, kept.take)]
        small = _in_grown_terms(pair, kept.tensors)
        stage("comparing the grown model's gradients, layer by layer")
        true = _Scales(subject=subject, small=small, scale_of_all=largest_gradient(small))
        hidden = _Hidden.wanted(subject)
        logits.append(_passed(streamed(pair, pair.grown, dtype), subject.few, true.take, hidden))
        true.complete()
        scales = true
        if pair.has_copies:
            scales = _Scales(subject=subject, small=small, scale_of_all=true.scale_of_all, of_copies=False)
            ideal = idealised(pair, begun_routers(pair))

            def change(name: str, weight: torch.Tensor) -> torch.Tensor:
                if name in ideal:
                    fill_ideal(weight, pair, pair.links[name], weights[name].factor)
                return weight

            stage("comparing gradients under even weights, layer by layer")
            _passed(streamed(pair, pair.grown, dtype, change), subject.few, scales.take)
            scales.complete()
    asymmetry = _asymmetry(subject, models.grown, true, hidden)
    stage("running both models, layer by layer")
    function = compared(pair, models, subject.samples, weights, (logits[0], logits[1]))
    return Computed(
        function=function,
        scales=scales.found,
        asymmetry=asymmetry,
        true_difference=true.largest_error,
        was_layered=True,
    )


def _asymmetry(subject: Computation, grown: PreTrainedModel, true: _Scales, hidden: _Hidden | None) -> Asymmetry | None:
    """How far the copies differ, in the grown model as it is; None where there are none."""
    if hidden is None:
        return None
    states = hidden.states
    if not hidden.was_shown:  # heads of other tasks show nothing beside their outputs
        states = hidden_of_first(grown, subject.samples[0], hidden.residual)
    of_hidden = hidden_asymmetry(states, hidden.residual)
    return Asymmetry(weight_asymmetry(subject.pair), true.difference.relative, of_hidden, trapped=False)


@dataclass
class _Hidden:
    """The last hidden states of the first sequence, once a pass has shown them."""

    residual: Growth
    states: torch.Tensor | None = None
    was_shown: bool = False

    @classmethod
    def wanted(cls, subject: Computation) -> _Hidden | None:
        """None where there are no copies to be compared."""
        return cls(subject.pair.growths["residual"]) if subject.pair.has_copies else None

    def of(self, model: PreTrainedModel) -> Callable[[Any], None] | None:
        """Takes them from the model's output, the first time alone."""
        return None if self.was_shown else partial(self._take, model)

    def _take(self, model: PreTrainedModel, output: Any) -> None:
        self.states, self.was_shown = last_hidden(model, output, self.residual), True


@dataclass(frozen=True)
class _Run:
    """A pass of a model in memory over samples, forth and back: its logits of each, and the gradients of the mean loss,
    on the CPU.
    """

    logits: list[torch.Tensor]
    gradients: Gradients

    @classmethod
    def of(cls, model: PreTrainedModel, samples: Sequence[torch.Tensor], hidden: _Hidden | None = None) -> _Run:
        model.zero_grad(set_to_none=True)
        found: list[torch.Tensor] = []
        for sample in samples:
            logits = logits_of(model, sample, hidden and hidden.of(model))
            (loss_from(model, logits, sample) / len(samples)).backward()
            found.append(logits.detach().cpu())
        named = model.named_parameters(remove_duplicate=False)  # a tied head has two names
        gradients = {name: one.grad for name, one in named if one.grad is not None}
        return cls(found, {name: InMemory(gradient.cpu()) for name, gradient in gradients.items()})


def _passed(
    model: StreamedModel,
    samples: Sequence[torch.Tensor],
    receive: Callable[[str, torch.Tensor], None],
    hidden: _Hidden | None = None,
) -> list[torch.Tensor]:
    """Hands out the gradients of the mean loss, layer by layer; returns the logits of the samples that were taken.

    Sequences of tokens go through at once, for their mean loss is that of all; of images the first sample alone does.
    """
    sample = samples[0] if samples[0].is_floating_point() else torch.cat([*samples])
    found: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        logits = logits_of(model.module, sample, hidden and hidden.of(model.module))
        found.extend(logits.detach().split(len(samples[0])))
        return loss_from(model.module, logits, sample)

    dtype = model.module.dtype
    model.backward(loss, receive, lambda: computing_in(dtype))
    return found


@dataclass(frozen=True)
class _GradientFile:
    """Gradients that lie one after the other in a file."""

    path: Path
    tensors: dict[str, LazyTensor] = field(default_factory=dict[str, LazyTensor])

    def take(self, name: str, gradient: torch.Tensor) -> None:
        """Writes one."""
        with self.path.open("ab") as file:
            offset = file.tell()
            file.write(bytes_of(gradient))
        self.tensors[name] = Stored(
            path=self.path,
            offset=offset,
            shape=tuple(gradient.shape),
            dtype=gradient.dtype,
            stride=gradient.contiguous().stride(),
        )


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """How the grown model's gradients relate to the small one's, as they come; `scale_of_all`: the small ones' largest
    entry; `difference`: that of their copies, where these are compared (`of_copies`).
    """

    subject: Computation
    small: Gradients
    scale_of_all: float
    of_copies: bool = True
    found: dict[str, GradientScale] = field(default_factory=dict[str, GradientScale])
    difference: CopyDifference = field(default_factory=CopyDifference)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """The grown names by those of the module's parameters."""
        return {link.grown.canonical: name for name, link in self.subject.pair.links.items()}

    def of_all(self, gradients: Gradients) -> _Scales:
        """The same with all of them."""
        names = [name for name in gradients if name in self._names]
        compared_ones = in_threads(
            lambda name: self._compared(self._names[name], gradients[name]),
            names,
            lambda name: num_elements(gradients[name]),
        )
        for name, found in zip(names, compared_ones, strict=True):
            self._keep(self._names[name], *found)
        self.complete()
        return self

    def take(self, name: str, gradient: torch.Tensor) -> None:
        """Takes the gradient of a parameter of the module."""
        if name in self._names:
            self._keep(self._names[name], *self._compared(self._names[name], InMemory(gradient)))

    def complete(self) -> None:
        """Puts in what has no gradient."""
        for name, link in self.subject.pair.links.items():
            if not link.is_new_layer and name not in self.found:
                self.found[name] = self._scale(name, None)

    @property
    def largest_error(self) -> float:
        """The largest relative error of a gradient."""
        return max(scale.error for scale in self.found.values())

    def _compared(self, name: str, gradient: LazyTensor) -> tuple[GradientScale | None, CopyDifference]:
        link = self.subject.pair.links[name]
        difference = CopyDifference.of(link, gradient) if self.of_copies and is_copied(link) else CopyDifference()
        return None if link.is_new_layer else self._scale(name, gradient), difference

    def _keep(self, name: str, scale: GradientScale | None, difference: CopyDifference) -> None:
        if scale is not None:
            self.found[name] = scale
        self.difference.add(difference)

    def _scale(self, name: str, gradient: LazyTensor | None) -> GradientScale:
        subject = self.subject
        link, weight = subject.pair.links[name], subject.weights[name].factor
        old = self.small.get(link.small.canonical)
        return gradient_scale(link, weight, subject.growths, old, gradient, self.scale_of_all)


def _in_grown_terms(pair: Pair, gradients: Gradients) -> Gradients:
    """The small model's gradients; those of a dense model, where the grown one is a mixture, as a mixture has them."""
    if pair.small.terms is None:
        return gradients
    found = pair.small.terms.gradients({name: whole(gradient) for name, gradient in gradients.items()})
    return {name: InMemory(gradient) for name, gradient in found.items()}
