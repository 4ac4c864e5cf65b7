"""Fields of a new model's config that transformers does not know: it keeps them, and leaves the meant ones at their
defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ckptgrow.errors import ConfigError
from ckptgrow.state.architecture import config_errors

LIKENESS = 0.75  # of two names, above which the one is the other mistyped
WRITTEN = {"auto_map", "torch_dtype", "transformers_version"}  # by versions of transformers


def check_fields(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a field that transformers does not know, where it has a similar one that is not said."""
    usual = _made({"model_type": config["model_type"]})
    known = {*usual.to_dict(), *type(usual).attribute_map}
    for name in sorted(config.keys() - known - WRITTEN):
        near = difflib.get_close_matches(name, sorted(known - config.keys()), n=1, cutoff=LIKENESS)
        if near and not hasattr(usual, name) and _changes_nothing(name, config):
            raise ConfigError(f"{config['model_type']} configs have no field {name}; did you mean {near[0]}?")


def _changes_nothing(name: str, config: Mapping[str, Any]) -> bool:
    """Not so of a field's older name, which transformers reads into the newer one."""
    with_it = _made(config).to_dict()
    without = _made({key: value for key, value in config.items() if key != name}).to_dict()
    return {key: value for key, value in with_it.items() if key != name} == without


def _made(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {key: value for key, value in config.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(str(config["model_type"]), **fields)
    except config_errors() as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"transformers refuses this config ({reason})") from error
