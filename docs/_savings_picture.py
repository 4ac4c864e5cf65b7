"""Draws the README's picture of a staged run against scratch.

`python docs/_savings_picture.py` draws `savings.svg` from `savings.json`; with the `results` directory of
`python -m benchmarks.savings --tier quick --out DIR` as an argument it takes the curves from there first.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _drawings import GOOD, INK, OTHER, PALE, Drawing

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
NAMES = {  # curve → the benchmark's run
    "large model from scratch": "scratch-lr0.004-b16-wsd-s{}",
    "small, grown at 15 %: split (the default)": "2x24-at0.15-lr1x-split-s{}",
    "small, grown at 15 %: zero-copy": "2x24-at0.15-lr1x-zero-copy-s{}",
}
COLOURS = (INK, GOOD, OTHER)
LEFT, RIGHT, TOP, BOTTOM = 60, 690, 50, 330  # pixels
LOW, HIGH = 1.25, 3.25  # nats
GROWN_AT = 0.15  # of the budget


def curves_of(results: Path) -> dict[str, list[list[float]]]:
    """For each curve rows of compute (as a share of scratch's) and validation loss: mean, least and largest of the
    seeds.
    """
    read = {
        name: [json.loads((results / f"bytes-2x48-800-{run.format(seed)}.json").read_text())["rows"] for seed in SEEDS]
        for name, run in NAMES.items()
    }
    budget = next(iter(read.values()))[0][-1][3]
    return {name: [_row(rows, budget) for rows in zip(*runs, strict=True)] for name, runs in read.items()}


def _row(rows: tuple[list[float], ...], budget: float) -> list[float]:
    losses = [row[4] for row in rows]
    return [round(one, 5) for one in (rows[0][3] / budget, statistics.fmean(losses), min(losses), max(losses))]


def x_of(share: float) -> float:
    """Compute on a logarithmic axis, from a 25th of the budget to all of it."""
    return LEFT + (RIGHT - LEFT) * math.log(share * 25) / math.log(25)


def y_of(loss: float) -> float:
    """A loss in pixels; what is beyond the frame lies on it."""
    return BOTTOM - (BOTTOM - TOP) * (min(max(loss, LOW), HIGH) - LOW) / (HIGH - LOW)


def picture(curves: dict[str, Any]) -> Drawing:
    """Loss over compute, with the spread over seeds."""
    drawing = Drawing(760, 385)
    drawing.box(LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)
    drawing.text(380, 26, "Validation loss over compute: 13.9k → 55.5k parameters, 3 seeds", 15)
    for share in (0.04, 0.1, 0.2, 0.5, 1):
        drawing.text(x_of(share), BOTTOM + 18, f"{share:.0%}", 11)
    drawing.text(380, BOTTOM + 38, "FLOPs, as a share of the large model's training from scratch", 12)
    for loss in (1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2):
        drawing.text(LEFT - 8, y_of(loss) + 4, f"{loss:.1f}", 11, anchor="end")
    at = x_of(GROWN_AT)
    drawing.shapes.append(f"<line x1='{at:.1f}' y1='{TOP}' x2='{at:.1f}' y2='{BOTTOM}' stroke='{PALE}'/>")
    drawing.text(at + 6, BOTTOM - 10, "grown", 11, anchor="start")
    for number, ((name, rows), colour) in enumerate(zip(curves.items(), COLOURS, strict=True)):
        band = [(row[0], row[3]) for row in rows] + [(row[0], row[2]) for row in reversed(rows)]
        drawing.shapes.append(f"<polygon points='{_points(band)}' fill='{colour}' fill-opacity='0.15'/>")
        mean = [(row[0], row[1]) for row in rows]
        drawing.shapes.append(f"<polyline points='{_points(mean)}' fill='none' stroke='{colour}' stroke-width='2'/>")
        drawing.text(RIGHT - 12, TOP + 24 + 20 * number, f"{name}: {rows[-1][1]:.3f} nats", 13, colour, "end")
    return drawing


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{x_of(share):.1f},{y_of(loss):.1f}" for share, loss in pairs if share >= 1 / 25)


def main() -> None:
    """Takes curves where a directory is given, and draws."""
    data = HERE / "savings.json"
    if len(sys.argv) > 1:
        data.write_text(json.dumps(curves_of(Path(sys.argv[1])), ensure_ascii=False) + "\n", encoding="utf-8")
    svg = picture(json.loads(data.read_text(encoding="utf-8"))).to_svg()
    (HERE / "savings.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
