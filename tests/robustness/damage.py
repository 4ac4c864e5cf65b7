"""Random damage to checkpoints, and what must hold whatever it is."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from ckptgrow.cli import run


@dataclass(frozen=True)
class Damage:
    """Bytes of one file changed (`flips`: places as shares of the size, with masks) and its end cut off."""

    file: int
    flips: tuple[tuple[float, int], ...]
    kept: float

    def apply(self, checkpoint: Path) -> str:
        """Damages a checkpoint in place; returns the damaged file's name."""
        files = [checkpoint] if checkpoint.is_file() else sorted(one for one in checkpoint.iterdir() if one.is_file())
        path = files[self.file % len(files)]
        data = bytearray(path.read_bytes())
        for place, mask in self.flips:
            data[int(place * len(data))] ^= mask
        path.write_bytes(data[: int(self.kept * len(data))])
        return path.name


def consequence(original: Path, damage: Damage, directory: Path) -> tuple[int, str]:
    """The exit code and stderr of growing a damaged copy; raises AssertionError where anything is left behind."""
    copy, out = directory / f"copy-{original.name}", directory / "out"
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(original, copy) if original.is_dir() else shutil.copy(original, copy)
    damage.apply(copy)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run(["width", str(copy), str(out), "--allow-nonfinite"])
    left = sorted(one.name for one in directory.iterdir())
    assert left == sorted([copy.name] + [out.name] * (code == 0)), f"{damage}: {left}"
    return code, errors.getvalue()
