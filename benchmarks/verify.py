"""How fast and in how much memory a growth is verified, beside `cp` of what is compared and the plain comparison.

    python benchmarks/verify.py [--size 124M] [--levels stored function full] [--rounds 3] [--without-cp]
        [--without-naive] [--dtype float32] [--batches 1] [--memory GIB] [--directory DIR]

A GPT-2 with AdamW's moments is grown by the default once. Each round then runs `cp` of both checkpoints (read before),
`ckptgrow verify` at each level, and the naive script: load both models, compare logits and gradients on one batch.
With --memory verification may take so many GiB (`ulimit -d`): the full level then goes layer by layer.
What is told is CPU seconds (user and system), seconds by the clock, and the largest resident size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from growth import SIZES, Cost, build, measured, read_once

NAIVE = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
dtype = getattr(torch, sys.argv[3])
def read(path):
    tree = torch.load(path, weights_only=True, mmap=True)
    fields = dict(tree["hyper_parameters"]["config"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    state = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in tree["state_dict"].items()}
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()
tokens = torch.randint(0, 50257, (2, 256), generator=torch.Generator().manual_seed(0))
logits, gradients = [], []
models = [read(path) for path in sys.argv[1:3]]
for model in models:
    output = model(tokens, labels=tokens)
    output.loss.backward()
    logits.append(output.logits.detach())
    gradients.append({name: one.grad for name, one in model.named_parameters()})
print((logits[0] - logits[1]).abs().max())
for name, small in gradients[0].items():
    grown = gradients[1][name]
    first = grown[tuple(slice(0, size) for size in small.shape)]
    print(name, (first - small).abs().max())
"""


def main() -> None:
    """Runs the rounds and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="124M", choices=list(SIZES))
    parser.add_argument("--levels", nargs="*", default=["stored"], choices=["stored", "function", "full"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--memory", type=float, metavar="GIB", help="what verification may take")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--without-cp", action="store_true", help="it needs the room of both checkpoints once more")
    parser.add_argument("--without-naive", action="store_true", help="it holds both models and their gradients")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as name:
        compared(Path(name), chosen)


def limited(memory: float | None) -> list[str]:
    """What runs a command in so many GiB; nothing where there is no limit."""
    return [] if memory is None else ["sh", "-c", f'ulimit -d {int(memory * 2**20)} && exec "$0" "$@"']


def compared(directory: Path, chosen: argparse.Namespace) -> None:
    """All rounds in a directory."""
    small, grown, copy = directory / "small.ckpt", directory / "grown.ckpt", directory / "copy"
    build(small, chosen.size)
    module = [sys.executable, "-m", "ckptgrow"]
    subprocess.run([*module, "width", str(small), str(grown)], check=True, stdout=subprocess.DEVNULL)
    runs: dict[str, list[str]] = {}
    if not chosen.without_cp:
        runs["cp"] = ["cp", str(small), str(grown), str(copy)]
    for level in chosen.levels:
        computed = [] if level == "stored" else ["--dtype", chosen.dtype, "--batches", str(chosen.batches)]
        runs[level] = [*limited(chosen.memory), *module, "verify", str(small), str(grown), "--level", level, *computed]
    if not chosen.without_naive:
        runs["naive"] = [sys.executable, "-c", NAIVE, str(small), str(grown), chosen.dtype]
    costs: dict[str, list[Cost]] = {run: [] for run in runs}
    for number in range(chosen.rounds):
        for run, line in runs.items():
            copy.mkdir(exist_ok=True)
            for path in (small, grown):
                read_once(path)
            costs[run].append(measured(line))
            shutil.rmtree(copy)
            cost = costs[run][-1]
            told = f"{cost.wall:7.1f} s, CPU {cost.cpu:6.1f} s, {cost.largest / 2**30:5.2f} GiB"
            print(f"round {number + 1}: {run:9} {told}", flush=True)
    size = sum(path.stat().st_size for path in (small, grown)) / 1e9
    print(f"GPT-2 {chosen.size}, {size:.1f} GB in all, load average {os.getloadavg()[0]:.1f}, medians:")
    for run, some in costs.items():
        wall, cpu = (statistics.median(getattr(one, key) for one in some) for key in ("wall", "cpu"))
        beside = [
            f"CPU {cpu / statistics.median(one.cpu for one in costs[other]):.2f} × {other}"
            for other in ("cp", "naive")
            if other in costs and other != run
        ]
        peak = max(one.largest for one in some) / 2**30
        print("; ".join([f"{run:9} {wall:7.1f} s, CPU {cpu:6.1f} s", *beside, f"peak {peak:.2f} GiB"]))


if __name__ == "__main__":
    main()
