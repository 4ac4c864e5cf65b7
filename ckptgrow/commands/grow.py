"""`ckptgrow grow`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptgrow.addresses.address import is_address
from ckptgrow.commands._growth_shared import WritingOptions, perform
from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._option_helps import helps_of
from ckptgrow.commands._paths import check_paths, checkpoint_at, grown_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.depth import depth
from ckptgrow.commands.experts import experts
from ckptgrow.commands.positions import positions
from ckptgrow.commands.vocab import vocab
from ckptgrow.commands.width import width
from ckptgrow.errors import RequestError

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "width": width,
    "depth": depth,
    "vocab": vocab,
    "positions": positions,
    "experts": experts,
}


@takes("writing", WritingOptions)
def grow(
    *,
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe (.yaml or .json): `operator: width`, `depth`, `vocab`, `positions` or `experts`, its "
            "options by name, and maybe `in` and `out`.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[IN", help="The checkpoint to grow [default: the recipe's].", show_default=False),
    ] = None,
    target: Annotated[
        Path | None, typer.Argument(metavar="OUT]", help="Where to write [default: the recipe's].", show_default=False)
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes, by which editors complete them.")
    ] = False,
    writing: WritingOptions,
    as_json: JsonOption = False,
) -> int:
    """Grow a checkpoint by a recipe, a file that has all options of one of the commands above.

    Paths in a recipe lie beside it. `ckptgrow inspect --recipe CKPT` writes the one by which a checkpoint was grown:
    it grows the same bytes again.

    Examples:
        ckptgrow grow recipe.yaml small.ckpt grown.ckpt
        ckptgrow grow recipe.yaml --dry-run                             # where the recipe says `in` and `out`
        ckptgrow grow --schema > recipe.schema.json                     # for editors
    """
    if schema:
        from ckptgrow.recipes.growth_recipe import recipe_schema

        helps = {name: helps_of(command) for name, command in COMMANDS.items()}
        print(json.dumps(recipe_schema(helps), indent=2))
        return 0
    if recipe is None:
        raise RequestError("Missing argument 'RECIPE'; name a file of options, or pass --schema (see grow --help)")
    tree = _tree(recipe)
    source, target = _pair(recipe, tree, source, target)
    check_paths(source, target, force=writing.force)
    from ckptgrow.recipes.growth_recipe import recipe_in

    return perform(recipe_in(tree, recipe), source, target, writing, Screen(as_json))


def _tree(recipe: Path) -> Mapping[str, Any]:
    from ckptgrow.storage.files.yaml_files import read_yaml  # JSON is YAML too

    return read_yaml(recipe.expanduser())


def _pair(recipe: Path, tree: Mapping[str, Any], source: Path | None, target: Path | None) -> tuple[Path, Path]:
    """IN and OUT, of the command or of the recipe; raises RequestError where neither says them."""
    found: list[Path] = []
    for name, given in (("in", source), ("out", target)):
        said = tree.get(name)
        if given is None and not isinstance(said, str):
            raise RequestError(f"{recipe}: says no {name}, expected a path there, or IN and OUT behind the recipe")
        found.append(given or _seen_from(recipe, str(said)))
    meant = checkpoint_at(found[0])
    assert meant is not None
    return meant, grown_at(found[1])


def _seen_from(recipe: Path, said: str) -> Path:
    """A path in a recipe is seen from its directory, an address from anywhere."""
    return Path(said) if is_address(said) else recipe.expanduser().parent / said
