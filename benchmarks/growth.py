"""How fast and in how much memory a training state grows, against the script that everyone writes and against `cp`.

    python benchmarks/growth.py [--size 124M] [--rounds 3] [--kind ckpt|safetensors|dcp] [--directory DIR]
        [--processes N …] [--without-naive] [--without-cp]
    python benchmarks/growth.py --behind TRAINER [--size 41M] [--rounds 5] [--directory DIR]

With `--behind` the same state is grown in turns from a trainer's own file, as `convert` makes it (as DeepSpeed does,
which must be installed; it has the weights twice, as the module's copies and as its masters), and from Lightning's,
which has transformers' names, and from a distributed checkpoint with these, where the trainer's is one; what is told is
CPU seconds (user and system), seconds and peak memory of `width`.

Else each round runs, one after the other: `ckptgrow width`; the naive script (torch.load, grow in memory, torch.save);
`cp` of the output followed by fsync, as it is found (ckptgrow leaves it on the disk, not in the page cache), and once
more when it has been read, so that `cp` only writes. What the others read is read once before. A distributed checkpoint
(`--kind dcp`) is grown by one process, by as many as `--processes` says, and beside them as the same state's `.ckpt`.

Peak memory is the largest sum of resident sizes over the process tree, sampled every 20 ms from the kernel
(`/proc/PID/statm`, which counts the pages of mapped files; `smaps_rollup` walks every page of the process while it
runs, 7 ms a sample, and slows what it measures).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

SIZES = {"1M": (2, 128, 2), "41M": (12, 384, 6), "124M": (12, 768, 12), "355M": (24, 1024, 16), "774M": (36, 1280, 20)}
DISTRIBUTED = ("torchtitan", "olmo-core", "megatron")  # trainers whose files are distributed checkpoints
TRAINERS = ("nanogpt", "litgpt", "torchtune", "composer", "deepspeed", *DISTRIBUTED)
WITHOUT_CONFIG = ("torchtitan", "deepspeed")  # it is in the user's Python
NAIVE = """
import sys, torch
tree = torch.load(sys.argv[1], weights_only=True)
def grow(tensor, name, power):
    if tensor.dim() == 0: return tensor
    if tensor.dim() == 1: return tensor.repeat(3 if "c_attn" in name else 2)[: 2 * len(tensor)] / power
    if "wte" in name or "wpe" in name or "lm_head" in name: return tensor.repeat(1, 2) / power
    return tensor.repeat(2, 2) / (2 * power)
names = list(tree["state_dict"])
done = {}
for name in names:
    tensor = tree["state_dict"][name]
    if tensor.data_ptr() not in done: done[tensor.data_ptr()] = grow(tensor, name, 1)
    tree["state_dict"][name] = done[tensor.data_ptr()]
for optimizer in tree["optimizer_states"]:
    for record, name in zip(optimizer["state"].values(), names):
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)): record[key] = grow(record[key], name, power)
with open(sys.argv[2], "wb") as file:
    torch.save(tree, file)
    file.flush()
    import os; os.fsync(file.fileno())
"""

DEEPSPEED = """
import sys, deepspeed, torch
from transformers import AutoConfig, AutoModelForCausalLM
config, target = sys.argv[1:]
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config))
settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}}
settings["zero_allow_untested_optimizer"] = True
engine, *_ = deepspeed.initialize(
    model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4), config=settings, dist_init_required=True
)
tokens = torch.arange(8)[None]
engine.backward(engine(input_ids=tokens, labels=tokens).loss)
engine.step()
engine.save_checkpoint(target)
"""


def build(path: Path, size: str, model_type: str = "gpt2") -> None:
    """A GPT-2, or a Llama of as many layers, with AdamW's moments, as Lightning saves it; GPT-2's activation is exact,
    as nanoGPT's is, and dropout as released, so that growth adds no noise.
    """
    layers, width, heads = SIZES[size]
    torch.manual_seed(0)
    if model_type == "gpt2":
        config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, activation_function="gelu")
    else:
        config = LlamaConfig(
            vocab_size=50304,
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=heads,
        )
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tree = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"config": model.config.to_dict()},
    }
    torch.save(tree, path)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of all cores, and peak resident bytes: of all processes, and of the largest."""

    wall: float
    cpu: float
    peak: int
    largest: int


def tree_rss(root: int) -> list[int]:
    """Resident bytes of a process and of each of its children."""
    try:
        own = int(Path(f"/proc/{root}/statm").read_text().split()[1]) * resource.getpagesize()
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return []
    return [own, *(size for child in children for size in tree_rss(int(child)))]


def read_once(path: Path) -> None:
    """Brings a file, or the files of a directory, into the page cache."""
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    for name in files:
        with name.open("rb", buffering=0) as file:
            while file.read(2**23):
                pass


def measured(command: list[str], every: float = 0.02) -> Cost:
    """What a command takes, whose memory is looked at every so many seconds."""
    os.sync()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peak = largest = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        sizes = tree_rss(process.pid)
        peak, largest = max(peak, sum(sizes)), max([largest, *sizes])
        time.sleep(every)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu, peak, largest)


def growths(chosen: argparse.Namespace, directory: Path) -> dict[str, tuple[Path, list[str]]]:
    """The runs of ckptgrow, what each reads, and its command; the source is built and converted here."""
    source, module = directory / "small.ckpt", [str(sys.executable), "-m", "ckptgrow"]
    build(source, chosen.size)
    old, options = source, ["--how", chosen.how, "--separate", chosen.separate]
    if chosen.kind != "ckpt":
        old, kind = directory / "small", {"safetensors": "huggingface"}.get(chosen.kind, chosen.kind)
        command = [*module, "convert", str(source), str(old), "--to", str(kind)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    runs = {"ckptgrow": (old, [*module, "width", str(old), str(directory / "grown"), *options])}
    if chosen.kind == "dcp":
        runs["as .ckpt"] = (source, [*module, "width", str(source), str(directory / "beside.ckpt"), *options])
        for count in chosen.processes:
            shared = ["width", str(old), str(directory / f"by{count}"), *options]
            torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "-m", "ckptgrow"]
            runs[f"by {count}"] = (old, [*torchrun, *shared])
    return runs


def behind(trainer: str, size: str, rounds: int, directory: Path) -> None:
    """Grows one state in turns from a trainer's file and from those with transformers' names, and prints medians.

    Where the trainer's is a distributed checkpoint, it is compared with such a one too.
    """
    plain, theirs, grown = directory / "plain.ckpt", directory / "theirs", directory / "grown"
    build(plain, size, "gpt2" if trainer == "nanogpt" else "llama")
    files: dict[str, tuple[Path, list[str]]] = {".ckpt": (plain, [])}
    if trainer in DISTRIBUTED:
        files["dcp"] = (directory / "as_dcp", [])
        _convert(plain, directory / "as_dcp", "dcp")
    config = directory / "config.json"
    config.write_text(json.dumps(torch.load(plain)["hyper_parameters"]["config"]))
    if trainer == "deepspeed":
        _train_with_deepspeed(config, theirs)
    else:
        _convert(plain, theirs, trainer)
    files[trainer] = (theirs, ["--config", str(config)] if trainer in WITHOUT_CONFIG else [])
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in files}
    for number in range(rounds):
        for name, (source, options) in files.items():
            shutil.rmtree(grown) if grown.is_dir() else grown.unlink(missing_ok=True)
            read_once(source)
            line = [sys.executable, "-m", "ckptgrow", "width", str(source), str(grown), *options]
            cost = measured(line, every=0.1)
            figures[name].append((cost.cpu, cost.wall, cost.peak / 2**30))
            cpu, seconds, peak = figures[name][-1]
            print(f"round {number + 1}: {name:10} CPU {cpu:6.2f} s, {seconds:6.2f} s, {peak:5.2f} GiB", flush=True)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    print(f"{size} behind {trainer}, load average {os.getloadavg()[0]:.1f}, medians of {rounds}:")
    for name, (cpu, seconds, peak) in medians.items():
        ratios = ", ".join(f"{cpu / medians[other][0]:4.2f} × {other}" for other in files if other != trainer)
        print(f"{name:10} CPU {cpu:6.2f} s = {ratios}; {seconds:6.2f} s; peak {peak:.2f} GiB")


def _convert(source: Path, target: Path, to: str) -> None:
    command = [sys.executable, "-m", "ckptgrow", "convert", str(source), str(target), "--to", to]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _train_with_deepspeed(config: Path, target: Path) -> None:
    """One step under ZeRO 2 by one process, which `convert` cannot write."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29571"}
    command = [sys.executable, "-c", DEEPSPEED, str(config), str(target)]
    environment = {**os.environ, **alone, "DS_ACCELERATOR": "cpu"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def main() -> None:
    """Runs the rounds and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="124M", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", "--format", default="ckpt", choices=["ckpt", "safetensors", "dcp"])
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="of --kind dcp, besides one alone")
    parser.add_argument("--how", default="diagonal", choices=["diagonal", "tile"])
    parser.add_argument("--separate", default="split", choices=["split", "none"])
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--without-naive", action="store_true", help="it holds both states in memory at once")
    parser.add_argument("--without-cp", action="store_true", help="it needs the output's room once more")
    parser.add_argument("--behind", choices=TRAINERS, help="from a trainer's own file, beside transformers' names")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as name:
        if chosen.behind:
            behind(chosen.behind, chosen.size, chosen.rounds, Path(name))
            return
        directory = Path(name)
        source, grown, copy = directory / "small.ckpt", directory / "grown", directory / "copy"
        copied = (grown, ["sh", "-c", f"cp -r {grown} {copy} && sync -d $(find {copy} -type f)"])
        runs = growths(chosen, directory)
        if not chosen.without_naive:
            runs["naive"] = (source, [sys.executable, "-c", NAIVE, str(source), str(directory / "naive.ckpt")])
        if not chosen.without_cp:
            runs |= {"cp": copied, "cp, read": copied}
        costs: dict[str, list[Cost]] = {run: [] for run in runs}
        for number in range(chosen.rounds):
            for run, (old, line) in runs.items():
                others = [one for one in directory.iterdir() if not one.name.startswith("small")]
                kept = [grown] if run.startswith("cp") else []
                subprocess.run(["rm", "-rf", *(str(one) for one in others if one not in kept)], check=True)
                if run.startswith("cp") and not grown.exists():
                    measured(runs["ckptgrow"][1])
                if run != "cp":
                    read_once(old)
                cost = measured(line)
                costs[run].append(cost)
                told = f"{cost.wall:7.1f} s, CPU {cost.cpu:6.1f} s, {cost.largest / 2**30:5.2f} GiB"
                print(f"round {number + 1}: {run:9} {told}", flush=True)
        print(f"GPT-2 {chosen.size}, {chosen.kind}, --how {chosen.how}, load average {os.getloadavg()[0]:.1f}:")
        tell(costs)


def tell(costs: dict[str, list[Cost]]) -> None:
    """Prints the medians of all runs, and how they stand to those of the runs that are there to be compared with."""
    walls = {run: statistics.median(one.wall for one in some) for run, some in costs.items()}
    cpus = {run: statistics.median(one.cpu for one in some) for run, some in costs.items()}
    beside = [other for other in ("cp", "cp, read", "as .ckpt") if other in walls]
    for run, some in costs.items():
        ratios = [f"{walls[run] / walls[other]:.2f} × {other}" for other in beside]
        if "as .ckpt" in cpus:
            ratios.append(f"CPU {cpus[run] / cpus['as .ckpt']:.2f} ×")
        peak, largest = max(one.peak for one in some) / 2**30, max(one.largest for one in some) / 2**30
        print(
            f"{run:9} median {walls[run]:6.1f} s, CPU {cpus[run]:6.1f} s; {', '.join(ratios)}; "
            f"peak {largest:.2f} GiB a process, {peak:.2f} in all"
        )


if __name__ == "__main__":
    main()
