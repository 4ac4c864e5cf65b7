"""Transformers' config objects in pickles, read from their own state without transformers' classes.

The state is what `vars(config)` was. `model_type` is the class's own, not in the state: it is looked up by the class's
name among those that transformers lists.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ckptgrow.storage.files.json_files import Json
from ckptgrow.storage.pickles.opaque import Opaque

ROOT, ENDING = "transformers.models.", "Config"


def config_in(node: object) -> dict[str, Json] | None:
    """The fields of a pickled config as config.json has them, None of anything else."""
    if not isinstance(node, Opaque) or not isinstance(node.state, dict):
        return None
    module, name = type(node).named
    if not module.startswith(ROOT) or not name.endswith(ENDING):
        return None
    model_type = node.state.get("model_type") or _model_type(name)
    if model_type is None:
        return None
    fields = {str(key): value for key, value in node.state.items() if not str(key).startswith("_")}
    return {**{key: _plain(value) for key, value in fields.items() if _is_plain(value)}, "model_type": str(model_type)}


def with_fields(node: Opaque, config: Mapping[str, object]) -> Opaque:
    """The same object with the fields in which `config` differs."""
    before = config_in(node) or {}
    changed = {key: value for key, value in config.items() if key not in before or before[key] != value}
    return node.with_state({**(node.state if isinstance(node.state, dict) else {}), **changed})


def _model_type(class_name: str) -> str | None:
    from transformers import CONFIG_MAPPING

    bare = class_name.removesuffix(ENDING).lower()
    return next((one for one in CONFIG_MAPPING if one.replace("_", "").replace("-", "") == bare), None)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | torch.dtype)


def _plain(value: object) -> Json:
    """A plain value as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value).removeprefix("torch.")  # a dtype
