"""What a growth of a large state costs the tool itself, without a disk that could hold it.

    python benchmarks/simulate.py [--size 70B] [--kind ckpt|safetensors|dcp] [--processes 4] [--seconds 60]
        [--separate split|none] [--directory DIR]

The source is virtual: Llama's shapes of that size with AdamW's moments in float32, whose rows come out of a buffer in
memory. Distributed checkpoints (`--kind dcp`) may be written by several processes, which torchrun starts. The source
goes through the whole pipeline of `ckptgrow width`, its hash, checksums and the layout of the output included, into
files of full length that stay empty: what would be written to them is counted instead. Where the data takes longer than
`--seconds`, the run ends there, and what all of it would take is the time a byte, times its bytes.

Told are CPU seconds (user and system) and seconds of each phase: the plan (names, chains of tensors), the layout (all
that is written before the data), the data with what follows it (checksums put in); and the peak memory. Of several
processes the CPU seconds are those of all, the seconds and the memory the largest of one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import ckptgrow
from ckptgrow.choices import Separation
from ckptgrow.formats import known_formats
from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.lightning import from_tree
from ckptgrow.storage.files import direct_writing
from ckptgrow.storage.tensors import InMemory, LazyTensor, Made
from ckptgrow.storage.tree import Tree

# layers, hidden, feed-forward, heads, key and value heads, vocabulary
SIZES = {
    "1M": (2, 128, 512, 2, 2, 1024),
    "1B": (16, 2048, 8192, 32, 8, 128256),
    "8B": (32, 4096, 14336, 32, 8, 128256),
    "70B": (80, 8192, 28672, 64, 8, 128256),
    "405B": (126, 16384, 53248, 128, 8, 128256),
}
GIGA = 10**9
Kind = Literal["ckpt", "safetensors", "dcp"]
TARGETS: dict[Kind, str] = {"ckpt": "grown.ckpt", "safetensors": "grown", "dcp": "grown"}


class EnoughError(Exception):
    """The time for the data is over."""


@dataclass
class Phases:
    """When each phase ended, in CPU seconds and seconds, and how many bytes were counted; None for no limit of time."""

    limit: float | None
    marks: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    num_bytes: int = 0
    total: int = 0

    def mark(self, name: str) -> None:
        """Ends a phase."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.marks.append((name, used.ru_utime + used.ru_stime, time.perf_counter()))

    def count(self, length: int) -> None:
        """Counts bytes; the first of them end the layout. Raises EnoughError when the time is over."""
        if self.num_bytes == 0:
            self.mark("layout")
        self.num_bytes += length
        if self.limit is not None and time.perf_counter() - self.marks[-1][2] > self.limit:
            raise EnoughError

    def told(self) -> dict[str, tuple[float, float]]:
        """CPU seconds and seconds of each phase."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return {name: (cpu - before[1], at - before[2]) for before, (name, cpu, at) in pairs}


def virtual(shape: tuple[int, ...], pool: torch.Tensor) -> LazyTensor:
    """A tensor whose rows lie in a buffer, each at a place of its own as far as there are some."""
    row = int(np.prod(shape[1:]))

    def rows(start: int, stop: int) -> torch.Tensor:
        length = (stop - start) * row
        begin = start * row % (len(pool) - length)
        return pool[begin : begin + length].view(stop - start, *shape[1:])

    return Made(shape, torch.float32, rows)


def source(size: str, kind: Kind = "ckpt") -> Checkpoint:
    """A checkpoint of a size and kind that lies nowhere."""
    layers, hidden, ffn, heads, kv_heads, vocabulary = SIZES[size]
    key = hidden // heads * kv_heads
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        inside: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    config: dict[str, Tree] = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    return _of_kind(shapes, config, kind, Path(f"virtual-{size}"))


def _of_kind(shapes: dict[str, tuple[int, ...]], config: dict[str, Tree], kind: Kind, path: Path) -> Checkpoint:
    """What a kind makes of a model: in a distributed checkpoint the records are by name, else by number."""
    pool = torch.rand(2**24, generator=torch.Generator().manual_seed(0)) + 0.01
    prefix = "" if kind == "safetensors" else "model."
    tensors = {f"{prefix}{name}": virtual(shape, pool) for name, shape in shapes.items()}
    step = InMemory(torch.tensor(1000.0))
    keys: list[str | int] = [*tensors] if kind == "dcp" else [*range(len(tensors))]
    records: dict[Hashable, Tree] = {
        key: {"step": step, **{one: virtual(shape, pool) for one in ("exp_avg", "exp_avg_sq")}}
        for key, shape in zip(keys, shapes.values(), strict=True)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False, "maximize": False}
    tree: dict[str, Tree] = {
        "state_dict": tensors,
        "optimizer_states": [{"state": records, "param_groups": [{**group, "params": keys}]}],
        "hyper_parameters": {"config": config},
        "global_step": 1000,
        "epoch": 0,
    }
    if kind == "ckpt":
        return from_tree(tree, path.with_suffix(".ckpt"), "lightning")
    found = from_tree(tree, path, "dcp")
    return found if kind == "dcp" else replace(found, kind="huggingface", rest={})


@dataclass(frozen=True)
class _CountingRun:
    phases: Phases
    num_places: int

    def write(self, data: memoryview) -> None:
        self.phases.count(self.num_places * len(data))

    def end(self) -> None:
        pass


@contextmanager
def counting(phases: Phases) -> Generator[None]:
    """Where what is written to tensors' places is counted, and room on the disk is not asked for."""
    file: Any = direct_writing.OutputFile
    run, check_space = file.run, known_formats.check_space
    file.run = lambda self, positions, length: _CountingRun(phases, len(positions))
    known_formats.check_space = lambda target, num_bytes: None
    try:
        yield
    finally:
        file.run, known_formats.check_space = run, check_space


def simulated(size: str, kind: Kind, target: Path, separate: Separation, phases: Phases) -> bool:
    """Grows a virtual state; returns whether it came to its end. All processes of torchrun do this."""

    def progress(total: int) -> Any:
        phases.total = total
        phases.mark("plan")
        return lambda amount: None

    phases.mark("begin")
    old = source(size, kind)
    with counting(phases):
        try:
            ckptgrow.width(old, target, separate=separate, progress=progress)
        except EnoughError:
            phases.mark("data")
            return False
    phases.mark("data")
    return True


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one process measured, or all together: CPU seconds and seconds of each phase, bytes counted and of all,
    whether all was counted, peak memory in GiB.
    """

    phases: dict[str, tuple[float, float]]
    num_bytes: int
    total: int
    is_whole: bool
    peak: float

    @classmethod
    def together(cls, parts: list[Figures]) -> Figures:
        """Those of several processes: CPU seconds and bytes are summed, seconds and memory the largest."""
        names = parts[0].phases
        return cls(
            phases={
                one: (sum(part.phases[one][0] for part in parts), max(part.phases[one][1] for part in parts))
                for one in names
            },
            num_bytes=sum(part.num_bytes for part in parts),
            total=parts[0].total,
            is_whole=all(part.is_whole for part in parts),
            peak=max(part.peak for part in parts),
        )

    def tell(self) -> None:
        """Prints them."""
        for name, (cpu, seconds) in self.phases.items():
            print(f"{name:8} {cpu:9.2f} CPU s {seconds:9.2f} s")
        cpu, seconds = self.phases["data"]
        share = self.num_bytes / self.total
        print(f"counted  {self.num_bytes / GIGA:.1f} of {self.total / GIGA:.1f} GB ({share:.1%})")
        print(f"each GB  {cpu * GIGA / self.num_bytes:.3f} CPU s, {self.num_bytes / GIGA / seconds:.2f} GB/s")
        if not self.is_whole:
            print(f"all of it {cpu / share / 3600:.2f} CPU h, {seconds / share / 3600:.2f} h")
        print(f"peak     {self.peak:.2f} GiB a process; {os.cpu_count()} cores, torch {torch.__version__}")


def measured(asked: argparse.Namespace, directory: Path) -> Figures:
    """One process's simulation."""
    phases = Phases(asked.seconds or None)
    is_whole = simulated(asked.size, asked.kind, directory / TARGETS[asked.kind], asked.separate, phases)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Figures(phases=phases.told(), num_bytes=phases.num_bytes, total=phases.total, is_whole=is_whole, peak=peak)


def by_torchrun(asked: argparse.Namespace, directory: Path) -> Figures:
    """The same by several processes, each of which leaves its figures in a file."""
    words = ["--size", asked.size, "--kind", asked.kind, "--separate", asked.separate, "--seconds", str(asked.seconds)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={asked.processes}"]
    subprocess.run([*torchrun, __file__, *words, "--into", str(directory)], check=True)
    return Figures.together([Figures(**json.loads(one.read_text())) for one in directory.glob("figures-*.json")])


def main() -> None:
    """Runs one simulation and prints its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="70B")
    parser.add_argument("--kind", choices=TARGETS, default="ckpt")
    parser.add_argument("--processes", type=int, default=1, help="of --kind dcp")
    parser.add_argument("--separate", choices=["split", "none"], default="split")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the data; 0 for all of it")
    parser.add_argument("--directory", type=Path, help="where the empty files lie, sparse")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.into is not None:
        figures = measured(asked, asked.into)
        (asked.into / f"figures-{os.environ['RANK']}.json").write_text(json.dumps(asdict(figures)))
        return
    with tempfile.TemporaryDirectory(dir=asked.directory) as name:
        run = measured if asked.processes == 1 else by_torchrun
        figures = run(asked, Path(name))
    figures.tell()


if __name__ == "__main__":
    main()
