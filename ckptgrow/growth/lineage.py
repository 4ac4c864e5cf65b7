"""Where every new tensor comes from: the new tensors in the grown model's order, each with its old one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptgrow.growth.operator import RESIDUAL, Operator, is_zero_in
from ckptgrow.spaces.gather import TensorGrowth
from ckptgrow.spaces.layers import Layer
from ckptgrow.state.claim import Claim, Claimed

UNCHANGED = Layer(0, "old")


@dataclass(frozen=True, kw_only=True)
class Descent:
    """One new tensor.

    `name`: its name in the file; `old`: the tensor that it is made from; `growth`: how that one grows; `layer`: what
    its layer is made from; `index`: the number of its layer, 0 outside of layers.
    """

    name: str
    old: Claimed
    growth: TensorGrowth
    layer: Layer
    index: int = 0

    @property
    def is_zero(self) -> bool:
        """Whether the new tensor is zero because its layer is an identity."""
        return is_zero_in(self.layer.kind, self.old)

    @property
    def is_in_new_layer(self) -> bool:
        """Whether its layer is an identity, or drawn, which has seen no gradient yet."""
        return self.layer.kind in ("zero-output", "zero-norm", "random")

    @property
    def is_drawn(self) -> bool:
        """Whether the new tensor is drawn because its layer is."""
        return self.layer.kind == "random" and self.old.layout.kind == "matrix"

    @property
    def share(self) -> float:
        """What the new tensor is of the old one, where its layer writes a share of the residual stream."""
        return self.layer.share if RESIDUAL in self.old.layout.written else 1.0

    @property
    def share_of_gradient(self) -> float:
        """What its gradient is of the old one there, had the layers between left the stream as it was."""
        is_in_layer = self.old.layer is not None
        return self.layer.share if is_in_layer and RESIDUAL not in self.old.layout.written else 1.0

    @property
    def module_name(self) -> str:
        """Its name in the module, without the file's prefix."""
        return self.old.module_name(None if self.old.layer is None else self.index)


def descents(claim: Claim, operator: Operator) -> tuple[Descent, ...]:
    """All new tensors in the grown model's order: layers as in the new stack, other tensors where they were."""
    return tuple(
        Descent(name=name, old=old, growth=operator.tensor_growth(old), layer=layer, index=index)
        for name, old, layer, index in _ordered(claim.tensors, operator)
    )


def _ordered(tensors: Sequence[Claimed], operator: Operator) -> Iterator[tuple[str, Claimed, Layer, int]]:
    stacks: dict[str, dict[int, list[Claimed]]] = {}
    inset = _inset(tensors)
    for one in tensors:
        place = inset.get(one.name, one)
        if place.layer is not None:
            stacks.setdefault(_stack(place), {}).setdefault(place.layer, []).append(one)
    for one in tensors:
        if one.name in inset:
            continue
        if one.layer is None:
            yield one.name, one, UNCHANGED, 0
        elif (stack := stacks.pop(_stack(one), None)) is not None:
            for index, layer in enumerate(operator.layers):
                for member in stack.get(layer.source, ()):  # stacks may differ in depth
                    if member.layer is not None:
                        yield member.name_in(index), member, layer, index
                    elif layer.kind == "old":
                        yield member.name, member, UNCHANGED, index


def _inset(tensors: Sequence[Claimed]) -> dict[str, Claimed]:
    """Tensors that only one layer has (T5's relative positions), each with the tensor of that layer before it."""
    neighbours = zip(tensors, tensors[1:], tensors[2:], strict=False)
    return {
        one.name: before
        for before, one, after in neighbours
        if one.layer is None and before.layer is not None and before.layer == after.layer
        if _stack(before) == _stack(after)
    }


def _stack(one: Claimed) -> str:
    return one.prefix + one.pattern.partition("{layer}")[0]
