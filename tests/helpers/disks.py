"""Small disks, where this machine lets one mount them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def mounted(disk: Path, size: str = "20m") -> bool:
    """Mounts a disk in memory there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as name:
        return mounted(Path(name)) and subprocess.run(["umount", name], check=False).returncode == 0
