"""What verification found, part by part; what was not asked for, is not of its level, or has no state is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ckptgrow.choices import VerifyLevel


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The comparison of names, shapes, dtypes, steps, learning rates, and of each weight up to a factor."""

    passed: bool
    num_tensors: int
    worst_relative_error: float
    worst_parameter: str | None
    tolerance: float  # of the largest value; judged is each entry against what rounding it may leave
    layers: list[str]
    lr_rule: str | None
    problems: list[str] = field(default_factory=list[str])
    has_wrong_weights: bool = False  # an entry of some weight is further off than storing it rounds


@dataclass(frozen=True, kw_only=True)
class Function:
    """The comparison of both models' logits on the same tokens."""

    max_abs_logit_diff: float
    relative: float  # to the largest logit
    tolerance: float  # relative
    passed: bool
    judged: str = ""  # how the tolerance was found
    loss_rise: float | None = None  # of the loss on old tokens at most, in nats, where there are new ones
    loss_rise_bound: float | None = None  # what a rule says of it


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The comparison of stored moments and steps with what the measured factors of the gradients demand."""

    worst_relative_error: float
    worst_parameter: str | None
    tolerance: float
    num_compared: int
    gradient_worst_relative_error: float | None  # of the grown model's gradients, its null-space terms averaged away
    gradient_worst_parameter: str | None
    true_gradient_difference: float | None  # of the grown model as it is; not judged: noise and training make it differ
    passed: bool
    problems: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The losses, in nats, over real optimizer steps in both models; `why` says why they were not judged."""

    steps: int
    max_abs_loss_diff: float
    small: list[float]
    grown: list[float]
    judged: bool
    tolerance: float
    passed: bool
    why: str


@dataclass(frozen=True)
class Asymmetry:
    """The relative differences between copies, from 0 for equal ones on; None where the level did not compute them.

    `trapped`: neither weights nor gradients nor dropout tell the copies apart, so that training keeps them equal.
    """

    weights: float
    gradients: float | None
    hidden_states: float | None
    trapped: bool


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """All that verification found, at the level that it took; `sentences` say in words what a user should know."""

    structure: Structure
    function: Function | None
    moments: Moments | None
    trajectory: Trajectory | None
    asymmetry: Asymmetry | None
    level: VerifyLevel
    sentences: list[str]

    @property
    def passed(self) -> bool:
        """Whether every judged part passed."""
        parts = (self.structure, self.function, self.moments, self.trajectory)
        return all(part.passed for part in parts if part is not None)

    def to_json(self) -> Mapping[str, object]:
        """The report as plain dicts, lists and values."""
        return {"passed": self.passed, **asdict(self)}
