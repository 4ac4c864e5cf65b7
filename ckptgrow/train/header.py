"""What a run is, told before its first step: model, device, tokens a step, passes over the data, learning rate."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ckptgrow.state.counting import num_without_embeddings
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.module import LanguageModel
from ckptgrow.train.settings import TrainSettings

PADDING, SHARE = 128, 0.1  # of a vocabulary: rows that no token uses, beyond which the two are hardly meant for another


def header(settings: TrainSettings, data: Mixture, module: LanguageModel, device: torch.device) -> Iterator[str]:
    """Sentences about the run."""
    model, start = module.model, 0 if module.resumed is None else module.resumed.step
    num = sum(parameter.numel() for parameter in model.parameters())
    devices = f"{settings.num_devices} × {device.type}" if settings.num_devices > 1 else device.type
    yield (
        f"model: {settings.config.get('model_type')}, {num:,} parameters ({num_without_embeddings(model):,} without "
        f"embeddings), on {devices}, precision {settings.precision}"
    )
    tokens = settings.whole_batch * settings.seqlen
    left = settings.last_step - start
    since = f" from step {start:,} on" if start else ""
    yield (
        f"steps: {left:,}{since}, of {settings.whole_batch:,} sequences of {settings.seqlen:,} tokens "
        f"({tokens:,} tokens a step); {', '.join(_passes(data, left * tokens))}"
    )
    if settings.documents == "isolated":
        kept = data.isolation().kept
        yield f"documents: isolated from each other; {1 - kept:.2%} of all predictions would cross from one to the next"
    if settings.optimizer == "muon":
        yield "optimizer: Muon on hidden matrices, AdamW on the rest"
    yield (
        f"learning rate: {module.lr:.4g} at its peak, {settings.schedule} after {settings.warmup_steps:,} steps of "
        f"warm-up; weight decay {settings.weight_decay:g}, β {settings.betas[0]:g} and {settings.betas[1]:g}, "
        f"gradients {f'clipped at norm {settings.grad_clip:g}' if settings.grad_clip else 'not clipped'}"
    )
    vocabulary = settings.config.get("vocab_size")
    if isinstance(vocabulary, int) and vocabulary > data.vocab_size * (1 + SHARE) + PADDING:
        yield (
            f"warning: the model has {vocabulary:,} tokens, the data {data.vocab_size:,}: embeddings of the others "
            "are never trained; is it the config for these data?"
        )


def _passes(data: Mixture, tokens: int) -> Iterator[str]:
    """The passes of so many tokens over every source."""
    for one in data.sources:
        num = one.files.num_tokens["train"]
        of_source = f" of {one.name} ({one.share:.3g} of all)" if len(data.sources) > 1 else ""
        yield f"{tokens * one.share / max(1, num):.2g} passes over {num:,} training tokens{of_source}"
