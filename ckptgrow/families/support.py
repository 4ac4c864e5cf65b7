"""Which growths are exact for each family by its table, in words for a table of all families."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.families.family import Family

YES = "exact"
OPERATORS = ("width", "heads", "ffn", "depth")


def support(family: Family) -> Mapping[str, str]:
    """A few words for every operator: that it is exact, under which condition it is not, or why it never is."""
    return {operator: _verdict(family, operator) for operator in OPERATORS}


def _verdict(family: Family, operator: str) -> str:
    if operator == "depth" and not family.depth_is_exact:
        return "copy only"
    if operator == "heads" and ("head" not in family.sizes or family.sizes["head"].config is None):
        return "no field for it"
    names = {"depth": ("depth", "zero-output"), "width": ("width", "residual")}.get(operator, (operator,))
    refusals = [one for one in family.refusals if one.operator in names]
    always = next((one for one in refusals if one.when is None), None)
    if always is not None:
        return "refused"
    return f"{YES} unless {', or '.join(str(one.when) for one in refusals)}" if refusals else YES
