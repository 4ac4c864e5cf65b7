"""Draws the pictures of the explanations: `python docs/_drawings.py` writes them, always the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

PICTURES = Path(__file__).parent / "explanation" / "drawings"
INK, PALE, GOOD, OTHER = "#222222", "#bbbbbb", "#00796b", "#c2185b"
CELL, FONT = 18, "font-family='Helvetica, Arial, sans-serif'"  # pixels
COPIES = 2

Matrix = Sequence[Sequence[float]]


@dataclass
class Drawing:
    """Shapes on a white ground, in pixels from the upper left corner."""

    width: int
    height: int
    shapes: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, size: int = 13, colour: str = INK, anchor: str = "middle") -> None:
        """Words whose base line is at y."""
        look = f"{FONT} font-size='{size}' fill='{colour}' text-anchor='{anchor}'"
        self.shapes.append(f"<text x='{x:g}' y='{y:g}' {look}>{escape(words)}</text>")

    def box(self, x: float, y: float, width: float, height: float, colour: str = PALE, fill: str = "none") -> None:
        """A frame."""
        size = f"x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}'"
        self.shapes.append(f"<rect {size} rx='2' fill='{fill}' stroke='{colour}'/>")

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
        """A line with a head at its end."""
        ends = f"x1='{start[0]:g}' y1='{start[1]:g}' x2='{end[0]:g}' y2='{end[1]:g}'"
        self.shapes.append(f"<line {ends} stroke='{colour}' stroke-width='1.5' marker-end='url(#head)'/>")

    def matrix(self, x: float, y: float, values: Matrix, title: str, below: str = "") -> None:
        """A cell for each entry: green above zero, red below, the stronger the larger, white at zero."""
        size = len(values) * CELL
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                place = f"x='{x + column * CELL:g}' y='{y + row * CELL:g}' width='{CELL}' height='{CELL}'"
                look = f"fill='{GOOD if value > 0 else OTHER}' fill-opacity='{min(1.0, abs(value)):.3f}'"
                self.shapes.append(f"<rect {place} {look} stroke='{PALE}' stroke-width='0.5'/>")
        self.box(x, y, size, size, INK)
        self.text(x + size / 2, y - 10, title)
        for number, words in enumerate(filter(None, below.split("\n"))):
            self.text(x + size / 2, y + size + 18 + 16 * number, words, 11)

    def to_svg(self) -> str:
        """The drawing as a file's text."""
        size = f"width='{self.width}' height='{self.height}' viewBox='0 0 {self.width} {self.height}'"
        head = "<path d='M0 0L8 4L0 8z' fill='context-stroke'/>"
        marker = f"<marker id='head' markerWidth='8' markerHeight='8' refX='8' refY='4' orient='auto'>{head}</marker>"
        ground = f"<rect width='{self.width}' height='{self.height}' rx='8' fill='#ffffff'/>"
        lines = [f"<svg xmlns='http://www.w3.org/2000/svg' {size}>", f"<defs>{marker}</defs>", ground, *self.shapes]
        return "\n".join([*lines, "</svg>"]) + "\n"


def drawn(seed: int, size: int = 3) -> Matrix:
    """A matrix of numbers between a fifth and one, of both signs."""
    draw = random.Random(seed)
    return [[draw.uniform(0.2, 1) * draw.choice((-1, 1)) for _ in range(size)] for _ in range(size)]


def grown(old: Matrix, share: Callable[[int, int, int, int], float]) -> Matrix:
    """The matrix of twice the size: every old entry times its share in the block of copies (output, input)."""
    size = len(old)
    numbers = range(COPIES * size)
    return [
        [old[row % size][column % size] * share(row, column, row // size, column // size) for column in numbers]
        for row in numbers
    ]


def tiled(old: Matrix) -> Matrix:
    """Every block has half of each weight."""
    return grown(old, lambda row, column, out, into: 1 / COPIES)


def diagonal(old: Matrix) -> Matrix:
    """The blocks on the diagonal have all of each weight, the others nothing."""
    return grown(old, lambda row, column, out, into: float(out == into))


def split(old: Matrix) -> Matrix:
    """One of the two copies of each input, drawn for every entry, has all of the weight."""
    draw, size = random.Random(5), len(old)
    chosen = {(row, column): draw.randrange(COPIES) for row in range(COPIES * size) for column in range(size)}
    return grown(old, lambda row, column, out, into: float(chosen[row, column % size] == into))


def spaces() -> Drawing:
    """One matrix, and three that compute the same with everything twice."""
    drawing, old = Drawing(720, 235), drawn(1)
    drawing.matrix(40, 90, old, "W", "reads x")
    drawing.arrow((115, 117), (165, 117))
    for x, title, values, words in (
        (195, "--how tile", tiled(old), "½ W in every block"),
        (375, "--how diagonal", diagonal(old), "W on the diagonal,\n0 elsewhere"),
        (555, "--separate split", split(old), "each weight at one\nof its two copies"),
    ):
        drawing.matrix(x, 60, values, title, f"reads (x, x)\n{words}")
    drawing.text(360, 24, "In every row, what reads the two copies of an input adds up to the old weight.", 13)
    return drawing


def moments() -> Drawing:
    """Where the weight is zero, the gradient is not, and neither are the averages of gradients."""
    drawing, weight, gradient = Drawing(720, 235), drawn(1), drawn(2)
    squares = [[value**2 for value in row] for row in gradient]
    for x, title, values, words in (
        (40, "weight", diagonal(weight), "W on the diagonal,\n0 elsewhere"),
        (215, "its gradient", tiled(gradient), "½ g in every block"),
        (390, "first moment", tiled(gradient), "½ m in every block"),
        (565, "second moment", tiled(tiled_once(squares)), "¼ v in every block"),
    ):
        drawing.matrix(x, 60, values, title, words)
    drawing.text(360, 24, "--how diagonal writes zeros into the weight; what gradients gather there is as large.", 13)
    return drawing


def tiled_once(old: Matrix) -> Matrix:
    """Each entry halved: a square has the factor of the gradient twice."""
    return [[value / COPIES for value in row] for row in old]


def separation() -> Drawing:
    """One old weight at each of its two copies, by three ways to tell these apart."""
    drawing, half = Drawing(720, 235), 34.0
    noise = (0.35, -0.2, 0.1, -0.45)
    ways = (
        ("none", [(1.0, 1.0)] * 4, "equal, with equal gradients: trapped"),
        ("noise", [(1 + one, 1 - one) for one in noise], "different; the sum is the old weight"),
        ("split", [(2.0, 0.0), (0.0, 2.0), (0.0, 2.0), (2.0, 0.0)], "different; exact in every dtype"),
    )
    for number, (name, pairs, words) in enumerate(ways):
        left = 40 + 230 * number
        drawing.text(left + 90, 60, f"--separate {name}")
        for place, pair in enumerate(pairs):
            for copy, height in enumerate(pair):
                x, colour = left + 46 * place + 18 * copy, (GOOD, OTHER)[copy]
                size = f"x='{x:g}' y='{170 - half * height:g}' width='16' height='{half * height:g}'"
                drawing.shapes.append(f"<rect {size} fill='{colour}'/>")
        drawing.shapes.append(f"<line x1='{left}' y1='170' x2='{left + 174}' y2='170' stroke='{INK}'/>")
        drawing.text(left + 88, 192, words, 11)
    drawing.text(360, 24, "Four weights, each shared out among two copies (green, red) of what it reads", 13)
    drawing.text(360, 222, "A bar of half height is half of the old weight.", 11)
    return drawing


def verify() -> Drawing:
    """What each part of verify compares, and where the expected values come from."""
    drawing = Drawing(720, 330)
    drawing.box(20, 110, 110, 50, INK)
    drawing.text(75, 140, "small.ckpt")
    drawing.box(20, 220, 110, 50, INK)
    drawing.text(75, 250, "grown.ckpt")
    parts = (
        ("transformers' own models", "logits on the same tokens", "function"),
        ("autograd in both models", "stored moments against the gradients' scales", "moments"),
        ("torch's optimizers, schedulers", "every option, every field, K real steps", "rates, trajectory"),
        ("the files themselves", "every tensor, key and file; the record", "structure"),
    )
    for number, (source, compared, part) in enumerate(parts):
        y = 50 + 66 * number
        drawing.box(190, y, 210, 46, GOOD, "#e0f2f1")
        drawing.text(295, y + 28, source, 13, GOOD)
        drawing.text(425, y + 19, part, 13, anchor="start")
        drawing.text(425, y + 37, compared, 11, anchor="start")
        for begin in (135, 245):
            drawing.arrow((130, begin), (188, y + 23), PALE)
    drawing.text(360, 24, "Expected values never come from the rules by which the checkpoint was grown.")
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "spaces": spaces,
    "moments": moments,
    "separation": separation,
    "verify": verify,
}


def main() -> None:
    """Writes all of them."""
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (PICTURES / f"{name}.svg").write_text(draw().to_svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
