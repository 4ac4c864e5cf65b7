"""All families, by the `model_type` of their configs: the package's own, and those that live outside it."""

from __future__ import annotations

from collections.abc import Mapping

from ckptgrow.errors import ConfigError
from ckptgrow.families.family import Family
from ckptgrow.families.registration import Registry
from ckptgrow.families.tables.apertus import FAMILY as APERTUS
from ckptgrow.families.tables.arcee import FAMILY as ARCEE
from ckptgrow.families.tables.bamba import FAMILY as BAMBA
from ckptgrow.families.tables.bart import FAMILY as BART
from ckptgrow.families.tables.bert import FAMILY as BERT
from ckptgrow.families.tables.biogpt import FAMILY as BIOGPT
from ckptgrow.families.tables.bloom import FAMILY as BLOOM
from ckptgrow.families.tables.camembert import FAMILY as CAMEMBERT
from ckptgrow.families.tables.codegen import FAMILY as CODEGEN
from ckptgrow.families.tables.cohere import FAMILY as COHERE
from ckptgrow.families.tables.cohere2 import FAMILY as COHERE2
from ckptgrow.families.tables.cohere2_moe import FAMILY as COHERE2_MOE
from ckptgrow.families.tables.cwm import FAMILY as CWM
from ckptgrow.families.tables.deepseek_v2 import FAMILY as DEEPSEEK_V2
from ckptgrow.families.tables.deepseek_v3 import FAMILY as DEEPSEEK_V3
from ckptgrow.families.tables.distilbert import FAMILY as DISTILBERT
from ckptgrow.families.tables.dots1 import FAMILY as DOTS1
from ckptgrow.families.tables.ernie4_5 import FAMILY as ERNIE4_5
from ckptgrow.families.tables.ernie4_5_moe import FAMILY as ERNIE4_5_MOE
from ckptgrow.families.tables.eurobert import FAMILY as EUROBERT
from ckptgrow.families.tables.exaone4 import FAMILY as EXAONE4
from ckptgrow.families.tables.exaone_moe import FAMILY as EXAONE_MOE
from ckptgrow.families.tables.falcon import FAMILY as FALCON
from ckptgrow.families.tables.falcon_h1 import FAMILY as FALCON_H1
from ckptgrow.families.tables.falcon_mamba import FAMILY as FALCON_MAMBA
from ckptgrow.families.tables.flex_olmo import FAMILY as FLEX_OLMO
from ckptgrow.families.tables.gemma import FAMILY as GEMMA
from ckptgrow.families.tables.gemma2 import FAMILY as GEMMA2
from ckptgrow.families.tables.gemma3_text import FAMILY as GEMMA3_TEXT
from ckptgrow.families.tables.glm import FAMILY as GLM
from ckptgrow.families.tables.glm4 import FAMILY as GLM4
from ckptgrow.families.tables.glm4_moe import FAMILY as GLM4_MOE
from ckptgrow.families.tables.glm4_moe_lite import FAMILY as GLM4_MOE_LITE
from ckptgrow.families.tables.gpt2 import FAMILY as GPT2
from ckptgrow.families.tables.gpt_bigcode import FAMILY as GPT_BIGCODE
from ckptgrow.families.tables.gpt_neo import FAMILY as GPT_NEO
from ckptgrow.families.tables.gpt_neox import FAMILY as GPT_NEOX
from ckptgrow.families.tables.gpt_oss import FAMILY as GPT_OSS
from ckptgrow.families.tables.gptj import FAMILY as GPTJ
from ckptgrow.families.tables.granite import FAMILY as GRANITE
from ckptgrow.families.tables.granite_swa import FAMILY as GRANITE_SWA
from ckptgrow.families.tables.granitemoe import FAMILY as GRANITEMOE
from ckptgrow.families.tables.granitemoe_swa import FAMILY as GRANITEMOE_SWA
from ckptgrow.families.tables.granitemoehybrid import FAMILY as GRANITEMOEHYBRID
from ckptgrow.families.tables.granitemoeshared import FAMILY as GRANITEMOESHARED
from ckptgrow.families.tables.helium import FAMILY as HELIUM
from ckptgrow.families.tables.hunyuan_v1_dense import FAMILY as HUNYUAN_V1_DENSE
from ckptgrow.families.tables.hunyuan_v1_moe import FAMILY as HUNYUAN_V1_MOE
from ckptgrow.families.tables.hyperclovax import FAMILY as HYPERCLOVAX
from ckptgrow.families.tables.internlm3 import FAMILY as INTERNLM3
from ckptgrow.families.tables.iquestcoder import FAMILY as IQUESTCODER
from ckptgrow.families.tables.jais2 import FAMILY as JAIS2
from ckptgrow.families.tables.jamba import FAMILY as JAMBA
from ckptgrow.families.tables.lfm2 import FAMILY as LFM2
from ckptgrow.families.tables.lfm2_moe import FAMILY as LFM2_MOE
from ckptgrow.families.tables.llama import FAMILY as LLAMA
from ckptgrow.families.tables.mamba import FAMILY as MAMBA
from ckptgrow.families.tables.mamba2 import FAMILY as MAMBA2
from ckptgrow.families.tables.mbart import FAMILY as MBART
from ckptgrow.families.tables.minicpm3 import FAMILY as MINICPM3
from ckptgrow.families.tables.minimax_m2 import FAMILY as MINIMAX_M2
from ckptgrow.families.tables.ministral import FAMILY as MINISTRAL
from ckptgrow.families.tables.ministral3 import FAMILY as MINISTRAL3
from ckptgrow.families.tables.mistral import FAMILY as MISTRAL
from ckptgrow.families.tables.mixtral import FAMILY as MIXTRAL
from ckptgrow.families.tables.modernbert import FAMILY as MODERNBERT
from ckptgrow.families.tables.modernbert_decoder import FAMILY as MODERNBERT_DECODER
from ckptgrow.families.tables.mpt import FAMILY as MPT
from ckptgrow.families.tables.mt5 import FAMILY as MT5
from ckptgrow.families.tables.nanochat import FAMILY as NANOCHAT
from ckptgrow.families.tables.nemotron import FAMILY as NEMOTRON
from ckptgrow.families.tables.nemotron_h import FAMILY as NEMOTRON_H
from ckptgrow.families.tables.olmo import FAMILY as OLMO
from ckptgrow.families.tables.olmo2 import FAMILY as OLMO2
from ckptgrow.families.tables.olmo3 import FAMILY as OLMO3
from ckptgrow.families.tables.olmoe import FAMILY as OLMOE
from ckptgrow.families.tables.opt import FAMILY as OPT
from ckptgrow.families.tables.pegasus import FAMILY as PEGASUS
from ckptgrow.families.tables.persimmon import FAMILY as PERSIMMON
from ckptgrow.families.tables.phi import FAMILY as PHI
from ckptgrow.families.tables.phi3 import FAMILY as PHI3
from ckptgrow.families.tables.phimoe import FAMILY as PHIMOE
from ckptgrow.families.tables.qwen2 import FAMILY as QWEN2
from ckptgrow.families.tables.qwen2_moe import FAMILY as QWEN2_MOE
from ckptgrow.families.tables.qwen3 import FAMILY as QWEN3
from ckptgrow.families.tables.qwen3_5_moe_text import FAMILY as QWEN3_5_MOE_TEXT
from ckptgrow.families.tables.qwen3_5_text import FAMILY as QWEN3_5_TEXT
from ckptgrow.families.tables.qwen3_moe import FAMILY as QWEN3_MOE
from ckptgrow.families.tables.qwen3_next import FAMILY as QWEN3_NEXT
from ckptgrow.families.tables.roberta import FAMILY as ROBERTA
from ckptgrow.families.tables.seed_oss import FAMILY as SEED_OSS
from ckptgrow.families.tables.smollm3 import FAMILY as SMOLLM3
from ckptgrow.families.tables.solar_open import FAMILY as SOLAR_OPEN
from ckptgrow.families.tables.stablelm import FAMILY as STABLELM
from ckptgrow.families.tables.starcoder2 import FAMILY as STARCODER2
from ckptgrow.families.tables.t5 import FAMILY as T5
from ckptgrow.families.tables.vaultgemma import FAMILY as VAULTGEMMA
from ckptgrow.families.tables.vit import FAMILY as VIT
from ckptgrow.families.tables.xglm import FAMILY as XGLM
from ckptgrow.families.tables.xlm_roberta import FAMILY as XLM_ROBERTA
from ckptgrow.families.tables.youtu import FAMILY as YOUTU

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
    MINISTRAL,
    MINISTRAL3,
    OLMO3,
    GLM,
    GLM4,
    ARCEE,
    SEED_OSS,
    ERNIE4_5,
    HUNYUAN_V1_DENSE,
    EXAONE4,
    HELIUM,
    OLMOE,
    QWEN2_MOE,
    GRANITEMOE,
    GPT_OSS,
    APERTUS,
    GLM4_MOE,
    DOTS1,
    ERNIE4_5_MOE,
    MINIMAX_M2,
    DEEPSEEK_V3,
    GPTJ,
    CODEGEN,
    GPT_BIGCODE,
    MT5,
    NANOCHAT,
    EUROBERT,
    MODERNBERT,
    MODERNBERT_DECODER,
    QWEN3_NEXT,
    QWEN3_5_TEXT,
    LFM2,
    MAMBA2,
    FALCON_H1,
    BAMBA,
    GRANITEMOEHYBRID,
    COHERE,
    COHERE2,
    CWM,
    NEMOTRON,
    JAIS2,
    PERSIMMON,
    VAULTGEMMA,
    GRANITEMOESHARED,
    FLEX_OLMO,
    HYPERCLOVAX,
    INTERNLM3,
    IQUESTCODER,
    DEEPSEEK_V2,
    GLM4_MOE_LITE,
    YOUTU,
    PHIMOE,
    SOLAR_OPEN,
    EXAONE_MOE,
    LFM2_MOE,
    QWEN3_5_MOE_TEXT,
    HUNYUAN_V1_MOE,
    DISTILBERT,
    MAMBA,
    FALCON_MAMBA,
    FALCON,
    BIOGPT,
    GPT_NEO,
    JAMBA,
    MINICPM3,
    NEMOTRON_H,
    XLM_ROBERTA,
    CAMEMBERT,
    BART,
    MBART,
    PEGASUS,
    COHERE2_MOE,
    GRANITE_SWA,
    GRANITEMOE_SWA,
    XGLM,
)
FAMILIES = Registry(TABLES)


def register(family: Family) -> None:
    """Makes a family of one's own known to this process, as if its table were the package's; the same table twice is
    one.

    Raises ConfigError for a table that contradicts itself, in one line, and for a `model_type` that another table has.
    """
    FAMILIES.add(family)


def family_of(config: Mapping[str, object]) -> Family:
    """The table for a config's `model_type`; raises ConfigError, which names all tables, where there is none."""
    model_type = config.get("model_type")
    if model_type is None:
        raise ConfigError(f"the config has no model_type, expected one of {', '.join(sorted(FAMILIES))}")
    if model_type not in FAMILIES:
        raise ConfigError(
            f"no table for family {model_type!r}; there are {', '.join(sorted(FAMILIES))}, and ⟦family FILE⟧ before "
            "the command adds one of your own, as ckptgrow.families.register does in Python"
        )
    return FAMILIES[str(model_type)]
