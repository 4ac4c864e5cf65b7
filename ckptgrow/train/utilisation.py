"""Model-FLOPs utilisation: the share of a device's peak that a model's own arithmetic takes.

    MFU = tokens a second · (6 N + 12 L H Q T) / (devices · peak)

N parameters that multiply activations (all but the embedding tables, the head among them), L layers, H heads of Q
dimensions, T tokens a sequence. Recomputed activations are no arithmetic of the model, and do not count.

Source: Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ckptgrow.state.counting import num_without_embeddings

# FLOPs a second of dense products in bfloat16, from NVIDIA's data sheets; the first name that is in a device's counts
PEAKS: Mapping[str, float] = {
    "B200": 2.25e15,
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
}


def peak_of(device: torch.device) -> float | None:
    """The peak of a device in FLOPs a second; None where it is not known, as a CPU's."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def flops_per_token(model: torch.nn.Module, seqlen: int) -> float:
    """The FLOPs of a training step by a token, forward and backward."""
    config: Any = model.config
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    num = num_without_embeddings(model) + (head.weight.numel() if head is not None else 0)
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    heads = int(config.num_attention_heads)
    of_head = int(getattr(config, "head_dim", None) or hidden // heads)
    return 6.0 * num + 12.0 * layers * heads * of_head * seqlen
