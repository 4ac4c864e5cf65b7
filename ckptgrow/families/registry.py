"""Which families there are."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import ConfigError
from ckptgrow.families.bert import FAMILY as BERT
from ckptgrow.families.bloom import FAMILY as BLOOM
from ckptgrow.families.family import Family
from ckptgrow.families.gemma import FAMILY as GEMMA
from ckptgrow.families.gemma2 import FAMILY as GEMMA2
from ckptgrow.families.gemma3_text import FAMILY as GEMMA3_TEXT
from ckptgrow.families.gpt2 import FAMILY as GPT2
from ckptgrow.families.gpt_neox import FAMILY as GPT_NEOX
from ckptgrow.families.granite import FAMILY as GRANITE
from ckptgrow.families.llama import FAMILY as LLAMA
from ckptgrow.families.mistral import FAMILY as MISTRAL
from ckptgrow.families.mixtral import FAMILY as MIXTRAL
from ckptgrow.families.mpt import FAMILY as MPT
from ckptgrow.families.olmo import FAMILY as OLMO
from ckptgrow.families.olmo2 import FAMILY as OLMO2
from ckptgrow.families.opt import FAMILY as OPT
from ckptgrow.families.phi import FAMILY as PHI
from ckptgrow.families.phi3 import FAMILY as PHI3
from ckptgrow.families.qwen2 import FAMILY as QWEN2
from ckptgrow.families.qwen3 import FAMILY as QWEN3
from ckptgrow.families.qwen3_moe import FAMILY as QWEN3_MOE
from ckptgrow.families.roberta import FAMILY as ROBERTA
from ckptgrow.families.smollm3 import FAMILY as SMOLLM3
from ckptgrow.families.stablelm import FAMILY as STABLELM
from ckptgrow.families.starcoder2 import FAMILY as STARCODER2
from ckptgrow.families.t5 import FAMILY as T5
from ckptgrow.families.vit import FAMILY as VIT

TABLES = (
    GPT2,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3_TEXT,
    GPT_NEOX,
    OPT,
    OLMO,
    OLMO2,
    PHI,
    PHI3,
    STARCODER2,
    GRANITE,
    STABLELM,
    SMOLLM3,
    MIXTRAL,
    QWEN3_MOE,
    BERT,
    ROBERTA,
    VIT,
    T5,
    BLOOM,
    MPT,
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in TABLES}


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
