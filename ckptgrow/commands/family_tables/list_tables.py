"""`ckptgrow families list`."""

from __future__ import annotations

from ckptgrow.commands._screen import JsonOption, Screen


def list_tables(as_json: JsonOption = False) -> None:
    """List the families that have a table, and what each supports.

    Examples:
        ckptgrow families list
        ckptgrow --family own_model.py families list     # with your own
    """
    show_tables(Screen(as_json))


def show_tables(screen: Screen) -> None:
    """Shows each family with a few words for every operator."""
    from ckptgrow.families.registry import FAMILIES
    from ckptgrow.families.support import OPERATORS, support

    table = {name: support(family) for name, family in sorted(FAMILIES.items())}
    screen.table("", ("family", *OPERATORS), [(name, *row.values()) for name, row in table.items()])
    screen.result({"families": table})
