"""Training new layers alone: everything that is old keeps its weights, and its optimizer's records.

Source: Wu et al., "LLaMA Pro: Progressive LLaMA with Block Expansion", arXiv 2401.02415.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from ckptgrow.errors import RequestError
from ckptgrow.train.additions import NewEntries


def freeze_old_layers(model: torch.nn.Module, entries: Mapping[str, NewEntries]) -> Collection[str]:
    """Lets only parameters of new layers have gradients; their names.

    The others stay in the optimizer's groups: without a gradient it leaves them and their records as they are.

    Raises RequestError where no layer is new.
    """
    new = {name for name, one in entries.items() if one.is_whole}
    if not new:
        raise RequestError(
            "⟦freeze old-layers⟧: the last growth added no layer, expected one in depth; ⟦freeze none⟧ trains all"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in new)
    return new
