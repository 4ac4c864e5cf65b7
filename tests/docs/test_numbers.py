"""Numbers of what ckptgrow knows, wherever README and pages state them, are those of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ckptgrow.choices import Target, words_of
from ckptgrow.dialects.known_dialects import DIALECTS
from ckptgrow.families.registry import FAMILIES
from ckptgrow.formats.known_formats import FORMATS
from ckptgrow.growth.growths import GROWTHS
from ckptgrow.growth.training.optimizer_table import ROWS
from tests.helpers.paths import DOCS, README, ROOT

NO_ALGORITHM = {"an optimizer with Adam's averages", "AdamW beside Muon", "FusedAdam", "DeepSpeedCPUAdam"}
COUNTS = {
    "families": len(FAMILIES),
    "optimizers": len({row.name.partition(" of ")[0] for row in ROWS} - NO_ALGORITHM),
    "formats": len(FORMATS),
    "dialects": len(DIALECTS),
    "trainers": len({one.trainer for one in DIALECTS.values()}),
    "operators": len(GROWTHS),
    "targets": len(words_of(Target)),
}
NAMES = "|".join(COUNTS)
STATED = re.compile(rf"\b(\d+) ({NAMES})\b|^\| ({NAMES}) \| (\d+)\b", re.MULTILINE)
TEXTS = [README, *sorted(DOCS.rglob("*.md")), ROOT / "CITATION.cff", ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]


def stated() -> Iterator[tuple[str, str, int]]:
    for path in TEXTS:
        for one in STATED.finditer(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT).as_posix(), one[2] or one[3], int(one[1] or one[4])


@pytest.mark.parametrize(("where", "what", "number"), list(stated()))
def test_a_number_that_is_stated_is_the_tables(where: str, what: str, number: int) -> None:
    assert number == COUNTS[what], f"{where}: {number} {what}"


def test_the_readme_and_the_page_of_formats_state_numbers() -> None:
    assert {("README.md", "families"), ("README.md", "optimizers"), ("docs/reference/formats.md", "optimizers")} <= {
        (where, what) for where, what, _ in stated()
    }


@pytest.mark.parametrize("trainer", sorted({one.trainer for one in DIALECTS.values()}))
def test_every_trainer_whose_files_are_read_is_named(trainer: str) -> None:
    texts = [(DOCS / "how-to" / "other-trainers.md").read_text(encoding="utf-8"), README.read_text(encoding="utf-8")]
    assert trainer in texts[0] and (trainer in texts[1] or trainer == "llm-foundry")
