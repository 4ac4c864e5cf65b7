"""What growth saves: small → grow → large against the large model from scratch, tuned, and the small one continued.

    python -m benchmarks.savings --tier quick --out DIR               # some 20 minutes on two cores
    python -m benchmarks.savings --tier cpu --out DIR --processes 2   # hours; stop it at will, start it again
    python -m benchmarks.savings --tier cpu --out DIR --report        # the table of what is there

Every run is a file `DIR/results/NAME.json`, made by `ckptgrow train`, `width` and `depth` as a user calls them, on
the Python sources of installed packages. What is there is not done again, and a run that was interrupted goes on from
its last checkpoint. Results are of one version of ckptgrow: for another one give another DIR.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.savings.corpus import Launch, prepare, versions
from benchmarks.savings.report import report
from benchmarks.savings.results import Results
from benchmarks.savings.running import Commands, Runner
from benchmarks.savings.tiers import TEXTS, TIERS

EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None, launch: Launch | None = None) -> int:
    """Runs, then reports; `launch` calls `ckptgrow` with arguments. 1 where runs failed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", choices=tuple(TIERS), default="quick")
    parser.add_argument("--out", type=Path, required=True, help="the directory for data, runs, results and the report")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, of one thread each [default: 1]")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="runs by name, and those they depend on")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; unfinished runs are saved")
    parser.add_argument("--report", action="store_true", help="only tabulate what is there")
    options = parser.parse_args(arguments)
    pieces, results = TIERS[options.tier], Results(options.out / "results")
    options.out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    if not options.report:
        deadline = time.monotonic() + 60 * options.minutes
        with (options.out / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                parser.error(f"{options.out}: another process works there; wait for it, or give another --out")
            launch = launch or Commands()
            for name in dict.fromkeys(piece.text for piece in pieces):
                prepare(TEXTS[name], options.out / f"data-{name}", launch)
            runner = Runner(options.out, launch, results, options.only)
            left = runner.run(pieces, options.processes, deadline)
            failed = runner.failed
        for name, reason in failed.items():
            print(f"{name}: {reason} (see {options.out}/runs/{name}/log.txt)", file=sys.stderr)
        print(f"runs left: {left}" if left else "all runs are there", file=sys.stderr)
    texts = "; ".join(versions(TEXTS[name].packages) for name in dict.fromkeys(piece.text for piece in pieces))
    print(
        report(pieces, results, options.out, f"Text: Python sources of {texts}. Machine of this report: {machine()}.")
    )
    return EXIT_FAILED if failed else 0


def machine() -> str:
    """Its cores and their name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} × {names[0] if names else platform.processor() or platform.machine()}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that runs are asked to save and end
    raise SystemExit(main())
