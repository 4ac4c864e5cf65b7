"""English text that is on every machine: the documentation inside the modules of Python's standard library."""

from __future__ import annotations

import json
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.errors import DataError

QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
SHORTEST, MOST, FEWEST = 120, 800_000, 100_000  # characters: of a piece, and of all


@dataclass(frozen=True)
class OfflineText:
    """What was found: the modules' directory, pieces and characters."""

    source: Path
    num_pieces: int
    num_characters: int


def write_offline_text(path: Path) -> OfflineText:
    """JSON lines with every longer piece between triple quotes, module after module, up to 800,000 characters.

    Raises DataError where the standard library has no sources here.
    """
    source = Path(sysconfig.get_path("stdlib"))
    pieces: list[str] = []
    for module in sorted(source.glob("*.py")):
        text = module.read_text(encoding="utf-8", errors="ignore")
        pieces += [one.strip() for one in QUOTED.findall(text) if len(one) >= SHORTEST and "\\" not in one]
        if sum(map(len, pieces)) >= MOST:
            break
    num_characters = sum(map(len, pieces))
    if num_characters < FEWEST:
        raise DataError(f"{source}: has {num_characters:,} characters of documentation, expected Python's own modules")
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in pieces), encoding="utf-8")
    return OfflineText(source, len(pieces), num_characters)
