"""How a mixture's tensors, gradients and optimizer records are made of those of a dense model that computes the same.

Let the dense block be W2 (φ(W1 x) ⊙ W3 x), its units cut into G equal runs in order, and P_g the rows of one run. The
mixture has G experts, all of them chosen for every token with weights 1/G:

    expert g    gate P_g W1, up P_g W3, down G · W2 P_gᵀ        Σ_g 1/G · expert_g(x) = the dense block

So the gradients of gate and up are P_g of the old ones, that of down is 1/G · (∂L/∂W2) P_gᵀ. Where the family has an
expert that every token has, behind a gate σ(w · x), the whole block becomes that one: w is zero and down 2 W2, whose
gradient is half of the old one; the routed experts' down is zero, so that they, and the router, have no part in it.

Routers, such gates and what is silent begin with moments of no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ckptgrow.errors import RequestError
from ckptgrow.families.family import Family
from ckptgrow.spaces.gather import scale_into
from ckptgrow.spaces.growth import identities
from ckptgrow.spaces.layout import parse
from ckptgrow.state.architecture import Architecture
from ckptgrow.state.claim import Claim, Claimed
from ckptgrow.state.mixture_config import SHARED_FFN
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made, Zeros, chunks, whole

Cut = Literal["rows", "columns", "none"]  # along what the sources' units are cut into runs
GATE, UP, DOWN = "ffn <- normed", "ffn! <- normed", "residual <- ffn"  # the dense rows, by their layouts
DENSE = (GATE, UP, DOWN)
ROUTER, SHARED_GATE = "experts <- normed", "1 <- normed"
LAYER = "{layer}."


@dataclass(frozen=True, kw_only=True)
class BlockPart:
    """Of which dense rows, by their layouts, a row of the mixture is made; of none it is zero.

    `factor`: what the weights are multiplied by, and the gradients divided. `is_young`: its moments are zero.
    """

    sources: tuple[str, ...] = ()
    cut: Cut = "none"
    factor: float = 1.0
    is_young: bool = False


def parts_of(family: Family, shards: int) -> dict[str, BlockPart]:
    """The parts of a mixture's feed-forward blocks, by their layouts."""
    gate_up, down = "experts: (2! ffn) <- normed", "routed <: residual <- ffn"
    if SHARED_FFN not in family.sizes:
        return {
            ROUTER: BlockPart(is_young=True),
            gate_up: BlockPart(sources=(GATE, UP), cut="rows"),
            down: BlockPart(sources=(DOWN,), cut="columns", factor=float(shards)),
        }
    return {
        ROUTER: BlockPart(is_young=True),
        gate_up: BlockPart(sources=(GATE, UP), cut="rows", is_young=True),
        down: BlockPart(is_young=True),
        "shared_ffn <- normed": BlockPart(sources=(GATE,)),
        "shared_ffn! <- normed": BlockPart(sources=(UP,)),
        "residual <- shared_ffn": BlockPart(sources=(DOWN,), factor=2.0),
        SHARED_GATE: BlockPart(is_young=True),
    }


@dataclass(frozen=True, kw_only=True)
class MixtureTensor:
    """One tensor of the mixture: its name in the file and in the model, its part, its shape, and the dense tensors that
    it is made of; `gate` is the dense gate of its layer, in whose group of an optimizer young tensors are.
    """

    name: str
    canonical: str
    part: BlockPart
    shape: tuple[int, ...]
    sources: tuple[Claimed, ...]
    gate: Claimed

    def made(self, sources: Sequence[LazyTensor], factor: float) -> LazyTensor:
        """The sources, or what follows them, cut and joined as this tensor is, times a factor; rounded once."""
        if self.part.cut == "none":
            return sources[0] if factor == 1 else _times(sources[0], factor)
        cut = self._run_of_rows if self.part.cut == "rows" else self._run_of_columns
        return Made(
            self.shape,
            sources[0].dtype,
            lambda start, stop: torch.stack([_scaled(cut(sources, one), factor) for one in range(start, stop)]),
        )

    def _run_of_rows(self, sources: Sequence[LazyTensor], expert: int) -> torch.Tensor:
        size = self.shape[1] // len(sources)
        return torch.cat([one.rows(expert * size, (expert + 1) * size) for one in sources])

    def _run_of_columns(self, sources: Sequence[LazyTensor], expert: int) -> torch.Tensor:
        size, old = self.shape[2], sources[0]
        columns = slice(expert * size, (expert + 1) * size)
        return torch.cat([old.rows(start, stop)[:, columns] for start, stop in chunks(old)])


@dataclass(frozen=True, eq=False)
class MixtureTerms:
    """All terms of a mixture, over all instances of the model that a file holds, and the tensors of no block."""

    terms: tuple[MixtureTensor, ...]
    kept: tuple[str, ...]
    dtypes: Mapping[str, torch.dtype]  # of the dense tensors, by name

    @classmethod
    def of(
        cls, claim: Claim, mixture: Architecture, dtypes: Mapping[str, torch.dtype], *, is_saved_model: bool
    ) -> MixtureTerms:
        """The terms by a dense model's claim; `is_saved_model`: names are those that transformers writes to files.

        Raises RequestError where the file's names leave no way of naming the experts.
        """
        blocks = {(one.prefix, one.layer, one.layout.text): one for one in claim.tensors if one.layout.text in DENSE}
        blocks = {key: one for key, one in blocks.items() if ".mlp." in one.pattern}
        gates = [one for one in blocks.values() if one.layout.text == GATE]
        terms = [term for gate in gates for term in _terms(gate, mixture, blocks, is_saved_model)]
        used = {one.name for one in blocks.values()}
        return cls(tuple(terms), tuple(one.name for one in claim.tensors if one.name not in used), dtypes)

    def tensors(self, dense: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """The mixture's tensors, from the dense ones as their module has them."""
        made = {name: dense[name] for name in self.kept}
        for term in self.terms:
            sources = [dense[one.name] for one in term.sources]
            zeros = Zeros(term.shape, self.dtypes[term.gate.name])
            made[term.name] = term.made(sources, term.part.factor) if sources else zeros
        return made

    def gradients(self, dense: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What follows of a dense model's gradients, by parameter name, for the mixture's; young tensors have none."""
        found = dict(dense)
        for term in self.terms:
            sources = [dense[one.canonical] for one in term.sources if one.canonical in dense]
            if sources and not term.part.is_young:
                found[term.canonical] = whole(term.made([InMemory(one) for one in sources], 1 / term.part.factor))
        return found


def _terms(
    gate: Claimed, mixture: Architecture, blocks: Mapping[tuple[str, int | None, str], Claimed], is_saved_model: bool
) -> Iterator[MixtureTensor]:
    """The terms of one layer."""
    family, spaces = mixture.family, identities(mixture.sizes)
    parts = parts_of(family, mixture.sizes["experts"])
    rows = [one for one in family.parameters if one.layout in parts and one.layers != "dense"]
    for row in rows:
        part = parts[row.layout]
        yield MixtureTensor(
            name=_name_beside(gate, _spelled(row.name, family) if is_saved_model else row.name),
            canonical=row.name.replace("{layer}", str(gate.layer)),
            part=part,
            shape=tuple(axis.growth(spaces).num_old for axis in parse(row.layout).axes),
            sources=tuple(blocks[gate.prefix, gate.layer, one] for one in part.sources),
            gate=gate,
        )


def _name_beside(gate: Claimed, pattern: str) -> str:
    """The name in the file of another tensor of the layer, by that of its gate."""
    ends = [one.partition(LAYER)[2] for one in (gate.pattern, pattern)]
    if not gate.name.endswith(ends[0]):
        raise RequestError(
            f"{gate.name} ends otherwise than its module's name, {ends[0]}, expected no wrapper inside of a block; "
            "convert it first (ckptgrow convert ⟦to huggingface⟧)"
        )
    return gate.name.removesuffix(ends[0]) + ends[1]


def _spelled(pattern: str, family: Family) -> str:
    """A name as transformers writes it to files."""
    return next((pattern.replace(part, other) for part, other in family.spellings if part in pattern), pattern)


def _times(old: LazyTensor, factor: float) -> LazyTensor:
    return Made(old.shape, old.dtype, lambda start, stop: _scaled(old.rows(start, stop), factor))


def _scaled(block: torch.Tensor, factor: float) -> torch.Tensor:
    if factor == 1:
        return block
    target = torch.empty_like(block)
    scale_into(target, block, factor)
    return target
