"""Tokens per second of `ckptgrow train` against a bare PyTorch loop, side by side, and model-FLOPs utilisation.

    python benchmarks/train.py                       # tiny model on CPU, float32
    python benchmarks/train.py --device cuda         # GPT-2 124M, sequence 1024, bfloat16, compiled

Both train the same model on the same sequences with the same AdamW, schedule, precision and compilation; rounds
alternate and the best of each is compared. Utilisation is 6·N + 12·layers·width·sequence FLOPs a token (Chowdhery et
al., "PaLM", arXiv 2204.02311, appendix B; N without position embeddings) over the measured rate of a large matrix
product in the same precision.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ckptgrow.state.model import build_model
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.monitor import Progress
from ckptgrow.train.order import BatchOrder, BatchShare, collate
from ckptgrow.train.training_run import train

LR, BETAS, EPS, WEIGHT_DECAY, WARMUP = 6e-4, (0.9, 0.98), 1e-6, 0.01, 10


@dataclass(frozen=True)
class Case:
    """What both sides train."""

    device: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    batch: int
    steps: int
    skipped: int  # steps before the clock starts
    precision: str
    compile: bool

    @property
    def config(self) -> dict[str, Any]:
        """GPT-2 without dropout."""
        sizes = {"n_layer": self.layers, "n_embd": self.width, "n_head": self.heads, "n_positions": self.length}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        tokens = {"vocab_size": self.vocabulary, "bos_token_id": 0, "eos_token_id": 0}
        return {"model_type": "gpt2", **sizes, **dropout, **tokens}

    @property
    def tokens(self) -> int:
        """Tokens under the clock."""
        return (self.steps - self.skipped) * self.batch * self.length

    @property
    def flops_per_token(self) -> float:
        """Forward and backward."""
        model = build_model(self.config, torch.float32)
        num = sum(one.numel() for one in model.parameters()) - self.length * self.width
        return 6 * num + 12 * self.layers * self.width * self.length


CPU = Case("cpu", 4, 128, 4, 2048, 64, 8, 24, 4, "32", False)
CUDA = Case("cuda", 12, 768, 12, 50304, 1024, 32, 80, 20, "bf16-mixed", True)


def write_data(directory: Path, case: Case) -> Path:
    """Random tokens: the speed does not depend on what they say."""
    directory.mkdir()
    meta: dict[str, Any] = {"vocab_size": case.vocabulary, "dtype": "uint16", "num_tokens": {}, "sha256": {}}
    for split, num in (("train", 2000 * case.length), ("val", 8 * case.length)):
        tokens = np.random.default_rng(0).integers(0, case.vocabulary, num, dtype=np.uint16)
        tokens.tofile(directory / f"{split}.bin")
        meta["num_tokens"][split], meta["sha256"][split] = num, hashlib.sha256(tokens.tobytes()).hexdigest()
    (directory / "meta.json").write_text(json.dumps(meta))
    return directory


def synchronize(case: Case) -> None:
    """Waits for the device."""
    if case.device == "cuda":
        torch.cuda.synchronize()


def bare(case: Case, prepared: Path) -> float:
    """Seconds of a plain loop."""
    torch.manual_seed(0)
    model = build_model(case.config, torch.float32).train()
    torch.nn.Module.to(model, case.device)
    if case.compile:
        model.compile()
    decayed = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True if case.device == "cuda" else None)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    data = Mixture.open(prepared)
    sequences = data.training(case.length)
    order = BatchOrder(data.row(case.length, 0), case.length, BatchShare(batch_size=case.batch))
    loader = DataLoader(sequences, batch_sampler=order, collate_fn=collate, pin_memory=case.device == "cuda")
    low = case.precision == "bf16-mixed"
    began = 0.0
    for step, batch in enumerate(islice(loader, case.steps)):
        if step == case.skipped:
            synchronize(case)
            began = time.monotonic()
        inputs, targets = (batch[name].to(case.device, non_blocking=True) for name in ("input_ids", "targets"))
        with torch.autocast(case.device, torch.bfloat16) if low else contextlib.nullcontext():
            logits = model(input_ids=inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(case)
    return time.monotonic() - began


def ours(case: Case, data: Path, out: Path) -> float:
    """Seconds of the same steps under `ckptgrow train`, logging every 10 as it does by default."""
    times: dict[int, float] = {}

    def report(progress: Progress) -> None:
        if progress.step in (case.skipped, case.steps):
            synchronize(case)
            times[progress.step] = time.monotonic()

    settings = {"data": data, "out": out, "config": case.config, "accelerator": case.device, "seqlen": case.length}
    sizes = {"batch_size": case.batch, "train_steps": case.steps, "precision": case.precision, "compile": case.compile}
    rates = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY, "warmup_steps": WARMUP}
    later = {"val_every": 10**6, "save_every": 10**6, "schedule": "constant", "grad_clip": 0.0, "seed": 0}
    train({**settings, **sizes, **rates, **later}, report)
    return times[case.steps] - times[case.skipped]


def matrix_rate(case: Case) -> float:
    """FLOPs a second of a large matrix product in the case's precision, the median of ten."""
    size, dtype = (8192, torch.bfloat16) if case.device == "cuda" else (1024, torch.float32)
    one, other = (torch.randn(size, size, dtype=dtype, device=case.device) for _ in range(2))
    product: Callable[[], torch.Tensor] = lambda: one @ other  # noqa: E731
    rates: list[float] = []
    for _ in range(12):
        synchronize(case)
        began = time.monotonic()
        product()
        synchronize(case)
        rates.append(2 * size**3 / (time.monotonic() - began))
    return statistics.median(rates[2:])


def main() -> None:
    """Prints one line a round, then ratio and utilisation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    case = CUDA if options.device == "cuda" else CPU
    best = {"bare": 0.0, "ckptgrow": 0.0}
    with tempfile.TemporaryDirectory() as name:
        data = write_data(Path(name) / "data", case)
        for number in range(options.rounds):
            rates = {
                "bare": case.tokens / bare(case, data),
                "ckptgrow": case.tokens / ours(case, data, Path(name) / f"run-{number}"),
            }
            best = {key: max(best[key], rate) for key, rate in rates.items()}
            print(f"round {number + 1}: " + ", ".join(f"{key} {rate:,.0f} tokens/s" for key, rate in rates.items()))
    peak = matrix_rate(case)
    print(f"best of {options.rounds}: ckptgrow / bare = {best['ckptgrow'] / best['bare']:.3f} (goal: 0.97)")
    used = best["ckptgrow"] * case.flops_per_token
    print(f"utilisation: {used / peak:.1%} of the measured {peak / 1e12:.2f} TFLOP/s (goal at 124M on a GPU: 45 %)")


if __name__ == "__main__":
    main()
