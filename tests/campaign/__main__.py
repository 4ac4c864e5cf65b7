"""The random campaign.

python -m tests.campaign --minutes N [--seed S] [--draws N] [--only KIND] [--out FILE.jsonl]

Draws seeds from S on (or from behind the last one of --out), prints each finding with the command that repeats it, and
ends with the counts. Exit 1 where anything was found.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import time
from pathlib import Path

from tests.campaign.draws import KINDS, outcome
from tests.campaign.outcome import Outcome


def main() -> int:
    """Runs the campaign."""
    options = _parser().parse_args()
    kinds = [options.only] if options.only else list(KINDS)
    seed = options.seed if options.seed is not None else _next_seed(options.out)
    end, last = time.monotonic() + 60 * options.minutes, seed + (options.draws or 10**9)
    outcomes: list[Outcome] = []
    while seed < last and (options.draws or time.monotonic() < end):
        done = outcome(kinds[seed % len(kinds)], seed)
        outcomes.append(done)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done.row(), default=str) + "\n")
        if done.verdict in ("finding", "error"):
            _print(done)
        seed += 1
    _summary(outcomes)
    return int(any(one.verdict in ("finding", "error") for one in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long to draw (not with --draws)")
    parser.add_argument("--seed", type=int, help="the first seed; default: behind the last one of --out, else 0")
    parser.add_argument("--draws", type=int, help="how many draws, however long they take")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of draw; default: all in turn")
    parser.add_argument("--out", type=Path, help="append each draw to this file, as a line of JSON")
    return parser


def _next_seed(out: Path | None) -> int:
    if out is None or not out.exists():
        return 0
    return max((json.loads(line)["seed"] for line in out.read_text(encoding="utf-8").splitlines()), default=-1) + 1


def _print(done: Outcome) -> None:
    draw = json.dumps(done.draw, default=str)
    print(f"{done.verdict.upper()} {done.kind} seed {done.seed}: {done.what} | {draw} | {done.redo}", flush=True)


def _reason(refused: Outcome) -> str:
    """A refusal without its paths and numbers."""
    said = re.sub(r"\S*/campaign-\S*/", "", refused.what.partition("ckptgrow: ")[2])
    return re.sub(r"[0-9]+", "N", said)[:140]


def _summary(outcomes: list[Outcome]) -> None:
    counts = collections.Counter((one.kind, one.verdict) for one in outcomes)
    for (kind, verdict), count in sorted(counts.items()):
        print(f"{kind:10} {verdict:8} {count}")
    reasons = collections.Counter(f"{one.kind}: {_reason(one)}" for one in outcomes if one.verdict == "refused")
    for reason, count in reasons.most_common():
        print(f"  refused {count:4}  {reason}")


if __name__ == "__main__":
    sys.exit(main())
