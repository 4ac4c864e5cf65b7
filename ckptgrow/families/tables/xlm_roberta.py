"""XLM-RoBERTa: RoBERTa, in a module that has its head before its encoder.

Source: Conneau et al., "Unsupervised Cross-lingual Representation Learning at Scale", arXiv 1911.02116; transformers
`XLMRobertaForMaskedLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.roberta import FAMILY as ROBERTA

BACKBONE = tuple(one for one in ROBERTA.parameters if one.name.startswith(ROBERTA.base_prefix))
HEAD = tuple(one for one in ROBERTA.parameters if one not in BACKBONE)

FAMILY = replace(ROBERTA, model_type="xlm-roberta", parameters=(*HEAD, *BACKBONE))
