"""Drafts a family's table from a model type, by measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckptgrow.drafting.axis_lengths import lengths_of
from ckptgrow.drafting.drafted_family import family_of_rows
from ckptgrow.drafting.measured_rows import MeasuredRows
from ckptgrow.drafting.observing import is_running, is_seen
from ckptgrow.drafting.optional_parts import with_all_parts
from ckptgrow.drafting.tiny_config import Fields, Tiny, tiny
from ckptgrow.families.family import Family


@dataclass(frozen=True)
class Draft:
    """A drafted table, the tiny model that it was measured on, and in one line each what could not be told."""

    family: Family
    subject: Tiny
    unsure: tuple[str, ...]


def draft(model_type: str, *, like: Fields | None = None, tell: Callable[[str], None] = lambda stage: None) -> Draft:
    """Drafts the table of a transformers model type; `like`: fields of a config of it, in the place of the class's own.

    Raises ConfigError where transformers has no such type, or no tiny model of it runs.
    """
    tell(f"looks for a tiny {model_type} that runs")
    options = with_all_parts(tiny(model_type, is_running, like), is_running, is_seen)
    tell("changes fields of its config, and sees which axes follow")
    measured = MeasuredRows(options, lengths_of(options.subject))
    tell("measures which axes are read and which written")
    measured.measure(tell)
    return Draft(family_of_rows(measured), options.subject, tuple(dict.fromkeys(measured.unsure)))
