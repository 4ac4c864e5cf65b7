"""The log of growths that a grown checkpoint carries: under `ckptgrow` in a `.ckpt`, in `ckptgrow.json` beside weights.

    {"version": "0.1.0", "history": [RECORD, …], "rewarm": {"start": 500, "steps": 50} or null, "global_step": 500}

The types say what growth writes. What a file says is a claim: `verification.history` checks it field by field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from typing_extensions import NotRequired, TypedDict

from ckptgrow.choices import (
    DecayRule,
    Fresh,
    FreshMomentRule,
    GrowthOperator,
    How,
    LrRule,
    MomentRule,
    NewLayer,
    NewPositions,
    Part,
    RowInit,
    Separation,
)
from ckptgrow.errors import CheckpointError
from ckptgrow.storage.files.json_files import Json
from ckptgrow.storage.fingerprint import Fingerprint
from ckptgrow.storage.tree import Tree


class OperatorRecord(TypedDict):
    """What the operator did: sizes that were asked for, and how entries were filled (`width`); layers as pairs of the
    old layer and what was made of it (`depth`); for `vocab` and `positions` how new rows begin, `kept` runs of old rows
    as their new begin, new end and old begin, and `pieces` the old rows of which each new one is the mean, in order;
    for `experts` of a dense model the families, `dense` and `to`, and in how many parts its blocks were cut.
    """

    operator: GrowthOperator
    factor: NotRequired[int | None]
    how: NotRequired[How]
    separate: NotRequired[Separation]
    noise: NotRequired[float]
    spread: NotRequired[float]
    seed: NotRequired[int]
    fresh: NotRequired[Fresh | None]
    residual: NotRequired[int]
    heads: NotRequired[int]
    kv_heads: NotRequired[int]
    ffn: NotRequired[int]
    dense_ffn: NotRequired[int]
    new: NotRequired[NewLayer]
    layers: NotRequired[list[list[int | str]]]
    vocab: NotRequired[int]
    init: NotRequired[RowInit]
    tokenizer: NotRequired[str]
    old_tokenizer: NotRequired[str]
    pad_to: NotRequired[int]
    kept: NotRequired[list[list[int]]]
    pieces: NotRequired[list[list[int]]]
    position: NotRequired[int]
    new_positions: NotRequired[NewPositions]
    experts: NotRequired[int]
    experts_per_token: NotRequired[int]
    dense: NotRequired[str]
    to: NotRequired[str]
    shards: NotRequired[int]
    router_noise: NotRequired[float]


class GrowthRecord(OperatorRecord):
    """One growth: the operator, how the training state was carried over, and by what; `step` is the schedule's before
    and after, `sizes` are the grown model's, `new_coordinates` are runs of those that did not exist before, by space,
    `source_sha256` is the fingerprint of the old tensors, `moment_rounding` by what share of their block's largest
    moments in 8 bits were rounded at most, `source_config` the old model's where it was given beside the checkpoint.
    """

    lr_rule: LrRule
    step: list[int | None]
    rewarm: int
    reset: list[Part]
    drop: list[str]
    schedule: NotRequired[str]
    fresh_moments: NotRequired[FreshMomentRule]
    moments: NotRequired[MomentRule]
    moment_rounding: NotRequired[float]
    wd_rule: NotRequired[DecayRule]
    new_coordinates: NotRequired[dict[str, list[list[int]]]]
    source_config: NotRequired[dict[str, Json]]
    version: str
    torch: str
    source_sha256: str
    sizes: dict[str, int]


class Rewarm(TypedDict):
    """From which step the learning rate rises again, over how many steps."""

    start: int
    steps: int


class GrowthLog(TypedDict, total=False):
    """See the module's head; `rewarm_new` is the rise of new entries' rates in a run that goes on, `config` the grown
    one where hyper-parameters cannot hold it.
    """

    version: str
    history: list[GrowthRecord]
    rewarm: Rewarm | None
    rewarm_new: Mapping[str, float]
    global_step: int | None
    config: Mapping[str, Json]


def rewarm_of(history: Sequence[GrowthRecord]) -> Rewarm | None:
    """The rise after the last growth; None where none was asked for, or nobody knows from which step on."""
    last = history[-1] if history else None
    start = None if last is None else last["step"][1]
    return None if last is None or start is None or not last["rewarm"] else {"start": start, "steps": last["rewarm"]}


@dataclass(frozen=True)
class GrowthHistory:
    """A checkpoint's log, and the fingerprint of what it was grown from (`source`), whose placeholder stands in the log
    until all of that has been read.
    """

    log: GrowthLog = field(default_factory=GrowthLog)
    source: Fingerprint | None = None

    def to_json(self) -> dict[str, Json]:
        """The log as files have it."""
        return cast(dict[str, Json], cast(object, dict(self.log)))


def growth_log(value: Tree) -> GrowthLog:
    """The log in a file; raises CheckpointError where it is none, whatever its records say."""
    if not isinstance(value, dict) or not isinstance(value.get("history", []), list):
        raise CheckpointError(f"its growth log is {str(value)[:40]!r}, expected a history of growths")
    return cast(GrowthLog, cast(object, value))
