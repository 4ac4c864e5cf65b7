"""What is compared, and at which sizes: a new recipe is one row here, a new size one `Piece`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.savings.shapes import Shape

STEP_UNIT = 100  # a run's steps are a multiple of it, so that validations, checkpoints and logs fall on whole steps


@dataclass(frozen=True)
class Recipe:
    """A way to grow: its name, command lines of `ckptgrow` without IN and OUT, and what the grown run does.

    In the commands `{hidden}`, `{ffn}` and `{heads}` are the large model's. `rewarm` is the length of the rate's rise
    after growth, as a share of the large model's steps; with a `new_peak` new entries alone rise, from the rate
    to that many times it.
    """

    name: str
    commands: tuple[str, ...]
    rewarm: float = 0.0
    new_peak: float | None = None


PAD = "width --how pad --hidden {hidden} --heads {heads} --kv-heads {heads} --ffn {ffn}"
COPY = f"{PAD} --fresh zero-copy"

WIDTH = (
    Recipe("none", ("width --separate none",)),
    Recipe("split", ("width --separate split",)),
    Recipe("split, mup", ("width --separate split --lr-rule mup",)),
    Recipe("split, re-warmed", ("width --separate split",), rewarm=0.03),
    Recipe("split 1, re-warmed", ("width --separate split --spread 1",), rewarm=0.03),
    Recipe("split 1.5, re-warmed", ("width --separate split --spread 1.5",), rewarm=0.03),
    Recipe("split, tile", ("width --how tile --separate split",)),
    Recipe("split, new moments", ("width --separate split --reset optimizer",)),
    Recipe("split, new from zero", ("width --separate split --reset new",)),
    Recipe("split, new faster", ("width --separate split",), rewarm=0.03, new_peak=1.3),
    Recipe("SPARKLING", ("width --separate none --reset new --moments unscaled",), rewarm=0.03, new_peak=1.3),
    Recipe("noise 0.25", ("width --separate noise",)),
    Recipe("noise 1", ("width --noise 1",)),
    Recipe("pad", (PAD,)),
    Recipe("pad, re-warmed", (PAD,), rewarm=0.03),
    Recipe("zero-copy", (COPY,)),
    Recipe("zero-copy, re-warmed", (COPY,), rewarm=0.03),
    Recipe("zero-copy, new faster", (COPY,), rewarm=0.03, new_peak=1.3),
    Recipe("zero-copy, new from zero, faster", (f"{COPY} --reset new --moments unscaled",), rewarm=0.03, new_peak=1.3),
)
DEPTH = (
    Recipe("zero-output", ("depth --new zero-output",)),
    Recipe("zero-output, appended", ("depth --new zero-output --place append",)),
    Recipe("zero-output, re-warmed", ("depth --new zero-output",), rewarm=0.03),
    Recipe("copy", ("depth --new copy",)),
    Recipe("copy, appended", ("depth --new copy --place append",)),
)


def _named(recipes: tuple[Recipe, ...], *names: str) -> tuple[Recipe, ...]:
    return tuple(recipe for recipe in recipes if recipe.name in names)


@dataclass(frozen=True)
class Piece:
    """A small model, a large one, a text and a budget: one table of the report.

    `steps`: of the large model from scratch at the first of `batches` (sequences a step); this is the budget, and
    every other run has as many FLOPs, embeddings included. The large model is tuned over `rates` × `batches` ×
    `schedules` with the first seed; the `extended` best then run with every seed, and at half and twice the budget.
    The small one is tuned over `small_rates`. Every recipe is grown at each of `points` (shares of the budget that the
    small model had) with each of `multipliers` of its rate, for each seed.
    """

    name: str
    operator: str
    text: str  # a key of `TEXTS`
    small: Shape
    large: Shape
    length: int
    steps: int
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    schedules: tuple[str, ...]
    small_rates: tuple[float, ...]
    recipes: tuple[Recipe, ...]
    points: tuple[float, ...] = (0.5,)
    multipliers: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0, 1, 2)
    extended: int = 1
    validated: int = 512  # sequences, the same ones in every run
    options: tuple[str, ...] = ("--accelerator=cpu",)


@dataclass(frozen=True)
class Text:
    """Python sources of installed packages (all of them where none is named), as bytes or by a BPE trained on them."""

    packages: tuple[str, ...]
    vocabulary: int = 256

    @property
    def is_bytes(self) -> bool:
        """Whether a token is a byte."""
        return self.vocabulary == 256


TEXTS: Mapping[str, Text] = {
    "tiny": Text(("ckptgrow",)),
    "bytes": Text(("torch", "transformers")),
    "bpe": Text(("torch", "transformers"), 2048),
    "all-bpe": Text((), 16384),
}

TINY = Piece(
    name="tiny",
    operator="width",
    text="tiny",
    small=Shape(1, 8, 16, 1),
    large=Shape(1, 16, 32, 2),
    length=16,
    steps=100,
    batches=(4,),
    rates=(1e-2,),
    schedules=("wsd",),
    small_rates=(1e-2,),
    recipes=_named(WIDTH, "split"),
    seeds=(0, 1),
    validated=8,
)
QUICK = Piece(
    name="quick",
    operator="width",
    text="bytes",
    small=Shape(2, 24, 64, 2),
    large=Shape(2, 48, 128, 4),
    length=128,
    steps=800,
    batches=(16,),
    rates=(2e-3, 4e-3, 8e-3),
    schedules=("wsd", "cosine"),
    small_rates=(3e-3, 6e-3, 1.2e-2),
    recipes=_named(WIDTH, "none", "split", "split, mup", "noise 0.25", "pad", "zero-copy"),
    points=(0.15, 0.3),
    validated=256,
)
QUICK_DEPTH = replace(
    QUICK,
    name="quick-depth",
    operator="depth",
    small=Shape(1, 48, 128, 4),
    recipes=DEPTH,
)
QUICK_RATES = replace(  # the grown model at lower rates: the small one's best is three times the large one's
    QUICK,
    name="quick-rates",
    recipes=_named(WIDTH, "split", "split, re-warmed", "pad", "zero-copy", "zero-copy, re-warmed"),
    points=(0.15,),
    multipliers=(1.0, 0.6, 0.35),
)
LATE = replace(  # where the large model alone would have been ahead for long: what a recipe costs at once shows
    QUICK,
    name="late",
    recipes=_named(WIDTH, "none", "split", "split, mup", "noise 0.25", "noise 1", "pad", "zero-copy"),
    points=(0.5,),
)
CPU_WIDTH = Piece(
    name="cpu-width",
    operator="width",
    text="bytes",
    small=Shape(4, 28, 76, 2),
    large=Shape(4, 56, 152, 4),
    length=128,
    steps=3200,
    batches=(16, 32),
    rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2),
    schedules=("wsd", "cosine"),
    small_rates=(3e-3, 6e-3, 1.2e-2, 2.4e-2),
    recipes=_named(WIDTH, "none", "split, re-warmed", "pad", "zero-copy, re-warmed"),
    points=(0.1,),
)
CPU_LATE = replace(
    CPU_WIDTH,
    name="cpu-width-late",
    recipes=_named(WIDTH, "split, re-warmed", "zero-copy, re-warmed"),
    points=(0.25,),
)
CPU_RATES = replace(  # the small one's best rate is four times the large one's
    CPU_WIDTH,
    name="cpu-width-rates",
    recipes=_named(WIDTH, "zero-copy, re-warmed"),
    points=(0.1, 0.25),
    multipliers=(0.25,),
)
CPU_DEPTH = replace(
    CPU_WIDTH,
    name="cpu-depth",
    operator="depth",
    small=Shape(2, 56, 152, 4),
    recipes=_named(DEPTH, "zero-output, re-warmed", "copy"),
    points=(0.25,),
)
QUICK_SPREAD = replace(  # is there a spread of the split, exact in every dtype, as good as new coordinates?
    QUICK,
    name="quick-spread",
    recipes=_named(
        WIDTH,
        *("split, re-warmed", "split 1, re-warmed", "split 1.5, re-warmed", "pad, re-warmed", "zero-copy, re-warmed"),
    ),
)
QUICK_BPE = replace(
    QUICK,
    name="quick-bpe",
    text="bpe",
    recipes=_named(WIDTH, "split, re-warmed", "pad, re-warmed", "zero-copy, re-warmed"),
    points=(0.15,),
)
GPU = ("--accelerator=cuda", "--precision=bf16-mixed", "--compile", "--num-workers=2")
GPU_SMALL = Piece(
    name="gpu-40m",
    operator="width",
    text="all-bpe",
    small=Shape(12, 256, 704, 4),
    large=Shape(12, 512, 1408, 8),
    length=512,
    steps=6000,
    batches=(128, 256),
    rates=(5e-4, 1e-3, 2e-3, 4e-3),
    schedules=("wsd", "cosine"),
    small_rates=(1e-3, 2e-3, 4e-3),
    recipes=WIDTH,
    points=(0.25, 0.5, 0.7),
    validated=1024,
    options=GPU,
)
GPU_LARGE = replace(
    GPU_SMALL,
    name="gpu-124m",
    small=Shape(14, 384, 1024, 6),
    large=Shape(14, 768, 2048, 12),
    steps=12000,
    rates=(2.5e-4, 5e-4, 1e-3, 2e-3),
    small_rates=(5e-4, 1e-3, 2e-3),
    points=(0.5,),
)

TIERS: Mapping[str, tuple[Piece, ...]] = {
    "tiny": (TINY,),
    "quick": (QUICK,),
    "quick-depth": (QUICK_DEPTH,),
    "quick-rates": (QUICK_RATES,),
    "late": (LATE,),
    "quick-spread": (QUICK_SPREAD,),
    "quick-bpe": (QUICK_BPE,),
    "cpu": (CPU_WIDTH, CPU_LATE, CPU_RATES, CPU_DEPTH),
    "gpu": (GPU_SMALL, GPU_LARGE),
}
