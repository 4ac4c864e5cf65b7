"""How far apart do the gradients of copies lie under `split`, how far do the copies come, and does the embedding lag?

Of a small Llama, trained and grown k times as wide:

    cosine      between the gradients of two copies right after growth, all copies of all units of a kind of tensor,
                beside what chance says: k copies with the weights a, drawn apart for every entry, read gradients
                whose cosine is E[a₁ a₂] / E[a²], as terms of different entries have no sign in common
    distance    of the copies from their mean over the mean's size, so many steps after growth
    end         the loss at the end of the budget, where the embedding's copies are also turned against each other by
                an angle, (e, e) → (e cos θ − e sin θ, e cos θ + e sin θ): no norm changes, but the function does

`python -m benchmarks.separation --out DIR` prints the tables. Trainings that are there are not done again.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaForCausalLM

import ckptgrow
from benchmarks.jump import LARGE_STEPS, SMALL_RATE, SMALL_STEPS, Branch, Runs, runs_asked
from benchmarks.savings.measures import interval

CASES = ((2, 0.25), (2, 0.5), (2, 1.0), (2, 1.5), (3, 0.25), (3, 0.5), (3, 1.0), (4, 0.5), (4, 1.0))
STEPS = (20, 100, 400)  # after growth
ANGLES = (0.0, 0.1, 0.3)
SEQUENCES, LENGTH = 64, 128

Pair = Callable[[torch.Tensor, int], torch.Tensor]  # of a tensor and k, its copies along the first axis


def _rows(one: torch.Tensor, k: int) -> torch.Tensor:
    return one.view(k, len(one) // k, -1)


KINDS: dict[str, tuple[str, Pair]] = {
    "embedding": ("embed_tokens", lambda one, k: one.view(len(one), k, -1).movedim(1, 0)),
    "what writes the stream": ("o_proj|down_proj", _rows),
    "feed-forward units": ("gate_proj|up_proj", _rows),
    "queries, keys, values": ("q_proj|k_proj|v_proj", _rows),
}


def main() -> None:
    """Prints the three tables."""
    transformers.utils.logging.disable_progress_bar()
    every = runs_asked(str(__doc__))
    _print_cosines(every)
    _print_distances(every)
    _print_ends(every)


def expected_cosine(copies: int, spread: float) -> float:
    """E[a₁ a₂] / E[a²] of k shares of which one, drawn for every entry, is 2·`spread` larger than the others."""
    less = (1 - 2 * spread) / copies
    more = less + 2 * spread
    return (2 * more * less + (copies - 2) * less**2) / (more**2 + (copies - 1) * less**2)


def _print_cosines(every: Sequence[Runs]) -> None:
    print("| copies | spread | by chance | " + " | ".join(KINDS) + " |\n" + "| --- " * (3 + len(KINDS)) + "|")
    for copies, spread in CASES:
        found = [_cosines(runs, copies, spread) for runs in every]
        cells = [f"{statistics.fmean(one[kind] for one in found):+.2f}" for kind in KINDS]
        print(f"| {copies} | {spread:g} | {expected_cosine(copies, spread):+.2f} | " + " | ".join(cells) + " |")


def _cosines(runs: Runs, copies: int, spread: float) -> dict[str, float]:
    grown = runs.out / f"grown-{copies}-{spread:g}.ckpt"
    ckptgrow.width(runs.trunk("small"), grown, factor=copies, spread=spread, request=ckptgrow.StateRequest(force=True))
    model = _model(grown)
    tokens = np.memmap(runs.data / "val.bin", dtype=np.uint16, mode="r")[: SEQUENCES * LENGTH].astype(np.int64)
    batch = torch.from_numpy(tokens).view(SEQUENCES, LENGTH)
    model(input_ids=batch, labels=batch).loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    grown.unlink()
    return {kind: _cosine(_copies(gradients, kind, copies)) for kind in KINDS}


def _cosine(tensors: Sequence[torch.Tensor]) -> float:
    """Of all pairs of copies together: the sum of their products over that of their squares."""
    pairs = list(itertools.combinations(range(len(tensors[0])), 2))
    products = sum(float((one[a] * one[b]).sum()) for one in tensors for a, b in pairs) / len(pairs)
    return products / (sum(float(one.square().sum()) for one in tensors) / len(tensors[0]))


def _copies(tensors: dict[str, torch.Tensor], kind: str, copies: int) -> list[torch.Tensor]:
    words, pair = KINDS[kind]
    return [pair(one, copies) for name, one in tensors.items() if any(word in name for word in words.split("|"))]


def _print_distances(every: Sequence[Runs]) -> None:
    print("\n| steps after growth | " + " | ".join(KINDS) + " |\n" + "| --- " * (1 + len(KINDS)) + "|")
    for steps in STEPS:
        found = [_distances(runs, steps) for runs in every]
        cells = [f"{statistics.fmean(one[kind] for one in found):.2f}" for kind in KINDS]
        print(f"| {steps} | " + " | ".join(cells) + " |")


def _distances(runs: Runs, steps: int) -> dict[str, float]:
    """How far apart the steps have moved the copies, over the size of what they were."""
    grown, run = runs.out / "grown-2.ckpt", runs.out / f"apart-{steps}"
    if not (run / "checkpoints" / "last.ckpt").exists():
        run.mkdir(parents=True, exist_ok=True)
        ckptgrow.width(runs.trunk("small"), grown, request=ckptgrow.StateRequest(force=True))
        runs.train(run, f"--resume {grown} --lr {SMALL_RATE} --train-steps {SMALL_STEPS + steps} --val-every 100000")
    before, after = (
        {name: one.detach() for name, one in _model(path).named_parameters()}
        for path in (grown, run / "checkpoints" / "last.ckpt")
    )
    found: dict[str, float] = {}
    for kind in KINDS:
        moved = _copies({name: after[name] - before[name] for name in after}, kind, 2)
        apart = sum(float((one - one.mean(0)).square().sum()) for one in moved)
        found[kind] = math.sqrt(apart / sum(float(one.square().sum()) for one in _copies(before, kind, 2)))
    return found


def _print_ends(every: Sequence[Runs]) -> None:
    print("\n| turned by | loss 50 steps after growth | at the end | less not turned |\n| --- | --- | --- | --- |")
    ends: dict[float, list[list[float]]] = {}
    for angle in ANGLES:
        ends[angle] = [_end(runs, angle) for runs in every]
        begun, ended = (statistics.fmean(one[at] for one in ends[angle]) for at in (0, -1))
        less = interval([a[-1] - b[-1] for a, b in zip(ends[angle], ends[ANGLES[0]], strict=True)])
        told = "" if less is None or less.half is None else f"{less.mean:+.4f} ± {less.half:.4f}"
        print(f"| {angle:g} | {begun:.4f} | {ended:.4f} | {told} |")


def _end(runs: Runs, angle: float) -> list[float]:
    """Validation losses of the other half of the budget, 50 steps apart."""
    cos, sin = math.cos(angle), math.sin(angle)

    def turn(grown: Path) -> None:
        tree: dict[str, Any] = torch.load(grown, weights_only=True)
        for name, weight in tree["state_dict"].items():
            if "embed_tokens" in name or "lm_head" in name:
                one, other = weight.chunk(2, dim=1)
                turned = cos * one - sin * other, cos * other + sin * one
                tree["state_dict"][name] = torch.cat(turned, dim=1)
        torch.save(tree, grown)

    course = f"--step {LARGE_STEPS} --train-steps {2 * LARGE_STEPS} --schedule wsd --val-every 50 --val-sequences 256"
    branch = Branch(f"by {angle:g}", "small", SMALL_RATE, "--separate split", "")
    return runs.logged("turned", branch, course, "val_loss", turn)


def _model(checkpoint: Path) -> LlamaForCausalLM:
    with TemporaryDirectory() as directory:
        ckptgrow.convert(checkpoint, Path(directory) / "model", to="huggingface")
        return LlamaForCausalLM.from_pretrained(Path(directory) / "model", dtype=torch.float32)


if __name__ == "__main__":
    main()
