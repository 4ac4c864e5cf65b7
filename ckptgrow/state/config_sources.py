"""Finds the architecture of a checkpoint.

It comes from the user's file, else from the checkpoint's own config, else from the staged-training script's arguments.
It is never guessed from shapes, because these do not determine the number of heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ckptgrow.errors import ConfigError, at
from ckptgrow.families.family import Family
from ckptgrow.families.registry import family_of
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.lightning import original_arguments
from ckptgrow.state.architecture import Architecture, config_errors
from ckptgrow.state.original_config import original_config
from ckptgrow.state.sizes import fields_in
from ckptgrow.state.task_heads import family_of_model
from ckptgrow.storage.files.json_files import config_in_file


def architecture_of(checkpoint: Checkpoint, config_file: Path | None = None) -> Architecture:
    """The family's table and the config, completed by the family's defaults where it leaves fields out.

    Raises ConfigError where there is no config, or none with a table.
    """
    given = None if config_file is None else config_in_file(config_file)
    with at(config_file or checkpoint.path):
        if given is not None:
            config = given
        elif checkpoint.config is not None:
            config = dict(checkpoint.config)
        elif (arguments := original_arguments(checkpoint)) is not None:
            config = original_config(arguments)
        else:
            raise ConfigError(
                "says nothing of its architecture (config.json, hyper_parameters['config'], or the original's size and "
                "seqlen); pass a transformers config with ⟦config FILE⟧"
            )
        family = family_of_model(config, checkpoint.tensors)
        return Architecture(family, completed_config(family, config), str(checkpoint.path))


def architecture_said(config: Mapping[str, Any], path: Path) -> Architecture:
    """The architecture that a config says by itself; raises ConfigError where it is of no family."""
    family = family_of(config)
    return Architecture(family, completed_config(family, config), str(path))


def completed_config(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with transformers' defaults for fields of the table that it does not have, the kinds of single layers
    that transformers derives by a rule, and fields under their own names where it has them under an alias.
    """
    fields = {size.config for size in family.sizes.values()} | {family.num_layers, *family.dropout}
    fields |= {name for one in (*family.parameters, *family.refusals) for name in fields_in(one.when)}
    fields |= {family.tie.config} if family.tie else set()
    fields |= {family.padding.eps} if family.padding else set()
    if "experts" in family.sizes:
        fields |= {family.choice.chosen, *(family.choice.groups or ()), *fields_in(family.choice.normalised)}
    fields |= set(family.rounding.fields) if family.rounding else set()
    fields |= {family.activation}  # of None there is nothing to complete
    fields |= {*family.sparse.rules, family.sparse.experts} if family.sparse else set()
    fields |= {*family.of_depth} | {name for pair in family.periodic.values() for name in pair}
    missing = {field for field in fields if field is not None and field not in config}
    missing |= {field for field in (*family.stacks.values(), *family.layer_lists) if config.get(field) is None}
    renamed = {name for alias, name in family.aliases.items() if alias in config}
    if not missing | renamed:
        return dict(config)
    from transformers import AutoConfig

    # deep: transformers writes into what is inside
    given = deepcopy({key: value for key, value in config.items() if key != "model_type"})
    try:
        full = AutoConfig.for_model(family.model_type, **given).to_dict()
    except config_errors() as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"transformers refuses this config ({reason})") from error
    derived = {field: full[field] for field in sorted(missing | renamed) if field in full}
    return {**derived, **{key: value for key, value in config.items() if key not in derived}}
