"""Spaces whose copies are written smaller, because the tensor that reads them cannot be divided by their number k.

Such a reader is a head that is the same tensor as the embedding. A gain or a projection that writes the space is made
smaller instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import RequestError
from ckptgrow.spaces.layout import parse
from ckptgrow.state.architecture import Architecture


def shrunken_spaces(old: Architecture) -> Mapping[str, float]:
    """The spaces that are written with the factor k^-power where they have k copies, with their powers.

    Raises RequestError for a space that some parameter reads and none writes, with this config.
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
