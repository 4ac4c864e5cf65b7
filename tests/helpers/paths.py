"""Where the repository lies."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ckptgrow"
README = ROOT / "README.md"
DOCS = ROOT / "docs"
FAMILIES_PAGE = DOCS / "reference" / "families.md"
