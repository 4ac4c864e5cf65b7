"""What names tokens by their numbers besides the weights: configs, the settings of generation, tokenizer files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ckptgrow.data.token_texts import TOKENIZER_FILES
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.state.run_data import DATA, DIRECTORY, TOKENIZER
from ckptgrow.storage.files.json_files import read_json

GENERATION = "generation_config.json"
SUFFIX = "_token_id"
LISTS = ("suppress_tokens", "begin_suppress_tokens")
WITH_FILES = ("huggingface", "trainer")  # kinds beside whose weights a tokenizer lies
Tree = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TokenMoves:
    """Where tokens went: `moved` from old numbers to new ones, and the special tokens of both tokenizers by their
    roles. `tokenizer` is the new one's name, `files` the directory of its files, where it has some.
    """

    moved: Mapping[int, int]
    old_roles: Mapping[str, int]
    new_roles: Mapping[str, int]
    tokenizer: str
    files: Path | None

    def fields(self, tree: Tree) -> dict[str, Any]:
        """The fields of a config that name tokens, as they are afterwards; only those that change.

        A token in a role of the old tokenizer becomes the one in that role of the new one; others keep their text. One
        that is no token any more is none.
        """
        found: dict[str, Any] = {}
        for key, value in tree.items():
            if key.endswith(SUFFIX):
                found[key] = self._several(value, key.removesuffix(SUFFIX))
            elif key in LISTS and isinstance(value, list):
                found[key] = [self.moved[one] for one in cast(list[int], value) if one in self.moved]
        return {key: value for key, value in found.items() if value != tree[key]}

    def _several(self, value: Any, role: str) -> Any:
        if isinstance(value, list):
            ids = [self._one(one, role) for one in cast(list[int], value)]
            return [one for one in dict.fromkeys(ids) if one is not None]
        return self._one(value, role) if isinstance(value, int) else value

    def _one(self, number: int, role: str) -> int | None:
        if self.old_roles.get(role) == number and role in self.new_roles:
            return self.new_roles[role]
        return self.moved.get(number, self.new_roles.get(role))

    def followed(self, old: Checkpoint) -> Checkpoint:
        """A checkpoint whose files, and record of the run's data, are of the new tokenizer."""
        return _with_tokenizer_named(self._with_files(old), self.tokenizer)

    def _with_files(self, old: Checkpoint) -> Checkpoint:
        carried = old.carried
        replaced: dict[str, Path] = {}
        if old.kind in WITH_FILES or set(TOKENIZER_FILES) & set(carried.files):
            paths = {} if self.files is None else {name: self.files / name for name in TOKENIZER_FILES}
            replaced = {name: path for name, path in paths.items() if path.is_file()}
            carried = carried.without(TOKENIZER_FILES)
        changed = dict(carried.changed)
        if GENERATION in carried.files:
            settings = read_json(carried.directory / GENERATION)
            fields = self.fields(settings)
            changed |= {GENERATION: {**settings, **fields}} if fields else {}
        files = (*carried.files, *replaced)
        return replace(old, carried=replace(carried, files=files, replaced=replaced, changed=changed))


def _with_tokenizer_named(old: Checkpoint, name: str) -> Checkpoint:
    """The record of the data that `ckptgrow train` keeps, of which the directory holds the old tokenizer's tokens."""
    arguments = old.rest.get("hyper_parameters")
    data = arguments.get(DATA) if isinstance(arguments, dict) else None
    if not isinstance(arguments, dict) or not isinstance(data, dict):
        return old
    kept = {key: value for key, value in data.items() if key != DIRECTORY}
    return replace(old, rest={**old.rest, "hyper_parameters": {**arguments, DATA: {**kept, TOKENIZER: name}}})
