"""By how much does the loss rise right after growth, and is it the growth or the learning rate that raises it?

Every run goes on over the same batches as the run that it branches off, so that differences are paired step by step:

    grown               against the small model that goes on as it was
    the small model     at a higher rate, against itself at its own: what `keep` does to copies that stay equal, whose
                        matrices move as many times faster as they have copies
    the large model     from scratch, at the small one's rate from some step on, against itself at its own

And what is it worth in the end? The same starts, trained for the other half of the budget with a decay in its last
fifth; then the loss on sequences that no run saw.

`python -m benchmarks.jump --out DIR` prints both tables, of the seeds that there are. A run that is there is not done
again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.savings.corpus import prepare
from benchmarks.savings.measures import interval
from benchmarks.savings.running import Commands
from benchmarks.savings.shapes import Shape
from benchmarks.savings.tiers import TEXTS

SMALL, LARGE = Shape(2, 24, 64, 2), Shape(2, 48, 128, 4)
SMALL_RATE, LARGE_RATE = 0.012, 0.004  # the best of those that the tier `early` tried
SMALL_STEPS, LARGE_STEPS = 1100, 400  # about equal FLOPs: half of that tier's budget
AFTER = 200  # steps from the branch on
WINDOWS = ((0, 20), (20, 60), (160, 200))
PAD = f"--how pad --hidden {LARGE.hidden} --heads {LARGE.heads} --kv-heads {LARGE.heads} --ffn {LARGE.ffn}"


@dataclass(frozen=True)
class Branch:
    """A run from the end of "small" or "large", grown by `width` where that is not empty; `train` are its options."""

    name: str
    parent: str
    rate: float
    width: str = ""
    train: str = "--rewarm 0"


BRANCHES = (
    Branch("the small model, at its rate", "small", SMALL_RATE),
    Branch("the small model, rate × 2", "small", 2 * SMALL_RATE),
    Branch("the large model, at its rate", "large", LARGE_RATE),
    Branch("the large model, rate × 3", "large", SMALL_RATE),
    Branch("none, keep", "small", SMALL_RATE, "--separate none"),
    Branch("none, mup", "small", SMALL_RATE, "--separate none --lr-rule mup"),
    Branch("split, keep", "small", SMALL_RATE, "--separate split"),
    Branch("split, keep, rate × 1/2", "small", SMALL_RATE / 2, "--separate split"),
    Branch("split, keep, rate × 1/3", "small", LARGE_RATE, "--separate split"),
    Branch("split, keep, re-warmed over 50", "small", SMALL_RATE, "--separate split", "--rewarm 50"),
    Branch("split, mup", "small", SMALL_RATE, "--separate split --lr-rule mup"),
    Branch("split, mup, rate × 2", "small", 2 * SMALL_RATE, "--separate split --lr-rule mup"),
    Branch("pad, keep", "small", SMALL_RATE, PAD),
    Branch("pad, keep, rate × 1/3", "small", LARGE_RATE, PAD),
)
HALF = "split, keep, rate × 1/2"
ENDS = (
    Branch("scratch", "large", LARGE_RATE),
    Branch("split, keep", "small", SMALL_RATE, "--separate split"),
    Branch(HALF, "small", SMALL_RATE / 2, "--separate split"),
    Branch("split, mup", "small", SMALL_RATE, "--separate split --lr-rule mup"),
    Branch(f"{HALF}, --reset new", "small", SMALL_RATE / 2, "--separate split --reset new"),
    Branch(f"{HALF}, --rewarm-new 1.3,50", "small", SMALL_RATE / 2, "--separate split", "--rewarm-new 1.3,50"),
)
BASES = {"small": BRANCHES[0].name, "large": BRANCHES[2].name}
TRUNKS = {"small": (SMALL, SMALL_RATE, SMALL_STEPS), "large": (LARGE, LARGE_RATE, LARGE_STEPS)}


class Runs:
    """Runs of one seed under one directory, each done once."""

    def __init__(self, out: Path, data: Path, seed: int) -> None:
        self.out, self.data, self.seed, self.launch = out / f"seed-{seed}", data, seed, Commands()

    def trunk(self, kind: str) -> Path:
        """The checkpoint that branches go on from."""
        shape, rate, steps = TRUNKS[kind]
        run = self.out / kind
        if not (run / "checkpoints" / "last.ckpt").exists():
            run.mkdir(parents=True, exist_ok=True)
            config = run / "config.json"
            config.write_text(json.dumps(shape.config(256, 128)))
            sizes = "--batch-size 16 --seqlen 128 --warmup-steps 60 --schedule constant --val-every 100000"
            sizes = f"--recipe staged-training {sizes}"
            self.train(run, f"--config {config} {sizes} --seed {self.seed} --train-steps {steps} --lr {rate}")
        return run / "checkpoints" / "last.ckpt"

    def losses(self, branch: Branch) -> list[float]:
        """Training losses in nats, one a step, of the `AFTER` steps from the branch on."""
        steps = TRUNKS[branch.parent][2] + AFTER
        return self.logged("after", branch, f"--train-steps {steps} --val-every 100000", "loss")

    def end(self, branch: Branch) -> float:
        """The validation loss in nats at the end of the budget."""
        course = f"--step {LARGE_STEPS} --train-steps {2 * LARGE_STEPS} --schedule wsd"
        return self.logged("end", branch, f"{course} --val-every 100 --val-sequences 256", "val_loss")[-1]

    def logged(
        self, what: str, branch: Branch, options: str, column: str, change: Callable[[Path], None] = lambda grown: None
    ) -> list[float]:
        """A column of the log of a branch that goes on with `options`; `change` may alter what was grown."""
        run = self.out / what / branch.name.replace(" ", "-").replace("/", "_").replace(",", "")
        done = run / "done.json"
        if not done.exists():
            run.mkdir(parents=True, exist_ok=True)
            start = self.trunk(branch.parent)
            if branch.width:
                self._do(["width", str(start), str(run / "grown.ckpt"), *branch.width.split(), "--force"], run)
                start = run / "grown.ckpt"
                change(start)
            self.train(run, f"--resume {start} --lr {branch.rate} {options} {branch.train}")
            with (run / "metrics.csv").open(encoding="utf-8") as file:
                done.write_text(json.dumps([float(row[column]) for row in csv.DictReader(file) if row[column]]))
            shutil.rmtree(run / "checkpoints")
        return json.loads(done.read_text())

    def train(self, run: Path, options: str) -> None:
        """A training into `run` whose every step is logged."""
        often = "--log-every 1 --save-every 100000 --accelerator cpu"
        self._do(["train", "--data", str(self.data), "--out", str(run), *options.split(), *often.split()], run)

    def _do(self, arguments: Sequence[str], run: Path) -> None:
        log = run / "log.txt"
        if self.launch(arguments, log):
            raise SystemExit(f"{log}: {log.read_text(encoding='utf-8').strip().splitlines()[-1]}")


def runs_asked(about: str) -> list[Runs]:
    """The runs of each seed that the command line asks for, beside the data, which are prepared where they lack."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    data = asked.out / "data-bytes"
    prepare(TEXTS["bytes"], data, Commands())
    return [Runs(asked.out, data, seed) for seed in range(asked.seeds)]


def main() -> None:
    """Runs what is not there yet and prints the table."""
    every = runs_asked(str(__doc__))
    print("| run | " + " | ".join(f"steps {start + 1} to {stop}" for start, stop in WINDOWS) + " |")
    print("| --- |" + " --- |" * len(WINDOWS))
    for branch in BRANCHES:
        base = next(one for one in BRANCHES if one.name == BASES[branch.parent])
        pairs = [(runs.losses(branch), runs.losses(base)) for runs in every]
        jumps = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
        cells = [_cell([statistics.fmean(one[start:stop]) for one in jumps]) for start, stop in WINDOWS]
        print(f"| {branch.name} | " + " | ".join(cells) + " |")
    print("\n| run | loss at the end | less scratch |\n| --- | --- | --- |")
    ends = {branch.name: [runs.end(branch) for runs in every] for branch in ENDS}
    for name, found in ends.items():
        less = _cell([a - b for a, b in zip(found, ends[ENDS[0].name], strict=True)])
        print(f"| {name} | {statistics.fmean(found):.4f} | {less} |")


def _cell(values: Sequence[float]) -> str:
    found = interval(values)
    if found is None:
        return ""
    return f"{found.mean:+.3f}" + ("" if found.half is None else f" ± {found.half:.3f}")


if __name__ == "__main__":
    main()
