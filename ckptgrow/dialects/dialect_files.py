"""A user's own dialect, said in a file of YAML or JSON, with the fields of `Dialect`, `Row` and `ConfigMap`:

    name: mine
    model_type: llama
    rows:
      - {theirs: "blocks.{layer}.qkv.weight", ours: [Q, K, V], how: join}
      - {theirs: "blocks.{layer}.wo.weight", ours: "rotary heads: O"}
      - {theirs: ["experts.{expert}.gate.weight", "experts.{expert}.up.weight"], ours: GATE_UP, how: experts join}
    config:
      at: [model_args]
      fields: {depth: num_hidden_layers, width: hidden_size}
      constants: {hidden_act: silu}
      expects: {bias: [false]}

`optimizer_rows`, `trainer` and `config` may be left out; without `config` the user passes transformers' config.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ckptgrow.dialects.dialect import EXPERT, LAYER, ConfigMap, Dialect, Row
from ckptgrow.errors import RequestError, at, listing
from ckptgrow.storage.files.yaml_files import read_yaml

SUFFIXES = (".yaml", ".yml", ".json")
FIELDS = {"name", "trainer", "model_type", "rows", "optimizer_rows", "config"}
ROW_FIELDS = {"theirs", "ours", "how", "or_zero", "is_buffer"}
CONFIG_FIELDS = {"at", "fields", "constants", "expects", "also"}
HOW = {"transpose", "join", "group", "stack", "experts"}
SPACES = ("heads", "kv_heads")
ONE_OF_TWO = 2  # parts from which something must join them


def read_dialect(path: Path) -> Dialect:
    """A dialect from a file; raises RequestError for what is not a dialect."""
    said = read_yaml(path)
    with at(path):
        _check_fields(said, FIELDS, "dialect")
        rows = tuple(_row(one) for one in _list(said, "rows"))
        optimizer_rows = tuple(_row(one) for one in said.get("optimizer_rows") or ())
        _check_once(rows)
        config = said.get("config")
        return Dialect(
            name=_text(said, "name"),
            trainer=str(said.get("trainer", said["name"])),
            model_types=(_text(said, "model_type"),),
            rows=rows,
            optimizer_rows=optimizer_rows,
            config=None if config is None else _config(config),
        )


def _row(said: Any) -> Row:
    _check_fields(said, ROW_FIELDS, "row")
    theirs, how = _names(said, "theirs"), str(said.get("how", ""))
    with at(f"row {theirs[0]}"):
        flags = {name: bool(said.get(name)) for name in ("or_zero", "is_buffer")}
        row = Row(theirs, *_names(said, "ours"), how=how, **flags)
        _check_row(row)
    return row


def _names(said: Mapping[str, Any], key: str) -> list[str]:
    """One name or several."""
    names: list[Any] = [said[key]] if isinstance(said.get(key), str) and said[key] else _list(said, key)
    if not all(isinstance(name, str) for name in names):
        raise RequestError(f"{key} is not a list of names, expected names")
    return names


def _check_row(row: Row) -> None:
    strange = set(row.how) - HOW
    if strange:
        raise RequestError(f"how says {listing(strange)}, expected {listing(HOW)}")
    if row.is_apart:
        _check_apart(row)
    elif (len(row.parts) >= ONE_OF_TWO) != bool({"join", "group"} & {*row.how}):
        raise RequestError(f"has {len(row.parts)} of ours, expected several with join or group, and one without")
    for part in row.parts:
        for step in part.steps:
            _check_step(step)
        if any((LAYER in part.name) != (LAYER in name or row.is_stacked) for name in row.names):
            raise RequestError(f"{part.name} and it do not both stand in layers, expected {LAYER} in both or in none")


def _check_apart(row: Row) -> None:
    """Several of the trainer's that are one of transformers'."""
    if len(row.parts) != 1 or row.parts[0].steps or row.or_zero or row.is_stacked:
        raise RequestError("has several of theirs, expected one of ours, as it is, in a layer")
    if any((EXPERT in name) != ("experts" in row.how) for name in row.names):
        raise RequestError(f"how says {' '.join(row.how)!r}, expected experts where theirs have {EXPERT}, else none")
    if (len(row.names) >= ONE_OF_TWO) != ("join" in row.how):
        raise RequestError(f"has {len(row.names)} of theirs, expected several with join, and one without")
    strange = {space for space in row.shares if space} - {*SPACES}
    if strange:
        raise RequestError(f"says the rows of {listing(strange)}, expected {listing(SPACES)}")


def _check_step(step: tuple[str, ...]) -> None:
    is_known = len(step) == ONE_OF_TWO and (
        (step[0] == "rotary" and step[1] in SPACES)
        or step in (("thirds", "heads"), ("groups", "kv_heads"))
        or (step[0] in ("times", "plus") and _is_number(step[1]))
    )
    if not is_known:
        raise RequestError(
            f"step {' '.join(step)!r}, expected rotary heads, rotary kv_heads, thirds heads, groups kv_heads, "
            "times C or plus C"
        )


def _is_number(text: str) -> bool:
    try:
        return float(text) != 0
    except ValueError:
        return False


def _config(said: Any) -> ConfigMap:
    _check_fields(said, CONFIG_FIELDS, "config")
    fields, expects = said.get("fields"), said.get("expects") or {}
    if not isinstance(fields, dict) or not isinstance(expects, dict):
        raise RequestError("config has no fields, expected the trainer's names with transformers'")
    return ConfigMap(
        at=tuple(map(str, _list(said, "at"))),
        fields=tuple((str(theirs), str(ours)) for theirs, ours in cast(dict[Any, Any], fields).items()),
        constants=dict(said.get("constants") or {}),
        expects={str(name): tuple(values) for name, values in cast(dict[Any, Any], expects).items()},
        also=tuple(tuple(map(str, one)) for one in said.get("also") or ()),
    )


def _check_fields(said: Any, known: set[str], what: str) -> None:
    if not isinstance(said, dict):
        raise RequestError(f"has a {what} that is not a mapping, expected {listing(known, 9)}")
    strange = {str(key) for key in cast(dict[Any, Any], said)} - known
    if strange:
        raise RequestError(f"its {what} says {listing(strange)}, expected {listing(known, 9)}")


def _check_once(rows: tuple[Row, ...]) -> None:
    for names in ([name for row in rows for name in row.names], [part.name for row in rows for part in row.parts]):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise RequestError(f"names {listing(twice)} twice, expected each in one row")


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not value:
        raise RequestError(f"has no {key}, expected a name")
    return value


def _list(said: Mapping[str, Any], key: str) -> list[Any]:
    value = said.get(key)
    if not isinstance(value, list) or not value:
        raise RequestError(f"has no {key}, expected a list")
    return cast(list[Any], value)
