"""A transformers model with the weights of one layer in memory at a time, for logits and for gradients.

A unit is a layer, as transformers names those that must not be split, or a module that has parameters of its own beside
the layers. Its weights are read when it begins and dropped when it ends. Where gradients are wanted, nothing of a unit
is kept but what goes in: going back, it runs once more, its weights are read again, and their gradients are handed out
at once.

Source: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174 (recomputation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.func import functional_call

from ckptgrow.errors import at
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.claim import Claim
from ckptgrow.state.model import build_model, fill_buffers, sources_of
from ckptgrow.storage.tensors import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Within = Callable[[], AbstractContextManager[object]]
Read = Callable[[str], torch.Tensor]  # a weight by the name of its tensor in the checkpoint
Receive = Callable[[str, torch.Tensor], None]  # takes a gradient, by a name


@dataclass(frozen=True, eq=False)
class StreamedModel:
    """A model on the CPU whose weights are not in memory; `module` runs as any does, without gradients."""

    module: PreTrainedModel
    parameters: Mapping[str, str]  # names, by those of the tensors in the checkpoint
    handed: _Handed

    def backward(self, loss: Callable[[], torch.Tensor], receive: Receive, within: Within = nullcontext) -> None:
        """Hands out the gradient of every parameter on which `loss`, made of the module's outputs, depends, by the
        parameter's name, each as soon as it is complete. The loss is computed here, and all of the model inside what
        `within` gives: a torch function mode of the caller's would not reach what runs on the way back.
        """
        self.handed.within = within
        self.handed.receive = lambda name, gradient: receive(self.parameters[name], gradient)
        try:
            with within():
                found = loss()
            found.backward()
        finally:
            self.handed.finish()


def streamed_model(
    checkpoint: Checkpoint,
    claim: Claim,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    change: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, weight: weight,
) -> StreamedModel:
    """The model whose weights are read when a unit begins and dropped when it ends.

    `change`: makes of a parameter's stored name and its weight in `dtype` the weight that is used.

    Raises ClaimError where a parameter of the model gets no weight.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    with at(checkpoint.path), no_init_weights(), init_empty_weights():
        model = build_model(config, dtype, claim.family.head)
    sources = sources_of(model, checkpoint, claim, config)
    fill_buffers(model, checkpoint, claim)
    reader = ThreadPoolExecutor(1)  # a thread of its own, where no torch function mode of the pass changes dtypes

    def read(name: str) -> torch.Tensor:
        return reader.submit(lambda: change(name, whole(checkpoint.tensors[name]).to(dtype))).result()

    head = "" if claim.family.tie is None else claim.family.tie.head  # of a tied one the embedding's name is meant
    paths = [path for path, _ in model.named_parameters(remove_duplicate=False)]
    paths = [head, *(path for path in reversed(paths) if path != head)] if head in paths else paths[::-1]
    handed, names = _Handed(), {sources[path]: path for path in paths}
    layers = {*(model._no_split_modules or [])}  # pyright: ignore[reportPrivateUsage]  # accelerate reads it too
    for path, module in [*_units(model, layers, "")]:
        own = dict(module.named_parameters(recurse=type(module).__name__ in layers, remove_duplicate=False))
        inside = {name: sources[f"{path}{name}"] for name in own}
        module.forward = _Unit(_Forward(module), inside, read, handed).__call__
    return StreamedModel(model, names, handed)


def _units(module: torch.nn.Module, layers: set[str], path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """The paths, with a dot at the end, and the modules that are units."""
    is_layer = type(module).__name__ in layers
    if is_layer or any(True for _ in module.parameters(recurse=False)):
        yield path, module
    if not is_layer:
        for name, child in module.named_children():
            yield from _units(child, layers, f"{path}{name}.")


class _Forward(torch.nn.Module):
    """A module's forward as it was, without its hooks, as a module whose weights `functional_call` can exchange."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self._forward = module, module.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's forward gives."""
        return self._forward(*args, **kwargs)


@dataclass
class _Handed:
    """Gradients on their way: they are handed to `receive` when all uses of a tensor have given their part."""

    receive: Receive | None = None
    within: Within = nullcontext
    uses: Counter[str] = field(default_factory=Counter[str])
    sums: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def take(self, name: str, gradient: torch.Tensor | None) -> None:
        """Takes the gradient of one use of a tensor."""
        if gradient is not None:
            if name in self.sums:
                self.sums[name].add_(gradient)
            else:
                self.sums[name] = gradient
        self.uses[name] -= 1
        if self.uses[name] == 0 and name in self.sums:
            self._hand_out(name)

    def finish(self) -> None:
        """Hands out what some uses did not take part in."""
        for name in [*self.sums]:
            self._hand_out(name)
        self.uses.clear()
        self.receive = None

    def _hand_out(self, name: str) -> None:
        gradient = self.sums.pop(name)
        if self.receive is not None:
            self.receive(name, gradient)


@dataclass(frozen=True, eq=False)
class _Unit:
    """A module's forward with weights that are read for the call; `names`: those in the checkpoint, by those inside."""

    forward: _Forward
    names: Mapping[str, str]
    read: Read
    handed: _Handed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.run(args, kwargs)[0]
        self.handed.uses.update({*self.names.values()})
        leaves: list[Any] = []
        tree = _taken_apart((args, kwargs), leaves)
        shape: list[Any] = []
        found = _Recomputed.apply(self, tree, shape, torch.zeros((), requires_grad=True), *leaves)
        return _put_together(shape[0], cast("tuple[torch.Tensor, ...]", found))

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
        """What the module gives, and the weights that it was given, by their names in the checkpoint."""
        weights = {name: self.read(name) for name in dict.fromkeys(self.names.values())}
        for weight in weights.values():
            weight.requires_grad_(torch.is_grad_enabled())
        own = {f"inner.{inner}": weights[name] for inner, name in self.names.items()}
        return functional_call(self.forward, own, args, dict(kwargs), tie_weights=False), weights


class _Recomputed(torch.autograd.Function):
    """A unit's call that keeps what goes in and runs once more on the way back."""

    @staticmethod
    def forward(ctx: Any, unit: _Unit, tree: Any, shape: list[Any], anchor: torch.Tensor, *leaves: torch.Tensor) -> Any:
        """The tensors among what the unit gives; `shape` gets the rest. `anchor` is what a unit depends on that is
        given no other number with a gradient.
        """
        args, kwargs = _put_together(tree, leaves)
        output, _ = unit.run(args, kwargs)
        found: list[torch.Tensor] = []
        shape.append(_taken_apart(output, found))
        ctx.unit, ctx.tree = unit, tree
        ctx.save_for_backward(*leaves)
        ctx.mark_non_differentiable(*(one for one in found if not one.is_floating_point()))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        """The gradients of the leaves; those of the weights are handed out."""
        needed = ctx.needs_input_grad[4:]
        leaves = [
            one.detach().requires_grad_(is_needed) for one, is_needed in zip(ctx.saved_tensors, needed, strict=True)
        ]
        args, kwargs = _put_together(ctx.tree, leaves)
        with torch.enable_grad(), ctx.unit.handed.within():
            output, weights = ctx.unit.run(args, kwargs)
        found: list[torch.Tensor] = []
        _taken_apart(output, found)
        felt = [
            (one, gradient)
            for one, gradient in zip(found, gradients, strict=True)
            if one.requires_grad and gradient is not None
        ]
        if felt:
            torch.autograd.backward([one for one, _ in felt], [gradient for _, gradient in felt])
        felt.clear()
        while weights:
            name, weight = weights.popitem()
            gradient, weight.grad = weight.grad, None
            del weight  # a large one's memory is free before its gradient is looked at
            ctx.unit.handed.take(name, gradient)
        return (None, None, None, None, *(one.grad for one in leaves))


@dataclass(frozen=True)
class _Place:
    """Where a tensor was taken out of a tree."""

    number: int


def _taken_apart(tree: Any, leaves: list[torch.Tensor]) -> Any:
    """A tree of tuples, lists and dicts with places instead of its tensors, which are put into `leaves`."""
    if isinstance(tree, torch.Tensor):
        leaves.append(tree)
        return _Place(len(leaves) - 1)
    return _mapped(tree, lambda one: _taken_apart(one, leaves))


def _put_together(tree: Any, leaves: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> Any:
    if isinstance(tree, _Place):
        return leaves[tree.number]
    return _mapped(tree, lambda one: _put_together(one, leaves))


def _mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The same tree with other leaves; transformers' outputs are dicts whose classes take their entries by name."""
    if isinstance(tree, dict):
        entries = {key: function(value) for key, value in cast("dict[str, Any]", tree).items()}
        return entries if type(tree) is dict else type(tree)(**entries)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(tree, tuple | list):
        return type(tree)(map(function, cast("tuple[Any, ...]", tree)))
    return tree
