"""Loads lm-eval's own tasks by name, on their own data or on local files, without the rest of its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from ckptgrow.addresses.hub import take_cached_data_where_silent
from ckptgrow.errors import CkptgrowError, DataError, RequestError, listing
from ckptgrow.evaluate.definitions import Definitions, find_definitions
from ckptgrow.evaluate.quiet import quiet
from ckptgrow.evaluate.task_documents import READERS


@dataclass(frozen=True)
class Loaded:
    """Tasks that are ready to run: lm-eval's own objects, and notes on their data."""

    manager: Any  # without one, lm-eval would load its whole index
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    notes: tuple[str, ...]


def load_tasks(names: Sequence[str], local: Mapping[str, Path] | None = None, include: Sequence[Path] = ()) -> Loaded:
    """Loads the tasks of some names or patterns, which may be those of groups and tags too.

    `local`: by task, the file on which it runs; `include`: directories with a user's own definitions. Raises
    RequestError for unknown names, and DataError where data can neither be read nor downloaded.
    """
    local = local or {}
    unreadable = [name for name in local if name not in READERS]
    if unreadable:
        raise RequestError(f"⟦data {listing(unreadable)}⟧: local files are read for {listing(READERS)}")
    definitions = find_definitions(include)
    wanted = sorted({meant for name in names for meant in definitions.meaning(name)})
    documents = [READERS[task](path) for task, path in local.items()]
    notes = tuple(note for one in documents for note in (*one.notes, *one.harness_notes))
    with TemporaryDirectory(prefix="ckptgrow-") as scratch:
        manager, built = _build(wanted, definitions, local, Path(scratch))
    idle = sorted(set(local) - set(built["tasks"]))
    if idle:
        raise RequestError(f"⟦data {listing(idle)}⟧: is not among the tasks {listing(built['tasks'])}")
    return Loaded(manager, built["tasks"], built.get("groups", {}), notes)


def _build(
    wanted: Sequence[str], definitions: Definitions, local: Mapping[str, Path], scratch: Path
) -> tuple[Any, Mapping[str, Any]]:
    if set(wanted) - set(local):
        take_cached_data_where_silent()
    from lm_eval.tasks import TaskManager

    written: set[str] = set()
    lacking = set(wanted)
    while True:
        for name in lacking:
            _write_definition(scratch / f"{len(written)}.yaml", definitions.file_of(name), name, local.get(name))
            written.add(name)
        with quiet():
            manager = TaskManager(include_path=str(scratch), include_defaults=False)
        lacking = {
            meant
            for entry in manager.task_index.values()
            for child in _children(entry.cfg)
            if definitions.knows(child)
            for meant in definitions.meaning(child)
        } - written
        if not lacking:
            break
    try:
        with quiet():
            return manager, manager.load(list(wanted))
    except CkptgrowError:
        raise
    except OSError as error:
        raise DataError(
            f"⟦tasks {listing(wanted)}⟧: the data is neither in the cache nor to be downloaded ({_first_line(error)}); "
            f"download it where there is a network, or pass a local file with ⟦data⟧ ({listing(READERS)})"
        ) from error
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"⟦tasks {listing(wanted)}⟧: lm-eval cannot load them ({_first_line(error)})") from error


def _write_definition(target: Path, original: Path, task: str, data: Path | None) -> None:
    """Writes a definition that includes lm-eval's own; with a local file, only its data differ."""
    changes: dict[str, Any] = {"include": str(original)}
    function = ""
    if data is not None:
        changes["dataset_kwargs"] = {"task": task, "path": str(data.absolute())}
        changes |= {"training_split": None, "validation_split": None, "test_split": "test"}
        # YAML's own tag for functions, which the plain dumper does not know
        function = "custom_dataset: !function ckptgrow.evaluate.task_documents.local_dataset\n"
    target.write_text(yaml.safe_dump(changes) + function, encoding="utf-8")


def _children(definition: Mapping[str, Any] | None) -> set[str]:
    """The names that a group's definition lists."""
    members = (definition or {}).get("task")
    if not isinstance(members, list):
        return set()
    names: set[str] = set()
    for member in members:
        if isinstance(member, str):
            names.add(member)
        elif isinstance(member.get("task"), list):
            names |= _children(member)
        else:
            names.add(member.get("task") or member.get("group"))
    return names


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
