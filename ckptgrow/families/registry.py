"""Which families there are."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family
from ckptgrow.families.gpt2 import FAMILY as GPT2
from ckptgrow.families.llama import FAMILY as LLAMA
from ckptgrow.families.mistral import FAMILY as MISTRAL
from ckptgrow.families.qwen2 import FAMILY as QWEN2
from ckptgrow.families.qwen3 import FAMILY as QWEN3

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3)}


def family_of(config: Mapping[str, object], where: str) -> Family:
    """The table for a config's `model_type`.

    Raises ConfigError where there is no table, naming those there are.
    """
    model_type = config.get("model_type")
    if model_type is None:
        raise ConfigError(f"{where}: the config has no model_type, expected one of {', '.join(sorted(FAMILIES))}")
    if model_type not in FAMILIES:
        raise ConfigError(f"{where}: no table for family {model_type!r}; there are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[str(model_type)]
