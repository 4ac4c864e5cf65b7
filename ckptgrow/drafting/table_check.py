"""Judges a table that exists: what it says against what is measured, and its growths against `verify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from ckptgrow.drafting.disagreements import disagreements
from ckptgrow.drafting.drafting import Draft
from ckptgrow.drafting.observed_model import Observed
from ckptgrow.drafting.observing import is_running, is_seen, observe
from ckptgrow.drafting.optional_parts import with_all_parts
from ckptgrow.drafting.tabled_model import Tabled
from ckptgrow.drafting.tiny_config import tiny
from ckptgrow.drafting.trial import Tried, tried
from ckptgrow.errors import ClaimError, ConfigError
from ckptgrow.families.family import Family
from ckptgrow.families.registry import family_of
from ckptgrow.state.architecture import Architecture


@dataclass(frozen=True)
class CheckedTable:
    """What a table says else than what is measured, in one line each, and what its growths showed."""

    family: Family
    disagreements: tuple[str, ...]
    tried: tuple[Tried, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong, what the table refuses aside."""
        return not self.disagreements and all(self.is_right(one) for one in self.tried)

    def is_right(self, one: Tried) -> bool:
        """Whether a growth is exact, or refused by the table."""
        return one.fault is None or one.operator in {refusal.operator for refusal in self.family.refusals}

    def to_json(self) -> dict[str, Any]:
        """What the command prints under `--json`."""
        return {
            "family": self.family.model_type,
            "passed": self.passed,
            "disagreements": list(self.disagreements),
            "growths": {one.operator: one.fault or "exact" for one in self.tried},
        }


def check_table(model_type: str, tell: Callable[[str], None] = lambda stage: None) -> CheckedTable:
    """Measures a tiny model of a type that has a table, with all optional parts, and tries the table's growths.

    Raises ConfigError where there is no table, or no tiny model of the type runs.
    """
    family = family_of({"model_type": model_type})
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        tell(f"looks for a tiny {model_type} that runs")
        subject = with_all_parts(tiny(model_type, is_running), is_running, is_seen).subject
        tell("measures it")
        found = measured_against(observe(subject), family)
        _, growths = tried(Draft(family, subject, ()), tell)
    finally:
        logging.set_verbosity(verbosity)
    return CheckedTable(family, found, growths)


def measured_against(observed: Observed, family: Family) -> tuple[str, ...]:
    """What a table says else than what is measured on a model, in one line each."""
    config: dict[str, Any] = observed.model.config.to_dict()
    try:
        return tuple(disagreements(Tabled(observed, Architecture(family, config, family.model_type))))
    except (ClaimError, ConfigError) as error:
        return (str(error.message),)
