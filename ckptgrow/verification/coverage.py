"""The grown optimizers hold what the small ones hold: every parameter in its group, with a record where it had one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptgrow.checkpoints.optimizer import OptimizerState
from ckptgrow.errors import listing
from ckptgrow.verification.history import resets
from ckptgrow.verification.pair import Pair
from ckptgrow.verification.trees import differences


def coverage_problems(pair: Pair) -> list[str]:
    """Parameters that are missing, stray or in another group, and what is kept beside groups and records."""
    old, new = pair.small.optimizers, pair.grown.optimizers
    if "optimizer" in resets(pair):
        return [f"{len(new)} optimizers, expected none after a growth without them"] if new else []
    if len(old) != len(new):
        return [f"{len(new)} optimizers, expected {len(old)}"]
    return [
        problem
        for index, (small, grown) in enumerate(zip(old, new, strict=True))
        for problem in _of_one(pair, index, small, grown)
    ]


def _of_one(pair: Pair, index: int, small: OptimizerState, grown: OptimizerState) -> Iterator[str]:
    held = {name for name, link in pair.links.items() if link.small.name in small.group_of}
    missing, stray = held - set(grown.names), set(grown.names) - held
    if missing:
        yield f"optimizer {index} lacks {listing(missing)}, expected every parameter that the small one's has"
    if stray:
        yield f"optimizer {index} holds {listing(stray)}, expected only parameters that the small one's has"
    unrecorded = {
        name for name in held - missing if (pair.links[name].small.name in small.state) != (name in grown.state)
    }
    if unrecorded:
        yield f"optimizer {index}: {listing(unrecorded)} have state where the small ones have none, or the reverse"
    yield from _mixed(pair, index, small, grown)
    yield from differences(small.other, grown.other, (f"optimizer {index}",))


def _mixed(pair: Pair, index: int, small: OptimizerState, grown: OptimizerState) -> Iterator[str]:
    """Each grown group comes from one small group; in groups as many as before, at its own place."""
    place: Mapping[str, int] = {name: number for number, group in enumerate(small.groups) for name in group.names}
    for number, group in enumerate(grown.groups):
        origins = {place[pair.links[name].small.name] for name in group.names if pair.links[name].small.name in place}
        if len(origins) > 1 or (len(grown.groups) == len(small.groups) and origins - {number}):
            yield f"group {number} of optimizer {index} holds parameters of other groups {listing(map(str, origins))}"
