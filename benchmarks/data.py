"""Tokens per second of `ckptgrow data` against a plain `tokenizers` loop with as many processes, and its memory.

    python benchmarks/data.py [--megabytes 64] [--workers 2] [--rounds 3]

Both read the same JSON lines, tokenize them with the same byte-level BPE of 8,192 tokens and write uint16 tokens. The
plain loop does nothing else: no split, no counts, no resumption. Rounds alternate; the best of each is compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

BATCH = 512  # documents
VOCABULARY = 8192
PLAIN_PARTS = 4  # files a worker


def write_input(directory: Path, megabytes: int, num_files: int) -> None:
    """JSON lines of made-up words with a natural spread of frequencies."""
    generator = random.Random(0)
    letters = "etaoinshrdlucmfwygpbvk"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    pool = [" ".join(generator.choices(words, weights, k=generator.randint(50, 600))) for _ in range(2_000)]
    for number in range(num_files):
        with (directory / f"part-{number:03}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < megabytes * 2**20 / num_files:
                text = generator.choice(pool)
                file.write(json.dumps({"text": text, "n": number}) + "\n")


def plain_part(task: tuple[Path, Path, Path]) -> int:
    """One file through `tokenizers`, batch by batch."""
    from tokenizers import Tokenizer

    source, target, tokenizer_file = task
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = tokenizer.token_to_id("<|endoftext|>")
    count = 0
    with source.open(encoding="utf-8") as lines, target.open("wb") as out:
        while batch := [json.loads(line)["text"] for line in islice(lines, BATCH)]:
            for encoded in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                ids = np.array([*encoded.ids, end], dtype=np.uint16)
                ids.tofile(out)
                count += len(ids)
    return count


def plain(source: Path, target: Path, tokenizer_file: Path, workers: int) -> tuple[int, float]:
    """Tokens and seconds of the loop, its processes' start included."""
    tasks = [(path, target / f"{path.stem}.bin", tokenizer_file) for path in sorted(source.glob("*.jsonl"))]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        count = sum(pool.map(plain_part, tasks, chunksize=1))
    return count, time.monotonic() - began


def ours(source: Path, out: Path, tokenizer: Path, workers: int) -> tuple[int, float]:
    """Tokens and seconds of the command, the interpreter's start included."""
    command = [sys.executable, "-m", "ckptgrow", "data", str(source), str(out), f"--tokenizer={tokenizer}", "--json"]
    began = time.monotonic()
    done = subprocess.run([*command, f"--workers={workers}", "--force"], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    return sum(json.loads(done.stdout)["num_tokens"].values()), seconds


def peak_of(source: Path, out: Path, tokenizer: Path) -> float:
    """MiB that the command's largest process held."""
    program = (
        "import resource, sys; from ckptgrow.cli import run; code = run(sys.argv[1:]); "
        "print(max(resource.getrusage(one).ru_maxrss for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)), "
        "file=sys.stderr); sys.exit(code)"
    )
    arguments = ["data", str(source), str(out), f"--tokenizer={tokenizer}", "--force"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return int(done.stderr.splitlines()[-1]) / 2**10


def main() -> None:
    """Prints one line a round, then the ratio and the memory at two input sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from ckptgrow.data import tokenizers
    from ckptgrow.data.documents import Remarks
    from ckptgrow.data.inputs import expand, pieces
    from ckptgrow.data.reading import documents_in

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        small, large = root / "small", root / "large"
        for directory, megabytes in ((small, max(1, options.megabytes // 8)), (large, options.megabytes)):
            directory.mkdir()
            write_input(directory, megabytes, PLAIN_PARTS * options.workers)
        work = pieces(expand([str(small)]), "lines")
        texts = (one.text for piece in work for one in documents_in(piece, ("text",), "lines", Remarks()))
        tokenizers.train(texts, VOCABULARY, root / "tokenizer")
        (root / "plain").mkdir()
        best: dict[str, float] = {}
        for number in range(options.rounds):
            count, seconds = plain(large, root / "plain", root / "tokenizer" / "tokenizer.json", options.workers)
            found, own_seconds = ours(large, root / "out", root / "tokenizer", options.workers)
            assert found == count, f"{found} tokens, the plain loop has {count}"
            rates = {"plain": count / seconds, "ckptgrow": count / own_seconds}
            best = {key: max(rate, best.get(key, 0.0)) for key, rate in rates.items()}
            print(f"round {number + 1}: " + ", ".join(f"{key} {rate:,.0f} tokens/s" for key, rate in rates.items()))
        print(f"best of {options.rounds}: ckptgrow / plain = {best['ckptgrow'] / best['plain']:.3f} (goal: 1.0)")
        peaks = [peak_of(source, root / "out", root / "tokenizer") for source in (small, large)]
        print(
            f"peak memory: {peaks[0]:.0f} MiB for {options.megabytes // 8} MB, {peaks[1]:.0f} for {options.megabytes}"
        )


if __name__ == "__main__":
    main()
