"""Falcon Mamba: Mamba with norms without gains over what steers the states.

Source: Zuo et al., "Falcon Mamba", arXiv 2410.05355; transformers `FalconMambaForCausalLM`.
"""

from dataclasses import replace

from ckptgrow.families.tables.mamba import FAMILY as MAMBA

FAMILY = replace(MAMBA, model_type="falcon_mamba")
