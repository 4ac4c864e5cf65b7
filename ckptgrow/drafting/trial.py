"""Tries a drafted table: grows a tiny training state by it, and lets `verify` judge what comes out.

What is not exact becomes a refusal in the table, so that a draft never grows anything wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ckptgrow.drafting.drafted_family import of_shared_eps
from ckptgrow.drafting.drafting import Draft
from ckptgrow.drafting.observed_model import Observed, moved
from ckptgrow.drafting.tiny_config import Tiny
from ckptgrow.errors import CkptgrowError
from ckptgrow.families.checking import check_family
from ckptgrow.families.family import Family, Parameter, Refusal, Size
from ckptgrow.families.registry import FAMILIES
from ckptgrow.growth.deepening import depth
from ckptgrow.growth.widening import width
from ckptgrow.verification.comparison import verify
from ckptgrow.verification.report import VerifyReport

STEPS = 3
Growth = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Tried:
    """One growth by a drafted table: the operator's name, and what was wrong; None where nothing was."""

    operator: str
    fault: str | None


def tried(draft: Draft, tell: Callable[[str], None] = lambda stage: None) -> tuple[Draft, tuple[Tried, ...]]:
    """The draft, with a refusal of each operator that its own growths show not to be exact, and what they showed.

    A table that cannot even grow in width is tried with what some families need: embeddings that the model multiplies
    by the root of the hidden size.
    """
    check_family(draft.family)
    with TemporaryDirectory() as directory:
        place = Path(directory)
        sources = list(_sources(draft.subject, place))
        faults = {
            number: _fault(one, sources, "width", _growths(one)["width"], tell)
            for number, one in enumerate((draft.family, *_scaled(draft.family)))
        }
        family = [draft.family, *_scaled(draft.family)][is_scaled := faults[0] is not None and None in faults.values()]
        found = [Tried("width", faults[int(is_scaled)])]
        for operator, growth in _growths(family).items():
            if operator == "width":
                continue
            fault = _fault(family, sources, operator, growth, tell)
            if operator == "hidden" and fault is not None and family.padding is not None:
                shared = replace(family, padding=of_shared_eps(family.padding))
                if _fault(shared, sources, operator, growth, tell) is None:
                    family, fault = shared, None
            found.append(Tried(operator, fault))
    return replace(draft, family=_refusing(family, found)), tuple(found)


def _sources(subject: Tiny, place: Path) -> Iterator[Path]:
    """Tiny training states: of the model as drafted, and with a tied head where it can have one."""
    for tied in (False, True):
        if tied and "tie_word_embeddings" not in subject.own_fields:
            return
        fields = {**subject.fields, **({"tie_word_embeddings": True} if tied else {})}
        made = Tiny(subject.model_type, subject.head, fields)
        observed = Observed(model=moved(made.built(), 0), vocabulary=subject.own_fields.get("vocab_size", 2))
        yield _saved(observed, place / f"{'tied' if tied else 'untied'}.ckpt")


def _saved(observed: Observed, path: Path) -> Path:
    """A Lightning checkpoint after some steps of an AdamW that gathers moments and moves nothing."""
    model = observed.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        sample = observed.sample(step)
        logits = observed.logits(sample)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), sample[:, 1 : logits.shape[1]].flatten())
        loss.backward()
        optimizer.step()
    tree = {
        "epoch": 0,
        "global_step": STEPS,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"config": model.config.to_dict()},
    }
    torch.save(tree, path)
    return path


def _growths(family: Family) -> Mapping[str, Growth]:
    """A growth of each kind that the table could have, by the operator's name in refusals."""

    def wider(**sizes: Any) -> Growth:
        return lambda source, target: width(source, target, **sizes)

    found: dict[str, Growth] = {"width": wider(factor=2, noise=0)}
    if "heads" in family.sizes and "head" in family.sizes and family.sizes["head"].config is not None:
        found["heads"] = wider(heads=8, noise=0)
    if "ffn" in family.sizes:
        found["ffn"] = wider(ffn=27, noise=0)
    if family.padding is not None:
        found["hidden"] = wider(hidden=48, how="pad")
    if not family.depth_is_exact:
        return found
    found["zero-output"] = lambda source, target: depth(source, target, new="zero-output")
    found["zero-norm"] = lambda source, target: depth(source, target, new="zero-norm")
    return found


def _fault(
    family: Family, sources: list[Path], operator: str, growth: Growth, tell: Callable[[str], None]
) -> str | None:
    """What is wrong with a growth of some states by a table; None where `verify` passes all."""
    tell(f"tries {operator}")
    for source in sources:
        target = source.with_name("grown.ckpt")
        target.unlink(missing_ok=True)
        try:
            with FAMILIES.instead(family):
                growth(source, target)
                report = verify(source, target)
        except CkptgrowError as error:
            return f"{source.stem}: {str(error.message).replace(f'{source}: ', '').replace(f'{source.parent}/', '')}"
        except (RuntimeError, ValueError, KeyError, IndexError) as error:  # what a table that is wrong leads to
            return f"{source.stem}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not report.passed:
            return f"{source.stem}: {_wrong(report)}"
    return None


def _wrong(report: VerifyReport) -> str:
    if report.structure.problems:
        return str(report.structure.problems[0])
    if report.function is not None and not report.function.passed:
        return f"the logits differ by {report.function.relative:.0e} of the largest"
    return "the moments are not those that the grown model would have gathered"


def _scaled(family: Family) -> Iterator[Family]:
    """The table for a model that multiplies its embeddings by the root of the hidden size, as Gemma's do."""
    if family.tie is None:
        return
    name = family.tie.embedding
    rows = tuple(
        Parameter(one.name, one.layout.replace("-> residual", "-> embedded"), one.when, one.layers)
        if one.name == name
        else one
        for one in family.parameters
    )
    padding = family.padding
    if padding is not None:
        padding = replace(padding, scale={"embedded": -0.5}, scale_tied={"embedded": -0.5, "final": 0.5})
    yield replace(
        family,
        parameters=rows,
        sizes={**family.sizes, "embedded": Size(same="residual")},
        residual=(*family.residual, "embedded"),
        shrunken={"embedded": 0.5},
        shrunken_tied={"embedded": 0.5, "final": 0.5},
        padding=padding,
    )


def _refusing(family: Family, found: list[Tried]) -> Family:
    """The table with a refusal of each operator that was not exact."""
    faults = {one.operator: one.fault for one in found if one.fault is not None}
    tie = None if family.tie is None else family.tie.config
    refusals = tuple(
        Refusal(
            operator,
            f"a tiny model grown by this draft is not exact ({fault}); correct the table",
            when=tie if fault.startswith("tied: ") else None,
        )
        for operator, fault in faults.items()
    )
    return replace(family, refusals=(*family.refusals, *refusals))
