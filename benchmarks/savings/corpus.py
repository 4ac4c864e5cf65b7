"""Real text that is on every machine: the Python sources of installed packages, each distinct file once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.savings.tiers import Text

Launch = Callable[[Sequence[str], Path], int]  # arguments of `ckptgrow` and a log, to the exit code


def prepare(text: Text, directory: Path, launch: Launch) -> dict[str, Any]:
    """Writes `train.bin` and `val.bin` where they are not there yet; what `meta.json` says of them.

    Files are in the order of their hashes, so that the first sequences of the validation are drawn from all packages.
    """
    meta = directory / "meta.json"
    if not meta.exists():
        source = directory.with_suffix(".jsonl")
        source.parent.mkdir(parents=True, exist_ok=True)
        documents = {hashlib.sha256(one.encode()).hexdigest(): one for one in _sources(text.packages)}
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": documents[key]}) + "\n" for key in sorted(documents))
        how = ["--tokenizer", "bytes"] if text.is_bytes else ["--train-tokenizer", str(text.vocabulary)]
        log = directory.with_suffix(".log")
        if launch(["data", str(source), str(directory), *how, "--force"], log):
            raise SystemExit(f"{log}: {log.read_text(encoding='utf-8').strip().splitlines()[-1]}")
        source.unlink()
    found = json.loads(meta.read_text(encoding="utf-8"))
    if found["vocab_size"] != text.vocabulary:
        raise SystemExit(f"{meta}: a vocabulary of {found['vocab_size']}, expected {text.vocabulary}")
    return found


def versions(packages: Sequence[str]) -> str:
    """The packages with their versions: another version is another text."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) or "all installed packages"


def _sources(packages: Sequence[str]) -> Iterator[str]:
    for directory in _directories(packages):
        for path in sorted(directory.rglob("*.py")):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if text.strip() and "\0" not in text:  # byte 0 ends documents
                yield text


def _directories(packages: Sequence[str]) -> list[Path]:
    if not packages:
        return [Path(sysconfig.get_paths()["purelib"])]
    found = [importlib.util.find_spec(name) for name in packages]
    return [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]
