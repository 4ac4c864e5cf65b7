"""How fast and in how much memory others' programs do the same work on the same files.

    python benchmarks/peers.py --python THEIR_PYTHON [--hypercloning CLONE] [--llama-pro CLONE] [--mergekit COMMAND]
        [--size 0.35B] [--rounds 3] [--directory DIR]

The peers live in an environment of their own (HyperCloning wants transformers 4.45): `--python` is its interpreter,
`--mergekit` its `mergekit-yaml`; the clones are of apple/ml-hypercloning and TencentARC/LLaMA-Pro on GitHub.
A Llama in float16, saved by transformers, is the source of all: it becomes twice as wide by copies (HyperCloning), half
again as deep by copies (mergekit's passthrough), a third deeper by blocks that begin as identities (LLaMA-Pro). In each
round ckptgrow and the peer run one after the other as whole processes, what they read is read before, and both are
flushed to the disk (ckptgrow does that by itself). At the end all tensors of both results are compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from growth import Cost, measured, read_once
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"tiny": (6, 64, 4, 2, 176), "0.35B": (24, 1024, 16, 8, 2816), "1.2B": (24, 2048, 16, 8, 5632)}
VOCABULARY = 32000
HYPERCLONING = """
import sys, types
for name, attributes in (("hf_olmo", ()), ("hf_olmo.configuration_olmo", ("OLMoConfig",)),
                         ("hf_olmo.modeling_olmo", ("OLMoForCausalLM",))):  # a package of OLMo's, not needed for Llama
    module = types.ModuleType(name)
    for attribute in attributes: setattr(module, attribute, type(attribute, (), {}))
    sys.modules[name] = module
sys.path.insert(0, sys.argv[1])
from transformers import AutoModelForCausalLM
from hypercloning import cloneModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], torch_dtype="auto")
cloneModel(model, embedding_dim_multiplier=2, up_project_multiplier=2).to(model.dtype).save_pretrained(sys.argv[3])
"""


@dataclass(frozen=True)
class Pair:
    """The same work by ckptgrow and by a peer: options of the one, and the whole command of the other."""

    name: str
    ours: list[str]
    theirs: list[str]


def build(target: Path, size: str) -> None:
    """A Llama whose parameters are far from their initialisation."""
    layers, width, heads, key_heads, units = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=units,
        tie_word_embeddings=False,
        dtype="float16",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.half().save_pretrained(target)


def pairs(chosen: argparse.Namespace, source: Path, directory: Path) -> list[Pair]:
    """The comparisons whose peers are there."""
    layers, found = SIZES[chosen.size][0], list[Pair]()
    theirs = directory / "theirs"
    if chosen.hypercloning:
        line = [chosen.python, "-c", HYPERCLONING, str(chosen.hypercloning), str(source), str(theirs)]
        found.append(Pair("HyperCloning", ["width", "--factor", "2", "--how", "tile", "--separate", "none"], line))
    if chosen.mergekit:
        slices = [[0, layers * 3 // 4], [layers // 4, layers]]
        recipe = directory / "slices.yaml"
        parts = [{"sources": [{"model": str(source), "layer_range": one}]} for one in slices]
        recipe.write_text(json.dumps({"merge_method": "passthrough", "dtype": "float16", "slices": parts}))
        ranges = ",".join(f"{first}-{last - 1}" for first, last in slices)
        line = [*shlex.split(chosen.mergekit), str(recipe), str(theirs), "--quiet", "--no-copy-tokenizer"]
        found.append(Pair("mergekit", ["depth", "--new", "copy", "--layers", ranges], line))
    if chosen.llama_pro:
        script, deeper = chosen.llama_pro / "scripts" / "block_expansion.py", layers + layers // 3
        line = [chosen.python, str(script), "--model_path", str(source), "--output_path", str(theirs)]
        line += ["--original_layers", str(layers), "--layers", str(deeper)]
        numbers = [first + one for first in range(0, layers, 3) for one in (0, 1, 2, 2)]
        found.append(Pair("LLaMA-Pro", ["depth", "--layers", ",".join(map(str, numbers))], line))
    return found


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory or of a file that torch.save wrote."""
    if path.is_file():
        return torch.load(path, weights_only=True, mmap=True)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def num_equal(ours: Path, theirs: Path) -> str:
    """How many of all tensors are equal to the last bit."""
    one, other = tensors(ours), tensors(theirs)
    equal = sum(name in other and torch.equal(one[name], other[name]) for name in one)
    return f"{equal} of {len(one.keys() | other.keys())} tensors bit-equal"


def flushed(line: list[str], target: Path) -> list[str]:
    """The command, and what it wrote on the disk."""
    return ["sh", "-c", f"{shlex.join(line)} && sync -d $(find {shlex.quote(str(target))} -type f)"]


def main() -> None:
    """Runs the rounds and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--hypercloning", type=Path)
    parser.add_argument("--llama-pro", type=Path)
    parser.add_argument("--mergekit")
    parser.add_argument("--size", default="0.35B", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as name:
        directory = Path(name)
        source, grown, theirs = directory / "llama", directory / "grown", directory / "theirs"
        build(source, chosen.size)
        for pair in pairs(chosen, source, directory):
            verb, *options = pair.ours
            ours = [sys.executable, "-m", "ckptgrow", verb, str(source), str(grown), *options]
            costs: Mapping[str, list[Cost]] = {"ckptgrow": [], pair.name: []}
            for number in range(chosen.rounds):
                for who, line in (("ckptgrow", ours), (pair.name, flushed(pair.theirs, theirs))):
                    subprocess.run(["rm", "-rf", str(grown if who == "ckptgrow" else theirs)], check=True)
                    read_once(source)
                    cost = measured(line)
                    costs[who].append(cost)
                    told = f"{cost.wall:7.1f} s, CPU {cost.cpu:6.1f} s, {cost.largest / 2**20:6.0f} MiB"
                    print(f"round {number + 1}: {who:13} {told}", flush=True)
            tell(pair.name, costs, f"{chosen.size}, {num_equal(grown, theirs)}")
            subprocess.run(["rm", "-rf", str(grown), str(theirs)], check=True)


def tell(peer: str, costs: Mapping[str, list[Cost]], what: str) -> None:
    """Prints the medians of both, and their ratios."""
    wall, cpu, peak = (
        {who: statistics.median(getattr(one, figure) for one in some) for who, some in costs.items()}
        for figure in ("wall", "cpu", "largest")
    )
    print(
        f"{peer}, {what}, load average {os.getloadavg()[0]:.1f}: "
        f"{wall['ckptgrow']:.1f} against {wall[peer]:.1f} s = {wall[peer] / wall['ckptgrow']:.1f} × as fast, "
        f"CPU {cpu['ckptgrow']:.1f} against {cpu[peer]:.1f} s = 1/{cpu[peer] / cpu['ckptgrow']:.1f}, "
        f"peak {peak['ckptgrow'] / 2**20:.0f} against {peak[peer] / 2**20:.0f} MiB "
        f"= 1/{peak[peer] / peak['ckptgrow']:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
