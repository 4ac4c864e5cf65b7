"""The recipes that a probe compares: tables of them, a user's own, and each of them as the commands that do it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ckptgrow.choices import Operator
from ckptgrow.errors import RequestError, at
from ckptgrow.growth.request import GrowthResult
from ckptgrow.recipes.command_words import options_in_words, words_of_command
from ckptgrow.recipes.growth_recipe import GrowthRecipe
from ckptgrow.recipes.recipe_options import (
    PLACES_OF_GROWTH,
    PLACES_OF_TRAINING,
    growth_options,
    train_options,
)
from ckptgrow.recipes.typed_values import check_known, made, said
from ckptgrow.storage.files.yaml_files import read_yaml

OUTSIDE = (*PLACES_OF_TRAINING, "train_steps")  # of training: what no recipe says
RISE = (1.3, 250)  # of new entries' rate: SPARKLING's best


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe: options of the growth, and of the training that goes on from it."""

    name: str = said("What the table calls it.")
    operator: Operator = said("'width' or 'depth'.")
    growth: Mapping[str, Any] = said("Options of `ckptgrow width` or `depth`.", dict)
    train: Mapping[str, Any] = said("Options of `ckptgrow train`, for going on from what was grown.", dict)

    def checked(self, where: str) -> Candidate:
        """With its options as the functions take them; raises RequestError for others."""
        grown = growth_options(self.operator, PLACES_OF_GROWTH).checked(self.growth, f"{where}.growth")
        trained = train_options(OUTSIDE).checked(self.train, f"{where}.train")
        return replace(self, growth=grown, train=trained)

    def by(self, factor: int) -> Candidate:
        """With a factor, where it has no size of its own."""
        asked = {"factor", "hidden", "heads", "kv_heads", "ffn", "layers", "every"}
        return self if asked & set(self.growth) else replace(self, growth={"factor": factor, **self.growth})

    @property
    def training(self) -> Mapping[str, Any]:
        """Options of the training, whose rate rises again as the recipe says, and not where it says nothing."""
        says = self.growth.get("rewarm") or "rewarm_new" in self.train
        return self.train if says else {"rewarm": 0, **self.train}

    @property
    def draws(self) -> bool:
        """Whether a seed says what becomes of it."""
        if self.operator == "depth":
            return self.growth.get("new") == "random"
        if self.growth.get("how") == "pad":
            return self.growth.get("fresh") != "zero-copy"
        return self.growth.get("separate") != "none" and self.growth.get("noise", "auto") != 0

    def drawn(self, seed: int) -> Candidate:
        """With a seed among its options, where it draws and has none."""
        return replace(self, growth={"seed": seed, **self.growth}) if self.draws else self

    def grow(self, source: Path, target: Path | None, seed: int) -> GrowthResult:
        """Grows; without a target lazily, in memory. Raises what the growth raises."""
        return GrowthRecipe(self.operator, self.drawn(seed).growth).grow(source, target)

    def words(self, source: Path, target: Path, data: Path | str, seed: int) -> list[list[str]]:
        """The commands that do it by hand: the growth, and the training that goes on."""
        trained = {"data": data, "out": target.with_suffix(""), "resume": target, **self.training}
        return [
            words_of_command(self.operator, (source, target), self.drawn(seed).growth),
            words_of_command("train", (), trained),
        ]


def _width(name: str, train: Mapping[str, Any] | None = None, **growth: Any) -> Candidate:
    return Candidate(name=name, operator="width", growth=growth, train=train or {})


def _depth(name: str, train: Mapping[str, Any] | None = None, **growth: Any) -> Candidate:
    return Candidate(name=name, operator="depth", growth=growth, train=train or {})


SPARKLING: Mapping[str, Any] = {
    "how": "tile",
    "separate": "none",
    "reset": ("new",),
    "moments": "unscaled",
}  # arXiv 2602.02472: states of what is new begin anew
TABLES: Mapping[Operator, Sequence[Candidate]] = {
    "width": (
        _width("split"),
        _width("split-mup", lr_rule="mup"),
        _width("split-rewarm", rewarm=50),
        _width("split-reset", reset=("new",)),
        _width("spread", spread=1.0),
        _width("noise", separate="noise"),
        _width("reset", {"rewarm_new": RISE}, **SPARKLING),
        _width("zero-copy", how="pad", fresh="zero-copy"),
        _width("zero-copy-rise", {"rewarm_new": RISE}, how="pad", fresh="zero-copy"),
        _width("zero-random", how="pad"),
    ),
    "depth": (
        _depth("zero-output"),
        _depth("zero-output-append", place="append"),
        _depth("zero-output-rise", {"rewarm_new": RISE}),
        _depth("zero-norm", new="zero-norm"),
        _depth("copy", new="copy"),
        _depth("copy-append", new="copy", place="append"),
        _depth("ode", new="ode"),
        _depth("ode-mup", new="ode", lr_rule="mup"),
        _depth("random", new="random"),
        _depth("random-rise", {"rewarm_new": RISE}, new="random"),
    ),
}


def named(names: Sequence[str], operators: Sequence[Operator]) -> list[Candidate]:
    """Those of the operators' tables by their names, all without any; raises RequestError for a name in no table."""
    known = {one.name: one for operator in operators for one in TABLES[operator]}
    for name in names:
        if name not in known:
            raise RequestError(f"⟦candidates {name}⟧: is in no table, expected some of {', '.join(known)}, or a file")
    return [known[name] for name in names] if names else list(known.values())


def in_file(path: Path) -> list[Candidate]:
    """A user's own, from YAML or JSON: by their names what else a `Candidate` has. Raises RequestError with the place.

    tiled: {operator: width, growth: {how: tile}, train: {rewarm_new: [1.3, 100]}}
    """
    with at(path):
        return [
            made(Candidate, {"name": name, **_fields(name, given)}, name).checked(name)
            for name, given in read_yaml(path).items()
        ]


def _fields(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise RequestError(f"{name}: is {given!r}, expected operator, growth and train")
    return cast(dict[str, Any], given)


def typed(text: str) -> Candidate:
    """A user's own, as typed: `width --separate none --rewarm-new 1.3,100`; what only training knows goes there.

    Raises RequestError for options of neither.
    """
    words, where = shlex.split(text), f"⟦candidate {text}⟧"
    if not words or words[0] not in TABLES:
        raise RequestError(f"{where}: begins with neither width nor depth, expected the growth as one types it")
    operator: Operator = "width" if words[0] == "width" else "depth"
    options = options_in_words(words[1:], where)
    of_growth = growth_options(operator, PLACES_OF_GROWTH).types
    check_known(options, [*of_growth, *train_options(OUTSIDE).types], where)
    grown = {name: value for name, value in options.items() if name in of_growth}
    trained = {name: value for name, value in options.items() if name not in of_growth}
    return Candidate(name=" ".join(words), operator=operator, growth=grown, train=trained).checked(where)


def check_names(candidates: Sequence[Candidate]) -> None:
    """Raises RequestError where two have one name, or there are none."""
    names = [one.name for one in candidates]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise RequestError(f"two candidates are called {twice}, expected a name of its own for each")
    if not names:
        raise RequestError("there are no candidates, expected at least one")
