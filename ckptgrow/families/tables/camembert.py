"""CamemBERT: RoBERTa in French, in a module that has its head before its encoder.

Source: Martin et al., "CamemBERT", arXiv 1911.03894; transformers `CamembertForMaskedLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.xlm_roberta import FAMILY as XLM_ROBERTA

FAMILY = replace(XLM_ROBERTA, model_type="camembert")
