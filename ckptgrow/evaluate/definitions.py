"""Finds the files that define lm-eval's tasks, without loading its whole index (14,000 files, 17 s on two cores).

A definition is a YAML file that names its `task` or `group` at the left margin, and its `tag`s there or in a file that
it includes; those lines alone are read.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ckptgrow.errors import RequestError

_LIST = r"""["']?:[ \t]*(?P<inline>[^\n#]*)(?P<block>(?:\n[ \t]*-[^\n]*)*)"""
_NAME = re.compile(r"""^["']?(task|group)["']?:[ \t]*(["']?)([^\s"'#\[{!]+)\2""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag""" + _LIST, re.MULTILINE)
_INCLUDES = re.compile(r"""^["']?include""" + _LIST, re.MULTILINE)
_CLASS = re.compile(r"""^["']?class["']?:""", re.MULTILINE)
_WORD = re.compile(r"""[^\s"',\[\]-][^\s"',\[\]]*""")


@dataclass(frozen=True)
class Definitions:
    """The files that define tasks and groups, and the tasks of each tag, by name."""

    tasks: Mapping[str, Path]
    groups: Mapping[str, Path]
    tags: Mapping[str, tuple[str, ...]]

    def file_of(self, name: str) -> Path:
        """The file that defines a task or group."""
        return self.groups[name] if name in self.groups else self.tasks[name]

    def meaning(self, name: str) -> list[str]:
        """The tasks and groups to which a name refers, sorted: a task, a group, a tag, or a pattern such as `arc_*`.

        Raises RequestError, which gives the nearest names, where there is none.
        """
        if name in self.groups or name in self.tasks:
            return [name]
        if name in self.tags:
            return list(self.tags[name])
        found = sorted(fnmatch.filter(self.tasks, name))
        if not found:
            near = difflib.get_close_matches(name, [*self.tasks, *self.groups, *self.tags], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see lm-eval's list of tasks"
            raise RequestError(f"⟦tasks {name}⟧: lm-eval has no such task, group or tag; {hint}")
        return found

    def knows(self, name: str) -> bool:
        """Whether a name is that of a task, group or tag."""
        return name in self.tasks or name in self.groups or name in self.tags


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    tasks: tuple[str, ...]
    groups: tuple[str, ...]
    tags: frozenset[str] | None  # None where it says nothing of them
    includes: tuple[Path, ...]


def find_definitions(extra: Sequence[Path] = ()) -> Definitions:
    """The definitions of the installed lm-eval and of a user's own directories, which come first.

    Raises RequestError for a directory that does not exist.
    """
    files = list(_harness_files())
    for root in extra:
        if not root.is_dir():
            raise RequestError(f"⟦include_path {root}⟧: no such directory, expected one with task definitions")
        files = _read_all(root.absolute()) + files  # lm-eval reads what includes them from another directory
    known = {file.path: file for file in files}
    tags: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for tag in _tags(file, known):
            tags[tag] |= set(file.tasks)
    return Definitions(
        {task: file.path for file in reversed(files) for task in file.tasks},
        {group: file.path for file in reversed(files) for group in file.groups},
        {tag: tuple(sorted(tasks)) for tag, tasks in tags.items() if tasks},
    )


@cache
def _harness_files() -> list[_File]:
    spec = find_spec("lm_eval")
    assert spec is not None, "require_harness comes first"
    assert spec.origin is not None, "lm_eval is a package with an __init__.py"
    return _read_all(Path(spec.origin).parent / "tasks")


def _read_all(root: Path) -> list[_File]:
    """All files below a directory, in lm-eval's order, in which the first of several files with one name counts."""
    paths = (Path(directory, name) for directory, _, names in os.walk(root) for name in names if name.endswith(".yaml"))
    return [_read(path) for path in sorted(paths, key=Path.as_posix)]


def _read(file: Path) -> _File:
    text = file.read_text(encoding="utf-8", errors="replace")
    named = [(match[1], match[3]) for match in _NAME.finditer(text)]
    is_class = _CLASS.search(text) is not None  # written in Python: a task, even where it names a group
    groups = () if is_class else tuple(name for key, name in named if key == "group")
    includes = (entry.strip(" \"'-") for entry in _entries(_INCLUDES, text))
    return _File(
        path=file,
        tasks=() if groups else tuple(name for key, name in named if key == "task"),
        groups=groups,
        tags=frozenset(word for entry in _entries(_TAGS, text) for word in _WORD.findall(entry) if word != "null")
        if _TAGS.search(text)
        else None,
        includes=tuple(Path(os.path.normpath(file.parent / included)) for included in includes),
    )


def _entries(pattern: re.Pattern[str], text: str) -> list[str]:
    """The values of a key: the one on its line, or those of the list below it."""
    return [
        entry
        for match in pattern.finditer(text)
        for entry in (match["inline"], *match["block"].splitlines())
        if entry.strip()
    ]


def _tags(file: _File, known: dict[Path, _File]) -> frozenset[str]:
    """A definition's tags: its own, or else those of the last file it includes that has any."""
    if file.tags is not None:
        return file.tags
    for included in reversed(file.includes):
        if included not in known and included.is_file():
            known[included] = _read(included)  # templates need not end in .yaml
        if included in known and (tags := _tags(known[included], known)):
            return tags
    return frozenset()
