"""A model card beside grown weights: what they were, what was done, and how it can be verified.

It says by a mark that growth wrote it, so that the next growth writes it anew; any other `README.md` is its owner's,
and goes along as it is.
"""

from __future__ import annotations

from pathlib import Path

from ckptgrow.formats.checkpoint import Checkpoint
from ckptgrow.formats.growth_log import GrowthRecord
from ckptgrow.storage.files.json_files import write_text

CARD = "README.md"
MARK = "<!-- written by ckptgrow, anew at each growth; without this line it is yours and stays as it is -->"
FAR = 1000  # bytes within which the mark stands
KINDS = ("huggingface", "trainer")
NOT_OPTIONS = (
    *("operator", "step", "version", "torch", "source_sha256", "source_config", "sizes", "new_coordinates", "layers"),
)


def has_own_card(directory: Path) -> bool:
    """Whether a directory's card is one that growth wrote."""
    card = directory / CARD
    if not card.is_file():
        return False
    with card.open("rb") as file:
        return MARK.encode() in file.read(FAR)


def write_card(checkpoint: Checkpoint, directory: Path) -> None:
    """Writes a grown checkpoint's card, unless one is there."""
    records = [
        one
        for one in checkpoint.history
        if isinstance(one, dict)  # pyright: ignore[reportUnnecessaryIsInstance]  of earlier growths: what a file says
    ]
    if records and checkpoint.kind in KINDS and not (directory / CARD).exists():
        source = checkpoint.growth.source
        text = _card(checkpoint, records)
        write_text(directory / CARD, text.replace(source.placeholder, source.value()) if source else text)


def _card(checkpoint: Checkpoint, records: list[GrowthRecord]) -> str:
    family = str((checkpoint.config or {}).get("model_type", "model"))
    parts = [
        f"---\nlibrary_name: transformers\ntags: [ckptgrow, {family}]\n---",
        MARK,
        f"# A grown {family}",
        "This checkpoint was not trained at its size from the beginning: a smaller one's training state – parameters, "
        "and the optimizer's moments, rates and schedule where there are – was grown to it.",
        *(_growth(number, record) for number, record in enumerate(records, start=1)),
        "## How to verify it",
        "```sh\nckptgrow verify SMALL THIS        # function, moments, rates and the record, against autograd\n"
        "ckptgrow inspect SMALL --check    # computes the sha256 that the record names\n"
        "ckptgrow inspect THIS --recipe    # the options, by which `ckptgrow grow` makes the same again\n```",
        "The record itself is in `ckptgrow.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _growth(number: int, record: GrowthRecord) -> str:
    options = ", ".join(f"{name} {value}" for name, value in record.items() if name not in NOT_OPTIONS and value != [])
    layers = {"layers": len(record["layers"])} if "layers" in record else {}
    sizes = ", ".join(f"{name} {size}" for name, size in {**layers, **(record.get("sizes") or {})}.items())
    rows = [
        ("options", options),
        ("sizes afterwards", sizes),
        ("schedule's step", " → ".join(map(str, record.get("step") or ()))),
        ("grown from tensors with sha256", f"`{record.get('source_sha256')}`"),
        ("by", f"ckptgrow {record.get('version')}, torch {record.get('torch')}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Growth {number}: {record.get('operator')}\n\n| | |\n| --- | --- |\n{table}"
