"""Families that live outside the package: registered by a call, installed as entry points, or in a file of one's own.

Nothing that a checkpoint holds or names is ever run. What is run is what its user installed, or names on the command
line.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ckptgrow.errors import ConfigError
from ckptgrow.families.checking import check_family
from ckptgrow.families.family import Family

GROUP = __name__.rpartition(".")[0]  # the package of the tables
NAME = "FAMILY"  # what a file of one's own calls its table


class Registry(Mapping[str, Family]):
    """Families by `model_type`; an installed one is imported when it is first asked for."""

    def __init__(self, tables: Iterable[Family]) -> None:
        self._own: dict[str, Family] = {family.model_type: family for family in tables}
        self._added: dict[str, Family] = {}

    def add(self, family: Family) -> None:
        """Adds a table; raises ConfigError where it is malformed, or another one has its name."""
        check_family(family)
        name = family.model_type
        known = self._own.get(name) or self._added.get(name)
        if known == family:
            return
        if known is not None or name in self._installed:
            raise ConfigError(f"family {name!r}: another table has this model_type, expected one that is free")
        self._added[name] = family

    @contextmanager
    def instead(self, family: Family) -> Generator[None]:
        """For a while this table in the place of any other of its name: a draft, which is being tried."""
        own, added = self._own, self._added
        self._own = {name: one for name, one in own.items() if name != family.model_type}
        self._added = {**added, family.model_type: family}
        try:
            yield
        finally:
            self._own, self._added = own, added

    @cached_property
    def _installed(self) -> dict[str, list[EntryPoint]]:
        """The entry points of installed packages, by their names, which are families'."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP):
            found.setdefault(point.name, []).append(point)
        return found

    def __getitem__(self, name: str) -> Family:
        points = self._installed.get(name, ())
        if len(points) + (name in self._own) > 1:
            raise ConfigError(
                f"family {name!r}: {' and '.join(map(_place, points))} has a table beside another one, expected one "
                "table of each model_type; rename or uninstall it"
            )
        if name in self._own:
            return self._own[name]
        if name not in self._added and points:
            self._added[name] = _loaded(points[0])
        return self._added[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own, *self._added, *self._installed)))

    def __len__(self) -> int:
        return len(list(iter(self)))


def family_in(path: Path) -> Family:
    """The table that a Python file of one's own calls FAMILY; the file is run, as it would be by `python`.

    Raises ConfigError where there is no such file, it fails, or has no table of this name.
    """
    spec = spec_from_file_location(path.stem, path) if path.suffix == ".py" else None
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: no such Python file, expected one with a table of the name {NAME}")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {_told(error)}, expected a file that Python runs") from error
    return _table(getattr(module, NAME, None), str(path))


def _loaded(point: EntryPoint) -> Family:
    try:
        found: object = point.load()
    except Exception as error:
        raise ConfigError(f"{_place(point)}: {_told(error)}, expected a table; mend or uninstall it") from error
    family = _table(found, _place(point))
    if family.model_type != point.name:
        raise ConfigError(f"{_place(point)}: is a table of {family.model_type!r}, expected the entry point's own name")
    check_family(family)
    return family


def _table(found: object, where: str) -> Family:
    if not isinstance(found, Family):
        raise ConfigError(f"{where}: has a {type(found).__name__}, expected {NAME}, a ckptgrow.families.Family")
    return found


def _place(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "a package"
    return f"entry point {point.name} = {point.value} of {package}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
