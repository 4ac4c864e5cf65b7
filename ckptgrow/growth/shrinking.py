"""Spaces whose copies are written smaller, because their reader cannot take its part of 1/k: a head that is the
embedding's very tensor. Something must write them that can be made smaller: a gain, a projection.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import RequestError
from ckptgrow.spaces.layout import parse
from ckptgrow.state.architecture import Architecture


def shrunken_spaces(old: Architecture) -> Mapping[str, float]:
    """The spaces written k^-power by k copies.

    Raises RequestError for one that a parameter of this config reads, and none writes.
    """
    family = old.family
    powers = family.shrunken_tied if old.is_tied else family.shrunken
    layouts = [parse(one.layout) for one in family.parameters if old.holds(one.when)]
    written = {space for layout in layouts for space in layout.written} | set(family.made)
    read = {space for layout in layouts for space in layout.spaces - layout.written}
    for space in powers:
        if space in read and space not in written:
            raise RequestError(
                f"{old.where}: {family.model_type} cannot grow in width exactly: with this config nothing that could "
                f"make up for the copies writes what its tied head reads ({space!r})"
            )
    return powers
