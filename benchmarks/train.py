"""Tokens per second of `ckptgrow train`, alone and inside `ckptgrow run`, against a bare PyTorch loop, side by side.

    python benchmarks/train.py                       # tiny model on CPU, float32
    python benchmarks/train.py --device cuda         # GPT-2 124M, sequence 1024, bfloat16, compiled

All train the same model on the same sequences with the same AdamW, schedule, precision and compilation. Rounds
alternate; the medians over rounds of each round's ratio are told, by the clock and by the process's CPU seconds, which
other work on the machine disturbs less. Inside `run` the stage logs and shows itself as it does in a log file.
Utilisation is 6·N + 12·layers·width·sequence FLOPs a token (Chowdhery et
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ckptgrow.commands._run_view import RunView
from ckptgrow.commands._screen import Screen
from ckptgrow.run.journal import Journal
from ckptgrow.run.plan_reading import read_plan
from ckptgrow.run.staged_run import run_plan
from ckptgrow.run.standing import standing
from ckptgrow.run.work import Work
from ckptgrow.state.model import build_model
from ckptgrow.train.mixtures import Mixture
from ckptgrow.train.order import BatchOrder, BatchShare, collate
from ckptgrow.train.step_progress import Progress
from ckptgrow.train.training_run import train

BARE = "bare"
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


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of the process on all its CPUs."""

    wall: float
    cpu: float

    @classmethod
    def now(cls, case: Case) -> Seconds:
        """Once the device has done what it was asked for."""
        synchronize(case)
        return cls(time.monotonic(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def bare(case: Case, prepared: Path, out: Path) -> Seconds:
    """A plain loop's, which writes nothing."""
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
    began = Seconds.now(case)
    for step, batch in enumerate(islice(loader, case.steps)):
        if step == case.skipped:
            began = Seconds.now(case)
        inputs, targets = (batch[name].to(case.device, non_blocking=True) for name in ("input_ids", "targets"))
        with torch.autocast(case.device, torch.bfloat16) if low else contextlib.nullcontext():
            logits = model(input_ids=inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    return Seconds.now(case) - began


def options(case: Case) -> dict[str, Any]:
    """Of `train`, which logs every 10 steps, as it does by default."""
    model = {"accelerator": case.device, "precision": case.precision, "compile": case.compile}
    rates = {"betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    return {**model, **rates, "val_every": 10**6, "save_every": 10**6, "grad_clip": 0.0, "seed": 0}


def ours(case: Case, data: Path, out: Path) -> Seconds:
    """The same steps' under `ckptgrow train`."""
    times: dict[int, Seconds] = {}

    def report(progress: Progress) -> None:
        if progress.step in (case.skipped, case.steps):
            times[progress.step] = Seconds.now(case)

    settings = {"data": data, "out": out, "config": case.config, "seqlen": case.length, "schedule": "constant"}
    sizes = {"batch_size": case.batch, "train_steps": case.steps, "lr": LR, "warmup_steps": WARMUP}
    train({**settings, **sizes, **options(case)}, report)
    return times[case.steps] - times[case.skipped]


def inside_run(case: Case, data: Path, out: Path) -> Seconds:
    """The same steps' as the only stage of a `ckptgrow run`, its view included."""
    times: dict[int, Seconds] = {}
    sizes = {"steps": case.steps, "batch_size": case.batch, "micro_batch": case.batch, "seqlen": case.length}
    stage = {**sizes, "learning_rate": LR, "schedule": "constant", "warmup": WARMUP}
    plan = out.with_suffix(".json")
    plan.write_text(json.dumps({"config": case.config, "train": options(case), "stages": [stage]}))
    work = Work(plan=read_plan(plan), data=data, out=out, journal=Journal.read(out))

    class View(RunView):
        """With a stopwatch."""

        def trained(self, stage: str, progress: Progress) -> None:
            """A training step has ended."""
            super().trained(stage, progress)
            if progress.step in (case.skipped, case.steps):
                times[progress.step] = Seconds.now(case)

    run_plan(work.plan, data, out, View(Screen(as_json=True), lambda: standing(work)))
    return times[case.steps] - times[case.skipped]


SIDES: Mapping[str, Callable[[Case, Path, Path], Seconds]] = {BARE: bare, "train": ours, "run": inside_run}


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
    parser.add_argument("--steps", type=int, help="In a round; some are skipped before the clock starts.")
    asked = parser.parse_args()
    case = CUDA if asked.device == "cuda" else CPU
    case = replace(case, steps=asked.steps or case.steps)
    rounds: list[dict[str, Seconds]] = []
    with tempfile.TemporaryDirectory() as name:
        data = write_data(Path(name) / "data", case)
        for number in range(asked.rounds):
            order = list(SIDES)[:: 1 if number % 2 else -1]
            found = {side: SIDES[side](case, data, Path(name) / f"{side}-{number}") for side in order}
            rounds.append(found)
            told = (
                f"{side} {case.tokens / one.wall:,.0f} tokens/s ({one.cpu:.2f} s of CPU)" for side, one in found.items()
            )
            print(f"round {number + 1}: " + ", ".join(told), flush=True)
    peak = matrix_rate(case)
    for side in ("train", "run"):
        wall = statistics.median(one[BARE].wall / one[side].wall for one in rounds)
        cpu = statistics.median(one[BARE].cpu / one[side].cpu for one in rounds)
        print(f"{side}, medians of {asked.rounds}: {wall:.3f} × the bare loop, {cpu:.3f} × by CPU seconds (goal: 0.97)")
    used = case.tokens / min(one["run"].wall for one in rounds) * case.flops_per_token
    print(f"utilisation: {used / peak:.1%} of the measured {peak / 1e12:.2f} TFLOP/s (goal at 124M on a GPU: 45 %)")


if __name__ == "__main__":
    main()
