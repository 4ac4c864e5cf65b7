"""Where lm-eval's task definitions are, without loading its whole index (14,000 files, 17 s on two cores).

Each definition is a YAML file that names its `task` or `group` at the left margin, and its `tag`s there or in a file
that it includes; those lines alone are read to find the directories that hold the names asked for.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ckptgrow.errors import RequestError

_LIST = r"""["']?:[ \t]*(?P<inline>[^\n#]*)(?P<block>(?:\n[ \t]*-[^\n]*)*)"""
_NAME = re.compile(r"""^["']?(?:task|group)(["']?):[ \t]*(["']?)([^\s"'#\[{!]+)\2""", re.MULTILINE)
_TAGS = re.compile(r"""^["']?tag""" + _LIST, re.MULTILINE)
_INCLUDES = re.compile(r"""^["']?include""" + _LIST, re.MULTILINE)
_WORD = re.compile(r"""[^\s"',\[\]-][^\s"',\[\]]*""")


@dataclass(frozen=True)
class Definitions:
    """Which directories, under which root, define a name."""

    directories: dict[str, tuple[Path, ...]]

    def matching(self, pattern: str) -> list[str]:
        """The names that a name or pattern (as `mmlu_*`) means, sorted.

        Raises RequestError where there is none, with the nearest names.
        """
        if pattern in self.directories:
            return [pattern]
        found = sorted(fnmatch.filter(self.directories, pattern))
        if not found:
            near = difflib.get_close_matches(pattern, self.directories, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see lm-eval's list of tasks"
            raise RequestError(f"--tasks {pattern}: lm-eval has no such task, group or tag; {hint}")
        return found

    def directories_of(self, names: Iterable[str]) -> list[Path]:
        """The directories that define some names, none inside another."""
        found = {directory for name in names for directory in self.directories.get(name, ())}
        return sorted(one for one in found if not any(other in one.parents for other in found))


def find_definitions(extra: Sequence[Path] = ()) -> Definitions:
    """The definitions of the installed lm-eval, and of a user's own directories."""
    spec = find_spec("lm_eval")
    assert spec is not None, "require_harness comes first"
    assert spec.origin is not None, "lm_eval is a package with an __init__.py"
    directories: dict[str, set[Path]] = defaultdict(set)
    tagged: dict[Path, set[str]] = {}
    includers: dict[Path, set[Path]] = defaultdict(set)
    for file in _definition_files((Path(spec.origin).parent / "tasks", *extra)):
        text = _text(file)
        for match in _NAME.finditer(text):
            directories[match[3]].add(file.parent)
        tagged[file] = _tags(text)
        for included in _entries(_INCLUDES, text):
            includers[Path(os.path.normpath(file.parent / included.strip(" \"'-")))].add(file)
    for template in includers.keys() - tagged.keys():  # templates need not end in .yaml
        tagged[template] = _tags(_text(template)) if template.is_file() else set()
    for file, tags in tagged.items():
        for tag in tags:
            directories[tag] |= {one.parent for one in _with_includers(file, includers)}
    return Definitions({name: tuple(sorted(found)) for name, found in directories.items()})


def _definition_files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        if not root.is_dir():
            raise RequestError(f"--include-path {root}: no such directory, expected one with task definitions")
        for directory, _, names in os.walk(root):
            yield from (Path(directory) / name for name in names if name.endswith(".yaml"))


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _tags(text: str) -> set[str]:
    return {word for entry in _entries(_TAGS, text) for word in _WORD.findall(entry)}


def _entries(pattern: re.Pattern[str], text: str) -> list[str]:
    """The values at a key: the one on its line, or those of the list below it."""
    return [
        entry
        for match in pattern.finditer(text)
        for entry in (match["inline"], *match["block"].splitlines())
        if entry.strip()
    ]


def _with_includers(file: Path, includers: Mapping[Path, set[Path]]) -> set[Path]:
    """A file and all that include it, directly or through others."""
    reached, open_ends = {file}, [file]
    while open_ends:
        for one in includers.get(open_ends.pop(), set()) - reached:
            reached.add(one)
            open_ends.append(one)
    return reached
