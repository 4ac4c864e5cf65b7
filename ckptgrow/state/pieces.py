"""Tensors of the module that files keep in pieces: one for every expert, and for every part of an expert's matrix.

Transformers 5 fuses experts when it loads a model, and takes them apart when it saves one; optimizer state is kept by
the module's tensors. So growth and verification see whole tensors, and the grown file has the pieces again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch

from ckptgrow.families.family import Family, InPieces, Parameter
from ckptgrow.spaces.layout import parse
from ckptgrow.state.claim import Claimed, name_regex
from ckptgrow.state.wrappers import bare_names, with_part
from ckptgrow.storage.tensors import LazyTensor, Made, whole

FIRST_EXPERT = re.compile(r"\bexperts\.0\.")


@dataclass(frozen=True)
class Stacked:
    """Pieces as one tensor, shape (experts, rows of all parts, columns); `pieces` has the parts of every expert."""

    pieces: tuple[tuple[LazyTensor, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """See LazyTensor."""
        parts = self.pieces[0]
        return (len(self.pieces), sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """See LazyTensor."""
        return self.pieces[0][0].dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """See LazyTensor; a row is an expert."""
        return torch.stack([torch.cat([whole(part) for part in parts]) for parts in self.pieces[start:stop]])

    def merged(self) -> LazyTensor:
        """The rows of all parts of all experts, one after the other, shape (experts · rows, columns)."""
        parts = [part for parts in self.pieces for part in parts]
        ends = list(accumulate(part.shape[0] for part in parts))

        def rows(start: int, stop: int) -> torch.Tensor:
            found: list[torch.Tensor] = []
            for index in range(bisect_right(ends, start), len(parts)):
                begin = ends[index] - parts[index].shape[0]
                if begin >= stop:
                    break
                found.append(parts[index].rows(max(0, start - begin), min(stop, ends[index]) - begin))
            return found[0] if len(found) == 1 else torch.cat(found)

        return Made((ends[-1], *self.shape[2:]), self.dtype, rows)


@dataclass(frozen=True)
class Pieces:
    """Which pieces of a file make which tensors of the module: for each, its experts' parts in order."""

    parts: Mapping[str, tuple[tuple[Claimed, ...], ...]]

    def joined(self, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """A file's tensors as the module has them; each takes the place of its first piece."""
        whole_of = {one.name: name for name, experts in self.parts.items() for parts in experts for one in parts}
        joined: dict[str, LazyTensor] = {}
        for name, tensor in tensors.items():
            target = whole_of.get(name)
            if target is None:
                joined[name] = tensor
            elif target not in joined:
                experts = self.parts[target]
                joined[target] = Stacked(tuple(tuple(tensors[one.name] for one in parts) for parts in experts))
        return joined

    def of(self, name: str) -> tuple[Claimed, ...]:
        """The pieces of a tensor of the module, none where the file holds it whole."""
        return tuple(one for parts in self.parts.get(name, ()) for one in parts)


def piece_name(first: Claimed, layer: int, expert: int) -> str:
    """The name of a piece of any expert, in any layer, from that of the first expert's."""
    return FIRST_EXPERT.sub(f"experts.{expert}.", first.name_in(layer))


def pieces_in(family: Family, tensors: Mapping[str, LazyTensor]) -> Pieces:
    """The pieces among a file's tensors.

    A set that lacks a piece, or whose pieces do not fit together, is left alone: the claim then names what is there.
    """
    parts: dict[str, tuple[tuple[Claimed, ...], ...]] = {}
    bare = bare_names(tensors) if family.pieces else {}
    for row in family.pieces:
        for target, ones in _found(row, family.base_prefix, bare).items():
            num_experts = 1 + max(expert for expert, _ in ones)
            kinds = {(part, tensors[one.name].shape, tensors[one.name].dtype) for (_, part), one in ones.items()}
            if len(ones) == num_experts * len(row.parts) and len(kinds) == len(row.parts):
                experts = range(num_experts)
                parts[target] = tuple(tuple(ones[expert, part] for part in range(len(row.parts))) for expert in experts)
    return Pieces(parts)


def _found(row: InPieces, base_prefix: str, bare: Mapping[str, str]) -> dict[str, dict[tuple[int, int], Claimed]]:
    """The pieces of one row by their tensor's name in the module, then by expert and part."""
    found: dict[str, dict[tuple[int, int], Claimed]] = {}
    for position, part in enumerate(row.parts):
        regex = name_regex(part.name, base_prefix)
        for name, short in bare.items():
            match = regex.fullmatch(short)
            if match is not None:
                inner = row.name if match["base"] else row.name.removeprefix(base_prefix)
                target = match["prefix"] + inner.replace("{layer}", match["layer"])
                found.setdefault(target, {})[int(match["expert"]), position] = _claimed(name, short, match, part)
    return found


def _claimed(name: str, bare: str, match: re.Match[str], part: Parameter) -> Claimed:
    template = with_part(name, bare, match.start("layer"), "{layer}")
    pattern = part.name.replace("{expert}", match["expert"])
    layer, layout = int(match["layer"]), parse(part.layout)
    return Claimed(
        name=name,
        bare=bare,
        template=template,
        pattern=pattern,
        layer=layer,
        prefix=match["prefix"],
        layout=layout,
        is_buffer=False,
        inner=pattern,
    )
